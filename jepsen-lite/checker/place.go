package checker

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"fulcrum/jepsen-lite/history"
)

// demand is an absence that must be found a place between the nodes.
type demand struct {
	op       int32 // the read of nothing, or none: for a CAS that wants the key absent
	from, to int   // behind which groups it may stand
	ret      time.Duration
}

// place gives a place to all that has none by version, and reports whether it added
// nodes or reads.
func (r *register) place() bool {
	bound := len(r.reads)
	demands := r.blanks()
	p := placing{r: r, used: map[int32]bool{}, blanks: len(r.reads) - bound}
	demands = append(demands, r.wantAbsent()...)
	p.orphans()
	if r.unclear != "" {
		return true
	}
	slices.SortFunc(demands, func(a, b demand) int { return cmp.Or(cmp.Compare(a.to, b.to), cmp.Compare(a.ret, b.ret)) })
	for _, d := range demands {
		p.meet(d)
	}
	p.acknowledged()
	if len(p.added) > 0 {
		p.insert()
	}
	return len(r.blank) > 0 || len(p.added) > 0 || len(p.used) > 0
}

// blanks binds each read of nothing to the first absent state at which it can have
// been; the first, since what comes later is then free to follow. It returns those
// that fit none.
func (r *register) blanks() []demand {
	var left []demand
	l := &r.line
	for _, i := range r.blank {
		op := &r.h.Ops[i]
		from, to := r.span(op.Invoke, op.Return)
		at := sort.Search(len(l.absent), func(j int) bool { return int(l.absent[j]) >= from })
		if at < len(l.absent) && int(l.absent[at]) <= to {
			r.reads = append(r.reads, reading{op: i, node: l.absent[at], ver: r.nodes[l.absent[at]].ver})
			continue
		}
		left = append(left, demand{op: i, from: from, to: to, ret: op.Return})
	}
	return left
}

// wantAbsent lists the CAS that expected nothing and stand behind a value.
func (r *register) wantAbsent() []demand {
	var left []demand
	for i := 1; i < len(r.nodes); i++ {
		n := r.nodes[i]
		if op := r.opOf(n); op != nil && op.F == history.CAS && n.sub == written && op.Expect.IsZero() && !r.nodes[i-1].absent {
			left = append(left, demand{op: none, from: i - 1, to: i - 1, ret: never})
		}
	}
	return left
}

// placing puts what has no version between the nodes.
//
// Whatever runs from inv to ret fits real time behind each group from the first whose
// successors all end after inv to the last before which all began before ret: one
// unbroken stretch, whose two ends rise with inv and with ret. So the reads of nothing
// are a matter of stabbing intervals, for which taking the one that ends first and
// stabbing it at its end is best, and tombstones are a matter of deadlines, for which
// the earliest deadline is. Mixed with writes that have no version that is not proved,
// which is why certain looks at the outcome.
type placing struct {
	r     *register
	used  map[int32]bool // loose mutations that have a place
	added []gap
	bound []bind

	blanks int // how many reads of nothing were bound to known states: the last of reads
}

// gap is a node to be put behind a group.
type gap struct {
	node
	at int
}

// bind is a read of nothing that an added node explains.
type bind struct {
	op    int32
	added int
}

// stretch is span, for a place behind a group instead of in it.
func (p *placing) stretch(inv, ret time.Duration) (from, to int) {
	from, to = p.r.span(inv, ret)
	if to >= 0 && p.r.line.lastRead[to] > ret {
		to--
	}
	return from, to
}

// ends is when a mutation must have taken effect.
func ends(op *history.Op) time.Duration {
	if op.Outcome == history.OK {
		return op.Return
	}
	return never
}

// free reports whether something may come directly behind group g: not where a CAS
// found that group there, and not before the expiry of what it wrote.
func (p *placing) free(g int, absent bool) bool {
	if g+1 == len(p.r.nodes) {
		return true
	}
	next := p.r.nodes[g+1]
	if next.sub == expired {
		return false
	}
	op := p.r.opOf(next)
	return op == nil || op.F != history.CAS || op.Expect.IsZero() && absent
}

