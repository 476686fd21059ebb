package node

import (
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
	q, err := openLate(&Node{store: store, machine: catalog.NewMachine(), saving: newTurn()})
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
