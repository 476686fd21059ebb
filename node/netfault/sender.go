package netfault

import (
	"net"
	"os"
	"time"

	"fulcrum/node/fault"
)

const (
	// maxHeld is how many written bytes a Conn holds back before Write blocks:
	// the role of the send buffer of a socket.
	maxHeld = 1 << 20
	// segment is how much is delayed, lost or paced as one.
	segment = 16 << 10
	// linger is how long a closed Conn goes on delivering what it holds.
	linger = 10 * time.Second
)

// chunk is a piece of what was written, and when it may go out.
type chunk struct {
	due   time.Time
	bytes []byte
}

// Write sends p as the link to the peer allows. It returns once p is with the
// connection underneath or held back within the bound; a cut link thus takes some
// bytes and then blocks, until it heals, the deadline passes or Close.
func (c *Conn) Write(p []byte) (int, error) {
	if !c.holding.Load() && c.net.out(c.to()).None() {
		return c.inner.Write(p)
	}
	n := 0
	for {
		taken, wake, room, err := c.accept(p[n:])
		n += taken
		if err != nil || n == len(p) {
			return n, err
		}
		if err := c.waitWrite(wake, room); err != nil {
			return n, err
		}
	}
}

// accept queues as much of p as there is room for. If that is not all, wake tells
// when to try again, and room is when that is due in any case; 0: not known.
func (c *Conn) accept(p []byte) (n int, wake <-chan struct{}, room time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return 0, nil, 0, net.ErrClosed
	case c.failed != nil:
		return 0, nil, 0, c.failed
	case !c.writeDeadline.IsZero() && !time.Now().Before(c.writeDeadline):
		return 0, nil, 0, os.ErrDeadlineExceeded
	}
	if !c.holding.Load() && !c.hold() {
		return 0, nil, 0, net.ErrClosed
	}
	e := c.net.out(c.to())
	for len(p) > 0 && c.queued < maxHeld {
		if room = c.untilRoom(e); room > 0 {
			break
		}
		size := min(len(p), segment, maxHeld-c.queued)
		due := c.due(e, size)
		if e.Drop || due.After(time.Now()) {
			c.net.hitOut(c.to())
		}
		c.queue = append(c.queue, chunk{due: due, bytes: append([]byte(nil), p[:size]...)})
		c.queued += size
		n += size
		p = p[size:]
	}
	if len(p) > 0 {
		wake = c.waker()
	}
	return n, wake, room, nil
}

// untilRoom is how long fewer bytes than unsent wait for the rate. It needs mu.
func (c *Conn) untilRoom(e fault.Effect) time.Duration {
	if e.Rate == 0 || c.unsent == 0 {
		return 0
	}
	full := time.Now().Add(took(c.unsent, e.Rate))
	if c.pacedUntil.Before(full) { // it may be zero
		return 0
	}
	return c.pacedUntil.Sub(full) + 1
}

// took is how long so many bytes take. Seconds as float64: exact enough, and size*1e9
// cannot overflow.
func took(size int, rate int64) time.Duration {
	return time.Duration(float64(size) / float64(rate) * float64(time.Second))
}

// due is the earliest time at which the next segment of this size may go out: after
// its delay, and no faster than the rate. The queue keeps it in order. It needs mu.
func (c *Conn) due(e fault.Effect, size int) time.Time {
	now := time.Now()
	at := now
	if e.Rate > 0 {
		if c.pacedUntil.Before(now) {
			c.pacedUntil = now
		}
		c.pacedUntil = c.pacedUntil.Add(took(size, e.Rate))
		at = c.pacedUntil
	}
	return at.Add(c.net.late(e, retransmission))
}

// waitWrite waits for room, which there is after that long if that is not 0.
func (c *Conn) waitWrite(wake <-chan struct{}, room time.Duration) error {
	c.mu.Lock()
	deadline := c.writeDeadline
	c.mu.Unlock()
	if room <= 0 {
		return c.wait(deadline, wake, nil, nil)
	}
	timer := time.NewTimer(room)
	defer timer.Stop()
	return c.wait(deadline, wake, nil, timer.C)
}

// hold starts the sender. From then on it alone writes to inner, without a
// deadline: what Write has accepted is delivered even when its deadline passes. It
// reports false when the Net is closed. It needs mu.
func (c *Conn) hold() bool {
	c.holding.Store(true)
	if !c.net.start(c) {
		c.holding.Store(false)
		return false
	}
	if !c.writeDeadline.IsZero() {
		_ = c.inner.SetWriteDeadline(time.Time{}) // a broken inner fails in Write
	}
	return true
}

// send delivers the queue, in order, and ends when it is empty. The Conn owns it:
// it ends by Close, at most linger later, and Net.Close awaits it.
func (c *Conn) send() {
	var over <-chan time.Time // set once the Conn is closed
	gone := c.gone
	for {
		head, ok := c.head()
		if !ok {
			return
		}
		changed := c.net.set.Changed()
		e := c.net.out(c.to())
		var due <-chan time.Time
		var timer *time.Timer
		switch {
		case e.Drop: // due when it heals
		default:
			left := time.Until(head.due)
			if left <= 0 || e.None() { // a healed link has nothing in flight for long
				if !c.deliver(head.bytes) {
					return
				}
				continue
			}
			timer = time.NewTimer(left)
			due = timer.C
		}
		stop := false
		select {
		case <-due:
		case <-changed:
		case <-gone:
			gone, over = nil, time.After(linger)
		case <-over:
			stop = true
		case <-c.net.done:
			stop = true
		}
		if timer != nil {
			timer.Stop()
		}
		if stop {
			c.giveUp(net.ErrClosed)
			return
		}
	}
}

// head returns the first chunk to send; with an empty queue it ends holding and
// returns false. The end of a cut stream is a chunk without bytes.
func (c *Conn) head() (chunk, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		return c.queue[0], true
	}
	if c.closed {
		if c.net.out(c.to()).Drop && !c.netClosed() {
			return chunk{}, true
		}
		_ = c.inner.Close() // nobody is left to hear of it
		return chunk{}, false
	}
	c.queue = nil
	c.holding.Store(false)
	if !c.writeDeadline.IsZero() {
		_ = c.inner.SetWriteDeadline(c.writeDeadline) // a broken inner fails in Write
	}
	return chunk{}, false
}

func (c *Conn) netClosed() bool {
	select {
	case <-c.net.done:
		return true
	default:
		return false
	}
}

// deliver writes the head of the queue to inner and takes it off. It reports false
// when the connection is no more.
func (c *Conn) deliver(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	// This may block, in a full socket: Close then sets a deadline, Net.Close closes inner.
	if _, err := c.inner.Write(b); err != nil {
		c.giveUp(err)
		return false
	}
	c.mu.Lock()
	c.queue[0] = chunk{}
	c.queue = c.queue[1:]
	c.queued -= len(b)
	c.broadcast()
	c.mu.Unlock()
	return true
}

// giveUp drops what is held and lets Write fail with err.
func (c *Conn) giveUp(err error) {
	c.mu.Lock()
	c.failed = err
	c.queue, c.queued = nil, 0
	c.broadcast()
	c.mu.Unlock()
	_ = c.inner.Close() // the reason is in err
}
