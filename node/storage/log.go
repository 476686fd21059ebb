package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// groupLog is a group's part of the node's log. It keeps replication.Log.
//
// Invariant: the records on disk at or above first are exactly first..last, each
// under its own key; below first there may be some that cut has yet to remove.
// The stored base is at most first-1. It holds because every change is one batch
// and the bounds in memory move only after it.
type groupLog struct {
	s          *Store
	key        logKey
	durability Durability

	// changing holds one token: whoever has it may change the log. Readers do not
	// need it.
	changing chan struct{}
	queue    *completions // of what was begun last; see queueFor
	begun    atomic.Int64 // and not completed yet

	mu          sync.Mutex // protects what follows; never held during I/O or a wait
	first, last uint64     // first is last+1 when there is no record
	uncut       uint64     // records in [uncut, first) are still to be removed from disk
	broken      error      // dropped, or a write whose fate is unknown
}

var _ replication.Log = (*groupLog)(nil)

// Log returns the log of a group in an epoch, empty if it was never written. The
// durability counts for Append alone; everything else is always synced. All
// calls for the same log return the same one, with the durability of the last.
func (s *Store) Log(g fulcrum.GroupID, e fulcrum.Epoch, d Durability) (replication.Log, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	if d > Memory {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "log of group %d: %v", g, d)
	}
	key := logKey{g, e}
	fresh := &groupLog{s: s, key: key, changing: make(chan struct{}, 1)}
	if err := fresh.load(); err != nil {
		return nil, err
	}
	fresh.changing <- struct{}{}
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.logs[key]
	if !ok {
		l = fresh
		s.logs[key] = l
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.durability = d
	return l, nil
}

// load finds the bounds of the log on disk.
func (l *groupLog) load() error {
	base, err := l.s.getSealed(l.key.prefix(kindBase))
	if err != nil {
		return l.damaged(0, err)
	}
	l.first = 1
	if len(base) == 8 {
		l.first = binary.BigEndian.Uint64(base) + 1
	}
	l.last, l.uncut = l.first-1, l.first
	it, err := l.s.db.NewIter(&pebble.IterOptions{LowerBound: l.key.record(l.first), UpperBound: after(l.key.prefix(kindRecord))})
	if err != nil {
		return l.damaged(l.first, err)
	}
	if it.First() {
		if at := indexOf(it.Key()); at != l.first {
			if now, err := l.s.getSealed(l.key.prefix(kindBase)); err == nil && !bytes.Equal(base, now) {
				return errors.Join(l.load(), it.Close()) // cut meanwhile
			}
			return errors.Join(l.damaged(0, fmt.Errorf("the log begins at %d: %w", at, errGap)), it.Close())
		}
	}
	if it.Last() {
		l.last = indexOf(it.Key())
	}
	if err := it.Close(); err != nil {
		return l.damaged(l.first, err)
	}
	if mutant.On("torn-tail-drops-batch") && l.key.group != fulcrum.CatalogGroup {
		l.last = max(l.first-1, l.last-min(l.last, 4)) // mutant: takes whole records for a torn tail
	}
	return nil
}

func indexOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// damaged is the error for a record that cannot be trusted, or (0) for where the log begins
// or a small value.
func (l *groupLog) damaged(index uint64, err error) error {
	if l.s.isDamage(err) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
		defer l.s.hurt(hurtLog{l, index, err})
	}
	return diskError(err, "log record %d of group %d epoch %d in %s", index, l.key.group, l.key.epoch, l.s.logDir()).WithHint("%s", rebuildHint)
}

var errSum = errors.New("checksum does not match")

// change runs f, alone among the changes of this log. When f fails after its
// write may have reached the disk, the log takes no more.
func (l *groupLog) change(f func(first, last uint64) error) error {
	<-l.changing
	defer func() { l.changing <- struct{}{} }()
	l.mu.Lock()
	first, last, broken := l.first, l.last, l.broken
	l.mu.Unlock()
	if broken != nil {
		return broken
	}
	return f(first, last)
}

func (l *groupLog) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// Append stores records under from, from+1 ...; see replication.Log.
func (l *groupLog) Append(from uint64, records [][]byte) error {
	if len(records) == 0 {
		return nil
	}
	return l.change(func(_, last uint64) error {
		b, d, err := l.prepare(last, from, records)
		if err != nil {
			return err
		}
		defer l.s.done(b)
		if err := l.s.append(b, d == Fsync); err != nil {
			return err
		}
		l.wrote(d, last+uint64(len(records)))
		return nil
	})
}