// orphans finds a loose mutation for each state that was read, or expected by a CAS,
// and that no known one left: for a tombstone a delete, for a value a write.
func (p *placing) orphans() {
	r := p.r
	for g := 1; g < len(r.nodes); g++ {
		if r.nodes[g].op != none {
			continue
		}
		best, taken := none, false
		for _, i := range r.loose {
			op := &r.h.Ops[i]
			if (op.F == history.Delete) != r.nodes[g].absent || op.Invoke > r.line.behind[g] || ends(op) < r.line.ahead[g] {
				continue
			}
			if p.used[i] || op.F == history.CAS { // which has conditions of its own
				taken = true
			} else if best == none || ends(op) < ends(&r.h.Ops[best]) {
				best = i
			}
		}
		switch {
		case best != none:
			p.used[best] = true
			op := &r.h.Ops[best]
			r.nodes[g].op, r.nodes[g].inv, r.nodes[g].ret = best, op.Invoke, ends(op)
		case taken:
			r.unclear = "more states were seen than there are mutations to leave them"
		case r.nodes[g].absent:
			r.t.show(r.h, "phantom", r.key, r.line.firstOp[g], "is of a tombstone that no delete can have left", none)
		default:
			r.t.show(r.h, "phantom", r.key, r.nodes[g+1].op, "expected a version that no write can have left", none)
		}
	}
}

// meet finds a delete or an expiry for one demand.
func (p *placing) meet(d demand) {
	r := p.r
	if d.op != none && d.to >= 0 && r.line.lastRead[d.to] > d.ret {
		d.to--
	}
	last := -1 // the latest, so that the read is behind the deletes that ended before it
	for j, a := range p.added {
		if a.sub == gone && d.from <= a.at && a.at <= d.to && a.inv <= d.ret && (last < 0 || p.added[last].at <= a.at) {
			last = j
		}
	}
	if last >= 0 {
		p.bind(d, last)
		return
	}
	best, at, taken := none, -1, false
	for _, i := range r.loose {
		op := &r.h.Ops[i]
		if op.F != history.Delete || op.Invoke > d.ret {
			continue
		}
		from, to := p.stretch(op.Invoke, ends(op))
		g := min(d.to, to)
		for g >= max(d.from, from) && !p.free(g, true) {
			g--
		}
		switch {
		case g < max(d.from, from):
		case p.used[i]:
			taken = true
		case g > at, g == at && ends(op) < ends(&r.h.Ops[best]), g == at && ends(op) == ends(&r.h.Ops[best]) && op.Invoke > r.h.Ops[best].Invoke:
			best, at = i, g
		}
	}
	if best != none {
		op := &r.h.Ops[best]
		p.used[best] = true
		p.add(at, node{absent: true, sub: gone, op: best, inv: op.Invoke, ret: ends(op)})
		p.bind(d, len(p.added)-1)
		return
	}
	for g := d.from; g <= d.to; g++ {
		if n := r.nodes[g]; p.free(g, true) && r.canExpire(n, min(d.ret, r.line.behind[g+1])) {
			p.add(g, r.expiry(n, gone))
			p.bind(d, len(p.added)-1)
			return
		}
	}
	p.fail(d, taken)
}

// fail says that a demand was not met. When a delete that something else has taken
// would do, the versions decide nothing.
func (p *placing) fail(d demand, taken bool) {
	r := p.r
	switch {
	case taken:
		r.unclear = "more reads found nothing than there are deletes to explain it"
	case d.op != none:
		r.t.show(r.h, "lost-write", r.key, d.op, "came after, with no delete between:", r.line.proof[max(d.from, 0)])
	default:
		r.t.show(r.h, "lost-update", r.key, r.nodes[d.from+1].op, "took effect though it expected nothing; there stood", r.nodes[d.from].op)
	}
}

func (p *placing) add(at int, n node) {
	n.ver = p.r.nodes[at].ver
	p.added = append(p.added, gap{node: n, at: at})
}

