package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// accept takes connections until ctx ends. It returns an error when the listener
// cannot go on.
func (t *Transport) accept(ctx context.Context) error {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause := minPause
	for {
		c, err := t.o.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close() // it came too late
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept peers: %w", err)
		case err != nil: // out of file descriptors, for one: it passes
			t.log.Warn("cannot accept a peer connection", "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		t.admit(c)
	}
}

// admit shakes hands with c in a goroutine, within the bound on connections.
func (t *Transport) admit(c net.Conn) {
	t.mu.Lock()
	ok := !t.stopping && t.inbound < t.o.MaxConns
	if ok {
		t.inbound++
		t.running.Go(func() { t.receive(c) })
	}
	t.mu.Unlock()
	if !ok {
		t.m.refused.Inc()
		t.log.Warn("closed a peer connection: too many", "remote", addr(c), "limit", t.o.MaxConns)
		_ = c.Close() // nothing was said on it
	}
}

// receive serves c once it has shown where it comes from.
func (t *Transport) receive(c net.Conn) {
	stop := context.AfterFunc(t.life, func() { _ = c.Close() }) // so that welcome ends
	from, err := t.welcome(c)
	stop()
	if err == nil {
		if p := t.peer(from); p == nil {
			err = errors.New("too many nodes were ever named")
		} else if t.serve(t.newWire(p, c, true)) {
			return
		} else {
			err = errStopping
		}
	}
	_ = c.Close() // the reason is in err
	t.mu.Lock()
	t.inbound--
	t.mu.Unlock()
	if errors.Is(err, io.EOF) || t.life.Err() != nil {
		return // a port check, or our own doing
	}
	t.m.refused.Inc()
	t.log.Warn("peer connection refused", "remote", addr(c), "err", err)
}
