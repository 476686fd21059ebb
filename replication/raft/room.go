package raft

import (
	"sync/atomic"
	"time"
)

// Room is what the Changes of one node may keep together beyond their own bounds, for
// watches that read them: what is written at once can be more than a Changes keeps, and a
// watch that keeps up must be told all of it.
type Room struct{ free atomic.Int64 }

// RoomBytes is a node's Room: one shard can have half of it, four of the largest requests.
const RoomBytes = 64 << 20

// NewRoom returns an empty room of so many bytes.
func NewRoom(bytes int) *Room {
	r := &Room{}
	r.free.Store(int64(bytes))
	return r
}

// take lends more to who has lent already, unless that were more than is left for all
// others: so one shard, whose watches are slow, does not take it all.
func (r *Room) take(lent, more int) bool {
	for {
		free := r.free.Load()
		if int64(lent+more) > free-int64(more) {
			return false
		}
		if r.free.CompareAndSwap(free, free-int64(more)) {
			return true
		}
	}
}

func (r *Room) give(back int) { r.free.Add(int64(back)) }

// readLately is for how long a Changes that a watch asked counts as watched. A watch waits for
// half of it at the most before it reads again.
const readLately = 10 * time.Second

// attend notes that a watch is here.
func (c *Changes) attend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastRead = time.Now()
}

// watched reports whether a watch was here lately. The caller holds mu.
func (c *Changes) watched() bool { return !c.lastRead.IsZero() && time.Since(c.lastRead) < readLately }

// over is how much more there is than c keeps by itself, in bytes. The caller holds mu.
func (c *Changes) over() int {
	return max(0, c.size-c.maxSize, (c.events-c.maxEvents)*eventOverhead)
}

// trim forgets the oldest records until the rest is within bounds: its own, and while it is
// watched what the room has. The newest record stays, whatever its size: who waits for it
// has not seen it yet. The caller holds mu.
func (c *Changes) trim() {
	watched := c.watched() && !c.closed
	if !watched {
		c.giveBack(c.lent)
	}
	for c.head < len(c.records) {
		over := c.over()
		if over <= c.lent {
			c.giveBack(c.lent - over)
			break
		}
		if watched && c.room.take(c.lent, over-c.lent) {
			c.lent = over
			break
		}
		if c.head+1 == len(c.records) {
			break
		}
		c.drop()
	}
	if c.head > 64 && c.head > len(c.records)/2 {
		n := copy(c.records, c.records[c.head:])
		clear(c.records[n:])
		c.records, c.head = c.records[:n], 0
	}
	if c.lent > 0 && !c.sweeping {
		c.sweeping = true
		time.AfterFunc(readLately, c.sweep)
	}
}

// sweep gives back what was lent when the watches have gone.
func (c *Changes) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweeping = false
	c.trim()
}

// Close gives back what was lent: nobody reads these changes again.
func (c *Changes) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.giveBack(c.lent)
}

func (c *Changes) giveBack(bytes int) {
	c.lent -= bytes
	c.room.give(bytes)
}
