package raft

import (
	"context"
	"errors"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// A learner is a replica that is to be one of the next epoch, and follows this one's log
// without a vote. It is filled as any replica is that is behind: by a snapshot, then by
// the log. When it holds what the others hold it settles with them, and so begins the
// next epoch with the data (decision 016).
//
// Invariant: the voters of every configuration of an epoch are Env.Replicas. The epoch
// begins with them (virtualSnapshot), and Learn, which alone makes configurations, adds
// and removes others only. So all majorities of an epoch intersect, whoever learns: those
// that commit, elect, confirm a leader and promise it a lease count voters of the
// configuration; those that a write asks for and reports count Env.Replicas.
//
// A learner that begins anew within an epoch, on an empty disk, breaks no promise: nothing
// that it said was counted. A leader that took it for further on hears so and goes back
// (protocol, Appended). It would vote, as any replica does that knows no configuration,
// but nobody asks it.

// Learning is what a leader knows of who takes part.
type Learning struct {
	// Level are the voters and learners that hold durably all that was committed when the
	// leader was asked.
	Level []fulcrum.NodeID
	// Match is how far the log of each learner is known to go; 0: not known, it may be
	// receiving a snapshot.
	Match map[fulcrum.NodeID]uint64
}

// levelPatience is how long a leader waits for learners that are on their way.
const levelPatience = 250 * time.Millisecond

// Learn makes learners, and nobody else, follow the log without a vote, and returns how
// far they are. Only the leader takes it (others answer CodeNotLeader). It is idempotent.
func (g *Group) Learn(ctx context.Context, learners []fulcrum.NodeID) (Learning, error) {
	c := g.core
	for _, id := range learners {
		if slices.Contains(g.env.Replicas, id) {
			return Learning{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%s has a vote in this epoch", id)
		}
	}
	in := c.instance.Load()
	if in == nil || !in.leads() {
		return Learning{}, c.notLeader("not the leader")
	}
	for change := g.toLearn(in, learners); change != nil; change = g.toLearn(in, learners) {
		if err := c.reconfigure(ctx, change); err != nil {
			return Learning{}, err
		}
	}
	return c.learning(ctx, in, learners)
}

// learning waits a little until learners are level, and says who is.
func (c *core) learning(ctx context.Context, in *instance, learners []fulcrum.NodeID) (Learning, error) {
	end := time.Now().Add(levelPatience)
	commit := in.commit.Load()
	for {
		leads := false
		out := Learning{Level: []fulcrum.NodeID{c.env.Node}, Match: map[fulcrum.NodeID]uint64{}}
		asked := in.ask(ctx, func(p *protocol.Raft, _ time.Time) {
			leads = p.State().Role == protocol.Leader
			for _, id := range in.others() {
				match, _ := p.Progress(id)
				if match >= commit {
					out.Level = append(out.Level, id)
				}
				if slices.Contains(learners, id) {
					out.Match[id] = match
				}
			}
		})
		switch {
		case !asked:
			return Learning{}, unavailable(c.env.Node, "too busy to say how far learners are")
		case !leads:
			return Learning{}, c.notLeader("not the leader any more")
		case time.Now().After(end), !slices.ContainsFunc(learners, func(id fulcrum.NodeID) bool { return out.Match[id] < commit }):
			return out, nil
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// toLearn is the next change, by one server, towards learners as those without a vote;
// nil: there is nothing to change.
func (g *Group) toLearn(in *instance, learners []fulcrum.NodeID) func(protocol.Configuration) protocol.Configuration {
	conf := in.view.Load().conf
	for _, id := range learners {
		if !conf.Has(id) {
			return func(c protocol.Configuration) protocol.Configuration { return c.With(protocol.Member{ID: id}) }
		}
	}
	for _, m := range conf.Members {
		if !slices.Contains(g.env.Replicas, m.ID) && !slices.Contains(learners, m.ID) {
			return func(c protocol.Configuration) protocol.Configuration { return c.Without(m.ID) }
		}
	}
	return nil
}

// reconfigure waits for its turn, then until the change is committed.
func (c *core) reconfigure(ctx context.Context, change func(protocol.Configuration) protocol.Configuration) error {
	in := c.instance.Load()
	if in == nil || !in.leads() {
		return c.notLeader("not the leader")
	}
	for {
		var index, term uint64
		var err error
		carried := in.ask(ctx, func(p *protocol.Raft, now time.Time) {
			old, _ := p.Configuration()
			next := change(old)
			if len(next.Voters()) == 0 {
				err = fulcrum.Errorf(fulcrum.CodeInvalid, "nobody would have a vote")
				return
			}
			index, term, err = p.Configure(now, next)
		})
		switch {
		case !carried:
			return fulcrum.Errorf(fulcrum.CodeUnknown, "the change was not known to be taken in before the deadline")
		case err == nil:
			return c.reached(ctx, in, term, index)
		case !errors.Is(err, protocol.ErrBusy):
			if errors.Is(err, protocol.ErrNotLeader) {
				return c.notLeader("not the leader any more")
			}
			return err
		}
		pause(ctx, 5*time.Millisecond)
		if ctx.Err() != nil {
			return unavailable(c.env.Node, "another change of the configuration is under way")
		}
	}
}
