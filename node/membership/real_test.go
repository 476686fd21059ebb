package membership_test

import (
	"context"
	"net"
	"sync"
	"testing"

	"fulcrum"
	"fulcrum/node/membership"
)

// The same on real sockets: who met sees each other, and SetPeer is told who
// dialed. It waits for changes and asserts no time.
func TestMeetsOverRealSockets(t *testing.T) {
	const n = 3
	ids := []fulcrum.NodeID{"n1", "n2", "n3"}
	var listeners [n]*peerListener
	var packets [n]net.PacketConn
	peers := map[fulcrum.NodeID]string{}
	for i, id := range ids {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			t.Skip("the port is free for TCP but not for UDP")
		}
		listeners[i], packets[i], peers[id] = &peerListener{Listener: l, peers: map[fulcrum.NodeID]bool{}}, p, l.Addr().String()
	}
	all := make(chan struct{}, 100)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, id := range ids {
		m, err := membership.Open(membership.Options{
			Node: id, ClusterID: "real", Advertise: peers[id], Listener: listeners[i], PacketConn: packets[i],
			Dial: func(ctx context.Context, _ fulcrum.NodeID, addr string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			},
			Peers: func() map[fulcrum.NodeID]string { return peers },
			OnChange: func(members []membership.Member) {
				alive := 0
				for _, m := range members {
					if m.State == membership.StateAlive {
						alive++
					}
				}
				if alive == n {
					all <- struct{}{}
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { m.Run(t.Context()) })
		defer m.Close()
	}
	for range n {
		<-all
	}
	told := 0
	for i, l := range listeners {
		l.mu.Lock()
		told += len(l.peers)
		for id := range l.peers {
			if _, known := peers[id]; !known || id == ids[i] {
				t.Errorf("%s was dialed by %q", ids[i], id)
			}
		}
		l.mu.Unlock()
	}
	if told == 0 {
		t.Error("nobody was told who dialed")
	}
}

// peerListener hands out connections that learn who dialed.
type peerListener struct {
	net.Listener
	mu    sync.Mutex
	peers map[fulcrum.NodeID]bool
}

func (l *peerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &peerConn{c, l}, nil
}

type peerConn struct {
	net.Conn
	l *peerListener
}

func (c *peerConn) SetPeer(id fulcrum.NodeID) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.peers[id] = true
}
