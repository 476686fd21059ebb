package replicationtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"fulcrum/replication"
)

var errCrashed = errors.New("this handle belongs to a life that crashed")

// Log is a replication.Log in memory. Append, SetMeta and the truncations are
// durable when they return, so a crash loses nothing that was answered.
type Log struct {
	mu      sync.Mutex
	base    uint64
	records [][]byte // records[i] stands at base+1+i
	meta    map[string][]byte
	delay   time.Duration
	err     error
	appends int
	begun   []begun // not yet durable
	telling bool    // a goroutine calls done, until there is nothing more
	life    sync.WaitGroup
}

// begun is what a call of Begin wrote.
type begun struct {
	records int // the last ones, if they are still there
	durable time.Time
	lost    bool
	done    func(error)
}

// NewLog returns an empty log without a base.
func NewLog() *Log { return &Log{meta: map[string][]byte{}} }

// SyncDelay makes every later durable step take d longer: a slow disk.
func (l *Log) SyncDelay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
}

// FailWith makes every later durable step fail with err; nil heals the disk.
func (l *Log) FailWith(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// Crash ends the life of this handle, whose methods fail from now on, and
// returns the log that the next life finds.
func (l *Log) Crash() *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := &Log{base: l.base, records: slices.Clone(l.records), meta: l.meta, delay: l.delay}
	l.records, l.meta, l.err = nil, map[string][]byte{}, errCrashed
	return next
}

// Appends counts the calls of Append that succeeded: how well batching works.
func (l *Log) Appends() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.appends
}

// sync waits as long as the disk would, then runs step unless the disk fails.
// The wait is outside of the mutex: a synctest bubble sleeps only while every
// goroutine is durably blocked.
func (l *Log) sync(step func() error) error {
	l.mu.Lock()
	delay := l.delay
	l.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	return step()
}

func (l *Log) last() uint64 { return l.base + uint64(len(l.records)) }

// Begin implements replication.Log.
func (l *Log) Begin(from uint64, records [][]byte, done func(error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if from != l.last()+1 {
		return fmt.Errorf("append at %d to a log that ends at %d", from, l.last())
	}
	for _, r := range records {
		l.records = append(l.records, bytes.Clone(r))
	}
	l.begun = append(l.begun, begun{records: len(records), durable: time.Now().Add(l.delay), done: done})
	if !l.telling {
		l.telling = true
		l.life.Go(l.tell)
	}
	return nil
}

// Wait returns when what was begun is durable, and whoever waits for it knows.
func (l *Log) Wait() { l.life.Wait() }

// tell calls the done of what was begun, in order, as each becomes durable.
func (l *Log) tell() {
	for {
		l.mu.Lock()
		if len(l.begun) == 0 {
			l.telling = false
			l.mu.Unlock()
			return
		}
		wait := time.Until(l.begun[0].durable)
		l.mu.Unlock()
		if wait > 0 {
			time.Sleep(wait) // outside of the mutex: see sync
		}
		l.mu.Lock()
		b, err := l.begun[0], l.err
		l.begun = l.begun[1:]
		if b.lost {
			err = errCrashed
		}
		if err == nil {
			l.appends++
		}
		l.mu.Unlock()
		b.done(err)
	}
}

// Lose drops what Begin wrote and is not durable yet: a crash.
func (l *Log) Lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.begun {
		if b := &l.begun[i]; !b.lost {
			l.records = l.records[:max(0, len(l.records)-b.records)]
			b.lost = true
		}
	}
}

// Append implements replication.Log.
func (l *Log) Append(from uint64, records [][]byte) error {
	owned := make([][]byte, len(records))
	for i, r := range records {
		owned[i] = bytes.Clone(r)
	}
	return l.sync(func() error {
		if from != l.last()+1 {
			return fmt.Errorf("append at %d to a log that ends at %d", from, l.last())
		}
		l.records = append(l.records, owned...)
		l.appends++
		return nil
	})
}

// Get implements replication.Log.
func (l *Log) Get(index uint64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index <= l.base || index > l.last() {
		return nil, replication.ErrNoRecord
	}
	return bytes.Clone(l.records[index-l.base-1]), nil
}

// Range implements replication.Log.
func (l *Log) Range(lo, hi uint64, f func(index uint64, record []byte) error) error {
	for i := lo; i <= hi; i++ {
		r, err := l.Get(i)
		if err != nil {
			return err
		}
		if err := f(i, r); err != nil {
			return err
		}
	}
	return nil
}

// First implements replication.Log.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last() == 0 {
		return 0
	}
	return l.base + 1
}

// Last implements replication.Log.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last()
}

// TruncateAfter implements replication.Log.
func (l *Log) TruncateAfter(index uint64) error {
	return l.sync(func() error {
		if index < l.base {
			return fmt.Errorf("truncate after %d, below the base %d", index, l.base)
		}
		if index < l.last() {
			l.records = l.records[:index-l.base]
		}
		return nil
	})
}

// TruncateBefore implements replication.Log.
func (l *Log) TruncateBefore(index uint64) error {
	return l.sync(func() error {
		if index > l.last()+1 {
			return fmt.Errorf("truncate before %d, past the end %d", index, l.last())
		}
		if index > l.base+1 {
			l.records = l.records[index-l.base-1:]
			l.base = index - 1
		}
		return nil
	})
}

// Reset implements replication.Log.
func (l *Log) Reset(base uint64) error {
	return l.sync(func() error {
		l.base, l.records = base, nil
		return nil
	})
}

// Meta implements replication.Log.
func (l *Log) Meta(key string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.meta[key]), nil
}

// SetMeta implements replication.Log.
func (l *Log) SetMeta(kv map[string][]byte) error {
	owned := make(map[string][]byte, len(kv))
	for k, v := range kv {
		owned[k] = bytes.Clone(v)
	}
	return l.sync(func() error {
		maps.Copy(l.meta, owned)
		return nil
	})
}

var _ replication.Log = (*Log)(nil)
