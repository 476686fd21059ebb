package protocol_test

import (
	"testing"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// Votes (paper 5.2 and 5.4.1; thesis 3.10 and 9.6), of a follower in term 5 whose log
// ends at 3 of term 4.
func TestVotes(t *testing.T) {
	hears := func(p *replica) { p.beat("c", protocol.Heartbeat{Term: 5}) }
	voted := func(p *replica) { p.r.Vote(p.now, "c", protocol.Vote{Term: 5, Last: 3, LastTerm: 4}); p.do() }
	for _, tt := range []struct {
		name   string
		before func(*replica)
		vote   protocol.Vote
		grant  bool
		term   uint64 // afterwards
	}{
		{"5.2: the term is over", nil, protocol.Vote{Term: 4, Last: 9, LastTerm: 9}, false, 5},
		{"5.2: none was given", nil, protocol.Vote{Term: 5, Last: 3, LastTerm: 4}, true, 5},
		{"5.2: it was given to another", voted, protocol.Vote{Term: 5, Last: 3, LastTerm: 4}, false, 5},
		{"5.2: it was given to another, in an earlier life", func(p *replica) { voted(p); p.restart("a") }, protocol.Vote{Term: 5, Last: 3, LastTerm: 4}, false, 5},
		{"5.2: it was given to another, in an earlier term", voted, protocol.Vote{Term: 6, Last: 3, LastTerm: 4}, true, 6},
		{"5.4.1: a longer log", nil, protocol.Vote{Term: 6, Last: 4, LastTerm: 4}, true, 6},
		{"5.4.1: a shorter log", nil, protocol.Vote{Term: 6, Last: 2, LastTerm: 4}, false, 6},
		{"5.4.1: a longer log of an earlier term", nil, protocol.Vote{Term: 6, Last: 9, LastTerm: 3}, false, 6},
		{"5.4.1: a shorter log of a later term", nil, protocol.Vote{Term: 6, Last: 1, LastTerm: 5}, true, 6},
		{"9.6: pre-vote", nil, protocol.Vote{Term: 6, Last: 3, LastTerm: 4, Pre: true}, true, 5},
		{"9.6: pre-vote, although the vote was given", voted, protocol.Vote{Term: 6, Last: 3, LastTerm: 4, Pre: true}, true, 5},
		{"9.6: pre-vote with a shorter log", nil, protocol.Vote{Term: 6, Last: 2, LastTerm: 4, Pre: true}, false, 5},
		{"9.6: pre-vote for its own term", nil, protocol.Vote{Term: 5, Last: 3, LastTerm: 4, Pre: true}, false, 5},
		{"9.6: pre-vote while it hears a leader", hears, protocol.Vote{Term: 6, Last: 3, LastTerm: 4, Pre: true}, false, 5},
		{"9.6: while it hears a leader", hears, protocol.Vote{Term: 6, Last: 3, LastTerm: 4}, false, 5},
		{"9.6: a leader was heard long ago", func(p *replica) { hears(p); p.now = p.now.Add(2 * election) }, protocol.Vote{Term: 6, Last: 3, LastTerm: 4}, true, 6},
		{"3.10: the leader wishes it", hears, protocol.Vote{Term: 6, Last: 3, LastTerm: 4, Transfer: true}, true, 6},
		{"3.10: the leader wishes it, but the log is shorter", hears, protocol.Vote{Term: 6, Last: 2, LastTerm: 4, Transfer: true}, false, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := boot(t, "a", "abc", 1, 4, 4)
			p.log.hard.Term = 5
			p.restart("a")
			if tt.before != nil {
				tt.before(p)
			}
			got := p.r.Vote(p.now, "b", tt.vote)
			p.do()
			if got.Granted != tt.grant || got.Term != tt.term || p.log.hard.Term != tt.term {
				t.Errorf("%+v, stored %+v, want granted %v in term %d", got, p.log.hard, tt.grant, tt.term)
			}
			if !tt.vote.Pre && tt.grant && p.log.hard.Vote != "b" {
				t.Errorf("a vote leaves that is not stored: %+v", p.log.hard)
			}
		})
	}
}

// The same vote may be given again: its reply may have been lost (5.2).
func TestVoteAgain(t *testing.T) {
	p := boot(t, "a", "abc")
	for range 2 {
		if got := p.r.Vote(p.now, "b", protocol.Vote{Term: 1}); !got.Granted {
			t.Errorf("%+v", got)
		}
		p.do()
	}
}

