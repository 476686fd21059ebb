package workload

import (
	"fulcrum/jepsen-lite/history"
)

// staleness has one writer a key, the first half of the clients, and readers of all.
type staleness struct {
	s       Setup
	writers int
	keys    *keys
}

func newStaleness(s Setup) Work {
	n := max(1, min(s.Clients/2, slots))
	return &staleness{s, n, newKeys("t", n, 10*perKey)}
}

func (w *staleness) Source(i int) Source { return &stalenessClient{newClient(w.s, i), w} }
func (w *staleness) Final() []Request    { return w.keys.reads() }

type stalenessClient struct {
	client
	w *staleness
}

func (c *stalenessClient) Next() Step {
	if c.id < c.w.writers && (c.s.Clients > 1 || c.chance(50)) {
		return Step{Request: Request{F: history.Write, Node: c.node(), Key: c.w.keys.take(c.id), Value: c.value()}}
	}
	return Step{Request: Request{F: history.Read, Node: c.node(), Key: c.w.keys.take(c.rand.IntN(c.w.writers))}}
}

func (c *stalenessClient) Done(history.Op) {}
