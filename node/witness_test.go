package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
)

func TestAWitnessVouchesForItsOwnTermAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := coordinator("n9")
		for _, tt := range []struct {
			said uint64
			want bool
		}{{7, true}, {6, false}, {8, false}, {0, false}} {
			said := make(chan uint64, 1)
			said <- tt.said
			if got := n.vouched(t.Context(), said, "n1", 7); got != tt.want {
				t.Errorf("a witness in term %d vouches for a leader of term 7: %v", tt.said, got)
			}
		}
		none := make(chan uint64, 1)
		none <- 0
		if n.vouched(t.Context(), none, "n1", 0) {
			t.Error("a witness without a term vouches for a leader without one")
		}
	})
}

// One that says nothing holds a read up for a moment, and is left alone for a while; it
// says nothing about the leader.
func TestASilentWitnessIsLeftAloneForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := coordinator("n9")
		replicas := []fulcrum.NodeID{"n1", "n2", "n3"}
		if w := n.witnesses.among(replicas, "n1"); w != "n2" {
			t.Errorf("the witness is %q, want n2", w)
		}
		begun := time.Now()
		if n.vouched(t.Context(), make(chan uint64), "n2", 7) {
			t.Error("silence vouches for the leader")
		}
		if took := time.Since(begun); took != witnessPatience {
			t.Errorf("the read waited for %s", took)
		}
		if w := n.witnesses.among(replicas, "n1"); w != "n3" {
			t.Errorf("after n2 said nothing the witness is %q, want n3", w)
		}
		time.Sleep(silentFor)
		if w := n.witnesses.among(replicas, "n1"); w != "n2" {
			t.Errorf("after a while the witness is %q, want n2 again", w)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n.vouched(ctx, make(chan uint64), "n3", 7) {
			t.Error("the end of a request vouches for the leader")
		}
		if w := n.witnesses.among(replicas, "n2"); w != "n1" {
			t.Errorf("the witness is %q, want n1", w)
		}
	})
}

func TestOneReadOfAShardAtATimeHasAWitness(t *testing.T) {
	var w witnesses
	a, ok := w.begin(7)
	if _, again := w.begin(7); !ok || again {
		t.Errorf("first: %v, second beside it: %v", ok, again)
	}
	b, other := w.begin(8)
	w.end(7)
	c, next := w.begin(7)
	if !other || !next || a == b || b == c || a == c {
		t.Errorf("another shard: %v, the next: %v; nonces %d, %d, %d", other, next, a, b, c)
	}
}
