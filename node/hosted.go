package node

import (
	"context"
	"sync/atomic"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
)

// hosted is a group that runs here.
type hosted struct {
	shard    fulcrum.GroupID
	keyspace string
	epoch    fulcrum.Epoch
	mode     consistency.Mode
	group    replication.Group
	stop     context.CancelFunc
	done     chan struct{} // closed when Run has returned

	attempt atomic.Int64 // the newest attempt at reconciling that was heard of
}

// leader is who leads the group, as far as its replica here knows.
func (h *hosted) leader() fulcrum.NodeID {
	if r, ok := h.group.(*raft.Group); ok {
		leader, _ := r.Leader() // cheaper than Status, which every request would pay
		return leader
	}
	return h.group.Status().Leader
}

// write has the replica here do a write, unless its disk has no room for what it would
// have to order: then it definitely was not done.
func (h *hosted) write(ctx context.Context, n *Node, req replication.WriteRequest) (replication.WriteReply, error) {
	if err := n.store.Room(); err != nil && (h.mode == consistency.Quorum || h.leader() == n.opt.Name) {
		return replication.WriteReply{}, err
	}
	return h.group.Write(ctx, req)
}

// newest notes an attempt and reports whether no later one was heard of before.
func (h *hosted) newest(attempt int) bool {
	for {
		known := h.attempt.Load()
		if int64(attempt) < known {
			return false
		}
		if h.attempt.CompareAndSwap(known, int64(attempt)) {
			return true
		}
	}
}
