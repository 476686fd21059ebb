package workload

import (
	"fmt"
	"sync/atomic"

	"fulcrum/jepsen-lite/history"
)

// perSet is how many elements a set gets before the next one is begun: a scan is as
// large as its set.
const perSet = 200

// set adds elements, each a key of its own, and lists them.
type set struct {
	s       Setup
	prefix  string
	scans   int // percent of operations
	element atomic.Int64
}

func newSet(s Setup) Work { return &set{s: s, prefix: "s", scans: 15} }

// newDurability is a set that nobody looks at before the end.
func newDurability(s Setup) Work { return &set{s: s, prefix: "d"} }

func (w *set) Source(i int) Source { return &setClient{client: newClient(w.s, i), w: w} }

// setOf is the prefix of the set that has element n.
func (w *set) setOf(n int64) string { return fmt.Sprintf("%s%d/", w.prefix, n/perSet) }

func (w *set) Final() []Request {
	var out []Request
	for n := int64(0); n <= w.element.Load(); n += perSet {
		out = append(out, Request{F: history.Scan, Key: w.setOf(n)})
	}
	return out
}

type setClient struct {
	client
	w *set
}

func (c *setClient) Next() Step {
	if c.chance(c.w.scans) {
		return Step{Request: Request{F: history.Scan, Node: c.node(), Key: c.w.setOf(c.w.element.Load())}}
	}
	n := c.w.element.Add(1)
	return Step{Request: Request{F: history.Add, Node: c.node(), Key: fmt.Sprintf("%se%d", c.w.setOf(n), n), Value: c.value()}}
}

func (c *setClient) Done(history.Op) {}
