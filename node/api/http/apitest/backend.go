// Package apitest has a Backend in memory, for tests of the edges and of the client.
package apitest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// Backend keeps keyspaces of one shard in memory. Its methods may be called from any goroutine.
type Backend struct {
	// Fail, if set, is asked before each operation on keys ("write", "read",
	// "scan"); its error is the answer. When it says Maybe, a write is applied all
	// the same.
	Fail func(op string) error

	name  fulcrum.NodeID
	clock *consistency.Clock
	now   func() time.Time

	mu     sync.Mutex
	spaces map[string]*space
	faults []fulcrum.Fault
	nodes  []fulcrum.NodeInfo
	sick   error
	calls  int
	seq    uint64
	moved  chan struct{} // closed at the next change or sign of life
	signs  int           // of life
}

type space struct {
	info    fulcrum.KeyspaceInfo
	entries map[string]fulcrum.Entry
	history [][]fulcrum.Event // what each request changed
	gone    int               // requests before these
	ids     map[fulcrum.RequestID]answered
}

// key seals the session tokens of every Backend. It is never changed.
var key = []byte("apitest")

var _ api.Backend = (*Backend)(nil)

// New makes a node named name, with the keyspaces cp (raft), ap (quorum) and lf
// (leader-follower).
func New(name fulcrum.NodeID, now func() time.Time) *Backend {
	b := &Backend{name: name, now: now, clock: consistency.NewClock(now, 1, 0), spaces: make(map[string]*space), moved: make(chan struct{})}
	for i, m := range consistency.Modes {
		b.add([]string{"cp", "ap", "lf"}[i], m)
	}
	b.nodes = []fulcrum.NodeInfo{{Name: name, Live: true, Self: true, State: "active"}}
	return b
}

func (b *Backend) add(name string, m consistency.Mode) *space {
	w, r := consistency.Defaults(m)
	s := &space{entries: make(map[string]fulcrum.Entry), ids: make(map[fulcrum.RequestID]answered), info: fulcrum.KeyspaceInfo{Name: name, ID: uint32(len(b.spaces) + 1), Mode: m.String(),
		Target: m.String(), ShardBy: "hash", Shards: 1, Replicas: 1, ReadLevel: r.String(), WriteLevel: w.String(), Durability: "fsync"}}
	s.info.ShardList = []fulcrum.ShardInfo{{Group: fulcrum.GroupID(s.info.ID), Keyspace: name, Start: `""`, Mode: m.String(), Epoch: 1,
		Phase: "active", Leader: b.name, Replicas: []fulcrum.ReplicaInfo{{Node: b.name, Known: true, Leader: true}}}}
	b.spaces[name] = s
	return s
}

// SetNodes replaces what Cluster says of the nodes.
func (b *Backend) SetNodes(nodes []fulcrum.NodeInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = slices.Clone(nodes)
}

// SetLeader makes leader the leader of every shard.
func (b *Backend) SetLeader(leader fulcrum.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.spaces {
		s.info.ShardList = slices.Clone(s.info.ShardList)
		s.info.ShardList[0].Leader = leader
		s.info.ShardList[0].Replicas = []fulcrum.ReplicaInfo{{Node: leader, Known: true, Leader: true}}
	}
}

// SetSick makes Live and Ready report err; nil: well again.
func (b *Backend) SetSick(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sick = err
}

// Calls is how many operations on keys were asked for.
func (b *Backend) Calls() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

func (b *Backend) begin(c api.Call, a consistency.Access, op string) (*space, consistency.Receipt, error) {
	b.calls++
	s, ok := b.spaces[c.Keyspace]
	if !ok {
		return nil, consistency.Receipt{}, fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace %q", c.Keyspace)
	}
	m, err := consistency.ParseMode(s.info.Mode)
	if err != nil {
		return nil, consistency.Receipt{}, err
	}
	p, err := consistency.Lookup(m, a, c.Level)
	if err != nil {
		return nil, consistency.Receipt{}, err
	}
	marks, err := consistency.OpenToken(key, c.Session)
	if err != nil {
		return nil, consistency.Receipt{}, err
	}
	if b.Fail != nil {
		if err := b.Fail(op); err != nil {
			return s, consistency.Receipt{}, err
		}
	}
	b.seq++
	marks.Advance(fulcrum.GroupID(s.info.ID), consistency.Mark{Epoch: 1, Term: 1, Index: b.seq})
	level := c.Level
	if level.Kind == consistency.Default {
		level = consistency.L(p.Kind)
	}
	return s, consistency.Receipt{Keyspace: c.Keyspace, Mode: m, Shard: fulcrum.GroupID(s.info.ID), Epoch: 1, Level: level,
		Given: consistency.Level{Kind: p.Given, Bound: level.Bound}, Node: b.name, Leader: b.name, Acks: 1, Needed: 1, Replicas: 1,
		Durable: "fsync", Staleness: 0, Session: marks.Seal(key)}, nil
}

