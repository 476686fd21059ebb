package checker

import (
	"fmt"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// claimSlack is how much a measured staleness may exceed what a receipt claims or a
// bound allows: claims are in whole milliseconds, of another clock.
const claimSlack = 5 * time.Millisecond

// Sample is how stale one answered read was, at the least.
type Sample struct {
	Time      time.Duration // when it was invoked
	Staleness time.Duration // 0: nothing proves that it was stale
	Node      fulcrum.NodeID
	Level     consistency.Level
	op        int32
	missed    int32 // the earliest write that it did not show, or none
	key       string
}

// StalenessOf measures every read of a key: one that returned version v, invoked at t,
// is stale by at least t minus the earliest Return of an acknowledged mutation with a
// version above v. What was acknowledged by less than a majority, and by the
// keyspace's own level, can be lost; it counts for a read only when it, or another
// read, showed that version later on. Samples are by Time.
func StalenessOf(h *history.History) []Sample {
	keys := byKey(h, func(op *history.Op) bool { return op.F != history.Scan })
	var out []Sample
	for k, key := range keys.names {
		from := len(out)
		out = staleOf(h, keys.ops(k), out)
		for i := range out[from:] {
			out[from+i].key = key
		}
	}
	slices.SortStableFunc(out, func(a, b Sample) int { return int(a.Time - b.Time) })
	return out
}

// ack is an acknowledged mutation. It can be missed by reads until the moment until.
type ack struct {
	v     fulcrum.Version
	op    int32
	until time.Duration
}

// staleOf goes through one key's reads from the last to the first, so that the acks
// that count become more and more; earliest answers which of them, above a version,
// was first.
func staleOf(h *history.History, ops []int32, out []Sample) []Sample {
	acks := acksOf(h, ops)
	gone := absencesOf(h, ops)
	byEnd := make([]int, len(acks))
	for i := range acks {
		byEnd[i] = i
	}
	slices.SortFunc(byEnd, func(a, b int) int { return int(sign(acks[b].until, acks[a].until)) })
	tree := newEarliest(h, len(acks))
	next := 0
	for j := len(ops) - 1; j >= 0; j-- {
		op := &h.Ops[ops[j]]
		if op.F != history.Read || op.Outcome != history.OK {
			continue
		}
		for ; next < len(byEnd) && acks[byEnd[next]].until >= op.Invoke; next++ {
			tree.add(byEnd[next], acks[byEnd[next]].op)
		}
		v, known := op.Version, true
		if v.IsZero() && op.Found {
			known = false
		} else if v.IsZero() {
			v, known = gone.newest(op.Return)
		}
		s := Sample{Time: op.Invoke, Node: op.Node, Level: op.Level, op: ops[j], missed: none}
		if known {
			above, equal := slices.BinarySearchFunc(acks, v, func(a ack, v fulcrum.Version) int { return a.v.Compare(v) })
			if equal {
				above++
			}
			if first := tree.from(above); first != none && h.Ops[first].Return < op.Invoke {
				s.Staleness, s.missed = op.Invoke-h.Ops[first].Return, first
			}
		}
		out = append(out, s)
	}
	return out
}

func sign(a, b time.Duration) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// acksOf are a key's acknowledged mutations, by version.
func acksOf(h *history.History, ops []int32) []ack {
	var acks []ack
	for _, i := range ops {
		op := &h.Ops[i]
		if !changed(op) || op.Version.IsZero() {
			continue
		}
		a := ack{v: op.Version, op: i, until: atStart}
		switch op.Level.Kind {
		case consistency.QuorumOf, consistency.EachQuorum, consistency.All, consistency.Linearizable:
			a.until = never
		}
		acks = append(acks, a)
	}
	slices.SortFunc(acks, func(a, b ack) int { return a.v.Compare(b.v) })
	for _, i := range ops {
		op := &h.Ops[i]
		if op.F != history.Read || op.Outcome != history.OK {
			continue
		}
		if j, ok := slices.BinarySearchFunc(acks, op.Version, func(a ack, v fulcrum.Version) int { return a.v.Compare(v) }); ok {
			acks[j].until = max(acks[j].until, op.Return)
		}
	}
	return acks
}

// earliest finds the operation with the first Return among those added at or above a
// place: a Fenwick tree of minima, turned round.
type earliest struct {
	h    *history.History
	tree []int32
}

func newEarliest(h *history.History, n int) *earliest {
	e := &earliest{h: h, tree: make([]int32, n+1)}
	for i := range e.tree {
		e.tree[i] = none
	}
	return e
}

func (e *earliest) first(a, b int32) int32 {
	if a == none || b != none && e.h.Ops[b].Return < e.h.Ops[a].Return {
		return b
	}
	return a
}

func (e *earliest) add(place int, op int32) {
	for i := len(e.tree) - 1 - place; i < len(e.tree); i += i & -i {
		e.tree[i] = e.first(e.tree[i], op)
	}
}

func (e *earliest) from(place int) int32 {
	best := none
	for i := len(e.tree) - 1 - place; i > 0; i -= i & -i {
		best = e.first(best, e.tree[i])
	}
	return best
}

// Staleness measures how old answers were and judges them: a read at level bounded:D
// must not be staler than D, no read staler than its receipt claims, and where bound
// is not 0, no read of the run's own level staler than that. Figures are
// "staleness_p50_seconds" ..., and stale_reads.
func Staleness(bound time.Duration) Check {
	return Check{Name: consistency.CheckBounded, Run: func(h *history.History, s Spec) Result {
		t := newTally(consistency.CheckBounded)
		samples := StalenessOf(h)
		all := make([]time.Duration, 0, len(samples))
		var stale, over int
		for _, x := range samples {
			op := &h.Ops[x.op]
			all = append(all, x.Staleness)
			if x.Staleness == 0 {
				continue
			}
			stale++
			limit, why := limitOf(op, s, bound)
			if op.Staleness >= 0 && (limit < 0 || op.Staleness < limit) {
				limit, why = op.Staleness, "the receipt claims"
			}
			if limit < 0 || x.Staleness <= limit+claimSlack {
				continue
			}
			over++
			kind := "too-stale"
			if why == "the receipt claims" {
				kind = "false-claim"
			}
			t.show(h, kind, x.key, x.op, fmt.Sprintf("was stale by %v at the least, %s %v; it missed", x.Staleness, why, limit), x.missed)
		}
		t.seconds("staleness", all)
		t.stats["reads"], t.stats["stale_reads"], t.stats["too_stale"] = float64(len(samples)), float64(stale), float64(over)
		if len(samples) == 0 {
			t.unknown("no read was answered: that proves nothing")
		}
		return t.result("%d of %d reads were stale, none more than allowed", stale, len(samples))
	}}
}

// limitOf is how stale a read may be, negative for no limit.
func limitOf(op *history.Op, s Spec, bound time.Duration) (time.Duration, string) {
	switch {
	case op.Level.Kind == consistency.Bounded:
		return op.Level.Bound, "its bound is"
	case bound > 0 && (op.Level == s.Read || op.Level == consistency.Level{}):
		return bound, "the bound is"
	}
	return -1, ""
}
