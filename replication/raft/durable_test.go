package raft_test

import (
	"testing"
	"time"

	"fulcrum"
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

// The leader's copy counts like any other: a majority of disks decides, and not before.
func TestMajorityOfDisksDecides(t *testing.T) {
	for _, tt := range []struct {
		name string
		slow int // disks, the leader's first
		want time.Duration
	}{
		{"the leader's disk is slow", 1, 0},
		{"the leader's disk and another are slow", 2, 400 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
				a := leader(t, c)
				mustPut(t, c, a, "k", "old")
				time.Sleep(time.Second)
				for _, id := range append([]fulcrum.NodeID{a}, others(c, a)...)[:tt.slow] {
					c.Log(id).SyncDelay(400 * time.Millisecond)
				}
				begun := time.Now()
				done := make(chan error, 1)
				go func() {
					ctx, cancel := within(5 * time.Second)
					defer cancel()
					_, err := c.Group(a).Write(ctx, put("k", "new"))
					done <- err
				}()
				if tt.want > 0 {
					time.Sleep(tt.want / 2)
					for _, id := range c.IDs {
						if got, err := read(c, id, "k", consistency.L(consistency.One)); err != nil || got != "old" {
							t.Errorf("%s shows %q, %v before a majority holds it", id, got, err)
						}
					}
					if got, err := read(c, a, "k", consistency.L(consistency.Linearizable)); err != nil || got != "old" {
						t.Errorf("a linearizable read shows %q, %v before a majority holds it", got, err)
					}
				}
				if err := <-done; err != nil || time.Since(begun) != tt.want {
					t.Errorf("the write was answered with %v after %v, want it after %v", err, time.Since(begun), tt.want)
				}
				if got, err := read(c, a, "k", consistency.L(consistency.Linearizable)); err != nil || got != "new" {
					t.Errorf("then %q, %v", got, err)
				}
			})
		})
	}
}
