package leaderfollower

import (
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication/replicationtest"
)

var (
	strong = consistency.L(consistency.Linearizable)
	weak   = consistency.L(consistency.One)
)

func TestEveryWriteLevelIsRead(t *testing.T) {
	for _, kind := range []consistency.Kind{consistency.One, consistency.Two, consistency.Three, consistency.QuorumOf, consistency.Linearizable, consistency.All, consistency.Default} {
		t.Run(consistency.L(kind).String(), func(t *testing.T) {
			inWorld(t, 3, Options{}, false, func(t *testing.T, w *world) {
				r := mustPut(t, w, "n1", "k", "v", kind)
				if r.Outcome.Acks < r.Outcome.Needed || r.Outcome.Needed < 1 {
					t.Errorf("outcome %+v", r.Outcome)
				}
				for _, level := range []consistency.Level{strong, weak, consistency.L(consistency.LocalOne), consistency.L(consistency.Lease), consistency.L(consistency.Session), {Kind: consistency.Bounded, Bound: time.Second}} {
					wantRead(t, w.Group("n1"), "k", level, "v")
				}
				_, err := w.Group("n2").Read(within(t, time.Second), get("k", strong))
				wantCode(t, "a linearizable read on a follower", err, fulcrum.CodeNotLeader)
				time.Sleep(time.Second)
				for _, id := range w.IDs {
					wantRead(t, w.Group(id), "k", consistency.L(consistency.Prefix), "v")
					wantRead(t, w.Group(id), "k", consistency.Level{Kind: consistency.Bounded, Bound: 2 * time.Second}, "v")
				}
			})
		})
	}
}

func TestContract(t *testing.T) {
	replicationtest.TestGroup(t, replicationtest.Config{
		New: func(tb testing.TB, n int) *replicationtest.Cluster {
			return newWorld(tb, n, Options{}, false).Cluster
		},
		Write: consistency.L(consistency.QuorumOf), Read: strong, Weak: weak, Atomic: true, Logged: true,
	})
}
