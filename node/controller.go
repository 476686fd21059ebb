package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/node/catalog"
	"fulcrum/partition"
	"fulcrum/replication"
	"fulcrum/replication/leaderfollower"
)

// The controller is what the catalog's leader does for the whole cluster: it gives
// leader-follower shards their leaders, and carries changes of shards (of mode, of
// replicas) through their phases. All that it knows is in the catalog, so whoever
// leads next goes on from there; every step is idempotent and counts only at the
// epoch for which it was meant. Two controllers at once (an old leader that has
// not noticed) do no harm: each step is decided by the catalog's log.
type controller struct {
	n    *Node
	mu   sync.Mutex
	busy map[fulcrum.GroupID]bool
	why  map[fulcrum.GroupID]string // what a change is waiting for

	learning
}

// Pace and bounds of the controller.
const (
	controlEvery   = 250 * time.Millisecond
	changesAtOnce  = 4
	graceForOthers = 300 * time.Millisecond // how long a majority waits for the rest
	stepTimeout    = 5 * time.Second
)

// runController works while this node leads the catalog, until ctx ends.
func (n *Node) runController(ctx context.Context) error {
	c := &controller{n: n, busy: map[fulcrum.GroupID]bool{}, why: map[fulcrum.GroupID]string{}, learning: newLearning(n.lives.expired, n.lives.heard)}
	var g errgroup.Group
	g.SetLimit(4 * changesAtOnce)
	defer func() { _ = g.Wait() }()
	tick := time.NewTimer(controlEvery)
	defer tick.Stop()
	for {
		changed, elected := n.machine.Changed(), n.catalog.LeaderChanged()
		if _, self := n.catalog.Leader(); self {
			n.lives.lead(n.catalog.Term())
			c.round(ctx, &g)
			tick.Reset(fulcrum.UntilBeat(time.Now(), controlEvery))
		} else {
			tick.Stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-elected:
		case <-tick.C:
		}
	}
}

// round looks at every shard once and starts what is due.
func (c *controller) round(ctx context.Context, g *errgroup.Group) {
	st := c.n.machine.State()
	c.look(st.NodeNames())
	var p places
	st.Groups(func(ref catalog.ShardRef) {
		switch {
		case ref.Shard.Phase == catalog.Active:
			return
		case c.there(ref.Shard) != nil:
		case c.waited(ref.Shard.Group):
			p.stuck = append(p.stuck, ref.Shard)
		default:
			p.changing++
		}
		c.start(ctx, g, ref.Shard.Group, func(ctx context.Context) error { return c.change(ctx, ref) })
	})
	load := sync.OnceValue(st.Load)
	for _, name := range st.Names() {
		for _, sh := range st.Keyspaces[name].Shards {
			ref := catalog.ShardRef{Keyspace: st.Keyspaces[name], Shard: sh}
			switch {
			case sh.Phase != catalog.Active:
			case c.beginDue(ctx, g, st, ref, load, &p):
			case sh.Mode == consistency.LeaderFollower && c.needsLeader(st, sh):
				c.start(ctx, g, sh.Group, func(ctx context.Context) error { return c.promote(ctx, sh) })
			}
		}
	}
	c.keepMembers(ctx, g, st)
}

// places are taken by the changes of a round.
type places struct {
	changing, filling int
	stuck             []*catalog.Shard // as crowded says
}

// beginDue takes an active shard a step towards the change that it needs, unless it needs none, or
// has to wait for a place: then false.
func (c *controller) beginDue(ctx context.Context, g *errgroup.Group, st *catalog.State, ref catalog.ShardRef, load func() map[fulcrum.NodeID]int, p *places) bool {
	sh := ref.Shard
	next, ok := c.wanted(st, ref, load)
	if !ok && len(sh.Learners) == 0 {
		return false
	}
	learners := c.learners(sh, next)
	taken := &p.changing
	if len(learners) > 0 {
		taken = &p.filling // for as long as it takes: others need not wait for it
	}
	switch there := c.there(sh); {
	case there != nil && !relearns(sh, ok, learners): // it gets nowhere
		c.wait(sh.Group, there)
		return true
	case there != nil: // it takes nobody's place
	case *taken >= changesAtOnce || crowded(sh, p.stuck):
		return false
	default:
		*taken++
	}
	c.start(ctx, g, sh.Group, func(ctx context.Context) error { return c.begin(ctx, sh, next, ok, learners) })
	return true
}

