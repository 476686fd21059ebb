package netfault

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
)

// Conn is a connection whose two directions suffer the faults of a Net. While
// nothing is broken it costs three atomic loads a call, no lock and no goroutine.
//
// As with any net.Conn its methods may be called from any goroutine, but one
// goroutine at a time reads, and one at a time writes.
//
// Invariants, by which a Conn neither loses nor reorders bytes:
//   - While holding is set, only the sender goroutine writes to inner, and it
//     writes the queue in order; a Write that finds holding set joins the queue.
//     The sender clears holding under mu only when the queue is empty.
//   - What Read took from inner but may not hand out yet is in kept, and the next
//     Read begins there.
type Conn struct {
	inner net.Conn
	net   *Net
	peer  atomic.Pointer[fulcrum.NodeID]
	gone  chan struct{} // closed by Close

	holding atomic.Bool // written bytes are held back; set and cleared under mu

	mu            sync.Mutex
	wake          chan struct{} // closed when anything below changes; nil while nobody waits
	closed        bool
	queue         []chunk // see sender.go
	queued        int     // bytes in queue
	pacedUntil    time.Time
	unsent        int   // how many bytes may wait for a link's rate before Write blocks; 0: as many as may be held
	failed        error // what the sender met; nothing can be written any more
	readDeadline  time.Time
	writeDeadline time.Time

	kept    []byte // the reader's: bytes read while the link was cut
	keptErr error  // the reader's: and what came after them
}

// SetPeer says who is at the other end.
func (c *Conn) SetPeer(id fulcrum.NodeID) { c.peer.Store(&id) }

func (c *Conn) to() fulcrum.NodeID { return *c.peer.Load() }

// NetConn returns the connection underneath, for setting socket options.
func (c *Conn) NetConn() net.Conn { return c.inner }

// LimitUnsent lets a Write to a link with a rate block while so many bytes that were
// written have not left for it, as TCP_NOTSENT_LOWAT does.
func (c *Conn) LimitUnsent(bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsent = bytes
}

// LocalAddr and RemoteAddr are those of the connection underneath.
func (c *Conn) LocalAddr() net.Addr { return c.inner.LocalAddr() }

// RemoteAddr is that of the connection underneath.
func (c *Conn) RemoteAddr() net.Addr { return c.inner.RemoteAddr() }

// Read reads what the peer sent, once the link from it is not cut.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.net.in(c.to()).Drop {
		if err := c.waitRead(); err != nil {
			return 0, err
		}
	}
	if c.kept != nil || c.keptErr != nil {
		if c.isClosed() {
			return 0, net.ErrClosed
		}
		return c.readKept(p)
	}
	n, err := c.inner.Read(p)
	if err != nil && c.isClosed() {
		return 0, net.ErrClosed
	}
	if !c.net.in(c.to()).Drop || n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	// The link was cut while inner was waiting: what came through it, even the
	// end of the stream, arrives when it heals.
	c.net.hitIn(c.to())
	c.kept, c.keptErr = append([]byte(nil), p[:n]...), err
	return c.Read(p)
}

func (c *Conn) readKept(p []byte) (int, error) {
	if len(c.kept) == 0 {
		err := c.keptErr
		c.kept, c.keptErr = nil, nil // inner will say it again if it lasts
		return 0, err
	}
	n := copy(p, c.kept)
	c.kept = c.kept[n:]
	if len(c.kept) == 0 && c.keptErr == nil {
		c.kept = nil
	}
	return n, nil
}

// waitRead waits until the link from the peer may have healed.
func (c *Conn) waitRead() error {
	changed := c.net.set.Changed()
	if !c.net.in(c.to()).Drop {
		return nil
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	deadline, wake := c.readDeadline, c.waker()
	c.mu.Unlock()
	return c.wait(deadline, wake, changed, nil)
}

// waker returns a channel closed at the next broadcast. It needs mu.
func (c *Conn) waker() <-chan struct{} {
	if c.wake == nil {
		c.wake = make(chan struct{})
	}
	return c.wake
}

// broadcast wakes everyone who waits for a change of this Conn. It needs mu.
func (c *Conn) broadcast() {
	if c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
}

// wait returns nil when something may have changed, else why waiting is over.
func (c *Conn) wait(deadline time.Time, wake, changed <-chan struct{}, again <-chan time.Time) error {
	var late <-chan time.Time
	if !deadline.IsZero() {
		left := time.Until(deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		t := time.NewTimer(left)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-wake:
		return nil
	case <-changed:
		return nil
	case <-again:
		return nil
	case <-late:
		return os.ErrDeadlineExceeded
	case <-c.net.done:
		return net.ErrClosed
	}
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline wakes a blocked Read, as net.Conn says.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.readDeadline = t
	c.broadcast()
	return c.inner.SetReadDeadline(t)
}

// SetWriteDeadline wakes a blocked Write, as net.Conn says. Bytes that a Write has
// accepted are delivered even after it, as by a kernel.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.writeDeadline = t
	c.broadcast()
	if c.holding.Load() {
		return nil // the sender restores it
	}
	return c.inner.SetWriteDeadline(t)
}

// Close ends the connection for this side at once. What was written and is still
// held back, and the end of the stream if the link is cut, are delivered in the
// background for at most linger, as a kernel does after close(2); Net.Close ends that.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closed = true
	close(c.gone)
	c.broadcast()
	late := c.holding.Load()
	if !late && c.net.set.Broken() && c.net.out(c.to()).Drop && c.failed == nil {
		c.net.hitOut(c.to())
		late = c.hold() // there is nothing to send but the end
	}
	if late {
		// Wake whoever is inside inner.Read; Read turns it into net.ErrClosed.
		err := c.inner.SetReadDeadline(time.Unix(1, 0))
		// And bound the sender, which may be inside inner.Write.
		err = errors.Join(err, c.inner.SetWriteDeadline(time.Now().Add(linger)))
		c.mu.Unlock()
		return err
	}
	c.mu.Unlock()
	return c.inner.Close()
}
