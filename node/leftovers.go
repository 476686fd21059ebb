package node

import (
	"context"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
)

// handOverLeftovers gives what only this replica may hold of a closed epoch to the
// shard as it is now. It returns once that is durable in the queue of late writes. In mode
// raft there is nothing (raft.Group.Leftovers), so it need not be possible to open it.
func (h *host) handOverLeftovers(ctx context.Context, ref catalog.ShardRef, rec record) error {
	if rec.Mode == consistency.Raft {
		return nil
	}
	old := &catalog.Shard{Group: ref.Shard.Group, Epoch: rec.Epoch, Mode: rec.Mode, Replicas: rec.Replicas}
	group, err := h.open(ref.Keyspace, old, rec)
	if err != nil {
		return err
	}
	// A group that never ran is run and stopped, so that Leftovers sees it closed.
	runCtx, stop := context.WithCancel(ctx)
	stop()
	_ = group.Run(runCtx)
	batch := make([]fulcrum.Entry, 0, lateBatch)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := h.n.late.Put(ctx, ref.Shard.Group, batch)
		batch = batch[:0]
		return err
	}
	if err := group.Leftovers(func(e fulcrum.Entry) error {
		batch = append(batch, e)
		if len(batch) < lateBatch {
			return nil
		}
		return flush()
	}); err != nil {
		return err
	}
	return flush()
}
