package sim

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
)

// hostNetwork is the Network as one process on one host sees it. After shut the
// process is dead: whatever its goroutines still do, nothing of it gets out.
type hostNetwork struct {
	*Network
	host string
	down atomic.Bool
}

func (h *hostNetwork) shut()        { h.down.Store(true) }
func (h *hostNetwork) isDown() bool { return h.down.Load() }

// Dial connects from this host.
func (h *hostNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := h.Network.DialFrom(ctx, h.host, addr)
	if err == nil && h.isDown() { // after connecting: CloseHost may have come in between
		_ = c.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: Addr{"tcp", addr}, Err: syscall.ENETDOWN}
	}
	return c, err
}