// there returns an error unless the nodes of a majority of the replicas of sh count as live.
// Then no change of it is begun, which could hardly be finished and would fence what can be
// read still; and one that was begun before takes no place from those that could be made.
func (c *controller) there(sh *catalog.Shard) error {
	if catalog.Spare(sh.Replicas, func(id fulcrum.NodeID) bool { return !c.expired(id) }) < 0 {
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "no majority of its replicas on %v is there", sh.Replicas)
	}
	return nil
}

// crowded reports whether as many changes as are made at once are stuck, with replicas that
// live, on a majority of the replicas of sh. What keeps them from going on, as a cut between
// these replicas, would keep sh too, and fence what can be read still.
func crowded(sh *catalog.Shard, stuck []*catalog.Shard) bool {
	n := 0
	for _, other := range stuck {
		if catalog.Spare(sh.Replicas, other.Hosts) >= 0 {
			n++
		}
	}
	return n >= changesAtOnce
}

// start runs one step for a shard unless one is under way or the bound is reached:
// then a later round starts it.
func (c *controller) start(ctx context.Context, g *errgroup.Group, id fulcrum.GroupID, f func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[id] {
		return
	}
	c.busy[id] = g.TryGo(func() error {
		stepCtx, cancel := context.WithTimeout(ctx, 2*stepTimeout)
		defer cancel()
		err := f(stepCtx)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.busy, id)
		if err == nil {
			delete(c.why, id)
			return nil
		}
		if ctx.Err() == nil && !errors.Is(err, fulcrum.ErrConflict) {
			c.waitLocked(id, err)
		}
		return nil
	})
}

// wait notes what keeps a shard from a change. That is done by no step: many that lead nowhere
// would take the place of all others, in each round anew.
func (c *controller) wait(id fulcrum.GroupID, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy[id] {
		c.waitLocked(id, err)
	}
}

func (c *controller) waitLocked(id fulcrum.GroupID, err error) {
	if why := err.Error(); c.why[id] != why {
		c.why[id] = why
		c.n.log.Info("a shard waits", "group", id, "for", why)
	}
}

// waited reports whether the last step for a shard failed.
func (c *controller) waited(id fulcrum.GroupID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why[id] != ""
}

// wanted says which change a shard needs: to its keyspace's target mode, off a node that is
// being removed, past an epoch in which a replica lost its disk, or to one replica more
// where some are missing. load is counted on.
func (l *learning) wanted(st *catalog.State, ref catalog.ShardRef, load func() map[fulcrum.NodeID]int) (catalog.StartChange, bool) {
	sh := ref.Shard
	next := catalog.StartChange{ShardAt: catalog.ShardAt{Group: sh.Group, Epoch: sh.Epoch}, Mode: ref.Keyspace.Target, Replicas: sh.Replicas}
	if i := slices.IndexFunc(sh.Replicas, func(id fulcrum.NodeID) bool { return st.Nodes[id].Removing }); i >= 0 {
		next.Replicas = replaced(st, sh, sh.Replicas[i], ref.Keyspace.Replicas, l.best(st, ref, load))
	} else if st.Short(ref) {
		next.Replicas = l.refilled(st, ref, load)
	}
	return next, next.Mode != sh.Mode || !slices.Equal(next.Replicas, sh.Replicas) || len(sh.Wiped) > 0
}

// replaced returns the replicas of sh, of which the keyspace wants so many, with one
// of them moved elsewhere; with nowhere to go they get fewer, but never none. A shard
// with a single replica first gets a second one and drops the old in a later change,
// so that the data is never in one unfinished place. best is the one of several nodes to
// go to.
func replaced(st *catalog.State, sh *catalog.Shard, gone fulcrum.NodeID, want int, best func([]partition.Candidate) fulcrum.NodeID) []fulcrum.NodeID {
	candidates := without(st.Candidates(gone), sh)
	rest := slices.DeleteFunc(slices.Clone(sh.Replicas), func(id fulcrum.NodeID) bool { return id == gone })
	if len(candidates) == 0 && len(rest) == 0 {
		return sh.Replicas
	}
	if len(candidates) == 0 || len(rest) >= want {
		return rest
	}
	if len(rest) == 0 {
		return append(slices.Clone(sh.Replicas), best(candidates))
	}
	return append(rest, best(candidates))
}

