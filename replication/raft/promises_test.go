package raft

import (
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
)

// What a voter may do while it is bound, and what lets it off.
func TestWhatAPromiseForbids(t *testing.T) {
	const d = 500 * time.Millisecond
	inTerm := func(term uint64) func() uint64 { return func() uint64 { return term } }
	tests := []struct {
		name  string
		term  uint64 // that the voter is in when it is asked
		wait  time.Duration
		off   release // what a candidate or TimeoutNow shows
		bound bool
	}{
		{"a promise binds", 4, 0, release{}, true},
		{"until it is over", 4, d - 1, release{}, true},
		{"and no longer", 4, d, release{}, false},
		{"who is in another term promises nothing", 5, 0, release{}, false},
		{"the leader's release ends it", 4, 0, release{"l", 4, 7}, false},
		{"a later one, too", 4, 0, release{"l", 4, 9}, false},
		{"one of before does not", 4, 0, release{"l", 4, 6}, true},
		{"nor one of another term", 4, 0, release{"l", 3, 9}, true},
		{"nor another's", 4, 0, release{"x", 4, 9}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p promises
				p.begin("v", false, d)
				p.give("l", question{nonce: 7, term: 4, lease: d}, d, inTerm(tt.term))
				time.Sleep(tt.wait)
				if got := p.bind("x", tt.off); got != tt.bound {
					t.Errorf("a vote for x is held back: %v, want %v", got, tt.bound)
				}
				if p.bind("l", tt.off) {
					t.Error("a vote for the leader itself is held back")
				}
				if err := p.timeoutNow(tt.off); (err != nil) != tt.bound {
					t.Errorf("TimeoutNow: %v, want it refused: %v", err, tt.bound)
				}
				if _, err := p.ask(); (err != nil) != tt.bound {
					t.Errorf("a request for votes: %v, want it held back: %v", err, tt.bound)
				}
			})
		})
	}
	t.Run("after a restart nobody is elected", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var p promises
			p.begin("v", true, d)
			for _, id := range []fulcrum.NodeID{"l", "x"} {
				if !p.bind(id, release{"l", 4, 9}) {
					t.Errorf("a vote for %s leaves", id)
				}
			}
			if _, err := p.ask(); err == nil {
				t.Error("a request for votes leaves")
			}
			time.Sleep(d)
			if _, err := p.ask(); err != nil || p.bind("x", release{}) {
				t.Error("it abstains for too long")
			}
		})
	})
}

func TestProofsKeepTheNewest(t *testing.T) {
	var p proofs
	if _, _, ok := p.newest(); ok {
		t.Error("a proof out of nothing")
	}
	now := time.Now()
	p.add(confirmation{at: now, index: 5})
	p.add(confirmation{at: now.Add(-time.Second), index: 9})
	if at, index, ok := p.newest(); !ok || !at.Equal(now) || index != 5 {
		t.Errorf("%v, %d, %v", at, index, ok)
	}
}
