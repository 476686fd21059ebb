// Package storage is a node's disk: one log that all groups share, and the
// engine that holds their states.
//
// A write becomes durable by one append to the log (Store.Log), whose sync it
// shares with whatever else is waiting; it is then applied to a State in memory
// (Store.State) and committed to the engine in the background, together with its
// applied position, in one transaction for all groups of the node. After a crash
// a State stands at some applied position, whole, and its group replays the log
// from there. So the engine's page writes are paid per batch, not per write.
//
// The log is a pebble database, because its commit pipeline, checksums, range
// deletions and crashable memory file system are what a log needs; the engine is
// a bbolt file. Both live in one data directory, which one process locks.
//
// Open verifies both before it uses them: verify.go and boltfile.go. What it, or a reader
// or the patrol later, finds damaged of single groups is left out and told: damage.go, patrol.go, salvage.go.
//
// Start reading at Open; then log.go, begun.go and state.go.
package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"fulcrum"
)

// Options says where a Store lives and whose it is.
type Options struct {
	Dir       string // data directory; made when missing
	LogFS     vfs.FS // file system of the log; nil: the real one
	ClusterID string // must match an existing directory's
	Node      fulcrum.NodeID

	Logger     *slog.Logger          // nil: silent
	Registerer prometheus.Registerer // nil: no metrics

	// Disk tells which faults are injected; it is read at each sync. Nil: none.
	Disk func() Disk

	// Room tells how much of the disk is free. Nil: what the file system of Dir says, or,
	// with a LogFS, that there is always enough.
	Room func() (Room, error)

	// Vital are the groups that no peer can rebuild: where their states are damaged Open
	// refuses the directory. Of all others it leaves them out, see Damage.
	Vital []fulcrum.GroupID

	// CommitEvery is the pace of the engine's background commits while there is
	// something to commit; much that waits is committed sooner. Default 10 s.
	CommitEvery time.Duration
}

// What a Store keeps in memory, and how long it may leave work undone.
//
// The engine's commits compete with the log's syncs for the disk, and one that holds
// more writes touches each page once: seldom is cheaper. What is not committed yet is
// in the log, so the pace only bounds memory, and what a restart replays.
const (
	defaultCommitEvery = 10 * time.Second
	commitBytes        = 16 << 20               // applied and not yet committed, per node: commit at once
	intervalSync       = 100 * time.Millisecond // durability "interval" loses at most this much
	cutEvery           = time.Second            // pace of removing what logs cut off
	yieldEvery         = 32                     // entries written by a commit, before others may go on
	overlayLimit       = 64 << 20               // bytes applied and not yet committed, per node
	stallLimit         = time.Second            // a sync that takes longer is a bad disk
	stallMemory        = 5 * time.Second        // and stays one for so long
	damageMemory       = 15 * time.Minute       // a damaged table of the log that nobody met for so long is gone: compactions try every 5
	mendGrace          = 30 * time.Second       // how long a compaction goes on with what was cut out since
)

// Store is a node's disk. Its methods may be called from any goroutine; Close
// must not be called before the users of its Logs and States have ended.
type Store struct {
	opts   Options
	logger *slog.Logger
	lock   *dirLock
	idMu   sync.Mutex // protects id, also while it is written
	id     Identity

	disk     *disk
	spool    *spool
	room     room
	db       *pebble.DB
	synced   *synced
	bolt     *bbolt.DB
	newestTx atomic.Uint64 // that is known to be committed there
	metrics  *metrics

	// pipe keeps one batch at a time in pebble's commit pipeline (not in its
	// sync): after a failed write pebble panics in whoever comes next, with its own
	// mutex held, so nobody may come next.
	pipe    sync.Mutex
	wedged  bool        // under pipe: pebble panicked and cannot be closed
	lazy    atomic.Bool // something was appended for the interval sync
	lazyC   chan struct{}
	loose   atomic.Bool // something was appended without a sync, and perhaps not synced since
	cutC    chan struct{}
	syncedC chan struct{}
	dirtyC  chan struct{}
	muchC   chan struct{} // more than commitBytes wait
	tableC  chan struct{} // a damaged table of the log was met
	readC   chan struct{} // somebody has read the engine's file
	commitC chan struct{} // holds one token: whoever has it may write to bolt

	unflushed    unflushed
	overlayBytes atomic.Int64
	company      company

	syncing, unsynced *completions  // of writes that wait for a sync, and of others
	syncs             atomic.Uint64 // of files of the log, so far

	mu     sync.Mutex // protects the maps; never held during I/O or a wait
	logs   map[logKey]*groupLog
	states map[stateKey]*state
	gen    uint64 // newest generation number given to a bucket

	damages  map[fulcrum.GroupID]Damage
	hurts    map[fulcrum.GroupID]hurtLog // to be looked at again
	damagedC chan struct{}
	hurtC    chan struct{}

	spoilt     chan struct{} // closed when the engine's file was found damaged
	spoiltOnce sync.Once

	closeOnce sync.Once
	closeErr  error
	closed    atomic.Bool
	closing   chan struct{} // closed with closed
}

