package leaderfollower

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// Group is one replica of a shard in leader-follower mode. Leadership comes from
// outside: see Lead and Promise.
//
// Locks are taken in this order: logGate (whoever changes the log, its meta or the
// role), stateGate (whoever changes the State), mu (the fields below it). mu is
// never held across disk work or a message; the gates may be.
type Group struct {
	env       replication.Env
	opt       Options
	majority  int
	peers     []*peer
	started   time.Time
	nonce     uint64 // this life, towards leaders
	logGate   gate
	stateGate gate
	leadKick  chan struct{}
	writeKick chan struct{}
	applyKick chan struct{}
	failed    chan error

	mu       sync.Mutex
	running  bool
	stopped  bool
	broken   error // the disk failed: nothing goes on
	installs sync.WaitGroup
	install  *install

	want     assignment // the newest word of the catalog
	promised uint64     // accept nothing below
	leading  uint64     // the term led here; 0: not the leader
	start    uint64     // index of the no-op that began it
	led      uint64     // the newest term ever led here
	leader   fulcrum.NodeID

	hist       history
	commit     uint64
	applied    uint64
	note       stateNote // as of applied
	newest     fulcrum.Version
	fenceAt    uint64 // index of the first fence in the log or the State; 0: none
	fenceTerm  uint64
	catchingUp bool

	queue     []*pending
	queued    int64 // bytes in queue
	ordering  int   // requests taken off queue whose batch is being appended
	unapplied int64 // bytes ordered here and not applied
	overlay   map[string]dirty
	draining  time.Time // writes are held off until then (HandOver)
	waiters   []*waiter
	weakAcks  map[uint64]struct{} // acknowledged here before they were committed
	openLast  uint64              // the log's end when this life began: what it acknowledged is forgotten

	leaderLast uint64    // of the leader's log, as last heard
	fresh      time.Time // everything the leader had ordered by then is applied here
	marks      []mark
}

// assignment is what the catalog says: who leads in which term (without life).
type assignment struct {
	term   uint64
	leader fulcrum.NodeID
}

// dirty is an entry that the leader has ordered and not yet applied.
type dirty struct {
	entry fulcrum.Entry
	index uint64
}

// lifeBits of a term count the lives of its leader.
const lifeBits = 16

func firstLife(term uint64) uint64 { return term << lifeBits }

const (
	metaPromised = "promised"
	metaLed      = "led"
	metaBase     = "base"
)

func putUint(v ...uint64) (b []byte) {
	for _, x := range v {
		b = binary.AppendUvarint(b, x)
	}
	return b
}

// Open reads what env's log and state hold. The group answers once Run runs.
func Open(env replication.Env, opt Options) (*Group, error) {
	if opt.Lease == nil {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "leaderfollower: no Lease: without one two leaders could answer")
	}
	if !slices.Contains(env.Replicas, env.Node) {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "leaderfollower: %s is not among the replicas %v", env.Node, env.Replicas)
	}
	if env.Metrics == nil {
		env.Metrics = replication.NoMetrics{}
	}
	g := &Group{
		env: env, opt: opt.withDefaults(), majority: len(env.Replicas)/2 + 1, started: time.Now(),
		nonce: env.Rand.Uint64() | 1, logGate: newGate(), stateGate: newGate(),
		leadKick: make(chan struct{}, 1), writeKick: make(chan struct{}, 1), applyKick: make(chan struct{}, 1),
		failed: make(chan error, 1), weakAcks: map[uint64]struct{}{},
	}
	for _, id := range env.Replicas {
		if id != env.Node {
			g.peers = append(g.peers, &peer{id: id, kick: make(chan struct{}, 1)})
		}
	}
	if err := g.recover(); err != nil {
		return nil, err
	}
	return g, nil
}

