package storage

import (
	"context"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"fulcrum"
)

// begun is a write of Begin, and whom to tell when it is durable.
type begun struct {
	log   *groupLog
	batch *pebble.Batch // nil: nothing was written, or it was given back already
	sync  bool          // it is durable with a sync
	id    uint64        // in disk, with sync
	at    time.Time
	until time.Time // an injected stall holds it back so long; zero: none
	done  func(error)
}

// completions calls the done of what was begun, in that order, on one goroutine for
// all groups. A goroutine that wakes up costs more than all else that is done here, so
// one wake-up serves all that a sync made durable, and beginning something wakes nobody.
//
//   - Begin only puts its write at the end of the queue. The end of each sync kicks
//     the queue (freezeFile.sync), shortly before pebble lets go those who wait for it.
//   - Whoever takes from the queue waits for the sync of the first, and goes on until
//     nothing is left: pebble syncs its log from the front, and lets go all that one
//     sync covers together, so the wait for most others is none.
//
// The goroutine is Run's. While Run has not begun or has ended, a kick starts one that
// ends with the queue. Close lets nothing more begin, waits until everybody was told,
// and only then closes pebble: nothing is ever left waiting, and done is never called
// after Close. It is called with an error then if an injected stall was cut short.
//
// The queue is bounded by what pebble takes before it makes writers wait (4095 writes
// without their sync), and beyond that, while a stall is injected, by its callers.
type completions struct {
	s      *Store
	signal chan struct{} // holds one: the goroutine of Run has something to take

	mu     sync.Mutex // protects what follows; never held during I/O, a wait or a done
	idle   *sync.Cond // taken has ended
	queue  []begun
	served bool // the goroutine of Run is there
	taken  bool // somebody takes, until the queue is empty

	round []begun // belongs to whoever takes
}

func newCompletions(s *Store) *completions {
	c := &completions{s: s, signal: make(chan struct{}, 1)}
	c.idle = sync.NewCond(&c.mu)
	return c
}

func (c *completions) put(w begun) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, w)
}

// kick has the queue taken, if there is anything in it and nobody is at it.
func (c *completions) kick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.taken || len(c.queue) == 0:
	case c.served:
		notify(c.signal)
	default:
		c.taken = true
		go c.take()
	}
}

// serve takes what comes, until ctx ends. What is left then is for another goroutine:
// Run must not wait for those who begin.
func (c *completions) serve(ctx context.Context) error {
	c.setServed(true)
	defer c.kick()
	defer c.setServed(false)
	for {
		select {
		case <-c.signal:
		case <-ctx.Done():
			return nil
		}
		c.mu.Lock()
		mine := !c.taken && len(c.queue) > 0
		c.taken = c.taken || mine
		c.mu.Unlock()
		if mine {
			c.take()
		}
	}
}

func (c *completions) setServed(served bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served = served
}

// take completes what is in the queue, until it is empty.
func (c *completions) take() {
	for c.next() {
		for i := range c.round {
			c.s.complete(&c.round[i])
		}
		clear(c.round) // it must not keep the batches
	}
}

func (c *completions) next() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.round, c.queue = c.queue, c.round[:0]
	if len(c.round) > 0 {
		return true
	}
	c.taken = false
	c.idle.Broadcast()
	return false
}

// finish returns when the queue is empty. The caller has seen to it that nothing more
// comes.
func (c *completions) finish() {
	c.setServed(false)
	c.kick()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.taken || len(c.queue) > 0 {
		c.idle.Wait()
	}
}

// queueFor is where a write of l goes. Those that need no sync have a queue of their
// own, so that a slow sync holds up only those that sync. But a log whose durability
// was changed stays where it is until all that it began is completed: in order. The
// caller alone may change l.
func (s *Store) queueFor(l *groupLog, sync bool) *completions {
	if l.begun.Add(1) == 1 {
		l.queue = s.unsynced
		if sync {
			l.queue = s.syncing
		}
	}
	return l.queue
}

// begin writes a batch, if there is one, to the log. If it returns an error done is
// not called, and the batch is the caller's.
func (s *Store) begin(w begun) error {
	c := s.queueFor(w.log, w.sync)
	w.at = time.Now()
	if w.sync {
		w.id = s.disk.begin()
		s.company.enter()
		if stall := s.disk.stallFor(); stall > 0 {
			w.until = w.at.Add(stall)
		}
	}
	syncs := s.syncs.Load()
	if err := s.enqueue(c, w); err != nil {
		s.leave(&w)
		w.log.begun.Add(-1)
		return err
	}
	// The sync may have ended between the write and its place in the queue.
	if !w.sync || c != s.syncing || s.syncs.Load() != syncs {
		c.kick()
	}
	return nil
}

// enqueue writes a batch and queues it in one step, so that the queue is in the order
// of the log, and nothing comes once shut has closed the store.
func (s *Store) enqueue(c *completions, w begun) error {
	s.pipe.Lock()
	defer s.pipe.Unlock()
	if w.batch == nil {
		if err := s.usable(); err != nil {
			return err
		}
	} else if err := s.pass(w.batch, w.sync); err != nil {
		return err
	}
	if w.batch != nil && !w.sync {
		s.done(w.batch)
		w.batch = nil
	}
	c.put(w)
	return nil
}

// walSynced notes that a file of the log was synced.
func (s *Store) walSynced() {
	s.syncs.Add(1)
	s.syncing.kick()
}

// complete waits until w is durable, and says so.
func (s *Store) complete(w *begun) {
	err := s.outwait(w.until)
	if w.sync {
		// Also when the wait was cut short: pebble holds the batch until its sync.
		if failed := s.awaitSync(w.batch, w.at); failed != nil {
			err = failed
		}
		s.done(w.batch)
	}
	s.leave(w)
	w.done(err)
	w.log.begun.Add(-1)
}

// leave ends what begin began for a write that syncs.
func (s *Store) leave(w *begun) {
	if w.sync {
		s.disk.end(w.id)
		s.company.leave()
	}
}

// errCutShort is for what was begun and, as far as its caller may know, not synced
// before the store was closed.
var errCutShort = &fulcrum.Error{Code: fulcrum.CodeUnavailable, Maybe: true, Detail: "the node's storage was closed during a sync"}

// outwait returns at the end of an injected stall, or earlier if the disk fails or the
// store is closed.
func (s *Store) outwait(until time.Time) error {
	rest := time.Until(until)
	if until.IsZero() || rest <= 0 {
		return nil
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.disk.down:
	case <-s.closing:
		return errCutShort
	}
	return nil
}
