package replicationtest

import (
	"fmt"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

// maxAhead is how far a version may be ahead of the wall clock in tests.
const maxAhead = time.Minute

// Clock is a hybrid logical clock over an injected wall clock.
type Clock struct {
	now   func() time.Time
	actor uint32
	mu    sync.Mutex
	last  uint64
}

// NewClock returns a clock that reads now and stamps with actor.
func NewClock(now func() time.Time, actor uint32) *Clock { return &Clock{now: now, actor: actor} }

// Next implements replication.Clock.
func (c *Clock) Next() fulcrum.Version {
	wall := uint64(c.now().UnixMilli()) << 16
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last+1, wall)
	return fulcrum.Version{Time: c.last, Actor: c.actor}
}

// Observe implements replication.Clock.
func (c *Clock) Observe(v fulcrum.Version) error {
	if v.Wall().Sub(c.now()) > maxAhead {
		return fmt.Errorf("version %s is %s ahead of the clock", v, v.Wall().Sub(c.now()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, v.Time)
	return nil
}

var _ replication.Clock = (*Clock)(nil)
