package catalog

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/partition"
)

// A shard is short when a replica is missing for good, and only while nothing comes first.
func TestShort(t *testing.T) {
	short := func(s *story) bool { return s.m.State().Short(ShardRef{s.ks(), s.shard(0)}) }
	lost := func() *story {
		s := newStory(t)
		r := s.shard(0).Replicas
		s.begin(0, r[0], r[1])
		s.reconcile(0)
		s.finish(0)
		return s
	}
	s := lost()
	if !short(s) || s.ks().Placed() != 2 || len(s.shard(1).Replicas) != 3 {
		t.Errorf("a shard with replicas %v of 3 is not short; %d of each are placed", s.shard(0).Replicas, s.ks().Placed())
	}
	if s := newStory(t); short(s) || s.ks().Placed() != 3 {
		t.Errorf("a shard with all replicas is short; %d of each are placed", s.ks().Placed())
	}
	for name, first := range map[string]func(){
		"a replica lost its disk": func() { s.wipe(s.shard(0).Replicas[0]) },
		"a node leaves":           func() { s.do(Command{RemoveNode: &RemoveNode{Node: s.shard(0).Replicas[0]}}) },
		"a switch of mode":        func() { s.to(consistency.Quorum) },
		"a change":                func() { s.begin(0, s.shard(0).Replicas...) },
	} {
		if s = lost(); !short(s) {
			t.Fatal("it is not short to begin with")
		}
		if first(); short(s) {
			t.Errorf("%s does not come first", name)
		}
	}
}

func at(zones ...string) (*State, []partition.Candidate) {
	s := New()
	for i, z := range zones {
		id := fulcrum.NodeID(fmt.Sprintf("n%d", i+1))
		s.Nodes[id] = Node{Name: id, Zone: z}
	}
	return s, s.Candidates("")
}

func TestBest(t *testing.T) {
	type load = map[fulcrum.NodeID]int
	for _, tt := range []struct {
		name  string
		zones []string
		shard string // its start, of a keyspace by zones; empty: by hash
		stay  []fulcrum.NodeID
		load  load
		want  fulcrum.NodeID
	}{
		{"the node that holds least", []string{"", "", "", "", ""}, "", []fulcrum.NodeID{"n1", "n2"}, load{"n3": 5, "n4": 3, "n5": 4}, "n4"},
		{"a zone without a replica, though its node holds more", []string{"a", "b", "a", "b", "c"}, "", []fulcrum.NodeID{"n1", "n2"}, load{"n5": 99}, "n5"},
		{"the zone with fewer replicas", []string{"a", "b", "b", "a", "b"}, "", []fulcrum.NodeID{"n1", "n2", "n3"}, load{"n4": 9}, "n4"},
		{"by zones: the shard's own, where none is left", []string{"a", "b", "c", "d"}, "c/", []fulcrum.NodeID{"n1", "n2"}, load{"n3": 9}, "n3"},
		{"by zones: another, where one is left", []string{"a", "b", "a", "d"}, "a/", []fulcrum.NodeID{"n1", "n2"}, load{"n4": 9}, "n4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, all := at(tt.zones...)
			ref := ShardRef{&Keyspace{}, &Shard{Group: 7, Start: []byte(tt.shard)}}
			if tt.shard != "" {
				ref.Keyspace.Scheme = partition.Zone
			}
			cs := slices.DeleteFunc(all, func(c partition.Candidate) bool { return slices.Contains(tt.stay, c.Node) })
			if got := s.Best(ref, tt.stay, cs, tt.load); got != tt.want {
				t.Errorf("chose %s, want %s", got, tt.want)
			}
		})
	}
}

// Shards that are filled up one after the other spread their new replicas evenly.
func TestBestSpreads(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, cs := at("", "", "", "", "")
		fresh := rapid.IntRange(1, 3).Draw(rt, "fresh nodes")
		load, shards := map[fulcrum.NodeID]int{}, rapid.IntRange(1, 60).Draw(rt, "shards")
		for g := range shards {
			load[s.Best(ShardRef{&Keyspace{}, &Shard{Group: fulcrum.GroupID(g)}}, []fulcrum.NodeID{"n1", "n2"}, slices.Clone(cs[2:2+fresh]), load)]++
		}
		for id, n := range load {
			if n < shards/fresh || n > (shards+fresh-1)/fresh {
				rt.Fatalf("%s holds %d of %d on %d nodes", id, n, shards, fresh)
			}
		}
	})
}

func TestLoadCountsWhatIsToCome(t *testing.T) {
	s, r, fresh := movingStory(t)
	learns := s.m.State().Load()
	s.do(s.learn())
	if none := s.m.State().Load(); none[fresh] != learns[fresh]-1 {
		t.Errorf("%s counts %d, and %d when it learns", fresh, none[fresh], learns[fresh])
	}
	s.begin(0, r[0], r[1], fresh)
	if moves := s.m.State().Load(); moves[fresh] != learns[fresh] || moves[r[2]] != learns[r[2]] {
		t.Errorf("during the change: %v, before: %v", moves, learns)
	}
}
