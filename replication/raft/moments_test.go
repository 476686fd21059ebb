package raft_test

import (
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// interrupted is a State in which something happens between the moment at which a read
// was let in and that at which it looks.
type interrupted struct {
	replication.State
	first *func()
}

func (s interrupted) GetFirst(keys [][]byte, most int) ([]fulcrum.Entry, error) {
	if f := *s.first; f != nil {
		*s.first = nil
		f()
	}
	return s.State.GetFirst(keys, most)
}

// interruptible runs f over fresh replicas; setting *first[id] interrupts id's next read.
func interruptible(t *testing.T, f func(t *testing.T, c *replicationtest.Cluster, first map[fulcrum.NodeID]*func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		first := map[fulcrum.NodeID]*func(){}
		c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{}), replicationtest.Options{Edit: func(env *replication.Env) {
			first[env.Node] = new(func())
			env.State = interrupted{env.State, first[env.Node]}
		}})
		defer c.Close()
		f(t, c, first)
	})
}

// A position that is below what was shown would let the session's next read, on another
// replica, go back.
func TestAPositionCoversWhatWasShown(t *testing.T) {
	for _, level := range []consistency.Level{consistency.L(consistency.Session), consistency.L(consistency.One), boundedBy(time.Minute), linearizable} {
		t.Run(level.String(), func(t *testing.T) {
			interruptible(t, func(t *testing.T, c *replicationtest.Cluster, first map[fulcrum.NodeID]*func()) {
				l := leader(t, c)
				at := others(c, l)[0]
				mustPut(t, c, l, "k", "old")
				var written replication.Position
				*first[at] = func() {
					written = mustPut(t, c, l, "k", "new").Outcome.Position
					for c.Group(at).Status().Applied < written.Index {
						time.Sleep(time.Millisecond)
					}
				}
				got, out, err := readAll(c, at, "k", level, replication.Position{})
				if err != nil || got != "new" {
					t.Fatalf("%q, %v: want what was applied before the read looked", got, err)
				}
				if out.Position.Index < written.Index {
					t.Errorf("the read shows what was written at %d, and says that it is at %d", written.Index, out.Position.Index)
				}
			})
		})
	}
}

// A leader that stands still between the look at its lease and the look at the value is
// deposed meanwhile, and answers nothing.
func TestALeaseIsLookedAtAfterTheRead(t *testing.T) {
	interruptible(t, func(t *testing.T, c *replicationtest.Cluster, first map[fulcrum.NodeID]*func()) {
		a := leader(t, c)
		mustPut(t, c, a, "k", "old")
		time.Sleep(time.Second) // until all logs are equal
		mustLease(t, c, a, "old")
		*first[a] = func() {
			c.Net.Isolate(a)
			time.Sleep(5 * time.Second) // until the others have elected one of them
			mustPut(t, c, leader(t, c, others(c, a)...), "k", "new")
		}
		if got, out, err := readAll(c, a, "k", leaseLevel, replication.Position{}); err == nil {
			t.Errorf("the old leader served %q after another was written: %+v", got, out)
		}
	})
}

// The voters' promises may be as old as the question: a lease is no longer than what is
// left of them when the answers are there.
func TestALeaseCountsFromTheQuestion(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		a := leader(t, c)
		mustPut(t, c, a, "k", "v")
		c.Net.Latency(250 * time.Millisecond) // a round takes as long as a promise holds
		for range 3 {
			if got, out, err := readAll(c, a, "k", leaseLevel, replication.Position{}); err != nil || got != "v" || out.ClockBound != 0 {
				t.Errorf("%q, %+v, %v: want a round, as every lease is over when it is won", got, out, err)
			}
		}
	})
}
