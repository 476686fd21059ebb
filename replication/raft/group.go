package raft

import (
	"context"
	"errors"
	"fmt"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
)

// Options tunes a Group.
type Options struct {
	Tuning Tuning
	// Campaign makes this replica ask to lead as soon as it runs, if the epoch has
	// just begun. One replica of a shard should.
	Campaign bool
	// Changes outlives the group, for watches; nil: the group has one of its own.
	Changes *Changes
	// Rounds is shared by all groups of a node; nil: this one shares none.
	Rounds *Rounds
}

// Group is one shard's replica in Raft mode. See replication.Group for its methods.
//
// An epoch begins from a virtual snapshot at index 1 of term 1: the State that all
// based replicas share, with all replicas as voters. No entry 1 exists, so a replica
// that is not based, whose log is empty, can only be brought up by a snapshot. Until
// then it answers no request. It does vote: it can never be elected, as it knows no
// configuration; it cannot make an uncommitted past win, as it has none; and what is
// committed in this epoch is committed by a majority that does not need its past.
// That rests on the node never reopening a group in the same epoch on a disk that
// lost what it had promised (architecture: a wiped replica comes back in a new epoch).
//
// A learner (learners.go) begins like one that is not based, and has no vote.
type Group struct {
	core    *core
	keeper  *keeper
	env     replication.Env
	changes *Changes
}

var _ replication.Group = (*Group)(nil)

// Open prepares a replica over what its log and state hold. Run brings it to life.
func Open(env replication.Env, opt Options) (*Group, error) {
	if env.MaxValue == 0 {
		env.MaxValue = fulcrum.DefaultMaxValue
	}
	if opt.Rounds == nil {
		opt.Rounds = NewRounds()
	}
	c, err := openCore(env, opt.Tuning, opt.Rounds)
	if err != nil {
		return nil, err
	}
	inTerm, err := env.Log.Meta(metaHard)
	if err != nil {
		return nil, c.diskError(err)
	}
	c.promising = true
	c.promises.begin(env.Node, len(inTerm) > 0, c.tuning.Lease)
	if opt.Changes == nil {
		opt.Changes = NewChanges(NewRoom(RoomBytes))
	}
	k, err := openKeeper(c, env, opt.Changes)
	if err != nil {
		return nil, c.diskError(err)
	}
	c.machine, c.campaigns, c.expire = k, opt.Campaign, k.expireLoop
	m, err := k.storedMeta()
	if err != nil {
		return nil, c.diskError(err)
	}
	if m.Index == 0 && env.Based {
		m = virtualSnapshot(env.Replicas)
	}
	if m.Index == 1 && env.State.Applied() < m.Index {
		return nil, c.diskError(fmt.Errorf("the state is at %d, but the epoch begins at %d", env.State.Applied(), m.Index))
	}
	if err := errors.Join(c.reconcile(m), k.agrees()); err != nil {
		return nil, c.diskError(err)
	}
	return &Group{core: c, keeper: k, env: env, changes: opt.Changes}, nil
}

func virtualSnapshot(replicas []fulcrum.NodeID) snapshotMeta {
	m := snapshotMeta{Index: 1, Term: 1}
	m.Config.Index = 1
	for _, id := range replicas {
		m.Config.Members = append(m.Config.Members, protocol.Member{ID: id, Voter: true})
	}
	return m
}

// Run implements replication.Group.
func (g *Group) Run(ctx context.Context) error {
	defer g.changes.moved.broadcast() // core is stopping: whoever waits for changes looks again
	return g.core.run(ctx)
}

// Handle implements replication.Group.
func (g *Group) Handle(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	return g.core.handle(ctx, from, msg)
}

// HandleAsync implements replication.AsyncGroup.
func (g *Group) HandleAsync(from fulcrum.NodeID, msg []byte, answer func([]byte, error)) (taken bool) {
	return g.core.take(from, msg, answer)
}

// Write implements replication.Group: every level is a majority's.
func (g *Group) Write(ctx context.Context, req replication.WriteRequest) (replication.WriteReply, error) {
	if err := req.Check(g.env.MaxValue); err != nil {
		return replication.WriteReply{}, err
	}
	if at := g.keeper.fence.Load(); at != nil && !mutant.On("switch-no-fence") {
		return replication.WriteReply{}, errFenced(*at)
	}
	if err := g.core.contact(ctx, g.env.Replicas); err != nil {
		return replication.WriteReply{}, err
	}
	a, err := g.core.submit(ctx, entryBatch, encodeRequest(req))
	if err != nil {
		return replication.WriteReply{}, err
	}
	results, ok := a.value.([]fulcrum.Result)
	otherwise, orElse := a.value.(elseRan)
	switch {
	case orElse:
		results = otherwise
	case !ok:
		return replication.WriteReply{}, fulcrum.Errorf(fulcrum.CodeUnknown, "committed, but without a result")
	}
	index := a.index
	if mutant.On("write-token-low") {
		index-- // mutant: a session need not see what it has just written
	}
	need := len(g.env.Replicas)/2 + 1
	acks := g.core.peers.holding(g.env.Replicas, a.index)
	if g.core.store.Durable() >= a.index {
		acks++
	}
	given := consistency.L(consistency.QuorumOf)
	if req.Level.Kind == consistency.Linearizable {
		given = req.Level
	}
	return replication.WriteReply{Results: results, Else: orElse, Outcome: replication.Outcome{
		Given: given, Leader: g.env.Node, Acks: max(need, acks), Needed: need, Clock: g.keeper.estimate(),
		Position: replication.Position{Term: a.term, Index: index},
	}}, nil
}

