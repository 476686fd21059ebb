package sim

import (
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// packet is one datagram waiting to be read.
type packet struct {
	from Addr
	data []byte
}

// held is a packet that waits for its sender's host to go on.
type held struct {
	to   string
	data []byte
}

// packetConn is the net.PacketConn of a Network.
//
// Invariant: len(queue) <= PacketQueue, len(held) <= PacketQueue.
type packetConn struct {
	network *Network
	machine *machine
	addr    Addr

	mu      sync.Mutex
	queue   []packet
	held    []held // written while this host is frozen
	closed  bool
	readBy  time.Time
	writeBy time.Time
	bell    bell
}

func (c *packetConn) wrap(op string, to net.Addr, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: "udp", Source: c.addr, Addr: to, Err: err}
}

// ReadFrom waits for a packet; what does not fit p is lost, as with UDP.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		switch {
		case c.closed:
			c.mu.Unlock()
			return 0, nil, c.wrap("read", nil, net.ErrClosed)
		case expired(c.readBy):
			c.mu.Unlock()
			return 0, nil, c.wrap("read", nil, os.ErrDeadlineExceeded)
		case len(c.queue) > 0 && c.machine.frozen() == nil:
			next := c.queue[0]
			c.queue = c.queue[1:]
			c.mu.Unlock()
			return copy(p, next.data), next.from, nil
		}
		rung, by, thawed := c.bell.wait(), c.readBy, c.machine.frozen()
		c.mu.Unlock()
		awaitThaw(rung, thawed, by)
	}
}

// WriteTo delivers p to the socket at to, if there is one with room. It never
// blocks, and does not say whether anybody got it.
func (c *packetConn) WriteTo(p []byte, to net.Addr) (int, error) {
	c.mu.Lock()
	var err error
	switch {
	case c.closed:
		err = net.ErrClosed
	case expired(c.writeBy):
		err = os.ErrDeadlineExceeded
	case len(p) > MaxPacketBytes:
		err = syscall.EMSGSIZE
	}
	frozen := c.machine.frozen() != nil
	if err == nil && frozen && len(c.held) < PacketQueue {
		c.held = append(c.held, held{to.String(), slices.Clone(p)})
	}
	c.mu.Unlock()
	if err != nil {
		return 0, c.wrap("write", to, err)
	}
	if !frozen {
		c.send(to.String(), slices.Clone(p))
	}
	return len(p), nil
}

// send delivers data, which nobody changes any more.
func (c *packetConn) send(to string, data []byte) {
	c.network.mu.Lock()
	peer := c.network.packets[to]
	copies := 0
	if peer != nil {
		copies = c.network.copies()
	}
	c.network.mu.Unlock()
	for range copies {
		peer.deliver(packet{from: c.addr, data: data})
	}
}

// release sends what was held while the host was frozen; it is not any more.
func (c *packetConn) release() {
	c.mu.Lock()
	out := c.held
	c.held = nil
	c.mu.Unlock()
	for _, h := range out {
		c.send(h.to, h.data)
	}
}

func (c *packetConn) deliver(p packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.queue) >= PacketQueue {
		return
	}
	c.queue = append(c.queue, p)
	c.bell.ring()
}

// Close frees the address.
func (c *packetConn) Close() error {
	c.network.mu.Lock()
	if c.network.packets[c.addr.hostport] == c {
		delete(c.network.packets, c.addr.hostport)
	}
	c.network.mu.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.wrap("close", nil, net.ErrClosed)
	}
	c.closed, c.queue, c.held = true, nil, nil
	c.bell.ring()
	return nil
}

func (c *packetConn) LocalAddr() net.Addr { return c.addr }

// SetDeadline sets both deadlines; the read deadline holds for calls already waiting too.
func (c *packetConn) SetDeadline(t time.Time) error { return c.setDeadlines(&t, &t) }

func (c *packetConn) SetReadDeadline(t time.Time) error { return c.setDeadlines(&t, nil) }

func (c *packetConn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(nil, &t) }

func (c *packetConn) setDeadlines(read, write *time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.wrap("set", nil, net.ErrClosed)
	}
	if read != nil {
		c.readBy = *read
	}
	if write != nil {
		c.writeBy = *write
	}
	c.bell.ring()
	return nil
}
