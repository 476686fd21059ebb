package node

import (
	"context"
	"slices"

	"fulcrum"
	"fulcrum/node/catalog"
	"fulcrum/partition"
)

// A shard that has fewer replicas than its keyspace wants (catalog.State.Short) gets one
// more as soon as a live node without one is there, one at a time: a move to nowhere in
// reverse, by the same change of epoch. In mode raft the new one learns first if the shard
// would be worse off with one that has a vote and no data; from two replicas to three it
// would not, since either two of the three are then enough (decision 016).

// refilled returns the replicas of a shard that is short with one more, if there is a node
// for it. One that learns already may be down for a while; another must have been heard.
func (l *learning) refilled(st *catalog.State, ref catalog.ShardRef, load func() map[fulcrum.NodeID]int) []fulcrum.NodeID {
	sh := ref.Shard
	there := slices.DeleteFunc(without(st.Candidates(""), sh), func(c partition.Candidate) bool {
		return !l.heard(c.Node) && !sh.Learns(c.Node)
	})
	if len(there) == 0 {
		return sh.Replicas
	}
	return append(slices.Clone(sh.Replicas), l.best(st, ref, load)(there))
}

// best returns how to choose the node that a replica of a shard goes to. What it chooses
// counts in load, for the shards that are planned next.
func (l *learning) best(st *catalog.State, ref catalog.ShardRef, load func() map[fulcrum.NodeID]int) func([]partition.Candidate) fulcrum.NodeID {
	stay := slices.DeleteFunc(slices.Clone(ref.Shard.Replicas), func(id fulcrum.NodeID) bool { return st.Nodes[id].Removing })
	return func(cs []partition.Candidate) fulcrum.NodeID {
		id := st.Best(ref, stay, l.prefer(ref.Shard)(cs), load())
		if !ref.Shard.Learns(id) {
			load()[id]++
		}
		return id
	}
}

// whole returns an error while a replica of sh is being filled: a shard gets no further one
// without data beside it. Those that are down are not waited for.
func (c *controller) whole(ctx context.Context, sh *catalog.Shard) error {
	all := c.n.everyStatus(ctx)
	for _, id := range sh.Replicas {
		rs, ok := all[id][sh.Group]
		if filled := ok && rs.Epoch == sh.Epoch && !rs.Status.CatchingUp; !filled && !c.expired(id) {
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "its replica on %s is being filled; it gets another one then", id)
		}
	}
	return nil
}
