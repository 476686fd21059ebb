//go:build !linux

package bench

import "time"

// pause sleeps for a short while.
func pause(d time.Duration) { time.Sleep(d) }
