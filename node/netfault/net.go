// Package netfault makes net.Conn, net.Listener and packets suffer what a
// fault.Set says of this node's links, as close to a real network as can be done
// above the socket: on a cut link a stream neither loses nor reorders bytes, it
// just stops until the link heals or a deadline passes; datagrams vanish.
//
// A Net wraps the network of one node in one layer. Both ends of a link may
// wrap; drop then holds at either, so a rule known to only one of them still
// cuts. Delay, loss and rate are applied by the sender only, or they would count
// twice. Start reading at Net, then conn.go (reading, deadlines, closing) and
// sender.go (how written bytes are held back).
package netfault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/node/fault"
)

const (
	// retransmission is how late a lost segment arrives: the smallest
	// retransmission timeout of Linux (TCP_RTO_MIN, 200 ms).
	retransmission = 200 * time.Millisecond
	// maxRetransmissions bounds how often one segment is lost in a row; the
	// timeout doubles each time (RFC 6298, section 5.5).
	maxRetransmissions = 5
	// synRetransmission is the same for connecting (RFC 6298, section 2.1).
	synRetransmission = time.Second
)

// Net is the network of one node in one layer. Its methods may be called from any
// goroutine.
type Net struct {
	self  fulcrum.NodeID
	set   *fault.Set
	layer fault.Layer
	done  chan struct{} // closed by Close

	mu      sync.Mutex
	rnd     *rand.Rand // guarded by mu
	closed  bool
	packets packetQueue   // datagrams on their way, see packet.go
	holders map[*Conn]int // how many senders of each run: one, or two while one takes over from the last

	running sync.WaitGroup // senders of conns, and the one of packets
}

// New returns the network of self in one layer. rnd decides about loss and jitter;
// New takes it over, nil: one seeded by the operating system.
func New(self fulcrum.NodeID, set *fault.Set, layer fault.Layer, rnd *rand.Rand) *Net {
	if rnd == nil {
		rnd = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return &Net{self: self, set: set, layer: layer, rnd: rnd, done: make(chan struct{}), holders: make(map[*Conn]int)}
}

// Close drops whatever is still held back, closes the connections that it was held
// back for, and waits for the goroutines that held it. Close it last, after those
// who use it: a closed Conn may still be delivering (see Conn.Close).
func (n *Net) Close() error {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.done)
	}
	held := make([]*Conn, 0, len(n.holders))
	for c := range n.holders {
		held = append(held, c)
	}
	n.mu.Unlock()
	var errs []error
	for _, c := range held {
		if err := c.inner.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	n.running.Wait()
	return errors.Join(errs...)
}

// start runs the sender of c, which Close waits for. It reports false, without
// running it, once Close was called.
func (n *Net) start(c *Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.holders[c]++
	n.running.Go(func() {
		c.send()
		n.mu.Lock()
		if n.holders[c]--; n.holders[c] == 0 {
			delete(n.holders, c)
		}
		n.mu.Unlock()
	})
	return true
}

// out and in are what the two directions between this node and peer suffer. An
// empty peer is one not known yet: its link is healthy.
func (n *Net) out(peer fulcrum.NodeID) fault.Effect {
	if peer == "" || !n.set.Broken() {
		return fault.Effect{}
	}
	return n.set.Link(n.self, peer, n.layer)
}

func (n *Net) in(peer fulcrum.NodeID) fault.Effect {
	if peer == "" || !n.set.Broken() {
		return fault.Effect{}
	}
	return n.set.Link(peer, n.self, n.layer)
}

// hitOut and hitIn count that what is broken in one direction acted.
func (n *Net) hitOut(peer fulcrum.NodeID) { n.set.HitLink(n.self, peer, n.layer) }
func (n *Net) hitIn(peer fulcrum.NodeID)  { n.set.HitLink(peer, n.self, n.layer) }

// late draws how late a segment arrives under e; rto is the first retransmission
// timeout.
func (n *Net) late(e fault.Effect, rto time.Duration) time.Duration {
	d := e.Delay
	if e.Jitter == 0 && e.Loss == 0 {
		return d
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.Jitter > 0 {
		d += time.Duration(n.rnd.Int64N(int64(e.Jitter)))
	}
	for i := 0; i < maxRetransmissions && e.Loss > 0 && n.rnd.Float64() < e.Loss; i++ {
		d += rto << i
	}
	return d
}

// Listener wraps l: its connections are *Conn and healthy until SetPeer says who
// is at the other end.
func (n *Net) Listener(l net.Listener) net.Listener { return &listener{Listener: l, net: n} }

type listener struct {
	net.Listener
	net *Net
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.net.Conn(c, ""), nil
}

// Conn wraps a connection to peer.
func (n *Net) Conn(c net.Conn, peer fulcrum.NodeID) net.Conn {
	w := &Conn{inner: c, net: n, gone: make(chan struct{})}
	w.SetPeer(peer)
	return w
}

// Dial calls dial and wraps its connection. While either direction between this
// node and peer is cut it waits, as for a lost SYN or SYN-ACK, until the link
// heals, ctx ends or the Net is closed.
func (n *Net) Dial(ctx context.Context, peer fulcrum.NodeID, dial func(ctx context.Context) (net.Conn, error)) (net.Conn, error) {
	if err := n.connect(ctx, peer); err != nil {
		return nil, fmt.Errorf("dial %s: %w", peer, err)
	}
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	return n.Conn(c, peer), nil
}

// connect waits as long as a SYN would.
func (n *Net) connect(ctx context.Context, peer fulcrum.NodeID) error {
	if !n.set.Broken() {
		return nil
	}
	if d := n.late(n.out(peer), synRetransmission); d > 0 {
		n.hitOut(peer)
		if err := n.pause(ctx, d); err != nil {
			return err
		}
	}
	for counted := false; ; {
		changed := n.set.Changed()
		out, in := n.out(peer).Drop, n.in(peer).Drop
		switch {
		case !out && !in:
			return nil
		case counted:
		case out: // the SYN
			n.hitOut(peer)
		default: // the answer to it
			n.hitIn(peer)
		}
		counted = true
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.done:
			return net.ErrClosed
		}
	}
}

func (n *Net) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.done:
		return net.ErrClosed
	}
}
