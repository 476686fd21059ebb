package raft_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// changes asks one replica once.
func changes(c *replicationtest.Cluster, at fulcrum.NodeID, req replication.ChangesRequest) (replication.ChangesReply, error) {
	g := c.Group(at)
	if g == nil {
		return replication.ChangesReply{}, fulcrum.ErrUnavailable
	}
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	return g.(replication.Watcher).Changes(ctx, req)
}

func mustChanges(t *testing.T, c *replicationtest.Cluster, at fulcrum.NodeID, req replication.ChangesRequest) replication.ChangesReply {
	t.Helper()
	rep, err := changes(c, at, req)
	if err != nil {
		t.Fatalf("changes behind %+v of %s: %v", req.After, at, err)
	}
	return rep
}

// now is the position behind everything acknowledged.
func now(t *testing.T, c *replicationtest.Cluster) consistency.Mark {
	t.Helper()
	return mustChanges(t, c, leader(t, c), replication.ChangesRequest{}).Next
}

func values(events []fulcrum.Event) (out []string) {
	for _, e := range events {
		out = append(out, string(e.Entry.Key)+"="+string(e.Entry.Value))
	}
	return out
}

func wantValues(t *testing.T, got []fulcrum.Event, want ...string) {
	t.Helper()
	if !slices.Equal(values(got), want) {
		t.Fatalf("told %v, want %v", values(got), want)
	}
}

// A watch goes from replica to replica while leaders change and replicas restart; what it
// is told, applied in order, is what the replicas hold, and each write comes once.
func TestWatchThroughFaults(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { watchChaos(t, seed, raft.Tuning{}) })
		})
		// As if requests changed much: each is told by itself, so positions stand inside entries.
		t.Run(fmt.Sprint("in pieces, seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { watchChaos(t, seed, raft.Tuning{ChangePiece: 1}) })
		})
	}
}

// told is what one watch has heard.
type told struct {
	events  []fulcrum.Event
	batches map[string]int // transaction -> the batch that it came in
	moves   int            // times that another replica went on
	inside  int            // positions inside an entry
	limit   int            // bytes asked for at a time
}

func (w *told) run(t *testing.T, c *replicationtest.Cluster, r *rand.Rand, after consistency.Mark, upTo *atomic.Pointer[consistency.Mark]) {
	stuck := time.Now().Add(5 * time.Minute) // virtual time
	at := c.IDs[0]
	last := map[fulcrum.NodeID]error{}
	for batch := 0; ; batch++ {
		if time.Now().After(stuck) {
			t.Errorf("a watch is stuck behind %+v: %v", after, last)
			return
		}
		if end := upTo.Load(); end != nil && after.Index >= end.Index { // in one epoch
			return
		}
		if after.Term > 0 {
			w.inside++
		}
		if r.IntN(10) == 0 {
			at = c.IDs[r.IntN(len(c.IDs))]
			w.moves++
		}
		rep, err := changes(c, at, replication.ChangesRequest{After: after, Limit: w.limit, Wait: 300 * time.Millisecond})
		if last[at] = err; err != nil {
			at = c.IDs[r.IntN(len(c.IDs))]
			time.Sleep(5 * time.Millisecond)
			continue
		}
		for _, e := range rep.Events {
			w.events = append(w.events, e)
			if tx, ok := strings.CutPrefix(string(e.Entry.Value), "tx"); ok {
				if in, ok := w.batches[tx]; ok && in != batch {
					t.Errorf("transaction %s is split over batches", tx)
				}
				w.batches[tx] = batch
			}
		}
		after = rep.Next
	}
}

