package protocol

import (
	"time"

	"fulcrum"
)

// Campaign asks for an election at once, without pre-votes, also of voters that hear
// from a leader: that leader wishes it (thesis, 3.10). It is safe at any time.
func (r *Raft) Campaign(now time.Time) {
	r.follow(now, r.hard.Term, "")
	r.campaign(now, false, true)
}

// campaign begins an election, or with pre asks whether it would be won.
func (r *Raft) campaign(now time.Time, pre, transfer bool) {
	r.rest(now)
	if !r.electable() {
		r.role = Follower
		return
	}
	last, lastTerm := r.lastPlace()
	r.asked = Vote{Term: r.hard.Term + 1, Last: last, LastTerm: lastTerm, Pre: pre, Transfer: transfer}
	r.role = PreCandidate
	if !pre {
		r.role = Candidate
		r.store(HardState{Term: r.asked.Term, Vote: r.cfg.ID})
	}
	r.votes = map[fulcrum.NodeID]bool{r.cfg.ID: true}
	if r.elected(now) {
		return
	}
	for _, id := range r.conf.current.Voters() {
		if id != r.cfg.ID {
			ask := r.asked
			r.send(Send{To: id, Vote: &ask})
		}
	}
}

// electable reports whether this replica may ask for votes: also one that loses its own
// by a change that is not known to be committed. It may be the only one whose log is
// long enough for the others, who then commit the change (thesis, 4.2.2).
func (r *Raft) electable() bool {
	id := r.cfg.ID
	return r.conf.current.Voter(id) || r.conf.index > r.commit && r.conf.committed.Voter(id)
}

// elected goes on to the next step if a majority has said yes.
func (r *Raft) elected(now time.Time) bool {
	yes := 0
	for _, id := range r.conf.current.Voters() {
		if r.votes[id] {
			yes++
		}
	}
	switch {
	case yes < r.conf.current.quorum():
		return false
	case r.role == PreCandidate:
		r.campaign(now, false, false)
	default:
		r.lead(now)
	}
	return true
}

// Voted takes in the answer to a Vote that this replica has sent.
func (r *Raft) Voted(now time.Time, from fulcrum.NodeID, ask Vote, reply VoteReply) {
	if reply.Term > r.hard.Term && !(ask.Pre && reply.Granted) {
		r.follow(now, reply.Term, "")
		return
	}
	if ask != r.asked || !reply.Granted || r.role != PreCandidate && r.role != Candidate || (r.role == PreCandidate) != ask.Pre {
		return
	}
	r.votes[from] = true
	r.elected(now)
}

// Vote answers a candidate.
func (r *Raft) Vote(now time.Time, from fulcrum.NodeID, v Vote) VoteReply {
	if v.Term < r.hard.Term {
		return VoteReply{Term: r.hard.Term}
	}
	// Whoever hears from a leader lets nobody disturb it, and does not even take up the
	// candidate's term.
	if r.leader != "" && r.leader != from && !v.Transfer && (r.role == Leader || now.Before(r.due)) {
		return VoteReply{Term: r.hard.Term}
	}
	last, lastTerm := r.lastPlace()
	upToDate := v.LastTerm > lastTerm || v.LastTerm == lastTerm && v.Last >= last
	if v.Pre {
		return VoteReply{Term: r.hard.Term, Granted: upToDate && v.Term > r.hard.Term}
	}
	if v.Term > r.hard.Term {
		r.follow(now, v.Term, "")
	}
	if !upToDate || r.hard.Vote != "" && r.hard.Vote != from {
		return VoteReply{Term: r.hard.Term}
	}
	if r.hard.Vote == "" {
		r.store(HardState{Term: r.hard.Term, Vote: from})
	}
	r.follow(now, r.hard.Term, r.leader) // it asks no more whether it would be elected itself
	r.rest(now)
	return VoteReply{Term: r.hard.Term, Granted: true}
}