// Begin stores records, to be synced; see replication.Log. Pebble syncs its log from
// the front, so no later change of the log is durable before them. Done is called by
// completions, whatever the durability: never before Begin has done its work.
func (l *groupLog) Begin(from uint64, records [][]byte, done func(error)) error {
	return l.change(func(_, last uint64) error {
		if len(records) == 0 {
			return l.s.begin(begun{log: l, done: done})
		}
		b, d, err := l.prepare(last, from, records)
		if err != nil {
			return err
		}
		if err := l.s.begin(begun{log: l, batch: b, sync: d == Fsync, done: done}); err != nil {
			l.s.done(b)
			return err
		}
		l.wrote(d, last+uint64(len(records)))
		return nil
	})
}

// prepare makes the batch that appends records, and tells how durable this log is set
// to be. The caller alone may change the log.
func (l *groupLog) prepare(last, from uint64, records [][]byte) (*pebble.Batch, Durability, error) {
	if from != last+1 {
		return nil, 0, fulcrum.Errorf(fulcrum.CodeInternal, "append to the log of group %d epoch %d at %d: its last index is %d",
			l.key.group, l.key.epoch, from, last)
	}
	l.mu.Lock()
	d := l.durability
	l.mu.Unlock()
	if d == Fsync && mutant.On("no-fsync") && l.key.group != fulcrum.CatalogGroup {
		d = Memory // mutant: says that it is on disk, and has not synced it
	}
	// A full disk refuses every append; a stalled sync holds up only those that sync.
	if l.s.disk.inject != nil {
		if err := l.s.disk.inject().refuse(); err != nil {
			return nil, 0, err
		}
	}
	return l.batch(from, records), d, nil
}

// wrote shows records up to last, and has them synced if nobody waits for that.
func (l *groupLog) wrote(d Durability, last uint64) {
	if d != Fsync && !mutant.On("no-fsync") { // mutant: nor then
		l.s.loose.Store(true) // before anybody can read them, and put them into a State
	}
	l.set(func() { l.last = last })
	if d == Interval && !l.s.lazy.Swap(true) {
		notify(l.s.lazyC)
	}
}

// batch holds records, each under its own key.
func (l *groupLog) batch(from uint64, records [][]byte) *pebble.Batch {
	size := 64
	for _, r := range records {
		size += len(r) + 48
	}
	b := l.s.db.NewBatchWithSize(size)
	key := l.key.record(from)
	for i, r := range records {
		binary.BigEndian.PutUint64(key[len(key)-8:], from+uint64(i))
		op := b.SetDeferred(len(key), sumSize+len(r))
		copy(op.Key, key)
		seal(op.Value, key, r)
		_ = op.Finish() // only a batch with an index can fail
	}
	return b
}

// Get returns a copy of the record at index, or replication.ErrNoRecord.
func (l *groupLog) Get(index uint64) ([]byte, error) {
	first, last := l.bounds()
	if index < first || index > last {
		return nil, replication.ErrNoRecord
	}
	key := l.key.record(index)
	stored, closer, err := l.s.get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		if first, last := l.bounds(); index < first || index > last {
			return nil, replication.ErrNoRecord // cut off meanwhile
		}
	}
	if errors.Is(err, pebble.ErrNotFound) {
		err = errGap
	}
	if err != nil {
		return nil, l.damaged(index, err)
	}
	defer closer.Close()
	record, ok := unseal(key, stored)
	if !ok {
		return nil, l.damaged(index, errSum)
	}
	return slices.Clone(record), nil
}

// Range calls f for the records lo..hi; a missing one is replication.ErrNoRecord.
func (l *groupLog) Range(lo, hi uint64, f func(index uint64, record []byte) error) error {
	first, last := l.bounds()
	if lo > hi {
		return nil
	}
	if lo < first || hi > last {
		return replication.ErrNoRecord
	}
	if err := l.s.usable(); err != nil {
		return err
	}
	it, err := l.s.db.NewIter(&pebble.IterOptions{LowerBound: l.key.record(lo), UpperBound: l.key.record(hi + 1)})
	if err != nil {
		return l.damaged(lo, err)
	}
	next := lo
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var record []byte
		if record, err = l.check(it, next); err == nil {
			err = f(next, record)
		}
		next++
	}
	if cerr := it.Close(); err == nil && cerr != nil {
		err = l.damaged(next, cerr)
	}
	if err == nil && next != hi+1 {
		err = l.gap(next)
	}
	return err
}

// check returns the record that it stands at, which must be the one at index.
func (l *groupLog) check(it *pebble.Iterator, index uint64) ([]byte, error) {
	if indexOf(it.Key()) != index {
		return nil, l.gap(index)
	}
	stored, err := it.ValueAndErr()
	if err != nil {
		return nil, l.damaged(index, err)
	}
	record, ok := unseal(it.Key(), stored)
	if !ok {
		return nil, l.damaged(index, errSum)
	}
	return record, nil
}

