package raft_test

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// equal waits until every running replica holds the same entries.
func equal(t *testing.T, c *replicationtest.Cluster) {
	t.Helper()
	var first map[string]fulcrum.Entry
	for range 100 {
		same := true
		first = nil
		for _, id := range c.Alive() {
			d := c.State(id).Dump()
			if first == nil {
				first = d
			}
			same = same && reflect.DeepEqual(first, d)
		}
		if same {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, id := range c.Alive() {
		t.Errorf("%s holds %v", id, slices.Sorted(maps.Keys(c.State(id).Dump())))
	}
	t.Fatal("replicas differ after 10s")
}

func TestWritesCoalesce(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		c.Log(l).SyncDelay(10 * time.Millisecond)
		before := c.Log(l).Appends()
		const writes = 2000
		var wg sync.WaitGroup
		for i := range writes {
			wg.Go(func() { mustPut(t, c, l, fmt.Sprint("k", i%100), fmt.Sprint(i)) })
		}
		wg.Wait()
		if n := c.Log(l).Appends() - before; n > 20 {
			t.Errorf("%d writes at once took %d appends to the log, want a few", writes, n)
		}
		c.Log(l).SyncDelay(0)
		equal(t, c)
	})
}

func TestFullQueueIsOverloadedAtOnce(t *testing.T) {
	const room = 10
	cluster(t, 3, raft.Tuning{Queue: room}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		for _, id := range c.IDs { // of all, as the leader needs only two
			c.Log(id).SyncDelay(200 * time.Millisecond)
		}
		var mu sync.Mutex
		var refused, done int
		var wg sync.WaitGroup
		write := func(key string) {
			begun := time.Now()
			ctx, cancel := within(5 * time.Second)
			defer cancel()
			_, err := c.Group(l).Write(ctx, put(key, "v"))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case !errors.Is(err, fulcrum.ErrOverloaded):
				t.Errorf("write: %v", err)
			case time.Since(begun) > 0:
				t.Errorf("refused only after %s", time.Since(begun))
			default:
				refused++
			}
		}
		wg.Go(func() { write("under way") })
		synctest.Wait() // its entry waits for the disks, and until it is done nothing leaves the queue
		for i := range 100 {
			wg.Go(func() { write(fmt.Sprint(i)) })
		}
		wg.Wait()
		if refused != 100-room || done != 1+room {
			t.Errorf("%d done, %d refused of 100 with a queue of %d behind one under way", done, refused, room)
		}
	})
}

func TestAcknowledgedWritesSurviveACrashOfAll(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 4}, func(t *testing.T, c *replicationtest.Cluster) {
		for round := range 4 {
			l := leader(t, c)
			for i := range 15 {
				mustPut(t, c, l, fmt.Sprint(round, "-", i), "v")
			}
			if round == 2 {
				ctx, cancel := within(5 * time.Second)
				if err := c.Group(l).(*raft.Group).Snapshot(ctx); err != nil {
					t.Fatal(err)
				}
				cancel()
				mustPut(t, c, l, "behind the snapshot", "v")
			}
			for _, id := range c.IDs {
				c.Stop(id)
			}
			for _, id := range c.IDs {
				c.Restart(id)
			}
		}
		l := leader(t, c)
		for round := range 4 {
			for i := range 15 {
				key := fmt.Sprint(round, "-", i)
				if got, err := read(c, l, key, consistency.L(consistency.Linearizable)); err != nil || got != "v" {
					t.Errorf("%s = %q, %v after the crash", key, got, err)
				}
			}
		}
		equal(t, c)
	})
}

