package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

const (
	memTableSize = 8 << 20
	emptyFlush   = "pebble: empty table" // the error, which pebble does not export, of a flush that found nothing to write
)

// pebbleOptions keeps pebble small: a log is written once, read seldom and cut
// soon, so most records die in the memtable that took them.
func pebbleOptions(fs vfs.FS, s *Store) *pebble.Options {
	turns := &compactions{}
	o := &pebble.Options{
		FS:                          fs,
		FormatMajorVersion:          pebble.FormatWALSyncChunks,
		CacheSize:                   8 << 20,
		MemTableSize:                memTableSize,
		MemTableStopWritesThreshold: neverStop, // see unflushed
		L0StopWritesThreshold:       neverStop,

		MaxOpenFiles:       256,
		DisableTableStats:  true,
		WALMinSyncInterval: s.company.interval,
		Logger:             pebbleLogger{s},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				turns.fail()
				if s.disk.failure() != nil {
					return // pebble tries until it is closed
				}
				s.logger.Error("log: background write failed", "err", err)
				if !pebble.IsCorruptionError(err) { // that is DataCorruption's
					s.disk.setBackground(err)
				}
			},
			// Pebble would have the process end. But who reads it is refused, and it may
			// concern one group alone: see judgeTables.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				s.disk.setDamaged(fmt.Errorf("%s is damaged: %w", info.Path, ErrDamaged))
				notify(s.tableC)
			},
			WALCreated: func(info pebble.WALCreateInfo) { s.unflushed.seal() },
			FlushBegin: func(pebble.FlushInfo) { s.unflushed.begin() },
			FlushEnd: func(info pebble.FlushInfo) {
				if info.Err != nil && info.Err.Error() != emptyFlush {
					s.lostTable(info.Err)
					return
				}
				s.disk.setBackground(nil)
				s.unflushed.end()
			},
		},
	}
	o.CompactionConcurrencyRange = func() (int, int) { return 1, 1 }
	o.Experimental.CompactionScheduler = turns
	return o
}

// pebbleLogger sends pebble's talk to slog at debug. Fatalf must not end the
// process unseen: it fails the store, so that Run ends and says why, and freezeFS
// lets nothing more reach the disk.
type pebbleLogger struct{ s *Store }

func (l pebbleLogger) Infof(format string, args ...any) {
	if l.s.logger.Enabled(context.Background(), slog.LevelDebug) {
		l.s.logger.Debug(fmt.Sprintf(format, args...))
	}
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.s.logger.Warn(fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fulcrum.Errorf(fulcrum.CodeDisk, "log in %s: "+format, append([]any{l.s.logDir()}, args...)...)
	for _, arg := range args {
		if cause, ok := arg.(error); ok && refusedWrite(cause) {
			err.Err = noRoom(cause, false)
		}
	}
	l.s.logger.Error("log: fatal", "err", err)
	l.s.disk.fail(err)
}

// commit writes a batch to the log and, when sync is set, waits until it is on
// disk; batches that wait at the same time share a sync. An error without Maybe
// means that nothing was written. The caller gives the batch back.
func (s *Store) commit(b *pebble.Batch, sync bool) error {
	if !sync {
		return s.write(b, false)
	}
	id := s.disk.begin()
	defer s.disk.end(id)
	if err := s.disk.fault(); err != nil {
		return err
	}
	start := time.Now()
	if err := s.write(b, true); err != nil {
		return err
	}
	return s.awaitSync(b, start)
}

// append is commit for records, whose faults are injected elsewhere: groupLog.prepare
// refuses them, and a stall begins when they can be read already. It does without
// completions: its caller is woken by pebble itself.
func (s *Store) append(b *pebble.Batch, sync bool) error {
	if !sync {
		return s.write(b, false)
	}
	start := time.Now()
	id := s.disk.begin()
	defer s.disk.end(id)
	s.company.enter()
	defer s.company.leave()
	if err := s.write(b, true); err != nil {
		return err
	}
	s.disk.stall()
	return s.awaitSync(b, start)
}

// awaitSync returns when a batch that was written is on disk.
func (s *Store) awaitSync(b *pebble.Batch, start time.Time) error {
	if err := errors.Join(b.SyncWait(), s.disk.failure()); err != nil {
		return s.lost(err)
	}
	notify(s.syncedC)
	s.metrics.logSynced(time.Since(start))
	return nil
}

// write puts a batch into pebble's write-ahead log and memtable, without waiting
// for the sync.
func (s *Store) write(b *pebble.Batch, sync bool) error {
	s.pipe.Lock()
	defer s.pipe.Unlock()
	return s.pass(b, sync)
}

// pass is write for whoever holds pipe.
func (s *Store) pass(b *pebble.Batch, sync bool) error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.unflushed.room(s.disk); err != nil {
		return err
	}
	size := b.Len()
	err := guard(func() error {
		if sync {
			return s.db.ApplyNoSyncWait(b, pebble.Sync)
		}
		return s.db.Apply(b, pebble.NoSync)
	})
	if err != nil {
		s.wedged = true
		return s.lost(err)
	}
	s.unflushed.add(size)
	if failed := s.disk.failure(); failed != nil { // Fatalf was called, by us or beside us
		return s.lost(failed)
	}
	return nil
}

// done gives a batch back to pebble. After a failure pebble may still hold it.
func (s *Store) done(b *pebble.Batch) {
	if s.disk.failure() == nil {
		_ = b.Close()
	}
}

// lost fails the store after a write whose fate is unknown.
func (s *Store) lost(err error) error {
	e := *diskError(err, "write to the log in %s", s.logDir())
	e.Maybe = true
	s.disk.fail(&e)
	return &e
}

// lostTable fails the store when what was appended cannot be written to a table. Nothing is
// lost, as the log still has it; but pebble would try again and again without a pause, and
// nothing could be appended for ever.
func (s *Store) lostTable(err error) {
	if s.disk.failure() != nil {
		return
	}
	s.logger.Error("log: a table cannot be written", "err", err)
	s.disk.fail(diskError(noRoom(err, !refusedWrite(err)), "write a table of the log in %s", s.logDir()))
}

// syncLazy makes durable what was appended without a sync.
func (s *Store) syncLazy(_ context.Context) error {
	if !s.lazy.Swap(false) {
		return nil
	}
	if err := s.syncLog(); err != nil {
		if s.disk.failure() != nil {
			return err
		}
		s.lazy.Store(true) // an injected fault: try again
		notify(s.lazyC)
	}
	return nil
}

// tighten makes durable what was appended without a sync. A State must not be further on disk
// than the log that led there: a log that lost its end goes on in another way, and what is
// written then would be taken for what the State holds already.
func (s *Store) tighten() error {
	if !s.loose.Swap(false) {
		return nil
	}
	err := s.syncLog()
	if err != nil {
		s.loose.Store(true)
	}
	return err
}

// syncLog makes durable all that was written to the log.
func (s *Store) syncLog() error {
	b := s.db.NewBatch()
	defer s.done(b)
	if err := b.LogData([]byte{0}, nil); err != nil {
		return err
	}
	return s.commit(b, true)
}
