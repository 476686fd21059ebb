package checker

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

// ttlSlack is how much earlier than its TTL a value may go: expiry is kept in whole
// milliseconds, cut off on two clocks.
const ttlSlack = 2 * time.Millisecond

// none stands where no operation does.
const none = int32(-1)

// What stands beside each other under one version, in this order.
const (
	written uint8 = iota // what the operation with that version left
	expired              // what is left of it after its TTL
	between              // a write whose version nobody knows, behind that version
	gone                 // a delete (or expiry) of that kind
)

// node is one state of a register: from the moment of its operation until that of
// the next node.
type node struct {
	ver      fulcrum.Version
	sub      uint8
	absent   bool
	op       int32         // none: the initial state, or one whose operation is yet to be found
	inv, ret time.Duration // between which it began
}

func (a node) compare(b node) int {
	return cmp.Or(a.ver.Compare(b.ver), cmp.Compare(a.sub, b.sub), cmp.Compare(a.inv, b.inv))
}

// reading is a read that was found to have seen one node.
type reading struct {
	op, node int32
	ver      fulcrum.Version
}

// register is what a key's operations say of its states. It is used for one key
// after another, to keep its memory.
type register struct {
	h   *history.History
	t   *tally
	key string

	nodes   []node    // in the order of versions; the first is the initial state
	reads   []reading // those that are bound to a node by version or value
	blank   []int32   // reads of nothing, without a version
	refused []int32   // CAS that found another state than expected
	loose   []int32   // mutations of unknown version: outcome unknown, or acknowledged without
	unclear string    // why the versions do not decide this key; empty: they do

	writers map[string]int32 // value -> operation; made when first needed
	all     []int32
	line    timeline
}

// load takes one key's operations and finds its states: after it, every node has its
// version, and every reading its node. What cannot have been written by anyone is an
// anomaly.
func (r *register) load(key string, ops []int32) {
	r.key, r.all, r.unclear, r.writers = key, ops, "", nil
	r.nodes = append(r.nodes[:0], node{absent: true, op: none, inv: atStart, ret: never})
	r.reads, r.blank, r.refused, r.loose = r.reads[:0], r.blank[:0], r.refused[:0], r.loose[:0]
	for _, i := range ops {
		op := &r.h.Ops[i]
		switch {
		case refused(op):
			r.refused = append(r.refused, i)
		case op.Outcome == history.Fail, op.F == history.Read && op.Outcome != history.OK:
		case op.F == history.Read && !op.Found && op.Version.IsZero():
			r.blank = append(r.blank, i)
		case op.F == history.Read:
			r.reads = append(r.reads, reading{op: i, node: none, ver: op.Version})
		case op.Outcome == history.OK && !op.Version.IsZero():
			r.nodes = append(r.nodes, r.nodeOf(i, op.Version))
		default:
			r.loose = append(r.loose, i)
		}
	}
	slices.SortFunc(r.nodes, node.compare)
	r.unique()
	r.readValues()
	r.readAbsences()
}

func (r *register) nodeOf(i int32, v fulcrum.Version) node {
	op := &r.h.Ops[i]
	n := node{ver: v, absent: op.F == history.Delete, op: i, inv: op.Invoke, ret: op.Return}
	if op.Outcome != history.OK {
		n.ret = never
	}
	return n
}

// unique keeps one node for each version: two writes with one version are told apart
// by nobody.
func (r *register) unique() {
	kept := r.nodes[:1]
	for _, n := range r.nodes[1:] {
		if last := kept[len(kept)-1]; n.sub <= expired && n.sub == last.sub && n.ver == last.ver {
			if n.sub == written && n.op != none && last.op != none {
				r.t.show(r.h, "duplicate-version", r.key, n.op, "has the same version as", last.op)
			}
			continue
		}
		kept = append(kept, n)
	}
	r.nodes = kept
}

// find returns the place of a node in the order, or none.
func (r *register) find(v fulcrum.Version, sub uint8) int32 {
	i := sort.Search(len(r.nodes), func(i int) bool {
		n := &r.nodes[i]
		c := n.ver.Compare(v)
		return c > 0 || c == 0 && n.sub >= sub
	})
	if i < len(r.nodes) && r.nodes[i].ver == v && r.nodes[i].sub == sub {
		return int32(i)
	}
	return none
}

// readValues binds each read that found a value to the write of its version, whose
// value it must be. A write of unknown version learns it from the first read of its
// value, and all others must agree.
func (r *register) readValues() {
	learned := map[int32]fulcrum.Version{}
	kept := r.reads[:0]
	for _, rd := range r.reads {
		op := &r.h.Ops[rd.op]
		if !op.Found {
			kept = append(kept, rd)
			continue
		}
		if !rd.ver.IsZero() {
			rd.node = r.find(rd.ver, written)
		}
		if rd.node != none {
			if n := r.nodes[rd.node]; n.absent || r.h.Ops[n.op].Value != op.Value {
				r.t.show(r.h, "wrong-value", r.key, rd.op, "is not what was written with that version:", n.op)
				continue
			}
			kept = append(kept, rd)
			continue
		}
		if r.learn(&rd, learned) {
			kept = append(kept, rd)
		}
	}
	r.reads = kept
	if len(learned) == 0 {
		return
	}
	var more []node
	for _, i := range r.loose {
		if v, ok := learned[i]; ok {
			more = append(more, r.nodeOf(i, v))
		}
	}
	r.loose = slices.DeleteFunc(r.loose, func(i int32) bool { _, ok := learned[i]; return ok })
	r.insert(more)
}

