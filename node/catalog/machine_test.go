package catalog

import (
	"testing"
	"time"

	"fulcrum"
)

func encode(t *testing.T, c Command) []byte {
	t.Helper()
	b, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func registerN(t *testing.T, name string) []byte {
	return encode(t, Command{Register: &Node{Name: fulcrum.NodeID(name), PeerAddr: name + ":1", Incarnation: "i-" + name}})
}

// Commands that were proposed together come with the same index; each must count.
func TestCommandsOfOneEntryAllCount(t *testing.T) {
	m := NewMachine()
	var last any
	for _, name := range []string{"n1", "n2", "n3"} {
		last = m.Apply(7, registerN(t, name))
	}
	if got := len(m.State().Nodes); got != 3 {
		t.Fatalf("%d nodes after three commands of one entry, want 3", got)
	}
	if a, ok := last.(Applied); !ok || !m.State().Reached(a) || a.Sub != 3 {
		t.Errorf("the third command answered %+v", last)
	}
}

// A copy that is ahead of the log takes the replayed commands as done, down to the
// place inside an entry.
func TestReplayBehindACopyChangesNothing(t *testing.T) {
	m := NewMachine()
	m.Apply(7, registerN(t, "n1"))
	m.Apply(7, registerN(t, "n2"))
	copied := NewMachine()
	if err := copied.Restore(m.Snapshot()); err != nil {
		t.Fatal(err)
	}
	copied.Apply(7, registerN(t, "n1"))
	copied.Apply(7, registerN(t, "n2"))
	if got := copied.State().NextActor; got != 3 {
		t.Fatalf("next actor %d after a replay, want 3", got)
	}
	copied.Apply(7, registerN(t, "n3"))
	if got := len(copied.State().Nodes); got != 3 {
		t.Errorf("%d nodes, want 3: the third command of the entry was not in the copy", got)
	}
	if err := copied.Restore(NewMachine().Snapshot()); err != nil || len(copied.State().Nodes) != 3 {
		t.Errorf("an older snapshot replaced a newer copy: %v", err)
	}
}

// The same name with another data directory is a node that lost its disk: it gets a
// new actor, and its shards know.
func TestAnotherIncarnationIsANewActor(t *testing.T) {
	m := NewMachine()
	m.Apply(1, registerN(t, "n1"))
	settings, err := Check(fulcrum.KeyspaceSpec{Name: "k", Shards: 2}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res := m.Apply(2, encode(t, Command{At: time.Now(), CreateKeyspace: &CreateKeyspace{Spec: settings}})); res != (Applied{2, 1}) {
		t.Fatal(res)
	}
	before := m.State().Nodes["n1"].Actor
	m.Apply(3, encode(t, Command{Register: &Node{Name: "n1", PeerAddr: "n1:1", Incarnation: "another"}}))
	st := m.State()
	if st.Nodes["n1"].Actor == before {
		t.Error("the actor of a lost disk is used again")
	}
	for _, sh := range st.Keyspaces["k"].Shards {
		if len(sh.Wiped) != 1 || sh.Wiped[0] != "n1" {
			t.Errorf("shard %d does not know that n1 lost its disk: %v", sh.Group, sh.Wiped)
		}
	}
}
