package checker

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"fulcrum/jepsen-lite/history"
)

// Lists judges lists that only grow: an Append leaves its value and a comma behind,
// and a Read returns the whole list, so every read shows the order of all appends
// before it. The longest read of a key is its order.
//
//	incompatible-order  a read that is no prefix of the longest one
//	duplicate-element   an element twice in one read: an append was applied twice
//	phantom-element     nobody appended it, or only an Append that failed
//	corrupt-list        no comma at the end
//	order-violation     a acknowledged before b was asked for, and b stands before a
//	lost-element        acknowledged, and not in a final read that says what was kept (see settled)
//	stale-list          acknowledged, and not in a later read: excluded only where reads meet writes
//	list-back           where reads are linearizable, a shorter list than an earlier read's
//
// Where a failover may drop what answers have shown, the order is only judged in
// these final reads, and lost elements count where the write level keeps them.
func Lists() Check { return Check{Name: "list", Run: runLists} }

// listKey is one list.
type listKey struct {
	*tally
	h       *history.History
	s       Spec
	c       contract
	key     string
	appends map[string]int
	reads   []listRead // by Invoke
	settled []int32    // the final reads that say what was kept
}

type listRead struct {
	op       int
	elements []string
}

func runLists(h *history.History, s Spec) Result {
	t := newTally("list")
	c, err := contractOf(s)
	if err != nil {
		t.unknown("%v", err)
	}
	keys := byKey(h, func(op *history.Op) bool {
		return op.F == history.Append || op.F == history.Read && op.Outcome == history.OK
	})
	reads, appends := 0, 0
	for n, key := range keys.names {
		k := &listKey{tally: t, h: h, s: s, c: c, key: key, appends: map[string]int{}}
		k.settled = settled(h, s, keys.ops(n))
		k.collect(keys.ops(n))
		reads, appends = reads+len(k.reads), appends+len(k.appends)
		k.judge()
	}
	t.stats["lists"], t.stats["appends"], t.stats["reads"] = float64(len(keys.names)), float64(appends), float64(reads)
	if reads == 0 || appends == 0 {
		t.unknown("%d appends and %d reads: nothing to compare", appends, reads)
	}
	if t.stats["final_reads"] == 0 {
		t.unknown("no final read: nothing says what was kept")
	}
	return t.result("%d reads of %d lists agree on one order of %d appends", reads, len(keys.names), appends)
}

func (k *listKey) collect(ops []int32) {
	for _, i := range ops {
		op := &k.h.Ops[i]
		if op.F == history.Append {
			if _, again := k.appends[op.Value]; again {
				k.unknown("%q was appended twice to %q: elements must be unique", op.Value, k.key)
			}
			k.appends[op.Value] = int(i)
		}
	}
	for _, i := range ops {
		if op := &k.h.Ops[i]; op.F == history.Read {
			k.parse(int(i), op)
		}
	}
	slices.SortStableFunc(k.reads, func(a, b listRead) int { return cmp.Compare(k.h.Ops[a.op].Invoke, k.h.Ops[b.op].Invoke) })
}

// parse takes a read apart and finds what no order could explain.
func (k *listKey) parse(i int, op *history.Op) {
	r := listRead{op: i}
	if op.Found && op.Value != "" {
		body, ok := strings.CutSuffix(op.Value, ",")
		if !ok {
			k.add("corrupt-list", k.key, []int{i}, "the list read at %v from %s ends in the middle of an element", op.Invoke, op.Node)
			return
		}
		r.elements = strings.Split(body, ",")
	}
	seen := make(map[string]bool, len(r.elements))
	for _, e := range r.elements {
		a, ok := k.appends[e]
		switch {
		case seen[e]:
			k.add("duplicate-element", k.key, []int{i}, "%q stands twice in the list read at %v from %s", e, op.Invoke, op.Node)
		case !ok:
			k.add("phantom-element", k.key, []int{i}, "%q was read at %v from %s and nobody appended it", e, op.Invoke, op.Node)
		case k.h.Ops[a].Outcome == history.Fail:
			k.add("phantom-element", k.key, []int{a, i}, "%q was read at %v from %s, and its append had failed: %s", e, op.Invoke, op.Node, k.h.Ops[a].Error)
		case k.h.Ops[a].Invoke > op.Return:
			k.add("phantom-element", k.key, []int{i, a}, "%q was read until %v from %s, before it was appended at %v", e, op.Return, op.Node, k.h.Ops[a].Invoke)
		}
		seen[e] = true
	}
	k.reads = append(k.reads, r)
}

func (k *listKey) judge() {
	longest := k.longest()
	if !k.c.branches {
		k.prefixes(longest)
		k.realTime(longest)
	} else if finals := k.finals(); len(finals) > 0 {
		k.realTime(finals[0])
	}
	k.lost()
	if k.c.overlap && !k.c.branches {
		k.stale(longest)
	}
	if k.c.linear {
		k.grows()
	}
}

func (k *listKey) longest() listRead {
	var l listRead
	for i, r := range k.reads {
		if i == 0 || len(r.elements) > len(l.elements) {
			l = r
		}
	}
	return l
}

