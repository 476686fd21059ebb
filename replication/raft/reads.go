package raft

import (
	"context"
	"fmt"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// sessionPatience is how long a replica waits to catch up with a session before it
// sends the read to the leader.
const sessionPatience = 100 * time.Millisecond

// answer runs read, which looks at State, when and if this replica may answer at the
// level, perhaps more than once: the last run counts.
func (g *Group) answer(ctx context.Context, level consistency.Level, min replication.Position, witness fulcrum.NodeID, read func() error) (replication.Outcome, error) {
	if level.Kind == consistency.Default {
		level = consistency.L(consistency.Linearizable)
	}
	if g.catchingUp() {
		return replication.Outcome{}, g.core.notLeader("this replica is still receiving the shard")
	}
	var out replication.Outcome
	var err error
	before := uint64(0)
	if mutant.On("position-before-read") {
		before = g.env.State.Applied()
	}
	switch level.Kind {
	case consistency.Linearizable:
		out, err = g.linearizable(ctx, level, witness, read)
	case consistency.Lease:
		out, err = g.leased(ctx, level, read)
	case consistency.Bounded:
		out, err = g.bounded(ctx, level, min, read)
	case consistency.Session, consistency.One, consistency.LocalOne, consistency.Prefix:
		out, err = g.asItIs(ctx, level, min, read)
	default:
		err = fulcrum.Errorf(fulcrum.CodeLevel, "level %s is not offered for reads in mode raft", level)
	}
	if err != nil {
		return replication.Outcome{}, err
	}
	// Taken after the read: the position must cover all that it shows.
	if out.Position.Index = g.env.State.Applied(); mutant.On("position-before-read") {
		out.Position.Index = before // mutant: it may show more than that
	}
	return out, nil
}

// asItIs answers with what this replica has, once it has what the session has seen.
func (g *Group) asItIs(ctx context.Context, level consistency.Level, min replication.Position, read func() error) (replication.Outcome, error) {
	if min.Index > g.env.State.Applied() {
		if err := g.reach(ctx, min.Index); err != nil {
			return replication.Outcome{}, err
		}
	}
	leader, _ := g.core.leader()
	return replication.Outcome{Given: level, Leader: leader, Acks: 1, Needed: 1, Position: g.position(), Staleness: -1}, read()
}

// linearizable answers on any replica, after a round that began when the read had
// arrived.
//
// The fence is looked at when the read index is applied. Had the epoch ended before
// the read arrived, the fence would be at or below the read index, and so be seen: what
// the next epoch acknowledges is not missed by reads of this one.
func (g *Group) linearizable(ctx context.Context, level consistency.Level, witness fulcrum.NodeID, read func() error) (replication.Outcome, error) {
	r, err := g.confirmed(ctx, false, witness)
	if err != nil {
		return replication.Outcome{}, err
	}
	return g.outcome(level, r), read()
}

func (g *Group) outcome(level consistency.Level, r confirmation) replication.Outcome {
	return replication.Outcome{Given: level, Leader: r.leader, Acks: r.acks, Needed: r.need, Position: replication.Position{Term: r.term}}
}

// confirmed returns when this replica holds everything that was acknowledged before
// the call, in this epoch; where it lacks the word of a witness, once that has been said.
func (g *Group) confirmed(ctx context.Context, lease bool, witness fulcrum.NodeID) (confirmation, error) {
	if err := g.open(); err != nil {
		return confirmation{}, err
	}
	r, err := g.prove(ctx, lease, witness)
	if err != nil {
		return r, err
	}
	return r, g.open()
}

// open returns an error behind the fence.
func (g *Group) open() error {
	if at := g.keeper.fence.Load(); at != nil {
		return errFenced(*at)
	}
	return nil
}

// prove is a round of our own or a question to the leader, but for the mutants.
func (g *Group) prove(ctx context.Context, lease bool, witness fulcrum.NodeID) (confirmation, error) {
	_, self := g.core.leader()
	if self && mutant.On("no-confirm") {
		return confirmation{leader: g.env.Node}, nil // mutant: thinks that it leads, and asks nobody
	}
	if in := g.core.instance.Load(); self && mutant.On("verify-leader-only") && in != nil {
		return confirmation{leader: g.env.Node}, g.core.verifyLeader(ctx, in) // mutant: no round of its own, and no barrier
	}
	if r, ok := g.core.pair(witness); ok && self {
		return r, g.core.reflect(ctx, r.index)
	}
	if self {
		return g.core.confirm(ctx, lease)
	}
	if g.core.instance.Load() == nil {
		return confirmation{}, g.core.notLeader("this replica is not running")
	}
	r, err := g.core.join(ctx, g.core.asks, false, "the leader gave no read index before the deadline")
	if err == nil {
		err = g.core.catchUp(ctx, r.index, r)
	}
	return r, err
}

// leased answers on the leader alone: under a lease without a round, else after one
// that takes a lease for the reads behind it. That the lease was held is looked at
// after the read, so a pause between the two is no danger.
//
// Under a lease, too, the machine must first reflect what is committed: followers may
// have shown it (confirm.go).
func (g *Group) leased(ctx context.Context, level consistency.Level, read func() error) (replication.Outcome, error) {
	c := g.core
	if _, self := c.leader(); !self {
		return replication.Outcome{}, c.notLeader("only the leader holds a lease")
	}
	if l := c.held(); l != nil {
		if commit := l.in.commit.Load(); c.machine.applied() < commit {
			index, _ := c.readIndex(commit)
			if err := c.reflect(ctx, index); err != nil {
				return replication.Outcome{}, err
			}
		}
		if err := read(); err != nil {
			return replication.Outcome{}, err
		}
		if err := g.open(); err != nil {
			return replication.Outcome{}, err
		}
		if c.holds(l) || mutant.On("lease-not-looked-at-again") { // mutant: what held before the read does still
			l.renew(c)
			return replication.Outcome{Given: level, Leader: g.env.Node, Acks: 1, Needed: 1, ClockBound: l.bound,
				Position: replication.Position{Term: l.term}}, nil
		}
	}
	r, err := g.confirmed(ctx, true, "")
	if err != nil {
		return replication.Outcome{}, err
	}
	return g.outcome(level, r), read()
}

// bounded answers on any replica that can prove how stale it may be: by a round or
// question of a while ago (proofs), if that is within the bound after the read, or
// else by one for this read, as linearizable reads do, with nothing stale about it.
func (g *Group) bounded(ctx context.Context, level consistency.Level, min replication.Position, read func() error) (replication.Outcome, error) {
	c := g.core
	if err := g.open(); err != nil {
		return replication.Outcome{}, err
	}
	if at, index, ok := c.proofs.newest(); ok && within(time.Since(at), level.Bound) {
		if err := c.catchUp(ctx, max(index, min.Index), confirmation{}); err != nil {
			return replication.Outcome{}, err
		}
		if err := read(); err != nil {
			return replication.Outcome{}, err
		}
		if err := g.open(); err != nil {
			return replication.Outcome{}, err
		}
		if age := time.Since(at); within(age, level.Bound) {
			leader, _ := c.leader()
			return replication.Outcome{Given: level, Leader: leader, Acks: 1, Needed: 1, Staleness: age, Position: g.position()}, nil
		}
	}
	r, err := g.confirmed(ctx, false, "")
	if err != nil {
		return replication.Outcome{}, err
	}
	return g.outcome(level, r), read()
}

// within reports whether a proof is young enough.
func within(age, bound time.Duration) bool {
	return age <= bound || mutant.On("bounded-no-proof") // mutant: a proof of any age will do
}

// reach waits a little until this replica has applied index.
func (g *Group) reach(ctx context.Context, index uint64) error {
	if mutant.On("no-index-wait") {
		return nil // mutant: answers with what it has
	}
	ctx, cancel := context.WithTimeout(ctx, sessionPatience)
	defer cancel()
	for {
		moved := g.core.advanced.wait()
		if g.env.State.Applied() >= index {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return g.core.notLeader(fmt.Sprintf("this replica is at %d, the session at %d", g.env.State.Applied(), index))
		}
	}
}
