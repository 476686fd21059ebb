package partition

import (
	"maps"
	"slices"

	"fulcrum"
)

// Move gives From's place in a group to To. An empty From is a replica
// that is added, an empty To one that is removed.
type Move struct {
	Group    fulcrum.GroupID
	From, To fulcrum.NodeID
}

// Plan lists the moves that lead from one placement to another, by group, then in
// the order of new. Groups that only old has are dropped, and need no move;
// groups that only new has are built from nothing: moves from "".
func Plan(old, new map[fulcrum.GroupID][]fulcrum.NodeID) []Move {
	var moves []Move
	for _, g := range slices.Sorted(maps.Keys(new)) {
		gone := without(old[g], new[g])
		come := without(new[g], old[g])
		for i := range max(len(gone), len(come)) {
			m := Move{Group: g}
			if i < len(gone) {
				m.From = gone[i]
			}
			if i < len(come) {
				m.To = come[i]
			}
			moves = append(moves, m)
		}
	}
	return moves
}

func without(from, drop []fulcrum.NodeID) []fulcrum.NodeID {
	return slices.DeleteFunc(slices.Clone(from), func(n fulcrum.NodeID) bool { return slices.Contains(drop, n) })
}