// A replica that lost everything, in a log that begins behind a snapshot: it can
// only be brought up by a snapshot, here while writes go on.
func TestReplicaThatIsNotBasedCatchesUpBySnapshot(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 8}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		away := others(c, l)[0]
		for i := range 30 {
			mustPut(t, c, l, fmt.Sprint(i), string(make([]byte, 50_000)))
		}
		c.Stop(away)
		c.Wipe(away)
		installs := 0
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if msg[0] == raft.MsgInstall {
				installs++
				v.Delay = 20 * time.Millisecond
			}
			return v
		})
		ctx, cancel := within(time.Second)
		if err := c.Group(l).(*raft.Group).Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		c.Restart(away)
		if _, err := read(c, away, "1", consistency.L(consistency.One)); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("a replica without the shard answers %v, want not-leader", err)
		}
		for i := range 100 {
			mustPut(t, c, l, fmt.Sprint("more", i), "v")
			time.Sleep(5 * time.Millisecond)
		}
		equal(t, c)
		if installs < 5 {
			t.Errorf("%d chunks were sent, want several", installs)
		}
		if s := c.Group(away).Status(); s.CatchingUp || s.Behind != 0 {
			t.Errorf("status %+v after catching up", s)
		}
		c.Restart(away) // what was installed is durable
		equal(t, c)
	})
}

// At the start of an epoch, nothing but the virtual snapshot: a replica that is not
// based learns of the configuration and the common start.
func TestEpochBeginsWithAReplicaThatIsNotBased(t *testing.T) {
	for _, based := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d of 3 based", based), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				states := map[fulcrum.NodeID]*replicationtest.State{}
				opt := replicationtest.Options{Edit: func(env *replication.Env) {
					st, ok := states[env.Node]
					if !ok {
						st = replicationtest.NewState()
						if int(env.Actor) <= based {
							err := st.Install(1, nil, func(put func(fulcrum.Entry) error) error {
								return put(fulcrum.Entry{Key: []byte("old"), Value: []byte("of the last epoch"), Version: fulcrum.Version{Time: 1 << 62, Actor: 1}})
							})
							if err != nil {
								t.Fatal(err)
							}
						}
						states[env.Node] = st
					}
					env.State = st
					if int(env.Actor) > based {
						env.Based, env.Log = false, replicationtest.NewLog()
					}
				}}
				c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{}), opt)
				defer c.Close()
				l := leader(t, c, c.IDs[:based]...)
				if slices.Index(c.IDs, l) >= based {
					t.Fatalf("%s leads without the shard", l)
				}
				mustPut(t, c, l, "new", "v")
				// An old version from a fast clock does not hide a new write.
				mustPut(t, c, l, "old", "overwritten")
				time.Sleep(3 * time.Second)
				for _, id := range c.IDs {
					if got := string(states[id].Dump()["old"].Value); got != "overwritten" {
						t.Errorf("%s holds %q", id, got)
					}
					if !reflect.DeepEqual(states[id].Dump(), states[l].Dump()) {
						t.Errorf("%s differs from the leader", id)
					}
				}
			})
		})
	}
}

// A follower that was away while the leader cut its log.
func TestFarBehindFollowerGetsASnapshot(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 2}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		away := others(c, l)[0]
		mustPut(t, c, l, "gone", "v")
		c.Net.Isolate(away)
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		del := replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpDelete, Key: []byte("gone")}}}
		if _, err := c.Group(l).Write(ctx, del); err != nil {
			t.Fatal(err)
		}
		for i := range 60 {
			mustPut(t, c, l, fmt.Sprint(i), "v")
		}
		if err := c.Group(l).(*raft.Group).Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
		if first := c.Log(l).First(); first < 50 {
			t.Fatalf("the log still begins at %d", first)
		}
		c.Net.Heal()
		equal(t, c)
		c.Stop(l) // and it can take part in a majority
		n := leader(t, c, others(c, l)...)
		mustPut(t, c, n, "after", "v")
		c.Restart(l)
		equal(t, c)
	})
}

