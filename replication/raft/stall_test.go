package raft_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// follows waits until the others agree on a leader that is not l.
func follows(t *testing.T, c *replicationtest.Cluster, l fulcrum.NodeID) fulcrum.NodeID {
	t.Helper()
	for range 100 {
		if n := leader(t, c, others(c, l)...); n != l {
			return n
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s leads for ever", l)
	return l
}

// A leader whose disk stands still sends heartbeats for ever (hashicorp/raft#503, #614,
// #666). It must be replaced meanwhile, say so, and answer nothing as a leader.
func TestStalledDiskMovesTheLeader(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		time.Sleep(time.Second)
		c.Log(l).SyncDelay(time.Minute)
		stalled := []chan error{make(chan error, 1), make(chan error, 1)}
		for i := range 2 { // the second one waits behind the first, which is in the log
			go func() {
				ctx, cancel := within(20 * time.Second)
				defer cancel()
				_, err := c.Group(l).Write(ctx, put(fmt.Sprint("stalled", i), "v"))
				stalled[i] <- err
			}()
			time.Sleep(100 * time.Millisecond)
		}
		n := follows(t, c, l)
		mustPut(t, c, n, "k", "w")
		if errors.Is(<-stalled[1], fulcrum.ErrUnknown) {
			t.Error("a write that was not in the log has an unknown outcome")
		}
		time.Sleep(time.Second)
		s := c.Group(l).Status()
		if s.IsLeader || s.Leader != n {
			t.Errorf("the stalled leader says leader=%s, self=%v; want %s", s.Leader, s.IsLeader, n)
		}
		if _, err := c.Group(l).Write(t.Context(), put("k", "late")); !errors.Is(err, fulcrum.ErrNotLeader) || fulcrum.AsError(err).Hint != string(n) {
			t.Errorf("a write there: %v, want not-leader with %s", err, n)
		}
		if _, err := read(c, l, "k", consistency.L(consistency.Linearizable)); err == nil {
			t.Error("the stalled leader answers a linearizable read")
		}
		if err := <-stalled[0]; err != nil { // the other two disks hold it
			t.Errorf("the write in the stalled log: %v", err)
		}
		c.Log(l).SyncDelay(0)
		time.Sleep(2 * time.Minute) // the delays under way end
		mustPut(t, c, leader(t, c), "k", "x")
		equal(t, c)
		// It may lead again.
		n = leader(t, c)
		if n == l {
			return
		}
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if err := c.Group(n).(*raft.Group).HandOverTo(ctx, l); err != nil {
			t.Errorf("hand over to a disk that works again: %v", err)
		}
		if s := c.Group(l).Status(); !s.IsLeader {
			time.Sleep(time.Second)
			if s = c.Group(l).Status(); !s.IsLeader {
				t.Errorf("%s does not lead: %+v", l, s)
			}
		}
	})
}

// Where every disk is slow the leader stays: slow writes are better than none.
func TestSlowDisksEverywhereKeepALeader(t *testing.T) {
	cluster(t, 3, raft.Tuning{Stall: 200 * time.Millisecond}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		for _, id := range c.IDs {
			c.Log(id).SyncDelay(300 * time.Millisecond)
		}
		done := 0
		for i := range 20 {
			ctx, cancel := within(20 * time.Second)
			if _, err := c.Write(ctx, l, put(fmt.Sprint(i), "v")); err == nil {
				done++
			}
			cancel()
		}
		if done < 18 {
			t.Errorf("%d of 20 writes were done on slow disks", done)
		}
		// And one is elected: the leader dies while the others' disks are slow.
		l = leader(t, c)
		c.Stop(l)
		n := leader(t, c, others(c, l)...)
		mustPut(t, c, n, "after", "v")
	})
}

// A follower whose disk is slow refuses to be made the leader, and does not ask for it.
func TestSlowFollowerIsNoHeir(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		slow, good := others(c, l)[0], others(c, l)[1]
		c.Log(slow).SyncDelay(3 * time.Second)
		mustPut(t, c, l, "k", "v")
		time.Sleep(4 * time.Second)
		var asked atomic.Int64
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if from == slow && msg[0] == raft.MsgPreVote {
				asked.Add(1)
			}
			return v
		})
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		err := c.Group(l).(*raft.Group).HandOverTo(ctx, slow)
		if err == nil || c.Group(slow).Status().IsLeader {
			t.Errorf("handed over to a slow disk: %v", err)
		}
		if err := c.Group(l).HandOver(ctx); err != nil {
			t.Fatal(err)
		}
		if n := leader(t, c); n != good {
			t.Errorf("%s leads, want %s, whose disk is good", n, good)
		}
		if asked.Load() > 0 {
			t.Errorf("the slow follower asked for %d votes", asked.Load())
		}
	})
}

func TestStalledDiskMovesTheCatalogsLeader(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		e := newEnsemble(t, raft.Tuning{})
		defer e.close()
		voters := []fulcrum.NodeID{"a", "b", "c"}
		for _, id := range voters {
			e.open(id, replicationtest.NewLog(), voters, nil)
		}
		l := e.leader()
		was := e.id(l)
		time.Sleep(time.Second)
		l.log.SyncDelay(time.Minute)
		go func() {
			ctx, cancel := within(5 * time.Second)
			defer cancel()
			_, _ = l.Propose(ctx, []byte("stalled"))
		}()
		time.Sleep(5 * time.Second)
		n := e.leader()
		if e.id(n) == was {
			t.Fatal("the stalled replica leads")
		}
		if id, self := l.Leader(); self || id != e.id(n) {
			t.Errorf("the stalled replica says that %s leads (itself: %v), want %s", id, self, e.id(n))
		}
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if _, err := n.Propose(ctx, []byte("on")); err != nil {
			t.Error(err)
		}
		l.log.SyncDelay(0)
		time.Sleep(2 * time.Minute)
	})
}