// Open opens the data directory, or makes a new one, and locks it for this
// process. Errors say what to do: in use by another process, not writable, of
// another cluster or node, or damaged (CodeDisk). Damage of single groups is no error,
// see Damages.
func Open(opts Options) (_ *Store, err error) {
	if opts.Dir == "" {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "storage: no data directory given")
	}
	if opts.CommitEvery <= 0 {
		opts.CommitEvery = defaultCommitEvery
	}
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		opts:    opts,
		logger:  logger.With("part", "storage"),
		disk:    newDisk(opts.Disk),
		lazyC:   make(chan struct{}, 1),
		cutC:    make(chan struct{}, 1),
		syncedC: make(chan struct{}, 1),
		dirtyC:  make(chan struct{}, 1),
		muchC:   make(chan struct{}, 1),
		tableC:  make(chan struct{}, 1),
		readC:   make(chan struct{}, 1),
		commitC: make(chan struct{}, 1),
		logs:    map[logKey]*groupLog{},
		states:  map[stateKey]*state{},
		closing: make(chan struct{}),

		damages: map[fulcrum.GroupID]Damage{}, damagedC: make(chan struct{}, 1), hurtC: make(chan struct{}, 1), spoilt: make(chan struct{}),
	}
	s.room = room{look: opts.Room, dir: opts.Dir}
	if opts.Room == nil && opts.LogFS == nil {
		s.room.look = roomOf(opts.Dir)
	}
	s.commitC <- struct{}{}
	s.syncing, s.unsynced = newCompletions(s), newCompletions(s)
	defer func() {
		if err != nil {
			_ = s.release()
		}
	}()
	if s.lock, err = lockDir(opts.Dir); err != nil {
		return nil, err
	}
	if s.id, err = identify(opts.Dir, opts.ClusterID, opts.Node); err != nil {
		return nil, err
	}
	if err = s.room.toStart(); err != nil {
		return nil, err
	}
	if s.spool, err = openSpool(opts.Dir, s.disk, &s.room); err != nil {
		return nil, err
	}
	watch := stopwatch{at: time.Now()}
	checked := s.checkEngine()
	defer checked() // nothing of it runs on
	if err = s.openLog(); err != nil {
		return nil, err
	}
	if err = s.loadDamages(); err != nil {
		return nil, err
	}
	watch.lap("log")
	holds, err := s.openEngine(checked, &watch)
	if err != nil {
		return nil, err
	}
	if err = s.loadStates(holds); err != nil {
		return nil, err
	}
	watch.lap("states")
	if s.metrics, err = newMetrics(opts.Registerer, s); err != nil {
		return nil, err
	}
	s.lookAtRoom()
	s.logger.Debug("the store is open", watch.laps...)
	return s, nil
}

// stopwatch notes how long each part of something took.
type stopwatch struct {
	at   time.Time
	laps []any // for a log line
}

func (w *stopwatch) lap(what string) {
	now := time.Now()
	w.laps = append(w.laps, what, now.Sub(w.at))
	w.at = now
}

