package protocol_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// A voter that is alone elects itself, and commits what is durable (paper 5.3; thesis
// 10.2.1).
func TestSingleVoter(t *testing.T) {
	for _, names := range []string{"a", "aB"} {
		p := boot(t, "a", names)
		p.slow = true
		p.tick()
		p.want(protocol.Leader, 1)
		p.propose()
		p.wantCommit(0)
		p.sync()
		p.wantCommit(2)
		p.propose()
		p.wantCommit(2)
	}
}

// Without a vote there is no candidate (thesis 4.2.1).
func TestNonVoter(t *testing.T) {
	p := boot(t, "b", "aB", 1)
	p.tick()
	p.r.Campaign(p.now)
	p.do()
	p.want(protocol.Follower, 1)
	if len(p.sent) > 0 {
		t.Errorf("sent %+v", p.sent)
	}
	p.append("a", protocol.Append{Term: 2, Prev: 1, PrevTerm: 1, Entries: entries(2, 2), Commit: 2})
	p.wantCommit(2)
}

// The leader's own copy counts when it is durable, and others commit without it
// (thesis 10.2.1).
func TestLeaderCountsItselfWhenDurable(t *testing.T) {
	for _, from := range []string{"b", "bc"} {
		p := boot(t, "a", "abc")
		p.slow = true
		p.lead()
		for _, id := range from {
			p.taken(fulcrum.NodeID(id), p.first(fulcrum.NodeID(id)))
		}
		p.wantCommit(uint64(len(from) - 1))
		p.sync()
		p.wantCommit(1)
	}
}

// A vote of those that have none does not count for a commit, either (thesis 4.2.1).
func TestNonVotersDoNotCommit(t *testing.T) {
	p := boot(t, "a", "abCD")
	p.lead()
	sent := p.sent
	for _, id := range []fulcrum.NodeID{"c", "d"} {
		p.sent = sent
		p.taken(id, p.to(id))
	}
	p.wantCommit(0)
	p.sent = sent
	p.taken("b", p.to("b"))
	p.wantCommit(1)
}

// A leader that hears of no majority steps down (thesis 6.2).
func TestLease(t *testing.T) {
	p := boot(t, "a", "abcdE")
	p.lead()
	for range 5 {
		p.after(election - time.Millisecond)
		p.want(protocol.Leader, 1)
		p.beaten("b", "c", "e")
	}
	p.after(election - time.Millisecond)
	p.beaten("b", "e")
	p.after(2 * time.Millisecond)
	p.want(protocol.Follower, 1)
	if _, _, err := p.r.Propose(p.now, nil); !errors.Is(err, protocol.ErrNotLeader) {
		t.Errorf("propose: %v", err)
	}
}