// Write implements api.Backend.
func (b *Backend) Write(_ context.Context, c api.Call, ws []fulcrum.Write) ([]fulcrum.Result, consistency.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, rc, err := b.begin(c, consistency.Write, "write")
	if err != nil && !fulcrum.AsError(err).Maybe {
		return nil, rc, err
	}
	for _, w := range ws {
		if s.info.Mode == consistency.Quorum.String() && !w.Blind() {
			return nil, rc, fulcrum.Errorf(fulcrum.CodeMode, "quorum mode has no atomic read-modify-write").WithHint("use mode raft or leader-follower")
		}
	}
	reply, idErr := b.once(s, c, api.Txn{Then: ws, Atomic: c.Atomic})
	if err == nil {
		err = idErr
	}
	if err != nil {
		return nil, rc, err
	}
	for _, res := range reply.Results {
		rc.Version = res.Entry.Version
	}
	return reply.Results, rc, nil
}

// Read implements api.Backend.
func (b *Backend) Read(_ context.Context, c api.Call, keys [][]byte) ([]fulcrum.Entry, consistency.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, rc, err := b.begin(c, consistency.Read, "read")
	if err != nil {
		return nil, rc, err
	}
	out := make([]fulcrum.Entry, len(keys))
	for i, k := range keys {
		out[i] = s.entries[string(k)]
		rc.Version, rc.Found = out[i].Version, out[i].Live(b.Now())
	}
	return out, rc, nil
}

// Scan implements api.Backend.
func (b *Backend) Scan(_ context.Context, c api.Call, req api.Scan) (api.Page, consistency.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, rc, err := b.begin(c, consistency.Read, "scan")
	if err != nil {
		return api.Page{}, rc, err
	}
	var all []fulcrum.Entry
	for _, e := range s.entries {
		in := e.Live(b.Now()) && bytes.HasPrefix(e.Key, req.Prefix) && bytes.Compare(e.Key, req.Start) >= 0 &&
			(req.End == nil || bytes.Compare(e.Key, req.End) < 0) && (req.After == nil || bytes.Compare(e.Key, req.After) > 0)
		if in {
			if req.KeysOnly {
				e.Value = nil
			}
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(x, y fulcrum.Entry) int { return bytes.Compare(x.Key, y.Key) })
	page := api.Page{Entries: all}
	if limit := max(req.Limit, 0); limit > 0 && len(all) > limit {
		page.Entries, page.Next = all[:limit], all[limit-1].Key
	}
	return page, rc, nil
}

// Count implements api.Backend.
func (b *Backend) Count(_ context.Context, keyspace string) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.spaces[keyspace]; ok {
		return int64(len(s.entries)), nil
	}
	return 0, fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace %q", keyspace)
}

// Synced implements api.Backend.
func (b *Backend) Synced(context.Context, string, int) (int, error) { return 0, nil }

// Now implements api.Backend.
func (b *Backend) Now() int64 { return b.now().UnixMilli() }

// Keyspaces implements api.Backend.
func (b *Backend) Keyspaces() []fulcrum.KeyspaceInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []fulcrum.KeyspaceInfo
	for _, s := range b.spaces {
		info := s.info
		info.ShardList = nil
		out = append(out, info)
	}
	slices.SortFunc(out, func(x, y fulcrum.KeyspaceInfo) int { return int(x.ID) - int(y.ID) })
	return out
}

// Keyspace implements api.Backend.
func (b *Backend) Keyspace(name string) (fulcrum.KeyspaceInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.spaces[name]; ok {
		return s.info, nil
	}
	return fulcrum.KeyspaceInfo{}, fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace %q", name)
}

// KeyspaceByID implements api.Backend.
func (b *Backend) KeyspaceByID(id uint32) (fulcrum.KeyspaceInfo, error) {
	for _, info := range b.Keyspaces() {
		if info.ID == id {
			return info, nil
		}
	}
	return fulcrum.KeyspaceInfo{}, fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace %d", id)
}

