package quorum

import (
	"context"
	"errors"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// Fence closes the epoch for this replica; see replication.Group. It goes through
// the store loop: what was queued before it is stored, nothing after it is, and
// the mark is durable before it returns. The position is the newest version's time.
func (g *Group) Fence(ctx context.Context) (replication.Position, error) {
	ctx, cancel := deadline(ctx)
	defer cancel()
	if err := g.ready(ctx); err != nil {
		return replication.Position{}, err
	}
	if !g.fenced.Load() {
		it := &item{fence: true}
		if err := g.submitWait(ctx, it); err != nil {
			return replication.Position{}, err
		}
		if err := g.wait(ctx, it); err != nil {
			return replication.Position{}, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return replication.Position{Index: g.newest.Time}, nil
}

// Settle pulls from every replica of with until this one holds the join of all,
// then flushes State; see replication.Group. It returns when that is done or ctx
// ended; replicas that are not in reach or not fenced yet are asked again.
//
// Claim: all replicas that settle with the same set W, of which they are part, end
// equal. Proof: a fenced replica takes nothing but what it pulls while settling, so
// once all of W are fenced (each answers only then) the join J of their States is
// fixed. A State holds of each key the newest version merged so far; max is
// commutative, associative and idempotent, so the order and repetition of pulls do
// not matter. Whatever a replica of W pulls is held by another of W, hence within J;
// and having pulled from all of W it holds at least J. So it holds J.
//
// J includes every write acknowledged by a majority if W is a majority: the two
// meet in a replica, which stored the write before it was fenced.
func (g *Group) Settle(ctx context.Context, _ replication.Position, with []fulcrum.NodeID) error {
	if err := g.ready(ctx); err != nil {
		return err
	}
	if !g.fenced.Load() {
		return g.errorf(fulcrum.CodeConflict, "epoch %d of group %d is not fenced here", g.env.Epoch, g.env.Group)
	}
	ctx, done, err := g.settleAlone(ctx)
	if err != nil {
		return err
	}
	defer done()
	for _, id := range with {
		if id == g.env.Node || mutant.On("switch-no-merge") { // mutant: begins the next epoch with its own entries alone
			continue
		}
		p := g.peerOf(id)
		if p == nil {
			return g.errorf(fulcrum.CodeInvalid, "%s is no replica of group %d", id, g.env.Group)
		}
		if err := g.settleWith(ctx, p); err != nil {
			return err
		}
	}
	if err := g.env.State.Flush(ctx); err != nil {
		if ctx.Err() != nil {
			return g.errorf(fulcrum.CodeUnavailable, "not flushed in time: %w", err)
		}
		return g.errorf(fulcrum.CodeDisk, "flush: %w", err)
	}
	return nil
}

// settleAlone ends a Settle that is under way, whose caller may be gone, and waits
// until nothing of it is left. Else it might pull from a replica outside of the newer
// set after the newer one has returned, and this replica would hold more than those
// that settled with it: replicas of the next epoch would begin unequal.
func (g *Group) settleAlone(ctx context.Context) (context.Context, func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	g.mu.Lock()
	before, stop := g.settling, g.stopSettling
	g.settling, g.stopSettling = ended, cancel
	g.mu.Unlock()
	done := func() { cancel(); close(ended) }
	if before == nil {
		return ctx, done, nil
	}
	stop()
	<-before // soon: its context has ended, and every wait of it ends with that
	// What it had queued is stored before a later item is.
	it := &item{settle: true}
	err := g.submitWait(ctx, it)
	if err == nil {
		err = g.wait(ctx, it)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return ctx, done, nil
}

func (g *Group) settleWith(ctx context.Context, p *peer) error {
	wait := 20 * time.Millisecond
	for {
		r := round{g: g, p: p, settle: true}
		err := r.run(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, fulcrum.ErrDisk) {
			return err
		}
		pause(ctx, wait, nil)
		wait = min(2*wait, g.opt.ProbeEvery)
		select {
		case <-g.stopped:
			return g.errorf(fulcrum.CodeUnavailable, "the replica stopped")
		default:
		}
		if ctx.Err() != nil {
			return g.errorf(fulcrum.CodeUnavailable, "could not settle with %s: %w", p.id, err)
		}
	}
}