// A leader that hears of a later term steps down, from whatever answer (paper 5.1).
func TestLaterTerm(t *testing.T) {
	no := protocol.Reply{Term: 5}
	for _, tt := range []struct {
		name string
		hear func(*replica)
	}{
		{"append", func(p *replica) { p.append("b", protocol.Append{Term: 5}) }},
		{"heartbeat", func(p *replica) { p.beat("b", protocol.Heartbeat{Term: 5}) }},
		{"snapshot", func(p *replica) { p.r.Offer(p.now, "b", 5) }},
		{"append refused", func(p *replica) { p.r.Appended(p.now, "b", *p.first("b"), no) }},
		{"heartbeat refused", func(p *replica) { p.r.Beaten(p.now, "b", 1, no) }},
		{"snapshot refused", func(p *replica) { p.r.SnapshotSent(p.now, "b", 1, 0, 5) }},
		{"vote refused", func(p *replica) { p.r.Voted(p.now, "b", protocol.Vote{Term: 1}, protocol.VoteReply{Term: 5}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := boot(t, "a", "abc")
			p.lead()
			tt.hear(p)
			p.do()
			p.want(protocol.Follower, 5)
			if p.log.hard != (protocol.HardState{Term: 5}) {
				t.Errorf("stored %+v", p.log.hard)
			}
		})
	}
}

// Answers of an earlier term do not count in this one.
func TestAnswersOfAnEarlierTerm(t *testing.T) {
	p := boot(t, "a", "abc")
	p.lead()
	old := *p.first("b")
	p.append("c", protocol.Append{Term: 2, Entries: entries(1, 2)})
	p.now = p.now.Add(2 * election)
	p.tick()
	p.grant()
	p.grant()
	p.want(protocol.Leader, 3)
	p.r.Appended(p.now, "b", old, protocol.Reply{Term: 1, OK: true})
	p.r.SnapshotSent(p.now, "b", 1, 2, 1)
	p.r.Lost(p.now, "b", 1)
	if match, _ := p.r.Progress("b"); match != 0 {
		t.Errorf("match is %d", match)
	}
	p.wantCommit(0)
}

// One append at a time: what is written meanwhile goes with the next.
func TestOneAppendUnderWay(t *testing.T) {
	p := boot(t, "a", "abc")
	p.lead()
	first := p.wantSent("b", 0, 1)
	for range 3 {
		p.propose()
		p.wantNothing("b")
	}
	p.taken("b", first)
	p.wantSent("b", 1, 3)
	p.wantNothing("c")
	p.taken("b", p.to("b"))
	p.wantNothing("b")
	p.propose()
	p.wantSent("b", 4, 1)
}

// An append that goes in parts is not taken for lost while they arrive; but a replica that
// only takes parts has not answered, and a leader with no other steps down.
func TestAnAppendInParts(t *testing.T) {
	p := boot(t, "a", "abc")
	p.lead()
	first := p.wantSent("b", 0, 1)
	for range 5 {
		p.beaten("c")
		p.after(retry - 1)
		p.wantNothing("b")
		p.r.Moving(p.now, "b", *first)
	}
	p.r.Moving(p.now, "b", protocol.Append{Term: first.Term, Prev: 7}) // another one
	p.beaten("c")
	p.after(retry)
	p.wantSent("b", 0, 1)

	p = boot(t, "a", "abc")
	p.lead()
	first = p.wantSent("b", 0, 1)
	for until := p.now.Add(4 * election); p.is(protocol.Leader); p.tick() {
		if p.r.Moving(p.now, "b", *first); p.now.After(until) {
			t.Fatal("a leader that nobody answers leads on")
		}
	}
}

// An answer to an append that was given up does not let a second one go while another
// is under way.
func TestLateAnswer(t *testing.T) {
	p := boot(t, "a", "abc")
	p.lead()
	first := p.wantSent("b", 0, 1)
	p.propose()
	p.beaten("b", "c")
	p.after(retry)
	again := p.wantSent("b", 0, 2)
	p.taken("b", first)
	second := p.wantSent("b", 1, 1)
	p.propose()
	p.taken("b", again)
	p.wantNothing("b") // second is under way
	p.taken("b", second)
	p.wantSent("b", 2, 1)
}

// A late refusal does no harm; and who has lost what it held gets it again.
func TestLateRefusal(t *testing.T) {
	p := boot(t, "a", "abc", 1, 1, 1, 1)
	p.lead()
	first := p.wantSent("b", 4, 1)
	p.refused("b", *first, 2)
	p.taken("b", p.wantSent("b", 2, 3))
	p.propose()
	p.taken("b", p.wantSent("b", 5, 1))
	for _, late := range []protocol.Append{*first, {Term: first.Term, Prev: 6, PrevTerm: first.Term}} {
		p.refused("b", late, 2)
		if match, next, _ := p.r.ProgressOf("b"); match >= next {
			t.Errorf("match %d, next %d", match, next)
		}
	}
	p.wantSent("b", 2, 4)
	p.taken("b", p.to("b"))
	if match, next, _ := p.r.ProgressOf("b"); match != 6 || next != 7 {
		t.Errorf("match %d, next %d", match, next)
	}
}

// A follower that lags is found out in a few steps, and the log is never sent from
// before its first entry (paper 5.3).
func TestRefusals(t *testing.T) {
	p := boot(t, "a", "abc", 1, 1, 2, 2, 3, 3)
	p.lead()
	p.refused("b", *p.wantSent("b", 6, 1), 4)
	p.refused("b", *p.wantSent("b", 4, 3), 9) // senseless: one back
	p.refused("b", *p.wantSent("b", 3, 4), 0)
	p.taken("b", p.wantSent("b", 0, 7))
	p.wantCommit(7)
}

// An append without an answer is sent again.
func TestRetry(t *testing.T) {
	lost := func(p *replica) { p.r.Lost(p.now, "b", 1) }
	for _, tt := range []struct {
		name  string
		lose  func(*replica)
		after time.Duration
	}{
		{"nobody says that it is lost", func(*replica) {}, retry},
		{"it is lost", lost, 50 * time.Millisecond},
		{"it is lost twice", func(p *replica) { lost(p); p.pass(50 * time.Millisecond); lost(p) }, 100 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := boot(t, "a", "abc")
			p.lead()
			p.wantSent("b", 0, 1)
			tt.lose(p)
			p.pass(tt.after - time.Millisecond)
			p.wantNothing("b")
			p.pass(time.Millisecond)
			p.wantSent("b", 0, 1)
		})
	}
	t.Run("it is there again", func(t *testing.T) {
		p := boot(t, "a", "abc")
		p.lead()
		lost(p)
		p.do()
		p.propose()
		p.wantNothing("b")
		p.beaten("c")
		p.wantNothing("b")
		p.beaten("b")
		p.wantSent("b", 0, 2)
	})
	t.Run("for ever, but not too seldom", func(t *testing.T) {
		p := boot(t, "a", "abc")
		p.lead()
		for range 100 {
			lost(p)
			from := p.now
			for p.sent = nil; p.to("b") == nil; p.tick() {
				p.r.Beaten(p.now, "c", 1, protocol.Reply{Term: 1, OK: true})
			}
			if took := p.now.Sub(from); took > 400*time.Millisecond {
				t.Fatalf("sent again after %v", took)
			}
		}
	})
}