// Entries that a cut-off leader wrote right behind the epoch's beginning are
// replaced although their previous entry exists on no disk.
func TestConflictRightBehindTheSnapshot(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		equal(t, c)
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		for _, id := range c.IDs {
			if err := c.Group(id).(*raft.Group).Snapshot(ctx); err != nil {
				t.Fatal(err)
			}
		}
		installs := 0
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if msg[0] == raft.MsgInstall {
				installs++
			}
			return v
		})
		for range 3 {
			l = leader(t, c)
			c.Net.Isolate(l)
			for i := range 5 {
				go func() {
					ctx, cancel := within(time.Second)
					defer cancel()
					_, _ = c.Group(l).Write(ctx, put("lost", fmt.Sprint(i)))
				}()
			}
			time.Sleep(2 * time.Second)
			n := leader(t, c, others(c, l)...)
			mustPut(t, c, n, "k", "v2")
			c.Net.Heal()
			equal(t, c)
		}
		if installs > 0 {
			t.Errorf("%d chunks were sent for a conflict of a few entries", installs)
		}
	})
}

// The same at the very beginning of an epoch: several replicas were leader for a
// moment and wrote entry 2, and nobody ever had an entry 1.
func TestConflictAtTheBeginningOfAnEpoch(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		installs := 0
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			v.Drop = msg[0] == raft.MsgAppend || raft.IsHeartbeat(msg)
			return v
		})
		wrote := func() (n int) {
			for _, id := range c.IDs {
				if c.Log(id).Last() > 1 {
					n++
				}
			}
			return n
		}
		for i := 0; i < 600 && wrote() < 2; i++ {
			time.Sleep(100 * time.Millisecond)
		}
		if wrote() < 2 {
			t.Fatal("no two replicas were leader")
		}
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if msg[0] == raft.MsgInstall {
				installs++
			}
			return v
		})
		mustPut(t, c, leader(t, c), "k", "v")
		equal(t, c)
		if installs > 0 {
			t.Errorf("%d chunks were sent for a conflict of one entry", installs)
		}
	})
}

func TestBadDiskEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{}), replicationtest.Options{RunMayFail: true})
		defer c.Close()
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		c.Log(l).FailWith(errors.New("input/output error"))
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		_, err := c.Group(l).Write(ctx, put("k", "w"))
		if err == nil {
			t.Fatal("a write on a bad disk succeeded")
		}
		time.Sleep(5 * time.Second)
		if err := c.RunErr(l); !errors.Is(err, fulcrum.ErrDisk) {
			t.Errorf("Run = %v, want a disk error", err)
		}
		n := leader(t, c, others(c, l)...)
		mustPut(t, c, n, "k", "x")
	})
}

func TestFence(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		f := others(c, l)[0]
		mustPut(t, c, l, "k", "v")
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		if _, err := c.Group(f).Fence(ctx); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("fence on a follower: %v", err)
		}
		at, err := c.Group(l).Fence(ctx)
		if err != nil || at.Index == 0 || at.Term == 0 {
			t.Fatalf("fence = %+v, %v", at, err)
		}
		if again, err := c.Group(l).Fence(ctx); err != nil || again != at {
			t.Errorf("second fence = %+v, %v, want %+v", again, err, at)
		}
		if _, err := c.Group(l).Write(ctx, put("k", "late")); !errors.Is(err, fulcrum.ErrEpoch) {
			t.Errorf("write behind the fence: %v, want epoch", err)
		}
		if _, err := read(c, l, "k", consistency.L(consistency.Linearizable)); !errors.Is(err, fulcrum.ErrEpoch) {
			t.Errorf("linearizable read behind the fence: %v, want epoch", err)
		}
		if got, err := read(c, l, "k", consistency.L(consistency.One)); err != nil || got != "v" {
			t.Errorf("local read behind the fence = %q, %v", got, err)
		}
		for _, id := range c.IDs {
			if err := c.Group(id).Settle(ctx, at, c.IDs); err != nil {
				t.Errorf("settle %s: %v", id, err)
			}
			if got := c.State(id).Durable(); got < at.Index {
				t.Errorf("%s settled at %d, durable is %d", id, at.Index, got)
			}
			if !c.Group(id).Status().Fenced {
				t.Errorf("%s does not know of the fence", id)
			}
		}
		equal(t, c)
		for _, id := range c.IDs {
			c.Stop(id)
		}
		for _, id := range c.IDs {
			c.Restart(id)
		}
		n := leader(t, c)
		if again, err := c.Group(n).Fence(ctx); err != nil || again != at {
			t.Errorf("fence after a restart = %+v, %v, want %+v", again, err, at)
		}
		if _, err := c.Group(n).Write(ctx, put("k", "late")); !errors.Is(err, fulcrum.ErrEpoch) {
			t.Errorf("write after a restart: %v, want epoch", err)
		}
	})
}

