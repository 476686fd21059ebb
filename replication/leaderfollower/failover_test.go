package leaderfollower

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/replicationtest"
)

// readLost returns the lost files' lines by key.
func readLost(t *testing.T, dir string) map[string]lostWrite {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "lost-7-3-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lost := map[string]lostWrite{}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			var l lostWrite
			if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
				t.Fatal(err)
			}
			lost[string(l.Key)] = l
		}
		_ = f.Close()
	}
	return lost
}

func TestFailoverKeepsQuorumAndCountsWhatOneLost(t *testing.T) {
	for _, test := range []struct {
		name    string
		restart bool
		acked   string
		lost    int
	}{
		{"the old leader comes back from a cut", false, "yes", 2},
		{"the old leader comes back from a crash", true, "maybe", 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, 3, Options{}, false, func(t *testing.T, w *world) {
				for i := range 20 {
					mustPut(t, w, "n1", fmt.Sprintf("q%d", i), "kept", consistency.QuorumOf)
				}
				w.Net.Isolate("n1")
				mustPut(t, w, "n1", "weak1", "a", consistency.One)
				mustPut(t, w, "n1", "weak2", "b", consistency.One)
				_, err := w.Group("n1").Write(within(t, 500*time.Millisecond), put("unknown", "c", consistency.QuorumOf))
				wantCode(t, "a quorum write of a leader that is alone", err, fulcrum.CodeUnknown)
				wantRead(t, w.Group("n1"), "weak1", weak, "a")
				if test.restart {
					w.Stop("n1")
				}
				time.Sleep(6 * time.Second)
				if w.who() == "n1" {
					t.Fatal("nobody was promoted")
				}
				mustPut(t, w, w.who(), "weak2", "newer", consistency.QuorumOf)
				if test.restart {
					w.Restart("n1")
				}
				w.Net.Heal()
				time.Sleep(3 * time.Second)
				for i := range 20 {
					wantRead(t, w.Group(w.who()), fmt.Sprintf("q%d", i), strong, "kept")
				}
				for _, id := range w.IDs {
					wantRead(t, w.Group(id), "weak1", weak, "")
					wantRead(t, w.Group(id), "weak2", weak, "newer")
				}
				if got := w.lost("n1"); got != test.lost {
					t.Errorf("counted %d lost acknowledged writes, want %d", got, test.lost)
				}
				kept := readLost(t, w.dir)
				if l := kept["weak1"]; string(l.Value) != "a" || l.Acknowledged != test.acked || l.Term != 2 {
					t.Errorf("the lost file has %+v for weak1", l)
				}
				if _, ok := kept["q3"]; ok || len(kept) != 3 {
					t.Errorf("the lost files hold %d writes, want 3", len(kept))
				}
			})
		})
	}
}

func TestALeaderWithoutLeaseNeitherAcknowledgesNorAnswers(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		mustPut(t, w, "n1", "k", "v", consistency.QuorumOf)
		w.silence("n1")
		time.Sleep(leaseFor + time.Second)
		g := w.Group("n1")
		for _, kind := range []consistency.Kind{consistency.One, consistency.QuorumOf, consistency.All} {
			_, err := g.Write(within(t, time.Second), put("k", "late", kind))
			wantCode(t, "a write without lease", err, fulcrum.CodeUnavailable)
		}
		for _, level := range []consistency.Level{strong, consistency.L(consistency.Lease), {Kind: consistency.Bounded, Bound: time.Hour}} {
			_, err := g.Read(within(t, time.Second), get("k", level))
			wantCode(t, "a read at "+level.String()+" without lease", err, fulcrum.CodeUnavailable)
		}
		wantRead(t, g, "k", weak, "v")
	})
}

// The lease runs out while the disk syncs: the write is in the log, but saying so
// would be a promise that a new leader may already have broken.
func TestALeaseThatEndsDuringTheSyncMakesTheOutcomeUnknown(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		w.Net.Isolate("n1")
		w.silence("n1")
		w.Log("n1").SyncDelay(4 * time.Second)
		_, err := w.Group("n1").Write(within(t, 10*time.Second), put("k", "v", consistency.One))
		wantCode(t, "an acknowledgement after the lease", err, fulcrum.CodeUnknown)
	})
}

