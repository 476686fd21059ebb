package raft

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
)

// machine is what a log drives: a Group's state or a Replica's Machine. All its
// methods but open and applied are called by one goroutine at a time.
type machine interface {
	// apply takes committed entries in order; it ignores those at or below applied.
	// It returns one result an entry, nil or an entryResult.
	apply(logs []*hraft.Log) []any
	// applied is the last entry that it reflects.
	applied() uint64
	// floor is what every stamp must be above.
	floor() fulcrum.Version
	// reading is the clock that an entry carries which is proposed now in term.
	reading(term uint64) clockReading
	// capture returns at once; persist then makes everything up to now durable,
	// together with the meta.
	capture() (persist func(snapshotMeta) error)
	// open streams a snapshot at m or a newer one, and says which.
	open(m snapshotMeta) (snapshotMeta, io.ReadCloser, error)
	// install replaces everything by a stream of open, in one durable step with the
	// meta. A machine that is at meta.Index or further keeps what it has.
	install(m snapshotMeta, r io.Reader) error
}

// snapshots is the library's SnapshotStore without a copy of the data: a snapshot
// is a durable promise that the machine's own storage holds a prefix of the log,
// so that this prefix can be cut.
//
// Invariant: meta is durable, and what it stands for was durable before it was.
type snapshots struct {
	core *core

	mu      sync.Mutex
	meta    snapshotMeta // Index 0: none yet
	pending *sink        // received whole, waits for the machine's install
}

func (s *snapshots) current() (snapshotMeta, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta, s.meta.Index > 0
}

func (s *snapshots) set(m snapshotMeta) {
	s.mu.Lock()
	s.meta = m
	s.mu.Unlock()
	s.core.store.snapshotTaken(m.Index)
}

func snapshotID(index, term uint64) string { return fmt.Sprintf("%d-%d", term, index) }

func libraryMeta(m snapshotMeta) *hraft.SnapshotMeta {
	return &hraft.SnapshotMeta{Version: 1, ID: snapshotID(m.Index, m.Term), Index: m.Index, Term: m.Term,
		Configuration: m.Config, ConfigurationIndex: m.ConfigIndex}
}

// List returns the one snapshot that there is.
func (s *snapshots) List() ([]*hraft.SnapshotMeta, error) {
	m, ok := s.current()
	if !ok {
		return nil, nil
	}
	return []*hraft.SnapshotMeta{libraryMeta(m)}, nil
}

