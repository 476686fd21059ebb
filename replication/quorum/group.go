// Package quorum replicates a shard without a leader: every replica takes reads
// and writes, and a level says how many of them must answer (DeCandia et al.,
// "Dynamo: Amazon's Highly Available Key-value Store", 2007). Versions decide which
// write stands (last writer wins), so merging is a join and replicas that have
// seen the same writes are equal, whatever the order.
//
// A write goes to every replica at once; one that does not answer is owed a hint.
// Reads at quorum and above bring those that answered with less up to date before
// they answer. Anti-entropy compares replicas in the background and repairs what
// hints missed.
//
// Start reading at Open, then write.go, read.go and store.go.
package quorum

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/replication"
)

// Options are what a Group can be tuned by. Zero fields take the defaults named.
type Options struct {
	ReplicaTimeout  time.Duration // after so long without an answer a replica gets a hint and counts as down; 500ms
	GiveUp          time.Duration // a call ends after so long even if the request could wait; 4 x ReplicaTimeout
	FreshFor        time.Duration // a replica heard from so recently need not be pinged before a write; 1s
	ProbeEvery      time.Duration // between pings of a replica that is down; 500ms
	SyncEvery       time.Duration // between rounds of anti-entropy, give or take a fifth; 30s
	TombstoneGrace  time.Duration // a tombstone stays so long at the least; 24h
	MaxQueue        int           // stores waiting for the log; past it CodeOverloaded; 4,096
	MaxQueueBytes   int64         // and their bytes; 64 MiB
	MaxHints        int           // hints kept; past it the replica is left to anti-entropy; 100,000
	TruncateRecords uint64        // log records that may stay behind the durable position; 1,024
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.ReplicaTimeout, 500*time.Millisecond)
	set(&o.GiveUp, 4*o.ReplicaTimeout)
	set(&o.FreshFor, time.Second)
	set(&o.ProbeEvery, 500*time.Millisecond)
	set(&o.SyncEvery, 30*time.Second)
	set(&o.TombstoneGrace, 24*time.Hour)
	if o.MaxQueue <= 0 {
		o.MaxQueue = 4096
	}
	if o.MaxQueueBytes <= 0 {
		o.MaxQueueBytes = 64 << 20
	}
	if o.MaxHints <= 0 {
		o.MaxHints = 100_000
	}
	if o.TruncateRecords == 0 {
		o.TruncateRecords = 1024
	}
	return o
}

// Group is one replica of a shard in quorum mode, and the coordinator of the
// requests that its node brings to it. It is a replication.Group.
type Group struct {
	env  replication.Env
	opt  Options
	topo topology

	queue      chan *item // to the store loop
	queueBytes atomic.Int64
	fenced     atomic.Bool
	catchingUp atomic.Bool
	lastIndex  atomic.Uint64 // of the log
	started    chan struct{} // closed when Run has begun
	stopped    chan struct{} // closed when the loops of Run have ended
	wg         sync.WaitGroup
	syncKick   chan struct{} // wakes anti-entropy

	opened time.Time
	peers  []*peer // by place in Env.Replicas; nil for this node

	mu        sync.Mutex // held for moments only, never across a channel or a call
	runCtx    context.Context
	stopping  bool
	digest    [buckets]uint64            // of State, kept by the store loop
	newest    fulcrum.Version            // of State
	forced    map[string]fulcrum.Version // by stampAbove, ahead of the clock
	forcedAll fulcrum.Version            // above all of those forgotten
	hints     int                        // marks in all peers
	hintTombs int                        // cleared marks that Hints still holds

	settling     chan struct{} // closed when the newest Settle has ended; nil: there was none
	stopSettling context.CancelFunc
}

var _ replication.Group = (*Group)(nil)