func watchChaos(t *testing.T, seed uint64, tuning raft.Tuning) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	tuning.SnapshotEntries, tuning.SnapshotEvery = 64, 2*time.Second
	c := replicationtest.NewCluster(t, 3, opener(tuning), replicationtest.Options{})
	defer c.Close()
	c.Net.Latency(time.Millisecond)
	start := now(t, c)
	var upTo atomic.Pointer[consistency.Mark]
	watches := make([]*told, 3)
	var watching, writing sync.WaitGroup
	for i := range watches {
		w := &told{batches: map[string]int{}, limit: 500}
		if tuning.ChangePiece > 0 {
			w.limit = 1
		}
		watches[i] = w
		r := rand.New(rand.NewPCG(seed, uint64(50+i)))
		watching.Go(func() { w.run(t, c, r, start, &upTo) })
	}
	end := time.Now().Add(30 * time.Second)
	var mu sync.Mutex
	acked := map[string]fulcrum.Version{}
	for k := range 4 {
		r := rand.New(rand.NewPCG(seed, uint64(k)))
		writing.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				value := fmt.Sprintf("%d-%d", k, n)
				req := put(fmt.Sprint("key", k), value)
				if n%3 == 0 {
					value = "tx" + value
					req = replication.WriteRequest{Atomic: true}
					for i := range 3 {
						req.Writes = append(req.Writes, put(fmt.Sprint("key", k, "/", i), value).Writes...)
					}
				}
				ctx, cancel := within(2 * time.Second)
				rep, err := c.Write(ctx, c.IDs[r.IntN(3)], req)
				cancel()
				if err == nil {
					mu.Lock()
					for _, res := range rep.Results {
						acked[string(res.Entry.Key)+"="+value] = res.Entry.Version
					}
					mu.Unlock()
				}
				time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
			}
		})
	}
	for time.Now().Before(end) {
		time.Sleep(time.Duration(300+rnd.IntN(2000)) * time.Millisecond)
		switch rnd.IntN(5) {
		case 0:
			c.Net.Isolate(c.IDs[rnd.IntN(3)])
		case 1:
			// A restart forgets. Were watches behind when a second replica forgets, all
			// might have: so they get time to catch up, before and after.
			c.Net.Heal()
			time.Sleep(3 * time.Second)
			c.Restart(c.IDs[rnd.IntN(3)])
			time.Sleep(3 * time.Second)
		case 2:
			ctx, cancel := within(time.Second)
			_ = c.Group(c.IDs[rnd.IntN(3)]).HandOver(ctx)
			cancel()
		default:
			c.Net.Heal()
		}
	}
	writing.Wait()
	c.Net.Heal()
	l := leader(t, c)
	mustPut(t, c, l, "last", "v")
	equal(t, c)
	at := now(t, c)
	upTo.Store(&at)
	watching.Wait()
	if len(acked) < 300 {
		t.Fatalf("only %d writes: too few to mean anything", len(acked))
	}
	for i, w := range watches {
		w.check(t, fmt.Sprint("watch ", i), acked, c.State(l).Dump())
		if w.inside == 0 && tuning.ChangePiece > 0 {
			t.Errorf("watch %d never went on inside an entry", i)
		}
		t.Logf("watch %d: %d events, other replicas went on %d times, %d times inside an entry", i, len(w.events), w.moves, w.inside)
	}
}

func (w *told) check(t *testing.T, name string, acked map[string]fulcrum.Version, final map[string]fulcrum.Entry) {
	t.Helper()
	seen := map[fulcrum.Version]string{}
	held := map[string]fulcrum.Entry{}
	var newest fulcrum.Version
	for _, e := range w.events {
		if !newest.Less(e.Entry.Version) {
			t.Fatalf("%s: version %v is told behind %v", name, e.Entry.Version, newest)
		}
		newest = e.Entry.Version
		seen[newest] = string(e.Entry.Key) + "=" + string(e.Entry.Value)
		held[string(e.Entry.Key)] = e.Entry
	}
	for what, v := range acked {
		if seen[v] != what {
			t.Errorf("%s: acknowledged %s of version %v: told %q", name, what, v, seen[v])
		}
	}
	if !reflect.DeepEqual(held, final) {
		t.Errorf("%s: what was told ends with %d keys, the replicas hold %d, or they differ", name, len(held), len(final))
	}
}

func TestWatchBeginsBehindWhatWasAcknowledged(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "a", "1")
		f := others(c, l)[0]
		at := mustChanges(t, c, f, replication.ChangesRequest{}).Next // any replica can tell where it is
		for _, id := range c.IDs {
			if got := mustChanges(t, c, id, replication.ChangesRequest{After: at, Wait: time.Second}).Events; len(got) > 0 {
				t.Fatalf("%s tells %v behind a position that covers it", id, got)
			}
		}
		mustPut(t, c, l, "b", "2")
		for _, id := range c.IDs {
			wantValues(t, mustChanges(t, c, id, replication.ChangesRequest{After: at, Wait: 5 * time.Second}).Events, "b=2")
		}
		rep := mustChanges(t, c, f, replication.ChangesRequest{After: at, Start: []byte("c"), Wait: time.Second})
		if len(rep.Events) != 0 || rep.Next.Compare(at) <= 0 {
			t.Errorf("another range: %+v, want nothing up to a position behind %+v", rep, at)
		}
	})
}

