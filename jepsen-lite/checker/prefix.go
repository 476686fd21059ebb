package checker

import (
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// Prefix checks that every answer is, for its key, a state that the leader once had:
// what was read was written, by a write that was not refused, with the version that it
// was read with and not before it began. Writes of unknown outcome and acknowledged
// ones that a failover lost count: the leader had them.
//
// It does not check that one answer of several keys shows them as of one moment, nor
// that one replica never goes back (restarts and failovers may let it).
func Prefix() Check {
	return Check{Name: consistency.CheckPrefix, Run: prefix}
}

func prefix(h *history.History, _ Spec) Result {
	t := newTally(consistency.CheckPrefix)
	keys := byKey(h, func(op *history.Op) bool { return op.F != history.Scan })
	r := &register{h: h, t: t}
	var reads, found, skipped int
	for k, key := range keys.names {
		n, m := answers(h, keys.ops(k))
		if m < 0 {
			skipped++
			continue
		}
		reads += n
		r.load(key, keys.ops(k))
		for _, rd := range r.reads {
			op := &h.Ops[rd.op]
			switch n := r.nodes[rd.node]; {
			case n.op == none: // a tombstone that one of the loose deletes must have left
				if !r.deleted(op) {
					t.show(h, "phantom", key, rd.op, "is of a tombstone that no delete can have left", none)
				}
			case op.Return < n.inv:
				t.show(h, "future-read", key, rd.op, "saw what had not begun:", n.op)
			}
			if op.Found {
				found++
			}
		}
		if r.unclear != "" {
			t.unknown("key %q: %s", key, r.unclear)
		}
	}
	t.stats["reads"], t.stats["reads_found"], t.stats["keys_skipped"] = float64(reads), float64(found), float64(skipped)
	if found == 0 {
		t.unknown("no read found a value: that proves nothing")
	}
	return t.result("all of %d reads show states that their keys once had", reads)
}

// deleted reports whether a delete without a known version began before a read ended.
func (r *register) deleted(read *history.Op) bool {
	for _, i := range r.loose {
		if op := &r.h.Ops[i]; op.F == history.Delete && op.Invoke <= read.Return {
			return true
		}
	}
	return false
}
