package resp

import (
	"math/rand/v2"
	"sync"
)

// cursors maps the numbers that SCAN hands out to the places where scans go on.
// There are at most limit of them; the one that was used least recently goes first.
// A cursor may be used again (a client that retries), and the one before it is
// dropped once it was, so a running scan holds two.
type cursors struct {
	limit int

	mu          sync.Mutex
	byID        map[uint64]*cursor
	first, last *cursor // least and most recently used
}

type cursor struct {
	id, before uint64
	keyspace   uint32
	after      []byte
	prev, next *cursor
}

func newCursors(limit int) *cursors {
	return &cursors{limit: limit, byID: map[uint64]*cursor{}}
}

// get returns where the cursor goes on.
func (cs *cursors) get(id uint64, keyspace uint32) (after []byte, ok bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.byID[id]
	if c == nil || c.keyspace != keyspace {
		return nil, false
	}
	cs.unlink(c)
	cs.push(c)
	if c.before != 0 {
		cs.drop(cs.byID[c.before])
		c.before = 0
	}
	return c.after, true
}

// put makes the cursor that follows before (0: it is a scan's first) at after. Its
// number fits 53 bits, since some clients read it as a floating point number.
func (cs *cursors) put(before uint64, keyspace uint32, after []byte) uint64 {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if len(cs.byID) >= cs.limit {
		cs.drop(cs.first)
	}
	id := uint64(0)
	for id == 0 || cs.byID[id] != nil {
		id = rand.Uint64N(1 << 53)
	}
	c := &cursor{id: id, before: before, keyspace: keyspace, after: after}
	cs.byID[id] = c
	cs.push(c)
	return id
}

func (cs *cursors) drop(c *cursor) {
	if c != nil {
		cs.unlink(c)
		delete(cs.byID, c.id)
	}
}

func (cs *cursors) push(c *cursor) {
	c.prev, c.next = cs.last, nil
	if cs.last != nil {
		cs.last.next = c
	} else {
		cs.first = c
	}
	cs.last = c
}

func (cs *cursors) unlink(c *cursor) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		cs.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		cs.last = c.prev
	}
	c.prev, c.next = nil, nil
}
