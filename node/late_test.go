package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"fulcrum"
	"fulcrum/node/catalog"
	"fulcrum/node/storage"
)

func openTestQueue(t *testing.T) *lateQueue {
	t.Helper()
	store, err := storage.Open(storage.Options{Dir: t.TempDir(), ClusterID: "c", Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	q, err := openLate(&Node{log: slog.New(slog.DiscardHandler), store: store, machine: catalog.NewMachine(), saving: newTurn()})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestLateQueueKeepsTheNewestOfAKey(t *testing.T) {
	entry := func(time uint64, value string) fulcrum.Entry {
		return fulcrum.Entry{Key: []byte("k"), Value: []byte(value), Version: fulcrum.Version{Time: time, Actor: 1}}
	}
	tests := []struct {
		name string
		puts [][]fulcrum.Entry
	}{
		{"a hint, then an older leftover", [][]fulcrum.Entry{{entry(20, "new")}, {entry(10, "old")}}},
		{"a leftover, then a newer hint", [][]fulcrum.Entry{{entry(10, "old")}, {entry(20, "new")}}},
		{"both at once, the newer first", [][]fulcrum.Entry{{entry(20, "new"), entry(10, "old")}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := openTestQueue(t)
			for _, entries := range tt.puts {
				if err := q.Put(t.Context(), 7, entries); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			if err := q.state.Scan(nil, nil, func(e fulcrum.Entry) bool {
				got = append(got, string(e.Value))
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if len(got) != 1 || got[0] != "new" {
				t.Errorf("the queue holds %q, want only the newest write", got)
			}
		})
	}
}

func TestLateWritesWaitForACatalogThatIsBehind(t *testing.T) {
	q := openTestQueue(t)
	e := fulcrum.Entry{Key: []byte("k"), Value: []byte("v"), Version: fulcrum.Version{Time: 1, Actor: 1}}
	unheard := q.n.machine.State().NextGroup
	if err := q.Put(t.Context(), unheard, []fulcrum.Entry{e}); err != nil {
		t.Fatal(err)
	}
	q.deliver(t.Context())
	if q.state.Keys() == 0 {
		t.Error("a write for a shard that this copy of the catalog has not heard of yet was thrown away")
	}
	dropped := openTestQueue(t)
	if err := dropped.Put(t.Context(), unheard-1, []fulcrum.Entry{e}); err != nil {
		t.Fatal(err)
	}
	dropped.deliver(t.Context())
	if n := dropped.state.Keys(); n != 0 {
		t.Errorf("%d writes are kept for a shard that was dropped", n)
	}
}

// What one shard is owed waits by itself: what others were owed, and got, goes.
func TestLateWritesOfOneShardHoldUpNoOthers(t *testing.T) {
	q := openTestQueue(t)
	unheard := q.n.machine.State().NextGroup
	for i := range 2*lateBatch + 1 {
		e := fulcrum.Entry{Key: fmt.Append(nil, i), Value: []byte("v"), Version: fulcrum.Version{Time: 1, Actor: 1}}
		for _, g := range []fulcrum.GroupID{unheard - 1, unheard} { // one that was dropped, and one to wait for
			if err := q.Put(t.Context(), g, []fulcrum.Entry{e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	q.deliver(t.Context())
	left := map[fulcrum.GroupID]int{}
	if err := q.state.Scan(nil, nil, func(e fulcrum.Entry) bool {
		left[fulcrum.GroupID(binary.BigEndian.Uint64(e.Key))]++
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if left[unheard-1] != 0 || left[unheard] != 2*lateBatch+1 {
		t.Errorf("%d writes are left for a shard that takes them, %d of %d for one that is waited for", left[unheard-1], left[unheard], 2*lateBatch+1)
	}
}

// A write that came while an older one of its key was under way stays when that has arrived.
func TestANewerLateWriteStays(t *testing.T) {
	q := openTestQueue(t)
	entry := func(time uint64) []fulcrum.Entry {
		return []fulcrum.Entry{{Key: []byte("k"), Value: []byte("v"), Version: fulcrum.Version{Time: time, Actor: 1}}}
	}
	if err := q.Put(t.Context(), 7, entry(1)); err != nil {
		t.Fatal(err)
	}
	sent, err := q.some(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(q.Put(t.Context(), 7, entry(2)), q.take(sent)); err != nil {
		t.Fatal(err)
	}
	if left, err := q.some(nil, nil); err != nil || len(left) != 1 || left[0].Version.Time != 2 {
		t.Errorf("the queue holds %v, %v; want the newer write", left, err)
	}
}

// Hints have a bound; what was acknowledged in a closed epoch has none.
func TestHintsHaveABound(t *testing.T) {
	q := openTestQueue(t)
	q.most = 2
	entry := func(key string) []fulcrum.Entry {
		return []fulcrum.Entry{{Key: []byte(key), Value: []byte("v"), Version: fulcrum.Version{Time: 1, Actor: 1}}}
	}
	if err := errors.Join(q.Hint(t.Context(), 7, entry("a")), q.Hint(t.Context(), 7, entry("b"))); err != nil {
		t.Fatal(err)
	}
	if err := q.Hint(t.Context(), 7, entry("c")); !errors.Is(err, fulcrum.ErrOverloaded) || fulcrum.AsError(err).Maybe {
		t.Errorf("a hint beyond the bound: %v", err)
	}
	if err := q.Put(t.Context(), 7, entry("d")); err != nil {
		t.Errorf("a late write beyond the bound: %v", err)
	}
}

func TestAReplicaIsDroppedAfterTheCatalogIsOnDisk(t *testing.T) {
	n := openTestQueue(t).n
	state, err := n.store.State(7, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := state.Rebase(1, record{Epoch: 1}.extra(fulcrum.Version{})); err != nil {
		t.Fatal(err)
	}
	if err := newHost(n).drop(7); err != nil {
		t.Fatal(err)
	}
	if saved, err := n.store.Record("catalog"); err != nil || saved == nil {
		t.Errorf("the replica is gone, and the catalog that says so is not on disk: %q, %v", saved, err)
	}
}
