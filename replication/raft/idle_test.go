package raft_test

import (
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// What a group says while nobody asks anything of it: a heartbeat to each follower, and
// not all of those that a busy one sends. It keeps its leader by that.
func TestIdleGroupSaysLittle(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		time.Sleep(2 * time.Second)
		var beats, others atomic.Int64
		c.Net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if raft.IsHeartbeat(msg) {
				beats.Add(1)
			} else {
				others.Add(1)
			}
			return v
		})
		time.Sleep(20 * time.Second)
		const usual, followers = 20 * 4, 2
		if got := beats.Load(); got > followers*usual*6/10 || got < followers*usual*4/10 {
			t.Errorf("%d heartbeats, want about half of %d", got, followers*usual)
		}
		if got := others.Load(); got > 0 {
			t.Errorf("%d messages besides heartbeats", got)
		}
		if now := leader(t, c); now != l {
			t.Errorf("%s leads now, %s did", now, l)
		}
	})
}
