package lab

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// lease is for how long a cut-off leader of the fake goes on, and election how long
// the other side takes to have one.
const (
	lease    = 3 * time.Second
	election = 4 * time.Second
)

// fake is a store of five nodes in memory that keeps what each mode promises, as
// plainly as can be. forget, when set, drops that acknowledged key while healing.
type fake struct {
	mu      sync.Mutex
	nodes   []fulcrum.NodeID
	allowed bool
	spaces  map[string]*fakeSpace
	fault   *fulcrum.Fault
	cutAt   time.Time
	healed  []string
	dropped []string
	stamp   int
	forget  func(keyspace, key string) bool
	cutErr  error
}

type fakeSpace struct {
	spec     fulcrum.KeyspaceSpec
	replicas []fulcrum.NodeID
	leader   fulcrum.NodeID
	data     map[fulcrum.NodeID]map[string]stamped
}

type stamped struct {
	value string
	at    int
}

func newFake(nodes ...fulcrum.NodeID) *fake {
	return &fake{nodes: nodes, allowed: true, spaces: map[string]*fakeSpace{}}
}

func (f *fake) info(context.Context) (fulcrum.ClusterInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := fulcrum.ClusterInfo{Node: f.nodes[0], FaultsAllowed: f.allowed}
	for _, n := range f.nodes {
		out.Nodes = append(out.Nodes, fulcrum.NodeInfo{Name: n, Live: true})
	}
	if f.fault != nil {
		out.Faults = []fulcrum.Fault{*f.fault}
	}
	return out, nil
}

func (f *fake) create(_ context.Context, spec fulcrum.KeyspaceSpec) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &fakeSpace{spec: spec, replicas: f.nodes[:spec.Replicas], data: map[fulcrum.NodeID]map[string]stamped{}}
	s.leader = s.replicas[0]
	if spec.Mode == "quorum" {
		s.leader = ""
	}
	for _, n := range s.replicas {
		s.data[n] = map[string]stamped{}
	}
	f.spaces[spec.Name] = s
	return nil
}

func (f *fake) describe(_ context.Context, name string) (fulcrum.KeyspaceInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.spaces[name]
	sh := fulcrum.ShardInfo{Leader: s.leader}
	for _, n := range s.replicas {
		sh.Replicas = append(sh.Replicas, fulcrum.ReplicaInfo{Node: n})
	}
	return fulcrum.KeyspaceInfo{Name: name, Mode: s.spec.Mode, ShardList: []fulcrum.ShardInfo{sh}}, nil
}

func (f *fake) drop(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.spaces[name] == nil {
		return fulcrum.ErrNotFound
	}
	delete(f.spaces, name)
	f.dropped = append(f.dropped, name)
	return nil
}

func (f *fake) cut(_ context.Context, fault fulcrum.Fault) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.cutAt = &fault, time.Now()
	return f.cutErr
}

// heal ends the cut: all replicas take the newest of a quorum keyspace, and the
// majority's state of the others.
func (f *fake) heal(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault == nil || f.fault.ID != id {
		return fulcrum.ErrNotFound
	}
	f.healed = append(f.healed, id)
	for name, s := range f.spaces {
		truth := map[string]stamped{}
		for _, n := range s.replicas {
			if s.spec.Mode != "quorum" && len(s.replicas) > 1 && slices.Contains(f.fault.Sides[0], n) {
				continue
			}
			for k, v := range s.data[n] {
				if v.at > truth[k].at && (f.forget == nil || !f.forget(name, k)) {
					truth[k] = v
				}
			}
		}
		for _, n := range s.replicas {
			s.data[n] = maps.Clone(truth)
		}
	}
	f.fault = nil
	return nil
}

// reach lists the replicas that at can talk to. The caller holds mu.
func (f *fake) reach(at fulcrum.NodeID, s *fakeSpace) []fulcrum.NodeID {
	if f.fault == nil {
		return s.replicas
	}
	var out []fulcrum.NodeID
	for _, side := range f.fault.Sides {
		for _, n := range s.replicas {
			if slices.Contains(side, at) && slices.Contains(side, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

var errTooFew = fulcrum.Errorf(fulcrum.CodeUnavailable, "too few replicas")

// serves says which replicas take part in an operation, or why none. The caller
// holds mu.
func (f *fake) serves(at fulcrum.NodeID, s *fakeSpace, l consistency.Level, write bool) ([]fulcrum.NodeID, error) {
	in := f.reach(at, s)
	majority := 2*len(in) > len(s.replicas)
	weak := l.Kind == consistency.One || l.Kind == consistency.Prefix
	since := time.Since(f.cutAt)
	switch {
	case len(in) == 0:
		return nil, errTooFew
	case weak && (!write || s.spec.Mode == "quorum"):
		return in, nil
	case s.spec.Mode == "leader-follower" && f.fault != nil && slices.Contains(in, s.leader) && !majority:
		if weak && since < lease {
			return in, nil
		}
		return nil, errTooFew
	case !majority:
		return nil, errTooFew
	case f.fault != nil && s.leader != "" && !slices.Contains(in, s.leader) && since < election:
		return nil, errTooFew
	}
	return in, nil
}

func (f *fake) put(ctx context.Context, at fulcrum.NodeID, keyspace, key, value string, l consistency.Level) error {
	time.Sleep(time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.spaces[keyspace]
	in, err := f.serves(at, s, l, true)
	if err != nil {
		return err
	}
	f.stamp++
	for _, n := range in {
		s.data[n][key] = stamped{value, f.stamp}
	}
	return ctx.Err()
}

func (f *fake) get(_ context.Context, at fulcrum.NodeID, keyspace, key string, l consistency.Level) (string, error) {
	time.Sleep(time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	if at == "" {
		at = f.nodes[len(f.nodes)-1]
	}
	s := f.spaces[keyspace]
	in, err := f.serves(at, s, l, false)
	if err != nil {
		return "", err
	}
	var newest stamped
	for _, n := range in {
		if v := s.data[n][key]; v.at > newest.at {
			newest = v
		}
	}
	return newest.value, nil
}

func (f *fake) scan(_ context.Context, at fulcrum.NodeID, keyspace string, _ consistency.Level) (map[string]string, error) {
	time.Sleep(time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.spaces[keyspace]
	from := s.data[at]
	if from == nil {
		from = s.data[s.replicas[0]]
	}
	out := map[string]string{}
	for k, v := range from {
		out[k] = v.value
	}
	return out, nil
}
