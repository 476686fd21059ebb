package checker

import (
	"sort"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// Linearizable is the fast check: it takes the order of each key's versions for the
// order in which its writes took effect, and looks whether that order can be true.
//
// Let the states of a key be s0 (absent), s1 ... sn by version. Put each operation
// into the sequence: a mutation where its state begins, a read behind the state that
// it saw. The key is valid when
//
//	(1) each read saw what the mutation of its state wrote, and each CAS stands
//	    directly behind the state that it expected;
//	(2) no operation returned before one was invoked that stands ahead of it.
//
// Then the history is linearizable: let an operation take effect at the latest Invoke
// among itself and all ahead of it. By (2) that is no later than its Return, and no
// earlier than its Invoke by definition; along the sequence these moments never fall;
// and by (1) the sequence is a legal run of a register. Keys are independent, and
// linearizability is local (Herlihy & Wing 1990), so the whole is linearizable when
// each key is. The converse needs that versions tell the truth, which the store
// promises: where they do not, its promise is broken and the check says so.
//
// (2) is one sweep with the smallest Return behind each place. What has no place by
// version is put into one that (2) allows, if there is any: reads of nothing without a
// version (the tombstone was purged, or nothing was ever written), deletes whose
// outcome or version is unknown, writes acknowledged without a version. A mutation of
// unknown outcome that no read saw, and that explains nothing, did not happen. When
// the choice among such places fails, though each alone had one, the key is left to
// porcupine if it is small, and is unknown if not.
//
// A CAS that was refused is only held against its own interval: the state that it
// expected must not have stood there throughout.
func Linearizable() Check {
	return Check{Name: consistency.CheckLinearizable, Run: linearizable}
}

func linearizable(h *history.History, s Spec) Result {
	t := newTally(consistency.CheckLinearizable)
	keys := byKey(h, func(op *history.Op) bool {
		return op.F != history.Scan && (op.F.Mutates() || judged(op, s))
	})
	r := &register{h: h, t: t}
	var reads, writes, skipped, slow, undecided int
	for k, key := range keys.names {
		ops := keys.ops(k)
		n, m := answers(h, ops)
		if m < 0 {
			skipped++
			continue
		}
		reads, writes = reads+n, writes+m
		before := t.found
		r.load(key, ops)
		if t.found == before {
			r.linear()
		}
		if t.found > before || r.unclear == "" {
			continue
		}
		slow++
		switch v, why := slowly(h, ops, Limits{}); v {
		case Invalid:
			t.add("not-linearizable", key, nil, "key %q: no order of its operations explains every answer (found without versions; %s)", key, r.unclear)
		case Unknown:
			undecided++
			t.unknown("key %q is not decided: %s; and without versions: %s", key, r.unclear, why)
		}
	}
	t.stats["keys"], t.stats["reads"], t.stats["writes"] = float64(len(keys.names)-skipped), float64(reads), float64(writes)
	t.stats["keys_skipped"], t.stats["keys_slow"], t.stats["keys_unknown"] = float64(skipped), float64(slow), float64(undecided)
	if reads == 0 || writes == 0 {
		t.unknown("%d reads and %d writes were answered: that proves nothing", reads, writes)
	}
	return t.result("%d reads and %d writes of %d keys have one order that respects real time", reads, writes, len(keys.names)-skipped)
}

// judged reports whether a read has to be linearizable: final reads of single
// replicas are not.
func judged(op *history.Op, s Spec) bool {
	switch op.Level.Kind {
	case consistency.Default, consistency.Linearizable, consistency.Lease:
		return true
	}
	return op.Level == s.Read
}

// answers counts the reads and mutations of a key that were answered; mutations are
// negative when the key is no register.
func answers(h *history.History, ops []int32) (reads, writes int) {
	for _, i := range ops {
		op := &h.Ops[i]
		switch {
		case !registerLike(op.F):
			return 0, -1
		case op.F == history.Read && op.Outcome == history.OK:
			reads++
		case changed(op):
			writes++
		}
	}
	return reads, writes
}

// timeline holds, for each node of a register, what real time says of its place.
// A node's group is the node and the reads that saw it.
type timeline struct {
	lastRead  []time.Duration // latest Invoke of the group's reads
	firstRead []time.Duration // earliest Return of them
	firstOp   []int32         // the read of firstRead

	ahead  []time.Duration // latest Invoke of all groups ahead and the node itself
	behind []time.Duration // earliest Return of this group and all behind; one more at the end
	proof  []int32         // the operation of behind
	absent []int32         // the groups that are absent, in order
}

// sweep fills the timeline from the nodes and the reads bound to them.
func (r *register) sweep() {
	l, n := &r.line, len(r.nodes)
	l.lastRead, l.firstRead, l.ahead = grown(l.lastRead, n), grown(l.firstRead, n), grown(l.ahead, n)
	l.firstOp, l.behind, l.proof = grown(l.firstOp, n), grown(l.behind, n+1), grown(l.proof, n+1)
	l.absent = l.absent[:0]
	for i := range r.nodes {
		l.lastRead[i], l.firstRead[i], l.firstOp[i] = atStart, never, none
		if r.nodes[i].absent {
			l.absent = append(l.absent, int32(i))
		}
	}
	for _, rd := range r.reads {
		op := &r.h.Ops[rd.op]
		l.lastRead[rd.node] = max(l.lastRead[rd.node], op.Invoke)
		if op.Return < l.firstRead[rd.node] {
			l.firstRead[rd.node], l.firstOp[rd.node] = op.Return, rd.op
		}
	}
	latest := atStart
	for i, nd := range r.nodes {
		l.ahead[i] = max(latest, nd.inv)
		latest = max(l.ahead[i], l.lastRead[i])
	}
	l.behind[n], l.proof[n] = never, none
	for i := n - 1; i >= 0; i-- {
		l.behind[i], l.proof[i] = l.behind[i+1], l.proof[i+1]
		if l.firstRead[i] < l.behind[i] {
			l.behind[i], l.proof[i] = l.firstRead[i], l.firstOp[i]
		}
		if r.nodes[i].ret < l.behind[i] {
			l.behind[i], l.proof[i] = r.nodes[i].ret, r.nodes[i].op
		}
	}
}

func grown[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/2)
	}
	return s[:n]
}

