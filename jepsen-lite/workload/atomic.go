package workload

import (
	"strconv"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

// counter adds to numbers, append to lists: what must happen exactly once.
type counter struct {
	s    Setup
	keys *keys
	f    history.F
	ids  bool // each addition has a request id
}

func newCounter(s Setup) Work { return &counter{s, newKeys("c", slots, perKey), history.Incr, false} }

// newOnce adds under request ids, so that an unknown outcome can be asked about again.
func newOnce(s Setup) Work { return &counter{s, newKeys("c", slots, perKey), history.Incr, true} }

// newAppend uses a list for less long than a counter: each read returns all of it.
func newAppend(s Setup) Work {
	return &counter{s, newKeys("l", slots, perKey/2), history.Append, false}
}

func (w *counter) Source(i int) Source { return &counterClient{newClient(w.s, i), w} }
func (w *counter) Final() []Request    { return w.keys.reads() }

type counterClient struct {
	client
	w *counter
}

func (c *counterClient) Next() Step {
	rq := Request{Node: c.node(), Key: c.w.keys.take(c.rand.IntN(c.w.keys.slots())), F: c.w.f}
	switch {
	case c.chance(40):
		rq.F = history.Read
	case rq.F == history.Append:
		rq.Value = c.value()
	default:
		rq.Value = strconv.Itoa(1 + c.rand.IntN(9))
		if c.w.ids {
			rq.ID = fulcrum.RequestID(c.value())
		}
	}
	return Step{Request: rq}
}

func (c *counterClient) Done(history.Op) {}
