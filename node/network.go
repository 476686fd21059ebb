package node

import (
	"context"
	"net"
	"slices"
	"time"

	"fulcrum"
)

// realNetwork is the operating system's.
type realNetwork struct{}

func (realNetwork) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (realNetwork) ListenPacket(addr string) (net.PacketConn, error) {
	return net.ListenPacket("udp", addr)
}

func (realNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, KeepAlive: 10 * time.Second}
	return d.DialContext(ctx, "tcp", addr)
}

// resolver returns how gossip addresses are looked up: by a network that knows
// names of its own, or (nil) by the system.
func resolver(n Network) func(string) (net.Addr, error) {
	if r, ok := n.(interface {
		Resolve(addr string) (net.Addr, error)
	}); ok {
		return r.Resolve
	}
	return nil
}

// isVoter picks the catalog's voters among the initial nodes: the first 5, 3 or 1
// by name, so that the number is odd and two failures of five are survived.
func isVoter(id fulcrum.NodeID, initial map[fulcrum.NodeID]string) bool {
	names := make([]fulcrum.NodeID, 0, len(initial))
	for name := range initial {
		names = append(names, name)
	}
	slices.Sort(names)
	voters := 1
	switch {
	case len(names) >= 5:
		voters = 5
	case len(names) >= 3:
		voters = 3
	}
	i, _ := slices.BinarySearch(names, id)
	return i < voters
}