// recover rebuilds in memory what the disk holds.
func (g *Group) recover() error {
	for _, m := range []struct {
		key string
		to  *uint64
	}{{metaPromised, &g.promised}, {metaLed, &g.led}} {
		b, err := g.env.Log.Meta(m.key)
		if err != nil {
			return g.diskError(err)
		}
		if len(b) > 0 {
			*m.to = fulcrum.NewReader(b).Uvarint()
		}
	}
	if err := g.recoverLog(); err != nil {
		return err
	}
	g.openLast, g.leaderLast = g.hist.last, g.hist.last
	g.commit, g.applied = g.env.State.Applied(), g.env.State.Applied()
	if g.catchingUp {
		g.commit, g.applied = 0, 0
	}
	return g.recoverNewest()
}

// recoverNewest finds the newest version stored, so that later ones are newer:
// from the note of this epoch, or at its start by looking at every entry.
func (g *Group) recoverNewest() error {
	if g.note.newest.IsZero() && g.applied > 0 {
		err := g.env.State.Scan(nil, nil, func(e fulcrum.Entry) bool {
			g.newest = later(g.newest, e.Version)
			return true
		})
		if err != nil {
			return g.diskError(err)
		}
		g.note.newest = g.newest
	}
	g.newest = later(g.newest, g.note.newest)
	return nil
}

func later(v, w fulcrum.Version) fulcrum.Version {
	if v.Less(w) {
		return w
	}
	return v
}

// recoverLog makes the log and the State agree. A crash may have come between the
// two steps of an install: then the State is ahead of the log, or the log holds
// another history, and the State's position becomes the log's base.
func (g *Group) recoverLog() error {
	log, state := g.env.Log, g.env.State
	note, err := g.readNote()
	if err != nil {
		return err
	}
	g.note = note
	if note.fence > 0 {
		g.fenceAt, g.fenceTerm = note.fence, note.fenceTerm
	}
	if log.Last() == 0 {
		g.catchingUp = true
		if g.env.Based {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "leaderfollower: group %d is based but its log has no base", g.env.Group)
		}
		return nil
	}
	if err := g.readBase(); err != nil {
		return err
	}
	applied := state.Applied()
	if applied < g.hist.base {
		return fulcrum.Errorf(fulcrum.CodeDisk, "leaderfollower: group %d: the state stands at %d, before the log's base %d", g.env.Group, applied, g.hist.base)
	}
	if log.Last() > g.hist.base {
		err := log.Range(g.hist.base+1, log.Last(), func(i uint64, raw []byte) error {
			r, err := decodeRecord(raw)
			if err != nil {
				return fulcrum.Errorf(fulcrum.CodeDisk, "leaderfollower: group %d, record %d: %w", g.env.Group, i, err)
			}
			g.hist.note(r.term)
			g.seen(r, i)
			return nil
		})
		if err != nil {
			return g.diskError(err)
		}
	}
	if term, ok := g.hist.termAt(applied); !ok || term != note.term {
		return g.rebaseLog(applied, note.term)
	}
	return nil
}

// readNote returns the State's note; one of an earlier epoch says nothing of this.
func (g *Group) readNote() (stateNote, error) {
	fallback := stateNote{epoch: g.env.Epoch, term: 1}
	b, err := g.env.State.Extra(noteKey)
	if err != nil {
		return fallback, g.diskError(err)
	}
	if len(b) == 0 {
		return fallback, nil
	}
	note, err := decodeNote(b)
	if err != nil {
		return fallback, fulcrum.Errorf(fulcrum.CodeDisk, "leaderfollower: group %d: the state's note: %w", g.env.Group, err)
	}
	if note.epoch != g.env.Epoch {
		return fallback, nil
	}
	return note, nil
}