// linear judges the loaded key: anomalies go to the tally; unclear is set when the
// versions do not decide.
func (r *register) linear() {
	r.sweep()
	before := r.t.found
	r.realTime()
	r.chain()
	r.refusals()
	if r.t.found > before {
		return
	}
	if r.place() {
		r.sweep()
	}
	if r.t.found == before && r.unclear == "" && !r.certain() {
		r.unclear = "operations without a version fit each alone, but not together"
	}
}

// realTime finds every operation that returned before one was invoked that the
// versions put ahead of it.
func (r *register) realTime() {
	l := &r.line
	for _, rd := range r.reads {
		op := &r.h.Ops[rd.op]
		switch n := r.nodes[rd.node]; {
		case op.Return < n.inv:
			r.t.show(r.h, "future-read", r.key, rd.op, "saw what had not begun:", n.op)
		case op.Invoke > l.behind[rd.node+1]:
			r.t.show(r.h, "stale-read", r.key, rd.op, "came after", l.proof[rd.node+1])
		}
	}
	for i, n := range r.nodes {
		if n.inv > l.behind[i+1] {
			r.t.show(r.h, "version-order", r.key, n.op, "has an older version than one that had already ended:", l.proof[i+1])
		}
	}
}

// certain is the certificate: condition (2), for the sequence as it now stands, in one
// pass that shares nothing with the search for it but the nodes.
func (r *register) certain() bool {
	latest := atStart
	for i, n := range r.nodes {
		latest = max(latest, n.inv)
		if n.ret < latest || r.line.firstRead[i] < latest {
			return false
		}
		latest = max(latest, r.line.lastRead[i])
	}
	return true
}

// chain checks that each CAS of known version follows the state that it expected.
// One that wants the key absent may be helped by a loose delete, which place finds.
func (r *register) chain() {
	for i := 1; i < len(r.nodes); i++ {
		op := r.opOf(r.nodes[i])
		if op == nil || op.F != history.CAS || r.nodes[i].sub != written {
			continue
		}
		last := r.nodes[i-1]
		if op.Expect.IsZero() || last.ver == op.Expect && last.sub == written && !last.absent {
			continue
		}
		why := "took effect though it expected version " + op.Expect.String()
		if last.op == none {
			r.t.show(r.h, "lost-update", r.key, r.nodes[i].op, why+" and another state stood there", none)
		} else {
			r.t.show(r.h, "lost-update", r.key, r.nodes[i].op, why+"; there stood", last.op)
		}
	}
}

// refusals checks that each refused CAS had a moment at which the key was not as it
// expected. What nobody saw may have stood there too, so that loose mutations excuse
// it.
func (r *register) refusals() {
	for _, i := range r.refused {
		op := &r.h.Ops[i]
		if len(r.loose) > 0 && r.h.Ops[r.loose[0]].Invoke <= op.Return { // they are by Invoke
			continue
		}
		from, to := r.span(op.Invoke, op.Return)
		from, to = min(from, to), max(from, to)
		other := false
		for g := from; g <= to && !other; g++ {
			n := r.nodes[g]
			if op.Expect.IsZero() {
				other = !n.absent
			} else {
				other = n.absent || n.ver != op.Expect || r.canExpire(n, op.Return)
			}
		}
		if !other {
			r.t.show(r.h, "false-refusal", r.key, i, "was refused though the key stood at what it expected all the time", none)
		}
	}
}

// span returns the first and the last group in which an operation that ran from inv
// to ret can have seen the key, by what is known of the others. When the first is
// behind the last, it ran while the first stood there, and nothing else did.
func (r *register) span(inv, ret time.Duration) (from, to int) {
	l := &r.line
	from = sort.Search(len(r.nodes)-1, func(g int) bool { return l.behind[g+1] >= inv })
	to = sort.Search(len(r.nodes), func(g int) bool { return l.ahead[g] > ret }) - 1
	return from, to
}
