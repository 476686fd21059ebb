package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of the simulated network.
const (
	StreamBufferBytes = 1 << 20 // each way of a connection; Write blocks when it is full
	AcceptBacklog     = 128     // connections of one listener not yet accepted; Dial waits when it is full
	PacketQueue       = 512     // packets of one socket not yet read; more are dropped
	MaxPacketBytes    = 65507   // as UDP over IPv4

	firstEphemeralPort = 49152
)

// Network is a network in memory. Addresses are names, "n1:7201"; a host exists
// as soon as somebody listens or dials there. It delivers at once and loses
// nothing but what overflows a packet queue: failures are for the wrappers of
// node/netfault, crashes for CloseHost, hosts that stand still for Freeze.
//
// It starts no goroutine, and nobody waits while holding one of its mutexes:
// every wait is a select on a channel made by the waiter, so a bubble of
// testing/synctest sees it as durably blocked.
type Network struct {
	mu        sync.Mutex // guards what follows; held for map accesses only
	listeners map[string]*listener
	packets   map[string]*packetConn
	conns     map[string]map[*conn]struct{} // by local host; open ones
	nextPort  int
	machines  map[string]*machine // by host
	twice     float64             // probability; see Duplicate
	rand      *rand.Rand          // set with twice

	duplicated atomic.Int64
}

// NewNetwork returns a network on which nobody listens.
func NewNetwork() *Network {
	return &Network{
		listeners: map[string]*listener{},
		packets:   map[string]*packetConn{},
		conns:     map[string]map[*conn]struct{}{},
		nextPort:  firstEphemeralPort,
		machines:  map[string]*machine{},
	}
}

// Addr is an address of a Network. Its network is "tcp" or "udp", because
// libraries look at that to tell kinds of errors.
type Addr struct{ network, hostport string }

// Network returns "tcp" or "udp".
func (a Addr) Network() string { return a.network }

// String returns host:port.
func (a Addr) String() string { return a.hostport }

func (a Addr) host() string {
	host, _, _ := net.SplitHostPort(a.hostport)
	return host
}

// Resolve returns the packet address of host:port without looking anything up.
func (n *Network) Resolve(addr string) (net.Addr, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, err
	}
	return Addr{"udp", addr}, nil
}

// Listen accepts connections at addr. Port 0 takes a free one. An address that
// is taken gives EADDRINUSE.
func (n *Network) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, err := n.bind(addr, func(a string) bool { return n.listeners[a] != nil })
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: Addr{"tcp", addr}, Err: err}
	}
	l := &listener{network: n, addr: Addr{"tcp", addr}}
	l.machine = n.machine(l.addr.host())
	n.listeners[addr] = l
	return l, nil
}

// ListenPacket opens a socket for packets at addr, as Listen does for
// connections. WriteTo never blocks; packets to nobody, or to a full queue, are
// lost silently, as with UDP.
func (n *Network) ListenPacket(addr string) (net.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, err := n.bind(addr, func(a string) bool { return n.packets[a] != nil })
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Addr: Addr{"udp", addr}, Err: err}
	}
	p := &packetConn{network: n, addr: Addr{"udp", addr}}
	p.machine = n.machine(p.addr.host())
	n.packets[addr] = p
	return p, nil
}

// bind returns the address to listen at: addr, or a free port of its host when
// its port is 0. n.mu is held.
func (n *Network) bind(addr string, taken func(string) bool) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, err
	}
	if port != "0" {
		if taken(addr) {
			return addr, syscall.EADDRINUSE
		}
		return addr, nil
	}
	for range 1<<16 - firstEphemeralPort {
		if free := net.JoinHostPort(host, n.ephemeralPort()); !taken(free) {
			return free, nil
		}
	}
	return addr, syscall.EADDRINUSE
}

// ephemeralPort returns the next port for a dialer. n.mu is held.
func (n *Network) ephemeralPort() string {
	p := n.nextPort
	if n.nextPort++; n.nextPort == 1<<16 {
		n.nextPort = firstEphemeralPort
	}
	return strconv.Itoa(p)
}

// Dial is DialFrom the host "client".
func (n *Network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return n.DialFrom(ctx, "client", addr)
}

