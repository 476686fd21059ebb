package storage

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// waitingDB always has a compaction that waits; each takes a moment, and fails if fails says so.
type waitingDB struct {
	turns *compactions
	fails func() bool
	mu    sync.Mutex
	ran   int
}

func (d *waitingDB) GetAllowedWithoutPermission() int { return 1 }
func (d *waitingDB) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	return true, pebble.WaitingCompaction{}
}

func (d *waitingDB) Schedule(h pebble.CompactionGrantHandle) bool {
	go func() {
		time.Sleep(time.Millisecond)
		d.mu.Lock()
		d.ran++
		d.mu.Unlock()
		if d.fails() {
			d.turns.fail()
		}
		h.Done()
	}()
	return true
}

func (d *waitingDB) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ran
}

// A compaction that fails is tried again ever more seldom, and goes on as before once it
// does not; after Unregister nothing begins.
func TestFailedCompactionsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bad atomic.Bool
		bad.Store(true)
		turns := &compactions{}
		d := &waitingDB{turns: turns, fails: bad.Load}
		turns.Register(1, d)
		ok, h := turns.TrySchedule()
		if !ok {
			t.Fatal("the first is refused")
		}
		if again, _ := turns.TrySchedule(); again {
			t.Error("two at a time")
		}
		turns.fail()
		h.Done()
		if again, _ := turns.TrySchedule(); again {
			t.Error("the next begins at once after a failure")
		}
		time.Sleep(10 * time.Minute)
		if n := d.count(); n < 8 || n > 20 {
			t.Errorf("%d tries within ten minutes, want about one a minute", n)
		}
		bad.Store(false)
		time.Sleep(2 * time.Minute)
		before := d.count()
		time.Sleep(time.Second)
		if n := d.count() - before; n < 900 {
			t.Errorf("%d within a second, once they succeed", n)
		}
		turns.Unregister()
		time.Sleep(time.Second)
		before = d.count()
		if again, _ := turns.TrySchedule(); again {
			t.Error("one begins after Unregister")
		}
		time.Sleep(time.Minute)
		if n := d.count() - before; n != 0 {
			t.Errorf("%d begin after Unregister", n)
		}
	})
}

// Unregister in the middle of a rest ends it.
func TestUnregisterEndsARest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &compactions{}
		d := &waitingDB{turns: turns, fails: func() bool { return true }}
		turns.Register(1, d)
		_, h := turns.TrySchedule()
		turns.fail()
		h.Done()
		turns.Unregister()
		time.Sleep(time.Minute)
		if n := d.count(); n != 0 {
			t.Errorf("%d began", n)
		}
	})
}
