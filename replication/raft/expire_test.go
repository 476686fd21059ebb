package raft_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

func putFor(key string, ttl time.Duration) replication.WriteRequest {
	return replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte(key), Value: []byte("v"), TTL: ttl.Milliseconds()}}}
}

// mustWrite writes through whoever leads, and returns when the write began.
func mustWrite(t *testing.T, c *replicationtest.Cluster, req replication.WriteRequest) time.Time {
	t.Helper()
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	began := time.Now()
	if _, err := c.Write(ctx, c.Alive()[0], req); err != nil {
		t.Fatalf("write: %v", err)
	}
	return began
}

// found reads key through whoever leads, or at a weaker level on one replica.
func found(t *testing.T, c *replicationtest.Cluster, at fulcrum.NodeID, key string, level consistency.Level) (fulcrum.Entry, bool) {
	t.Helper()
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	r, err := c.Read(ctx, at, replication.ReadRequest{Keys: [][]byte{[]byte(key)}, Level: level})
	if err != nil {
		t.Fatalf("read %s through %s: %v", key, at, err)
	}
	e := r.Entries[0]
	return e, !e.Version.IsZero() && !e.Tombstone
}

const grace = time.Minute

// inEpoch is a cluster in an epoch; the first is one in which no late write can come.
func inEpoch(t *testing.T, n int, epoch fulcrum.Epoch, tuning raft.Tuning, f func(t *testing.T, c *replicationtest.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		open := func(env replication.Env) (replication.Group, error) {
			g, err := raft.Open(env, raft.Options{Tuning: tuning})
			if err == nil {
				g.ShortenGrace(grace)
			}
			return g, err
		}
		c := replicationtest.NewCluster(t, n, open, replicationtest.Options{Edit: func(env *replication.Env) { env.Epoch = epoch }})
		defer c.Close()
		leader(t, c)
		f(t, c)
	})
}

// Whatever wall clocks do, a key lives for as long as it was promised, and no longer
// than a moment beyond; its absolute expiry is as far away as it was by its leader.
func TestAClockThatJumpsHidesNothing(t *testing.T) {
	for _, skew := range []time.Duration{30 * time.Second, -30 * time.Second} {
		for _, who := range []string{"leader", "followers", "all"} {
			t.Run(fmt.Sprint(who, skew), func(t *testing.T) {
				inEpoch(t, 3, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
					began := mustWrite(t, c, putFor("k", 10*time.Second))
					at := putFor("absolute", 0)
					at.Writes[0].ExpireAt = time.Now().Add(10 * time.Second).UnixMilli()
					mustWrite(t, c, at)
					lead := leader(t, c)
					for _, id := range c.IDs {
						if who == "all" || (who == "leader") == (id == lead) {
							c.Skew(id, skew)
						}
					}
					mustWrite(t, c, put("other", "v")) // with the clocks as they are now
					for time.Since(began) < 10*time.Second {
						for _, key := range []string{"k", "absolute"} {
							e, ok := found(t, c, c.IDs[0], key, linearizable)
							if !ok && time.Since(began) < 10*time.Second {
								t.Fatalf("%s is gone after %v: %+v", key, time.Since(began), e)
							}
						}
						for _, id := range c.IDs {
							if e, ok := found(t, c, id, "k", consistency.L(consistency.One)); !ok && !e.Version.IsZero() && time.Since(began) < 10*time.Second {
								t.Fatalf("k is gone on %s after %v", id, time.Since(began))
							}
						}
						time.Sleep(99 * time.Millisecond)
					}
					time.Sleep(500 * time.Millisecond)
					for _, key := range []string{"k", "absolute"} {
						if e, ok := found(t, c, c.IDs[0], key, linearizable); ok {
							t.Errorf("%s lives after %v: %+v", key, time.Since(began), e)
						}
					}
				})
			})
		}
	}
}

