package protocol_test

import (
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// beats lets a leader live for so many heartbeats, of which those in answering answer, and
// counts those that are sent to b.
func (p *replica) beats(n int, answering string) (sent int) {
	p.t.Helper()
	for until := p.now.Add(time.Duration(n) * heartbeat); p.is(protocol.Leader); {
		next := p.r.Next()
		if next.After(until) {
			p.now = until
			return sent
		}
		p.now = next
		p.r.Tick(p.now)
		p.do()
		asked := slices.Clone(p.sent)
		for _, s := range asked {
			if s.Beat == nil {
				continue
			}
			if s.To == "b" {
				sent++
			}
			for _, id := range answering {
				if s.To == fulcrum.NodeID(id) {
					p.beaten(s.To)
				}
			}
		}
	}
	return sent
}

// A leader leaves out every other heartbeat while nobody could learn anything by it, and
// everybody answers.
func TestCalm(t *testing.T) {
	tests := []struct {
		name      string
		names     string
		first     string // who takes in the leader's first entry
		answering string
		stir      func(p *replica)
		calm      bool
	}{
		{"all is said", "abc", "bc", "bc", nil, true},
		{"one does not answer", "abc", "bc", "c", nil, false},
		{"one lacks an entry", "abc", "c", "bc", nil, false},
		{"one without a vote lacks an entry", "abcD", "bc", "bcd", nil, false},
		{"one without a vote is as far", "abcD", "bcd", "bcd", nil, true},
		{"an entry is not committed", "abc", "bc", "bc", func(p *replica) { p.propose() }, false},
		{"an entry is held by all", "abc", "bc", "bc", func(p *replica) { p.propose(); p.all("b", "c") }, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p := boot(t, "a", tc.names)
			p.lead()
			for _, id := range tc.first {
				p.taken(fulcrum.NodeID(id), p.first(fulcrum.NodeID(id)))
			}
			p.beats(4, tc.answering)
			if tc.stir != nil {
				tc.stir(p)
				p.beats(4, tc.answering)
			}
			switch got := p.beats(20, tc.answering); {
			case tc.calm && (got < 9 || got > 11):
				t.Errorf("%d heartbeats where 20 fit, want half of them", got)
			case !tc.calm && (got < 19 || got > 21):
				t.Errorf("%d heartbeats where 20 fit, want all", got)
			}
			p.want(protocol.Leader, 1)
		})
	}
}

// An entry ends the calm at once, and so does a heartbeat without an answer: a follower
// hears twice of a leader in the time in which it missed one heartbeat.
func TestCalmEnds(t *testing.T) {
	ways := map[string]func(p *replica) (after time.Time){
		"by an entry": func(p *replica) time.Time { p.propose(); return p.now },
		"by silence": func(p *replica) time.Time {
			p.tick() // nobody answers this one
			return p.now
		},
	}
	for name, end := range ways {
		t.Run(name, func(t *testing.T) {
			p := boot(t, "a", "abc")
			p.lead()
			p.all("b", "c")
			p.beats(9, "bc")
			p.tick()
			p.beaten("b", "c")
			if after := end(p); p.r.Next().Sub(after) > heartbeat*5/4 {
				t.Errorf("the next heartbeat is %v away, want the usual %v", p.r.Next().Sub(after), heartbeat)
			}
		})
	}
}

// A leader that has not yet told what is committed is not calm, whoever answers.
func TestCalmLeaderHasToldWhatIsCommitted(t *testing.T) {
	p := boot(t, "a", "abc")
	p.lead()
	p.all("b", "c")
	p.beats(9, "bc")
	p.tick()
	p.beaten("b", "c")
	p.propose()
	p.all("b", "c")
	p.wantCommit(2)
	p.beaten("b", "c") // they were asked before
	if late := p.r.Next().Sub(p.now); late > heartbeat*5/4 {
		t.Errorf("the heartbeat that tells is %v away, want the usual %v", late, heartbeat)
	}
}