// Run commits states in the background, syncs logs of interval durability, removes
// what logs cut off and says what was begun and is durable (see completions). It returns nil when ctx ends, and an error of
// CodeDisk when the disk failed: the node must then stop, because what a failed
// sync left behind is unknowable until the files are read again.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.pace(ctx, s.dirtyC, s.muchC, s.opts.CommitEvery, s.commitQuietly) })
	g.Go(func() error { return s.pace(ctx, s.readC, nil, unmapEvery, s.unmapRead) })
	g.Go(func() error { return s.patrol(ctx) })
	g.Go(func() error { return s.pace(ctx, s.lazyC, nil, intervalSync, s.syncLazy) })
	g.Go(func() error { return s.pace(ctx, s.cutC, nil, cutEvery, s.cut) })
	g.Go(func() error { return s.pace(ctx, s.syncedC, nil, syncedEvery, s.syncSynced) })
	g.Go(func() error { return s.syncing.serve(ctx) })
	g.Go(func() error { return s.unsynced.serve(ctx) })
	g.Go(func() error { return s.mindHurts(ctx) })
	g.Go(func() error { return s.pace(ctx, s.tableC, nil, tableGrace, s.judgeTables) })
	g.Go(func() error { return s.mindRoom(ctx) })
	g.Go(func() error {
		select {
		case <-s.disk.down:
			return s.disk.failure()
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// pace calls work some time after each signal, or when hurry comes before that; it
// sleeps without a timer while there is none.
func (s *Store) pace(ctx context.Context, signal, hurry <-chan struct{}, every time.Duration, work func(context.Context) error) error {
	timer := time.NewTimer(every)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-signal:
		case <-ctx.Done():
			return nil
		}
		timer.Reset(every)
		select {
		case <-timer.C:
		case <-hurry:
		case <-ctx.Done():
			return nil
		}
		if err := work(ctx); err != nil {
			return err
		}
	}
}

// notify sets a signal; one that is set already stays set.
func notify(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// NoRoom reports whether the store failed because its disk was full: see ErrNoRoom.
func (s *Store) NoRoom() bool { return errors.Is(s.disk.failure(), ErrNoRoom) }

// Health returns nil, or why the disk is bad: a sync failed, or one has been
// running for longer than stallLimit or did so a moment ago, a fault is injected, or the
// engine's file is damaged.
func (s *Store) Health() error {
	if s.IsSpoilt() {
		return errSpoilt
	}
	return s.disk.health()
}

// Close commits what is applied, syncs the log and releases the directory. Only
// the first call does so; later ones return its result.
func (s *Store) Close() error { return s.shut(true) }

// Abandon releases everything without committing what is only applied in memory:
// the engine stands where a kill would have left it.
func (s *Store) Abandon() error { return s.shut(false) }

func (s *Store) shut(flush bool) error {
	s.closeOnce.Do(func() {
		var err error
		if flush && s.disk.failure() == nil && !s.IsSpoilt() {
			err = s.commitStates(context.Background(), nil)
			err = errors.Join(err, s.cut(context.Background()), s.syncLazy(context.Background()))
		}
		s.pipe.Lock() // whoever holds it writes to a store that is open
		s.closed.Store(true)
		s.pipe.Unlock()
		close(s.closing)
		s.syncing.finish()
		s.unsynced.finish()
		s.closeErr = errors.Join(err, s.release())
	})
	return s.closeErr
}

// release closes what is open, in the reverse order of Open.
func (s *Store) release() error {
	var errs []error
	if s.metrics != nil {
		s.metrics.unregister()
	}
	if s.db != nil {
		errs = append(errs, s.closeLog())
	}
	if s.synced != nil {
		if s.disk.failure() == nil {
			errs = append(errs, s.synced.sync())
		}
		errs = append(errs, s.synced.file.Close())
	}
	if s.bolt != nil {
		<-s.commitC // no transaction is under way; nobody gets the token again
		if err := s.bolt.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", s.bolt.Path(), err))
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.release())
	}
	return errors.Join(errs...)
}

// usable returns an error when nothing more may be written.
func (s *Store) usable() error {
	if s.closed.Load() {
		return errClosed
	}
	return s.disk.failure()
}

var errClosed = &fulcrum.Error{Code: fulcrum.CodeUnavailable, Detail: "the node's storage is closed"}

// logDir is where the log lives: in the data directory, or at a fixed place of a
// given file system, so that tests can reopen it from another directory.
func (s *Store) logDir() string {
	if s.opts.LogFS == nil {
		return filepath.Join(s.opts.Dir, "log")
	}
	return "log"
}

// openLog opens the pebble database.
func (s *Store) openLog() error {
	fs := s.opts.LogFS
	if fs == nil {
		fs = vfs.Default
	}
	dir := s.logDir()
	if err := makeDir(fs, dir); err != nil {
		return diskError(err, "make %s", dir)
	}
	torn, err := verifyLog(fs, dir)
	if err != nil {
		return err
	}
	if s.synced, err = openSynced(fs, fs.PathJoin(dir, syncedFile)); err != nil {
		return diskError(err, "open %s", fs.PathJoin(dir, syncedFile))
	}
	for _, what := range torn {
		s.logger.Info("log: a write that was cut short", "what", what)
	}
	frozen := &freezeFS{FS: fs, disk: s.disk, synced: s.synced, after: s.walSynced}
	err = guard(func() (err error) {
		s.db, err = pebble.Open(dir, pebbleOptions(frozen, s))
		return err
	})
	frozen.armed.Store(true)
	if err != nil {
		if len(torn) > 0 {
			err = fmt.Errorf("%w (%s)", err, strings.Join(torn, "; "))
		}
		return diskError(err, "open the log in %s", dir).WithHint("%s", restoreHint)
	}
	return nil
}

func makeDir(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	parent, err := fs.OpenDir(fs.PathDir(dir))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

func (s *Store) closeLog() error {
	s.pipe.Lock()
	wedged := s.wedged
	s.pipe.Unlock()
	if wedged {
		return s.disk.failure() // pebble's mutex is lost: closing it would hang
	}
	if err := guard(s.db.Close); err != nil {
		return diskError(err, "close the log in %s", s.logDir())
	}
	return nil
}
