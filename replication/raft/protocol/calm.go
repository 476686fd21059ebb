package protocol

import (
	"time"

	"fulcrum"
)

// A leader is calm between two heartbeats when all is said: every entry is committed,
// every member holds them all, was told so, and has answered the last heartbeat. Its next
// heartbeat is then Config.Calm behind the last one instead of Config.Heartbeat. In a
// cluster where nothing happens, heartbeats are most of what a node does.
//
// Safety: elections, terms and commits do not depend on when heartbeats leave. Neither do
// reads: linearizable and bounded ones ask a majority by rounds of their own, leases are
// promises with times of their own.
//
// Liveness: a follower misses its leader after Election to twice that, whatever the pace,
// so a lost leader is replaced as soon as ever. Calm is so short that one heartbeat may
// be lost before that, and Lease longer than it, so that a calm leader does not step down
// before it has asked again. Who does not answer is asked again after Heartbeat, as is
// everybody as soon as there is an entry.
//
// calm puts the next heartbeat off if the leader is calm.
func (r *Raft) calm() {
	if r.role != Leader || r.calmed || r.cfg.Calm <= r.cfg.Heartbeat || r.told != r.last() || r.commit != r.told {
		return
	}
	for _, m := range r.conf.current.Members {
		if m.ID == r.cfg.ID {
			continue
		}
		p := r.peers[m.ID]
		if p == nil || p.flying || p.snapshot || p.match != r.commit || p.heard.Before(r.beaten) {
			return
		}
	}
	r.calmed = true
	r.beat = r.beaten.Add(fulcrum.UntilBeat(r.beaten, r.cfg.Calm))
}

// stir takes the usual pace up again: there is something to tell.
func (r *Raft) stir(now time.Time) {
	if r.calmed {
		r.calmed = false
		r.beat = earlier(r.beat, r.nextBeat(now))
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