// What a reply says of an expiry is on the clock that comes with it.
func TestReplyCarriesTheClockOfItsExpiries(t *testing.T) {
	inEpoch(t, 3, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		lead := leader(t, c)
		c.Skew(lead, 30*time.Second)
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		w, err := c.Write(ctx, lead, putFor("k", 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		left := func(e fulcrum.Entry, o replication.Outcome) time.Duration {
			return time.Duration(e.ExpireAt-o.Clock) * time.Millisecond
		}
		if d := left(w.Results[0].Entry, w.Outcome); d > 10*time.Second || d < 9*time.Second {
			t.Errorf("%v are left behind the write", d)
		}
		time.Sleep(4 * time.Second)
		for _, id := range c.IDs {
			r, err := c.Group(id).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: consistency.L(consistency.One)})
			if err != nil {
				t.Fatal(err)
			}
			if d := left(r.Entries[0], r.Outcome); d > 7*time.Second || d < 5*time.Second {
				t.Errorf("%v are left on %s after 4s of 10s", d, id)
			}
			s, err := c.Group(id).Scan(ctx, replication.ScanRequest{Level: consistency.L(consistency.One)})
			if err != nil || len(s.Entries) != 1 {
				t.Fatalf("scan on %s: %v, %v", id, s.Entries, err)
			}
			if d := left(s.Entries[0], s.Outcome); d > 7*time.Second || d < 5*time.Second {
				t.Errorf("%v are left by a scan on %s after 4s of 10s", d, id)
			}
		}
	})
}

// gone waits until what says no entry is left of stands on every replica.
func gone(t *testing.T, c *replicationtest.Cluster, what string, left func(fulcrum.Entry) bool) {
	t.Helper()
	for range 100 {
		n := 0
		for _, id := range c.Alive() {
			for _, e := range c.State(id).Dump() {
				if left(e) {
					n++
				}
			}
		}
		if n == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, id := range c.Alive() {
		t.Logf("%s holds %+v", id, c.State(id).Dump())
	}
	t.Fatalf("%s is left", what)
}

func sameStates(t *testing.T, c *replicationtest.Cluster) {
	t.Helper()
	one := c.State(c.IDs[0]).Dump()
	for _, id := range c.IDs[1:] {
		if other := c.State(id).Dump(); fmt.Sprint(one) != fmt.Sprint(other) {
			t.Errorf("%s holds %v\n%s holds %v", c.IDs[0], one, id, other)
		}
	}
}

func TestWhatExpiredIsGoneFromEveryReplica(t *testing.T) {
	t.Run("in a first epoch, whole", func(t *testing.T) {
		inEpoch(t, 3, 1, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			mustWrite(t, c, put("stays", "v"))
			for i := range 600 {
				mustWrite(t, c, putFor(fmt.Sprint("k", i), 10*time.Second))
			}
			time.Sleep(10 * time.Second)
			gone(t, c, "an expired key", func(e fulcrum.Entry) bool { return string(e.Key) != "stays" })
			sameStates(t, c)
			if n := c.Group(c.IDs[0]).Status().Keys; n != 1 {
				t.Errorf("%d keys are counted, want 1", n)
			}
			ctx, cancel := within(5 * time.Second)
			defer cancel()
			if r, err := c.Scan(ctx, c.IDs[0], replication.ScanRequest{Level: linearizable}); err != nil || len(r.Entries) != 1 {
				t.Errorf("a scan shows %v, %v", r.Entries, err)
			}
		})
	})
	t.Run("in a later one, but for a tombstone that goes later", func(t *testing.T) {
		inEpoch(t, 3, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			mustWrite(t, c, put("stays", "v"))
			mustWrite(t, c, put("deleted", "v"))
			mustWrite(t, c, putFor("k", 10*time.Second))
			mustWrite(t, c, replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpDelete, Key: []byte("deleted")}}})
			time.Sleep(10 * time.Second)
			gone(t, c, "an expired value", func(e fulcrum.Entry) bool { return string(e.Key) == "k" && (!e.Tombstone || len(e.Value) > 0) })
			late := fulcrum.MergeOf(fulcrum.Entry{Key: []byte("k"), Value: []byte("old"), Version: fulcrum.Version{Time: 1, Actor: 9}})
			mustWrite(t, c, replication.WriteRequest{Writes: []fulcrum.Write{late}})
			if e, ok := found(t, c, c.IDs[0], "k", linearizable); ok {
				t.Errorf("a late write brought an expired key back: %+v", e)
			}
			time.Sleep(2 * grace)
			gone(t, c, "a tombstone", func(e fulcrum.Entry) bool { return e.Tombstone })
			sameStates(t, c)
			if n := c.Group(c.IDs[0]).Status().Keys; n != 1 {
				t.Errorf("%d keys are counted, want 1", n)
			}
		})
	})
}

