package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/node/catalog"
	"fulcrum/partition"
	"fulcrum/replication/raft"
)

// A replica in mode raft that moves to another node is filled there before it counts: the
// node learns (catalog/learners.go, raft/learners.go) until it is level with the others,
// and then the change of epoch begins. From {A, B, C} to {A, B, D}:
//
//	learners: none -> {D}, in epoch e -> D is level -> change: fence, settle A, B, C, D
//	                                                -> epoch e+1 of {A, B, D}, all based
//
// Invariant: as long as at most one node is down, a majority of replicas that hold the
// data is there in every step, but for the short fence. In epoch e it is one of A, B and C,
// whatever becomes of D. In epoch e+1 it is one of A, B and D if D has settled. If it has
// not, epoch e+1 is one of A, B and C again, unless one of those has not settled either
// (catalog.Shard.After).
//
// When there is nothing to lose by it the change begins at once, and the new replica votes
// before it has the data (decision 016): where C is down, a majority needs A and B as long
// as D is not filled, in either epoch; with a vote D lets the one of them that is left fill
// it and go on. Lost and damaged disks are that case, and have no new replica anyway. What
// decides is catalog.Spare, of the replicas that are live, before and after.

// Patience of moves.
const (
	// restartPatience is how long a node must have been down for a replica that is being
	// filled to give up what it has: to begin anew with a vote, or on another node. A restart
	// is shorter.
	restartPatience = time.Minute
	// fillPatience is how long a learner may get no further, as seen by the leader, before
	// another node is tried, if there is one. One snapshot is one step.
	fillPatience = 30 * time.Minute
)

// learning is what a controller remembers of moves. It decides by it whom to try and
// when: another controller may begin anew.
type learning struct {
	expired func(fulcrum.NodeID) bool
	heard   func(fulcrum.NodeID) bool // of now: not only not known to be away

	mu    sync.Mutex
	down  map[fulcrum.NodeID]time.Time // since when, as far as this controller knows
	fills map[fulcrum.GroupID]fill
}

// fill is how far a learner is.
type fill struct {
	learner fulcrum.NodeID
	match   uint64
	since   time.Time      // when it got there
	gaveUp  fulcrum.NodeID // the last one that got no further
}

func newLearning(expired, heard func(fulcrum.NodeID) bool) learning {
	return learning{expired: expired, heard: heard, down: map[fulcrum.NodeID]time.Time{}, fills: map[fulcrum.GroupID]fill{}}
}

// look notes who is down.
func (l *learning) look(nodes []fulcrum.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range nodes {
		_, known := l.down[id]
		switch gone := l.expired(id); {
		case !gone:
			delete(l.down, id)
		case !known:
			l.down[id] = time.Now()
		}
	}
}

// downFor reports whether a node has been down for so long.
func (l *learning) downFor(id fulcrum.NodeID, d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	since, down := l.down[id]
	return down && time.Since(since) >= d
}

// prefer leaves, of nodes that a replica of sh may move to, the one that learns already, or
// those that are live and not known to get no further; all, if there are no such.
func (l *learning) prefer(sh *catalog.Shard) func([]partition.Candidate) []partition.Candidate {
	return func(all []partition.Candidate) []partition.Candidate {
		l.mu.Lock()
		gaveUp := l.fills[sh.Group].gaveUp
		l.mu.Unlock()
		live := slices.DeleteFunc(slices.Clone(all), func(c partition.Candidate) bool {
			return l.expired(c.Node) && !(sh.Learns(c.Node) && !l.downFor(c.Node, restartPatience))
		})
		good := slices.DeleteFunc(slices.Clone(live), func(c partition.Candidate) bool { return c.Node == gaveUp })
		for _, some := range [][]partition.Candidate{good, live, all} {
			if i := slices.IndexFunc(some, func(c partition.Candidate) bool { return sh.Learns(c.Node) }); i >= 0 {
				return some[i : i+1]
			}
			if len(some) > 0 {
				return some
			}
		}
		return all
	}
}

// learners are the nodes that must learn before sh changes to next; none: it may change at
// once.
func (l *learning) learners(sh *catalog.Shard, next catalog.StartChange) []fulcrum.NodeID {
	fresh := slices.DeleteFunc(slices.Clone(next.Replicas), sh.Hosts)
	patience := time.Duration(0)
	if len(sh.Learners) > 0 {
		patience = restartPatience
	}
	well := func(id fulcrum.NodeID) bool {
		return sh.Hosts(id) && !slices.Contains(sh.Wiped, id) && !l.downFor(id, patience)
	}
	if !sh.CanLearn(next.Mode) || catalog.Spare(next.Replicas, well) >= catalog.Spare(sh.Replicas, well) {
		return nil
	}
	return fresh
}

// got notes how far a learner is; it is given up if it gets no further.
func (l *learning) got(g fulcrum.GroupID, learner fulcrum.NodeID, match uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.fills[g]
	switch {
	case f.learner != learner || f.match != match:
		f.learner, f.match, f.since = learner, match, time.Now()
	case time.Since(f.since) > fillPatience:
		f.gaveUp, f.since = learner, time.Now()
	}
	l.fills[g] = f
}

// relearns reports whether the next step of begin is to say who learns, which needs no replica.
func relearns(sh *catalog.Shard, wanted bool, learners []fulcrum.NodeID) bool {
	return !wanted || len(learners) > 0 && !slices.Equal(sh.Learners, learners)
}

// begin takes an active shard one step towards the change to next, or if none is wanted any
// more, away from it.
func (c *controller) begin(ctx context.Context, sh *catalog.Shard, next catalog.StartChange, wanted bool, learners []fulcrum.NodeID) error {
	if relearns(sh, wanted, learners) {
		_, err := c.n.propose(ctx, catalog.Command{SetLearners: &catalog.SetLearners{ShardAt: next.ShardAt, Learners: learners}})
		return err
	}
	if err := c.there(sh); err != nil {
		return err
	}
	if len(learners) == 0 && len(next.Replicas) > len(sh.Replicas) {
		if err := c.whole(ctx, sh); err != nil {
			return err
		}
	}
	if len(learners) > 0 {
		if err := c.level(ctx, sh, next, learners); err != nil {
			return err
		}
		next.Learned = true
	}
	_, err := c.n.propose(ctx, catalog.Command{StartChange: &next})
	return err
}

// level returns nil once learners hold what the others hold. Its word is a courtesy: what
// counts is who settles.
func (c *controller) level(ctx context.Context, sh *catalog.Shard, next catalog.StartChange, learners []fulcrum.NodeID) error {
	is, err := atOrderer[raft.Learning](ctx, c.n, sh, sh.Replicas, adminRequest{Do: "learn", Group: sh.Group, Epoch: sh.Epoch, With: learners})
	if err != nil {
		return err
	}
	for _, id := range learners {
		c.got(sh.Group, id, is.Match[id])
		if !slices.Contains(is.Level, id) || c.n.lives.expired(id) {
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "%s is being filled", id)
		}
	}
	then := *sh
	then.Next = &catalog.Next{Mode: next.Mode, Replicas: next.Replicas, Learned: true}
	if !catalog.EnoughSettled(&then, is.Level) || !slices.Equal(then.After(is.Level), next.Replicas) {
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "%v have all that is committed; too few to move from %v to %v", is.Level, sh.Replicas, next.Replicas)
	}
	return nil
}
