package node

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestWhoCountsAsLive(t *testing.T) {
	// Each step is done after a wait; then n1 and n2 are looked at.
	type step struct {
		after  time.Duration
		do     func(*liveness)
		n1, n2 bool // expired
	}
	lead := func(term uint64) func(*liveness) { return func(l *liveness) { l.lead(term) } }
	renew1 := func(l *liveness) { l.renewal("n1", 1) }
	resign1 := func(l *liveness) { l.resign("n1") }
	nothing := func(*liveness) {}
	tests := []struct {
		name  string
		steps []step
	}{
		{"a new leader of the catalog takes everybody for live until any lease of before has run out", []step{
			{0, lead(1), false, false}, {takeoverTime, nothing, false, false}, {time.Millisecond, nothing, true, true},
		}},
		{"a renewal makes its node live for that long", []step{
			{0, lead(1), false, false}, {2 * time.Second, renew1, false, false}, {takeoverTime - 2*time.Second + 1, nothing, false, true},
			{2*time.Second - 1, nothing, false, true}, {1, nothing, true, true}, {0, renew1, false, true},
		}},
		{"the same term does not begin anew", []step{
			{0, lead(1), false, false}, {takeoverTime + 1, lead(1), true, true},
		}},
		{"another term does, and forgets what was renewed in the one before", []step{
			{0, lead(1), false, false}, {takeoverTime + 1, renew1, false, true}, {0, lead(2), false, false}, {takeoverTime + 1, nothing, true, true},
		}},
		{"who resigns is expired at once, and nobody else", []step{
			{0, lead(1), false, false}, {0, resign1, true, false}, {takeoverTime, nothing, true, false}, {1, nothing, true, true},
		}},
		{"unless it renews again", []step{
			{0, lead(1), false, false}, {0, resign1, true, false}, {time.Second, renew1, false, false},
		}},
		{"a resignation ends with the term", []step{
			{0, lead(1), false, false}, {0, resign1, true, false}, {0, lead(2), false, false},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l liveness
				for i, s := range tt.steps {
					time.Sleep(s.after)
					s.do(&l)
					if n1, n2 := l.expired("n1"), l.expired("n2"); n1 != s.n1 || n2 != s.n2 {
						t.Errorf("after step %d n1 is expired: %v, n2: %v; want %v, %v", i, n1, n2, s.n1, s.n2)
					}
				}
			})
		})
	}
}

// The order of times on which the proof above liveness.go stands.
func TestTakeoverComesAfterTheLease(t *testing.T) {
	if takeoverTime <= leaseTime || renewEvery*2 >= leaseTime {
		t.Errorf("a lease of %s, renewed every %s, taken over after %s", leaseTime, renewEvery, takeoverTime)
	}
}

// Once it is decided that a node is replaced, nothing gives it a lease in the epoch
// that is being ended: neither a renewal that comes just then, nor a later one.
func TestNoLeaseBetweenTheDecisionAndTheRaise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l liveness
		l.lead(1)
		if l.condemn("n1", 7) {
			t.Error("condemned while a lease of before may hold")
		}
		time.Sleep(takeoverTime + 1)
		if !l.condemn("n1", 7) {
			t.Fatal("not condemned although its lease ran out")
		}
		if l.renewal("n1", 7) {
			t.Error("a lease was granted in the epoch that is being ended")
		}
		if !l.expired("n1") {
			t.Error("the refused renewal counts as one")
		}
		if !l.renewal("n1", 8) || l.expired("n1") {
			t.Error("no lease in the next epoch")
		}
	})
}