// CreateKeyspace implements api.Backend.
func (b *Backend) CreateKeyspace(_ context.Context, spec fulcrum.KeyspaceSpec) (fulcrum.KeyspaceInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.spaces[spec.Name]; ok {
		return fulcrum.KeyspaceInfo{}, fulcrum.Errorf(fulcrum.CodeExists, "keyspace %q exists", spec.Name)
	}
	m := consistency.Raft
	if spec.Mode != "" {
		var err error
		if m, err = consistency.ParseMode(spec.Mode); err != nil {
			return fulcrum.KeyspaceInfo{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
		}
	}
	return b.add(spec.Name, m).info, nil
}

// AlterKeyspace implements api.Backend: a switch only sets the target.
func (b *Backend) AlterKeyspace(_ context.Context, name string, p fulcrum.KeyspacePatch) (fulcrum.KeyspaceInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.spaces[name]
	switch {
	case !ok:
		return fulcrum.KeyspaceInfo{}, fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace %q", name)
	case p.Mode != nil && s.info.Target != s.info.Mode:
		return fulcrum.KeyspaceInfo{}, fulcrum.Errorf(fulcrum.CodeConflict, "a switch of %q is running", name)
	case p.Mode != nil:
		s.info.Target = *p.Mode
	case p.ReadLevel != nil:
		s.info.ReadLevel = *p.ReadLevel
	}
	return s.info, nil
}

// DropKeyspace implements api.Backend.
func (b *Backend) DropKeyspace(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.spaces[name]; !ok {
		return fulcrum.Errorf(fulcrum.CodeNotFound, "no keyspace %q", name)
	}
	delete(b.spaces, name)
	return nil
}

// Cluster implements api.Backend.
func (b *Backend) Cluster() fulcrum.ClusterInfo {
	info := fulcrum.ClusterInfo{ClusterID: "test", Node: b.name, CatalogLeader: b.name, Keyspaces: b.Keyspaces(), Faults: b.Faults()}
	b.mu.Lock()
	defer b.mu.Unlock()
	info.Nodes = slices.Clone(b.nodes)
	return info
}

// Shards implements api.Backend.
func (b *Backend) Shards() []fulcrum.ShardInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []fulcrum.ShardInfo
	for _, s := range b.spaces {
		out = append(out, s.info.ShardList...)
	}
	slices.SortFunc(out, func(x, y fulcrum.ShardInfo) int { return int(x.Group) - int(y.Group) })
	return out
}

// RemoveNode implements api.Backend.
func (b *Backend) RemoveNode(_ context.Context, name fulcrum.NodeID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := len(b.nodes)
	b.nodes = slices.DeleteFunc(b.nodes, func(n fulcrum.NodeInfo) bool { return n.Name == name })
	if len(b.nodes) == before {
		return fulcrum.Errorf(fulcrum.CodeNotFound, "no node %q", name)
	}
	return nil
}

// Faults implements api.Backend.
func (b *Backend) Faults() []fulcrum.Fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.faults)
}

// AddFault implements api.Backend; it refuses kinds that do not exist.
func (b *Backend) AddFault(f fulcrum.Fault) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains([]string{"partition", "isolate", "link", "clock", "disk"}, f.Kind) {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "unknown kind of fault %q", f.Kind)
	}
	if f.ID == "" {
		f.ID = fmt.Sprintf("f%d", len(b.faults)+1)
	}
	b.faults = append(b.faults, f)
	return nil
}

// HealFaults implements api.Backend.
func (b *Backend) HealFaults(ids []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = slices.DeleteFunc(b.faults, func(f fulcrum.Fault) bool { return ids == nil || slices.Contains(ids, f.ID) })
	return nil
}

// Live implements api.Backend.
func (b *Backend) Live() []fulcrum.Health { return b.health("process") }

// Ready implements api.Backend.
func (b *Backend) Ready() []fulcrum.Health {
	return append(b.health("disk"), fulcrum.Health{Check: "catalog"})
}

func (b *Backend) health(check string) []fulcrum.Health {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := fulcrum.Health{Check: check}
	if b.sick != nil {
		h.Err = b.sick.Error()
	}
	return []fulcrum.Health{h}
}

// Limits implements api.Backend: values of up to 1 KiB.
func (b *Backend) Limits() api.Limits { return api.Limits{MaxValue: 1 << 10} }

// CheckSession implements api.Backend.
func (b *Backend) CheckSession(t consistency.Token) error {
	_, err := consistency.OpenToken(key, t)
	return err
}
