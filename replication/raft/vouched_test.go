package raft_test

import (
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// In a group of three the follower that asks and the leader are a majority: nobody else
// is asked. In a group of five somebody is.
func TestQuestionOfAVoterCounts(t *testing.T) {
	for n, least := range map[int]int{3: 0, 5: 2} {
		cluster(t, n, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			a := leader(t, c)
			mustPut(t, c, a, "k", "v")
			asked := count(c, raft.MsgConfirm)
			got, out, err := readAll(c, others(c, a)[0], "k", linearizable, replication.Position{})
			if err != nil || got != "v" {
				t.Fatalf("%d replicas: %q, %v", n, got, err)
			}
			if need := n/2 + 1; out.Acks < need || out.Needed != need {
				t.Errorf("%d replicas: confirmed by %d of %d", n, out.Acks, out.Needed)
			}
			c.Net.OnCall(nil)
			if *asked < least || n == 3 && *asked > 0 {
				t.Errorf("%d replicas: the leader asked %d others, want %d", n, *asked, least)
			}
		})
	}
}

// ask sends a question of a term to the leader, and reports whether it was answered while
// nobody answers the leader's own questions.
func ask(t *testing.T, c *replicationtest.Cluster, from, leader fulcrum.NodeID, term uint64) bool {
	t.Helper()
	c.Net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
		v.Drop = msg[0] == raft.MsgConfirm
		return v
	})
	defer c.Net.OnCall(nil)
	ctx, cancel := within(50 * time.Millisecond)
	defer cancel()
	_, err := c.Net.Peers(from).Call(ctx, leader, raft.Question(1, term))
	return err == nil
}

// Who is in another term has perhaps elected another leader, and does not say that this
// one still leads.
func TestQuestionOfAnotherTermDoesNotCount(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		mustPut(t, c, a, "k", "v")
		f, term := others(c, a)[0], c.Group(a).(*raft.Group).Term()
		if !ask(t, c, f, a, term) {
			t.Error("the question of a voter in the leader's term was not answered")
		}
		for _, other := range []uint64{0, term - 1, term + 1} {
			if ask(t, c, f, a, other) {
				t.Errorf("a question of term %d was answered in term %d, and nobody had confirmed it", other, term)
			}
		}
	})
}

// A replica without a vote may be in the leader's term long after the voters have left it.
func TestQuestionOfANonVoterDoesNotCount(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		a := e.open("a", replicationtest.NewLog(), []fulcrum.NodeID{"a", "b"}, nil)
		e.open("b", replicationtest.NewLog(), []fulcrum.NodeID{"a", "b"}, nil)
		l := e.leader()
		propose(t, l, "x")
		n := e.open("n", replicationtest.NewLog(), nil, nil)
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		if err := l.AddNonvoter(ctx, "n"); err != nil {
			t.Fatal(err)
		}
		for n.Applied() < l.Applied() {
			time.Sleep(10 * time.Millisecond)
		}
		asked := 0
		e.net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if msg[0] == raft.MsgConfirm {
				asked++
			}
			return v
		})
		if err := n.AskLeader(ctx); err != nil {
			t.Fatal(err)
		}
		if asked != 1 {
			t.Errorf("after a question of a replica without a vote the leader asked %d voters, want the other one", asked)
		}
		asked = 0
		f := a
		if l == a {
			f = e.replicas["b"]
		}
		if err := f.AskLeader(ctx); err != nil {
			t.Fatal(err)
		}
		if asked != 0 {
			t.Errorf("after a question of the other voter the leader asked %d voters, want none", asked)
		}
	})
}

// A new leader does not know yet what is committed: it does not tell those who ask, either.
func TestQuestionWaitsForTheBarrier(t *testing.T) {
	shown(t, func(t *testing.T, c *replicationtest.Cluster) bool {
		b, d, came := leaderWithoutBarrier(t, c)
		if !came {
			return false
		}
		ctx, cancel := within(50 * time.Millisecond)
		defer cancel()
		if _, err := c.Net.Peers(d).Call(ctx, b, raft.Question(1, c.Group(b).(*raft.Group).Term())); err == nil {
			t.Error("a leader without a barrier gave a read index")
		}
		return true
	})
}