// gap is the error for a record that is not on disk: cut off meanwhile, or lost.
func (l *groupLog) gap(index uint64) error {
	if first, last := l.bounds(); index < first || index > last {
		return replication.ErrNoRecord
	}
	return l.damaged(index, errGap)
}

func (l *groupLog) bounds() (first, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, l.last
}

// First returns the index of the first record, 0 for a log that has neither
// records nor a base.
func (l *groupLog) First() uint64 {
	first, last := l.bounds()
	if last == 0 {
		return 0
	}
	return first
}

// Last returns the index of the last record, or the base when there is none.
func (l *groupLog) Last() uint64 {
	_, last := l.bounds()
	return last
}

// TruncateAfter removes everything above index, durably; an index below the base
// is an error, because the log would then begin before what it has.
func (l *groupLog) TruncateAfter(index uint64) error {
	return l.change(func(first, last uint64) error {
		if index >= last {
			return nil
		}
		if index+1 < first {
			return fulcrum.Errorf(fulcrum.CodeInternal, "truncate the log of group %d epoch %d after %d: it begins at %d",
				l.key.group, l.key.epoch, index, first)
		}
		b := l.s.db.NewBatch()
		defer l.s.done(b)
		if err := b.DeleteRange(l.key.record(index+1), l.key.record(last+1), nil); err != nil {
			return err
		}
		// An empty log needs no new base: either the one on disk is index already, or
		// records up to index are still to be cut.
		// Readers must not see records that are going: the bound moves first.
		l.set(func() { l.last = index })
		if err := l.s.commit(b, true); err != nil {
			l.set(func() {
				l.last = last
				l.broken = l.s.disk.failure()
			})
			return err
		}
		return nil
	})
}

// TruncateBefore removes everything below index, lazily: after a crash some of
// it may be back. Beyond the last record it leaves an empty log with that base.
func (l *groupLog) TruncateBefore(index uint64) error {
	return l.change(func(first, last uint64) error {
		index = min(index, last+1)
		if index <= first {
			return nil
		}
		l.set(func() { l.first = index })
		notify(l.s.cutC)
		return nil
	})
}

// cut removes from disk what TruncateBefore cut off, for all logs in one batch.
// It need not be synced: a crash brings back base and records together.
func (s *Store) cut(context.Context) error {
	s.mu.Lock()
	logs := make([]*groupLog, 0, len(s.logs))
	for _, l := range s.logs {
		logs = append(logs, l)
	}
	s.mu.Unlock()
	for _, l := range logs {
		err := l.change(func(first, _ uint64) error {
			l.mu.Lock()
			uncut := l.uncut
			l.mu.Unlock()
			if uncut >= first {
				return nil
			}
			b := s.db.NewBatch()
			defer s.done(b)
			err := errors.Join(
				b.DeleteRange(l.key.record(uncut), l.key.record(first), nil),
				setSealed(b, l.key.prefix(kindBase), binary.BigEndian.AppendUint64(nil, first-1)))
			if err == nil {
				err = s.commit(b, false)
			}
			if err == nil {
				l.set(func() { l.uncut = first })
			}
			return err
		})
		if err != nil && !errors.Is(err, errDropped) {
			return err
		}
	}
	return nil
}

// Reset empties the log and sets its base, durably.
func (l *groupLog) Reset(base uint64) error {
	return l.change(func(first, last uint64) error {
		b := l.s.db.NewBatch()
		defer l.s.done(b)
		records := l.key.prefix(kindRecord)
		err := errors.Join(
			b.DeleteRange(records, after(records), nil),
			setSealed(b, l.key.prefix(kindBase), binary.BigEndian.AppendUint64(nil, base)))
		if err != nil {
			return err
		}
		if err := l.s.commit(b, true); err != nil {
			return err
		}
		l.set(func() { l.first, l.last, l.uncut = base+1, base, base+1 })
		return nil
	})
}

// Meta returns a small value of the log; nil when it was never set.
func (l *groupLog) Meta(key string) ([]byte, error) {
	value, err := l.s.getSealed(l.key.meta(key))
	if err != nil {
		return nil, l.damaged(0, err)
	}
	return value, nil
}

// SetMeta stores small values in one atomic, durable step; nil removes one.
func (l *groupLog) SetMeta(kv map[string][]byte) error {
	if len(kv) == 0 {
		return nil
	}
	return l.change(func(_, _ uint64) error {
		b := l.s.db.NewBatch()
		defer l.s.done(b)
		for name, value := range kv {
			if err := setSealed(b, l.key.meta(name), value); err != nil {
				return err
			}
		}
		return l.s.commit(b, true)
	})
}
