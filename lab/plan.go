package lab

import (
	"fulcrum"
	"fulcrum/consistency"
)

// plan is one keyspace of the experiment and the levels to try in it.
type plan struct {
	label string
	mode  string

	strongWrite, weakWrite consistency.Level
	strongRead, weakRead   consistency.Level
	single                 bool // one replica instead of one on every node
}

// kind is one operation at one level: what a row is about.
type kind struct {
	operation string
	level     consistency.Level
}

// kinds lists what is tried in p, in the order of rows.
func (p plan) kinds() []kind {
	out := []kind{{Put, p.strongWrite}}
	if p.weakWrite != p.strongWrite {
		out = append(out, kind{Put, p.weakWrite})
	}
	return append(out, kind{Overwrite, p.weakWrite}, kind{Get, p.strongRead}, kind{Get, p.weakRead})
}

// plans are the corners of the triangle. The levels are the strongest and the weakest
// that each mode offers on its own terms: Raft has one kind of write, so that both
// are the same there.
func plans() []plan {
	l := consistency.L
	quorum, one := l(consistency.QuorumOf), l(consistency.One)
	return []plan{
		{label: "cp", mode: "raft", strongWrite: quorum, weakWrite: quorum, strongRead: l(consistency.Linearizable), weakRead: one},
		{label: "ap", mode: "quorum", strongWrite: quorum, weakWrite: one, strongRead: quorum, weakRead: one},
		{label: "lf", mode: "leader-follower", strongWrite: quorum, weakWrite: one, strongRead: l(consistency.Linearizable), weakRead: l(consistency.Prefix)},
		{label: "ca", mode: "raft", strongWrite: quorum, weakWrite: quorum, strongRead: l(consistency.Linearizable), weakRead: one, single: true},
	}
}

// mostReplicas bounds the replicas of a keyspace; in a larger cluster some nodes have none.
const mostReplicas = 5

// spec is the keyspace to make. It has one shard, so that it has one leader, who is on
// one side of the cut.
func (p plan) spec(name string, nodes int) fulcrum.KeyspaceSpec {
	s := fulcrum.KeyspaceSpec{Name: name, Mode: p.mode, ShardBy: "hash", Shards: 1, Replicas: min(nodes, mostReplicas)}
	if p.single {
		s.Replicas = 1
	}
	return s
}