// A leader lets nobody disturb it, but it goes when it wishes to (9.6, 3.10).
func TestVotesOfALeader(t *testing.T) {
	p := boot(t, "a", "abc")
	p.lead()
	if got := p.r.Vote(p.now, "b", protocol.Vote{Term: 9, Last: 9, LastTerm: 8}); got.Granted {
		t.Errorf("%+v", got)
	}
	p.do()
	p.want(protocol.Leader, 1)
	if got := p.r.Vote(p.now, "b", protocol.Vote{Term: 9, Last: 9, LastTerm: 8, Transfer: true}); !got.Granted {
		t.Errorf("%+v", got)
	}
	p.do()
	p.want(protocol.Follower, 9)
}

// 9.6: who asks whether it would be elected is in its old term until a majority says so.
func TestPreVoteRaisesNoTerm(t *testing.T) {
	p := boot(t, "a", "abcde", 3)
	for range 3 {
		p.tick()
		p.want(protocol.PreCandidate, 3)
		if p.log.hard.Term != 3 || len(p.sent) != 4 || !p.sent[0].Vote.Pre || p.sent[0].Vote.Term != 4 {
			t.Errorf("stored %+v, sent %+v", p.log.hard, p.sent)
		}
	}
	ask, no := *p.sent[0].Vote, protocol.VoteReply{Term: 3}
	p.r.Voted(p.now, "b", ask, no)
	p.r.Voted(p.now, "c", ask, protocol.VoteReply{Term: 3, Granted: true})
	p.r.Voted(p.now, "c", ask, protocol.VoteReply{Term: 3, Granted: true}) // twice is once
	p.do()
	p.want(protocol.PreCandidate, 3)
	p.r.Voted(p.now, "d", ask, protocol.VoteReply{Term: 3, Granted: true})
	p.do()
	p.want(protocol.Candidate, 4)
	if p.log.hard != (protocol.HardState{Term: 4, Vote: "a"}) || len(p.sent) != 4 || p.sent[0].Vote.Pre {
		t.Errorf("stored %+v, sent %+v", p.log.hard, p.sent)
	}
	p.r.Voted(p.now, "e", ask, protocol.VoteReply{Term: 3, Granted: true}) // late: no vote
	p.want(protocol.Candidate, 4)
	p.grant()
	p.want(protocol.Leader, 4)
}

// Answers to an election that is over do not count in the next one (5.2).
func TestLateVotes(t *testing.T) {
	p := boot(t, "a", "abc")
	p.r.Campaign(p.now)
	p.do()
	old := *p.sent[0].Vote
	p.r.Campaign(p.now)
	p.do()
	p.r.Voted(p.now, "b", old, protocol.VoteReply{Term: 1, Granted: true})
	p.want(protocol.Candidate, 2)
}

// Who votes for another asks no more for itself, and one that hears a leader neither
// (5.2).
func TestCandidatesGiveWay(t *testing.T) {
	for _, tt := range []struct {
		name string
		hear func(*replica)
		term uint64
		role protocol.Role
	}{
		{"vote in the same term", func(p *replica) { p.r.Vote(p.now, "b", protocol.Vote{Term: 3, Last: 1, LastTerm: 3}) }, 3, protocol.Follower},
		{"no vote", func(p *replica) { p.r.Vote(p.now, "b", protocol.Vote{Term: 3}) }, 3, protocol.PreCandidate},
		{"heartbeat", func(p *replica) { p.beat("b", protocol.Heartbeat{Term: 3}) }, 3, protocol.Follower},
		{"append", func(p *replica) { p.append("b", protocol.Append{Term: 3}) }, 3, protocol.Follower},
		{"snapshot", func(p *replica) { p.r.Offer(p.now, "b", 3) }, 3, protocol.Follower},
		{"a later term", func(p *replica) { p.r.Voted(p.now, "b", protocol.Vote{}, protocol.VoteReply{Term: 7}) }, 7, protocol.Follower},
		{"an earlier leader", func(p *replica) { p.beat("b", protocol.Heartbeat{Term: 2}) }, 3, protocol.PreCandidate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := boot(t, "a", "abc", 3)
			p.tick()
			asked := p.sent
			tt.hear(p)
			p.do()
			p.want(tt.role, tt.term)
			p.sent = asked
			p.grant()
			if tt.role == protocol.Follower {
				p.want(protocol.Follower, tt.term)
			}
		})
	}
}

