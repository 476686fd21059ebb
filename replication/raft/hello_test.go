package raft_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// silence drops what a leader says of itself to one replica.
func silence(c *replicationtest.Cluster, leader, to fulcrum.NodeID) {
	c.Net.OnCall(func(from, at fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
		v.Drop = from == leader && at == to && (msg[0] == raft.MsgAppend || msg[0] == raft.MsgBeat)
		return v
	})
}

// A replica that comes up asks who leads, and need not wait for a heartbeat.
func TestARestartedReplicaAsksWhoLeads(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		f := follower(c, l)
		silence(c, l, f)
		c.Restart(f)
		time.Sleep(100 * time.Millisecond)
		if s := c.Group(f).Status(); s.Leader != l {
			t.Errorf("%s takes %q for the leader, which is %s", f, s.Leader, l)
		}
	})
}

// Who does not lead says nothing, and who has stopped to lead is not believed.
func TestAnOldGreetingIsNotBelieved(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		old := leader(t, c)
		f := follower(c, old)
		release := make(chan struct{})
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			switch {
			case msg[0] == raft.MsgHello && to == old:
				v.HoldReply = release
			case from == old && to == f:
				v.Drop = true
			}
			return v
		})
		c.Restart(f)
		time.Sleep(100 * time.Millisecond)
		if s := c.Group(f).Status(); s.Leader != "" {
			t.Errorf("%s takes %s for the leader, of whom it has not heard", f, s.Leader)
		}
		if err := c.Group(old).HandOver(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		now := leader(t, c)
		close(release)
		synctest.Wait()
		if s := c.Group(f).Status(); now == old || s.Leader != now {
			t.Errorf("%s takes %q for the leader, which is %s and was %s", f, s.Leader, now, old)
		}
	})
}

func follower(c *replicationtest.Cluster, leader fulcrum.NodeID) fulcrum.NodeID {
	for _, id := range c.IDs {
		if id != leader {
			return id
		}
	}
	return ""
}

// scanned counts how often a State is read in order.
type scanned struct {
	replication.State
	times *atomic.Int64
}

func (s scanned) Scan(from, to []byte, f func(fulcrum.Entry) bool) error {
	s.times.Add(1)
	return s.State.Scan(from, to, f)
}

// A State is scanned for what expires once somebody can propose it, and not before.
func TestNoScanWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times atomic.Int64
		open := func(env replication.Env) (replication.Group, error) { return raft.Open(env, raft.Options{}) }
		c := replicationtest.NewCluster(t, 3, open, replicationtest.Options{Edit: func(env *replication.Env) { env.State = scanned{env.State, &times} }})
		defer c.Close()
		leader(t, c)
		c.Net.Isolate(c.IDs[0])
		c.Restart(c.IDs[0])
		times.Store(0)
		time.Sleep(10 * time.Second)
		if n := times.Load(); n > 0 {
			t.Errorf("%d scans, and no leader is known", n)
		}
		c.Net.Heal()
		time.Sleep(10 * time.Second)
		if times.Load() == 0 {
			t.Error("no scan, and somebody leads")
		}
	})
}
