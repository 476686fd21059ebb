package raft_test

import (
	"testing"
	"time"

	"fulcrum/consistency"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// A commit takes one sync: the leader's and the followers' go on side by side.
func TestLeaderWritesWhileItSends(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		mustPut(t, c, a, "k", "old")
		for _, id := range c.IDs {
			c.Log(id).SyncDelay(100 * time.Millisecond)
		}
		begun := time.Now()
		mustPut(t, c, a, "k", "new")
		if took := time.Since(begun); took < 100*time.Millisecond || took >= 200*time.Millisecond {
			t.Errorf("a write on disks that take 100ms took %v, want one sync", took)
		}
	})
}

func TestLeaderAnswersForWhatItsOwnDiskHolds(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		b := others(c, a)[0]
		mustPut(t, c, a, "k", "old")
		if _, err := read(c, a, "k", consistency.L(consistency.Linearizable)); err != nil {
			t.Fatal(err) // the barrier of this term is passed
		}
		time.Sleep(time.Second)
		c.Log(a).SyncDelay(400 * time.Millisecond)
		begun := time.Now()
		done := make(chan error, 1)
		go func() {
			ctx, cancel := within(5 * time.Second)
			defer cancel()
			_, err := c.Group(a).Write(ctx, put("k", "new"))
			done <- err
		}()
		time.Sleep(200 * time.Millisecond)
		if c.Log(b).Last() != c.Log(a).Last() {
			t.Fatal("the follower does not hold the entry yet: this test means nothing")
		}
		for _, id := range c.IDs {
			if got, err := read(c, id, "k", consistency.L(consistency.One)); err != nil || got != "old" {
				t.Errorf("%s shows %q, %v before the leader's copy is durable", id, got, err)
			}
		}
		if got, err := read(c, a, "k", consistency.L(consistency.Linearizable)); err != nil || got != "old" {
			t.Errorf("a linearizable read shows %q, %v before the leader's copy is durable", got, err)
		}
		if err := <-done; err != nil || time.Since(begun) < 400*time.Millisecond {
			t.Errorf("the write was answered with %v after %v, before the leader's sync ended", err, time.Since(begun))
		}
		if got, err := read(c, a, "k", consistency.L(consistency.Linearizable)); err != nil || got != "new" {
			t.Errorf("after the sync %q, %v", got, err)
		}
	})
}
