package workload

import (
	"fulcrum/jepsen-lite/history"
)

// switching is registers and a set at once; that the mode changes under them is the
// nemesis' work, which the runner adds.
type switching struct {
	s              Setup
	registers, set Work
}

func newSwitch(s Setup) Work {
	return &switching{s, &register{s: s, keys: newKeys("r", slots, perKey)}, newSet(s)} // without compare-and-sets: not all modes have them
}

func (w *switching) Source(i int) Source {
	return &switchingClient{of: [2]Source{w.registers.Source(i), w.set.Source(w.s.Clients + i)}} // whose values are others
}

func (w *switching) Final() []Request { return append(w.registers.Final(), w.set.Final()...) }

type switchingClient struct {
	of   [2]Source
	turn int
}

func (c *switchingClient) Next() Step {
	c.turn = 1 - c.turn
	return c.of[c.turn].Next()
}

func (c *switchingClient) Done(op history.Op) { c.of[c.turn].Done(op) }
