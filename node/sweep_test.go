package node

import (
	"slices"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
	"fulcrum/node/storage"
)

// What a crash left of a replica is removed at the next start: the log of an epoch that is
// over, and everything of a keyspace that was dropped. What counts stays.
func TestWhatACrashLeftIsSwept(t *testing.T) {
	n := openTestQueue(t).n
	drop := "dropped"
	for i, c := range []catalog.Command{
		{Register: &catalog.Node{Name: "n1", PeerAddr: "n1:1", Incarnation: "i"}},
		{CreateKeyspace: &catalog.CreateKeyspace{Spec: settings(t, "kept")}},
		{CreateKeyspace: &catalog.CreateKeyspace{Spec: settings(t, drop)}},
		{DropKeyspace: &drop},
	} {
		cmd, err := catalog.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if err, failed := n.machine.Apply(uint64(i+1), cmd).(error); failed {
			t.Fatal(err)
		}
	}
	const kept, dropped, unheard fulcrum.GroupID = 1, 2, 3
	for _, g := range []fulcrum.GroupID{kept, dropped, unheard} {
		state, err := n.store.State(g, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := state.Rebase(1, record{Epoch: 2}.extra(fulcrum.Version{})); err != nil {
			t.Fatal(err)
		}
		for _, e := range []fulcrum.Epoch{1, 2} {
			log, err := n.store.Log(g, e, storage.Fsync)
			if err != nil {
				t.Fatal(err)
			}
			if err := log.Reset(1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := newHost(n).sweep(); err != nil {
		t.Fatal(err)
	}
	groups, err := n.store.Groups()
	if err != nil {
		t.Fatal(err)
	}
	want := map[fulcrum.GroupID][]fulcrum.Epoch{kept: {2}, unheard: {1, 2}}
	for _, on := range groups {
		if !slices.Equal(on.Epochs, want[on.Group]) || on.State != (want[on.Group] != nil) {
			t.Errorf("of group %d there are logs of epochs %v, and a state: %v; want %v", on.Group, on.Epochs, on.State, want[on.Group])
		}
		delete(want, on.Group)
	}
	if len(want) > 0 {
		t.Errorf("nothing is left of %v", want)
	}
}

func settings(t *testing.T, name string) catalog.Settings {
	t.Helper()
	s, err := catalog.Check(fulcrum.KeyspaceSpec{Name: name, Mode: consistency.Raft.String(), Shards: 1, Replicas: 1}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
