package raft

import (
	"context"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/mutant"
)

// A leader whose disk stands still stays the leader, because its heartbeats go on (as in
// hashicorp/raft#503, #614, #666), and commits through the others' disks only, for as
// long as its log takes entries at all. So the disk is watched here, and a leader that
// waits for it for longer than Tuning.Stall gives its place away from beside the
// protocol, which may itself wait for the disk: TimeoutNow goes to the heirs, best
// first, until one of them is known to be in a later term.
//
// Safety: TimeoutNow makes its receiver ask for an election, which is safe at any time.
// The callers of what the stalled leader appended last hear "unknown".
//
// Liveness: a replica whose own disk is slow refuses (fit). With no heir left the leader
// stays: where all disks are slow, slow writes are better than none. And what a slow
// disk forbids is never forbidden for long (wariness), so that a group whose disks all
// stood still for a moment elects a leader again.

// diskWatch knows the durable steps of a log that are under way.
type diskWatch struct {
	mu    sync.Mutex
	next  uint64
	begun map[uint64]time.Time
	limit time.Duration
	ended time.Time // when the last step ended that took longer than limit
	fast  int       // steps since then that did not

	resting chan struct{} // of a watcher that waits for the next step; closed by it
}

// begin notes a step; the returned function ends it.
func (d *diskWatch) begin() (end func()) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun == nil {
		d.begun = map[uint64]time.Time{}
	}
	d.next++
	id := d.next
	d.begun[id] = now
	if d.resting != nil {
		close(d.resting)
		d.resting = nil
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.begun, id)
		if time.Since(now) > d.limit {
			d.ended, d.fast = time.Now(), 0
			return
		}
		d.fast++
	}
}

// rest returns a channel that is closed when the next step begins; nil: one is under way.
func (d *diskWatch) rest() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.begun) > 0 {
		return nil
	}
	if d.resting == nil {
		d.resting = make(chan struct{})
	}
	return d.resting
}

// underWay is for how long the oldest step has been.
func (d *diskWatch) underWay() (long time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, at := range d.begun {
		long = max(long, time.Since(at))
	}
	return long
}

func (d *diskWatch) stalled() bool { return d.underWay() > d.limit }

// A disk that was slow counts as slow for wariness times its limit, or until so many
// steps were fast.
const (
	wariness  = 5
	fastAgain = 16
)

// wary reports whether the disk is slow, or was a moment ago.
func (d *diskWatch) wary() bool {
	if d.underWay() > d.limit/2 {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.ended.IsZero() && d.fast < fastAgain && time.Since(d.ended) < wariness*d.limit
}

// stalled reports whether this replica leads while its disk stands still.
func (c *core) stalled(in *instance) bool {
	return c.store.disk.stalled() && in.leads() && !c.silent()
}

// yield replaces this leader while its disk stands still. When it returns, the disk
// works, or ctx has ended.
func (c *core) yield(ctx context.Context, in *instance) {
	if mutant.On("stalled-leader-stays") {
		return // mutant: heartbeats go on, and nothing else
	}
	term := in.term()
	c.env.Logger.Warn("the disk stands still: this leader gives its place away", "for", c.store.disk.underWay(), "term", term)
	defer c.yielded.Store(nil)
	defer c.leases.pause()()
	// Past the moment in which the protocol steps down, too: it then waits for the disk to
	// store the new term, and answers nobody.
	for ctx.Err() == nil && c.store.disk.stalled() && !c.silent() {
		if c.yielded.Load() == nil && in.leads() {
			if heir := c.yieldOnce(ctx, in, term); heir != "" {
				c.yielded.Store(&heir)
				c.env.Logger.Info("another replica leads in the place of this one", "heir", heir)
			}
		}
		if c.yielded.Load() != nil || !in.leads() {
			c.turnAway()
		}
		c.announce(in)
		pause(ctx, c.tuning.Stall/10)
	}
}

// yieldOnce asks one heir after another; it returns who is past our term.
func (c *core) yieldOnce(ctx context.Context, in *instance, term uint64) fulcrum.NodeID {
	asked := map[fulcrum.NodeID]bool{}
	for {
		id := c.peers.heir(in.voters(), c.env.Node, 2*c.tuning.Election, asked)
		if id == "" || ctx.Err() != nil {
			return ""
		}
		if t := c.termOf(ctx, id); t > term {
			return id
		}
		asked[id] = true
		if in.timeoutNow(id) != nil {
			continue
		}
		for range 10 { // the others' disks work: an election takes a moment
			pause(ctx, c.tuning.Election/20)
			if t := c.termOf(ctx, id); t > term {
				return id
			}
		}
	}
}

// succeeded notes which leader speaks to this one, whose disk stands still.
func (c *core) succeeded(in *instance, from fulcrum.NodeID, term uint64) {
	if heir := c.yielded.Load(); heir != nil && *heir != from && term > in.term() {
		c.yielded.CompareAndSwap(heir, &from)
	}
}

// termOf asks a replica for its term; 0 if it does not say.
func (c *core) termOf(ctx context.Context, id fulcrum.NodeID) uint64 {
	ctx, cancel := context.WithTimeout(ctx, c.tuning.RPC)
	defer cancel()
	b, err := c.env.Peers.Call(ctx, id, question{}.encode())
	if err != nil {
		return 0
	}
	r, err := openReply(b)
	if err != nil {
		return 0
	}
	_ = r.Uvarint() // the nonce
	return r.Uvarint()
}

// turnAway answers the requests that wait for the stalled entry in front of them: they
// are definitely not done, and can go to the new leader.
func (c *core) turnAway() {
	for _, q := range c.queue.drain() {
		q.refuse(c.notLeader("the disk here stands still"))
	}
}
