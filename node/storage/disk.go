package storage

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"fulcrum"
)

// Disk is what is broken on purpose, from now on and until the hook says
// otherwise. The zero Disk is a healthy one.
type Disk struct {
	Stall time.Duration // each sync takes this much longer
	Full  bool          // nothing more can be written
	Fail  bool          // syncs fail
	Acted func()        // called when one of these acted on a write or sync; may be nil
}

// disk watches syncs: those that failed, those under way, and injected faults.
type disk struct {
	inject func() Disk
	down   chan struct{} // closed by the first failure

	mu         sync.Mutex // protects what follows; never held during I/O or a wait
	failed     error
	background error // of a flush or compaction, until one succeeds
	damaged    error // a table of the log, until what is damaged of it was cut out
	damagedAt  time.Time
	mended     time.Time // when that was last done
	begun      map[uint64]time.Time
	next       uint64
	stalled    time.Time     // when a sync ended that took longer than stallLimit
	took       time.Duration // it
}

func newDisk(inject func() Disk) *disk {
	return &disk{inject: inject, down: make(chan struct{}), begun: map[uint64]time.Time{}}
}

// begin notes that a sync is under way until end.
func (d *disk) begin() (id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	d.begun[d.next] = time.Now()
	return d.next
}

func (d *disk) end(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if took := time.Since(d.begun[id]); took > stallLimit {
		d.stalled, d.took = time.Now(), took
	}
	delete(d.begun, id)
}

// fault waits through an injected stall and returns the injected error, if any.
// The caller holds no mutex.
func (d *disk) fault() error {
	if d.inject == nil {
		return nil
	}
	d.stall()
	return d.inject().refuse()
}

// stall waits as long as a sync is made to take. The caller holds no mutex.
func (d *disk) stall() {
	if stall := d.stallFor(); stall > 0 {
		time.Sleep(stall)
	}
}

// stallFor is how long a sync that begins now is made to take; its caller waits.
func (d *disk) stallFor() time.Duration {
	if d.inject == nil {
		return 0
	}
	f := d.inject()
	if f.Stall > 0 {
		f.acted()
	}
	return f.Stall
}

// refuse is the error of a write that is not even begun, which it counts.
func (f Disk) refuse() error {
	err := f.err()
	if err != nil {
		f.acted()
	}
	return err
}

func (f Disk) acted() {
	if f.Acted != nil {
		f.Acted()
	}
}

// err is the error of an operation that was not even begun: definitely not done.
func (f Disk) err() error {
	switch {
	case f.Full:
		return fulcrum.Errorf(fulcrum.CodeDisk, "no space left (injected)").WithHint("heal the disk fault")
	case f.Fail:
		return fulcrum.Errorf(fulcrum.CodeDisk, "sync failed (injected)").WithHint("heal the disk fault")
	}
	return nil
}

// fail records the first failure; the store takes no write after it, because a
// sync that failed once may report success the next time without having written
// anything.
func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		d.failed = err
		close(d.down)
	}
}

func (d *disk) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// setBackground notes how the last flush or compaction ended. Pebble tries
// again by itself: nothing is lost, but the disk is bad.
func (d *disk) setBackground(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.background = err
}

// setDamaged notes that something in a table of the log is not what was written, or (nil)
// that it was cut out. A compaction that began before that may tell of it once more.
func (d *disk) setDamaged(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch now := time.Now(); {
	case err == nil:
		d.damaged, d.mended = nil, now
	case now.Sub(d.mended) > mendGrace:
		d.damaged, d.damagedAt = err, now
	}
}

// tableDamage is what setDamaged noted last.
func (d *disk) tableDamage() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.damaged
}

func (d *disk) health() error {
	if d.inject != nil {
		if err := d.inject().err(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	for _, at := range d.begun {
		if took := time.Since(at); took > stallLimit {
			return fulcrum.Errorf(fulcrum.CodeDisk, "a sync has been running for %v (limit %v)", took.Round(time.Millisecond), stallLimit).
				WithHint("check the disk")
		}
	}
	if ago := time.Since(d.stalled); !d.stalled.IsZero() && ago < stallMemory {
		return fulcrum.Errorf(fulcrum.CodeDisk, "a sync took %v, %v ago (limit %v)", d.took.Round(time.Millisecond), ago.Round(time.Millisecond), stallLimit).
			WithHint("check the disk")
	}
	if d.background != nil {
		return diskError(d.background, "background write")
	}
	if d.damaged != nil && time.Since(d.damagedAt) < damageMemory {
		return diskError(d.damaged, "the log").WithHint("if this does not go by itself: wipe the directory; the node then comes back as a new one and rebuilds from its peers")
	}
	return nil
}

// diskError says what was being done when the disk failed.
func diskError(err error, format string, args ...any) *fulcrum.Error {
	e := fulcrum.Errorf(fulcrum.CodeDisk, "%s: %w", fmt.Sprintf(format, args...), err)
	switch {
	case errors.Is(err, ErrNoRoom):
		return e.WithHint("free some space: the node goes on by itself")
	case errors.Is(err, syscall.ENOSPC):
		return e.WithHint("free some space, then start the node again")
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EROFS):
		return e.WithHint("the data directory must be writable for the user of the node")
	}
	return e
}

// guard turns a panic of a storage library, and a fault on a page that its file
// no longer has, into an error: both mean a damaged file, not a broken program.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{value: r, stack: debug.Stack()}
		}
	}()
	return f()
}

type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string {
	if err, ok := p.value.(error); ok {
		return err.Error()
	}
	return fmt.Sprint(p.value)
}

func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}
