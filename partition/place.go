package partition

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"fulcrum"
)

// Candidate is a node that may hold replicas. A node of twice the Weight gets
// about twice as many; 0 counts as 1, and a negative weight takes nothing (a node
// that is being emptied).
type Candidate struct {
	Node   fulcrum.NodeID
	Zone   string
	Weight float64
}

// Place chooses n nodes for a group (or all candidates, when they are fewer), the
// preferred one first: weighted rendezvous hashing (Thaler and Ravishankar 1998,
// with the logarithmic weights of Schindelhauer and Schomaker 2005), spread over as
// many zones as there are. It depends on nothing but its arguments, and not on the
// order of cs.
//
// Every node has a score for the group that no other node influences, and a rank
// by score within its zone. Place takes the n first by (rank, score): the best of
// each zone, then the second best of each, and so on.
//
// Few moves: when a node X joins, the result stays as it is, or X takes the place
// of exactly one node. Proof sketch: outside X's zone no (rank, score) changes.
// Inside, the node at each rank has the same score as before or a better one, and
// there is one more rank. So the zone keeps its share or gains one place, and
// gains it only if X is among its chosen. Leaving is the same, read backwards.
func Place(group fulcrum.GroupID, n int, cs []Candidate) []fulcrum.NodeID {
	type scored struct {
		Candidate
		score float64
		rank  int
	}
	all := make([]scored, 0, len(cs))
	for _, c := range cs {
		if c.Weight >= 0 && !math.IsInf(c.Weight, 1) {
			all = append(all, scored{Candidate: c, score: score(group, c)})
		}
	}
	// Best first. The name breaks ties, so that the order is total.
	slices.SortFunc(all, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Zone, b.Zone))
	})
	seen := make(map[fulcrum.NodeID]bool, len(all))
	all = slices.DeleteFunc(all, func(s scored) bool {
		twice := seen[s.Node]
		seen[s.Node] = true
		return twice
	})
	ranks := make(map[string]int)
	for i := range all {
		all[i].rank = ranks[all[i].Zone]
		ranks[all[i].Zone]++
	}
	slices.SortStableFunc(all, func(a, b scored) int { return cmp.Compare(a.rank, b.rank) })
	chosen := make([]fulcrum.NodeID, 0, max(0, min(n, len(all))))
	for _, s := range all[:cap(chosen)] {
		chosen = append(chosen, s.Node)
	}
	return chosen
}

// score is weight / -ln(u), with u uniform in (0, 1) by the hash of both names: the
// chance to have the highest score is proportional to the weight.
func score(group fulcrum.GroupID, c Candidate) float64 {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(c.Node)), uint64(group))
	b = append(b, c.Node...)
	u := (float64(xxhash.Sum64(b)>>11) + 0.5) / (1 << 53)
	w := c.Weight
	if w == 0 {
		w = 1
	}
	return w / -math.Log(u)
}
