package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// Command is one change of the catalog: exactly one of its fields is set. At is
// the proposer's clock, so that every copy notes the same times.
type Command struct {
	At             time.Time
	Register       *Node           `json:",omitempty"`
	CreateKeyspace *CreateKeyspace `json:",omitempty"`
	AlterKeyspace  *AlterKeyspace  `json:",omitempty"`
	DropKeyspace   *string         `json:",omitempty"`
	StartChange    *StartChange    `json:",omitempty"`
	Reconcile      *ShardAt        `json:",omitempty"`
	FinishChange   *FinishChange   `json:",omitempty"`
	SetLeader      *SetLeader      `json:",omitempty"`
	Bump           *Bump           `json:",omitempty"`
	RemoveNode     *RemoveNode     `json:",omitempty"`
	Late           *Late           `json:",omitempty"`
	Damaged        *Damaged        `json:",omitempty"`
	SetLearners    *SetLearners    `json:",omitempty"`
	SetVoter       *SetVoter       `json:",omitempty"`
}

// CreateKeyspace makes a keyspace and places its shards on the nodes that there are.
type CreateKeyspace struct {
	Spec Settings
}

// Settings is a checked fulcrum.KeyspaceSpec.
type Settings struct {
	Name       string
	Mode       consistency.Mode
	Scheme     string
	Starts     [][]byte
	Replicas   int
	ReadLevel  consistency.Level
	WriteLevel consistency.Level
	Durability string
	Conflict   string
	Engine     string
}

// AlterKeyspace changes settings (nil: stays), starts a switch or aborts it.
type AlterKeyspace struct {
	Name       string
	Mode       *consistency.Mode
	Abort      bool
	ReadLevel  *consistency.Level
	WriteLevel *consistency.Level
	Durability *string
	Conflict   *string
}

// ShardAt names a shard at an epoch: the command counts only while it is there.
type ShardAt struct {
	Group fulcrum.GroupID
	Epoch fulcrum.Epoch
}

// StartChange begins a change of a shard that is active at the epoch.
type StartChange struct {
	ShardAt
	Mode     consistency.Mode
	Replicas []fulcrum.NodeID
	Learned  bool `json:",omitempty"` // the new ones among Replicas have learned: see Next
}

// FinishChange makes a shard active at Epoch+1. Settled replicas hold the common
// starting point. A leader-follower shard begins with a leader, one of them: all
// logs are equal there, so none needs to be asked for a promise.
type FinishChange struct {
	ShardAt
	Attempt     int // the one that settled them; an overtaken one counts for nothing
	Settled     []fulcrum.NodeID
	Leader      fulcrum.NodeID `json:",omitempty"`
	LeaderEpoch uint64         `json:",omitempty"`
}

// FirstTerm is the term of a leader that an epoch begins with; term 1 belongs to the
// starting point itself.
const FirstTerm = 2

// SetLeader gives a leader-follower shard a leader; Term must rise.
type SetLeader struct {
	ShardAt
	Leader      fulcrum.NodeID
	Term        uint64
	LeaderEpoch uint64
}

// Bump raises the liveness epoch of a node whose lease ran out.
type Bump struct {
	Node fulcrum.NodeID
	From uint64
}

// SetVoter notes that a node has a vote in the catalog's group. It counts only while the
// node has the data directory that the vote was given to: another one is no voter yet.
type SetVoter struct {
	Node        fulcrum.NodeID
	Incarnation string
}

// RemoveNode marks a node as leaving, or (Forget) drops it once it holds nothing.
type RemoveNode struct {
	Node   fulcrum.NodeID
	Forget bool
}

// Late notes how many writes of a closed epoch came in behind a switch.
type Late struct {
	Group fulcrum.GroupID
	Count int
}

// Encode makes the log entry of c.
func Encode(c Command) ([]byte, error) { return json.Marshal(c) }

// Machine is the catalog as a replicated state machine. Apply and Restore are
// called by one goroutine at a time; State and Changed by any.
type Machine struct {
	state   atomic.Pointer[State]
	at      Applied // the last command that Apply was called with; only Apply uses it
	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed at the next change
}

