package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

// leaderHints remembers by group who leads: who last took a write, or whom the answer to
// a read named.
type leaderHints struct {
	mu      sync.Mutex
	leaders map[fulcrum.GroupID]fulcrum.NodeID
}

func (l *leaderHints) set(g fulcrum.GroupID, id fulcrum.NodeID, m consistency.Mode) {
	if m == consistency.Quorum {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaders[g] = id
}

func (l *leaderHints) get(g fulcrum.GroupID) fulcrum.NodeID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaders[g]
}

// route chooses whom to ask next for one request to one shard.
type route struct {
	n     *Node
	group fulcrum.GroupID
	epoch fulcrum.Epoch
	asked []fulcrum.NodeID // in this turn over the replicas

	paused bool // for the table to change, after the last answer
}

// next returns the replica to ask, and whether to pause before asking again should
// it refuse too. last is what the one before answered: a leader's name in it is
// followed at once. An empty name means that all were asked: pause, then begin anew.
func (r *route) next(sh *catalog.Shard, a consistency.Access, l consistency.Level, last error) (to fulcrum.NodeID, pause bool) {
	if r.epoch != sh.Epoch {
		r.epoch, r.asked = sh.Epoch, nil
	}
	if e := fulcrum.AsError(last); e != nil {
		if e.Code == fulcrum.CodeEpoch && !r.paused {
			r.asked, r.paused = nil, true // the table here or there is about to change
			return "", true
		}
		r.paused = false // last is still that answer, but it has been waited for
		if hint := fulcrum.NodeID(e.Hint); e.Code == fulcrum.CodeNotLeader && sh.Hosts(hint) && !slices.Contains(r.asked, hint) {
			r.asked = append(r.asked, hint)
			return hint, false
		}
	}
	if self := r.n.opt.Name; len(r.asked) == 0 && selfFirst(sh, a, l) && sh.Hosts(self) { // what candidates would say
		r.asked = append(r.asked, self)
		return self, false
	}
	for _, id := range r.n.candidates(sh, a, l) {
		if !slices.Contains(r.asked, id) {
			r.asked = append(r.asked, id)
			return id, false
		}
	}
	r.asked = nil
	return "", true
}

// local reports whether a replica may answer by itself, without an orderer.
func local(sh *catalog.Shard, a consistency.Access, l consistency.Level) bool {
	if sh.Mode == consistency.Quorum {
		return true
	}
	switch l.Kind {
	case consistency.One, consistency.LocalOne, consistency.Prefix, consistency.Session, consistency.Bounded:
		return a == consistency.Read
	}
	return false
}

// anywhere reports whether any replica may be asked for what local says must go through
// the orderer: a Raft replica has a linearizable read confirmed by its leader, in one
// question with those that wait beside it.
func anywhere(sh *catalog.Shard, a consistency.Access, l consistency.Level) bool {
	return sh.Mode == consistency.Raft && a == consistency.Read && l.Kind == consistency.Linearizable
}

// selfFirst reports whether this node's own replica, if it has one, is the first to be
// asked, whoever leads or lives.
func selfFirst(sh *catalog.Shard, a consistency.Access, l consistency.Level) bool {
	return local(sh, a, l) || anywhere(sh, a, l)
}

// atOnce reports whether a replica answers without waiting for anything, unless a session
// asks for more than it has.
func atOnce(sh *catalog.Shard, a consistency.Access, l consistency.Level) bool {
	if sh.Mode == consistency.Quorum || a != consistency.Read {
		return false
	}
	return l.Kind == consistency.One || l.Kind == consistency.LocalOne
}

// candidates orders the replicas of a shard by how likely they are to answer well:
// the leader for what must be ordered, this node and its zone for what need not;
// those that are not live last. Where anybody may be asked for what must be ordered,
// this node's own replica comes first, and then the leader, which saves a question.
func (n *Node) candidates(sh *catalog.Shard, a consistency.Access, l consistency.Level) []fulcrum.NodeID {
	local := local(sh, a, l)
	leader := sh.Leader
	if !local && leader == "" {
		if h, err := n.host.at(sh.Group, sh.Epoch); err == nil {
			leader = h.leader()
		}
		if leader == "" {
			leader = n.hints.get(sh.Group)
		}
	}
	live, known := n.liveNodes()
	score := func(id fulcrum.NodeID) int {
		s := 0
		if !local && id == leader {
			s -= 100
			if anywhere(sh, a, l) {
				s += 95
			}
		}
		if id == n.opt.Name {
			s -= 10
		}
		if z := n.opt.Zone; z != "" && n.zone(id) == z {
			s--
		}
		if known && !slices.Contains(live, id) && id != n.opt.Name {
			s += 50
		}
		return s
	}
	out := slices.Clone(sh.Replicas)
	slices.SortStableFunc(out, func(a, b fulcrum.NodeID) int { return score(a) - score(b) })
	return out
}

