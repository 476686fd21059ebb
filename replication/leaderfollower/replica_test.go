package leaderfollower

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/replicationtest"
)

func TestAFollowerTooFarBehindGetsTheState(t *testing.T) {
	for _, test := range []struct {
		name string
		away func(w *world)
		back func(w *world)
	}{
		{"after a long cut", func(w *world) { w.Net.Isolate("n3") }, func(w *world) { w.Net.Heal() }},
		{"after it was wiped", func(w *world) { w.Stop("n3"); w.Wipe("n3") }, func(w *world) { w.Restart("n3") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, 3, Options{KeepTail: 10}, false, func(t *testing.T, w *world) {
				mustPut(t, w, "n1", "gone", "v", consistency.QuorumOf)
				test.away(w)
				value := strings.Repeat("x", 10_000)
				for i := range 100 { // a megabyte: several chunks
					mustPut(t, w, "n1", fmt.Sprintf("k%d", i), value, consistency.QuorumOf)
				}
				req := put("gone", "", consistency.QuorumOf)
				req.Writes[0] = fulcrum.Write{Op: fulcrum.OpDelete, Key: []byte("gone")}
				if _, err := w.Group("n1").Write(within(t, time.Second), req); err != nil {
					t.Fatal(err)
				}
				if first := w.Log("n1").First(); first < 50 {
					t.Fatalf("the log still begins at %d", first)
				}
				test.back(w)
				time.Sleep(3 * time.Second)
				g := w.Group("n3")
				wantRead(t, g, "k99", weak, value)
				wantRead(t, g, "gone", weak, "")
				if s := g.Status(); s.CatchingUp || s.Behind != 0 {
					t.Errorf("status %+v", s)
				}
				mustPut(t, w, "n1", "after", "v", consistency.All)
				w.Restart("n3")
				time.Sleep(2 * time.Second)
				mustPut(t, w, "n1", "after", "w", consistency.All)
				time.Sleep(100 * time.Millisecond) // acknowledged is durable there, not yet visible
				wantRead(t, w.Group("n3"), "after", weak, "w")
			})
		})
	}
}

func TestAReplicaThatIsCatchingUpNeitherAnswersNorCounts(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		w.Stop("n3")
		w.Wipe("n3")
		w.Net.OnCall(func(_, to fulcrum.NodeID, _ []byte) replicationtest.Verdict {
			return replicationtest.Verdict{Drop: to == "n3"}
		})
		w.Restart("n3")
		time.Sleep(time.Second)
		_, err := w.Group("n3").Read(within(t, time.Second), get("k", weak))
		wantCode(t, "a read", err, fulcrum.CodeNotLeader)
		_, err = w.group("n3").Promise(within(t, time.Second), 5)
		wantCode(t, "a promise", err, fulcrum.CodeUnavailable)
		if !w.Group("n3").Status().CatchingUp {
			t.Error("the status does not say so")
		}
	})
}

func TestRestartInEveryRole(t *testing.T) {
	inWorld(t, 3, Options{KeepTail: 4}, false, func(t *testing.T, w *world) {
		n := 0
		for round := range 6 {
			for range 15 {
				n++
				if _, err := w.Write(within(t, 20*time.Second), w.IDs[n%3], put(fmt.Sprintf("k%d", n), "v", consistency.QuorumOf)); err != nil {
					t.Fatal(err)
				}
			}
			w.Restart(w.IDs[round%3])
		}
		time.Sleep(5 * time.Second)
		for i := 1; i <= n; i++ {
			for _, id := range w.IDs {
				wantRead(t, w.Group(id), fmt.Sprintf("k%d", i), weak, "v")
			}
		}
	})
}

func TestOverloadIsRefusedAndPasses(t *testing.T) {
	inWorld(t, 3, Options{MaxUncommitted: 10_000}, true, func(t *testing.T, w *world) {
		w.Net.Isolate("n1")
		var err error
		for range 100 {
			if _, err = w.Group("n1").Write(within(t, time.Second), put("k", strings.Repeat("x", 1000), consistency.One)); err != nil {
				break
			}
			w.renew("n1") // only the followers are cut off
		}
		wantCode(t, "the write that is too much", err, fulcrum.CodeOverloaded)
		w.Net.Heal()
		time.Sleep(2 * time.Second)
		mustPut(t, w, "n1", "k", "v", consistency.QuorumOf)
	})
}

func TestTooFewFollowersAreKnownBeforeAWriteIsOrdered(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		mustPut(t, w, "n1", "k", "v", consistency.All)
		w.Stop("n2")
		time.Sleep(3 * time.Second)
		if r := mustPut(t, w, "n1", "k", "w", consistency.All); r.Outcome.Needed != 2 {
			t.Errorf("all with one replica away needed %d, want 2", r.Outcome.Needed)
		}
		_, err := w.Group("n1").Write(within(t, time.Second), put("k", "x", consistency.Three))
		wantCode(t, "three of two", err, fulcrum.CodeUnavailable)
		w.Stop("n3")
		time.Sleep(3 * time.Second)
		_, err = w.Group("n1").Write(within(t, time.Second), put("k", "x", consistency.QuorumOf))
		wantCode(t, "a quorum of one", err, fulcrum.CodeUnavailable)
		wantRead(t, w.Group("n1"), "k", weak, "w")
	})
}

