package raft

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
)

// core is one replica of a log: the protocol at work (instance), what it stands on, and
// what goes beyond it. Group and Replica put a machine on top.
type core struct {
	env     replication.Env
	tuning  Tuning
	machine machine
	store   *store
	snaps   *snapshots
	staging staging
	peers   peerTable
	flows   flows
	parts   parts

	instance  atomic.Pointer[instance] // nil before and after Run
	stopping  atomic.Bool
	transfers atomic.Uint64
	retiring  atomic.Bool                    // takes no leadership any more
	yielded   atomic.Pointer[fulcrum.NodeID] // who leads in the place of this leader, whose disk stands still; see yield

	campaigns bool                             // see Options.Campaign
	expire    func(context.Context, *instance) // nil: nothing expires

	failed chan error       // the first error of the disk
	queue  *queue[*request] // proposals
	reads  *queue[*waiter]  // reads that wait for this leader's next round
	asks   *queue[*waiter]  // reads that wait for the next question to the leader

	nonces      atomic.Uint64 // numbers the questions of this life
	lastCommand atomic.Pointer[command]
	proofs      proofs
	leases      leases
	promises    promises
	unheard     unheard
	promising   bool          // as a voter, it promises; see lease.go
	turn        chan struct{} // holds one: whoever has it may put an entry into the log, or transfer the leadership

	underWay atomic.Pointer[proposal] // the last entry that was begun
	quiet    *time.Timer              // see quietAfter

	advanced signal // the machine moved
	elected  signal // (leader, is it me) changed
	role     role
}

// role is what was last seen of the leadership.
type role struct {
	mu     sync.Mutex
	leader fulcrum.NodeID
	self   bool
}

// set takes what look sees, and reports whether that is news, and whether this replica
// leads from now on. Looking and taking is one step, so that what was seen later stays.
func (r *role) set(look func() (leader fulcrum.NodeID, self bool)) (changed, leads bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	leader, self := look()
	changed, leads = r.leader != leader || r.self != self, self && !r.self
	r.leader, r.self = leader, self
	return changed, leads
}

func openCore(env replication.Env, t Tuning, rounds *Rounds) (*core, error) {
	if err := t.Validate(); err != nil {
		return nil, fulcrum.AsError(fmt.Errorf("raft tuning: %w", err))
	}
	t = t.withDefaults()
	if env.Metrics == nil {
		env.Metrics = replication.NoMetrics{}
	}
	if env.Logger == nil {
		env.Logger = slog.New(slog.DiscardHandler)
	}
	c := &core{env: env, tuning: t, failed: make(chan error, 1),
		turn: make(chan struct{}, 1)}
	c.queue = newQueue(rounds, t.Queue, tooMany(t.Queue, "writes").WithHint("slow down, or spread the keys over more shards"),
		func() lineKey { return lineKey{kind: entries} }, c.beginEntry)
	c.quiet = time.AfterFunc(time.Hour, c.tellQuiet)
	c.quiet.Stop()
	c.reads = newQueue(rounds, t.Reads, tooMany(t.Reads, "reads"), func() lineKey { return lineKey{kind: confirmations} }, c.beginRound)
	c.asks = newQueue(rounds, t.Reads, tooMany(t.Reads, "reads"), func() lineKey {
		leader, _ := c.leader()
		return lineKey{questions, leader}
	}, c.beginQuestion)
	c.turn <- struct{}{}
	c.transfers.Store(uint64(time.Now().UnixNano()))
	c.staging = staging{spool: env.Spool, from: map[fulcrum.NodeID]*transfer{}}
	c.flows = flows{slow: t.LeaderLease / 2, most: t.MaxAppendBytes}
	c.snaps = &snapshots{core: c, storing: make(chan struct{}, 1)}
	c.snaps.storing <- struct{}{}
	c.store = openStore(env.Log, env.Metrics, storeBounds{cache: t.CacheBytes, entries: t.MaxAppendEntries, hold: t.HoldBytes}, c.fail)
	c.store.disk.limit = t.Stall
	return c, nil
}

func tooMany(limit int, what string) *fulcrum.Error {
	return fulcrum.Errorf(fulcrum.CodeOverloaded, "%d %s are waiting already", limit, what)
}

