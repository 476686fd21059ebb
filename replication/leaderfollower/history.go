package leaderfollower

import "sort"

// run is a stretch of records of one term.
type run struct{ first, term uint64 }

// history is what a replica knows in memory of its log: which term stands where,
// and the newest records themselves. It has no lock: Group's mu guards it.
//
// Invariant: runs is sorted by first, its terms rise, runs[0].first > base; cached
// holds the records last-len(cached)+1 .. last.
type history struct {
	base, baseTerm uint64
	last           uint64
	runs           []run
	cached         []record
	cachedBytes    int
}

func (h *history) rebase(base, term uint64) {
	*h = history{base: base, baseTerm: term, last: base}
}

func (h *history) lastTerm() uint64 {
	if n := len(h.runs); n > 0 {
		return h.runs[n-1].term
	}
	return h.baseTerm
}

// termAt returns the term of the record at index; ok is false where it is not
// known: below the base, or behind the end.
func (h *history) termAt(index uint64) (term uint64, ok bool) {
	if index == h.base {
		return h.baseTerm, true
	}
	if index < h.base || index > h.last {
		return 0, false
	}
	i := sort.Search(len(h.runs), func(i int) bool { return h.runs[i].first > index })
	return h.runs[i-1].term, true
}

// runStart returns the first index above the base whose record has, without a
// break, the term of the one at index.
func (h *history) runStart(index uint64) uint64 {
	i := sort.Search(len(h.runs), func(i int) bool { return h.runs[i].first > index })
	if i == 0 {
		return h.base + 1
	}
	return h.runs[i-1].first
}

// note appends only the term of the next record.
func (h *history) note(term uint64) {
	h.last++
	if len(h.runs) == 0 || h.runs[len(h.runs)-1].term != term {
		h.runs = append(h.runs, run{h.last, term})
	}
}

func (h *history) append(r record) {
	h.note(r.term)
	h.cached = append(h.cached, r)
	h.cachedBytes += len(r.raw)
}

// get returns the record at index if it is in memory.
func (h *history) get(index uint64) (record, bool) {
	from := h.last + 1 - uint64(len(h.cached))
	if index < from || index > h.last {
		return record{}, false
	}
	return h.cached[index-from], true
}

func (h *history) truncateAfter(index uint64) {
	if index >= h.last {
		return
	}
	drop := min(uint64(len(h.cached)), h.last-index)
	for _, r := range h.cached[uint64(len(h.cached))-drop:] {
		h.cachedBytes -= len(r.raw)
	}
	h.cached = h.cached[:uint64(len(h.cached))-drop]
	h.last = index
	for len(h.runs) > 0 && h.runs[len(h.runs)-1].first > index {
		h.runs = h.runs[:len(h.runs)-1]
	}
}

// truncateBefore makes index-1 the base. Its term must be known.
func (h *history) truncateBefore(index uint64) {
	term, ok := h.termAt(index - 1)
	if !ok || index-1 == h.base {
		return
	}
	h.base, h.baseTerm = index-1, term
	i := sort.Search(len(h.runs), func(i int) bool { return h.runs[i].first >= index })
	if i > 0 && (i == len(h.runs) || h.runs[i].first > index) && index <= h.last {
		i--
		h.runs[i].first = index
	}
	h.runs = append([]run(nil), h.runs[i:]...)
	if n := uint64(len(h.cached)); n > h.last-h.base {
		h.dropCached(int(n - (h.last - h.base)))
	}
}

// trim forgets the oldest records in memory that are applied, down to limit bytes.
func (h *history) trim(applied uint64, limit int) {
	from, n, size := h.last+1-uint64(len(h.cached)), 0, h.cachedBytes
	for n < len(h.cached) && size > limit && from+uint64(n) <= applied {
		size -= len(h.cached[n].raw)
		n++
	}
	h.dropCached(n)
}

func (h *history) dropCached(n int) {
	for _, r := range h.cached[:n] {
		h.cachedBytes -= len(r.raw)
	}
	if n > 0 {
		clear(h.cached[:n])
		h.cached = h.cached[n:]
	}
}