// DialFrom connects host to the listener at addr. It fails with ECONNREFUSED
// when nobody listens there, and waits until ctx ends while that listener's
// backlog is full, or host is frozen. The connection belongs to host: CloseHost(host)
// ends it.
func (n *Network) DialFrom(ctx context.Context, host, addr string) (net.Conn, error) {
	err := ctx.Err()
	for err == nil {
		if !n.Moving(ctx, host) {
			err = ctx.Err()
			break
		}
		var c *conn
		var full <-chan struct{}
		if c, full, err = n.connect(host, addr); err != nil {
			break
		}
		if full == nil {
			return c, nil
		}
		select {
		case <-full:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = os.ErrDeadlineExceeded
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: Addr{"tcp", addr}, Err: err}
}

// connect queues a new connection at the listener of addr. When its backlog is
// full it returns a channel that is closed once that may have changed.
func (n *Network) connect(host, addr string) (c *conn, full <-chan struct{}, err error) {
	n.mu.Lock()
	l := n.listeners[addr]
	local := Addr{"tcp", net.JoinHostPort(host, n.ephemeralPort())}
	dialer := n.machine(host)
	n.mu.Unlock()
	if l == nil {
		return nil, nil, syscall.ECONNREFUSED
	}

	ends := [2]*machine{dialer, l.machine}
	there, back := &stream{ends: ends}, &stream{ends: ends}
	c = &conn{network: n, in: back, out: there, local: local, remote: l.addr}
	peer := &conn{network: n, in: there, out: back, local: l.addr, remote: local}
	// Known to CloseHost before anybody can use them, so a crash misses none.
	n.remember(c)
	n.remember(peer)
	full, err = l.offer(peer)
	if full != nil || err != nil {
		n.forget(c)
		n.forget(peer)
	}
	return c, full, err
}

func (n *Network) remember(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	host := c.local.host()
	if n.conns[host] == nil {
		n.conns[host] = map[*conn]struct{}{}
	}
	n.conns[host][c] = struct{}{}
}

func (n *Network) forget(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	host := c.local.host()
	if delete(n.conns[host], c); len(n.conns[host]) == 0 {
		delete(n.conns, host)
	}
}

// CloseHost is what the crash of a process does to its sockets: every listener,
// connection and packet socket of host is closed, its peers read and write
// ECONNRESET at once, and what was in flight is lost. The host may listen again, and
// is not frozen any more.
func (n *Network) CloseHost(host string) {
	n.mu.Lock()
	var listeners []*listener
	var packets []*packetConn
	var conns []*conn
	for _, l := range n.listeners {
		if l.addr.host() == host {
			listeners = append(listeners, l)
		}
	}
	for _, p := range n.packets {
		if p.addr.host() == host {
			packets = append(packets, p)
		}
	}
	for c := range n.conns[host] {
		conns = append(conns, c)
	}
	n.mu.Unlock()

	for _, l := range listeners {
		l.Close()
	}
	for _, p := range packets {
		p.Close()
	}
	for _, c := range conns {
		c.reset()
	}
	n.Thaw(host)
}

// listener is the net.Listener of a Network.
type listener struct {
	network *Network
	machine *machine
	addr    Addr

	mu      sync.Mutex
	backlog []*conn
	closed  bool
	bell    bell
}

// offer adds c to the backlog, or returns a channel to wait for when it is full.
func (l *listener) offer(c *conn) (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, syscall.ECONNREFUSED
	case len(l.backlog) >= AcceptBacklog:
		return l.bell.wait(), nil
	}
	l.backlog = append(l.backlog, c)
	l.bell.ring()
	return nil, nil
}

// Accept waits for the next connection, and fails with net.ErrClosed once the
// listener is closed.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
		}
		thawed := l.machine.frozen()
		if len(l.backlog) > 0 && thawed == nil {
			c := l.backlog[0]
			l.backlog = l.backlog[1:]
			l.bell.ring()
			l.mu.Unlock()
			return c, nil
		}
		rung := l.bell.wait()
		l.mu.Unlock()
		awaitThaw(rung, thawed, time.Time{})
	}
}

// Close frees the address and resets the connections nobody accepted.
func (l *listener) Close() error {
	l.network.mu.Lock()
	if l.network.listeners[l.addr.hostport] == l {
		delete(l.network.listeners, l.addr.hostport)
	}
	l.network.mu.Unlock()

	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	l.closed = true
	pending := l.backlog
	l.backlog = nil
	l.bell.ring()
	l.mu.Unlock()
	for _, c := range pending {
		c.reset()
	}
	return nil
}

// Addr returns the address as it was given to Listen, with the port chosen.
func (l *listener) Addr() net.Addr { return l.addr }

// bell wakes everybody who waits for a change. Its owner's mutex guards it. The
// channel is made by whoever waits, so it belongs to the waiter's bubble.
type bell struct{ ch chan struct{} }

func (b *bell) wait() <-chan struct{} {
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// await blocks until rung or until the deadline at (zero: none) has passed. It
// does not say which: the caller looks again under its mutex.
func await(rung <-chan struct{}, at time.Time) {
	if at.IsZero() {
		<-rung
		return
	}
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-rung:
	case <-t.C:
	}
}

// expired reports whether the deadline at has come.
func expired(at time.Time) bool { return !at.IsZero() && !time.Now().Before(at) }

var (
	_ net.Listener   = (*listener)(nil)
	_ net.PacketConn = (*packetConn)(nil)
	_ net.Conn       = (*conn)(nil)
)

// String shows how many sockets are open, for tests that look for leaks.
func (n *Network) String() string {
	listeners, packets, conns := n.Open()
	return fmt.Sprintf("%d listeners, %d packet sockets, %d connection ends", listeners, packets, conns)
}

// Open counts what is open now; both ends of a connection count.
func (n *Network) Open() (listeners, packets, conns int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.conns {
		conns += len(m)
	}
	return len(n.listeners), len(n.packets), conns
}