// reconcile makes the log begin at the snapshot m unless it goes on from it. It
// finishes what a crash inside an install left half done, before anybody sees it.
func (c *core) reconcile(m snapshotMeta) error {
	if m.Index == 0 {
		return nil
	}
	first, last := c.store.First(), c.store.Last()
	e, ok := c.store.entry(m.Index)
	if c.silent() { // it cannot be read, which is not the same as missing
		return <-c.failed
	}
	c.snaps.set(m)
	if m.Index+1 == first || ok && e.Term == m.Term {
		return nil
	}
	if m.Index < first && last >= first {
		return fmt.Errorf("the log begins at %d, behind the snapshot at %d: entries are missing", first, m.Index)
	}
	if last >= first {
		c.env.Logger.Info("the log ends before its snapshot or conflicts with it: it begins anew", "snapshot", m.Index, "last", last)
	}
	return c.store.reset(m.at())
}

// fail is called once, with the first error of the disk. From here on nothing that
// this replica says is heard.
func (c *core) fail(err error) {
	c.store.failed.Store(true)
	select {
	case c.failed <- err:
	default:
	}
}

func (c *core) silent() bool { return c.store.failed.Load() }

// begin brings the protocol to life over what the log holds.
func (c *core) begin() (*instance, error) {
	hard, err := c.store.hard()
	if err != nil {
		return nil, err
	}
	var confs []protocol.ConfigurationAt
	m, ok := c.snaps.current()
	if ok {
		confs = append(confs, m.Config)
	}
	confs = append(confs, c.store.configurations(m.Index)...)
	in := &instance{core: c, begun: time.Now(), turnOver: make(chan func(), 1), timer: time.NewTimer(time.Hour),
		moved: make(chan struct{}, 1), jobs: make(chan func())}
	in.box.idle = make(chan struct{})
	in.ctx, in.cut = context.WithCancel(context.Background())
	in.raft = protocol.New(protocol.Config{ID: c.env.Node, Election: c.tuning.Heartbeat, Heartbeat: c.tuning.Heartbeat / beatsIn, Calm: calmIn * c.tuning.Heartbeat / beatsIn,
		Lease: c.tuning.LeaderLease, Retry: c.appendLimit(), Rand: c.random()}, c.store, hard, confs, in.begun)
	conf, at := in.raft.Configuration()
	in.view.Store(&view{State: in.raft.State(), conf: conf, confIndex: at})
	in.commit.Store(m.Index)
	// From where the machine is, also if the snapshot stands further on: what lies between
	// never reaches the machine, as the snapshot's meta is stored behind what it stands for.
	// Where it did not keep to that, the log still has it.
	in.applied.Store(max(c.store.First()-1, min(c.machine.applied(), c.store.Last())))
	in.armed.Store(math.MaxInt64)
	return in, nil
}

// A leader sends so many heartbeats in the time after which it is missed; one that is
// calm leaves out all but one in calmIn.
const (
	beatsIn = 4
	calmIn  = 2
)

// random seeds what spreads elections, from the environment's source.
func (c *core) random() *rand.Rand {
	if c.env.Rand == nil {
		return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return rand.New(rand.NewPCG(c.env.Rand.Uint64(), c.env.Rand.Uint64()))
}

// run lives until ctx ends (nil), or the disk fails.
func (c *core) run(ctx context.Context) error {
	defer c.staging.clear()
	defer c.parts.clear()
	defer c.close()
	in, err := c.begin()
	if err != nil {
		return c.diskError(err)
	}
	c.instance.Store(in)
	err = c.live(ctx, in)
	c.instance.Store(nil)
	c.announce(nil)
	return err
}

// live runs until ctx ends or the disk fails.
func (c *core) live(ctx context.Context, in *instance) (err error) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	in.life.Go(func() { in.serve(in.ctx) })
	in.life.Go(func() { in.apply(in.ctx) })
	in.post(event{run: func(*protocol.Raft, time.Time) {}}) // so that the timer is set
	in.greet()
	var wg sync.WaitGroup
	wg.Go(func() { c.watch(inner, in) })
	wg.Go(func() { c.maintain(inner, in) })
	if c.expire != nil {
		wg.Go(func() { c.expire(inner, in) })
	}
	if c.campaigns {
		wg.Go(func() { c.campaign(inner, in) })
	}
	select {
	case <-ctx.Done():
		c.close()
	case failure := <-c.failed:
		err = c.diskError(failure)
	}
	cancel()
	c.end(in, &wg)
	return err
}

// lastWord is how long an entry that is under way may take when the replica stops.
const lastWord = 250 * time.Millisecond

