// Package catalog is the cluster's knowledge of itself: nodes, keyspaces, shards
// and their epochs, as a deterministic state machine. It talks to nobody: a Raft
// group (replication/raft, wired up by node) feeds the same commands in the same
// order to the Machine of every node, so every node keeps a copy and serves keys
// from it while the catalog has no leader.
//
// Start reading at State, which readers share without a lock, then at Command.
package catalog

import (
	"slices"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/partition"
)

// State is the catalog at one log index. It never changes once published: Apply
// makes a new one. Readers must not modify what they get from it.
type State struct {
	Index      uint64 // of the catalog's log: the last command that changed it
	Sub        int    // and which of that entry's commands it was
	Nodes      map[fulcrum.NodeID]Node
	Keyspaces  map[string]*Keyspace
	NextGroup  fulcrum.GroupID
	NextID     uint32
	NextActor  uint32
	Voters     int `json:",omitempty"` // the most that the catalog's group has had, without those that leave: so many it should have
	tables     map[string]*partition.Table
	byID       map[uint32]*Keyspace
	groupIndex map[fulcrum.GroupID]ShardRef
}

// ShardRef is a shard with the keyspace that it belongs to.
type ShardRef struct {
	Keyspace *Keyspace
	Shard    *Shard
}

// Node is a member of the cluster.
type Node struct {
	Name        fulcrum.NodeID
	Zone        string
	RedisAddr   string
	HTTPAddr    string
	PeerAddr    string
	GossipAddr  string
	Incarnation string // of its data directory: another one means that the disk was lost
	Actor       uint32 // unique to the incarnation
	Liveness    uint64 // liveness epoch: raised to fence off a node whose lease ran out
	Removing    bool
	Voter       bool // of the catalog's group
}

// Keyspace is a named set of keys with one mode.
type Keyspace struct {
	Name       string
	ID         uint32
	Mode       consistency.Mode // of all shards, or where it comes from while Target differs
	Target     consistency.Mode
	Scheme     partition.Scheme
	Replicas   int
	ReadLevel  consistency.Level
	WriteLevel consistency.Level
	Durability string
	Conflict   string
	Engine     string
	Shards     []*Shard // in token order
	Switch     *fulcrum.SwitchInfo
}

// Phase is where a shard stands in a change of its configuration.
type Phase string

// The phases: active(e) -> fencing(e) -> reconciling(e) -> active(e+1).
const (
	Active      Phase = "active"
	Fencing     Phase = "fencing"
	Reconciling Phase = "reconciling"
)

// Shard is a contiguous range of tokens and who replicates it.
//
// Invariant: a shard's Epoch rises by one with each change of Mode or Replicas,
// and (Mode, Replicas, Based) never change within an epoch. Learners do: they have no
// vote in it (learners.go).
type Shard struct {
	Group    fulcrum.GroupID
	Start    []byte // first token; the next shard's Start ends it
	Mode     consistency.Mode
	Epoch    fulcrum.Epoch
	Phase    Phase
	Replicas []fulcrum.NodeID
	Based    []fulcrum.NodeID // replicas that hold this epoch's common starting point
	Wiped    []fulcrum.NodeID // lost their disk, or data on it, within this epoch: they must not take part in it
	Next     *Next            // while Phase is not Active
	Attempt  int              // at reconciling, within this epoch: only the last one counts
	Learners []fulcrum.NodeID `json:",omitempty"` // follow this epoch's log without a vote, to be replicas of the next one

	// Rebuilds of replicas whose data was damaged, the last one of each node. The map
	// never changes: a change is a new one.
	Rebuilds map[fulcrum.NodeID]Rebuild `json:",omitempty"`

	// Leader-follower only: who leads, with which term, in which liveness epoch.
	Leader      fulcrum.NodeID
	Term        uint64
	LeaderEpoch uint64
}

// Next is what a shard changes to.
type Next struct {
	Mode     consistency.Mode
	Replicas []fulcrum.NodeID
	Since    time.Time
	Learned  bool `json:",omitempty"` // those that are new are to settle, too: see Shard.After
}

// Hosts reports whether node replicates s in its current epoch.
func (s *Shard) Hosts(node fulcrum.NodeID) bool { return slices.Contains(s.Replicas, node) }