// A watch that waits is answered by the change, not by the end of its wait.
func TestWaitingWatchIsWoken(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		at := now(t, c)
		began := time.Now()
		time.AfterFunc(2*time.Second, func() { mustPut(t, c, l, "k", "v") })
		rep := mustChanges(t, c, others(c, l)[0], replication.ChangesRequest{After: at, Wait: 9 * time.Second})
		wantValues(t, rep.Events, "k=v")
		if took := time.Since(began); took > 3*time.Second { // virtual time
			t.Errorf("told after %s", took)
		}
	})
}

// away is long enough for a replica to take nobody for watching.
func away() { time.Sleep(11 * time.Second) } // virtual time

func TestHistoryThatIsGoneIsTold(t *testing.T) {
	cluster(t, 3, raft.Tuning{ChangeEvents: 10}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		at := now(t, c)
		for i := range 10 {
			mustPut(t, c, l, "k", fmt.Sprint(i))
		}
		rep := mustChanges(t, c, l, replication.ChangesRequest{After: at})
		if len(rep.Events) != 10 {
			t.Fatalf("%d events of 10", len(rep.Events))
		}
		first := rep.Events[0].Entry.Version
		behind := mustChanges(t, c, l, replication.ChangesRequest{After: at, Limit: 1})
		wantValues(t, behind.Events, "k=0")
		away() // or it would be kept for the watch
		mustPut(t, c, l, "k", "10")
		if _, err := changes(c, l, replication.ChangesRequest{After: at}); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("one event too old: %v, want compacted", err)
		}
		wantValues(t, mustChanges(t, c, l, replication.ChangesRequest{After: rep.Next}).Events, "k=10")
		if got := mustChanges(t, c, l, replication.ChangesRequest{Since: first}); len(got.Events) != 10 {
			t.Errorf("since the newest that is gone: %d events, want 10", len(got.Events))
		}
		older := first
		older.Time--
		if _, err := changes(c, l, replication.ChangesRequest{Since: older}); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("since a version before: %v, want compacted", err)
		}
		if got := mustChanges(t, c, l, replication.ChangesRequest{After: behind.Next}); len(got.Events) != 10 {
			t.Errorf("behind the newest that is gone: %d events, want 10", len(got.Events))
		}
		away()
		mustPut(t, c, l, "k", "11")
		if _, err := changes(c, l, replication.ChangesRequest{After: behind.Next}); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("right before the newest that is gone: %v, want compacted", err)
		}
	})
}

func TestSinceAVersion(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "a", "1")
		v := mustPut(t, c, l, "b", "2").Results[0].Entry.Version
		mustPut(t, c, l, "c", "3")
		old := fulcrum.Entry{Key: []byte("d"), Value: []byte("late"), Version: fulcrum.Version{Time: 5, Actor: 9}}
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if _, err := c.Write(ctx, l, replication.WriteRequest{Writes: []fulcrum.Write{fulcrum.MergeOf(old)}}); err != nil {
			t.Fatal(err)
		}
		wantValues(t, mustChanges(t, c, l, replication.ChangesRequest{Since: v}).Events, "c=3", "d=late")
		wantValues(t, mustChanges(t, c, l, replication.ChangesRequest{Since: fulcrum.Version{Time: 1}}).Events, "a=1", "b=2", "c=3", "d=late")
		at := now(t, c)
		rep := mustChanges(t, c, others(c, l)[0], replication.ChangesRequest{Since: v, After: at})
		wantValues(t, rep.Events, "c=3", "d=late")
		if rep.Next.Compare(at) != 0 {
			t.Errorf("next %+v, want %+v", rep.Next, at)
		}
		// Within one request each write has a version of its own.
		multi := replication.WriteRequest{Atomic: true, Writes: append(put("x", "1").Writes, put("y", "2").Writes...)}
		r, err := c.Write(ctx, l, multi)
		if err != nil {
			t.Fatal(err)
		}
		wantValues(t, mustChanges(t, c, l, replication.ChangesRequest{Since: r.Results[0].Entry.Version}).Events, "y=2")
	})
}