// The later expiry counts, and a key without one stays.
func TestAKeyWrittenAgainStays(t *testing.T) {
	inEpoch(t, 3, 1, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		for _, k := range []string{"longer", "for ever", "persisted"} {
			mustWrite(t, c, putFor(k, 10*time.Second))
		}
		time.Sleep(9 * time.Second)
		mustWrite(t, c, putFor("longer", 10*time.Second))
		mustWrite(t, c, put("for ever", "v"))
		mustWrite(t, c, replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpExpire, Key: []byte("persisted")}}})
		time.Sleep(9 * time.Second)
		for _, k := range []string{"longer", "for ever", "persisted"} {
			if e, ok := found(t, c, c.IDs[0], k, linearizable); !ok {
				t.Errorf("%s is gone: %+v", k, e)
			}
		}
		time.Sleep(2 * time.Second)
		gone(t, c, "longer", func(e fulcrum.Entry) bool { return string(e.Key) == "longer" })
	})
}

// Times to live hold through leader changes, snapshots and restarts. Only when all
// replicas are down at once does the clock stand still, and keys live longer.
func TestTimesToLiveHoldThroughCrashes(t *testing.T) {
	const ttl = 20 * time.Second
	live := func(t *testing.T, c *replicationtest.Cluster, want bool) {
		t.Helper()
		if e, ok := found(t, c, c.Alive()[0], "k", linearizable); ok != want {
			t.Errorf("live: %v, want %v (%+v)", ok, want, e)
		}
	}
	t.Run("the leader's", func(t *testing.T) {
		inEpoch(t, 3, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			began := mustWrite(t, c, putFor("k", ttl))
			for range 3 {
				c.Restart(leader(t, c))
				leader(t, c)
			}
			c.Stop(leader(t, c))
			time.Sleep(ttl - time.Since(began) - time.Millisecond)
			live(t, c, true)
			time.Sleep(15 * time.Second) // what the restarted ones forgot
			live(t, c, false)
		})
	})
	t.Run("after a long rest", func(t *testing.T) {
		inEpoch(t, 3, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			began := mustWrite(t, c, putFor("k", 5*time.Minute))
			time.Sleep(5*time.Minute - 10*time.Second - time.Since(began))
			for _, id := range c.IDs {
				c.Restart(id)
			}
			leader(t, c)
			live(t, c, true)
			time.Sleep(30 * time.Second)
			live(t, c, false)
		})
	})
	t.Run("a replica that comes by a snapshot leads", func(t *testing.T) {
		inEpoch(t, 3, 3, raft.Tuning{TrailingEntries: 1}, func(t *testing.T, c *replicationtest.Cluster) {
			began := mustWrite(t, c, putFor("k", ttl))
			lead := leader(t, c)
			var late fulcrum.NodeID
			for _, id := range c.IDs {
				if id != lead {
					late = id
				}
			}
			c.Stop(late)
			c.Wipe(late)
			for range 10 {
				mustWrite(t, c, put("other", "v"))
			}
			ctx, cancel := within(time.Minute)
			defer cancel()
			if err := c.Group(lead).(*raft.Group).Snapshot(ctx); err != nil {
				t.Fatal(err)
			}
			c.Restart(late)
			for c.Group(late).Status().CatchingUp || c.State(late).Applied() < c.State(lead).Applied() {
				time.Sleep(10 * time.Millisecond)
			}
			for _, id := range c.IDs {
				if id != late && id != lead {
					c.Stop(id) // only the one that came late can follow
				}
			}
			if err := c.Group(lead).HandOver(ctx); err != nil {
				t.Fatal(err)
			}
			if l := leader(t, c); l != late {
				t.Fatalf("%s leads, want %s", l, late)
			}
			time.Sleep(ttl - time.Since(began) - time.Millisecond)
			live(t, c, true)
			time.Sleep(2 * time.Second)
			live(t, c, false)
		})
	})
	t.Run("of all at once", func(t *testing.T) {
		inEpoch(t, 3, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			mustWrite(t, c, putFor("k", ttl))
			for _, id := range c.IDs {
				if err := c.State(id).Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for _, id := range c.IDs {
				c.Stop(id)
			}
			time.Sleep(time.Hour)
			for _, id := range c.IDs {
				c.Restart(id)
			}
			leader(t, c)
			live(t, c, true)
			time.Sleep(ttl)
			live(t, c, false)
		})
	})
}

