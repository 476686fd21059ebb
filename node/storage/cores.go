package storage

import (
	"runtime"
	"sync"
)

// cores is what the Go runtime was set to before the first of those who use all.
var cores struct {
	sync.Mutex
	users, before int
}

// allCores has this process use as many cores as the runtime would by itself, for nodes that
// share a machine are given less; until the last who called it has put that back. Nothing
// else changes the setting meanwhile.
func allCores() (n int, putBack func()) {
	cores.Lock()
	defer cores.Unlock()
	if cores.users++; cores.users == 1 {
		cores.before = runtime.GOMAXPROCS(0)
		runtime.SetDefaultGOMAXPROCS()
		if runtime.GOMAXPROCS(0) < cores.before {
			runtime.GOMAXPROCS(cores.before)
		}
	}
	return runtime.GOMAXPROCS(0), func() {
		cores.Lock()
		defer cores.Unlock()
		if cores.users--; cores.users == 0 && runtime.GOMAXPROCS(0) != cores.before {
			runtime.GOMAXPROCS(cores.before)
		}
	}
}
