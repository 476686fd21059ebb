package protocol

import (
	"fmt"
	"time"

	"fulcrum"
)

// hear takes in that from leads term; ok is false if it does not (any more).
func (r *Raft) hear(now time.Time, from fulcrum.NodeID, term uint64) (ok bool) {
	switch {
	case term < r.hard.Term:
		return false
	case term == r.hard.Term && r.role == Leader:
		r.broken = fmt.Errorf("%s and this replica both lead term %d", from, term)
		return false
	}
	r.follow(now, term, from)
	r.rest(now)
	return true
}

// Append answers a leader's entries.
//
// Log matching (paper, 5.3): entries are taken only behind the entry that the leader has
// before them. If the two logs agree there, they agree on all that is before; behind it
// this log is made to agree, and what is equal already stays, for a late message must
// not cut off what a later one brought.
func (r *Raft) Append(now time.Time, from fulcrum.NodeID, m Append) Reply {
	if !r.hear(now, from, m.Term) {
		return Reply{Term: r.hard.Term, Last: r.last()}
	}
	entries, prev, prevTerm := m.Entries, m.Prev, m.PrevTerm
	if at, term := r.log.Snapshot(); prev < at {
		// What a snapshot stands for is committed, hence equal to the leader's.
		skip := min(at-prev, uint64(len(entries)))
		if entries = entries[skip:]; prev+skip < at {
			return Reply{Term: r.hard.Term, OK: true}
		}
		prev, prevTerm = at, term
	}
	if term, ok := r.termOf(prev); !ok || term != prevTerm {
		return Reply{Term: r.hard.Term, Last: r.before(prev, prevTerm)}
	}
	for len(entries) > 0 {
		term, ok := r.termOf(entries[0].Index)
		if ok && term == entries[0].Term {
			entries = entries[1:]
			continue
		}
		if ok && !r.cut(entries[0].Index-1) {
			return Reply{Term: r.hard.Term, Last: r.last()}
		}
		break
	}
	if len(entries) > 0 {
		r.ready.Append = append(r.ready.Append, entries...)
		r.configureFrom(entries)
	}
	r.committed(min(m.Commit, m.Last()))
	return Reply{Term: r.hard.Term, OK: true, Needs: m.Last()}
}

// before is an entry behind which the leader should try next: none of a later term than
// its own entry at prev can be equal to one of its own before that.
func (r *Raft) before(prev, prevTerm uint64) uint64 {
	at := min(r.last(), max(prev, 1)-1)
	for ; at >= r.log.First(); at-- {
		if term, ok := r.termOf(at); !ok || term <= prevTerm {
			break
		}
	}
	return at
}

// cut drops what is behind at.
func (r *Raft) cut(at uint64) bool {
	if at < r.commit {
		r.broken = fmt.Errorf("a leader's log differs at %d, but %d is committed", at+1, r.commit)
		return false
	}
	r.ready.Append = nil // only one message is taken in before Ready is
	r.ready.Cut, r.ready.CutAt = true, at
	r.reconfigureAfterCut(at)
	return true
}

// committed takes in that entries up to index are committed.
func (r *Raft) committed(index uint64) {
	if index <= r.commit {
		return
	}
	r.commit = index
	if r.conf.index <= index {
		r.conf.committed, r.conf.committedAtMost = r.conf.current, r.conf.index
	}
}

// Heartbeat answers a leader's heartbeat. A committed entry stays what it is in every
// later term: a log that holds it agrees with the leader's up to there.
func (r *Raft) Heartbeat(now time.Time, from fulcrum.NodeID, m Heartbeat) Reply {
	if !r.hear(now, from, m.Term) {
		return Reply{Term: r.hard.Term}
	}
	r.Learn(m.Commit, m.CommitTerm)
	return Reply{Term: r.hard.Term, OK: true}
}

// Learn takes in that the entry (index, term) is committed, if this log holds it.
func (r *Raft) Learn(index, term uint64) {
	if index <= r.commit {
		return
	}
	if t, ok := r.termOf(index); ok && t == term && term > 0 {
		r.committed(index)
	}
}

// Offer takes in that the leader of term has sent a whole snapshot. The reply leaves
// when it is installed, or if ok is false, at once. One that is not beyond Commit is not
// installed: its reply leaves when the log is durable up to there.
func (r *Raft) Offer(now time.Time, from fulcrum.NodeID, term uint64) (reply Reply, ok bool) {
	ok = r.hear(now, from, term)
	return Reply{Term: r.hard.Term, OK: ok}, ok
}

// Installed is called when the state machine is at the snapshot and the log begins
// behind it, or goes on from it. conf is the snapshot's configuration, entries what the
// log holds of those behind it.
func (r *Raft) Installed(conf ConfigurationAt, confs []ConfigurationAt) {
	index, _ := r.log.Snapshot()
	if index > r.commit {
		r.commit = index
	}
	r.conf = struct {
		current, committed     Configuration
		index, committedAtMost uint64
	}{}
	r.configure(conf)
	for _, c := range confs {
		r.configure(c)
	}
	if r.conf.index <= r.commit {
		r.conf.committed, r.conf.committedAtMost = r.conf.current, r.conf.index
	}
}