// A leader is alive, keeps its lease, and is replaced: its own promise must stop it.
func TestALeaderThatPromisedALaterTermStops(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		mustPut(t, w, "n1", "k", "v", consistency.QuorumOf)
		if _, err := w.group("n1").Promise(within(t, time.Second), 9); err != nil {
			t.Fatal(err)
		}
		_, err := w.Group("n1").Read(within(t, time.Second), get("k", strong))
		wantCode(t, "a read", err, fulcrum.CodeNotLeader)
		_, err = w.Group("n1").Write(within(t, time.Second), put("k", "x", consistency.One))
		wantCode(t, "a write", err, fulcrum.CodeNotLeader)
		w.group("n1").Lead(2, "n1")
		time.Sleep(time.Second)
		if w.Group("n1").Status().IsLeader {
			t.Error("an assignment of an older term was taken after a promise")
		}
		if _, err := w.group("n1").Promise(within(t, time.Second), 8); !errors.Is(err, fulcrum.ErrConflict) {
			t.Errorf("a promise of an older term: %v", err)
		}
	})
}

func TestPromotionPicksTheLongestLog(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		mustPut(t, w, "n1", "all", "v", consistency.All)
		w.Net.Isolate("n2")
		mustPut(t, w, "n1", "k", "only on n1 and n3", consistency.QuorumOf)
		w.Stop("n1")
		w.Net.Heal()
		time.Sleep(leaseFor)
		best, err := w.promote(within(t, time.Second))
		if err != nil || best != "n3" {
			t.Fatalf("promoted %q, %v; n3 has the longer log", best, err)
		}
		time.Sleep(time.Second)
		wantRead(t, w.Group("n3"), "k", strong, "only on n1 and n3")
		wantRead(t, w.Group("n2"), "k", consistency.L(consistency.Prefix), "only on n1 and n3")
	})
}

func TestUncommittedWritesAreNeverReadStrongly(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		mustPut(t, w, "n1", "k", "old", consistency.All)
		wantRead(t, w.Group("n1"), "k", strong, "old") // it is applied
		w.Net.OnCall(func(from, _ fulcrum.NodeID, _ []byte) replicationtest.Verdict {
			return replicationtest.Verdict{Drop: from == "n1"}
		})
		mustPut(t, w, "n1", "k", "dirty", consistency.One)
		wantRead(t, w.Group("n1"), "k", weak, "dirty")
		wantRead(t, w.Group("n1"), "k", consistency.L(consistency.Prefix), "old")
		_, err := w.Group("n1").Read(within(t, 500*time.Millisecond), get("k", strong))
		wantCode(t, "a linearizable read over a dirty write", err, fulcrum.CodeUnavailable)
		scan, err := w.Group("n1").Scan(within(t, time.Second), replication.ScanRequest{Level: weak})
		if err != nil || len(scan.Entries) != 1 || string(scan.Entries[0].Value) != "dirty" {
			t.Errorf("a scan at one: %+v, %v", scan.Entries, err)
		}
		w.Net.OnCall(nil)
		wantRead(t, w.Group("n1"), "k", strong, "dirty")
	})
}

// A condition that fails over an uncommitted value must not be told before that
// value is safe.
func TestAFailedConditionWaitsForWhatItSaw(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		w.Net.Isolate("n1")
		mustPut(t, w, "n1", "k", "dirty", consistency.One)
		req := put("k", "x", consistency.QuorumOf)
		req.Writes[0].If = fulcrum.IfAbsent
		_, err := w.Group("n1").Write(within(t, 500*time.Millisecond), req)
		wantCode(t, "a condition over a dirty value", err, fulcrum.CodeUnknown, fulcrum.CodeUnavailable)
		w.Net.Heal()
		time.Sleep(time.Second)
		r, err := w.Group("n1").Write(within(t, time.Second), req)
		if err != nil || r.Results[0].Applied {
			t.Errorf("after healing: %+v, %v", r.Results, err)
		}
	})
}

func TestHandOverBringsAFollowerLevel(t *testing.T) {
	inWorld(t, 3, Options{}, true, func(t *testing.T, w *world) {
		w.Net.Latency(20 * time.Millisecond)
		mustPut(t, w, "n1", "k", "v", consistency.One)
		if err := w.Group("n1").HandOver(within(t, 2*time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := w.Group("n1").Write(within(t, time.Second), put("k", "x", consistency.One))
		wantCode(t, "a write during the hand-over", err, fulcrum.CodeNotLeader)
		for _, p := range w.Group("n1").Status().Peers {
			if p.Behind == 0 {
				return
			}
		}
		t.Error("no follower is level")
	})
}
