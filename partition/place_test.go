package partition

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"fulcrum"

	"pgregory.net/rapid"
)

func anyCandidates() *rapid.Generator[[]Candidate] {
	return rapid.Custom(func(t *rapid.T) []Candidate {
		cs := make([]Candidate, rapid.IntRange(0, 12).Draw(t, "nodes"))
		for i := range cs {
			cs[i] = Candidate{Node: fulcrum.NodeID(fmt.Sprintf("n%d", i+1)), Zone: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "zone"),
				Weight: rapid.SampledFrom([]float64{0, 1, 2, 0.5}).Draw(t, "weight")}
		}
		return cs
	})
}

func TestPlaceSpreadsOverZones(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cs := anyCandidates().Draw(t, "candidates")
		n := rapid.IntRange(0, 7).Draw(t, "replicas")
		g := fulcrum.GroupID(rapid.Uint64().Draw(t, "group"))
		got := Place(g, n, cs)
		if len(got) != min(n, len(cs)) {
			t.Fatalf("%d replicas of %d wanted, on %d nodes", len(got), n, len(cs))
		}
		size, used := map[string]int{}, map[string]int{}
		for _, c := range cs {
			size[c.Zone]++
			if slices.Contains(got, c.Node) {
				used[c.Zone]++
			}
		}
		for z := range size {
			for y := range size {
				if used[z] > used[y]+1 && used[y] < size[y] {
					t.Fatalf("zone %s has %d, zone %s only %d of %d", z, used[z], y, used[y], size[y])
				}
			}
		}
		rand.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
		if again := Place(g, n, cs); !slices.Equal(got, again) {
			t.Fatalf("in another order: %v, then %v", got, again)
		}
	})
}

func TestJoinTakesOverAndMovesNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cs := anyCandidates().Draw(t, "candidates")
		n := rapid.IntRange(1, 7).Draw(t, "replicas")
		g := fulcrum.GroupID(rapid.Uint64().Draw(t, "group"))
		joiner := Candidate{Node: "new", Zone: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "zone"), Weight: 1}
		before, after := Place(g, n, cs), Place(g, n, append(slices.Clone(cs), joiner))
		moves := Plan(map[fulcrum.GroupID][]fulcrum.NodeID{g: before}, map[fulcrum.GroupID][]fulcrum.NodeID{g: after})
		if len(moves) > 1 || (len(moves) == 1 && moves[0].To != "new") {
			t.Fatalf("%v to %v: %v", before, after, moves)
		}
	})
}

// place puts groups on nodes named n1 .. and returns the placement.
func place(groups, n int, cs []Candidate) map[fulcrum.GroupID][]fulcrum.NodeID {
	out := make(map[fulcrum.GroupID][]fulcrum.NodeID)
	for g := range groups {
		out[fulcrum.GroupID(g+1)] = Place(fulcrum.GroupID(g+1), n, cs)
	}
	return out
}

func nodes(n int, zones ...string) []Candidate {
	var cs []Candidate
	for i := range n {
		c := Candidate{Node: fulcrum.NodeID(fmt.Sprintf("n%d", i+1)), Weight: 1}
		if len(zones) > 0 {
			c.Zone = zones[i%len(zones)]
		}
		cs = append(cs, c)
	}
	return cs
}

func TestJoinMovesItsShareOnly(t *testing.T) {
	const groups, n, before = 4000, 3, 9
	moves := Plan(place(groups, n, nodes(before)), place(groups, n, nodes(before+1)))
	want := float64(groups*n) / (before + 1)
	if got := float64(len(moves)); math.Abs(got-want) > want*0.1 {
		t.Errorf("%v of %d replicas move to the tenth node, its share is %v", got, groups*n, want)
	}
}

func TestPlacementIsBalanced(t *testing.T) {
	for name, cs := range map[string][]Candidate{"one zone": nodes(6), "three zones": nodes(6, "a", "b", "c")} {
		held, first := map[fulcrum.NodeID]int{}, map[fulcrum.NodeID]int{}
		for _, replicas := range place(6000, 3, cs) {
			first[replicas[0]]++
			for _, r := range replicas {
				held[r]++
			}
		}
		for _, c := range cs {
			if math.Abs(float64(held[c.Node]-3000)) > 200 || math.Abs(float64(first[c.Node]-1000)) > 150 {
				t.Errorf("%s: %s holds %d replicas, first in %d; want about 3000 and 1000", name, c.Node, held[c.Node], first[c.Node])
			}
		}
	}
}

func TestWeights(t *testing.T) {
	cs := nodes(4)
	cs[0].Weight, cs[3].Weight = 3, -1
	held := map[fulcrum.NodeID]int{}
	for _, replicas := range place(5000, 1, cs) {
		held[replicas[0]]++
	}
	if held["n4"] != 0 {
		t.Errorf("a node of negative weight holds %d", held["n4"])
	}
	if math.Abs(float64(held["n1"]-3000)) > 150 || math.Abs(float64(held["n2"]-1000)) > 120 {
		t.Errorf("weights 3, 1, 1 hold %v", held)
	}
}

func TestPlan(t *testing.T) {
	type placement = map[fulcrum.GroupID][]fulcrum.NodeID
	old := placement{1: {"a", "b"}, 2: {"a"}, 3: {"a", "b", "c"}, 9: {"a"}}
	next := placement{1: {"b", "a"}, 2: {"b", "a", "c"}, 3: {"d", "c"}, 4: {"a"}}
	want := []Move{{2, "", "b"}, {2, "", "c"}, {3, "a", "d"}, {3, "b", ""}, {4, "", "a"}}
	if got := Plan(old, next); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Plan(old, old); got != nil {
		t.Errorf("nothing changed, but %v", got)
	}
}

func BenchmarkPlace(b *testing.B) {
	cs := nodes(50, "a", "b", "c")
	for i := 0; b.Loop(); i++ {
		Place(fulcrum.GroupID(i), 3, cs)
	}
}