// without returns the candidates that have no replica of sh.
func without(cs []partition.Candidate, sh *catalog.Shard) []partition.Candidate {
	return slices.DeleteFunc(cs, func(c partition.Candidate) bool { return sh.Hosts(c.Node) })
}

// change drives a shard that is not active to its next epoch.
func (c *controller) change(ctx context.Context, ref catalog.ShardRef) error {
	sh := ref.Shard
	old := slices.DeleteFunc(slices.Clone(sh.Replicas), func(id fulcrum.NodeID) bool { return slices.Contains(sh.Wiped, id) })
	began := time.Now()
	if sh.Mode == consistency.LeaderFollower && sh.Phase == catalog.Fencing {
		if st := c.n.machine.State(); c.needsLeader(st, sh) {
			if err := c.promote(ctx, sh); err != nil {
				return err
			}
		}
	}
	fence, fenced, err := c.fence(ctx, sh, old)
	if err != nil {
		return fmt.Errorf("fencing shard %d: %w", sh.Group, err)
	}
	at := catalog.ShardAt{Group: sh.Group, Epoch: sh.Epoch}
	attempt, err := c.attempt(ctx, at)
	if err != nil {
		return err
	}
	settled, err := c.settle(ctx, sh, attempt, append(fenced, sh.Learners...), fence)
	if err != nil {
		return fmt.Errorf("reconciling shard %d: %w", sh.Group, err)
	}
	finish := catalog.FinishChange{ShardAt: at, Attempt: attempt, Settled: settled}
	if sh.Next.Mode == consistency.LeaderFollower {
		finish.Leader, finish.LeaderEpoch = c.firstLeader(sh, settled)
	}
	if _, err := c.n.propose(ctx, catalog.Command{FinishChange: &finish}); err != nil {
		return err
	}
	c.n.metrics.switched(ref.Keyspace.Name, sh, time.Since(began))
	c.n.log.Info("a shard entered a new epoch", "keyspace", ref.Keyspace.Name, "group", sh.Group, "epoch", sh.Epoch+1,
		"mode", sh.Next.Mode, "settled", settled, "took", time.Since(began))
	return nil
}

// fence closes the epoch. With an orderer it goes through the log, and the
// position is the fence's; without one a majority of the replicas must be fenced,
// each by itself, so that no write can gather a majority behind it.
func (c *controller) fence(ctx context.Context, sh *catalog.Shard, replicas []fulcrum.NodeID) (replication.Position, []fulcrum.NodeID, error) {
	req := adminRequest{Do: "fence", Group: sh.Group, Epoch: sh.Epoch}
	if sh.Mode == consistency.Quorum {
		answers, err := collect(ctx, replicas, len(sh.Replicas)/2+1, graceForOthers, func(ctx context.Context, id fulcrum.NodeID) (replication.Position, error) {
			return adminThrough[replication.Position](ctx, c.n, id, replicas, req)
		})
		var max replication.Position
		var fenced []fulcrum.NodeID
		for id, p := range answers {
			fenced = append(fenced, id)
			if p.Index > max.Index {
				max = p
			}
		}
		slices.Sort(fenced)
		return max, fenced, err
	}
	p, err := atOrderer[replication.Position](ctx, c.n, sh, replicas, req)
	return p, slices.Clone(replicas), err
}

// atOrderer asks one of replicas after the other, until it finds the one that orders writes.
func atOrderer[T any](ctx context.Context, n *Node, sh *catalog.Shard, replicas []fulcrum.NodeID, req adminRequest) (out T, err error) {
	tried := map[fulcrum.NodeID]bool{}
	queue := slices.Clone(replicas)
	if sh.Leader != "" {
		queue = append([]fulcrum.NodeID{sh.Leader}, queue...)
	}
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		if tried[id] {
			continue
		}
		tried[id] = true
		callCtx, cancel := context.WithTimeout(ctx, stepTimeout/2)
		out, err = adminThrough[T](callCtx, n, id, replicas, req)
		cancel()
		if err == nil {
			return out, nil
		}
		if e := fulcrum.AsError(err); e.Code == fulcrum.CodeNotLeader && e.Hint != "" {
			queue = append([]fulcrum.NodeID{fulcrum.NodeID(e.Hint)}, queue...)
		}
	}
	return out, err
}

