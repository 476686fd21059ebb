package node

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/catalog"
)

// shortOf is a shard with replicas on n1 and n2, of a keyspace that wants three, among
// four nodes.
func shortOf() (*catalog.State, catalog.ShardRef) {
	st := catalog.New()
	for _, id := range []fulcrum.NodeID{"n1", "n2", "n3", "n4"} {
		st.Nodes[id] = catalog.Node{Name: id}
	}
	sh := &catalog.Shard{Group: 7, Epoch: 4, Phase: catalog.Active, Replicas: []fulcrum.NodeID{"n1", "n2"}}
	return st, catalog.ShardRef{Keyspace: &catalog.Keyspace{Replicas: 3}, Shard: sh}
}

func TestAShortShardIsFilledUp(t *testing.T) {
	heard := map[fulcrum.NodeID]bool{}
	is := func(id fulcrum.NodeID) bool { return heard[id] }
	l := newLearning(func(id fulcrum.NodeID) bool { return !heard[id] }, is)
	load := map[fulcrum.NodeID]int{"n3": 1}
	wants := func(st *catalog.State, ref catalog.ShardRef) []fulcrum.NodeID {
		next, ok := l.wanted(st, ref, func() map[fulcrum.NodeID]int { return load })
		if ok != !slices.Equal(next.Replicas, ref.Shard.Replicas) || next.Epoch != 4 {
			t.Errorf("a change to %v is wanted: %v", next, ok)
		}
		return next.Replicas
	}
	want := func(when string, got []fulcrum.NodeID, want ...fulcrum.NodeID) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	st, ref := shortOf()
	want("nobody was heard", wants(st, ref), "n1", "n2")
	heard["n1"], heard["n2"], heard["n3"] = true, true, true
	want("n4 is down", wants(st, ref), "n1", "n2", "n3")
	heard["n4"] = true
	want("n4 holds less", wants(st, ref), "n1", "n2", "n4")
	load["n3"], load["n4"] = 3, 3
	two := append(wants(st, ref)[2:], wants(st, ref)[2:]...)
	slices.Sort(two)
	want("n3 and n4 hold as much, and then one holds more", two, "n3", "n4")
	load["n3"], load["n4"] = 9, 0
	st.Nodes["n4"] = catalog.Node{Name: "n4", Removing: true}
	want("n4 is being removed", wants(st, ref), "n1", "n2", "n3")
	st.Nodes["n4"] = catalog.Node{Name: "n4"}
	ref.Shard.Learners = []fulcrum.NodeID{"n3"}
	want("n3 learns", wants(st, ref), "n1", "n2", "n3")
	heard["n3"] = false
	want("n3 learns, and is down for a moment", wants(st, ref), "n1", "n2", "n3")
	ref.Shard.Learners, heard["n3"] = nil, true
	ref.Keyspace.Replicas = 2
	want("it has all", wants(st, ref), "n1", "n2")
}

// A learner that stays away is given up for another node, and kept where there is none.
func TestAShortShardGivesALearnerUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := map[fulcrum.NodeID]bool{"n1": true, "n2": true, "n4": true}
		l := newLearning(func(id fulcrum.NodeID) bool { return !heard[id] }, func(id fulcrum.NodeID) bool { return heard[id] })
		st, ref := shortOf()
		ref.Shard.Learners = []fulcrum.NodeID{"n3"}
		wants := func() fulcrum.NodeID {
			l.look(st.NodeNames())
			next, _ := l.wanted(st, ref, func() map[fulcrum.NodeID]int { return map[fulcrum.NodeID]int{} })
			return next.Replicas[2]
		}
		if got := wants(); got != "n3" {
			t.Errorf("at once: %s", got)
		}
		time.Sleep(restartPatience)
		if got := wants(); got != "n4" {
			t.Errorf("after a minute: %s", got)
		}
		heard["n4"] = false
		if got := wants(); got != "n3" {
			t.Errorf("with nobody else: %s", got)
		}
	})
}

// Just elected, the catalog's leader takes nobody for down, and knows of nobody that it is
// there.
func TestHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l liveness
		l.lead(1)
		if l.heard("n1") || l.expired("n1") {
			t.Error("nothing is known of n1 yet")
		}
		l.renewal("n1", 1)
		if !l.heard("n1") {
			t.Error("n1 was heard")
		}
		l.resign("n1")
		if l.heard("n1") {
			t.Error("n1 drains")
		}
		l.renewal("n1", 1)
		if time.Sleep(takeoverTime + 1); l.heard("n1") {
			t.Error("n1 is down")
		}
		l.renewal("n1", 1)
		if l.lead(2); l.heard("n1") {
			t.Error("n1 was heard by another leader")
		}
	})
}