// Open streams a received snapshot, to install it, or else what the machine holds.
func (s *snapshots) Open(id string) (*hraft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	pending := s.pending
	s.mu.Unlock()
	if pending != nil && pending.ID() == id {
		return libraryMeta(pending.meta), io.NopCloser(bytes.NewReader(nil)), nil
	}
	m, ok := s.current()
	if !ok || snapshotID(m.Index, m.Term) != id {
		return nil, nil, fmt.Errorf("no snapshot %s", id)
	}
	release := s.core.store.holdOpen(m.Index)
	m, rc, err := s.core.machine.open(m)
	if err == nil {
		rc, err = s.core.spool(rc)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return libraryMeta(m), held{rc, release}, nil
}

// held is a snapshot whose successors in the log stay until it is closed.
type held struct {
	io.ReadCloser
	release func()
}

func (h held) Close() error {
	h.release()
	return h.ReadCloser.Close()
}

// Create begins a snapshot: one of our own, or one that a leader sent. It never
// goes backwards: the entries behind an older one may have been cut.
func (s *snapshots) Create(_ hraft.SnapshotVersion, index, term uint64, c hraft.Configuration, configIndex uint64, _ hraft.Transport) (hraft.SnapshotSink, error) {
	m, ok := s.current()
	if ok && index < m.Index {
		return nil, fmt.Errorf("snapshot at %d refused: there is one at %d", index, m.Index)
	}
	return &sink{store: s, meta: snapshotMeta{Index: index, Term: term, Config: c, ConfigIndex: configIndex}}, nil
}

// sink takes in, through the library, not a received snapshot but the number under
// which staging has it. Our own snapshots write nothing.
type sink struct {
	store  *snapshots
	meta   snapshotMeta
	ticket []byte
	own    bool
}

func (k *sink) ID() string { return snapshotID(k.meta.Index, k.meta.Term) }

func (k *sink) Write(p []byte) (int, error) {
	if len(k.ticket)+len(p) > ticketBytes {
		return 0, errors.New("a snapshot came past staging")
	}
	k.ticket = append(k.ticket, p...)
	return len(p), nil
}

func (k *sink) Cancel() error { return nil }

// Close hands a received snapshot over to restore; our own is done already.
func (k *sink) Close() error {
	if k.own {
		return nil
	}
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	k.store.pending = k
	return nil
}

// fsm is the library's state machine over a machine. Its methods run on the
// library's one machine goroutine, except Persist.
type fsm struct{ core *core }

func (f fsm) Apply(l *hraft.Log) any { return f.ApplyBatch([]*hraft.Log{l})[0] }

func (f fsm) ApplyBatch(logs []*hraft.Log) []any {
	f.core.store.awaitDurable(logs[len(logs)-1].Index)
	if f.core.store.failed.Load() {
		// Entries that could not be read may be missing here: apply nothing more.
		return make([]any, len(logs))
	}
	results := f.core.machine.apply(logs)
	f.core.advanced.broadcast()
	return results
}

func (f fsm) Snapshot() (hraft.FSMSnapshot, error) {
	if f.core.store.failed.Load() {
		return nil, errors.New("the replica has failed")
	}
	return capture{f.core, f.core.machine.capture()}, nil
}

// Restore installs the snapshot that was received last. Order: (1) the machine and
// the meta become durable in one step; from here on a crash leaves a replica that
// begins at the snapshot, whatever its log holds (see core.reconcile). (2) The log
// is cut by the library. If the log conflicts with the snapshot, the library would
// go on believing in its old end, and could win an election with entries that it
// has dropped: so this instance is silenced and replaced by one that reads the end
// anew.
func (f fsm) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	c := f.core
	c.snaps.mu.Lock()
	k := c.snaps.pending
	c.snaps.pending = nil
	c.snaps.mu.Unlock()
	if k == nil {
		return errors.New("no snapshot was received")
	}
	old, _ := c.snaps.current()
	if k.meta.Index < old.Index {
		return fmt.Errorf("snapshot at %d refused: there is one at %d", k.meta.Index, old.Index)
	}
	matches := c.store.matches(k.meta, old)
	c.installing.Store(true)
	defer c.installing.Store(false)
	data := c.staging.claim(k.ticket)
	if data == nil {
		return fmt.Errorf("snapshot at %d is not here any more", k.meta.Index)
	}
	defer data.Close()
	if err := c.machine.install(k.meta, data.read()); err != nil {
		return fmt.Errorf("install snapshot at %d: %w", k.meta.Index, err)
	}
	c.store.retain.Store(matches)
	c.snaps.set(k.meta)
	c.advanced.broadcast()
	if _, last := c.store.bounds(); !matches && last >= k.meta.Index {
		c.renew("the log conflicts with an installed snapshot")
	}
	return nil
}

// capture is a snapshot of our own while it is made durable.
type capture struct {
	core    *core
	persist func(snapshotMeta) error
}

func (p capture) Persist(s hraft.SnapshotSink) error {
	k, ok := s.(*sink)
	if !ok {
		return fmt.Errorf("foreign sink %T", s)
	}
	k.own = true
	if err := p.persist(k.meta); err != nil {
		return err
	}
	p.core.snaps.set(k.meta)
	return s.Close()
}

func (capture) Release() {}

var (
	_ hraft.BatchingFSM   = fsm{}
	_ hraft.SnapshotStore = (*snapshots)(nil)
)
