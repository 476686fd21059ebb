package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
	"fulcrum/replication"
)

// core is one replica of a log: the library's instance, what it stands on, and what
// it lacks. Group and Replica put a machine on top.
//
// An instance can be replaced while the replica lives (renew): the library has
// states that only a new instance leaves. Everything durable is in store, snaps and
// the machine, which all instances share, one after the other.
type core struct {
	env     replication.Env
	tuning  Tuning
	machine machine
	store   *store
	snaps   *snapshots
	staging staging
	peers   peerTable

	instance   atomic.Pointer[instance]
	stopping   atomic.Bool
	quiet      atomic.Bool // the current instance must not be heard any more
	installing atomic.Bool // the machine takes in a snapshot
	transfers  atomic.Uint64
	retiring   atomic.Bool                    // takes no leadership any more
	probes     sync.WaitGroup                 // steps of probe under way
	yielded    atomic.Pointer[fulcrum.NodeID] // who leads in the place of this leader, whose disk stands still; see yield

	campaigns bool                             // see Options.Campaign
	expire    func(context.Context, *instance) // nil: nothing expires

	failed  chan error    // the first error of the disk
	renewal chan string   // why the instance must be replaced
	queue   chan *request // proposals
	reads   chan *waiter  // reads that wait for this leader's next round
	asks    chan *waiter  // reads that wait for the next question to the leader

	nonces      atomic.Uint64 // numbers the questions of this life
	lastCommand atomic.Pointer[command]
	proofs      proofs
	leases      leases
	promises    promises
	unheard     unheard
	learning    atomic.Bool
	promising   bool          // as a voter, it promises; see lease.go
	turn        chan struct{} // holds one: whoever has it may put an entry into the log, or transfer the leadership

	advanced signal // the machine moved
	elected  signal // (leader, is it me) changed
	role     role
}

// instance is one life of the library.
type instance struct {
	raft   *hraft.Raft
	trans  *transport
	cut    context.CancelFunc // ends the transport's calls
	notify chan bool
	events chan hraft.Observation

	futures futures
	passed  atomic.Uint64 // the last term for which a barrier was passed
}

// futures counts those who wait for an answer of the library. There must be none
// left before Shutdown: the library forgets what it has not answered by then.
type futures struct {
	mu     sync.Mutex
	closed bool
	n      sync.WaitGroup
}

// enter reports whether the caller may ask the library for something; if so it
// calls n.Done once it has the answer.
func (f *futures) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.n.Add(1)
	}
	return !f.closed
}

func (f *futures) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// role is what was last seen of the leadership.
type role struct {
	mu     sync.Mutex
	leader fulcrum.NodeID
	self   bool
}

func (r *role) get() (fulcrum.NodeID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader, r.self
}

// set reports whether that is news.
func (r *role) set(leader fulcrum.NodeID, self bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := r.leader != leader || r.self != self
	r.leader, r.self = leader, self
	return changed
}

