package node

import (
	"context"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
	"fulcrum/replication"
	"fulcrum/replication/raft"
)

// A node without a replica of a shard sends a linearizable read to the leader, which
// would then ask another voter whether it still leads: two round trips. So where two
// voters are a majority this node asks that other voter itself, the witness, while the
// read is on its way (replication/raft/witness.go says why that is enough).
//
// The leader's rounds are shared by all reads that wait there; these questions are not.
// So of a shard's reads at most one goes this way at a time: whoever comes alone, who
// gains most by it.

// witnesses is what a node remembers of those that it asks.
type witnesses struct {
	mu     sync.Mutex
	asking map[fulcrum.GroupID]bool     // a read of the shard waits for a witness
	silent map[fulcrum.NodeID]time.Time // gave no word in time: not asked before then
	nonce  uint64
}

const (
	// witnessPatience is how long a read that the leader has answered waits for the
	// witness before it is asked for as others are.
	witnessPatience = 20 * time.Millisecond
	silentFor       = time.Second
)

// begin takes the shard's place, unless another read has it.
func (w *witnesses) begin(g fulcrum.GroupID) (nonce uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asking[g] {
		return 0, false
	}
	if w.asking == nil {
		w.asking = map[fulcrum.GroupID]bool{}
	}
	w.asking[g] = true
	w.nonce++
	return w.nonce, true
}

func (w *witnesses) end(g fulcrum.GroupID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.asking, g)
}

// among returns the first of the replicas, other than the leader, that was not silent of late.
func (w *witnesses) among(replicas []fulcrum.NodeID, leader fulcrum.NodeID) fulcrum.NodeID {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range replicas {
		if id != leader && !time.Now().Before(w.silent[id]) {
			return id
		}
	}
	return ""
}

func (w *witnesses) wasSilent(id fulcrum.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent == nil {
		w.silent = map[fulcrum.NodeID]time.Time{}
	}
	w.silent[id] = time.Now().Add(silentFor)
}

// witnessed reports whether a read that goes to another node is one for a witness.
func (n *Node) witnessed(sh *catalog.Shard, l consistency.Level) bool {
	return anywhere(sh, consistency.Read, l) && !sh.Hosts(n.opt.Name) && len(sh.Replicas)/2+1 == 2
}

// readWitnessed sends a read to a replica, with a witness if it leads. An answer whose
// witness does not say the same is not used: the read goes on as any other does.
func (n *Node) readWitnessed(ctx context.Context, to fulcrum.NodeID, sh *catalog.Shard, req replication.ReadRequest) (replication.ReadReply, error) {
	if n.hints.get(sh.Group) != to {
		return n.forwardRead(ctx, to, sh, req) // not known to lead
	}
	nonce, ok := n.witnesses.begin(sh.Group)
	if !ok {
		return n.forwardRead(ctx, to, sh, req)
	}
	defer n.witnesses.end(sh.Group)
	near := n.candidates(sh, consistency.Read, consistency.L(consistency.One))
	if req.Witness = n.witnesses.among(near, to); req.Witness == "" {
		return n.forwardRead(ctx, to, sh, req)
	}
	said := make(chan uint64, 1) // its term; 0: it said none
	raft.AskTerm(groupPeers{n, sh.Group, sh.Epoch}, req.Witness, nonce, perReplica, func(term uint64, err error) {
		if err != nil {
			term = 0
		}
		said <- term
	})
	rep, err := n.forwardRead(ctx, to, sh, req)
	if err != nil || rep.Outcome.Acks >= rep.Outcome.Needed {
		return rep, err
	}
	if n.vouched(ctx, said, req.Witness, rep.Outcome.Position.Term) {
		rep.Outcome.Acks++
		return rep, nil
	}
	req.Witness = ""
	return n.forwardRead(ctx, to, sh, req)
}

// vouched waits a moment for the witness, and reports whether it is in the leader's term.
func (n *Node) vouched(ctx context.Context, said <-chan uint64, witness fulcrum.NodeID, term uint64) bool {
	late := time.NewTimer(witnessPatience)
	defer late.Stop()
	select {
	case t := <-said:
		return t == term && term > 0
	case <-late.C:
		n.witnesses.wasSilent(witness)
	case <-ctx.Done():
	}
	return false
}
