package raft_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

func incr(id fulcrum.RequestID) replication.WriteRequest {
	return replication.WriteRequest{ID: id, Writes: []fulcrum.Write{{Op: fulcrum.OpAdd, Key: []byte("n"), Value: []byte("1")}}}
}

func mustIncr(t *testing.T, c *replicationtest.Cluster, at fulcrum.NodeID, id fulcrum.RequestID) string {
	t.Helper()
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	r, err := c.Write(ctx, at, incr(id))
	if err != nil {
		t.Fatalf("increment %q at %s: %v", id, at, err)
	}
	return string(r.Results[0].Entry.Value)
}

func wantCount(t *testing.T, c *replicationtest.Cluster, at fulcrum.NodeID, want string) {
	t.Helper()
	if got, err := read(c, at, "n", consistency.L(consistency.Linearizable)); err != nil || got != want {
		t.Errorf("counted %s, %v, want %s", got, err, want)
	}
}

// A leader's entries reach the others, and their answers do not reach it: it cannot
// know what became of an increment. The next leader does.
func TestRetryThroughTheNextLeaderAppliesOnce(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustIncr(t, c, l, "first")
		for _, id := range others(c, l) {
			c.Net.CutOneWay(id, l)
		}
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		_, err := c.Group(l).Write(ctx, incr("second"))
		if e := fulcrum.AsError(err); e == nil || !e.Maybe {
			t.Fatalf("a write that nobody confirmed: %v, want an unknown outcome", err)
		}
		next := leader(t, c, others(c, l)...)
		wantCount(t, c, next, "2") // it did take effect
		c.Net.Heal()
		for _, id := range c.IDs {
			if got := mustIncr(t, c, id, "second"); got != "2" {
				t.Errorf("again through %s: %s, want the result of the first time", id, got)
			}
		}
		if got := mustIncr(t, c, next, "third"); got != "3" {
			t.Errorf("the next increment gave %s", got)
		}
		equal(t, c)
	})
}

func TestIDsSurviveRestartsAndSnapshots(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 2}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		for i := range 10 {
			mustIncr(t, c, l, fulcrum.RequestID(fmt.Sprint(i)))
		}
		for _, id := range c.IDs {
			c.Stop(id)
		}
		for _, id := range c.IDs {
			c.Restart(id)
		}
		l = leader(t, c)
		if got := mustIncr(t, c, l, "7"); got != "8" {
			t.Errorf("after a crash of all: %s, want 8", got)
		}
		// One replica is wiped, another is far behind: both get a snapshot, and then lead.
		for i, away := range others(c, l) {
			if i == 0 {
				c.Stop(away)
				c.Wipe(away)
			} else {
				c.Net.Isolate(away)
			}
			if got := mustIncr(t, c, l, missed(i)); got != fmt.Sprint(11+i) {
				t.Errorf("while %s is away: %s, want %d", away, got, 11+i)
			}
			for j := range 20 {
				mustPut(t, c, l, fmt.Sprint("filler ", j), "v")
			}
			ctx, cancel := within(5 * time.Second)
			if err := c.Group(l).(*raft.Group).Snapshot(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
			c.Net.Heal()
			if i == 0 {
				c.Restart(away)
			}
			equal(t, c)
		}
		c.Stop(l) // whoever leads now was brought up by a snapshot
		n := leader(t, c, others(c, l)...)
		if got := mustIncr(t, c, n, "3"); got != "4" {
			t.Errorf("through %s, which a snapshot brought up: %s, want 4", n, got)
		}
		for i := range 2 {
			if got := mustIncr(t, c, n, missed(i)); got != fmt.Sprint(11+i) {
				t.Errorf("through %s, which was away then, or has it from a snapshot: %s, want %d", n, got, 11+i)
			}
		}
		wantCount(t, c, n, "12")
	})
}

// missed is an id that was used while a replica was away.
func missed(i int) fulcrum.RequestID { return fulcrum.RequestID(fmt.Sprint("missed ", i)) }

func TestTransactions(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		absent := []fulcrum.Compare{{Key: []byte("lock")}}
		take := func(by string) replication.WriteReply {
			t.Helper()
			ctx, cancel := within(10 * time.Second)
			defer cancel()
			r, err := c.Write(ctx, l, replication.WriteRequest{If: absent, Atomic: true,
				Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("lock"), Value: []byte(by)}, {Op: fulcrum.OpAdd, Key: []byte("n"), Value: []byte("1")}},
				Else:   []fulcrum.Write{{Op: fulcrum.OpGet, Key: []byte("lock")}}})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if r := take("a"); r.Else || len(r.Results) != 2 || !r.Results[0].Applied {
			t.Errorf("a free lock: %+v", r)
		}
		if r := take("b"); !r.Else || len(r.Results) != 1 || string(r.Results[0].Entry.Value) != "a" {
			t.Errorf("a lock that is taken: %+v", r)
		}
		wantCount(t, c, l, "1")
		equal(t, c)
	})
}

func TestRefusedRequests(t *testing.T) {
	cluster(t, 1, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		long := incr(fulcrum.RequestID(make([]byte, fulcrum.MaxRequestID+1)))
		if _, err := c.Write(context.Background(), l, long); fulcrum.AsError(err).Code != fulcrum.CodeTooLarge {
			t.Errorf("a long id: %v", err)
		}
		if _, err := c.Write(context.Background(), l, replication.WriteRequest{}); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("nothing: %v", err)
		}
	})
}