// Learns reports whether node follows s without a vote.
func (s *Shard) Learns(node fulcrum.NodeID) bool { return slices.Contains(s.Learners, node) }

// Holds reports whether node replicates s now, learns to, or will at the end of the change
// that is under way: such a node cannot be forgotten.
func (s *Shard) Holds(node fulcrum.NodeID) bool {
	return s.Hosts(node) || s.Learns(node) || s.Next != nil && slices.Contains(s.Next.Replicas, node)
}

// New returns the empty catalog.
func New() *State {
	s := &State{Nodes: map[fulcrum.NodeID]Node{}, Keyspaces: map[string]*Keyspace{}, NextGroup: fulcrum.CatalogGroup + 1, NextActor: 1}
	s.index()
	return s
}

// index builds the derived maps. It is called once, before a State is published.
func (s *State) index() {
	s.tables = make(map[string]*partition.Table, len(s.Keyspaces))
	s.byID = make(map[uint32]*Keyspace, len(s.Keyspaces))
	s.groupIndex = map[fulcrum.GroupID]ShardRef{}
	for name, ks := range s.Keyspaces {
		starts := make([][]byte, len(ks.Shards))
		for i, sh := range ks.Shards {
			starts[i] = sh.Start
			s.groupIndex[sh.Group] = ShardRef{ks, sh}
		}
		table, err := partition.NewTable(s.Index, starts)
		if err != nil {
			panic("catalog: keyspace " + name + " has shards that do not cover its tokens: " + err.Error())
		}
		s.tables[name] = table
		s.byID[ks.ID] = ks
	}
}

// ByID returns the keyspace with a Redis database number.
func (s *State) ByID(id uint32) (*Keyspace, bool) {
	ks, ok := s.byID[id]
	return ks, ok
}

// Group returns the shard that a group replicates.
func (s *State) Group(g fulcrum.GroupID) (ShardRef, bool) {
	ref, ok := s.groupIndex[g]
	return ref, ok
}

// Groups calls f for every shard, in no order.
func (s *State) Groups(f func(ShardRef)) {
	for _, ref := range s.groupIndex {
		f(ref)
	}
}

// ShardOf returns the shard of ks that key belongs to.
func (s *State) ShardOf(ks *Keyspace, key []byte) *Shard {
	return ks.Shards[s.tables[ks.Name].Find(ks.Scheme.Token(key))]
}

// ShardsOver returns the shards of ks that may hold keys in [start, end).
func (s *State) ShardsOver(ks *Keyspace, start, end []byte) []*Shard {
	if ks.Scheme == partition.Hash {
		return ks.Shards
	}
	first, last := s.tables[ks.Name].Overlap(start, end)
	return ks.Shards[first : last+1]
}

// Names returns the keyspaces' names by id.
func (s *State) Names() []string {
	names := make([]string, 0, len(s.Keyspaces))
	for name := range s.Keyspaces {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return int(s.Keyspaces[a].ID) - int(s.Keyspaces[b].ID) })
	return names
}

// NodeNames returns the nodes' names, sorted.
func (s *State) NodeNames() []fulcrum.NodeID {
	names := make([]fulcrum.NodeID, 0, len(s.Nodes))
	for name := range s.Nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// clone returns a deep enough copy that Apply may change.
func (s *State) clone() *State {
	c := &State{Index: s.Index, Sub: s.Sub, NextGroup: s.NextGroup, NextID: s.NextID, NextActor: s.NextActor, Voters: s.Voters,
		Nodes: make(map[fulcrum.NodeID]Node, len(s.Nodes)), Keyspaces: make(map[string]*Keyspace, len(s.Keyspaces))}
	for id, n := range s.Nodes {
		c.Nodes[id] = n
	}
	for name, ks := range s.Keyspaces {
		k := *ks
		k.Shards = make([]*Shard, len(ks.Shards))
		for i, sh := range ks.Shards {
			t := *sh
			k.Shards[i] = &t
		}
		if ks.Switch != nil {
			sw := *ks.Switch
			k.Switch = &sw
		}
		c.Keyspaces[name] = &k
	}
	return c
}

func (s *State) shard(g fulcrum.GroupID) (*Keyspace, *Shard) {
	for _, ks := range s.Keyspaces {
		for _, sh := range ks.Shards {
			if sh.Group == g {
				return ks, sh
			}
		}
	}
	return nil, nil
}
