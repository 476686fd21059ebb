package raft

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// machine is what a log drives: a Group's state or a Replica's Machine. All its
// methods but open and applied are called by one goroutine at a time.
type machine interface {
	// apply takes committed entries in order; it ignores those at or below applied.
	// It returns one result an entry, nil or an *entryResult, and may end before the last
	// one where they come to much; there is one result at least.
	apply(entries []protocol.Entry) []any
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

// snapshots knows the newest snapshot: a durable promise that the machine's own storage
// holds a prefix of the log, so that this prefix can be cut. There is no copy of the
// data.
//
// Invariant: meta is durable, and what it stands for was durable before it was. It does
// not go back: a snapshot is captured by the goroutine that applies, but stored beside it,
// and meanwhile a newer one may be installed, behind which the log begins.
type snapshots struct {
	core    *core
	storing chan struct{} // holds one: whoever has it may make meta another one

	mu      sync.Mutex
	meta    snapshotMeta            // Index 0: none yet
	sending map[fulcrum.NodeID]bool // to whom one is on its way
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
	s.core.store.snapshotTaken(m.at())
}

// store makes a captured snapshot durable, unless there is a newer one by now.
func (s *snapshots) store(ctx context.Context, m snapshotMeta, persist func(snapshotMeta) error) error {
	select {
	case <-s.storing:
		defer func() { s.storing <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if now, _ := s.current(); m.Index <= now.Index {
		return nil
	}
	if err := persist(m); err != nil {
		return err
	}
	s.set(m)
	return nil
}

// open streams what the machine holds, to a peer, if going says so until it is there. What is
// behind it in the log stays until it is closed.
func (s *snapshots) open(going func() bool) (snapshotMeta, io.ReadCloser, error) {
	m, ok := s.current()
	if !ok {
		return m, nil, fmt.Errorf("there is no snapshot")
	}
	release := s.core.store.holdOpen(m.Index)
	m, rc, err := s.core.machine.open(m)
	if err == nil {
		rc, err = s.core.spool(rc, going)
	}
	if err != nil {
		release()
		return m, nil, err
	}
	return m, held{rc, release}, nil
}

// begin notes that a snapshot is on its way to a peer, until end; false: one is already. A peer
// receives one of each sender, and a second would end the first. The protocol asks for it all the
// same, of a member that was taken out and back in.
func (s *snapshots) begin(to fulcrum.NodeID) (end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sending[to] {
		return nil, false
	}
	if s.sending == nil {
		s.sending = map[fulcrum.NodeID]bool{}
	}
	s.sending[to] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sending, to)
	}, true
}

type held struct {
	io.ReadCloser
	release func()
}

func (h held) Close() error {
	h.release()
	return h.ReadCloser.Close()
}

// installs knows the newest transfer of each peer that is whole, so that its last chunk
// may come again when its answer was lost.
//
// It installs one at a time. Others stay in staging meanwhile, where they are bounded: an
// install takes as long as its disk does, and leaders may change more often.
type installs struct {
	mu      sync.Mutex
	by      map[fulcrum.NodeID]*install
	running *install
}

type install struct {
	from     fulcrum.NodeID
	transfer uint64
	done     chan struct{} // closed when reply or err is set
	reply    protocol.Reply
	err      error
}

// installing answers a last chunk, as Reply.Last of one that is not OK: all of the snapshot is
// here, and is being installed, or waits for another one that is. So it counts for nothing yet,
// also for whoever does not know this.
const installing = 1

// outcome is what became of the transfer that a last chunk ends; not done: it is to come again.
func (one *install) outcome(from fulcrum.NodeID, ch chunk) (reply protocol.Reply, done bool, err error) {
	select {
	case <-one.done:
	default:
		return reply, false, nil
	}
	if one.from != from || one.transfer != ch.transfer {
		return reply, false, nil // it was another one's turn
	}
	return one.reply, true, one.err
}

// begin returns the install that the last chunk of a transfer asks for, or another one that
// it has to wait for.
func (s *installs) begin(in *instance, from fulcrum.NodeID, ch chunk) (*install, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.by[from]; one != nil && one.transfer == ch.transfer {
		return one, nil
	}
	if s.running != nil {
		return s.running, in.core.staging.keep(from, ch)
	}
	whole, err := in.core.staging.take(from, ch, in.core.tuning.MaxSnapshotBytes)
	if err != nil {
		return nil, err
	}
	one := &install{from: from, transfer: ch.transfer, done: make(chan struct{})}
	if s.by == nil {
		s.by = map[fulcrum.NodeID]*install{}
	}
	running := in.spawn(func() {
		defer s.end(one)
		defer whole.Close()
		one.reply, one.err = in.receive(from, ch, whole)
	})
	if !running {
		return nil, errors.Join(unavailable(in.core.env.Node, "this replica is stopping"), whole.Close())
	}
	s.by[from], s.running = one, one
	return one, nil
}

func (s *installs) end(one *install) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = nil
	close(one.done)
}

