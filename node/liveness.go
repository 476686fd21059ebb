package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/node/catalog"
)

// Liveness after CockroachDB's scheme: a leader of a leader-follower shard is a
// (node, liveness epoch), and leads only while the node's lease holds.
//
// Invariant: when the catalog raises a node's liveness epoch, no lease of the old
// epoch holds any more.
//
// Proof sketch. A node's lease lasts leaseTime from the moment s at which it sent
// the renewal, on its own monotonic clock. The catalog's leader L grants it only
// after a confirmation round begun after the renewal arrived, so at some moment
// c > s a majority of the voters were still in L's term. A raise is proposed by
// whoever leads the catalog: (1) L itself waits until takeoverTime after it got
// the last renewal, which is after s; (2) a later leader L' was elected by a
// majority that left L's term after c, hence after s, and waits takeoverTime from
// its own election. takeoverTime exceeds leaseTime by more than monotonic clocks
// of two machines drift apart in that time. So s + leaseTime has passed everywhere.
const (
	leaseTime    = 3 * time.Second
	renewEvery   = time.Second
	takeoverTime = leaseTime + 500*time.Millisecond
)

// lease is this node's own.
type lease struct {
	mu    sync.Mutex
	until time.Time        // monotonic
	epoch uint64           // liveness epoch that it was granted in
	live  []fulcrum.NodeID // nodes whose leases hold, as the catalog's leader sees it
	asOf  time.Time

	resigned bool // for good: a renewal still under way must not bring it back
}

// grant answers a renewal.
type grant struct {
	Epoch uint64
	Live  []fulcrum.NodeID
}

