package raft_test

import (
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// asyncPeers are peers with a goroutine for each call.
type asyncPeers struct{ replication.Peers }

func (p asyncPeers) Go(to fulcrum.NodeID, msg []byte, timeout time.Duration, done func([]byte, error)) {
	go func() {
		ctx, cancel := within(timeout)
		defer cancel()
		done(p.Call(ctx, to, msg))
	}()
}

// withWitness reads with a witness, as a node without a replica does, and asks the witness.
func withWitness(t *testing.T, c *replicationtest.Cluster, at, witness fulcrum.NodeID) (value string, out replication.Outcome, said uint64) {
	t.Helper()
	terms := make(chan uint64, 1)
	raft.AskTerm(asyncPeers{c.Net.Peers(at)}, witness, 1, time.Second, func(term uint64, err error) {
		if err != nil {
			t.Errorf("the witness said: %v", err)
		}
		terms <- term
	})
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	rep, err := c.Group(at).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: linearizable, Witness: witness})
	if err != nil {
		t.Fatal(err)
	}
	return string(rep.Entries[0].Value), rep.Outcome, <-terms
}

// A leader of three leaves the word of the other voter to who asks; of five, or with a
// witness that has no vote, it asks a majority itself.
func TestALeaderLeavesOneWordToTheWitness(t *testing.T) {
	for _, tt := range []struct {
		replicas int
		witness  fulcrum.NodeID // "": a follower
		left     bool
	}{{3, "", true}, {5, "", false}, {3, "stranger", false}} {
		cluster(t, tt.replicas, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			a := leader(t, c)
			mustPut(t, c, a, "k", "v")
			asked := count(c, raft.MsgConfirm)
			w := tt.witness
			if w == "" {
				w = others(c, a)[0]
			}
			ctx, cancel := within(5 * time.Second)
			defer cancel()
			rep, err := c.Group(a).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: linearizable, Witness: w})
			if err != nil || string(rep.Entries[0].Value) != "v" {
				t.Fatalf("%d replicas: %v, %v", tt.replicas, rep.Entries, err)
			}
			if missing := rep.Outcome.Needed - rep.Outcome.Acks; (missing == 1) != tt.left || missing > 1 {
				t.Errorf("%d replicas, witness %q: %d of %d words", tt.replicas, w, rep.Outcome.Acks, rep.Outcome.Needed)
			}
			c.Net.OnCall(nil) // it counts no more
			if (*asked == 0) != tt.left {
				t.Errorf("%d replicas, witness %q: the leader asked %d others", tt.replicas, w, *asked)
			}
		})
	}
}

// The leader's own word proves nothing: once the others have elected another one, their
// term says so.
func TestAWitnessKnowsOfTheNextLeader(t *testing.T) {
	shown(t, func(t *testing.T, c *replicationtest.Cluster) bool {
		a := leader(t, c)
		b, d := others(c, a)[0], others(c, a)[1]
		mustPut(t, c, a, "k", "old")
		value, out, said := withWitness(t, c, a, b)
		if value != "old" || said != out.Position.Term {
			t.Fatalf("%q in term %d, the witness is in term %d", value, out.Position.Term, said)
		}
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			v.Drop = (from == a || to == a) && msg[0] != raft.MsgConfirm // the old leader hears nothing
			return v
		})
		usurp(t, c.Net, d, b)
		for until := time.Now().Add(time.Second); !c.Group(b).Status().IsLeader; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				return false // it lacked the last entry, and the other one did not vote for it
			}
		}
		mustPut(t, c, b, "k", "new")
		if !c.Group(a).Status().IsLeader {
			return false // it has given up already
		}
		for _, witness := range []fulcrum.NodeID{b, d} {
			value, out, said := withWitness(t, c, a, witness)
			if value != "old" || out.Acks >= out.Needed {
				t.Fatalf("the old leader answers %q, with %d of %d words", value, out.Acks, out.Needed)
			}
			if said == out.Position.Term {
				t.Errorf("%s says that it is in the old leader's term %d", witness, said)
			}
		}
		return true
	})
}

// A new leader does not know yet what is committed.
func TestAWitnessDoesNotStandForTheBarrier(t *testing.T) {
	shown(t, func(t *testing.T, c *replicationtest.Cluster) bool {
		b, d, came := leaderWithoutBarrier(t, c)
		if !came {
			return false
		}
		ctx, cancel := within(50 * time.Millisecond)
		defer cancel()
		rep, err := c.Group(b).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: linearizable, Witness: d})
		if err == nil {
			t.Errorf("a leader without a barrier answers %q", rep.Entries[0].Value)
		}
		return true
	})
}
