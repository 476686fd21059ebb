package raft_test

import (
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// A replica votes once a term, also when it restarts in between: a second candidate of
// the term must not win with the same vote.
func TestAVoteHoldsThroughARestart(t *testing.T) {
	// A short lease: the voter that restarts abstains only as long as that.
	cluster(t, 3, raft.Tuning{Lease: time.Millisecond}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		b, d := others(c, a)[0], others(c, a)[1]
		mustPut(t, c, a, "k", "v")
		time.Sleep(time.Second) // until all logs are equal: only the vote stands against the second candidate

		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			betweenCandidates := to != d && from != d
			v.Drop = betweenCandidates || msg[0] == raft.MsgAppend
			return v
		})
		usurp(t, c.Net, d, b)
		synctest.Wait()
		first := c.Group(b).Status()
		if !first.IsLeader {
			t.Fatal("the first candidate has not won")
		}
		c.Stop(d)
		c.Restart(d)
		synctest.Wait() // until it listens again
		time.Sleep(2 * time.Millisecond)
		usurp(t, c.Net, d, a)
		synctest.Wait()
		second := c.Group(a).Status()
		if second.Term != first.Term {
			t.Fatalf("the second candidate is in term %d, the first won %d", second.Term, first.Term)
		}
		if second.IsLeader {
			t.Errorf("%s and %s have both won term %d", b, a, first.Term)
		}
	})
}

// A candidate whose term is over must not win with a vote of that term that comes in
// late. Where heartbeats change the term beside everything else it does, in the newer
// term, which has a leader already (hashicorp/raft#695).
func TestHeartbeatsDoNotOvertakeVotes(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		b, d := others(c, a)[0], others(c, a)[1]
		mustPut(t, c, a, "k", "v")
		time.Sleep(time.Second)

		held := make(chan struct{})
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			switch {
			case msg[0] == raft.MsgTimeoutNow:
			case from == b && to == d && msg[0] == raft.MsgVote:
				v.HoldReply = held
			case from == b, from == a && to == b:
				v.Drop = true
			case from == d && to == b:
				v.Drop = !raft.IsHeartbeat(msg) // all that b hears of the newer term
			}
			return v
		})
		usurp(t, c.Net, a, b)
		synctest.Wait() // d has voted for b, which does not know it yet
		usurp(t, c.Net, a, d)
		time.Sleep(300 * time.Millisecond) // d leads the next term, and b has its heartbeat
		if s := c.Group(d).Status(); !s.IsLeader || c.Group(b).Status().Term != s.Term {
			t.Fatalf("%s is in term %d and leads: %v; %s is in term %d", d, s.Term, s.IsLeader, b, c.Group(b).Status().Term)
		}
		close(held)
		synctest.Wait()
		if x, y := c.Group(b).Status(), c.Group(d).Status(); x.IsLeader && y.IsLeader && x.Term == y.Term {
			t.Errorf("%s and %s both lead term %d", b, d, x.Term)
		}
	})
}