// learn binds a read to the write of its value, when its version is that of no known
// write or it has none. It is false when there is nothing to bind it to.
func (r *register) learn(rd *reading, learned map[int32]fulcrum.Version) bool {
	w := r.writer(r.h.Ops[rd.op].Value)
	if w == none {
		r.t.show(r.h, "phantom", r.key, rd.op, "is of a value that nobody wrote", none)
		return false
	}
	op := &r.h.Ops[w]
	known, seen := learned[w]
	if !seen && op.Outcome == history.OK {
		known = op.Version
	}
	switch {
	case refused(op):
		r.t.show(r.h, "aborted-read", r.key, rd.op, "is of a CAS that was reported as not applied:", w)
		return false
	case op.Outcome == history.Fail:
		r.t.show(r.h, "aborted-read", r.key, rd.op, "is of a write that was reported as not done:", w)
		return false
	case rd.ver.IsZero() && known.IsZero():
		r.unclear = "a value was read without a version, and its write has none"
		return false
	case rd.ver.IsZero():
		rd.ver = known
		rd.node = r.find(known, written)
		return true
	case known.IsZero():
		learned[w] = rd.ver
		return true
	case known != rd.ver:
		r.t.show(r.h, "two-versions", r.key, rd.op, "is at another version ("+known.String()+" elsewhere) of", w)
		return false
	}
	return true
}

// writer is the operation that tried to write value, or none.
func (r *register) writer(value string) int32 {
	if r.writers == nil {
		r.writers = map[string]int32{}
		for _, i := range r.all {
			op := &r.h.Ops[i]
			if !op.F.Mutates() || op.F == history.Delete {
				continue
			}
			// Of two with one value, that which may have happened.
			if w, ok := r.writers[op.Value]; !ok || r.h.Ops[w].Outcome == history.Fail {
				r.writers[op.Value] = i
			}
		}
	}
	if i, ok := r.writers[value]; ok {
		return i
	}
	return none
}

// readAbsences binds each read that found nothing, at some version, to the tombstone
// of that version: to a known delete, to what is left of a write after its TTL, or to
// a tombstone whose delete is yet to be found among the loose ones. A CAS that wants
// the key absent is a witness of an expiry too.
func (r *register) readAbsences() {
	var more []node
	kept := r.reads[:0]
	for _, rd := range r.reads {
		if r.h.Ops[rd.op].Found {
			kept = append(kept, rd)
			continue
		}
		at := r.find(rd.ver, written)
		switch {
		case at == none:
			more = append(more, node{ver: rd.ver, absent: true, op: none, inv: atStart, ret: never})
		case r.nodes[at].absent:
		case r.canExpire(r.nodes[at], r.h.Ops[rd.op].Return):
			more = append(more, r.expiry(r.nodes[at], expired))
		default:
			r.t.show(r.h, "wrong-value", r.key, rd.op, "does not show what was written with that version:", r.nodes[at].op)
			continue
		}
		kept = append(kept, rd)
	}
	r.reads = kept
	r.insert(more)
	more = r.expected(more[:0])
	r.insert(more)
	r.rebind()
}

// expected lists the states that only a CAS bears witness of: that a value had expired,
// or that a write of unknown outcome had that version.
func (r *register) expected(more []node) []node {
	for i := 1; i < len(r.nodes); i++ {
		n, last := r.nodes[i], r.nodes[i-1]
		op := r.opOf(n)
		if n.sub != written || op == nil || op.F != history.CAS {
			continue
		}
		if op.Expect.IsZero() {
			if r.canExpire(last, n.ret) {
				more = append(more, r.expiry(last, expired))
			}
		} else if len(r.loose) > 0 && r.find(op.Expect, written) == none {
			more = append(more, node{ver: op.Expect, op: none, inv: atStart, ret: never})
		}
	}
	return more
}

// insert puts nodes where they belong, each once.
func (r *register) insert(more []node) {
	if len(more) == 0 {
		return
	}
	r.nodes = append(r.nodes, more...)
	slices.SortStableFunc(r.nodes, node.compare)
	r.unique()
}

func (r *register) opOf(n node) *history.Op {
	if n.op == none {
		return nil
	}
	return &r.h.Ops[n.op]
}

// canExpire reports whether the value of n can be gone by a moment.
func (r *register) canExpire(n node, by time.Duration) bool {
	op := r.opOf(n)
	return op != nil && n.sub == written && !n.absent && op.TTL > 0 && op.Invoke+op.TTL-ttlSlack <= by
}

// expiry is the state that n leaves after its TTL.
func (r *register) expiry(n node, sub uint8) node {
	op := &r.h.Ops[n.op]
	return node{ver: n.ver, sub: sub, absent: true, op: n.op, inv: op.Invoke + op.TTL - ttlSlack, ret: never}
}

// rebind finds the readings' nodes again where nodes came in between.
func (r *register) rebind() {
	for i := range r.reads {
		rd := &r.reads[i]
		if rd.node != none && r.nodes[rd.node].ver == rd.ver && r.nodes[rd.node].sub == written && r.h.Ops[rd.op].Found {
			continue
		}
		sub := written
		if !r.h.Ops[rd.op].Found && r.find(rd.ver, expired) != none {
			sub = expired
		}
		rd.node = r.find(rd.ver, sub)
	}
}
