package raft_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// leaveBehind isolates a replica, writes 60 keys without it, and cuts the log behind them: it
// needs a snapshot.
func leaveBehind(t *testing.T, c *replicationtest.Cluster) (l, away fulcrum.NodeID) {
	t.Helper()
	l = leader(t, c)
	away = others(c, l)[0]
	c.Net.Isolate(away)
	for i := range 60 {
		mustPut(t, c, l, fmt.Sprint(i), "v")
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	if err := c.Group(l).(*raft.Group).Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	return l, away
}

// The answer to the last chunk says that the snapshot is installed. Where it is lost the
// chunk comes again, not the whole snapshot.
func TestLostAnswerToTheLastChunk(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 2}, func(t *testing.T, c *replicationtest.Cluster) {
		leaveBehind(t, c)
		transfers := map[uint64]int{}
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if id := raft.TransferOf(msg); id != 0 {
				transfers[id]++
				v.DropReply = transfers[id] <= 2
			}
			return v
		})
		c.Net.Heal()
		time.Sleep(10 * time.Second)
		equal(t, c)
		synctest.Wait()
		for _, chunks := range transfers {
			if len(transfers) > 1 || chunks != 3 {
				t.Errorf("%d transfers, %d chunks of one of them, want one, whose only chunk came three times", len(transfers), chunks)
			}
		}
		if len(transfers) == 0 {
			t.Error("no snapshot was sent: this test means nothing")
		}
	})
}

// A crash between the State's install and anything else leaves a replica that
// begins at the snapshot.
func TestCrashInsideAnInstall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{TrailingEntries: 2}), replicationtest.Options{RunMayFail: true})
		defer c.Close()
		l, away := leaveBehind(t, c)
		// The log's disk fails for the step after the install.
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if msg[0] == raft.MsgInstall && to == away {
				c.Log(away).FailWith(errors.New("no space"))
			}
			return v
		})
		c.Net.Heal()
		for i := 0; i < 300 && c.State(away).Applied() < 60; i++ {
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		if c.State(away).Applied() < 60 {
			t.Fatalf("the state is at %d: the crash came too early for this test", c.State(away).Applied())
		}
		c.Net.OnCall(nil)
		c.Log(away).FailWith(nil)
		c.Restart(away)
		equal(t, c)
		mustPut(t, c, l, "after", "v")
		equal(t, c)
	})
}

// What trails behind a cut of the log is bounded by bytes, too: large entries trail less.
func TestLargeEntriesTrailLess(t *testing.T) {
	const size = 1 << 10
	cluster(t, 3, raft.Tuning{SnapshotBytes: 64 * size, TrailingEntries: 4096}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		for i := range 300 {
			mustPut(t, c, l, fmt.Sprint(i), string(make([]byte, size)))
		}
		time.Sleep(5 * time.Second)
		for _, id := range c.IDs {
			if first, last := c.Log(id).First(), c.Log(id).Last(); last-first > 2*64 {
				t.Errorf("%s still has entries %d to %d of a KiB each, want about 64", id, first, last)
			}
		}
	})
}
