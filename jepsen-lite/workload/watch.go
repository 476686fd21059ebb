package workload

import (
	"fmt"
	"sync"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

// watches is clients that write, delete, write pairs of keys in one step and keys that
// expire, while others watch: each of those goes on behind what it was told last, now at
// this node, now at that one, and now and then begins anew.
type watches struct {
	s    Setup
	keys *keys

	mu       sync.Mutex
	watchers []*watchClient // guarded by mu
}

// watchedPrefix is before every key of this workload.
const (
	watchedPrefix = "w"
	pairPrefix    = watchedPrefix + "{"
	expiryPrefix  = watchedPrefix + "x" // of keys that are written once, and expire
)

func newWatch(s Setup) Work { return &watches{s: s, keys: newKeys(watchedPrefix, slots, perKey)} }

func (w *watches) Source(i int) Source {
	if i%3 != 1 {
		return &watchedClient{client: newClient(w.s, i), w: w}
	}
	c := &watchClient{client: newClient(w.s, i)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watchers = append(w.watchers, c)
	return c
}

// Final reads all keys but those that expire, and follows each watch to its end, on every
// node.
func (w *watches) Final() []Request {
	out := []Request{{F: history.Scan, Key: pairPrefix}}
	for slot := range w.keys.slots() {
		out = append(out, Request{F: history.Scan, Key: w.keys.under(slot)})
	}
	for _, c := range w.watchers {
		if c.after != "" {
			out = append(out, Request{F: history.Watch, Key: watchedPrefix, Value: c.after})
		}
	}
	return out
}

// watchedClient changes what is watched.
type watchedClient struct {
	client
	w *watches
}

func (c *watchedClient) Next() Step {
	rq := Request{Node: c.node(), F: history.Write, Key: c.w.keys.take(c.rand.IntN(c.w.keys.slots())), Value: c.value()}
	switch c.draw(50, 15, 25, 10) {
	case 1:
		rq.F, rq.Value = history.Delete, ""
	case 2:
		rq.F, rq.Key = history.Pair, fmt.Sprintf("%s%s}", pairPrefix, rq.Value)
	case 3:
		rq.Key, rq.TTL = expiryPrefix+rq.Value, c.seconds(0.5, 4)
	}
	return Step{Request: rq}
}

func (c *watchedClient) Done(history.Op) {}

// watchClient is one watch.
type watchClient struct {
	client
	at    fulcrum.NodeID
	after string // the position behind what it was told; empty: it begins
}

func (c *watchClient) Next() Step {
	if c.at == "" || c.chance(50) {
		c.at = c.node()
	}
	after := c.after
	if c.chance(3) { // if that fails, it goes on where it was
		after = ""
	}
	return Step{Request: Request{F: history.Watch, Node: c.at, Key: watchedPrefix, Value: after}}
}

func (c *watchClient) Done(op history.Op) {
	switch n := len(op.Elements); {
	case op.Outcome == history.OK && n > 0:
		c.after = op.Elements[n-1].Value
	case op.Code == fulcrum.CodeCompacted: // told that there is no going on: it begins anew
		c.after = ""
	}
	if op.Outcome != history.OK {
		c.at = ""
	}
}
