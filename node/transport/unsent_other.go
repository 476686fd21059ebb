//go:build !linux && !darwin

package transport

import "net"

// setUnsent does nothing here: small frames wait for what the operating system's buffer
// holds.
func setUnsent(*net.TCPConn, int) {}