// What one linearizable read found expired, no later one finds, on whatever replica,
// while leaders change and clocks jump.
func TestWhatExpiredDoesNotComeBack(t *testing.T) {
	inEpoch(t, 3, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		rnd := rand.New(rand.NewPCG(5, 6))
		for round := range 15 {
			key := fmt.Sprint("k", round)
			ttl := time.Duration(1+rnd.IntN(3000)) * time.Millisecond
			began := mustWrite(t, c, putFor(key, ttl))
			wasGone := false
			for time.Since(began) < ttl+2*time.Second {
				switch rnd.IntN(12) {
				case 0:
					c.Skew(c.IDs[rnd.IntN(3)], time.Duration(rnd.IntN(61)-30)*time.Second)
				case 1:
					ctx, cancel := within(5 * time.Second)
					_ = c.Group(leader(t, c)).HandOver(ctx)
					cancel()
				}
				_, ok := found(t, c, c.IDs[rnd.IntN(3)], key, linearizable)
				since := time.Since(began)
				switch {
				case ok && wasGone:
					t.Fatalf("round %d: it is back after %v of %v", round, since, ttl)
				case !ok && since < ttl:
					t.Fatalf("round %d: it is gone after %v of %v", round, since, ttl)
				}
				wasGone = !ok
				time.Sleep(time.Duration(rnd.IntN(150)) * time.Millisecond)
			}
			if !wasGone {
				t.Errorf("round %d: it lives after %v of %v", round, time.Since(began), ttl)
			}
		}
	})
}

// Nothing is written to the log, and nobody wakes up, where no key expires.
func TestWithoutExpiriesTheLogRests(t *testing.T) {
	inEpoch(t, 3, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		mustWrite(t, c, put("k", "v"))
		time.Sleep(time.Second)
		before := c.Group(leader(t, c)).Status().LastIndex
		time.Sleep(5 * time.Minute)
		if after := c.Group(leader(t, c)).Status().LastIndex; after != before {
			t.Errorf("the log grew from %d to %d", before, after)
		}
	})
}

// Who watches is told that a key expired, once, and nothing of tombstones that go.
func TestWatchersAreToldWhatExpired(t *testing.T) {
	for _, epoch := range []fulcrum.Epoch{1, 3} {
		inEpoch(t, 3, epoch, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
			ctx, cancel := within(10 * grace)
			defer cancel()
			put := mustPut(t, c, leader(t, c), "first", "v")
			mustWrite(t, c, putFor("k", 10*time.Second))
			time.Sleep(3 * grace)
			for _, id := range c.IDs {
				w, ok := c.Group(id).(replication.Watcher)
				if !ok {
					t.Fatal("a group that tells no changes")
				}
				got, err := w.Changes(ctx, replication.ChangesRequest{Since: put.Results[0].Entry.Version, Limit: 1 << 20})
				if err != nil {
					t.Fatalf("epoch %d, %s: %v", epoch, id, err)
				}
				if len(got.Events) != 2 {
					t.Fatalf("epoch %d, %s tells %+v", epoch, id, got.Events)
				}
				written, expired := got.Events[0], got.Events[1]
				if written.Expired || !expired.Expired || !expired.Entry.Tombstone || expired.Entry.ExpireAt != 0 ||
					string(expired.Entry.Key) != "k" || !written.Entry.Version.Less(expired.Entry.Version) {
					t.Errorf("epoch %d, %s tells %+v", epoch, id, got.Events)
				}
			}
		})
	}
}