// Appends (paper 5.3), to a log of terms 1 1 2 2 of which 2 are committed.
func TestAppends(t *testing.T) {
	for _, tt := range []struct {
		name   string
		m      protocol.Append
		reply  protocol.Reply
		log    []uint64
		commit uint64
	}{
		{"an earlier term", protocol.Append{Term: 1, Prev: 4, PrevTerm: 2, Entries: entries(5, 1)}, protocol.Reply{Term: 3, Last: 4}, []uint64{1, 1, 2, 2}, 2},
		{"match", protocol.Append{Term: 3, Prev: 4, PrevTerm: 2, Entries: entries(5, 3, 3)}, protocol.Reply{Term: 3, OK: true, Needs: 6}, []uint64{1, 1, 2, 2, 3, 3}, 2},
		{"no entry there", protocol.Append{Term: 3, Prev: 9, PrevTerm: 3, Entries: entries(10, 3)}, protocol.Reply{Term: 3, Last: 4}, []uint64{1, 1, 2, 2}, 2},
		{"another entry there", protocol.Append{Term: 3, Prev: 4, PrevTerm: 3, Entries: entries(5, 3)}, protocol.Reply{Term: 3, Last: 3}, []uint64{1, 1, 2, 2}, 2},
		{"another there, and later terms than the leader's", protocol.Append{Term: 3, Prev: 4, PrevTerm: 1, Entries: entries(5, 3)}, protocol.Reply{Term: 3, Last: 2}, []uint64{1, 1, 2, 2}, 2},
		{"conflict", protocol.Append{Term: 3, Prev: 2, PrevTerm: 1, Entries: entries(3, 3)}, protocol.Reply{Term: 3, OK: true, Needs: 3}, []uint64{1, 1, 3}, 2},
		{"conflict behind equal ones", protocol.Append{Term: 3, Prev: 1, PrevTerm: 1, Entries: entries(2, 1, 2, 3)}, protocol.Reply{Term: 3, OK: true, Needs: 4}, []uint64{1, 1, 2, 3}, 2},
		{"late: equal entries are not cut", protocol.Append{Term: 3, Prev: 1, PrevTerm: 1, Entries: entries(2, 1, 2)}, protocol.Reply{Term: 3, OK: true, Needs: 3}, []uint64{1, 1, 2, 2}, 2},
		{"late, without entries", protocol.Append{Term: 3, Prev: 1, PrevTerm: 1}, protocol.Reply{Term: 3, OK: true, Needs: 1}, []uint64{1, 1, 2, 2}, 2},
		{"from the first", protocol.Append{Term: 3, Entries: entries(1, 1, 1, 2, 2, 3)}, protocol.Reply{Term: 3, OK: true, Needs: 5}, []uint64{1, 1, 2, 2, 3}, 2},
		{"commit of what is proven", protocol.Append{Term: 3, Prev: 2, PrevTerm: 1, Entries: entries(3, 2), Commit: 4}, protocol.Reply{Term: 3, OK: true, Needs: 3}, []uint64{1, 1, 2, 2}, 3},
		{"commit of less than was sent", protocol.Append{Term: 3, Prev: 4, PrevTerm: 2, Entries: entries(5, 3, 3), Commit: 5}, protocol.Reply{Term: 3, OK: true, Needs: 6}, []uint64{1, 1, 2, 2, 3, 3}, 5},
		{"commit does not go back", protocol.Append{Term: 3, Prev: 4, PrevTerm: 2, Commit: 1}, protocol.Reply{Term: 3, OK: true, Needs: 4}, []uint64{1, 1, 2, 2}, 2},
		{"no commit without a match", protocol.Append{Term: 3, Prev: 4, PrevTerm: 3, Commit: 4}, protocol.Reply{Term: 3, Last: 3}, []uint64{1, 1, 2, 2}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := boot(t, "a", "abc", 1, 1, 2, 2)
			p.beat("b", protocol.Heartbeat{Term: 3, Commit: 2, CommitTerm: 1})
			if got := p.append("b", tt.m); got != tt.reply {
				t.Errorf("%+v, want %+v", got, tt.reply)
			}
			p.wantLog(tt.log...)
			p.wantCommit(tt.commit)
		})
	}
}

