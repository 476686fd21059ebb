package main

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// timerSlack is by how much the kernel may be late to wake a thread of a node that
	// sleeps for a set time, in nanoseconds; its default is 50,000.
	timerSlack = 1_000_000
	// fewProcessors is up to how many a node is given that slack.
	fewProcessors = 4
	// tuned marks an environment that quietMonitor has been through, so that it ends
	// also where the kernel takes a slack and forgets it.
	tuned = "_FULCRUM_TIMER_SLACK"
)

// quietMonitor starts this program again, in the same process, with a timer slack of
// 1 ms, unless it has at least that. It returns if there is nothing to do or the kernel refuses.
//
// Go's monitor thread (runtime.sysmon) wakes up every 20 µs while a process has something
// to do, and so does a thread that is about to take work from another one. A node has
// something to do thousands of times a second, for a moment each: on machines with few
// processors, shared by several nodes or virtual, where a wake-up costs 5 to 20 µs, those
// threads took a third of the time. With this slack they wake up once a millisecond. The runtime
// has no setting for it, its monitor thread is there before any code of ours, and slack
// is inherited from who starts a thread: hence the new start. See docs/decisions/020.
func quietMonitor() {
	if os.Getenv(tuned) != "" {
		os.Unsetenv(tuned)
		return
	}
	if runtime.GOMAXPROCS(0) > fewProcessors {
		return // a thread with work to hand over would miss the pause of the one that takes it
	}
	runtime.LockOSThread() // slack belongs to a thread; the one that executes is the one that stays
	defer runtime.UnlockOSThread()
	had, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || had >= timerSlack {
		return
	}
	self, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0) != nil {
		return
	}
	err = unix.Exec(self, os.Args, append(os.Environ(), tuned+"="+strconv.Itoa(timerSlack)))
	_ = err // then it runs as it is; what it costs is processor time
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(had), 0, 0, 0)
}
