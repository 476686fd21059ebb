package raft_test

import (
	"errors"
	"fmt"
	"slices"
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

// large are values that are more than the replicas of these tests keep by themselves.
var large = strings.Repeat("x", 2000)

// A request that changes more than a replica keeps is told to those who wait for it, and
// to those who ask a little later, on every replica.
func TestLargeRequestIsTold(t *testing.T) {
	cluster(t, 3, raft.Tuning{ChangeBytes: 1000}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		at := now(t, c)
		waiting := make(chan replication.ChangesReply, len(c.IDs))
		for _, id := range c.IDs {
			go func() {
				rep, err := changes(c, id, replication.ChangesRequest{After: at, Wait: 5 * time.Second})
				if err != nil {
					t.Errorf("who waits at %s: %v", id, err)
				}
				waiting <- rep
			}()
		}
		time.Sleep(time.Second)
		req := replication.WriteRequest{Atomic: true}
		var want []string
		for i := range 4 {
			key := fmt.Sprint("k", i)
			req.Writes = append(req.Writes, put(key, large).Writes...)
			want = append(want, key+"="+large)
		}
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if _, err := c.Write(ctx, l, req); err != nil {
			t.Fatal(err)
		}
		for range c.IDs {
			wantValues(t, (<-waiting).Events, want...)
		}
		for _, id := range c.IDs {
			wantValues(t, mustChanges(t, c, id, replication.ChangesRequest{After: at}).Events, want...)
		}
		away()
		mustPut(t, c, l, "k", "small")
		if _, err := changes(c, l, replication.ChangesRequest{After: at}); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("who was away: %v, want compacted", err)
		}
	})
}

// One entry whose requests together change more than a replica keeps is told, one request
// after the other, and any replica goes on inside it.
func TestLargeEntryIsToldInPieces(t *testing.T) {
	cluster(t, 3, raft.Tuning{ChangeBytes: 1000, ChangePiece: 5000}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		at := now(t, c)
		for _, id := range c.IDs { // each is watched
			mustChanges(t, c, id, replication.ChangesRequest{After: at})
		}
		mustPut(t, c, l, "warm", "up")
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		var writes sync.WaitGroup
		for i := range 12 { // all of them wait for one entry
			writes.Go(func() {
				req := replication.WriteRequest{Atomic: true, Writes: append(put(fmt.Sprint("a", i), large).Writes, put(fmt.Sprint("b", i), large).Writes...)}
				if _, err := c.Write(ctx, l, req); err != nil {
					t.Error(err)
				}
			})
		}
		writes.Wait()
		var told []string
		var places []consistency.Mark
		inside := 0
		for n := 0; len(told) < 25; n++ {
			rep := mustChanges(t, c, c.IDs[n%3], replication.ChangesRequest{After: at, Limit: 1, Wait: time.Second})
			if len(rep.Events) == 0 {
				t.Fatalf("no more behind %+v, after %d changes", at, len(told))
			}
			got := values(rep.Events)
			if len(told) > 0 && len(got)%2 != 0 {
				t.Errorf("a request is split: %d changes of pairs", len(got))
			}
			told = append(told, got...)
			if at = rep.Next; at.Term > 0 {
				inside++
			}
			places = append(places, at)
		}
		if inside == 0 {
			t.Error("no position is inside an entry: the test shows nothing")
		}
		time.Sleep(time.Second)    // virtual: followers hear that the last entry is committed
		for _, id := range c.IDs { // from each of them on: all, in the same order
			whole := values(mustChanges(t, c, id, replication.ChangesRequest{After: places[0], Limit: 1 << 20}).Events)
			if want := told[1:]; !slices.Equal(whole, want) {
				t.Errorf("%s tells %d changes at once, %d one after the other, or another order", id, len(whole), len(want))
			}
			if end := mustChanges(t, c, id, replication.ChangesRequest{After: at}); len(end.Events) > 0 || end.Next.Term != 0 {
				t.Errorf("%s, behind all: %+v", id, end)
			}
		}
		// Only who is not watched forgets, and then from inside an entry on.
		away()
		mustPut(t, c, l, "k", "small")
		if _, err := changes(c, l, replication.ChangesRequest{After: places[0]}); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("who was away: %v, want compacted", err)
		}
	})
}