// readBase finds where the log begins. The recorded base is made durable before
// the log is cut, so it may be ahead of what the log still holds, never behind.
func (g *Group) readBase() error {
	b, err := g.env.Log.Meta(metaBase)
	if err != nil {
		return g.diskError(err)
	}
	physical := g.env.Log.First() - 1
	g.hist.rebase(physical, 1)
	if len(b) > 0 {
		r := fulcrum.NewReader(b)
		base, term := r.Uvarint(), r.Uvarint()
		if base >= physical && base <= g.env.Log.Last() {
			g.hist.rebase(base, term)
		}
	}
	return nil
}

// rebaseLog empties the log and begins it behind index. The base's term is
// recorded first: a crash in between finds the same to do again.
func (g *Group) rebaseLog(index, term uint64) error {
	if err := g.env.Log.SetMeta(map[string][]byte{metaBase: putUint(index, term)}); err != nil {
		return g.diskError(err)
	}
	if err := g.env.Log.Reset(index); err != nil {
		return g.diskError(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hist.rebase(index, term)
	g.fenceAt, g.fenceTerm = g.note.fence, g.note.fenceTerm
	return nil
}

// seen notes what a record that enters the log means for the replica. The caller
// holds mu, or is recover.
func (g *Group) seen(r record, index uint64) {
	for _, e := range r.entries {
		g.newest = later(g.newest, e.Version)
	}
	if r.kind == kindFence && g.fenceAt == 0 {
		g.fenceAt, g.fenceTerm = index, r.term
	}
}

// Run implements replication.Group.
func (g *Group) Run(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	g.mu.Lock()
	g.running = true
	g.mu.Unlock()
	eg.Go(func() error { return g.direct(ctx) })
	eg.Go(func() error { return g.sequence(ctx) })
	eg.Go(func() error { return g.applyLoop(ctx) })
	for _, p := range g.peers {
		eg.Go(func() error { return g.ship(ctx, p) })
	}
	eg.Go(func() error {
		select {
		case err := <-g.failed:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	err := eg.Wait()
	g.mu.Lock()
	g.running, g.stopped = false, true
	if in := g.install; in != nil {
		in.cancel()
	}
	g.stepDown("")
	g.mu.Unlock()
	g.installs.Wait()
	return err
}

// diskError marks the group as broken and makes Run return it.
func (g *Group) diskError(err error) error {
	fe := fulcrum.Errorf(fulcrum.CodeDisk, "group %d: %w", g.env.Group, err)
	fe.Node = g.env.Node
	g.mu.Lock()
	if g.broken == nil {
		g.broken = fe
		g.leading = 0
		g.progress()
	}
	g.mu.Unlock()
	select {
	case g.failed <- fe:
	default:
	}
	return fe
}

// usable returns an error once nothing can be done here. The caller holds mu.
func (g *Group) usable() error {
	switch {
	case g.broken != nil:
		return g.broken
	case g.stopped:
		return g.refuse(fulcrum.CodeUnavailable, "the replica has stopped")
	}
	return nil
}

func (g *Group) refuse(c fulcrum.Code, format string, args ...any) *fulcrum.Error {
	e := fulcrum.Errorf(c, format, args...)
	e.Node = g.env.Node
	return e
}

// notLeader tells the coordinator whom to ask. The caller holds mu.
func (g *Group) notLeader() error {
	e := g.refuse(fulcrum.CodeNotLeader, "%s does not lead group %d", g.env.Node, g.env.Group)
	if g.leader != g.env.Node {
		e.Hint = string(g.leader)
	}
	return e
}

func (g *Group) noLease() error {
	return g.refuse(fulcrum.CodeUnavailable, "the leader %s holds no liveness lease", g.env.Node).
		WithHint("the leader's liveness lease has run out; it cannot reach the catalog, and another replica will be promoted")
}

// leaseHolds compares on the monotonic clock, where the lease's end carries it.
func (g *Group) leaseHolds() bool {
	until, ok := g.opt.Lease()
	if mutant.On("lease-ignored") {
		return true // mutant: leads until it is told otherwise
	}
	return ok && time.Now().Before(until)
}

var _ replication.Group = (*Group)(nil)
