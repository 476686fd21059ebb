package raft_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// A replica that lost everything is filled over a slow link, while clients write more
// than the log keeps and the log is cut all the time. One snapshot must do: the second
// would be as slow as the first.
func TestCatchingUpOverASlowLinkDoesNotBeginAnew(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 8, SnapshotEvery: 50 * time.Millisecond, SnapshotEntries: 16}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		away := others(c, l)[0]
		for i := range 100 {
			mustPut(t, c, l, fmt.Sprint("old", i), string(make([]byte, 50_000)))
		}
		c.Stop(away)
		c.Wipe(away)
		var transfers, pieces atomic.Int64
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if to != away {
				return v
			}
			if msg[0] == raft.MsgInstall {
				pieces.Add(1)
				if raft.IsFirstChunk(msg) {
					transfers.Add(1)
				}
			}
			v.Delay = time.Duration(len(msg)) * time.Microsecond // 1 MB/s
			return v
		})
		time.Sleep(time.Second) // the log is cut
		if first := c.Log(l).First(); first < 50 {
			t.Fatalf("the log begins at %d", first)
		}
		c.Restart(away)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				mustPut(t, c, l, fmt.Sprint("new", i%100), fmt.Sprint(i))
				time.Sleep(5 * time.Millisecond)
			}
		})
		caughtUp := false
		for range 600 {
			if s := c.Group(away).Status(); !s.CatchingUp && s.Behind < 100 {
				caughtUp = true
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		cancel()
		wg.Wait()
		if !caughtUp {
			t.Errorf("not caught up after a minute: %+v", c.Group(away).Status())
		}
		equal(t, c)
		if transfers.Load() != 1 || pieces.Load() < 10 {
			t.Errorf("%d snapshots in %d pieces were sent, want one in many", transfers.Load(), pieces.Load())
		}
		time.Sleep(40 * time.Second) // what was held is let go
		for i := range 40 {
			mustPut(t, c, l, fmt.Sprint("last", i), "v")
		}
		time.Sleep(2 * time.Second)
		if first, last := c.Log(l).First(), c.Log(l).Last(); last-first > 100 {
			t.Errorf("the log holds %d..%d", first, last)
		}
	})
}

// While a replica that is new in an epoch is being filled, a majority needs all others.
// When one of them dies, the shard stands still until the new one is full, and no longer:
// it has a vote from the start, so there is a leader to fill it.
func TestBasedReplicaDiesWhileANewOneIsFilled(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("it was the leader: %v", leads), func(t *testing.T) {
			cluster(t, 3, raft.Tuning{TrailingEntries: 8}, func(t *testing.T, c *replicationtest.Cluster) {
				l := leader(t, c)
				fresh, other := others(c, l)[0], others(c, l)[1]
				for i := range 60 {
					mustPut(t, c, l, fmt.Sprint("old", i), string(make([]byte, 50_000)))
				}
				equal(t, c)
				c.Stop(fresh)
				c.Wipe(fresh)
				ctx, cancel := within(time.Second)
				defer cancel()
				if err := c.Group(l).(*raft.Group).Snapshot(ctx); err != nil {
					t.Fatal(err)
				}
				c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
					if msg[0] == raft.MsgInstall {
						v.Delay = 300 * time.Millisecond
					}
					return v
				})
				c.Restart(fresh)
				time.Sleep(time.Second)
				if !c.Group(fresh).Status().CatchingUp {
					t.Fatal("the transfer is over already")
				}
				dies, stays := other, l
				if leads {
					dies, stays = l, other
				}
				c.Stop(dies)
				ctx, cancel = within(time.Minute)
				defer cancel()
				if _, err := c.Write(ctx, stays, put("k", "v")); err != nil {
					t.Errorf("the shard does not go on: %v", err)
				}
				if c.Group(fresh).Status().CatchingUp {
					t.Error("a write was acknowledged before the new replica was full")
				}
				equal(t, c)
			})
		})
	}
}