func TestWatchAfterRestarts(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		at := now(t, c)
		mustPut(t, c, l, "a", "1")
		mustPut(t, c, l, "b", "2")
		end := now(t, c)
		f := others(c, l)[0]
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		time.Sleep(time.Second)
		if err := c.State(f).Flush(ctx); err != nil {
			t.Fatal(err)
		}
		c.Restart(f)
		leader(t, c)
		if _, err := changes(c, f, replication.ChangesRequest{After: at}); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("a replica that has forgotten says %v, want compacted", err)
		}
		wantValues(t, mustChanges(t, c, others(c, f)[0], replication.ChangesRequest{After: at}).Events, "a=1", "b=2")
		for _, id := range c.IDs {
			c.Restart(id)
		}
		mustPut(t, c, leader(t, c), "c", "3")
		for _, id := range c.IDs { // the end of what was told outlives a restart of all
			wantValues(t, mustChanges(t, c, id, replication.ChangesRequest{After: end, Wait: 5 * time.Second}).Events, "c=3")
		}
	})
}

// A replica that was brought up by a snapshot has no history before it.
func TestWatchBehindASnapshot(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 2}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		at := now(t, c)
		away := others(c, l)[0]
		c.Net.Isolate(away)
		for i := range 20 {
			mustPut(t, c, l, "k", fmt.Sprint(i))
		}
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		if err := c.Group(l).(*raft.Group).Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
		c.Net.Heal()
		equal(t, c)
		if _, err := changes(c, away, replication.ChangesRequest{After: at}); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("after a snapshot: %v, want compacted", err)
		}
		mustPut(t, c, l, "k", "new")
		rep := mustChanges(t, c, l, replication.ChangesRequest{After: at})
		if len(rep.Events) != 21 {
			t.Errorf("the others tell %d events, want 21", len(rep.Events))
		}
	})
}

// A replica that is cut off would tell nothing, as if nothing happened.
func TestReplicaThatIsCutOffDoesNotPretend(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		at := now(t, c)
		f := others(c, l)[0]
		c.Net.Isolate(f)
		time.Sleep(5 * time.Second)
		if _, err := changes(c, f, replication.ChangesRequest{After: at, Wait: 3 * time.Second}); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("cut off: %v, want not-leader", err)
		}
	})
}

// Replicas move, or a switch is given up: the shard goes on in the next epoch, and the
// watch with it; a replica that has forgotten says so.
func TestWatchGoesOnInTheNextEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rings := map[fulcrum.NodeID]*raft.Changes{}
		epoch := fulcrum.Epoch(3)
		open := func(env replication.Env) (replication.Group, error) {
			if rings[env.Node] == nil {
				rings[env.Node] = raft.NewChanges(raft.NewRoom(raft.RoomBytes))
			}
			return raft.Open(env, raft.Options{Changes: rings[env.Node]})
		}
		c := replicationtest.NewCluster(t, 3, open, replicationtest.Options{Edit: func(env *replication.Env) { env.Epoch = epoch }})
		defer c.Close()
		l := leader(t, c)
		at := now(t, c)
		mustPut(t, c, l, "a", "1")
		middle := now(t, c)
		mustPut(t, c, l, "b", "2")
		waiting := make(chan replication.ChangesReply, 1)
		before := now(t, c)
		go func() {
			rep, _ := changes(c, l, replication.ChangesRequest{After: before, Wait: 9 * time.Second})
			waiting <- rep
		}()
		synctest.Wait()
		fenceAll(t, c, l)
		for _, id := range c.IDs {
			c.Stop(id)
			if err := errors.Join(c.Log(id).Reset(1), c.State(id).Rebase(1, nil)); err != nil {
				t.Fatal(err)
			}
		}
		fence := <-waiting
		if len(fence.Events) != 0 || fence.Next.Epoch != 3 || fence.Next.Compare(before) <= 0 {
			t.Errorf("who waited is told %+v, want a position at the fence", fence)
		}
		epoch = 4
		delete(rings, c.IDs[2])
		for _, id := range c.IDs {
			c.Restart(id)
		}
		l = leader(t, c)
		mustPut(t, c, l, "c", "3")
		next := now(t, c)
		if next.Epoch != 4 {
			t.Fatalf("position %+v, want epoch 4", next)
		}
		for _, id := range c.IDs[:2] {
			wait := 5 * time.Second
			wantValues(t, mustChanges(t, c, id, replication.ChangesRequest{After: fence.Next, Wait: wait}).Events, "c=3")
			wantValues(t, mustChanges(t, c, id, replication.ChangesRequest{After: at, Wait: wait}).Events, "a=1", "b=2", "c=3")
			wantValues(t, mustChanges(t, c, id, replication.ChangesRequest{After: middle, Wait: wait}).Events, "b=2", "c=3")
		}
		if _, err := changes(c, c.IDs[2], replication.ChangesRequest{After: middle}); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("who forgot says %v, want compacted", err)
		}
		if _, err := changes(c, l, replication.ChangesRequest{After: consistency.Mark{Epoch: 5, Index: 1}}); !errors.Is(err, fulcrum.ErrEpoch) {
			t.Errorf("a position of a later epoch: %v, want epoch", err)
		}
	})
}

