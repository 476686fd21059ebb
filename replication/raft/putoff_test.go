package raft_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// Requests that one entry has no room for are done by the next ones: who sent them hears
// nothing of it, and each is done once.
func TestWhatAnEntryHasNoRoomForFollows(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		const keys, requests = 7, 12
		l := leader(t, c)
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		var appends []fulcrum.Write
		for i := range keys {
			mustPut(t, c, l, fmt.Sprint(i), string(make([]byte, 1<<20-requests)))
			appends = append(appends, fulcrum.Write{Op: fulcrum.OpAppend, Key: fmt.Append(nil, i), Value: []byte("y"), NoValue: true, NoOld: true})
		}
		var mu sync.Mutex
		seen := map[int]bool{}
		var wg sync.WaitGroup
		for range requests {
			wg.Go(func() {
				rep, err := c.Write(ctx, l, replication.WriteRequest{Writes: appends, Atomic: true})
				if err != nil || len(rep.Results) != keys {
					t.Errorf("%d results, %v", len(rep.Results), err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				seen[rep.Results[0].Length] = true
			})
		}
		wg.Wait()
		if len(seen) != requests || !seen[1<<20] {
			t.Errorf("lengths seen: %v", seen)
		}
	})
}
