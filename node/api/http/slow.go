package httpapi

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	nethttp "net/http"

	"fulcrum"
)

// A reader that takes nothing for long is told so, though nothing can be written to it: the
// system's buffer of a watch's connection is kept smaller than it may be, and made larger
// for what is under way and the last word. A reader that comes back finds them behind what
// it was sent before.
const (
	watchBuffer = 128 << 10   // bytes that wait for the reader of a watch
	lastBuffer  = 208 << 10   // and when it is given up: as much as Linux allows anybody
	lastWord    = time.Second // how long writing into that may take
	pieceBytes  = 64 << 10    // written at a time: an event that is larger may end in the middle
)

// conn is a connection of the HTTP port.
type conn struct {
	net.Conn
	watched atomic.Bool // a watch writes
	stalled atomic.Bool // the reader took nothing for long: what is written now is the last
}

// connKey finds, in a request's context, its conn.
type connKey struct{}

// watch makes ready for a watch, which calls leave at its end.
func (c *conn) watch() (leave func()) {
	c.resize(watchBuffer)
	c.stalled.Store(false)
	c.watched.Store(true)
	return func() { c.watched.Store(false) }
}

func (c *conn) resize(bytes int) (ok bool) {
	b, ok := c.Conn.(interface{ SetWriteBuffer(int) error })
	return ok && b.SetWriteBuffer(bytes) == nil
}

// Write writes b. The deadline of a watch is that of its reader's patience: when it has
// passed, b is written nevertheless, if there is a way.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err == nil || !c.watched.Load() || !errors.Is(err, os.ErrDeadlineExceeded) || c.stalled.Swap(true) || !c.resize(lastBuffer) {
		return n, err
	}
	if err := c.Conn.SetWriteDeadline(time.Now().Add(lastWord)); err != nil {
		return n, err
	}
	rest, err := c.Conn.Write(b[n:])
	return n + rest, err
}

// CloseWrite is what net/http ends a connection with, so that the other side reads the rest.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// listener accepts conns.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// send writes b, which ends with an event, and fails when the reader takes nothing for
// long: with err set when nothing more can be said on this connection.
func (s *events) send(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), pieceBytes)
		if s.err = s.piece(b[:n]); s.err != nil {
			return s.gone(s.err)
		}
		if b = b[n:]; s.slow() {
			if len(b) > 0 {
				s.err = os.ErrDeadlineExceeded // in the middle of an event
			}
			return s.gone(os.ErrDeadlineExceeded)
		}
	}
	return nil
}

// slow reports whether the reader was given up, and what is said now is the last.
func (s *events) slow() bool { return s.under != nil && s.under.stalled.Load() }

// piece writes b so that it is on its way.
func (s *events) piece(b []byte) error {
	patience := s.patience
	if s.slow() {
		patience = lastWord
	}
	err := s.conn.SetWriteDeadline(time.Now().Add(patience)) // in the place of the server's own
	if errors.Is(err, nethttp.ErrNotSupported) {
		err = nil
	}
	if err == nil {
		_, err = s.w.Write(b)
	}
	if err == nil {
		err = s.conn.Flush()
	}
	return err
}

func (s *events) gone(err error) error {
	var ne net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		return fulcrum.Errorf(fulcrum.CodeOverloaded, "the reader took nothing for %s", s.patience).
			WithHint("nothing is missed: go on behind the last position, and read faster, or a smaller range")
	}
	return fulcrum.Errorf(fulcrum.CodeUnavailable, "the reader is gone: %w", err)
}
