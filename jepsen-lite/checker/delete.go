package checker

import (
	"cmp"
	"slices"
	"sort"

	"fulcrum/jepsen-lite/history"
)

// Deletes judges that what was deleted stays away and what was written again stays.
// The newest mutation of a key is that of the newest version or, where replies carried
// none, of the latest in real time; a write of unknown outcome may always stand.
//
//	resurrected    the last answer of any node finds a value older than an acknowledged delete;
//	               in the run, a read does that began after the delete, where reads meet writes
//	lost-recreate  the newest acknowledged mutation wrote a value after a delete, and the last answer of a node finds nothing
//
// Where the write level may lose what it acknowledged, and where clocks order writes
// that carry no version, these are only counted.
func Deletes() Check { return Check{Name: "deletes", Run: runDeletes} }

// deleteKey is one key of Deletes.
type deleteKey struct {
	*tally
	h       *history.History
	s       Spec
	c       contract
	name    string
	ops     []int32
	deletes []int32 // acknowledged, by Return

	// Of each beginning of deletes: the one of the newest version, the one that began
	// last, and the one that began last among those without a version.
	newest, latest, bare []int32

	writes []int32 // acknowledged, by Return
	writer map[string]int32
	absent absences
	reads  []int32 // by Invoke
}

func runDeletes(h *history.History, s Spec) Result {
	t := newTally("deletes")
	t.stats["counted_resurrected"], t.stats["counted_lost-recreate"] = 0, 0
	c, err := contractOf(s)
	if err != nil {
		t.unknown("%v", err)
	}
	keys := byKey(h, func(op *history.Op) bool { return registerLike(op.F) })
	var deletes, finals int
	for n, name := range keys.names {
		k := &deleteKey{tally: t, h: h, s: s, c: c, name: name, ops: keys.ops(n), writer: map[string]int32{}}
		k.collect()
		if len(k.deletes) == 0 {
			continue
		}
		deletes += len(k.deletes)
		last := lastAnswers(h, k.ops)
		finals += len(last)
		for _, r := range last {
			k.recreated(r)
			k.resurrected(r)
		}
		for _, r := range k.reads {
			if c.meets(s, &h.Ops[r]) && !slices.Contains(last, r) {
				k.resurrected(r)
			}
		}
	}
	t.stats["deletes"], t.stats["final_reads"] = float64(deletes), float64(finals)
	if deletes == 0 {
		t.unknown("no delete was acknowledged")
	} else if finals == 0 {
		t.unknown("no final read of a key that was deleted")
	}
	return t.result("%d deletes hold in %d final reads", deletes, finals)
}

func (k *deleteKey) collect() {
	for _, i := range k.ops {
		op := &k.h.Ops[i]
		switch {
		case op.F == history.Read:
			if op.Outcome == history.OK {
				k.reads = append(k.reads, i)
			}
			continue
		case changed(op) && op.F == history.Delete:
			k.deletes = append(k.deletes, i)
		case changed(op):
			k.writes = append(k.writes, i)
		}
		if op.F != history.Delete {
			k.writer[op.Value] = i
		}
	}
	for _, list := range [][]int32{k.deletes, k.writes} {
		slices.SortStableFunc(list, func(a, b int32) int { return cmp.Compare(k.h.Ops[a].Return, k.h.Ops[b].Return) })
	}
	k.absent = absencesOf(k.h, k.ops)
	every := func(*history.Op) bool { return true }
	later := func(a, b *history.Op) bool { return a.Invoke > b.Invoke }
	k.newest = k.running(every, func(a, b *history.Op) bool { return b.Version.Less(a.Version) })
	k.latest = k.running(every, later)
	k.bare = k.running(func(op *history.Op) bool { return op.Version.IsZero() }, later)
}

// resurrected looks for a delete that had ended before read r began and is newer than
// what r found.
func (k *deleteKey) resurrected(r int32) {
	read := &k.h.Ops[r]
	w, ok := k.writer[read.Value]
	ended := sort.Search(len(k.deletes), func(i int) bool { return k.h.Ops[k.deletes[i]].Return >= horizon(read) })
	if !read.Found || !ok || ended == 0 {
		return // a value that nobody wrote is for other checks
	}
	by, found := &k.h.Ops[w], read.Version
	if found.IsZero() && by.Outcome == history.OK {
		found = by.Version
	}
	d, sure := k.newest[ended-1], k.c.durable
	if found.IsZero() || !found.Less(k.h.Ops[d].Version) {
		// By real time, against deletes without a version, or all if the read has none.
		if d = k.bare[ended-1]; found.IsZero() {
			d = k.latest[ended-1]
		}
		if d == none || by.Outcome != history.OK || by.Return >= k.h.Ops[d].Invoke {
			return
		}
		sure = sure && k.c.ordered
	}
	k.report(sure, "resurrected", []int{int(w), int(d), int(r)}, "%s finds what an acknowledged %s took away", say(k.h, r), say(k.h, d))
}

// running returns, for each beginning of the deletes, the one of them that none other
// is above; none where want accepts none of them.
func (k *deleteKey) running(want func(*history.Op) bool, above func(a, b *history.Op) bool) []int32 {
	out := make([]int32, len(k.deletes))
	top := none
	for i, d := range k.deletes {
		if op := &k.h.Ops[d]; want(op) && (top == none || above(op, &k.h.Ops[top])) {
			top = d
		}
		out[i] = top
	}
	return out
}

// recreated looks whether final read r misses a value written after the last delete.
func (k *deleteKey) recreated(r int32) {
	read := &k.h.Ops[r]
	if read.Found {
		return
	}
	// The newest write, and a delete that it surely came after.
	newest := none
	for _, w := range k.writes {
		if op := &k.h.Ops[w]; op.Return < horizon(read) && (newest == none || k.newer(w, newest)) {
			newest = w
		}
	}
	if newest == none {
		return
	}
	after := slices.ContainsFunc(k.deletes, func(d int32) bool { return k.newer(newest, d) })
	if !after || k.gone(newest, read) {
		return
	}
	sure := k.c.durable && (k.c.ordered || !k.h.Ops[newest].Version.IsZero())
	k.report(sure, "lost-recreate", []int{int(newest), int(r)}, "%s, after %s was acknowledged and nothing deleted it again", say(k.h, r), say(k.h, newest))
}

// newer reports whether a is surely newer than b: by versions, else in real time.
func (k *deleteKey) newer(a, b int32) bool {
	x, y := &k.h.Ops[a], &k.h.Ops[b]
	if x.Version.IsZero() || y.Version.IsZero() {
		return x.Invoke > y.Return
	}
	return y.Version.Less(x.Version)
}

// gone reports whether anything can have taken write w away before the read ended.
func (k *deleteKey) gone(w int32, read *history.Op) bool {
	if !k.h.Ops[w].Version.IsZero() {
		return k.absent.explain(k.h.Ops[w].Version, read.Return)
	}
	return slices.ContainsFunc(k.ops, func(i int32) bool {
		op := &k.h.Ops[i]
		takes := op.Outcome != history.Fail && (op.F == history.Delete || op.TTL > 0)
		return takes && op.Invoke <= read.Return && (op.Outcome == history.Info || op.Return >= k.h.Ops[w].Invoke)
	})
}

func (k *deleteKey) report(sure bool, kind string, ops []int, format string, args ...any) {
	if sure {
		k.add(kind, k.name, ops, format, args...)
		return
	}
	k.stats["counted_"+kind]++
}