// runLease renews the lease until ctx ends.
func (n *Node) runLease(ctx context.Context) error {
	tick := time.NewTimer(renewEvery)
	defer tick.Stop()
	for began := time.Now(); ; {
		if n.registered() && !n.isDraining() {
			n.renew(ctx)
			if err := n.stillMember(ctx, time.Since(began)); err != nil {
				return err
			}
		}
		tick.Reset(fulcrum.UntilBeat(time.Now(), renewEvery)) // all nodes at once share the leader's rounds
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (n *Node) renew(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	sent := time.Now()
	var g grant
	var err error
	switch leader, self := n.catalog.Leader(); {
	case self:
		g, err = n.grantLease(ctx, n.opt.Name, n.store.Identity().Incarnation)
	case leader == "":
		return
	default:
		g, err = ask[grant](ctx, n, leader, n.leaseRequest())
	}
	if err != nil {
		n.log.Debug("lease not renewed", "err", err)
		return
	}
	n.lease.mu.Lock()
	defer n.lease.mu.Unlock()
	if n.lease.resigned {
		return
	}
	n.lease.until, n.lease.epoch = sent.Add(leaseTime), g.Epoch
	n.lease.live, n.lease.asOf = g.Live, time.Now()
}

func (n *Node) leaseRequest() adminRequest {
	return adminRequest{Do: "lease", Life: n.store.Identity().Incarnation}
}

// removalDoubt is how long a node waits for a lease, its first one or another one, before it asks
// everybody whom it may know whether it is in the cluster at all.
const removalDoubt = takeoverTime

// stillMember returns an error when this node was removed from the cluster while it did not run, or
// nobody could reach it: its copy of the catalog, in which it is a member, is old, and nobody tells it, as
// the catalog's group sends nothing to who is not in it. It would go on with data that nobody keeps up to
// date. Only the word of a leader counts that has confirmed that it is one (grantLease).
func (n *Node) stillMember(ctx context.Context, runs time.Duration) error {
	n.lease.mu.Lock()
	if at := n.lease.asOf; !at.IsZero() {
		runs = time.Since(at)
	}
	n.lease.mu.Unlock()
	if runs < removalDoubt {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	switch _, err := n.toCatalogLeader(ctx, n.leaseRequest()); {
	case errors.Is(err, fulcrum.ErrNotFound):
		return fulcrum.Errorf(fulcrum.CodeNotFound, "node %s was removed from this cluster", n.opt.Name).
			WithHint("to add it again give it an empty data directory and --join")
	case errors.Is(err, fulcrum.ErrExists):
		return err
	}
	return nil
}

// leaseFor is the lease of this node as leader of a shard: it holds only in the
// liveness epoch in which the leadership was given.
func (n *Node) leaseFor(g fulcrum.GroupID, e fulcrum.Epoch) (time.Time, bool) {
	ref, ok := n.machine.State().Group(g)
	if !ok || ref.Shard.Epoch != e || ref.Shard.Leader != n.opt.Name {
		return time.Time{}, false
	}
	n.lease.mu.Lock()
	defer n.lease.mu.Unlock()
	return n.lease.until, n.lease.epoch == ref.Shard.LeaderEpoch && time.Now().Before(n.lease.until)
}

// liveNodes returns who is live as far as this node knows; known is false when the
// knowledge is older than a lease.
func (n *Node) liveNodes() (live []fulcrum.NodeID, known bool) {
	n.lease.mu.Lock()
	defer n.lease.mu.Unlock()
	return n.lease.live, !n.lease.asOf.IsZero() && time.Since(n.lease.asOf) < leaseTime
}

// liveness is what the catalog's leader remembers of the leases that it granted.
type liveness struct {
	mu      sync.Mutex
	term    uint64 // of the catalog leadership that the rest belongs to
	since   time.Time
	renewed map[fulcrum.NodeID]time.Time

	resigned map[fulcrum.NodeID]bool // and not renewed since

	// condemned are nodes whose liveness epoch is about to be raised: from the moment
	// at which that was decided they get no lease in the epoch named.
	condemned map[fulcrum.NodeID]uint64
}

// lead begins anew for a term: everybody counts as live for takeoverTime.
func (l *liveness) lead(term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term != term || l.renewed == nil {
		l.term, l.since, l.renewed, l.resigned, l.condemned = term, time.Now(), map[fulcrum.NodeID]time.Time{}, map[fulcrum.NodeID]bool{}, map[fulcrum.NodeID]uint64{}
	}
}

// expired reports whether no lease of node can hold any more.
func (l *liveness) expired(node fulcrum.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expiredLocked(node)
}

func (l *liveness) expiredLocked(node fulcrum.NodeID) bool {
	if l.resigned[node] {
		return true
	}
	last := l.renewed[node]
	if last.Before(l.since) {
		last = l.since
	}
	if mutant.On("stale-leader-not-fenced") {
		return time.Since(last) > leaseTime/2 // mutant: does not wait until the old leader's lease has ended
	}
	return time.Since(last) > takeoverTime
}

// heard reports whether node has a lease of this catalog leader that may hold: not only is
// it not known to be away, as after an election, it has been there since.
func (l *liveness) heard(node fulcrum.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.renewed[node].IsZero() && !l.expiredLocked(node)
}

// renewal notes that node gets a lease in a liveness epoch, or reports false: it must
// not have one.
func (l *liveness) renewal(node fulcrum.NodeID, epoch uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.condemned[node]; l.renewed == nil || ok && epoch <= e {
		return false
	}
	l.renewed[node] = time.Now()
	delete(l.resigned, node)
	return true
}

// condemn decides that the liveness epoch of node is to be raised, if its lease has
// run out. It and renewal exclude each other: else a renewal between the decision and
// the raise could let a replaced leader go on.
func (l *liveness) condemn(node fulcrum.NodeID, epoch uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.condemned == nil || !l.expiredLocked(node) {
		return false
	}
	l.condemned[node] = epoch
	return true
}

// resign makes node, and nobody else, count as expired at once: it said itself that
// its lease ended.
func (l *liveness) resign(node fulcrum.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.renewed != nil {
		l.resigned[node] = true
	}
}

// grantLease is the catalog leader's side of a renewal.
func (n *Node) grantLease(ctx context.Context, to fulcrum.NodeID, incarnation string) (grant, error) {
	term := n.catalog.Term()
	if err := n.catalog.Confirm(ctx); err != nil {
		return grant{}, err
	}
	st := n.machine.State()
	node, ok := st.Nodes[to]
	if !ok {
		return grant{}, fulcrum.Errorf(fulcrum.CodeNotFound, "node %s is not in the cluster", to)
	}
	if incarnation != node.Incarnation {
		return grant{}, fulcrum.Errorf(fulcrum.CodeExists, "a node named %s is in the cluster with another data directory", to).
			WithHint("choose another --name and an empty data directory, or start that one")
	}
	n.lives.lead(term)
	if !n.lives.renewal(to, node.Liveness) {
		return grant{}, fulcrum.Errorf(fulcrum.CodeUnavailable, "the lease of %s ran out; it gets a new one in its next liveness epoch", to)
	}
	g := grant{Epoch: node.Liveness}
	for _, id := range st.NodeNames() {
		if !n.lives.expired(id) {
			g.Live = append(g.Live, id)
		}
	}
	return g, nil
}

// resign gives up this node's lease and tells the catalog's leader, so that the
// shards that it leads get another leader at once.
func (n *Node) resign(ctx context.Context) error {
	n.lease.mu.Lock()
	n.lease.until, n.lease.resigned = time.Time{}, true
	n.lease.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		leader, self := n.catalog.Leader()
		if !self && leader != "" {
			if _, err := ask[struct{}](ctx, n, leader, adminRequest{Do: "resign"}); err == nil {
				return nil
			}
		}
		if len(n.machine.State().Nodes) < 2 {
			return nil // nobody to tell
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// acceptResignation is the catalog leader's side. The node's own word is enough: it
// has given up its lease for good before it says so.
func (n *Node) acceptResignation(ctx context.Context, from fulcrum.NodeID) error {
	term := n.catalog.Term()
	if err := n.catalog.Confirm(ctx); err != nil {
		return err
	}
	n.lives.lead(term)
	n.lives.resign(from)
	return nil
}

// registered reports whether the catalog has taken this node in, with the data
// directory that it has now.
func (n *Node) registered() bool { return n.actorNow() != 0 }

func (n *Node) actorNow() uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.actor
}

// runRegister tells the catalog who this node is, until it knows.
func (n *Node) runRegister(ctx context.Context) error {
	me := catalog.Node{Name: n.opt.Name, Zone: n.opt.Zone, RedisAddr: n.opt.RedisAddr, HTTPAddr: n.opt.HTTPAddr, PeerAddr: n.opt.PeerAddr,
		GossipAddr: n.opt.GossipAddr, Incarnation: n.store.Identity().Incarnation, Voter: isInitialVoter(n)}
	var namesake time.Time // since when a leader of our name is all that others know
	var moved time.Time    // since when we are refused another address, as a node of our name has its lease
	for {
		if !n.admitted() && !n.outside.Load() { // it is not known yet which
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		done, err := n.register(ctx, me)
		switch {
		case done:
			return err
		case ctx.Err() != nil:
			return nil
		}
		switch {
		case !errors.Is(err, fulcrum.ErrConflict):
			moved = time.Time{}
		case moved.IsZero():
			moved = time.Now()
		case time.Since(moved) > takeoverTime+renewEvery: // our own lease, of before a restart, has ended
			return fulcrum.Errorf(fulcrum.CodeExists, "a node named %s is running at another address, with a copy of this data directory: %w", me.Name, err).
				WithHint("two nodes with one memory break their promises: stop the other one first, or wipe this copy and join under another --name")
		}
		switch {
		case !errors.Is(err, errNamesake):
			namesake = time.Time{}
		case namesake.IsZero():
			namesake = time.Now()
		case time.Since(namesake) > takeoverTime: // no memory of an earlier life of ours: they would have elected another
			return fulcrum.Errorf(fulcrum.CodeExists, "a node named %s is running already; it leads the catalog", me.Name).
				WithHint("choose another --name, or stop the other one first")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func isInitialVoter(n *Node) bool {
	_, initial := n.opt.Initial[n.opt.Name]
	return initial && isVoter(n.opt.Name, n.opt.Initial)
}

func (n *Node) register(ctx context.Context, me catalog.Node) (done bool, err error) {
	if known, ok := n.machine.State().Nodes[me.Name]; ok && known.Incarnation == me.Incarnation &&
		known.PeerAddr == me.PeerAddr && known.RedisAddr == me.RedisAddr && known.HTTPAddr == me.HTTPAddr && known.GossipAddr == me.GossipAddr && known.Zone == me.Zone {
		n.setActor(known.Actor)
		return true, nil
	}
	callCtx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = n.toCatalogLeader(callCtx, adminRequest{Do: "register", Register: &me, Outside: !n.admitted()})
	if errors.Is(err, fulcrum.ErrExists) {
		return true, err
	}
	if err != nil {
		n.log.Debug("not registered yet", "err", err)
		return false, err
	}
	if err := n.admit(true); err != nil {
		return true, err
	}
	return false, nil
}

func (n *Node) setActor(actor uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.actor != actor {
		n.actor = actor
		n.clock.setActor(actor)
	}
}

func (n *Node) isDraining() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.draining
}
