package membership

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"net"
	"strconv"
	"sync"
	"time"

	"fulcrum"

	"github.com/hashicorp/memberlist"
)

// transport is memberlist's network: the given sockets, with the sender's name
// before everything, and every link's faults obeyed.
//
// memberlist addresses members by IP and port. Ours are host:port strings that
// may be names, so what memberlist gets as IP is a stand-in, and where to send is
// looked up by the member's name in the view.
type transport struct {
	o        *Options
	view     *view
	stats    *metrics
	preamble []byte // ours
	label    []byte // memberlist's header before every packet of this cluster
	standIn  *net.UDPAddr

	packets chan *memberlist.Packet
	streams chan net.Conn
	// dialing ends when the transport does. memberlist's interface passes no
	// context, so it has to be kept.
	dialing context.Context
	stop    context.CancelFunc
	readers sync.WaitGroup

	mu       sync.Mutex
	open     map[*stream]struct{} // both directions
	inbound  int                  // of these, accepted ones: at most maxInbound
	closed   bool
	resolved map[string]resolution // of host names; at most maxMembers
}

// resolution is a host name's address, looked up at a time.
type resolution struct {
	addr net.Addr
	at   time.Time
}

// resolveEvery is how long a host name's address is used before the next lookup.
const resolveEvery = 10 * time.Second

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(o *Options, v *view, stats *metrics) (*transport, error) {
	label, err := memberlist.AddLabelHeaderToPacket([]byte{0}, o.ClusterID)
	if err != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "cluster id %q: %w", o.ClusterID, err)
	}
	t := &transport{
		o: o, view: v, stats: stats,
		preamble: appendPreamble(nil, o.Node),
		label:    label[:len(label)-1],
		standIn:  standIn(o.Advertise),
		packets:  make(chan *memberlist.Packet),
		streams:  make(chan net.Conn),
		open:     map[*stream]struct{}{},
		resolved: map[string]resolution{},
	}
	t.dialing, t.stop = context.WithCancel(context.Background())
	t.readers.Go(t.receive)
	t.readers.Go(t.accept)
	return t, nil
}

// standInPrefix is RFC 6666's discard-only block: no real node is there, and a
// packet sent there by mistake goes nowhere.
var standInPrefix = [8]byte{0x01, 0x00}

// standIn returns the IP and port that memberlist sees for addr: its own IP, or
// one made from the host name, always the same for the same name.
func standIn(addr string) *net.UDPAddr {
	host, portString, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(portString)
	ip := net.ParseIP(host)
	if ip == nil {
		h := fnv.New64a()
		h.Write([]byte(host))
		ip = h.Sum(standInPrefix[:])
	}
	if v4 := ip.To4(); v4 != nil {
		ip = v4
	}
	return &net.UDPAddr{IP: ip, Port: port}
}

// FinalAdvertiseAddr gives memberlist our stand-in.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.standIn.IP, t.standIn.Port, nil
}

// locate returns the host:port of a member.
func (t *transport) locate(a memberlist.Address) (string, error) {
	if addr, ok := t.view.locate(fulcrum.NodeID(a.Name)); ok {
		return addr, nil
	}
	host, _, err := net.SplitHostPort(a.Addr)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip != nil && !bytes.HasPrefix(ip, standInPrefix[:]) {
		return a.Addr, nil
	}
	return "", fulcrum.Errorf(fulcrum.CodeNotFound, "where %s is was not gossiped yet", a.Name)
}

// resolve looks up the packet address of host:port. A name's address is kept for
// resolveEvery, and beyond that when a lookup fails.
func (t *transport) resolve(hostport string) (net.Addr, error) {
	if host, _, _ := net.SplitHostPort(hostport); net.ParseIP(host) != nil {
		return t.o.Resolve(hostport)
	}
	t.mu.Lock()
	last, ok := t.resolved[hostport]
	t.mu.Unlock()
	if ok && time.Since(last.at) < resolveEvery {
		return last.addr, nil
	}
	addr, err := t.o.Resolve(hostport)
	if err != nil {
		if !ok {
			return nil, err
		}
		addr = last.addr
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.resolved) >= maxMembers {
		clear(t.resolved)
	}
	t.resolved[hostport] = resolution{addr, time.Now()}
	return addr, nil
}

// WriteTo sends a packet to an address whose name is unknown.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends a packet, when the faults on the link let it. Errors of
// the socket are reported only where nothing stands in between.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	hostport, err := t.locate(a)
	if err != nil {
		return time.Time{}, err
	}
	to, err := t.resolve(hostport)
	if err != nil {
		return time.Time{}, err
	}
	frame := append(bytes.Clone(t.preamble), b...)
	send := func() error {
		t.stats.sent.Inc()
		_, err := t.o.PacketConn.WriteTo(frame, to)
		return err
	}
	if t.o.SendPacket == nil {
		err = send()
	} else {
		t.o.SendPacket(fulcrum.NodeID(a.Name), func() { send() })
	}
	return time.Now(), err
}

