package workload

import (
	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

const (
	slots  = 4   // keys in use at a time
	perKey = 300 // operations of each: within what the slow checker can decide
)

// register is the workload of reads, writes, deletes and compare-and-sets.
type register struct {
	s    Setup
	keys *keys
	cas  bool
}

func newRegister(s Setup) Work {
	return &register{s: s, keys: newKeys("r", slots, perKey), cas: atomicIn(s)}
}

// atomicIn reports whether every mode of the run can read and write in one step.
func atomicIn(s Setup) bool {
	for _, m := range s.Modes {
		if m == consistency.Quorum {
			return false
		}
	}
	return true
}

func (w *register) Source(i int) Source {
	return &registerClient{client: newClient(w.s, i), w: w, seen: map[string]fulcrum.Version{}}
}

func (w *register) Final() []Request { return w.keys.reads() }

type registerClient struct {
	client
	w    *register
	seen map[string]fulcrum.Version // the version last read at each key in use
}

func (c *registerClient) Next() Step {
	rq := Request{Node: c.node(), Key: c.w.keys.take(c.rand.IntN(c.w.keys.slots()))}
	cas := 0
	if c.w.cas {
		cas = 15
	}
	switch c.draw(50, 30, 5, cas) {
	case 0:
		rq.F = history.Read
	case 1:
		rq.F, rq.Value = history.Write, c.value()
	case 2:
		rq.F = history.Delete
	case 3:
		rq.F, rq.Value, rq.Expect = history.CAS, c.value(), c.seen[rq.Key]
	}
	return Step{Request: rq}
}

func (c *registerClient) Done(op history.Op) {
	if op.Outcome != history.OK {
		return
	}
	if len(c.seen) > 4*slots { // keys are used for a while and never again
		clear(c.seen)
	}
	switch {
	case op.F == history.Read && !op.Found, op.F == history.Delete:
		delete(c.seen, op.Key) // the next compare-and-set expects nothing there
	default:
		c.seen[op.Key] = op.Version
	}
}
