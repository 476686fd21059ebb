package raft_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// The replica that campaigns leads a new epoch long before an election timeout.
func TestNewEpochElectsItsLeaderAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := replicationtest.NewCluster(t, 3, func(env replication.Env) (replication.Group, error) {
			return raft.Open(env, raft.Options{Campaign: env.Node == "n2"})
		}, replicationtest.Options{})
		defer c.Close()
		began := time.Now()
		if l := leader(t, c); l != "n2" {
			t.Errorf("%s leads, want n2, which campaigns", l)
		}
		if took := time.Since(began); took >= 500*time.Millisecond { // virtual time
			t.Errorf("the first leader took %s, want well under the election timeout of 1s", took)
		}
	})
}

// A leader that was cut off a moment ago puts nothing into its log: the write is
// refused, not unknown.
func TestCutOffLeaderRefusesDefinitely(t *testing.T) {
	cluster(t, 3, raft.Tuning{LeaderLease: 900 * time.Millisecond}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "1")
		if _, err := read(c, l, "k", consistency.L(consistency.Linearizable)); err != nil { // passes the term's barrier
			t.Fatal(err)
		}
		c.Net.Isolate(l)
		time.Sleep(100 * time.Millisecond)
		if !c.Group(l).Status().IsLeader {
			t.Fatal("the leader stepped down before the write: the test shows nothing")
		}
		before := c.Group(l).Status().LastIndex
		ctx, cancel := within(3 * time.Second)
		defer cancel()
		_, err := c.Group(l).Write(ctx, put("k", "2"))
		if !errors.Is(err, fulcrum.ErrUnavailable) && !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("a write on a cut-off leader: %v, want a definite refusal", err)
		}
		if after := c.Group(l).Status().LastIndex; after != before {
			t.Errorf("the refused write went into the log: last index %d, was %d", after, before)
		}
	})
}
