package bench

import (
	"syscall"
	"time"
)

// pause sleeps for a short while, exactly: the runtime's timers are a millisecond coarse.
func pause(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil)
}
