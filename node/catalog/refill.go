package catalog

import (
	"cmp"
	"slices"
	"strings"

	"fulcrum"
	"fulcrum/partition"
)

// A shard loses a replica for good when its node is removed and there is no other to take
// over. It gets one again when there is.

// Short reports whether a shard has fewer replicas than its keyspace wants and nothing else
// to do first: a switch of mode, a lost disk and a node that leaves come before.
func (s *State) Short(ref ShardRef) bool {
	sh := ref.Shard
	leaves := func(id fulcrum.NodeID) bool { return s.Nodes[id].Removing }
	return len(sh.Replicas) < ref.Keyspace.Replicas && sh.Phase == Active && sh.Mode == ref.Keyspace.Target &&
		len(sh.Wiped) == 0 && !slices.ContainsFunc(sh.Replicas, leaves)
}

// Placed is how many replicas the shard of a keyspace has that has the fewest.
func (ks *Keyspace) Placed() int {
	least := ks.Replicas
	for _, sh := range ks.Shards {
		least = min(least, len(sh.Replicas))
	}
	return least
}

// Load is how many replicas each node has, or is about to get.
func (s *State) Load() map[fulcrum.NodeID]int {
	load := make(map[fulcrum.NodeID]int, len(s.Nodes))
	s.Groups(func(ref ShardRef) {
		for id := range s.Nodes {
			if ref.Shard.Holds(id) {
				load[id]++
			}
		}
	})
	return load
}

// Best is the candidate that a further replica of a shard should go to, beside those on
// stay: in a zone with the fewest of them, the shard's own before others; then on the node
// that holds least; then by the shard's hash. There must be a candidate.
func (s *State) Best(ref ShardRef, stay []fulcrum.NodeID, candidates []partition.Candidate, load map[fulcrum.NodeID]int) fulcrum.NodeID {
	in := map[string]int{}
	for _, id := range stay {
		in[s.Nodes[id].Zone]++
	}
	order := partition.Place(ref.Shard.Group, len(candidates), candidates)
	away := func(c partition.Candidate) int {
		if own, _, _ := strings.Cut(string(ref.Shard.Start), "/"); ref.Keyspace.Scheme == partition.Zone && c.Zone != own {
			return 1
		}
		return 0
	}
	return slices.MinFunc(candidates, func(a, b partition.Candidate) int {
		return cmp.Or(cmp.Compare(in[a.Zone], in[b.Zone]), cmp.Compare(away(a), away(b)), cmp.Compare(load[a.Node], load[b.Node]),
			cmp.Compare(slices.Index(order, a.Node), slices.Index(order, b.Node)))
	}).Node
}
