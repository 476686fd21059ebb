//go:build linux || darwin

package transport

import (
	"net"

	"golang.org/x/sys/unix"
)

// setUnsent is best effort: where it does not work, small frames wait for what the
// operating system's buffer holds.
func setUnsent(c *net.TCPConn, bytes int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return // it is closed, which its reader finds out
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
	})
}