// Open makes the replica over what env's disk holds: it replays the log from
// State's applied position on. It starts no goroutine; Run does. Errors are
// *fulcrum.Error: CodeInvalid for an env that makes no sense, CodeDisk when the
// disk cannot be read or the log does not reach back to State.
func Open(env replication.Env, opt Options) (*Group, error) {
	self := slices.Index(env.Replicas, env.Node)
	if self < 0 || len(env.Replicas) > maxReplicas {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "group %d: %s must be one of at most %d replicas, not of %v", env.Group, env.Node, maxReplicas, env.Replicas)
	}
	g := &Group{env: env, opt: opt.withDefaults(), topo: topology{self: self},
		started: make(chan struct{}), stopped: make(chan struct{}), syncKick: make(chan struct{}, 1),
		forced: map[string]fulcrum.Version{}, peers: make([]*peer, len(env.Replicas))}
	g.queue = make(chan *item, g.opt.MaxQueue)
	for i, id := range env.Replicas {
		zone := ""
		if env.Zone != nil {
			zone = env.Zone(id)
		}
		g.topo.zones = append(g.topo.zones, zone)
		if i != self {
			g.peers[i] = newPeer(i, id)
		}
	}
	if err := g.recover(); err != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeDisk, "group %d: %w", env.Group, err)
	}
	return g, nil
}

// Run owns every goroutine of the group; see replication.Group.
func (g *Group) Run(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	g.mu.Lock()
	g.runCtx = ctx
	g.mu.Unlock()
	close(g.started)
	eg.Go(func() error { return g.storeLoop(ctx) })
	eg.Go(func() error { return g.syncLoop(ctx) })
	for _, p := range g.peers {
		if p != nil {
			eg.Go(func() error { return g.peerLoop(ctx, p) })
		}
	}
	err := eg.Wait()
	g.mu.Lock()
	g.stopping = true
	g.mu.Unlock()
	close(g.stopped)
	g.wg.Wait()
	return err
}

// spawn runs f on a goroutine that Run waits for; false when Run is ending.
func (g *Group) spawn(f func(ctx context.Context)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping || g.runCtx == nil {
		return false
	}
	ctx := g.runCtx
	g.wg.Go(func() { f(ctx) })
	return true
}

// ready waits until Run has begun, and refuses once it has ended.
func (g *Group) ready(ctx context.Context) error {
	select {
	case <-g.stopped:
		return g.errorf(fulcrum.CodeUnavailable, "the replica has stopped")
	default:
	}
	select {
	case <-g.started:
		return nil
	case <-ctx.Done():
		return g.errorf(fulcrum.CodeUnavailable, "the replica has not started")
	}
}

func (g *Group) errorf(c fulcrum.Code, format string, args ...any) *fulcrum.Error {
	e := fulcrum.Errorf(c, format, args...)
	e.Node = g.env.Node
	return e
}

func (g *Group) errFenced() error {
	return g.errorf(fulcrum.CodeEpoch, "epoch %d of group %d is closed", g.env.Epoch, g.env.Group)
}

// Status is cheap and never blocks.
func (g *Group) Status() replication.Status {
	applied := g.env.State.Applied()
	st := replication.Status{LastIndex: g.lastIndex.Load(), Applied: applied, Committed: applied,
		Fenced: g.fenced.Load(), CatchingUp: g.catchingUp.Load(), Keys: g.env.State.Keys(), Bytes: g.env.State.Bytes()}
	g.mu.Lock()
	defer g.mu.Unlock()
	st.Hints = g.hints
	if st.CatchingUp {
		st.BehindFor = time.Since(g.opened)
	}
	for _, p := range g.peers {
		if p != nil {
			silent := time.Since(p.heard)
			if p.heard.IsZero() {
				silent = time.Since(g.opened)
			}
			st.Peers = append(st.Peers, replication.PeerStatus{Node: p.id, Behind: uint64(len(p.hints)), Silent: silent})
		}
	}
	return st
}

// HandOver does nothing: there is no leader.
func (g *Group) HandOver(context.Context) error { return nil }

// Leftovers returns every entry, tombstones included: which of them others have
// seen is not known here, and merging one twice changes nothing. What was owed to
// others by hints is among them. It is called after Run has ended.
func (g *Group) Leftovers(yield func(fulcrum.Entry) error) error {
	var stop error
	err := g.env.State.Scan(nil, nil, func(e fulcrum.Entry) bool {
		stop = yield(e)
		return stop == nil
	})
	if stop != nil {
		return stop
	}
	if err != nil {
		return g.errorf(fulcrum.CodeDisk, "scan: %w", err)
	}
	return nil
}

// deadline bounds a request that has no deadline of its own.
func deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, fulcrum.DefaultRequestLimit)
}

func diskErr(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }
