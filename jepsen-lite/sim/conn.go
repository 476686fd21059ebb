package sim

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// stream is one direction of a connection: bytes written at one end and not yet
// read at the other.
//
// Invariant: len(data) <= StreamBufferBytes; after reset or closedRead nothing
// is added. What was written at or to a frozen host is not read until it is thawed.
type stream struct {
	ends [2]*machine

	mu          sync.Mutex
	data        []byte
	closedRead  bool // the reading end closed: writes fail with EPIPE
	closedWrite bool // the writing end closed: reads drain, then io.EOF
	wasReset    bool // one end's host crashed
	readBy      time.Time
	writeBy     time.Time
	bell        bell // any of the above changed
}

// read waits for data. Errors, first match: this end closed, deadline passed,
// reset, drained after close.
func (s *stream) read(p []byte) (int, error) {
	for {
		s.mu.Lock()
		n, err := 0, error(nil)
		thawed := s.frozen()
		switch {
		case s.closedRead:
			err = net.ErrClosed
		case expired(s.readBy):
			err = os.ErrDeadlineExceeded
		case s.wasReset:
			err = syscall.ECONNRESET
		case len(p) == 0:
		case thawed != nil:
			rung, by := s.bell.wait(), s.readBy
			s.mu.Unlock()
			awaitThaw(rung, thawed, by)
			continue
		case len(s.data) > 0:
			n = copy(p, s.data)
			if s.data = s.data[n:]; len(s.data) == 0 {
				s.data = nil
			}
			s.bell.ring()
		case s.closedWrite:
			err = io.EOF
		default:
			rung, by := s.bell.wait(), s.readBy
			s.mu.Unlock()
			await(rung, by)
			continue
		}
		s.mu.Unlock()
		return n, err
	}
}

// write blocks until all of p fits, and returns how much did before an error.
func (s *stream) write(p []byte) (n int, err error) {
	for {
		s.mu.Lock()
		switch {
		case s.closedWrite:
			err = net.ErrClosed
		case expired(s.writeBy):
			err = os.ErrDeadlineExceeded
		case s.wasReset:
			err = syscall.ECONNRESET
		case s.closedRead && s.frozen() != nil: // what a frozen end does is not known yet
			s.mu.Unlock()
			return n + len(p), nil
		case s.closedRead:
			err = syscall.EPIPE
		}
		if err != nil {
			s.mu.Unlock()
			return n, err
		}
		if room := min(StreamBufferBytes-len(s.data), len(p)); room > 0 {
			s.data = append(s.data, p[:room]...)
			p, n = p[room:], n+room
			s.bell.ring()
		}
		if len(p) == 0 {
			s.mu.Unlock()
			return n, nil
		}
		rung, by := s.bell.wait(), s.writeBy
		s.mu.Unlock()
		await(rung, by)
	}
}

// frozen returns a channel that is closed when a frozen end goes on, nil when none is.
func (s *stream) frozen() <-chan struct{} {
	for _, m := range s.ends {
		if thawed := m.frozen(); thawed != nil {
			return thawed
		}
	}
	return nil
}

// set changes the state and wakes who waits for it.
func (s *stream) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.bell.ring()
}

// conn is one end of a connection.
type conn struct {
	network *Network
	in, out *stream
	local   Addr
	remote  Addr
}

func (c *conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

// Close ends both directions at this end. The peer still reads what was written
// and then io.EOF; what it writes from now on fails with EPIPE.
func (c *conn) Close() error {
	var again bool
	c.in.set(func() {
		again = c.in.closedRead
		c.in.closedRead, c.in.data = true, nil
	})
	if again {
		return c.wrap("close", net.ErrClosed)
	}
	c.out.set(func() { c.out.closedWrite = true })
	c.network.forget(c)
	return nil
}

// CloseWrite ends the outgoing direction only, as net.TCPConn's does.
func (c *conn) CloseWrite() error {
	c.out.set(func() { c.out.closedWrite = true })
	return nil
}

// reset closes this end as a crash does: the peer gets ECONNRESET, and what was
// in flight either way is lost.
func (c *conn) reset() {
	for _, s := range []*stream{c.in, c.out} {
		s.set(func() { s.wasReset, s.data = true, nil })
	}
	c.Close()
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines; they hold for calls already waiting too.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	var err error
	c.in.set(func() {
		if c.in.closedRead {
			err = net.ErrClosed
		}
		c.in.readBy = t
	})
	return c.wrap("set", err)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.in.mu.Lock()
	closed := c.in.closedRead
	c.in.mu.Unlock()
	if closed {
		return c.wrap("set", net.ErrClosed)
	}
	c.out.set(func() { c.out.writeBy = t })
	return nil
}
