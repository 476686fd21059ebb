package leaderfollower

import (
	"time"

	"fulcrum/replication"
)

// Status implements replication.Group. Term is the catalog's, without the life.
func (g *Group) Status() replication.Status {
	keys, bytes := g.env.State.Keys(), g.env.State.Bytes()
	lease := g.leaseHolds()
	g.mu.Lock()
	defer g.mu.Unlock()
	s := replication.Status{
		Leader: g.leader, IsLeader: g.leading != 0 && lease, Term: g.promised >> lifeBits,
		LastIndex: g.hist.last, Applied: g.applied, Committed: g.commit,
		Fenced: g.note.fence != 0, CatchingUp: g.catchingUp, Keys: keys, Bytes: bytes,
	}
	if g.leading == 0 && g.leaderLast > g.applied {
		s.Behind = g.leaderLast - g.applied
		since := g.fresh
		if since.IsZero() {
			since = g.started
		}
		s.BehindFor = time.Since(since)
	}
	if g.leading == 0 {
		return s
	}
	for _, p := range g.peers {
		s.Peers = append(s.Peers, replication.PeerStatus{
			Node: p.id, Match: p.match, Behind: g.hist.last - p.match, Silent: time.Since(p.answered),
		})
	}
	return s
}
