package consistency

import (
	"sync/atomic"
	"time"

	"fulcrum"
)

// DefaultMaxAhead is how far in the future a version may lie before a clock
// refuses it: one node with a wrong clock must not drag all others along.
const DefaultMaxAhead = 500 * time.Millisecond

// maxWall is the last millisecond that fits a Version, in the year 10889.
const maxWall = 1<<48 - 1

// Clock is a hybrid logical clock (Kulkarni, Demirbas, Madappa, Avva and Leone
// 2014): as close to the wall clock as possible, never going back, and always
// above what it was shown. Its methods may be called from any goroutine.
//
// Invariant: last never falls, and is at least every Time that Next returned or
// that Observe and Raise accepted. Next stores last+1 or more in one
// compare-and-swap, so no two calls return the same Time. The 16-bit logical
// counter is the low part of the same number: when it overflows it carries into
// the milliseconds, and the order still holds.
type Clock struct {
	now      func() time.Time
	actor    uint32
	maxAhead time.Duration
	last     atomic.Uint64
}

// NewClock makes a clock over now, whose versions carry actor. A maxAhead of 0
// is DefaultMaxAhead.
func NewClock(now func() time.Time, actor uint32, maxAhead time.Duration) *Clock {
	if maxAhead <= 0 {
		maxAhead = DefaultMaxAhead
	}
	return &Clock{now: now, actor: actor, maxAhead: maxAhead}
}

func (c *Clock) wall() uint64 {
	return uint64(min(max(c.now().UnixMilli(), 0), maxWall)) << 16
}

// Next returns a version newer than every one that c returned or accepted.
func (c *Clock) Next() fulcrum.Version {
	wall := c.wall()
	for {
		last := c.last.Load()
		next := max(wall, last+1)
		if c.last.CompareAndSwap(last, next) {
			return fulcrum.Version{Time: next, Actor: c.actor}
		}
	}
}

// Observe raises c to v, or refuses v with CodeInvalid when it lies more than
// maxAhead in the future. What is not above c is always accepted.
func (c *Clock) Observe(v fulcrum.Version) error {
	if v.Time <= c.last.Load() {
		return nil
	}
	if ahead := v.Wall().Sub(time.UnixMilli(int64(c.wall() >> 16))); ahead > c.maxAhead {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "version %s is %v ahead of this node's clock, the bound is %v", v, ahead, c.maxAhead).
			WithHint("check the clocks of both nodes")
	}
	c.Raise(v)
	return nil
}

// Raise puts c above v, however far ahead v is: the floor that a new epoch sets.
func (c *Clock) Raise(v fulcrum.Version) {
	for {
		last := c.last.Load()
		if v.Time <= last || c.last.CompareAndSwap(last, v.Time) {
			return
		}
	}
}