func openCore(env replication.Env, t Tuning) (*core, error) {
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
	c := &core{env: env, tuning: t,
		failed: make(chan error, 1), renewal: make(chan string, 1),
		queue: make(chan *request, t.Queue), reads: make(chan *waiter, t.Reads), asks: make(chan *waiter, t.Reads),
		turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	c.transfers.Store(uint64(time.Now().UnixNano()))
	c.staging = staging{spool: env.Spool, from: map[fulcrum.NodeID]*transfer{}, whole: map[uint64]*spooled{}}
	c.snaps = &snapshots{core: c}
	store, err := openStore(env.Log, env.Metrics, t.CacheBytes, func(err error) { c.fail(err) })
	if err != nil {
		return nil, &fulcrum.Error{Code: fulcrum.CodeDisk, Op: "open", Node: env.Node, Detail: err.Error(), Err: err}
	}
	store.leading = func() bool {
		in := c.instance.Load()
		return in != nil && in.raft.State() == hraft.Leader
	}
	store.disk.limit, store.holdBytes = t.Stall, t.HoldBytes
	c.store = store
	return c, nil
}

// reconcile makes the log begin at the snapshot m unless it goes on from it. It
// finishes what a crash inside an install left half done, before anybody sees it.
func (c *core) reconcile(m snapshotMeta) error {
	if m.Index == 0 {
		return nil
	}
	c.snaps.set(m)
	first, last := c.store.bounds()
	if first == 0 {
		return nil // StoreLogs begins behind the snapshot
	}
	if m.Index+1 == first || c.store.matches(m, snapshotMeta{}) {
		return nil
	}
	if m.Index < first {
		return fmt.Errorf("the log begins at %d, behind the snapshot at %d: entries are missing", first, m.Index)
	}
	c.env.Logger.Info("the log ends before its snapshot or conflicts with it: it begins anew", "snapshot", m.Index, "last", last)
	return c.store.reset(m.Index)
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

// renew asks for another instance, and silences the current one.
func (c *core) renew(why string) {
	c.quiet.Store(true)
	select {
	case c.renewal <- why:
	default:
	}
}

func (c *core) silent() bool { return c.quiet.Load() || c.store.failed.Load() }

// config is the library's configuration. The library's lease only makes a leader step
// down; nothing is read on its strength.
func (c *core) config(notify chan bool) *hraft.Config {
	h := hraft.DefaultConfig()
	h.LocalID = hraft.ServerID(c.env.Node)
	h.HeartbeatTimeout, h.ElectionTimeout = c.tuning.Heartbeat, c.tuning.Election
	h.LeaderLeaseTimeout, h.CommitTimeout = c.tuning.LeaderLease, c.tuning.Commit
	h.MaxAppendEntries = c.tuning.MaxAppendEntries
	h.SnapshotInterval, h.SnapshotThreshold = c.tuning.SnapshotEvery, c.tuning.SnapshotEntries
	h.TrailingLogs = c.tuning.TrailingEntries
	h.BatchApplyCh = false // a proposal handed over is always answered
	h.ShutdownOnRemove = false
	h.NoSnapshotRestoreOnStart = true
	h.NoLegacyTelemetry = true
	h.NotifyCh = notify
	h.Logger = newLogger(c.env.Logger)
	return h
}

// start brings an instance to life.
func (c *core) start() (*instance, error) {
	ctx, cut := context.WithCancel(context.Background())
	in := &instance{cut: cut, notify: make(chan bool, 64), events: make(chan hraft.Observation, 64)}
	in.trans = &transport{core: c, ctx: ctx, consumer: make(chan hraft.RPC)}
	c.quiet.Store(false)
	r, err := hraft.NewRaft(c.config(in.notify), fsm{c}, c.store, c.store, c.snaps, in.trans)
	if err != nil {
		cut()
		return nil, fmt.Errorf("start raft: %w", err)
	}
	in.raft = r
	r.RegisterObserver(hraft.NewObserver(in.events, false, func(o *hraft.Observation) bool {
		switch o.Data.(type) {
		case hraft.LeaderObservation, hraft.RaftState:
			return true
		}
		return false
	}))
	c.instance.Store(in)
	return in, nil
}

// stop ends an instance. First whoever waits for the library is let go: what is
// under way commits, or else, with the network cut, the leader steps down after its
// lease and answers everything. Only then may it be shut down.
func (c *core) stop(in *instance) {
	in.futures.close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.futures.n.Wait()
	}()
	wait := func(d time.Duration) bool {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-done:
			return true
		case <-t.C:
			return false
		}
	}
	if c.silent() || !wait(250*time.Millisecond) {
		in.cut()
		if !wait(2*c.tuning.LeaderLease + 2*c.tuning.Election + c.tuning.RPC) {
			c.env.Logger.Error("the log did not answer before its end: a request is left waiting")
		}
	}
	in.cut()
	if err := in.raft.Shutdown().Error(); err != nil {
		c.env.Logger.Warn("raft shutdown", "error", err)
	}
	c.store.syncs.Wait()
}

// run lives until ctx ends (nil), or the disk fails.
func (c *core) run(ctx context.Context) error {
	defer c.staging.clear()
	defer c.probes.Wait()
	defer c.close()
	for {
		in, err := c.start()
		if err != nil {
			return c.diskError(err)
		}
		why, err := c.live(ctx, in)
		c.instance.Store(nil)
		c.announce(nil)
		if err != nil || why == "" {
			return err
		}
		c.env.Logger.Warn("this replica's raft instance is replaced", "reason", why)
	}
}

// live runs an instance until ctx ends, the disk fails or it must be replaced.
func (c *core) live(ctx context.Context, in *instance) (why string, err error) {
	inner, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.propose(inner, in) })
	wg.Go(func() { c.confirmLoop(inner, in) })
	wg.Go(func() { c.askLoop(inner, in) })
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
		c.stopping.Store(true)
	case failure := <-c.failed:
		err = c.diskError(failure)
	case why = <-c.renewal:
	}
	cancel()
	c.stop(in)
	wg.Wait()
	return why, err
}

func (c *core) diskError(err error) error {
	return &fulcrum.Error{Code: fulcrum.CodeDisk, Op: "raft", Node: c.env.Node, Detail: err.Error(), Err: err,
		Hint: "check the disk, then restart the node"}
}