// PacketCh returns what receive takes in.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns what accept takes in.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// receive takes packets in until the socket is closed.
func (t *transport) receive() {
	buf := make([]byte, maxPacket+1)
	for {
		n, from, err := t.o.PacketConn.ReadFrom(buf)
		if err != nil {
			if !t.retry(err) {
				return
			}
			continue
		}
		at := time.Now()
		sender, body, err := cutPreamble(buf[:n])
		if err != nil || n > maxPacket || !bytes.HasPrefix(body, t.label) || len(body) == len(t.label) {
			t.stats.refusedPackets.Inc()
			continue
		}
		if t.o.ReceivePacket != nil && !t.o.ReceivePacket(sender) {
			continue
		}
		t.stats.received.Inc()
		t.view.heard(sender)
		select {
		case t.packets <- &memberlist.Packet{Buf: bytes.Clone(body), From: from, Timestamp: at}:
		case <-t.dialing.Done():
			return
		}
	}
}

// retry reports whether to go on after an error of a socket, after a pause.
func (t *transport) retry(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	t.o.Logger.Debug("gossip socket", "err", err)
	select {
	case <-time.After(100 * time.Millisecond):
		return true
	case <-t.dialing.Done():
		return false
	}
}

// accept takes streams in until the listener is closed. It reads nothing: the
// stream's reader takes the preamble off, under memberlist's deadline.
func (t *transport) accept() {
	for {
		c, err := t.o.Listener.Accept()
		if err != nil {
			if !t.retry(err) {
				return
			}
			continue
		}
		s := &stream{Conn: c, t: t, inbound: true}
		if !t.track(s) {
			t.stats.refusedStreams.Inc()
			c.Close()
			continue
		}
		select {
		case t.streams <- s:
		case <-t.dialing.Done():
			s.Close()
			return
		}
	}
}

// track keeps s for Shutdown to close; false when there are too many, or after it.
func (t *transport) track(s *stream) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || s.inbound && t.inbound >= maxInbound {
		return false
	}
	if s.inbound {
		t.inbound++
	}
	t.open[s] = struct{}{}
	return true
}

func (t *transport) untrack(s *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.open[s]; !ok {
		return
	}
	delete(t.open, s)
	if s.inbound {
		t.inbound--
	}
}

// DialTimeout opens a stream to an address whose name is unknown.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream to a member and says who we are. Everything
// on it must be done within timeout unless memberlist says otherwise: it writes
// its label before it sets a deadline.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	hostport, err := t.locate(a)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadline(t.dialing, deadline)
	defer cancel()
	c, err := t.o.Dial(ctx, fulcrum.NodeID(a.Name), hostport)
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: c, t: t, peer: fulcrum.NodeID(a.Name)}
	if !t.track(s) {
		c.Close()
		return nil, net.ErrClosed
	}
	if err := s.SetDeadline(deadline); err != nil {
		s.Close()
		return nil, err
	}
	if _, err := s.Write(t.preamble); err != nil {
		return nil, err
	}
	return s, nil
}

// Shutdown closes the sockets and every stream, and waits for the readers.
// memberlist's goroutines on the streams end by themselves then.
func (t *transport) Shutdown() error {
	t.stop()
	t.o.Listener.Close()
	t.o.PacketConn.Close()
	t.mu.Lock()
	t.closed = true
	var open []*stream
	for s := range t.open {
		open = append(open, s)
	}
	t.mu.Unlock()
	for _, s := range open {
		s.Close()
	}
	t.readers.Wait()
	return nil
}

// stream is a connection that memberlist reads from one goroutine.
type stream struct {
	net.Conn
	t       *transport
	inbound bool
	named   bool           // inbound: the preamble was read
	peer    fulcrum.NodeID // who is at the other end; inbound: once named
}

// Read takes the preamble off first, if the peer dialed.
func (s *stream) Read(p []byte) (int, error) {
	if s.inbound && !s.named {
		peer, err := readPreamble(s.Conn)
		if err != nil {
			s.t.stats.refusedStreams.Inc()
			s.Close()
			return 0, err
		}
		s.named, s.peer = true, peer
		if c, ok := s.Conn.(interface{ SetPeer(fulcrum.NodeID) }); ok {
			c.SetPeer(peer)
		}
	}
	n, err := s.Conn.Read(p)
	if n > 0 && !s.inbound {
		// Whom we dialed answers only those of its own cluster.
		s.t.view.heard(s.peer)
	}
	return n, err
}

// Write closes the stream when it fails: memberlist does not where it writes its label.
func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err != nil {
		s.Close()
	}
	return n, err
}

// Close ends the stream.
func (s *stream) Close() error {
	s.t.untrack(s)
	return s.Conn.Close()
}
