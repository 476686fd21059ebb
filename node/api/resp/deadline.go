package resp

import (
	"context"
	"sync"
	"time"
)

// deadline is context.WithDeadline for calls of which most return without having waited
// for anything: it costs a timer, and a place in the list of its parent, only once
// somebody asks for Done.
type deadline struct {
	context.Context // the parent
	at              time.Time

	mu       sync.Mutex
	real     context.Context // nil: nobody has asked yet
	stop     context.CancelFunc
	canceled bool
}

// Deadline implements context.Context.
func (d *deadline) Deadline() (time.Time, bool) {
	if at, ok := d.Context.Deadline(); ok && at.Before(d.at) {
		return at, true
	}
	return d.at, true
}

// Done implements context.Context.
func (d *deadline) Done() <-chan struct{} { return d.begin().Done() }

// Err implements context.Context.
func (d *deadline) Err() error {
	d.mu.Lock()
	real, canceled := d.real, d.canceled
	d.mu.Unlock()
	switch {
	case real != nil:
		return real.Err()
	case canceled:
		return context.Canceled
	case d.Context.Err() != nil:
		return d.Context.Err()
	case !time.Now().Before(d.at):
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. A context below one that is waited for finds that by
// its value, and hangs itself in there without a goroutine of its own.
func (d *deadline) Value(key any) any {
	d.mu.Lock()
	real := d.real
	d.mu.Unlock()
	if real != nil {
		return real.Value(key)
	}
	return d.Context.Value(key)
}

// begin makes the context that can be waited for.
func (d *deadline) begin() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.real == nil {
		d.real, d.stop = context.WithDeadline(d.Context, d.at)
		if d.canceled {
			d.stop()
		}
	}
	return d.real
}

// cancel ends the call: whatever still waits for it is told.
func (d *deadline) cancel() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.canceled = true
	if d.stop != nil {
		d.stop()
	}
}