// close answers whoever still waits.
func (c *core) close() {
	c.stopping.Store(true)
	for {
		select {
		case q := <-c.queue:
			q.answer(nil, unavailable(c.env.Node, "this replica is stopping"))
		case w := <-c.reads:
			w.done <- confirmation{err: unavailable(c.env.Node, "this replica is stopping")}
		case w := <-c.asks:
			w.done <- confirmation{err: unavailable(c.env.Node, "this replica is stopping")}
		default:
			return
		}
	}
}

// future is what the library returns for everything that takes time.
type future interface{ Error() error }

// await waits for f on a goroutine of the instance, so that ctx can end first.
func (c *core) await(ctx context.Context, in *instance, begin func() future) error {
	if !in.futures.enter() {
		return hraft.ErrRaftShutdown
	}
	done := make(chan error, 1)
	go func() {
		defer in.futures.n.Done()
		done <- begin().Error()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch follows the leadership. Its events may be dropped, so it looks at intervals too.
func (c *core) watch(ctx context.Context, in *instance) {
	tick := time.NewTicker(c.tuning.Heartbeat / 4)
	defer tick.Stop()
	var yield sync.WaitGroup
	defer yield.Wait()
	var yielding atomic.Bool
	for {
		c.announce(in)
		if c.stalled(in) && !yielding.Swap(true) {
			yield.Go(func() {
				defer yielding.Store(false)
				c.yield(ctx, in)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-in.notify:
		case <-in.events:
		case <-tick.C:
		}
	}
}

func (c *core) announce(in *instance) {
	var leader fulcrum.NodeID
	var self bool
	if in != nil {
		leader, self = c.leading(in)
	}
	_, was := c.role.get()
	if c.role.set(leader, self) {
		if self && !was {
			c.env.Metrics.LeaderChange()
			c.env.Logger.Info("this replica leads now", "term", in.raft.CurrentTerm())
			c.peers.reset()
		}
		c.elected.broadcast()
	}
}

// maintain cuts the log when it has grown by many bytes; the library itself counts
// only entries. What trails behind the cut is bounded by bytes, too.
func (c *core) maintain(ctx context.Context, in *instance) {
	tick := time.NewTicker(max(time.Second, c.tuning.Heartbeat))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.staging.sweep()
		size, n := c.store.grown()
		if size < c.tuning.SnapshotBytes || n == 0 {
			continue
		}
		trailing := max(64, uint64(c.tuning.SnapshotBytes)/max(1, uint64(size)/n))
		if rc := in.raft.ReloadableConfig(); trailing < c.tuning.TrailingEntries || rc.TrailingLogs != c.tuning.TrailingEntries {
			rc.TrailingLogs = min(trailing, c.tuning.TrailingEntries)
			if err := in.raft.ReloadConfig(rc); err != nil {
				c.env.Logger.Warn("trailing entries", "error", err)
			}
		}
		_ = c.snapshot(ctx, in)
	}
}

// snapshot makes the machine durable and cuts the log behind it.
func (c *core) snapshot(ctx context.Context, in *instance) error {
	err := c.await(ctx, in, func() future { return in.raft.Snapshot() })
	if errors.Is(err, hraft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
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
	_, id := in.raft.LeaderWithID()
	self := in.raft.State() == hraft.Leader
	if heir := c.yielded.Load(); heir != nil && (self || id == "" || fulcrum.NodeID(id) == c.env.Node) {
		return *heir, false
	}
	if id == "" && !self && c.store.disk.stalled() {
		return c.peers.speaker(c.tuning.Election), false // the main loop waits to store the new leader's term
	}
	return fulcrum.NodeID(id), self
}

// leads reports whether this replica leads term, with id as a member.
func (c *core) leads(term uint64, id hraft.ServerID) bool {
	in := c.instance.Load()
	if in == nil || c.silent() || in.raft.State() != hraft.Leader || in.raft.CurrentTerm() != term {
		return false
	}
	return slices.ContainsFunc(in.raft.GetConfiguration().Configuration().Servers, func(s hraft.Server) bool { return s.ID == id })
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

// voters returns the voting members of the latest configuration.
func (in *instance) voters() []fulcrum.NodeID {
	var ids []fulcrum.NodeID
	for _, s := range in.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == hraft.Voter {
			ids = append(ids, fulcrum.NodeID(s.ID))
		}
	}
	return ids
}

// members returns all servers of the latest configuration, voters or not.
func (in *instance) members() []fulcrum.NodeID {
	var ids []fulcrum.NodeID
	for _, s := range in.raft.GetConfiguration().Configuration().Servers {
		ids = append(ids, fulcrum.NodeID(s.ID))
	}
	return ids
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