// A snapshot is sent when entries are gone, once at a time; behind it replication goes
// on (paper 7).
func TestSnapshotIsSent(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*replica)
	}{
		{"at once", func(*replica) {}},
		{"after a failure", func(p *replica) {
			p.r.SnapshotSent(p.now, "b", 3, 0, 3)
			p.propose()
			p.wantSnapshot("b", 0)
			p.pass(100 * time.Millisecond)
			p.wantSnapshot("b", 1)
		}},
		{"after a failure, and it is there again", func(p *replica) {
			p.r.SnapshotSent(p.now, "b", 3, 0, 3)
			p.beaten("b")
			p.wantSnapshot("b", 1)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := boot(t, "a", "abc", 1, 1, 2, 2)
			p.log.take(simSnapshot{3, 2, p.log.snap.conf}, 4)
			p.restart("a")
			p.lead()
			p.refused("b", *p.wantSent("b", 4, 1), 1)
			p.wantSnapshot("b", 1)
			p.propose()
			p.beaten("b", "c")
			p.wantSnapshot("b", 0)
			p.wantNothing("b")
			tt.end(p)
			last := int(p.log.Last())
			p.r.SnapshotSent(p.now, "b", 3, 3, 3)
			p.do()
			p.taken("b", p.wantSent("b", 3, last-3))
			p.wantCommit(uint64(last))
		})
	}
}

// needing makes a leader of term 3 whose log begins behind what b lacks: b is being sent a snapshot.
func needing(t *testing.T) *replica {
	p := boot(t, "a", "abc", 1, 1, 2, 2)
	p.log.take(simSnapshot{3, 2, p.log.snap.conf}, 4)
	p.restart("a")
	p.lead()
	p.refused("b", *p.wantSent("b", 4, 1), 1)
	p.wantSnapshot("b", 1)
	return p
}

// A snapshot is all that the leader holds: nobody who does not answer is sent one.
func TestNobodyIsSentASnapshotWhoIsAway(t *testing.T) {
	p := needing(t)
	for range 40 {
		p.after(heartbeat)
		p.beaten("c")
	}
	p.r.SnapshotSent(p.now, "b", 3, 0, 0) // b is away by now
	for range 200 {
		p.after(heartbeat)
		p.wantSnapshot("b", 0)
		p.beaten("c")
		p.wantSnapshot("b", 0)
	}
	p.beaten("b")
	p.wantSnapshot("b", 1)
}

// One who answers and takes no snapshot, as its disk is full perhaps, is sent another one less and
// less often, but for ever.
func TestSnapshotsThatAreNotTakenGetSeldom(t *testing.T) {
	p := needing(t)
	var longest time.Duration
	for range 20 {
		p.r.SnapshotSent(p.now, "b", 3, 0, 3)
		p.do()
		from := p.now
		for sent := false; !sent && p.now.Sub(from) < time.Minute; {
			p.beaten("b", "c")
			if sent = slices.ContainsFunc(p.sent, func(s protocol.Send) bool { return s.Snapshot }); !sent {
				p.after(heartbeat)
				sent = slices.ContainsFunc(p.sent, func(s protocol.Send) bool { return s.Snapshot })
			}
		}
		longest = max(longest, p.now.Sub(from))
	}
	if longest < 9*time.Second || longest > 11*time.Second {
		t.Errorf("the longest pause is %v, want about 10 s", longest)
	}
	p.r.SnapshotSent(p.now, "b", 3, 3, 3)
	p.do()
	p.wantSent("b", 3, int(p.log.Last())-3)
}

// What is at the snapshot's very end needs none.
func TestEntriesBehindASnapshot(t *testing.T) {
	p := boot(t, "a", "abc", 1, 1, 2, 2)
	p.log.take(simSnapshot{3, 2, p.log.snap.conf}, 4)
	p.restart("a")
	p.lead()
	p.refused("b", *p.wantSent("b", 4, 1), 3)
	p.wantSent("b", 3, 2)
}

// Entries that are gone before they are sent are found out about later.
func TestFillWithoutEntries(t *testing.T) {
	p := boot(t, "a", "abc", 1, 1)
	p.lead()
	m := *p.first("b")
	p.log.take(simSnapshot{3, 2, p.log.snap.conf}, 4)
	if p.r.Fill(p.now, "b", &m, 1) {
		t.Error("filled")
	}
	p.pass(100 * time.Millisecond)
	p.wantSnapshot("b", 1)

	old := protocol.Append{Term: 2, Prev: 3, PrevTerm: 2} // of a term that is over
	p.append("c", protocol.Append{Term: 7, Prev: 3, PrevTerm: 2, Entries: entries(4, 7)})
	if p.r.Fill(p.now, "b", &old, 1) {
		t.Error("filled with entries of a later term")
	}
}

// Messages leave in the order of the members: a run can be repeated.
func TestOrder(t *testing.T) {
	for range 20 {
		p := boot(t, "a", "cebad")
		p.lead()
		p.r.Beat()
		sent := append(slices.Clone(p.sent), p.r.Ready().Sends...)
		var to string
		for _, s := range sent {
			to += string(s.To)
		}
		if to != "cebdcebd" {
			t.Fatalf("sent to %s", to)
		}
	}
}