// What is committed is not cut off: a leader that wishes it breaks the protocol (5.4).
func TestCommittedIsNotCut(t *testing.T) {
	p := boot(t, "a", "abc", 1, 1)
	p.beat("b", protocol.Heartbeat{Term: 1, Commit: 2, CommitTerm: 1})
	if got := p.r.Append(p.now, "c", protocol.Append{Term: 2, Prev: 1, PrevTerm: 1, Entries: entries(2, 2)}); got.OK || p.r.Broken() == nil {
		t.Errorf("%+v, broken: %v", got, p.r.Broken())
	}
}

// Two leaders of one term break it, too (5.2).
func TestTwoLeaders(t *testing.T) {
	p := boot(t, "a", "abc")
	p.lead()
	p.r.Heartbeat(p.now, "b", protocol.Heartbeat{Term: 1})
	if p.r.Broken() == nil {
		t.Error("nothing is said")
	}
}

// A snapshot stands for entries that are equal (paper 7).
func TestAppendsBehindASnapshot(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    protocol.Append
		ok   bool
		last uint64
	}{
		{"before it", protocol.Append{Term: 3, Prev: 1, PrevTerm: 1, Entries: entries(2, 1)}, true, 5},
		{"into it", protocol.Append{Term: 3, Prev: 3, PrevTerm: 1, Entries: entries(4, 1, 2, 3, 3)}, true, 7},
		{"up to it", protocol.Append{Term: 3, Entries: entries(1, 1, 1, 1, 1, 2)}, true, 5},
		{"behind it", protocol.Append{Term: 3, Prev: 5, PrevTerm: 2, Entries: entries(6, 3)}, true, 6},
		{"too far", protocol.Append{Term: 3, Prev: 6, PrevTerm: 3, Entries: entries(7, 3)}, false, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := boot(t, "a", "abc")
			p.log.install(simSnapshot{5, 2, p.log.snap.conf}, false)
			p.restart("a")
			if got := p.append("b", tt.m); got.OK != tt.ok || p.log.Last() != tt.last || !tt.ok && got.Last != 5 {
				t.Errorf("%+v, last %d", got, p.log.Last())
			}
		})
	}
}

// A heartbeat tells what is committed, to a log that holds the entry.
func TestHeartbeatsTeach(t *testing.T) {
	for _, tt := range []struct {
		name string
		beat protocol.Heartbeat
		want uint64
	}{
		{"it is held", protocol.Heartbeat{Term: 3, Commit: 3, CommitTerm: 2}, 3},
		{"another is held", protocol.Heartbeat{Term: 3, Commit: 3, CommitTerm: 3}, 0},
		{"none is held", protocol.Heartbeat{Term: 3, Commit: 9, CommitTerm: 2}, 0},
		{"nothing is committed", protocol.Heartbeat{Term: 3}, 0},
		{"its term is unknown", protocol.Heartbeat{Term: 3, Commit: 3}, 0},
		{"the term is over", protocol.Heartbeat{Term: 1, Commit: 3, CommitTerm: 2}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := boot(t, "a", "abc", 1, 1, 2)
			reply := p.beat("b", tt.beat)
			p.wantCommit(tt.want)
			if reply.OK != (tt.beat.Term == 3) || reply.Needs != 0 {
				t.Errorf("%+v", reply)
			}
		})
	}
}

// 5.4.2, figure 8: an entry of an older term is not committed by counting, for it may
// still be replaced; one of this term commits it, too.
func TestFigure8(t *testing.T) {
	p := boot(t, "a", "abcde", 1, 2)
	p.log.hard.Term = 3
	p.restart("a")
	p.lead()
	p.want(protocol.Leader, 4)
	for _, id := range []fulcrum.NodeID{"b", "c"} {
		m := p.first(id)
		p.refused(id, *m, 1)
		m = p.wantSent(id, 1, 2)
		m.Entries = m.Entries[:1] // as if no more had fitted in
		p.taken(id, m)
		p.wantCommit(0)
	}
	for _, id := range []fulcrum.NodeID{"b", "c"} {
		p.r.Appended(p.now, id, protocol.Append{Term: 4, Prev: 2, PrevTerm: 2, Entries: entries(3, 4)}, protocol.Reply{Term: 4, OK: true})
	}
	p.wantCommit(3)
}
