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
