package leaderfollower

import (
	"context"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
)

// Fence implements replication.Group: a record in the log behind which no write
// is ordered, by this leader or a later one. A second Fence returns the first.
func (g *Group) Fence(ctx context.Context) (replication.Position, error) {
	ctx, cancel := contextWithin(ctx, 0)
	defer cancel()
	p := &pending{fence: true, done: make(chan error, 1), req: replication.WriteRequest{Level: consistency.L(consistency.QuorumOf)}}
	if err := g.submit(ctx, p); err != nil {
		return replication.Position{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return replication.Position{Term: g.fenceTerm, Index: g.fenceAt}, nil
}

// Settle implements replication.Group. fence is committed, since Fence returned
// it; so where this log has a record of fence's term there, everything up to it is
// equal to the leader's (invariant 3) and may be applied without asking anybody.
func (g *Group) Settle(ctx context.Context, fence replication.Position, _ []fulcrum.NodeID) error {
	ctx, cancel := contextWithin(ctx, 0)
	defer cancel()
	err := g.await(ctx, func() (bool, error) {
		if err := g.usable(); err != nil {
			return false, err
		}
		if g.catchingUp {
			return false, nil
		}
		if term, ok := g.hist.termAt(fence.Index); ok && term == fence.Term && g.commit < fence.Index {
			g.commit = fence.Index
			kick(g.applyKick)
		}
		return g.applied >= fence.Index, nil
	})
	if err != nil {
		g.mu.Lock()
		applied := g.applied
		g.mu.Unlock()
		return g.refuse(fulcrum.CodeUnavailable, "this replica stands at %d, the fence at %d: %w", applied, fence.Index, err)
	}
	if err := g.env.State.Flush(ctx); err != nil {
		return g.refuse(fulcrum.CodeUnavailable, "flush before the switch: %w", err)
	}
	return nil
}

// Leftovers implements replication.Group: everything behind the last position that
// this replica knows to be committed. What was committed after all is among it and
// does no harm: merged writes change nothing where the same or a newer one stands.
func (g *Group) Leftovers(yield func(fulcrum.Entry) error) error {
	g.mu.Lock()
	from, last := g.commit+1, g.hist.last
	if g.catchingUp {
		last = 0
	}
	g.mu.Unlock()
	for from <= last {
		records, err := g.someRecords(from, min(last, from+batchRecords-1), recordBytes)
		if err != nil {
			return g.diskError(err)
		}
		for _, r := range records {
			for _, e := range r.entries {
				if err := yield(e); err != nil {
					return err
				}
			}
		}
		from += uint64(len(records))
	}
	return nil
}