// attempt begins one more attempt at reconciling a fenced shard, and returns its
// number. Replicas take no step of an attempt once they have heard of a later one, and
// the catalog finishes none but the last: so a step that an earlier controller sent, and
// that arrives late, cannot make replicas unequal that have settled since.
func (c *controller) attempt(ctx context.Context, at catalog.ShardAt) (int, error) {
	made, err := c.n.propose(ctx, catalog.Command{Reconcile: &at})
	if err != nil {
		return 0, err
	}
	for {
		changed := c.n.machine.Changed()
		if st := c.n.machine.State(); st.Reached(made) {
			ref, ok := st.Group(at.Group)
			if !ok || ref.Shard.Epoch != at.Epoch || ref.Shard.Phase != catalog.Reconciling {
				return 0, fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is no longer reconciling epoch %d", at.Group, at.Epoch)
			}
			return ref.Shard.Attempt, nil
		}
		select {
		case <-ctx.Done():
			return 0, fulcrum.Errorf(fulcrum.CodeUnavailable, "the catalog's copy here is behind")
		case <-changed:
		}
	}
}

// settle brings every replica that can be reached to the same state. All of a set
// must settle together; if one of them fails, the set is tried without it.
func (c *controller) settle(ctx context.Context, sh *catalog.Shard, attempt int, fenced []fulcrum.NodeID, fence replication.Position) ([]fulcrum.NodeID, error) {
	req := adminRequest{Do: "settle", Group: sh.Group, Epoch: sh.Epoch, Attempt: attempt, Fence: fence}
	with := fenced
	for {
		req.With = with
		answers, err := collect(ctx, with, len(sh.Replicas)/2+1, time.Second, func(ctx context.Context, id fulcrum.NodeID) (struct{}, error) {
			return adminThrough[struct{}](ctx, c.n, id, with, req)
		})
		if err != nil {
			return nil, err
		}
		settled := make([]fulcrum.NodeID, 0, len(answers))
		for id := range answers {
			settled = append(settled, id)
		}
		slices.Sort(settled)
		if sh.Mode != consistency.Quorum || len(settled) == len(with) {
			if !catalog.EnoughSettled(sh, settled) {
				return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "%v settled; a majority of %v and of %v must", settled, sh.Replicas, sh.Next.Replicas)
			}
			return settled, nil
		}
		with = settled
	}
}

// collect calls f on all nodes at once. It returns the answers once all are in, or
// once need are in and grace has passed since; fewer than need is an error.
func collect[T any](ctx context.Context, nodes []fulcrum.NodeID, need int, grace time.Duration, f func(context.Context, fulcrum.NodeID) (T, error)) (map[fulcrum.NodeID]T, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	type answer struct {
		id  fulcrum.NodeID
		v   T
		err error
	}
	in := make(chan answer, len(nodes))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, id := range nodes {
		wg.Go(func() {
			v, err := f(ctx, id)
			in <- answer{id, v, err}
		})
	}
	got := map[fulcrum.NodeID]T{}
	var last error
	var late <-chan time.Time
	for range nodes {
		select {
		case a := <-in:
			if a.err != nil {
				last = a.err
				continue
			}
			if got[a.id] = a.v; len(got) == need {
				late = time.After(grace)
			}
		case <-late:
			return got, nil
		}
	}
	if len(got) < need {
		return got, fulcrum.Errorf(fulcrum.CodeUnavailable, "%d of %d replicas answered, %d needed: %v", len(got), len(nodes), need, last)
	}
	return got, nil
}

// needsLeader reports whether a leader-follower shard has no leader whose lease
// can still hold.
func (c *controller) needsLeader(st *catalog.State, sh *catalog.Shard) bool {
	leader, ok := st.Nodes[sh.Leader]
	return sh.Leader == "" || !ok || leader.Liveness != sh.LeaderEpoch || c.n.lives.expired(sh.Leader)
}