func (p *placing) bind(d demand, added int) {
	if d.op != none {
		p.bound = append(p.bound, bind{op: d.op, added: added})
	}
}

// acknowledged places the mutations that took effect, at a version that their answer
// did not say and no read shows.
func (p *placing) acknowledged() {
	r := p.r
	after := p.ended()
	for _, i := range r.loose {
		op := &r.h.Ops[i]
		if op.Outcome != history.OK || p.used[i] {
			continue
		}
		if op.F == history.CAS {
			r.unclear = "a CAS was acknowledged without a version"
			continue
		}
		from, to := p.stretch(op.Invoke, op.Return)
		if n := sort.Search(len(after), func(j int) bool { return after[j].ret >= op.Invoke }); n > 0 && after[n-1].at <= to {
			from = max(from, after[n-1].at)
		}
		undone := false // a delete behind it could make way for what comes next
		for from <= to && !p.free(from, op.F == history.Delete) {
			undone = undone || p.free(from, true) && len(r.loose) > 1
			from++
		}
		if from > to && undone {
			r.unclear = "a write without a version may have been deleted at once"
			continue
		}
		if from > to {
			r.t.show(r.h, "lost-write", r.key, i, "took no effect: nothing it could have changed stands to either side of it", none)
			continue
		}
		n := node{sub: between, op: i, inv: op.Invoke, ret: op.Return}
		if op.F == history.Delete {
			n.sub, n.absent = gone, true
		}
		p.used[i] = true
		p.add(from, n)
	}
}

// ended lists, by Return, what was placed so far, each with the last place of those
// that had returned by then: what begins after that must not stand ahead of it.
func (p *placing) ended() []stand {
	r := p.r
	var all []stand
	for _, rd := range r.reads[len(r.reads)-p.blanks:] {
		all = append(all, stand{r.h.Ops[rd.op].Return, int(rd.node)})
	}
	for _, b := range p.bound {
		all = append(all, stand{r.h.Ops[b.op].Return, p.added[b.added].at})
	}
	for _, a := range p.added {
		all = append(all, stand{a.ret, a.at})
	}
	slices.SortFunc(all, func(a, b stand) int { return cmp.Compare(a.ret, b.ret) })
	for i := 1; i < len(all); i++ {
		all[i].at = max(all[i].at, all[i-1].at)
	}
	return all
}

// stand is where something was placed, and when it had returned.
type stand struct {
	ret time.Duration
	at  int
}

// insert puts the added nodes among the others, and binds the reads that they explain.
func (p *placing) insert() {
	r := p.r
	order := make([]int, len(p.added)) // of the added ones
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int {
		a, b := p.added[x], p.added[y]
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.sub, b.sub), cmp.Compare(a.inv, b.inv))
	})
	place := make([]int32, len(order)) // where each comes to stand
	shift := make([]int32, len(r.nodes))
	nodes := make([]node, 0, len(r.nodes)+len(order))
	next := 0
	for g, n := range r.nodes {
		shift[g] = int32(len(nodes))
		nodes = append(nodes, n)
		for ; next < len(order) && p.added[order[next]].at == g; next++ {
			place[order[next]] = int32(len(nodes))
			nodes = append(nodes, p.added[order[next]].node)
		}
	}
	for i := range r.reads {
		r.reads[i].node = shift[r.reads[i].node]
	}
	for _, b := range p.bound {
		r.reads = append(r.reads, reading{op: b.op, node: place[b.added]})
	}
	// Of the deletes in one gap, a read of nothing is behind those that had returned.
	for i := len(r.reads) - len(p.bound) - p.blanks; i < len(r.reads); i++ {
		rd := &r.reads[i]
		for n := rd.node + 1; int(n) < len(nodes) && nodes[n].sub == gone; n++ {
			if nodes[n].ret < r.h.Ops[rd.op].Invoke {
				rd.node = n
			}
		}
	}
	r.nodes = nodes
}
