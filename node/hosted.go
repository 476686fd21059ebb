package node

import (
	"context"
	"fmt"
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
	stopped  atomic.Bool   // Run has returned
	done     chan struct{} // closed behind that

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

// read has the replica here answer a read.
func (h *hosted) read(ctx context.Context, n *Node, req replication.ReadRequest) (replication.ReadReply, error) {
	rep, err := h.group.Read(ctx, req)
	return toTheEnd(h, n, rep, err)
}

// scan is read for a scan.
func (h *hosted) scan(ctx context.Context, n *Node, req replication.ScanRequest) (replication.ScanReply, error) {
	rep, err := h.group.Scan(ctx, req)
	return toTheEnd(h, n, rep, err)
}

// changes is read for a watch, which begins at the place where the State stands.
func (h *hosted) changes(ctx context.Context, n *Node, req replication.ChangesRequest) (replication.ChangesReply, error) {
	w, ok := h.group.(replication.Watcher)
	if !ok {
		return replication.ChangesReply{}, fulcrum.Errorf(fulcrum.CodeMode, "mode %s has no watch", h.mode)
	}
	rep, err := w.Changes(ctx, req)
	return toTheEnd(h, n, rep, err)
}

// handle is read for a message of another replica, which may ask what stands here.
func (h *hosted) handle(ctx context.Context, n *Node, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	answer, err := h.group.Handle(ctx, from, msg)
	return toTheEnd(h, n, answer, err)
}

// toTheEnd is what a replica answered, if it was there to the end. Nobody waits for reads when
// a replica stops, and then its State goes on without it: to the next epoch, or emptied, where
// the replica was left behind. What a read finds there is no answer in this epoch, and the
// position beside it is another log's. Nothing of that begins before stopped is set.
func toTheEnd[T any](h *hosted, n *Node, answer T, err error) (T, error) {
	if err == nil && h.stopped.Load() {
		var none T
		return none, n.host.notHere(h.shard)
	}
	return answer, err
}

func (h *host) notHere(g fulcrum.GroupID) *fulcrum.Error {
	return &fulcrum.Error{Code: fulcrum.CodeEpoch, Node: h.n.opt.Name, Detail: fmt.Sprintf("shard %d does not run here now", g)}
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
