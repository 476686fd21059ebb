package checker

import (
	"cmp"
	"slices"
	"time"

	"fulcrum/jepsen-lite/history"
)

// Set judges unique elements, each added once under a key of its own, against the
// scans of the run, as Jepsen's set-full does. An element is known from when its Add
// was acknowledged.
//
//	lost-element       known, and in no scan to the end (or not in a final one)
//	stale-element      known, not in a later scan, and in one after that: excluded only where reads meet writes
//	phantom-element    nobody added it, or only an Add that failed
//	wrong-value        not the value that was added
//	duplicate-element  twice in one scan
//
// Where the write level may lose what it acknowledged, lost elements are only counted,
// in lost_acknowledged_writes.
func Set() Check { return Check{Name: "set", Run: runSet} }

// element is what became of one element.
type element struct {
	add         int           // index of its Add
	known       time.Duration // when its Add was acknowledged; never: it was not
	seen        bool          // in some scan
	lastPresent time.Duration // Invoke of the last scan that held it
	lastAbsent  time.Duration // Invoke of the last scan after known that did not; -1: none
	absentIn    int           // that scan
	missed      int           // the last of these that had to meet its Add; -1: none
	finals      int           // final scans after known that did not hold it
	strongLoss  int           // a strong final scan that did not hold it; -1: none
	scanned     bool          // some scan began after known
	stamp       int           // the last scan that held it, as its place among scans
}

type setRun struct {
	*tally
	h        *history.History
	s        Spec
	c        contract
	elements []element
	byKey    map[string]int
	scans    []int            // in the order of Invoke
	under    map[string][]int // a scanned prefix: its elements, in the order of known
	finals   map[string]int   // a scanned prefix: how many final scans it had
}

func runSet(h *history.History, s Spec) Result { return judgeSet(h, s, false) }

// judgeSet judges a set; strict takes lost elements for excluded whatever was promised.
func judgeSet(h *history.History, s Spec, strict bool) Result {
	r := &setRun{tally: newTally("set"), h: h, s: s, byKey: map[string]int{}, under: map[string][]int{}, finals: map[string]int{}}
	var err error
	if r.c, err = contractOf(s); err != nil {
		r.unknown("%v", err)
	}
	r.c.durable = r.c.durable || strict
	r.collect()
	r.group()
	for place, scan := range r.scans {
		r.present(place+1, scan)
		r.absent(place+1, scan)
	}
	if len(r.elements) == 0 {
		r.unknown("no element was added")
	}
	finals := 0
	for _, n := range r.finals {
		finals += n
	}
	if finals == 0 {
		r.unknown("no final scan: nothing says what was kept")
	}
	r.judge()
	return r.result("%d elements in %d scans, %d of them final", len(r.elements), len(r.scans), finals)
}

func (r *setRun) collect() {
	deleted := map[string]bool{} // a key that is also deleted says nothing about loss
	for i := range r.h.Ops {
		op := &r.h.Ops[i]
		switch {
		case op.F == history.Add:
			if _, again := r.byKey[op.Key]; again {
				r.unknown("element %q was added twice: elements must be unique", op.Key)
				continue
			}
			e := element{add: i, known: never, lastPresent: -1, lastAbsent: -1, missed: -1, strongLoss: -1}
			if op.Outcome == history.OK {
				e.known = op.Return
			}
			r.byKey[op.Key] = len(r.elements)
			r.elements = append(r.elements, e)
		case op.F == history.Scan && op.Outcome == history.OK:
			r.scans, r.under[op.Key] = append(r.scans, i), nil
			if op.Phase == history.Final {
				r.finals[op.Key]++
			}
		case op.F == history.Delete && op.Outcome != history.Fail:
			deleted[op.Key] = true
		}
	}
	for key := range deleted {
		if i, ok := r.byKey[key]; ok {
			r.elements[i].known = never
		}
	}
	slices.SortStableFunc(r.scans, func(a, b int) int { return cmp.Compare(r.h.Ops[a].Invoke, r.h.Ops[b].Invoke) })
}

// group puts the elements under the prefixes that were scanned, in the order in which
// they became known: a scan then looks only at those it may lack.
func (r *setRun) group() {
	order := make([]int, len(r.elements))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(r.elements[a].known, r.elements[b].known), cmp.Compare(a, b))
	})
	for _, i := range order {
		r.prefixes(i, func(p string) { r.under[p] = append(r.under[p], i) })
	}
}

// prefixes calls f with each scanned prefix of an element's key.
func (r *setRun) prefixes(i int, f func(string)) {
	key := r.h.Ops[r.elements[i].add].Key
	for n := range len(key) + 1 {
		if _, ok := r.under[key[:n]]; ok {
			f(key[:n])
		}
	}
}