// A write that was under way when the fence went in is either before it and
// everywhere, or refused and nowhere.
func TestWritesRacingTheFence(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		c.Net.Latency(3 * time.Millisecond)
		var mu sync.Mutex
		acked := map[string]bool{}
		refused := map[string]bool{}
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				time.Sleep(time.Duration(i%50) * time.Millisecond)
				key := fmt.Sprint(i)
				ctx, cancel := within(5 * time.Second)
				defer cancel()
				_, err := c.Group(l).Write(ctx, put(key, "v"))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					acked[key] = true
				case errors.Is(err, fulcrum.ErrEpoch):
					refused[key] = true
				default:
					t.Errorf("%s: %v", key, err)
				}
			})
		}
		time.Sleep(20 * time.Millisecond)
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		at, err := c.Group(l).Fence(ctx)
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if len(acked) == 0 || len(refused) == 0 {
			t.Fatalf("%d acknowledged, %d refused: the fence did not fall among them", len(acked), len(refused))
		}
		for _, id := range c.IDs {
			if err := c.Group(id).Settle(ctx, at, c.IDs); err != nil {
				t.Fatal(err)
			}
			d := c.State(id).Dump()
			for key := range acked {
				if _, ok := d[key]; !ok {
					t.Errorf("%s lacks %s, which was acknowledged", id, key)
				}
			}
			for key := range refused {
				if _, ok := d[key]; ok {
					t.Errorf("%s holds %s, which was refused", id, key)
				}
			}
		}
	})
}

func TestSessionWaitsOrGoesToTheLeader(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		f := others(c, l)[0]
		w := mustPut(t, c, l, "k", "v")
		req := replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: consistency.L(consistency.Session), Min: w.Outcome.Position}
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if r, err := c.Group(f).Read(ctx, req); err != nil || string(r.Entries[0].Value) != "v" {
			t.Errorf("session read on a follower: %v", err)
		}
		c.Net.Isolate(f)
		req.Min.Index = mustPut(t, c, l, "k", "w").Outcome.Position.Index
		if _, err := c.Group(f).Read(ctx, req); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("session read on a replica that is behind: %v, want not-leader", err)
		}
	})
}

func TestHandOverMovesTheLeader(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if err := c.Group(l).HandOver(ctx); err != nil {
			t.Fatal(err)
		}
		if n := leader(t, c); n == l {
			t.Error("the leader is still the same")
		}
		mustPut(t, c, l, "k", "w")
	})
}

func TestStatus(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		f := others(c, l)[0]
		mustPut(t, c, l, "k", "v")
		time.Sleep(time.Second)
		s := c.Group(l).Status()
		if !s.IsLeader || s.Leader != l || s.Term == 0 || s.Applied == 0 || s.Keys != 1 || len(s.Peers) != 2 {
			t.Errorf("leader: %+v", s)
		}
		for _, p := range s.Peers {
			if p.Behind != 0 || p.Silent < 0 || p.Silent > time.Second {
				t.Errorf("peer %+v", p)
			}
		}
		c.Net.Isolate(f)
		for range 10 {
			mustPut(t, c, l, "k", "w")
			time.Sleep(500 * time.Millisecond)
		}
		for _, p := range c.Group(l).Status().Peers {
			if p.Node == f && (p.Behind < 10 || p.Silent < 3*time.Second) {
				t.Errorf("peer that is away: %+v", p)
			}
		}
		if s := c.Group(f).Status(); s.BehindFor < 3*time.Second || s.IsLeader {
			t.Errorf("replica that is away: %+v", s)
		}
	})
}
