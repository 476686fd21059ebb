package raft_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

func learn(t *testing.T, c *replicationtest.Cluster, at fulcrum.NodeID, learners ...fulcrum.NodeID) raft.Learning {
	t.Helper()
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	l, err := c.Group(at).(*raft.Group).Learn(ctx, learners)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// levelled waits until the leader says that a learner holds what is committed.
func levelled(t *testing.T, c *replicationtest.Cluster, id fulcrum.NodeID) {
	t.Helper()
	voters := slices.DeleteFunc(c.Alive(), func(v fulcrum.NodeID) bool { return v == id })
	for range 600 {
		if slices.Contains(learn(t, c, leader(t, c, voters...), id).Level, id) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s has not caught up", id)
}

// A learner is filled, follows the log, and settles like the others.
func TestALearnerSettlesWithTheOthers(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "before", "v")
		fresh := c.Learner()
		ctx, cancel := within(time.Minute)
		defer cancel()
		if _, err := c.Group(others(c, l)[0]).(*raft.Group).Learn(ctx, []fulcrum.NodeID{fresh}); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("a follower: %v", err)
		}
		if _, err := c.Group(l).(*raft.Group).Learn(ctx, []fulcrum.NodeID{l}); fulcrum.AsError(err).Code != fulcrum.CodeInvalid {
			t.Errorf("a voter is made a learner: %v", err)
		}
		levelled(t, c, fresh)
		mustPut(t, c, l, "meanwhile", "v")
		fence, err := c.Group(l).Fence(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range c.IDs {
			if err := c.Group(id).Settle(ctx, fence, nil); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		equal(t, c)
	})
}

// A learner counts in no majority: not for a commit, a read, a lease or an election.
func TestALearnerCountsForNothing(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		fresh := c.Learner()
		levelled(t, c, fresh)
		ctx, cancel := within(time.Second)
		defer cancel()
		if err := c.Group(l).(*raft.Group).HandOverTo(ctx, fresh); !errors.Is(err, fulcrum.ErrConflict) {
			t.Errorf("the leadership is offered to a learner: %v", err)
		}
		reply, err := c.Write(t.Context(), l, put("k", "old"))
		if err != nil || reply.Outcome.Needed != 2 || reply.Outcome.Acks > 3 {
			t.Errorf("%d of %d acks needed, %v", reply.Outcome.Acks, reply.Outcome.Needed, err)
		}
		for _, id := range others(c, l) {
			if id != fresh {
				c.Stop(id)
			}
		}
		for range 10 { // also when it has stepped down, and a read asks it through the learner
			ctx, cancel := within(time.Second)
			if _, err := c.Write(ctx, l, put("k", "new")); err == nil {
				t.Fatal("one replica of three and a learner committed a write")
			}
			for _, level := range []consistency.Kind{consistency.Linearizable, consistency.Lease} {
				for _, id := range []fulcrum.NodeID{l, fresh} {
					if _, err := c.Group(id).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: consistency.L(level)}); err == nil {
						t.Fatalf("%s answers a read at level %v", id, level)
					}
				}
			}
			cancel()
			time.Sleep(time.Second)
		}
		if s := c.Group(fresh).Status(); s.IsLeader {
			t.Error("the learner leads")
		}
	})
}

// While a learner is filled any replica may die: what is left is a majority.
func TestAReplicaDiesWhileAnotherLearns(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("it was the leader: %v", leads), func(t *testing.T) {
			cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
				l := leader(t, c)
				for i := range 60 {
					mustPut(t, c, l, fmt.Sprint("old", i), string(make([]byte, 50_000)))
				}
				fresh := c.Learner()
				c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
					if msg[0] == raft.MsgInstall {
						v.Delay = 300 * time.Millisecond
					}
					return v
				})
				learn(t, c, l, fresh)
				dies, stays := others(c, l)[0], l
				if leads {
					dies, stays = l, others(c, l)[0]
				}
				c.Stop(dies)
				ctx, cancel := within(10 * time.Second)
				defer cancel()
				if _, err := c.Write(ctx, stays, put("k", "v")); err != nil {
					t.Errorf("the shard does not go on: %v", err)
				}
				if !c.Group(fresh).Status().CatchingUp {
					t.Error("the write waited until the learner was full")
				}
				levelled(t, c, fresh) // the next leader goes on
				equal(t, c)
			})
		})
	}
}

// A learner that loses all that it has is filled again, in the same epoch, and one that is
// given up gets no more.
func TestALearnerBeginsAnew(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		fresh := c.Learner()
		for i := range 20 {
			mustPut(t, c, l, fmt.Sprint("a", i), "v")
		}
		levelled(t, c, fresh)
		c.Stop(fresh)
		c.Wipe(fresh)
		c.Restart(fresh)
		mustPut(t, c, l, "b", "v")
		levelled(t, c, fresh)
		equal(t, c)
		learn(t, c, l)
		mustPut(t, c, l, "c", "v")
		time.Sleep(3 * time.Second)
		if e, err := c.State(fresh).Get([]byte("c")); err != nil || !e.Version.IsZero() {
			t.Errorf("it follows still: %+v, %v", e, err)
		}
	})
}
