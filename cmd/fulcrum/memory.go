package main

import (
	"context"
	"runtime/debug"
	"syscall"
	"time"
)

// lookEvery is how often a node looks whether it has become quiet. It is seldom, as a look
// wakes an idle process up.
const lookEvery = 10 * time.Second

// giveBack returns memory to the system when a node has become quiet, until ctx ends.
//
// The collector lets the heap grow to twice what is in use, and more while the engine
// commits; after a load that stays so for minutes. To collect more often under load would
// do, too, but costs what the load needs: with GOGC=50 a sixth to a quarter of the
// processor time of a node was the collector's, instead of a tenth. One collection when
// there is little else to do costs some 50 ms.
func giveBack(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var q quiet
	for {
		if q.comes(processorTime(), lookEvery) {
			debug.FreeOSMemory()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// quiet notices that a process has nothing to do any more.
type quiet struct {
	used time.Duration
	busy bool
}

// A process is busy from a tenth of a processor on, and quiet below a fiftieth.
const (
	busyShare  = 10
	quietShare = 50
)

// comes reports whether the process, which was busy, has been quiet for d. used is the
// processor time since it began.
func (q *quiet) comes(used, d time.Duration) bool {
	recent := used - q.used
	q.used = used
	switch {
	case recent > d/busyShare:
		q.busy = true
	case q.busy && recent < d/quietShare:
		q.busy = false
		return true
	}
	return false
}

// processorTime is what this process has used; 0 if the system does not say.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
