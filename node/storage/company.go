package storage

import (
	"sync/atomic"
	"time"
)

// company tells how many appends usually wait for their sync at the same time, and
// with it how long the log may rest between two syncs. Each sync costs processor time
// and the disk's, whatever it holds: where several groups write at once, a moment's
// rest lets the next sync hold more of them. An append that comes alone never waits.
type company struct {
	waiting atomic.Int64
	usual   atomic.Int64 // moving average of the others met by an append, in 1/256
}

const (
	restEach = 500 * time.Microsecond // for each other that is usually met
	restMost = 500 * time.Microsecond
)

func (c *company) enter() {
	met := c.waiting.Add(1) - 1
	usual := c.usual.Load()
	c.usual.CompareAndSwap(usual, usual+(met*256-usual)/16) // one that is lost does no harm
}

func (c *company) leave() { c.waiting.Add(-1) }

// interval is pebble's WALMinSyncInterval.
func (c *company) interval() time.Duration {
	return min(restMost, time.Duration(c.usual.Load())*restEach/256)
}