func (k *listKey) finals() []listRead {
	var out []listRead
	for _, r := range k.reads {
		if slices.Contains(k.settled, int32(r.op)) {
			out = append(out, r)
		}
	}
	return out
}

func (k *listKey) prefixes(longest listRead) {
	for _, r := range k.reads {
		for at, e := range r.elements {
			if e != longest.elements[at] {
				k.add("incompatible-order", k.key, []int{r.op, longest.op}, "element %d is %q in the list read at %v from %s and %q in that of %v from %s", at+1,
					e, k.h.Ops[r.op].Invoke, k.h.Ops[r.op].Node, longest.elements[at], k.h.Ops[longest.op].Invoke, k.h.Ops[longest.op].Node)
				break
			}
		}
	}
}

// realTime finds elements that stand behind one whose append began after theirs was
// acknowledged.
func (k *listKey) realTime(order listRead) {
	youngest := -1 // of the appends so far, the one that began last
	for _, e := range order.elements {
		i, ok := k.appends[e]
		if !ok {
			continue
		}
		op := &k.h.Ops[i]
		if youngest >= 0 && op.Outcome == history.OK && k.h.Ops[youngest].Invoke > op.Return {
			y := &k.h.Ops[youngest]
			k.add("order-violation", k.key, []int{i, youngest, order.op}, "%q was acknowledged at %v, before %q was asked for at %v, and stands behind it", e, op.Return, y.Value, y.Invoke)
		}
		if youngest < 0 || op.Invoke > k.h.Ops[youngest].Invoke {
			youngest = i
		}
	}
}

// lost looks for every acknowledged append in the final reads that say what was kept.
func (k *listKey) lost() {
	finals := k.finals()
	k.stats["final_reads"] += float64(len(finals))
	gone := map[int]bool{}
	for _, r := range finals {
		has := make(map[string]bool, len(r.elements))
		for _, e := range r.elements {
			has[e] = true
		}
		for value, a := range k.appends {
			if op := &k.h.Ops[a]; op.Outcome == history.OK && op.Return < horizon(&k.h.Ops[r.op]) && !has[value] {
				gone[a] = true
			}
		}
		if k.c.durable {
			k.report(gone, r)
		}
		if len(gone) > 0 {
			break // one read is enough of a proof; others repeat it
		}
	}
	k.stats["lost_acknowledged_writes"] += float64(len(gone))
}

func (k *listKey) report(gone map[int]bool, r listRead) {
	var ops []int
	for a := range gone {
		ops = append(ops, a)
	}
	slices.Sort(ops)
	for _, a := range ops {
		op := &k.h.Ops[a]
		k.add("lost-element", k.key, []int{a, r.op}, "%q was acknowledged at %v and is not in the list read at %v from %s", op.Value, op.Return, k.h.Ops[r.op].Invoke, k.h.Ops[r.op].Node)
	}
}

// stale finds reads without an element that had been acknowledged before they began.
func (k *listKey) stale(order listRead) {
	place := make(map[string]int, len(order.elements))
	for at, e := range order.elements {
		place[e] = at + 1
	}
	type ack struct {
		at           time.Duration
		op, position int
	}
	var acks []ack
	for value, i := range k.appends {
		if op := &k.h.Ops[i]; op.Outcome == history.OK {
			at, ok := place[value]
			if !ok {
				at = len(order.elements) + 1 // in no read: whatever comes later lacks it
			}
			acks = append(acks, ack{op.Return, i, at})
		}
	}
	slices.SortFunc(acks, func(a, b ack) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.op, b.op)) })
	next, top := 0, ack{}
	for _, r := range k.reads {
		op := &k.h.Ops[r.op]
		for ; next < len(acks) && acks[next].at < horizon(op); next++ {
			if acks[next].position > top.position {
				top = acks[next]
			}
		}
		if top.position > len(r.elements) && k.c.meets(k.s, op) {
			k.add("stale-list", k.key, []int{top.op, r.op}, "%q was acknowledged at %v and is not in the list read at %v from %s", k.h.Ops[top.op].Value, top.at, op.Invoke, op.Node)
		}
	}
}

// grows finds reads that are shorter than one that had ended before they began.
func (k *listKey) grows() {
	reads := slices.DeleteFunc(slices.Clone(k.reads), func(r listRead) bool { return !k.c.meets(k.s, &k.h.Ops[r.op]) })
	byEnd := slices.Clone(reads)
	slices.SortStableFunc(byEnd, func(a, b listRead) int { return cmp.Compare(k.h.Ops[a.op].Return, k.h.Ops[b.op].Return) })
	next, top := 0, listRead{}
	for _, r := range reads {
		op := &k.h.Ops[r.op]
		for ; next < len(byEnd) && k.h.Ops[byEnd[next].op].Return < op.Invoke; next++ {
			if len(byEnd[next].elements) > len(top.elements) {
				top = byEnd[next]
			}
		}
		if len(r.elements) < len(top.elements) {
			k.add("list-back", k.key, []int{top.op, r.op}, "%d elements were read at %v from %s, after a read of %d had ended at %v",
				len(r.elements), op.Invoke, op.Node, len(top.elements), k.h.Ops[top.op].Return)
		}
	}
}
