package replicationtest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

// OpenFunc opens one replica.
type OpenFunc func(replication.Env) (replication.Group, error)

// Options say how a Cluster differs from the plain one.
type Options struct {
	// Edit changes a replica's Env before each open.
	Edit func(env *replication.Env)
	// Govern plays the node's controller (assigns leaders ...) while the cluster
	// runs; it returns when ctx ends.
	Govern func(ctx context.Context, c *Cluster)
	// RunMayFail lets Run return an error (bad-disk tests); see RunErr.
	RunMayFail bool
}

// Cluster is the replicas of one group in one epoch: n1, n2 ...
type Cluster struct {
	Net *Network
	IDs []fulcrum.NodeID

	tb     testing.TB
	open   OpenFunc
	opt    Options
	mu     sync.Mutex
	nodes  map[fulcrum.NodeID]*replica
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// replica is one node's disk, clock and current life. Group is nil while it is down.
type replica struct {
	env    replication.Env
	log    *Log
	state  *State
	hints  *State
	skew   atomic.Int64
	group  replication.Group
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// NewCluster opens and runs n based replicas over a common empty start, position
// 1 of term 1. Close must be called, inside the same bubble.
func NewCluster(tb testing.TB, n int, open OpenFunc, opt Options) *Cluster {
	tb.Helper()
	c := &Cluster{Net: NewNetwork(), tb: tb, open: open, opt: opt, nodes: map[fulcrum.NodeID]*replica{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for i := range n {
		c.IDs = append(c.IDs, fulcrum.NodeID(fmt.Sprintf("n%d", i+1)))
	}
	for i, id := range c.IDs {
		c.nodes[id] = c.newReplica(id, uint32(i+1))
	}
	for _, id := range c.IDs {
		c.start(id)
	}
	if opt.Govern != nil {
		c.wg.Go(func() { opt.Govern(c.ctx, c) })
	}
	return c
}

func (c *Cluster) newReplica(id fulcrum.NodeID, actor uint32) *replica {
	r := &replica{log: NewLog(), state: NewState(), hints: NewState()}
	now := func() time.Time { return time.Now().Add(time.Duration(r.skew.Load())) }
	if err := r.log.Reset(1); err != nil {
		c.tb.Fatal(err)
	}
	if err := r.state.Rebase(1, nil); err != nil {
		c.tb.Fatal(err)
	}
	r.env = replication.Env{
		Node: id, Actor: actor, Group: 7, Epoch: 3, Replicas: slices.Clone(c.IDs),
		Zone:  func(fulcrum.NodeID) string { return "z1" },
		Peers: c.Net.Peers(id), Now: now, Clock: NewClock(now, actor),
		Rand: rand.New(rand.NewPCG(1, uint64(actor))), Logger: slog.New(slog.DiscardHandler),
		Metrics: replication.NoMetrics{}, MaxValue: fulcrum.DefaultMaxValue, Based: true,
	}
	return r
}

// Learner opens and runs one more replica, which has no data and no vote.
func (c *Cluster) Learner() fulcrum.NodeID {
	c.tb.Helper()
	voters := slices.Clone(c.IDs)
	id := fulcrum.NodeID(fmt.Sprintf("n%d", len(voters)+1))
	r := c.newReplica(id, uint32(len(voters)+1))
	r.env.Replicas = voters
	c.mu.Lock()
	c.IDs = append(c.IDs, id)
	c.nodes[id] = r
	c.mu.Unlock()
	c.Wipe(id)
	c.start(id)
	return id
}

// start opens and runs id over what its disk holds.
func (c *Cluster) start(id fulcrum.NodeID) {
	c.tb.Helper()
	r := c.node(id)
	env := r.env
	env.Log, env.State, env.Hints = r.log, r.state, r.hints
	env.Clock = NewClock(env.Now, env.Actor)
	if c.opt.Edit != nil {
		c.opt.Edit(&env)
	}
	g, err := c.open(env)
	if err != nil {
		c.tb.Fatalf("open %s: %v", id, err)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	c.mu.Lock()
	r.group, r.cancel, r.done = g, cancel, done
	c.mu.Unlock()
	c.Net.Register(id, g.Handle)
	go func() {
		defer close(done)
		err := g.Run(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.done == done && ctx.Err() == nil {
			r.err = err
			if !c.opt.RunMayFail {
				c.tb.Errorf("Run of %s ended by itself: %v", id, err)
			}
		}
	}()
}

func (c *Cluster) node(id fulcrum.NodeID) *replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

// Stop crashes id: what was not durable is lost, calls to it fail at once.
func (c *Cluster) Stop(id fulcrum.NodeID) {
	c.Net.Down(id)
	c.mu.Lock()
	r := c.nodes[id]
	if r.group == nil {
		c.mu.Unlock()
		return
	}
	r.log, r.state, r.hints = r.log.Crash(), r.state.Crash(), r.hints.Crash()
	r.group = nil
	r.cancel()
	done := r.done
	c.mu.Unlock()
	<-done
}

// Restart begins a new life of id on what its crash left.
func (c *Cluster) Restart(id fulcrum.NodeID) {
	c.tb.Helper()
	c.Stop(id)
	c.start(id)
}

// Wipe gives a stopped id an empty disk; it comes back not based.
func (c *Cluster) Wipe(id fulcrum.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.nodes[id]
	r.log, r.state, r.hints = NewLog(), NewState(), NewState()
	r.env.Based = false
}

// Group returns the running replica on id; nil while it is down.
func (c *Cluster) Group(id fulcrum.NodeID) replication.Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id].group
}

// State returns the state of id's current life, or what its crash left.
func (c *Cluster) State(id fulcrum.NodeID) *State { return c.node(id).state }

// Log returns the log of id's current life, or what its crash left.
func (c *Cluster) Log(id fulcrum.NodeID) *Log { return c.node(id).log }

// Skew shifts id's wall clock by d from now on: data only, pace is untouched.
func (c *Cluster) Skew(id fulcrum.NodeID, d time.Duration) { c.node(id).skew.Store(int64(d)) }

// RunErr is what Run of id's last life returned by itself.
func (c *Cluster) RunErr(id fulcrum.NodeID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id].err
}

// Alive lists the replicas that are running.
func (c *Cluster) Alive() []fulcrum.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.IDs), func(id fulcrum.NodeID) bool { return c.nodes[id].group == nil })
}

// Close ends every replica and waits for every goroutine.
func (c *Cluster) Close() {
	c.cancel()
	c.wg.Wait()
	c.Net.Close()
	for _, id := range c.IDs {
		if r := c.node(id); r.done != nil {
			<-r.done
		}
		c.Log(id).Wait()
	}
}

// cancelRun ends Run of id in good order, and keeps its disk: what a node does
// before it asks for Leftovers.
func (c *Cluster) cancelRun(id fulcrum.NodeID) {
	c.mu.Lock()
	r := c.nodes[id]
	r.cancel()
	done := r.done
	c.mu.Unlock()
	<-done
}