// Read implements replication.Group.
func (g *Group) Read(ctx context.Context, req replication.ReadRequest) (replication.ReadReply, error) {
	var reply replication.ReadReply
	out, err := g.answer(ctx, req.Level, req.Min, req.Witness, func() error {
		now, err := g.readClock(ctx, req.Level)
		if err != nil {
			return err
		}
		if reply.Entries, err = g.env.State.GetFirst(req.Keys, replication.MaxRead); err != nil {
			return &fulcrum.Error{Code: fulcrum.CodeDisk, Op: "read", Node: g.env.Node, Detail: err.Error(), Err: err}
		}
		for i, e := range reply.Entries {
			reply.Entries[i] = judged(e, now)
		}
		return nil
	})
	if err != nil {
		return replication.ReadReply{}, err
	}
	reply.Outcome, reply.Outcome.Clock = out, g.keeper.estimate()
	return reply, nil
}

// Scan implements replication.Group.
func (g *Group) Scan(ctx context.Context, req replication.ScanRequest) (replication.ScanReply, error) {
	var page replication.ScanPage
	if mutant.On("scan-at-one") && g.env.Group != fulcrum.CatalogGroup {
		req.Level = consistency.L(consistency.One) // mutant: a scan is what this replica has, whatever is asked
	}
	out, err := g.answer(ctx, req.Level, req.Min, "", func() error {
		now, err := g.readClock(ctx, req.Level)
		if err != nil {
			return err
		}
		page = replication.PageOf(req)
		err = g.env.State.Scan(req.Start, req.End, func(e fulcrum.Entry) bool { return !e.Live(now) || page.Take(e) })
		if err != nil {
			return &fulcrum.Error{Code: fulcrum.CodeDisk, Op: "scan", Node: g.env.Node, Detail: err.Error(), Err: err}
		}
		return nil
	})
	if err != nil {
		return replication.ScanReply{}, err
	}
	out.Clock = g.keeper.estimate()
	return replication.ScanReply{Entries: page.Entries, More: page.More, Outcome: out}, nil
}

func (g *Group) position() replication.Position {
	p := replication.Position{}
	if in := g.core.instance.Load(); in != nil {
		p.Term = in.term()
	}
	return p
}

// catchingUp reports whether this replica still waits for its first snapshot.
func (g *Group) catchingUp() bool {
	_, ok := g.core.snaps.current()
	return !ok
}

// Fence implements replication.Group.
func (g *Group) Fence(ctx context.Context) (replication.Position, error) {
	if at := g.keeper.fence.Load(); at != nil {
		return *at, nil // it is applied here, so it is committed
	}
	a, err := g.core.submit(ctx, entryFence, nil)
	if err != nil {
		return replication.Position{}, err
	}
	at, ok := a.value.(replication.Position)
	if !ok {
		return at, fulcrum.Errorf(fulcrum.CodeUnknown, "the fence is committed, but without a position")
	}
	// A follower learns that an entry is committed with the next message, which an
	// idle leader does not hurry to send. A second fence, which changes nothing,
	// carries the news at once, and those who settle need not wait.
	if _, err := g.core.submit(ctx, entryFence, nil); err != nil {
		g.env.Logger.Debug("the fence was not followed up", "err", err)
	}
	return at, nil
}

// Settle implements replication.Group: the log alone brings a replica to the fence.
func (g *Group) Settle(ctx context.Context, fence replication.Position, _ []fulcrum.NodeID) error {
	for {
		moved := g.core.advanced.wait()
		if at := g.keeper.fence.Load(); at != nil && g.env.State.Applied() >= fence.Index {
			break
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return unavailable(g.env.Node, "this replica is at %d, the fence at %d", g.env.State.Applied(), fence.Index)
		}
	}
	if err := g.env.State.Flush(ctx); err != nil {
		if ctx.Err() != nil {
			return unavailable(g.env.Node, "not durable before the deadline: %v", err)
		}
		return g.core.diskError(err)
	}
	return nil
}

// Leftovers implements replication.Group. There are none: what a replica holds
// beyond the committed log was never acknowledged to anybody.
func (g *Group) Leftovers(func(fulcrum.Entry) error) error { return nil }

// Leader returns the leader as far as this replica knows it (empty: none), and
// whether it is this one.
func (g *Group) Leader() (fulcrum.NodeID, bool) { return g.core.leader() }

// HandOver implements replication.Group.
func (g *Group) HandOver(ctx context.Context) error { return g.core.handOver(ctx, "") }

// HandOverTo is HandOver to one replica, which may refuse.
func (g *Group) HandOverTo(ctx context.Context, to fulcrum.NodeID) error {
	return g.core.handOver(ctx, to)
}

// Retire makes this replica take no leadership from now on: its node stops.
func (g *Group) Retire() { g.core.retire() }

// Status implements replication.Group.
func (g *Group) Status() replication.Status {
	s := g.core.status()
	s.Fenced = g.keeper.fence.Load() != nil
	s.CatchingUp = g.catchingUp()
	s.Keys, s.Bytes = g.env.State.Keys(), g.env.State.Bytes()
	return s
}

// status is what the log knows. It takes no lock that is held during I/O.
func (c *core) status() replication.Status {
	s := replication.Status{Applied: c.machine.applied()}
	in := c.instance.Load()
	if in == nil {
		return s
	}
	s.Leader, s.IsLeader = c.leading(in)
	s.Term, s.LastIndex, s.Committed = in.term(), c.store.Last(), in.commit.Load()
	if !s.IsLeader {
		s.Behind, s.BehindFor = c.peers.behind(in.applied.Load(), c.tuning.Election)
		return s
	}
	s.Peers = c.peers.status(in.others(), s.LastIndex)
	return s
}
