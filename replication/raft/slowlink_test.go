package raft_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// narrow limits all links of a node, in both directions.
func narrow(c *replicationtest.Cluster, id fulcrum.NodeID, bytes int) {
	for _, other := range c.IDs {
		c.Net.Bandwidth(id, other, bytes)
		c.Net.Bandwidth(other, id, bytes)
	}
}

// watched runs f, while somebody reads all the time at level linearizable. l must lead in
// its term until f returns, and no read take longer than a request may wait behind entries.
func watched(t *testing.T, c *replicationtest.Cluster, l fulcrum.NodeID, f func()) {
	t.Helper()
	term := c.Group(l).Status().Term
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for ctx.Err() == nil {
			if s := c.Group(l).Status(); !s.IsLeader || s.Term != term {
				t.Errorf("%s lost the leadership of term %d: %+v", l, term, s)
				return
			}
			read, cancel := within(time.Second)
			_, err := c.Group(l).Read(read, replication.ReadRequest{Keys: [][]byte{[]byte("old0")}, Level: consistency.L(consistency.Linearizable)})
			cancel()
			if err != nil {
				t.Errorf("a linearizable read: %v", err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	f()
}

// writing writes large values, at half of a megabyte a second, until f returns.
func writing(t *testing.T, c *replicationtest.Cluster, l fulcrum.NodeID, value string, f func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			mustPut(t, c, l, fmt.Sprint("new", i%20), value)
			time.Sleep(400 * time.Millisecond)
		}
	})
	f()
}

// Whoever lacks much gets it over a slow link, while clients write less than the link
// carries, and the leader neither loses its place nor stops answering.
func TestCatchingUpOverAMegabyteASecond(t *testing.T) {
	value := strings.Repeat("v", 200_000)
	for _, test := range []struct {
		name   string
		tuning raft.Tuning
		slow   int // followers behind the slow link
		behind func(t *testing.T, c *replicationtest.Cluster, l, away fulcrum.NodeID) fulcrum.NodeID
	}{
		{"a follower that was away", raft.Tuning{}, 1, func(_ *testing.T, c *replicationtest.Cluster, _, away fulcrum.NodeID) fulcrum.NodeID {
			c.Restart(away)
			return away
		}},
		{"one whose link was cut", raft.Tuning{}, 1, nil},
		{"a follower whose entries are gone", raft.Tuning{TrailingEntries: 1}, 1, func(t *testing.T, c *replicationtest.Cluster, l, away fulcrum.NodeID) fulcrum.NodeID {
			snapshot(t, c, l)
			c.Restart(away)
			return away
		}},
		{"a learner", raft.Tuning{}, 0, func(t *testing.T, c *replicationtest.Cluster, l, away fulcrum.NodeID) fulcrum.NodeID {
			c.Restart(away)
			fresh := c.Learner()
			narrow(c, fresh, 1<<20)
			learn(t, c, l, fresh)
			return fresh
		}},
		{"all followers are behind slow links", raft.Tuning{}, 2, func(_ *testing.T, c *replicationtest.Cluster, _, away fulcrum.NodeID) fulcrum.NodeID {
			c.Restart(away)
			return away
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cluster(t, 3, test.tuning, func(t *testing.T, c *replicationtest.Cluster) {
				l := leader(t, c)
				away := others(c, l)[0]
				if test.behind != nil {
					c.Stop(away)
				} else {
					c.Net.Isolate(away)
				}
				for i := range 100 {
					mustPut(t, c, l, fmt.Sprint("old", i), value)
				}
				for _, id := range others(c, l)[:test.slow] {
					narrow(c, id, 1<<20)
				}
				behind := away
				if test.behind != nil {
					behind = test.behind(t, c, l, away)
				} else {
					c.Net.Heal()
				}
				begun := time.Now()
				watched(t, c, l, func() {
					writing(t, c, l, value, func() { reaches(t, c, behind, 2*time.Minute) })
				})
				t.Logf("20 MB after %v", time.Since(begun).Round(100*time.Millisecond))
				equal(t, c)
			})
		})
	}
}

// snapshot makes a leader cut its log.
func snapshot(t *testing.T, c *replicationtest.Cluster, l fulcrum.NodeID) {
	t.Helper()
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	if err := c.Group(l).(*raft.Group).Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
}

// reaches waits until a replica is behind by no more than what is under way.
func reaches(t *testing.T, c *replicationtest.Cluster, id fulcrum.NodeID, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end) && !t.Failed(); time.Sleep(100 * time.Millisecond) {
		if s := c.Group(id).Status(); !s.CatchingUp && s.Applied > 100 && s.Behind <= 2 {
			return
		}
	}
	if !t.Failed() {
		t.Errorf("%s has not caught up after %v: %+v", id, limit, c.Group(id).Status())
	}
}

// One entry that takes several times as long as a call may is still replicated, and
// heartbeats and confirmations go between its parts.
func TestAnEntryThatTakesLongerThanACall(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "old0", "v")
		for _, id := range others(c, l) {
			narrow(c, id, 100<<10)
		}
		watched(t, c, l, func() {
			for i := range 3 {
				ctx, cancel := within(20 * time.Second)
				begun := time.Now()
				if _, err := c.Write(ctx, l, put(fmt.Sprint("large", i), strings.Repeat("v", 1<<20))); err != nil {
					t.Error(err)
				}
				t.Logf("1 MiB after %v", time.Since(begun).Round(100*time.Millisecond))
				cancel()
			}
		})
		for _, id := range others(c, l) {
			narrow(c, id, 0)
		}
		equal(t, c)
	})
}

// The chunks of a snapshot fit the link, too, and one that is lost is sent again, without
// the others.
func TestASnapshotOverAHundredKilobytesASecond(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 1}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		away := others(c, l)[0]
		c.Stop(away)
		for i := range 120 {
			mustPut(t, c, l, fmt.Sprint("old", i), strings.Repeat("v", 30_000))
		}
		snapshot(t, c, l)
		narrow(c, away, 100<<10)
		var mu sync.Mutex
		pieces, transfers := 0, map[uint64]bool{}
		c.Net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if id := raft.TransferOf(msg); id > 0 {
				mu.Lock()
				defer mu.Unlock()
				transfers[id] = true
				pieces++
				v.Drop = pieces%9 == 0
			}
			return v
		})
		c.Restart(away)
		begun := time.Now()
		watched(t, c, l, func() { reaches(t, c, away, 3*time.Minute) })
		c.Net.OnCall(nil)
		mu.Lock()
		t.Logf("3.6 MB after %v, in %d pieces", time.Since(begun).Round(100*time.Millisecond), pieces)
		if len(transfers) != 1 || pieces < 20 {
			t.Errorf("%d snapshots in %d pieces were sent, want one in many", len(transfers), pieces)
		}
		mu.Unlock()
		equal(t, c)
	})
}