// receive installs a whole snapshot.
//
// Order: (1) the machine and the meta become durable in one step; from here on a crash
// leaves a replica that begins at the snapshot, whatever its log holds (core.reconcile).
// (2) The log is made to go on from there: what it holds behind the snapshot's own entry
// stays, for it may have been counted towards commits (Raft paper, section 7, rule 6); a
// log that does not hold that entry begins anew. Meanwhile the protocol goes on: what
// comes between the two either follows the snapshot's entry, or is before it.
func (in *instance) receive(from fulcrum.NodeID, ch chunk, data *spooled) (protocol.Reply, error) {
	var reply protocol.Reply
	var ok bool
	if !in.ask(in.ctx, func(r *protocol.Raft, now time.Time) { reply, ok = r.Offer(now, from, ch.term) }) {
		return reply, fulcrum.Errorf(fulcrum.CodeOverloaded, "too busy to take a snapshot in")
	}
	if !ok {
		return reply, nil
	}
	var err error
	if jobErr := in.job(in.ctx, func() { err = in.install(ch.meta, data) }); jobErr != nil {
		err = jobErr
	}
	if err != nil {
		return reply, fulcrum.Errorf(fulcrum.CodeConflict, "install snapshot at %d: %w", ch.meta.Index, err)
	}
	reply.Term = in.term()
	return reply, nil
}

// install runs on the goroutine that applies.
func (in *instance) install(m snapshotMeta, data *spooled) error {
	c := in.core
	select {
	case <-c.snaps.storing:
		defer func() { c.snaps.storing <- struct{}{} }()
	case <-in.ctx.Done():
		return errStopping
	}
	if old, _ := c.snaps.current(); m.Index <= old.Index {
		return nil // what it stands for is here already
	}
	if c.store.failed.Load() {
		return errFailed
	}
	if err := c.machine.install(m, while{data.read(), func() bool { return in.ctx.Err() == nil }}); err != nil {
		return err
	}
	done := make(chan struct{})
	begin := event{slow: true, run: func(r *protocol.Raft, _ time.Time) { in.beginAt(r, m) }, done: func() { close(done) }}
	for !in.post(begin) && in.ctx.Err() == nil {
		pause(in.ctx, firstPause) // too many wait, as the disk stands still
	}
	select {
	case <-done:
	case <-in.ctx.Done(): // the machine has it; reconcile does the rest
		return errStopping
	}
	c.advanced.broadcast()
	return nil
}

// beginAt makes the log go on from an installed snapshot.
func (in *instance) beginAt(r *protocol.Raft, m snapshotMeta) {
	c := in.core
	if term, ok := c.store.Term(m.Index); ok && term == m.Term {
		c.snaps.set(m)
	} else {
		in.dropReplies(0)
		if c.store.reset(m.at()) != nil {
			return
		}
		c.snaps.set(m)
	}
	r.Installed(m.Config, c.store.configurations(m.Index))
	for at := in.applied.Load(); at < m.Index && !in.applied.CompareAndSwap(at, m.Index); {
		at = in.applied.Load()
	}
}