// present notes what a scan holds, and finds what it must not hold.
func (r *setRun) present(place, scan int) {
	op := &r.h.Ops[scan]
	var twice map[string]bool
	for _, el := range op.Elements {
		i, ok := r.byKey[el.Key]
		if !ok {
			r.add("phantom-element", el.Key, []int{scan}, "%q = %q was read at %v from %s and nobody added it", el.Key, el.Value, op.Invoke, op.Node)
			continue
		}
		e := &r.elements[i]
		add := &r.h.Ops[e.add]
		switch {
		case e.stamp == place:
			if !twice[el.Key] {
				r.add("duplicate-element", el.Key, []int{scan}, "%q stands twice in the scan of %v from %s", el.Key, op.Invoke, op.Node)
			}
			if twice == nil {
				twice = map[string]bool{}
			}
			twice[el.Key] = true
		case add.Outcome == history.Fail:
			r.add("phantom-element", el.Key, []int{e.add, scan}, "%q was read at %v from %s, and its add had failed: %s", el.Key, op.Invoke, op.Node, add.Error)
		case add.Invoke > op.Return:
			r.add("phantom-element", el.Key, []int{scan, e.add}, "%q was read until %v from %s, before it was added at %v", el.Key, op.Return, op.Node, add.Invoke)
		case el.Value != add.Value:
			r.add("wrong-value", el.Key, []int{e.add, scan}, "%q was added as %q and read as %q at %v from %s", el.Key, add.Value, el.Value, op.Invoke, op.Node)
		}
		e.stamp, e.seen = place, true
		e.lastPresent = op.Invoke
	}
}

// absent notes which elements known before the scan it does not hold.
func (r *setRun) absent(place, scan int) {
	op := &r.h.Ops[scan]
	strong, meets := op.Phase == history.Final && r.s.strong(op.Level), r.c.meets(r.s, op)
	for _, i := range r.under[op.Key] {
		e := &r.elements[i]
		if e.known >= horizon(op) {
			return
		}
		e.scanned = true
		if e.stamp == place {
			continue
		}
		e.lastAbsent, e.absentIn = op.Invoke, scan
		if op.Phase == history.Final {
			e.finals++
		}
		if strong {
			e.strongLoss = scan
		}
		if meets {
			e.missed = scan
		}
	}
}

func (r *setRun) judge() {
	var latency []time.Duration
	var acked, lost, stale, unread, unproven, recovered, apart int
	for i := range r.elements {
		e := &r.elements[i]
		add := &r.h.Ops[e.add]
		if e.known == never {
			if e.seen && add.Outcome == history.Info {
				recovered++
			}
			continue
		}
		acked++
		if !e.scanned {
			unread++
			unproven++
			continue
		}
		total := 0
		r.prefixes(i, func(p string) { total += r.finals[p] })
		if total == 0 {
			unproven++
		}
		gone := e.strongLoss >= 0 || total > 0 && e.finals == total || e.missed >= 0 && r.h.Ops[e.missed].Invoke > e.lastPresent
		switch {
		case gone:
			lost++
			r.lose(e)
			continue
		case e.finals > 0:
			apart++
		}
		wait := time.Duration(0)
		if e.lastAbsent >= 0 {
			stale++
			wait = e.lastAbsent - e.known
			if e.missed >= 0 {
				r.add("stale-element", add.Key, []int{e.add, e.missed}, "%q was acknowledged at %v and is not in the scan of %v from %s, but in another one",
					add.Key, e.known, r.h.Ops[e.missed].Invoke, r.h.Ops[e.missed].Node)
			}
		}
		latency = append(latency, wait)
	}
	if unproven > 0 {
		r.unknown("%d acknowledged elements are under no final scan", unproven)
	}
	r.seconds("stable_latency", latency)
	for name, n := range map[string]int{"elements": len(r.elements), "acknowledged": acked, "lost_acknowledged_writes": lost, "stale_elements": stale,
		"never_read": unread, "recovered": recovered, "missing_on_some_nodes": apart, "scans": len(r.scans)} {
		r.stats[name] = float64(n)
	}
}

// lose reports a lost element, by the scan that shows it best.
func (r *setRun) lose(e *element) {
	if !r.c.durable {
		return
	}
	at := e.absentIn
	if e.strongLoss >= 0 {
		at = e.strongLoss
	} else if e.missed >= 0 {
		at = e.missed
	}
	key := r.h.Ops[e.add].Key
	r.add("lost-element", key, []int{e.add, at}, "%q was acknowledged at %v and is not in the scan of %v from %s", key, e.known, r.h.Ops[at].Invoke, r.h.Ops[at].Node)
}
