package storage

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// compactions lets pebble compact one thing at a time, and not again at once when that
// failed: pebble itself has no pause, and a table that is damaged, or a disk that is bad, would keep a
// processor busy for ever. It keeps pebble.CompactionScheduler. (Pebble's own looks ten
// times a second whether more may run than before, and wakes an idle node up for it.)
//
// A method that calls the database holds no lock, as the database calls with its own held. So
// TrySchedule and grant can overlap, and then two run: pebble does not mind, but would
// wait for ever for a grant that a TrySchedule was refused for.
type compactions struct {
	mu       sync.Mutex
	db       pebble.DBForCompaction
	running  int
	failed   bool // since the last one began
	failures int  // one after another
	rest     *time.Timer
	closed   bool
	grants   sync.WaitGroup // calls of grant under way
}

var _ pebble.CompactionScheduler = (*compactions)(nil)

// How long it rests after one failure, and after many.
const (
	compactionRest     = time.Second
	compactionRestMost = time.Minute
)

func (c *compactions) Register(_ int, db pebble.DBForCompaction) { c.db = db }

// Unregister returns when nothing is granted any more.
func (c *compactions) Unregister() {
	c.mu.Lock()
	c.closed = true
	if c.rest != nil && c.rest.Stop() {
		c.grants.Done()
	}
	c.mu.Unlock()
	c.grants.Wait()
}

// TrySchedule is pebble asking whether one may begin. If not, pebble waits for grant.
func (c *compactions) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running > 0 || c.rest != nil || c.closed {
		return false, nil
	}
	c.running++
	c.failed = false
	return true, c
}

// UpdateGetAllowedWithoutPermission changes nothing: it is always one.
func (c *compactions) UpdateGetAllowedWithoutPermission() {}

// fail notes that background work of pebble failed.
func (c *compactions) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = true
}

// Done is the end of the compaction that ran: the next may begin, if it did not fail.
func (c *compactions) Done() {
	c.mu.Lock()
	c.running--
	if c.closed || c.rest != nil {
		c.mu.Unlock()
		return
	}
	c.grants.Add(1)
	if c.failed {
		pause := min(compactionRest<<min(c.failures, 10), compactionRestMost)
		c.failures++
		c.rest = time.AfterFunc(pause, c.grant)
		c.mu.Unlock()
		return
	}
	c.failures = 0
	c.mu.Unlock()
	c.grant()
}

// grant begins a compaction that pebble waits for, if there is one and none runs.
func (c *compactions) grant() {
	defer c.grants.Done()
	c.mu.Lock()
	c.rest = nil
	may := c.running == 0 && !c.closed
	c.mu.Unlock()
	if !may {
		return
	}
	if waits, _ := c.db.GetWaitingCompaction(); !waits {
		return
	}
	c.mu.Lock()
	c.running++ // before it can end
	c.failed = false
	c.mu.Unlock()
	if !c.db.Schedule(c) {
		c.mu.Lock()
		c.running--
		c.mu.Unlock()
	}
}

func (c *compactions) Started()                                          {}
func (c *compactions) MeasureCPU(pebble.CompactionGoroutineKind)         {}
func (c *compactions) CumulativeStats(pebble.CompactionGrantHandleStats) {}