// promote gives a leader-follower shard a new leader: it fences off the old one by
// its liveness epoch, has a majority of the replicas promise not to follow an older
// term, and picks the longest log among them (leaderfollower.Group.Promise has the
// proof that nothing a majority acknowledged is lost).
func (c *controller) promote(ctx context.Context, sh *catalog.Shard) error {
	st := c.n.machine.State()
	if old, ok := st.Nodes[sh.Leader]; ok && old.Liveness == sh.LeaderEpoch {
		if !c.n.lives.condemn(sh.Leader, old.Liveness) {
			return nil
		}
		if _, err := c.n.propose(ctx, catalog.Command{Bump: &catalog.Bump{Node: sh.Leader, From: old.Liveness}}); err != nil {
			return err
		}
		st = c.n.machine.State()
	}
	term := max(sh.Term+1, catalog.FirstTerm)
	voters := slices.DeleteFunc(slices.Clone(sh.Replicas), func(id fulcrum.NodeID) bool { return slices.Contains(sh.Wiped, id) })
	promises, err := collect(ctx, voters, len(sh.Replicas)/2+1, graceForOthers, func(ctx context.Context, id fulcrum.NodeID) (leaderfollower.Promise, error) {
		return adminThrough[leaderfollower.Promise](ctx, c.n, id, voters, adminRequest{Do: "promise", Group: sh.Group, Epoch: sh.Epoch, Term: term})
	})
	if err != nil {
		return fmt.Errorf("promoting a leader of shard %d: %w", sh.Group, err)
	}
	leader := c.longest(st, sh, promises)
	if leader == "" {
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "no live replica of shard %d has the longest log", sh.Group)
	}
	_, err = c.n.propose(ctx, catalog.Command{SetLeader: &catalog.SetLeader{
		ShardAt: catalog.ShardAt{Group: sh.Group, Epoch: sh.Epoch}, Leader: leader, Term: term, LeaderEpoch: st.Nodes[leader].Liveness}})
	if err == nil {
		c.n.log.Info("a shard has a new leader", "group", sh.Group, "leader", leader, "term", term, "before", sh.Leader)
	}
	return err
}

// firstLeader picks who leads a leader-follower epoch from its start.
func (c *controller) firstLeader(sh *catalog.Shard, settled []fulcrum.NodeID) (fulcrum.NodeID, uint64) {
	st := c.n.machine.State()
	equal := map[fulcrum.NodeID]leaderfollower.Promise{}
	for _, id := range sh.Next.Replicas {
		if slices.Contains(settled, id) && !c.n.lives.expired(id) {
			equal[id] = leaderfollower.Promise{}
		}
	}
	leader := c.longest(st, sh, equal)
	return leader, st.Nodes[leader].Liveness
}

// longest picks the replica with the longest log; among equals the live one that
// leads the fewest shards, and then the first in the shard's order of placement, which
// differs from shard to shard.
func (c *controller) longest(st *catalog.State, sh *catalog.Shard, promises map[fulcrum.NodeID]leaderfollower.Promise) fulcrum.NodeID {
	leads := map[fulcrum.NodeID]int{}
	st.Groups(func(ref catalog.ShardRef) { leads[ref.Shard.Leader]++ })
	var best fulcrum.NodeID
	order := sh.Replicas
	if sh.Next != nil {
		order = append(slices.Clone(order), sh.Next.Replicas...)
	}
	for _, id := range order {
		if _, asked := promises[id]; !asked {
			continue
		}
		if best == "" || better(promises[id], promises[best]) ||
			!better(promises[best], promises[id]) && c.rank(id, leads) < c.rank(best, leads) {
			best = id
		}
	}
	return best
}

// rank orders equal candidates: live before expired, few leaderships before many.
func (c *controller) rank(id fulcrum.NodeID, leads map[fulcrum.NodeID]int) int {
	if c.n.lives.expired(id) {
		return 1 << 20
	}
	return leads[id]
}

func better(a, b leaderfollower.Promise) bool {
	if mutant.On("promote-shortest") {
		a, b = b, a // mutant: the shortest log wins
	}
	return a.LastTerm > b.LastTerm || a.LastTerm == b.LastTerm && a.LastIndex > b.LastIndex
}