func fenceAll(t *testing.T, c *replicationtest.Cluster, l fulcrum.NodeID) {
	t.Helper()
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	pos, err := c.Group(l).Fence(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range c.IDs {
		if err := c.Group(id).Settle(ctx, pos, c.IDs); err != nil {
			t.Fatalf("settle %s: %v", id, err)
		}
	}
}

func TestChangesTravel(t *testing.T) {
	req := replication.ChangesRequest{After: consistency.Mark{Epoch: 3, Index: 9}, Since: fulcrum.Version{Time: 7, Actor: 2}, Start: []byte("a"), End: []byte("b"), Limit: 10, Wait: 5 * time.Second}
	got, err := replication.ReadChangesRequest(fulcrum.NewReader(replication.AppendChangesRequest(nil, req)))
	if err != nil || !reflect.DeepEqual(got, req) {
		t.Errorf("%+v, %v, want %+v", got, err, req)
	}
	rep := replication.ChangesReply{Next: consistency.Mark{Epoch: 3, Index: 11}, Clock: 4, Events: []fulcrum.Event{
		{Entry: fulcrum.Entry{Key: []byte("k"), Value: []byte("v"), Version: fulcrum.Version{Time: 8, Actor: 1}, ExpireAt: 5}},
		{Entry: fulcrum.Entry{Key: []byte("l"), Version: fulcrum.Version{Time: 9, Actor: 1}, Tombstone: true}, Expired: true}}}
	b := replication.AppendChangesReply(nil, rep)
	back, err := replication.ReadChangesReply(fulcrum.NewReader(b))
	if err != nil || !reflect.DeepEqual(back, rep) {
		t.Errorf("%+v, %v, want %+v", back, err, rep)
	}
	for n := range b {
		if _, err := replication.ReadChangesReply(fulcrum.NewReader(b[:n])); err == nil {
			t.Errorf("%d of %d bytes are taken for a reply", n, len(b))
		}
	}
}

// A version of the future is refused: what comes next would be older, and yet told.
func TestSinceTheFuture(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		v := mustPut(t, c, l, "a", "1").Results[0].Entry.Version
		ahead := func(d time.Duration) fulcrum.Version {
			return fulcrum.Version{Time: uint64(time.Now().Add(d).UnixMilli()) << 16, Actor: 1}
		}
		at := now(t, c)
		for _, id := range c.IDs {
			for _, d := range []time.Duration{time.Second, time.Hour, 1 << 62} {
				_, err := changes(c, id, replication.ChangesRequest{Since: ahead(d), After: at})
				if e := fulcrum.AsError(err); !errors.Is(err, fulcrum.ErrInvalid) || !strings.Contains(e.Detail, "future") || e.Hint == "" {
					t.Errorf("%s, a version that is %s ahead: %v, want invalid, and why", id, d, err)
				}
			}
			for _, v := range []fulcrum.Version{v, ahead(200 * time.Millisecond)} {
				if rep := mustChanges(t, c, id, replication.ChangesRequest{Since: v, After: at}); len(rep.Events) > 0 {
					t.Errorf("%s tells %v behind %s", id, values(rep.Events), v)
				}
			}
		}
		// One that the shard has made is none, whatever clocks say.
		old := fulcrum.Entry{Key: []byte("b"), Value: []byte("2"), Version: ahead(time.Hour)}
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if _, err := c.Write(ctx, l, replication.WriteRequest{Writes: []fulcrum.Write{fulcrum.MergeOf(old)}}); err != nil {
			t.Fatal(err)
		}
		mustPut(t, c, l, "c", "3")
		wantValues(t, mustChanges(t, c, l, replication.ChangesRequest{Since: old.Version}).Events, "c=3")
	})
}