// perReplica bounds how long one replica may keep a request that can be asked
// elsewhere: reads may, forwarded writes may not, as they may have been done.
const perReplica = 1500 * time.Millisecond

func (n *Node) sendWrite(ctx context.Context, to fulcrum.NodeID, sh *catalog.Shard, req replication.WriteRequest) (replication.WriteReply, error) {
	if to == n.opt.Name {
		h, err := n.host.at(sh.Group, sh.Epoch)
		if err != nil {
			return replication.WriteReply{}, err
		}
		return h.write(ctx, n, req)
	}
	if err := n.reach(ctx, to); err != nil {
		return replication.WriteReply{}, err
	}
	msg := append(make([]byte, 0, shardRoom+replication.RoomForWrite(req)), dataWrite)
	msg = replication.AppendWriteRequest(appendShard(msg, sh.Group, sh.Epoch), req)
	answer, err := n.peers.Call(ctx, to, chData, msg)
	if err != nil {
		return replication.WriteReply{}, fulcrum.AsError(err)
	}
	return readWriteAnswer(answer)
}

func (n *Node) sendRead(ctx context.Context, to fulcrum.NodeID, sh *catalog.Shard, req replication.ReadRequest) (replication.ReadReply, error) {
	if to == n.opt.Name {
		h, err := n.host.at(sh.Group, sh.Epoch)
		if err != nil {
			return replication.ReadReply{}, err
		}
		return h.read(ctx, n, req)
	}
	if n.witnessed(sh, req.Level) {
		return n.readWitnessed(ctx, to, sh, req)
	}
	return n.forwardRead(ctx, to, sh, req)
}

func (n *Node) forwardRead(ctx context.Context, to fulcrum.NodeID, sh *catalog.Shard, req replication.ReadRequest) (replication.ReadReply, error) {
	answer, err := n.callRead(ctx, to, replication.AppendReadRequest(appendShard([]byte{dataRead}, sh.Group, sh.Epoch), req))
	if err != nil {
		return replication.ReadReply{}, err
	}
	rep, err := replication.ReadReadReply(fulcrum.NewReader(answer))
	return rep, unreadable(to, err)
}

func (n *Node) sendScan(ctx context.Context, to fulcrum.NodeID, sh *catalog.Shard, req replication.ScanRequest) (replication.ScanReply, error) {
	if to == n.opt.Name {
		h, err := n.host.at(sh.Group, sh.Epoch)
		if err != nil {
			return replication.ScanReply{}, err
		}
		return h.scan(ctx, n, req)
	}
	answer, err := n.callRead(ctx, to, replication.AppendScanRequest(appendShard([]byte{dataScan}, sh.Group, sh.Epoch), req))
	if err != nil {
		return replication.ScanReply{}, err
	}
	rep, err := replication.ReadScanReply(fulcrum.NewReader(answer))
	return rep, unreadable(to, err)
}

func unreadable(from fulcrum.NodeID, err error) error {
	if err == nil {
		return nil
	}
	return fulcrum.Errorf(fulcrum.CodeInternal, "answer of %s: %w", from, err)
}

// callRead forwards a read. A read that got no answer is definitely not done, so
// another replica may be asked.
func (n *Node) callRead(ctx context.Context, to fulcrum.NodeID, msg []byte) ([]byte, error) {
	if err := n.reach(ctx, to); err != nil {
		return nil, err
	}
	callCtx, cancel := context.WithTimeout(ctx, perReplica)
	defer cancel()
	answer, err := n.peers.Call(callCtx, to, chData, msg)
	if e := fulcrum.AsError(err); e != nil && e.Maybe {
		return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "%s did not answer in time", to)
	}
	return answer, err
}