func TestLevelsThatTheModeCannotKeepAreRefused(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		for _, kind := range []consistency.Kind{consistency.Any, consistency.LocalOne, consistency.EachQuorum, consistency.Session} {
			_, err := w.Group("n1").Write(within(t, time.Second), put("k", "v", kind))
			wantCode(t, "a write at "+consistency.L(kind).String(), err, fulcrum.CodeLevel)
		}
		for _, kind := range []consistency.Kind{consistency.Any, consistency.QuorumOf, consistency.LocalQuorum} {
			_, err := w.Group("n1").Read(within(t, time.Second), get("k", consistency.L(kind)))
			wantCode(t, "a read at "+consistency.L(kind).String(), err, fulcrum.CodeLevel)
		}
	})
}

func TestBoundedReadsProveTheirStaleness(t *testing.T) {
	bounded := func(d time.Duration) consistency.Level {
		return consistency.Level{Kind: consistency.Bounded, Bound: d}
	}
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		mustPut(t, w, "n1", "k", "v", consistency.All)
		time.Sleep(2 * time.Second)
		r, err := w.Group("n2").Read(within(t, time.Second), get("k", bounded(2*time.Second)))
		if err != nil || r.Outcome.Staleness < 0 || r.Outcome.Staleness > 2*time.Second {
			t.Fatalf("a healthy follower: %+v, %v", r.Outcome, err)
		}
		w.Net.Isolate("n2")
		time.Sleep(5 * time.Second)
		mustPut(t, w, "n1", "k", "newer", consistency.QuorumOf)
		_, err = w.Group("n2").Read(within(t, time.Second), get("k", bounded(2*time.Second)))
		wantCode(t, "a follower that hears nothing", err, fulcrum.CodeNotLeader)
		r, err = w.Group("n2").Read(within(t, time.Second), get("k", bounded(time.Minute)))
		if err != nil || r.Outcome.Staleness < 5*time.Second {
			t.Errorf("staleness %s, %v; want at least the five seconds of the cut", r.Outcome.Staleness, err)
		}
	})
}

func TestASessionReadWaitsForItsFloor(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		w.Net.Isolate("n3")
		floor := mustPut(t, w, "n1", "k", "v", consistency.QuorumOf).Outcome.Position
		req := get("k", consistency.L(consistency.Session))
		req.Min = floor
		for _, id := range []fulcrum.NodeID{"n1", "n2"} {
			if r, err := w.Group(id).Read(within(t, time.Second), req); err != nil || string(r.Entries[0].Value) != "v" {
				t.Errorf("on %s: %+v, %v", id, r.Entries, err)
			}
		}
		_, err := w.Group("n3").Read(within(t, time.Second), req)
		wantCode(t, "a follower below the floor", err, fulcrum.CodeNotLeader)
		w.Net.Isolate("n1")
		req.Min = mustPut(t, w, "n1", "k", "mine", consistency.One).Outcome.Position
		if r, err := w.Group("n1").Read(within(t, time.Second), req); err != nil || string(r.Entries[0].Value) != "mine" {
			t.Errorf("a session's own weak write: %+v, %v", r.Entries, err)
		}
	})
}

func TestABadDiskEndsTheReplica(t *testing.T) {
	for _, id := range []fulcrum.NodeID{"n1", "n2"} {
		t.Run(string(id), func(t *testing.T) {
			inBrokenWorld(t, func(t *testing.T, w *world) {
				bad := errors.New("input/output error")
				w.Log(id).FailWith(bad)
				_, err := w.Group("n1").Write(within(t, 2*time.Second), put("k", "v", consistency.QuorumOf))
				if id == "n1" {
					wantCode(t, "a write on a bad disk", err, fulcrum.CodeUnknown)
				} else if err != nil {
					t.Errorf("one bad follower of two: %v", err)
				}
				time.Sleep(time.Second)
				if err := w.RunErr(id); !errors.Is(err, fulcrum.ErrDisk) {
					t.Errorf("Run returned %v", err)
				}
				_, err = w.Group(id).Read(within(t, time.Second), get("k", weak))
				wantCode(t, "a later read", err, fulcrum.CodeDisk)
			})
		})
	}
}

// Writes from many clients at once share appends, so a slow disk costs little.
func TestWritesShareAppends(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		w.Log("n1").SyncDelay(10 * time.Millisecond)
		before := w.Log("n1").Appends()
		done := make(chan error)
		for i := range 64 {
			go func() {
				_, err := w.Group("n1").Write(within(t, 5*time.Second), put(fmt.Sprint(i), "v", consistency.QuorumOf))
				done <- err
			}()
		}
		for range 64 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := w.Log("n1").Appends() - before; n > 8 {
			t.Errorf("64 writes took %d appends", n)
		}
	})
}

func TestVersionsRiseAcrossLeadersWithBadClocks(t *testing.T) {
	inWorld(t, 3, Options{}, false, func(t *testing.T, w *world) {
		w.Skew("n1", 30*time.Second)
		first := mustPut(t, w, "n1", "k", "v", consistency.QuorumOf).Results[0].Entry.Version
		w.Stop("n1")
		time.Sleep(6 * time.Second)
		w.Skew(w.who(), -time.Hour)
		second := mustPut(t, w, w.who(), "k", "w", consistency.QuorumOf).Results[0].Entry.Version
		if !first.Less(second) {
			t.Errorf("version %s was followed by %s", first, second)
		}
	})
}

var _ replication.Metrics = (*counter)(nil)