// NewMachine starts from the empty catalog.
func NewMachine() *Machine {
	m := &Machine{changed: make(chan struct{})}
	m.state.Store(New())
	return m
}

// State returns the newest state.
func (m *Machine) State() *State { return m.state.Load() }

// Changed returns a channel that is closed when the state changes after the call.
func (m *Machine) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *Machine) publish(s *State) {
	s.index()
	m.state.Store(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// Applied is the result of a command that took effect: a copy of the catalog that
// has Reached it shows it.
// Commands that were proposed at the same time share a log entry; Sub counts them
// from 1.
type Applied struct {
	Index uint64
	Sub   int
}

// Reached reports whether s shows the effect of a command.
func (s *State) Reached(a Applied) bool {
	return s.Index > a.Index || s.Index == a.Index && s.Sub >= a.Sub
}

// Apply changes the state. Its result is an error or an Applied. A command that does
// not fit the state changes nothing.
func (m *Machine) Apply(index uint64, cmd []byte) any {
	if m.at.Index != index {
		m.at = Applied{Index: index}
	}
	m.at.Sub++
	old := m.State()
	if old.Reached(m.at) {
		return m.at // restored from a copy that is ahead of the log
	}
	var c Command
	if err := json.Unmarshal(cmd, &c); err != nil {
		return fulcrum.Errorf(fulcrum.CodeInternal, "catalog entry %d: %w", index, err)
	}
	s := old.clone()
	if err := s.apply(c); err != nil {
		return err
	}
	s.Index, s.Sub = m.at.Index, m.at.Sub
	m.publish(s)
	return m.at
}

// Snapshot returns the whole catalog.
func (m *Machine) Snapshot() []byte {
	b, err := json.Marshal(m.State())
	if err != nil {
		panic(fmt.Sprintf("catalog: %v", err)) // only plain data in it
	}
	return b
}

// Restore replaces the catalog by what Snapshot returned.
func (m *Machine) Restore(data []byte) error {
	s := New()
	if err := json.Unmarshal(data, s); err != nil {
		return fmt.Errorf("catalog snapshot: %w", err)
	}
	if s.Index < m.State().Index {
		return nil // the copy that this node kept is newer
	}
	m.publish(s)
	return nil
}

func (s *State) apply(c Command) error {
	switch {
	case c.Register != nil:
		return s.register(*c.Register)
	case c.CreateKeyspace != nil:
		return s.createKeyspace(c.CreateKeyspace.Spec)
	case c.AlterKeyspace != nil:
		return s.alterKeyspace(*c.AlterKeyspace, c.At)
	case c.DropKeyspace != nil:
		return s.dropKeyspace(*c.DropKeyspace)
	case c.StartChange != nil:
		return s.startChange(*c.StartChange, c.At)
	case c.Reconcile != nil:
		return s.reconcile(*c.Reconcile)
	case c.FinishChange != nil:
		return s.finishChange(*c.FinishChange, c.At)
	case c.SetLeader != nil:
		return s.setLeader(*c.SetLeader)
	case c.Bump != nil:
		return s.bump(*c.Bump)
	case c.RemoveNode != nil:
		return s.removeNode(*c.RemoveNode)
	case c.Late != nil:
		return s.late(*c.Late)
	case c.Damaged != nil:
		return s.damaged(*c.Damaged, c.At)
	case c.SetLearners != nil:
		return s.setLearners(*c.SetLearners)
	case c.SetVoter != nil:
		return s.setVoter(*c.SetVoter)
	}
	return fulcrum.Errorf(fulcrum.CodeInvalid, "empty catalog command")
}

// register adds a node or updates its addresses. A known name with another
// incarnation is the same node after it lost its disk: it gets a new actor and
// must not take part in the current epoch of its shards, whose votes and
// acknowledgements it has forgotten.
func (s *State) register(n Node) error {
	old, known := s.Nodes[n.Name]
	switch {
	case !known:
		n.Actor, n.Liveness = s.NextActor, 1
		s.NextActor++
	case old.Incarnation == n.Incarnation:
		n.Actor, n.Liveness, n.Removing, n.Voter = old.Actor, old.Liveness, old.Removing, old.Voter || n.Voter
	default:
		n.Actor, n.Liveness, n.Removing, n.Voter = s.NextActor, old.Liveness+1, old.Removing, old.Voter
		s.NextActor++
		for _, ks := range s.Keyspaces {
			for _, sh := range ks.Shards {
				if sh.Hosts(n.Name) && !slices.Contains(sh.Wiped, n.Name) {
					sh.Wiped = append(slices.Clone(sh.Wiped), n.Name)
				}
				sh.forgetLearner(n.Name)
			}
		}
	}
	for _, other := range s.Nodes {
		if other.Name != n.Name && other.PeerAddr == n.PeerAddr {
			return fulcrum.Errorf(fulcrum.CodeExists, "peer address %s belongs to node %s already", n.PeerAddr, other.Name)
		}
	}
	s.Nodes[n.Name] = n
	s.countVoters()
	return nil
}

func (s *State) setVoter(v SetVoter) error {
	n, ok := s.Nodes[v.Node]
	if !ok || n.Incarnation != v.Incarnation {
		return fulcrum.Errorf(fulcrum.CodeConflict, "node %s is not in the cluster with that data directory", v.Node)
	}
	n.Voter = true
	s.Nodes[v.Node] = n
	s.countVoters()
	return nil
}

func (s *State) countVoters() {
	s.Voters = max(s.Voters, len(s.voters(func(n Node) bool { return !n.Removing })))
}

// voters are those of the catalog's group that are like that.
func (s *State) voters(like func(Node) bool) []fulcrum.NodeID {
	return slices.DeleteFunc(s.NodeNames(), func(id fulcrum.NodeID) bool { return !s.Nodes[id].Voter || !like(s.Nodes[id]) })
}

// LacksVoter reports whether the catalog's group has fewer voters than it should have: one was
// removed with no node to take its place. One that leaves counts for as long as it is there.
func (s *State) LacksVoter() bool {
	return len(s.voters(func(Node) bool { return true })) < s.Voters
}

// LacksVoterWithout reports whether it will when a node has left, unless another voter comes.
func (s *State) LacksVoterWithout(id fulcrum.NodeID) bool {
	return len(s.voters(func(n Node) bool { return n.Name != id })) < s.Voters
}

func (s *State) bump(b Bump) error {
	n, ok := s.Nodes[b.Node]
	if !ok || n.Liveness != b.From {
		return fulcrum.Errorf(fulcrum.CodeConflict, "liveness epoch of %s is no longer %d", b.Node, b.From)
	}
	n.Liveness++
	s.Nodes[b.Node] = n
	return nil
}

func (s *State) removeNode(r RemoveNode) error {
	n, ok := s.Nodes[r.Node]
	if !ok {
		return fulcrum.Errorf(fulcrum.CodeNotFound, "no node %q", r.Node).WithHint("nodes are %v", s.NodeNames())
	}
	holds := 0
	s.index()
	s.Groups(func(ref ShardRef) {
		if ref.Shard.Holds(r.Node) {
			holds++
		}
	})
	if r.Forget {
		if holds > 0 {
			return fulcrum.Errorf(fulcrum.CodeConflict, "node %s still holds %d replicas", r.Node, holds)
		}
		delete(s.Nodes, r.Node)
		return nil
	}
	if stays := func(id fulcrum.NodeID) bool { return id != r.Node && !s.Nodes[id].Removing }; !slices.ContainsFunc(s.NodeNames(), stays) {
		return fulcrum.Errorf(fulcrum.CodeConflict, "node %s is the last one that stays: its replicas could go nowhere", r.Node).
			WithHint("add a node first, or stop the cluster")
	}
	n.Removing = true
	s.Nodes[r.Node] = n
	return nil
}

func (s *State) late(l Late) error {
	ks, _ := s.shard(l.Group)
	if ks == nil {
		return fulcrum.Errorf(fulcrum.CodeNotFound, "no shard %d", l.Group)
	}
	if ks.Switch != nil {
		ks.Switch.LateKeys += l.Count
	}
	return nil
}