// end ends an instance: what is under way may be done yet, for a moment.
func (c *core) end(in *instance, loops *sync.WaitGroup) {
	c.quiet.Stop()
	if !c.silent() {
		t := time.NewTimer(lastWord)
		defer t.Stop()
		select {
		case <-c.turn: // for good: no entry is under way, and none begins
		case <-t.C:
		}
	}
	in.cut()
	if one := c.underWay.Load(); one != nil {
		c.abandon(one)
	}
	loops.Wait()
	in.life.Wait()
}

func (c *core) diskError(err error) error {
	return &fulcrum.Error{Code: fulcrum.CodeDisk, Op: "raft", Node: c.env.Node, Detail: err.Error(), Err: err,
		Hint: "check the disk, then restart the node"}
}

// close answers whoever still waits.
func (c *core) close() {
	c.stopping.Store(true)
	for _, reads := range []*queue[*waiter]{c.reads, c.asks} {
		for _, w := range reads.close() {
			w.tell(confirmation{err: unavailable(c.env.Node, "this replica is stopping")})
		}
	}
	for _, q := range c.queue.close() {
		q.refuse(unavailable(c.env.Node, "this replica is stopping"))
	}
}

// watch looks after a leader's disk, while it has something to do: what stands still is
// a step that has begun. Between steps it does not wake up at all, and while one follows
// the other it looks a few times a second, as it must not cost a switch of goroutines
// for each.
func (c *core) watch(ctx context.Context, in *instance) {
	tick := time.NewTimer(time.Hour)
	defer tick.Stop()
	for {
		begins := c.store.disk.rest()
		c.announce(in) // what stands still, or has just ended to, is seen by nobody else
		if c.stalled(in) {
			c.yield(ctx, in)
		}
		if begins != nil {
			select {
			case <-ctx.Done():
				return
			case <-begins:
			}
		}
		tick.Reset(c.tuning.Heartbeat / 4)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *core) announce(in *instance) {
	changed, leads := c.role.set(func() (fulcrum.NodeID, bool) {
		if in == nil {
			return "", false
		}
		return c.leading(in)
	})
	if leads {
		c.env.Metrics.LeaderChange()
		c.env.Logger.Info("this replica leads now", "term", in.term())
		c.peers.reset()
	}
	if changed {
		c.elected.broadcast()
	}
}

// maintain cuts the log when it has grown by many entries or bytes.
func (c *core) maintain(ctx context.Context, in *instance) {
	every := max(time.Second, c.tuning.Heartbeat)
	tick := time.NewTimer(every)
	defer tick.Stop()
	looked := time.Now()
	for {
		tick.Reset(fulcrum.UntilBeat(time.Now(), every))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.staging.sweep()
		c.parts.sweep()
		size, n := c.store.grown()
		often := n >= c.tuning.SnapshotEntries && time.Since(looked) >= c.tuning.SnapshotEvery
		if !often && (size < c.tuning.SnapshotBytes || n == 0) {
			continue
		}
		looked = time.Now()
		if err := c.snapshot(ctx, in); err != nil && ctx.Err() == nil {
			c.env.Logger.Warn("the log was not cut; trying again", "error", err)
		}
	}
}

// leader returns the leader as far as this replica knows it.
func (c *core) leader() (fulcrum.NodeID, bool) {
	in := c.instance.Load()
	if in == nil {
		return "", false
	}
	return c.leading(in)
}

// leading is what the instance says, unless its disk keeps it from noticing that
// another replica has taken its place.
func (c *core) leading(in *instance) (fulcrum.NodeID, bool) {
	v := in.view.Load()
	self := v.Role == protocol.Leader
	if heir := c.yielded.Load(); heir != nil && (self || v.Leader == "" || v.Leader == c.env.Node) {
		return *heir, false
	}
	if v.Leader == "" && !self && c.store.disk.stalled() {
		return c.peers.speaker(c.tuning.Election), false // the new leader's term waits for the disk
	}
	return v.Leader, self
}

// notLeader says where to go instead.
func (c *core) notLeader(detail string) *fulcrum.Error {
	leader, self := c.leader()
	e := &fulcrum.Error{Code: fulcrum.CodeNotLeader, Node: c.env.Node, Detail: detail}
	if !self && leader != c.env.Node {
		e.Hint = string(leader)
	}
	return e
}

// signal is a channel that is closed at the next change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
