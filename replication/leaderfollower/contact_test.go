package leaderfollower

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
)

// A leader that was cut off a moment ago refuses a quorum write: it stores nothing,
// and says so, well before anything could tell it that its followers are gone.
func TestCutOffLeaderRefusesDefinitely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3, Options{}, true)
		defer w.Close()
		time.Sleep(2 * time.Second)
		w.Net.Isolate("n1")
		time.Sleep(2 * freshContact)
		g := w.group("n1")
		before := g.Status().LastIndex
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		req := replication.WriteRequest{Level: consistency.L(consistency.QuorumOf),
			Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v")}}}
		_, err := g.Write(ctx, req)
		if !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("a quorum write on a cut-off leader: %v, want a definite refusal", err)
		}
		if after := g.Status().LastIndex; after != before {
			t.Errorf("the refused write went into the log: last index %d, was %d", after, before)
		}
		req.Level = consistency.L(consistency.One)
		if _, err := g.Write(ctx, req); err != nil {
			t.Errorf("a write at one needs nobody else while the lease holds: %v", err)
		}
	})
}
