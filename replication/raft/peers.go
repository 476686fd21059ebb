package raft

import (
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

// peerTable is what the messages that pass by tell about the other replicas. It is
// for Status and for choosing an heir: no promise rests on it.
type peerTable struct {
	mu     sync.Mutex
	seen   map[fulcrum.NodeID]*peer
	leader struct {
		id    fulcrum.NodeID
		last  uint64    // its last known entry
		heard time.Time // its last message
	}
	behindSince time.Time
}

type peer struct {
	match uint64
	heard time.Time
}

func (p *peerTable) at(id fulcrum.NodeID) *peer {
	if p.seen == nil {
		p.seen = map[fulcrum.NodeID]*peer{}
	}
	if p.seen[id] == nil {
		p.seen[id] = &peer{}
	}
	return p.seen[id]
}

func (p *peerTable) heard(id fulcrum.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at(id).heard = time.Now()
}

func (p *peerTable) matched(id fulcrum.NodeID, index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.at(id)
	e.match = max(e.match, index)
}

// reset forgets matches: a new leader starts to learn them.
func (p *peerTable) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.seen {
		e.match = 0
	}
}

// leaderAt notes how far a leader's log goes, as far as its message shows.
func (p *peerTable) leaderAt(from fulcrum.NodeID, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leader.id != from {
		p.leader.id, p.leader.last = from, 0
	}
	p.leader.heard = time.Now()
	p.leader.last = max(p.leader.last, last)
}

// holding counts those of voters, without this replica, that are known to hold index.
func (p *peerTable) holding(voters []fulcrum.NodeID, index uint64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, id := range voters {
		if e := p.seen[id]; e != nil && e.match >= index {
			n++
		}
	}
	return n
}

// speaker is who sent entries or heartbeats last, if that was recently.
func (p *peerTable) speaker(recent time.Duration) fulcrum.NodeID {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.leader.heard) > recent {
		return ""
	}
	return p.leader.id
}

// matchOf is how far id is known to hold our log.
func (p *peerTable) matchOf(id fulcrum.NodeID) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at(id).match
}

// heir returns the voter with the longest log among those heard of recently, but for
// those in not.
func (p *peerTable) heir(voters []fulcrum.NodeID, self fulcrum.NodeID, recent time.Duration, not map[fulcrum.NodeID]bool) fulcrum.NodeID {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best fulcrum.NodeID
	var match uint64
	for _, id := range voters {
		e := p.seen[id]
		if id == self || not[id] || e == nil || time.Since(e.heard) > recent {
			continue
		}
		if best == "" || e.match > match {
			best, match = id, e.match
		}
	}
	return best
}

// status is a leader's view of the others.
func (p *peerTable) status(others []fulcrum.NodeID, last uint64) []replication.PeerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]replication.PeerStatus, 0, len(others))
	for _, id := range slices.Sorted(slices.Values(others)) {
		e := p.at(id)
		s := replication.PeerStatus{Node: id, Match: e.match, Behind: last - min(last, e.match), Silent: -1}
		if !e.heard.IsZero() {
			s.Silent = time.Since(e.heard)
		}
		out = append(out, s)
	}
	return out
}

// behind is how far this replica is behind its leader, and for how long. A replica
// that has heard nothing for longer than patience counts as behind since then.
func (p *peerTable) behind(handled uint64, patience time.Duration) (entries uint64, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	entries = p.leader.last - min(p.leader.last, handled)
	switch {
	case entries == 0:
		p.behindSince = time.Time{}
	case p.behindSince.IsZero():
		p.behindSince = time.Now()
	default:
		d = time.Since(p.behindSince)
	}
	if !p.leader.heard.IsZero() {
		if quiet := time.Since(p.leader.heard); quiet > patience {
			d = max(d, quiet)
		}
	}
	return entries, d
}
