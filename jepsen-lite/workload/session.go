package workload

import (
	"fulcrum/jepsen-lite/history"
)

// sessionLength is how many operations a session has before the client begins another.
const sessionLength = 40

// session is clients that write, and read at one node after another.
type session struct {
	s    Setup
	keys *keys
}

func newSession(s Setup) Work { return &session{s, newKeys("k", slots, perKey)} }

func (w *session) Source(i int) Source { return &sessionClient{client: newClient(w.s, i), w: w} }
func (w *session) Final() []Request    { return w.keys.reads() }

type sessionClient struct {
	client
	w     *session
	done  int
	again string // the key just written: to be read next, elsewhere
}

// Next writes a key and then, mostly, reads it at another node: what a session
// promises and nobody else does.
func (c *sessionClient) Next() Step {
	rq := Request{Node: c.node(), F: history.Read}
	if rq.Key = c.again; rq.Key == "" {
		rq.Key = c.w.keys.take(c.rand.IntN(c.w.keys.slots()))
	}
	if c.again == "" && c.chance(40) {
		rq.F, rq.Value = history.Write, c.value()
	}
	c.again = ""
	if rq.F == history.Write || c.chance(50) {
		c.again = rq.Key
	}
	c.done++
	return Step{Request: rq, Session: 1 + c.id + c.s.Clients*(c.done/sessionLength)}
}

func (c *sessionClient) Done(op history.Op) {}
