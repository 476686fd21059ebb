package workload

import (
	"fulcrum/jepsen-lite/history"
)

// blind writes, deletes and reads without looking: what every mode takes. Where all modes
// can, it may create keys as well: write them if nothing is there.
type blind struct {
	s                            Setup
	keys                         *keys
	read, write, deleted, create int // weights
	ttl                          bool
}

// newDelete deletes as often as it writes, and leaves most keys deleted: each is given
// up after a while, and what stands there must stay.
func newDelete(s Setup) Work {
	return &blind{s: s, keys: newKeys("x", 2*slots, 30), read: 30, write: 35, deleted: 35}
}

// newConverge hardly reads: it is the end that counts.
func newConverge(s Setup) Work {
	return &blind{s: s, keys: newKeys("v", 2*slots, perKey), read: 10, write: 70, deleted: 20}
}

// lasting slots of newTTL have keys that never expire. With clocks that jump far there may be no
// other at the end that two nodes can be held to: all may have expired between the answers.
const lasting = 1

// newTTL writes values that expire and looks at them before and after.
func newTTL(s Setup) Work {
	w := &blind{s: s, keys: newKeys("e", 2*slots, 60), read: 70, write: 28, deleted: 2, ttl: true}
	if atomicIn(s) {
		w.write, w.create = 20, 8
	}
	return w
}

func (w *blind) Source(i int) Source { return &blindClient{newClient(w.s, i), w} }
func (w *blind) Final() []Request    { return w.keys.reads() }

type blindClient struct {
	client
	w *blind
}

func (c *blindClient) Next() Step {
	node, slot := c.node(), c.rand.IntN(c.w.keys.slots())
	rq := Request{Node: node, Key: c.w.keys.take(slot)}
	switch c.draw(c.w.read, c.w.write, c.w.deleted, c.w.create) {
	case 0:
		rq.F = history.Read
	case 1:
		rq.F, rq.Value = history.Write, c.value()
	case 2:
		rq.F = history.Delete
	case 3:
		rq.F, rq.Value = history.CAS, c.value()
	}
	if c.w.ttl && slot >= lasting && rq.Value != "" && c.chance(80) {
		rq.TTL = c.seconds(1, 8)
	}
	return Step{Request: rq}
}

func (c *blindClient) Done(history.Op) {}
