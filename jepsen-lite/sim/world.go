package sim

import (
	"context"
	"errors"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/node"
)

// World is a Cluster that a nemesis can act on. As with the Cluster, its methods must
// be called from within the bubble, and Kill by one goroutine at a time.
type World struct {
	*Cluster

	mu   sync.Mutex
	own  map[string]int64              // hits of what World itself does, and of nodes that are no more
	last map[fulcrum.NodeID]*node.Node // the newest life of each node: its hits are not in own yet
	seed uint64                        // of the next thing that needs one
}

// NewWorld makes c a nemesis.Cluster. Nothing else may start or stop nodes of it.
func NewWorld(c *Cluster) *World {
	return &World{Cluster: c, own: map[string]int64{}, last: map[fulcrum.NodeID]*node.Node{}, seed: c.opt.Seed}
}

// Nodes lists all nodes, running or not.
func (w *World) Nodes() []fulcrum.NodeID { return w.Names() }

// Can allows everything that a nemesis knows.
func (w *World) Can(what string) error {
	switch what {
	case "kill", "pause", "damage", "packets", "switch", "faults":
		return nil
	}
	return fulcrum.Errorf(fulcrum.CodeInvalid, "a simulated cluster cannot do %q", what)
}

// Inject sets a fault on every node that runs and on those that start later.
func (w *World) Inject(_ context.Context, f fulcrum.Fault) error { return w.Cluster.Inject(f) }

// Heal ends faults: all of them when no id is given.
func (w *World) Heal(_ context.Context, ids ...string) error { return w.Cluster.Heal(ids...) }

// run refuses nodes that do not run.
func (w *World) run(nodes []fulcrum.NodeID) error {
	up := w.nodes()
	for _, name := range nodes {
		if up[name] == nil {
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "node %s does not run", name)
		}
	}
	return nil
}

// Kill is Cluster.Kill.
func (w *World) Kill(_ context.Context, nodes ...fulcrum.NodeID) error {
	if err := w.run(nodes); err != nil {
		return err
	}
	w.look()
	if err := w.Cluster.Kill(nodes...); err != nil {
		return err
	}
	w.count("kill", len(nodes))
	return nil
}

// Stop is Cluster.Stop. Paused nodes go on to be stopped, as SIGTERM would wait for.
func (w *World) Stop(_ context.Context, nodes ...fulcrum.NodeID) error {
	if err := w.run(nodes); err != nil {
		return err
	}
	w.look()
	for _, name := range nodes {
		w.Network.Thaw(string(name))
	}
	return w.Cluster.Stop(nodes...)
}

// Start runs nodes that do not run. Its error says who refused its disk.
func (w *World) Start(_ context.Context, nodes ...fulcrum.NodeID) error {
	w.look()
	defer w.look()
	return w.Cluster.Start(nodes...)
}

// Pause freezes nodes: see Network.Freeze.
func (w *World) Pause(_ context.Context, nodes ...fulcrum.NodeID) error {
	if err := w.run(nodes); err != nil {
		return err
	}
	for _, name := range nodes {
		w.Network.Freeze(string(name))
	}
	w.count("pause", len(nodes))
	return nil
}

// Resume ends Pause. Nodes that are not paused stay as they are.
func (w *World) Resume(_ context.Context, nodes ...fulcrum.NodeID) error {
	for _, name := range nodes {
		w.Network.Thaw(string(name))
	}
	return nil
}

// Damage hurts the disk of a node that does not run.
func (w *World) Damage(_ context.Context, name fulcrum.NodeID, what nemesis.Damage, seed uint64) error {
	var err error
	switch what {
	case nemesis.TornTail:
		err = w.Tear(name, seed)
	case nemesis.BitFlip:
		err = w.FlipBit(name, seed)
	case nemesis.Wipe:
		err = w.Wipe(name)
	default:
		err = fulcrum.Errorf(fulcrum.CodeInvalid, "damage %q is not known", what)
	}
	if err == nil {
		w.count("damage", 1)
	}
	return err
}

// moving returns the nodes that run and are not paused.
func (w *World) moving() map[fulcrum.NodeID]*node.Node {
	up := w.nodes()
	for name := range up {
		if w.Network.isFrozen(string(name)) {
			delete(up, name)
		}
	}
	return up
}

// Leader asks every node who leads the first shard of a keyspace, or the catalog, and
// returns whom most of them name.
func (w *World) Leader(_ context.Context, keyspace string) fulcrum.NodeID {
	var mu sync.Mutex
	var wg sync.WaitGroup
	votes := map[fulcrum.NodeID]int{}
	for _, n := range w.moving() {
		wg.Go(func() { // each may take as long as a status that nobody answers
			l := leaderAt(n, keyspace)
			mu.Lock()
			defer mu.Unlock()
			votes[l]++
		})
	}
	wg.Wait()
	var leader fulcrum.NodeID
	for _, name := range w.Names() { // in order, so that a draw is always decided alike
		if votes[name] > votes[leader] || leader == "" && votes[name] > 0 {
			leader = name
		}
	}
	return leader
}

func leaderAt(n *node.Node, keyspace string) fulcrum.NodeID {
	if keyspace == "" {
		return n.Cluster().CatalogLeader
	}
	for _, s := range n.Shards() {
		if s.Keyspace == keyspace {
			return s.Leader
		}
	}
	return ""
}

// Mode returns what the node says whose copy of the catalog is the newest.
func (w *World) Mode(_ context.Context, keyspace string) (now, target string, err error) {
	err = fulcrum.Errorf(fulcrum.CodeUnavailable, "no node knows keyspace %s", keyspace)
	var newest uint64
	for _, n := range w.moving() {
		index := n.CatalogIndex()
		for _, ks := range n.Keyspaces() {
			if ks.Name == keyspace && index >= newest {
				newest, now, target, err = index, ks.Mode, ks.Target, nil
			}
		}
	}
	return now, target, err
}

// askTime bounds what one node is asked.
const askTime = 2 * time.Second

// Switch asks one node after another to begin a switch, until one does.
func (w *World) Switch(ctx context.Context, keyspace, mode string) error {
	var errs []error
	up := w.moving()
	for _, name := range w.Names() {
		n := up[name]
		if n == nil {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, askTime) // who is cut off must not use up the others' time
		_, err := n.AlterKeyspace(ask, keyspace, fulcrum.KeyspacePatch{Mode: &mode})
		cancel()
		if _, target, modeErr := w.Mode(ctx, keyspace); err == nil || modeErr == nil && target == mode {
			w.count("switch", 1)
			return nil
		}
		errs = append(errs, err)
		if errors.Is(err, fulcrum.ErrConflict) || errors.Is(err, fulcrum.ErrInvalid) || errors.Is(err, fulcrum.ErrNotFound) || ctx.Err() != nil {
			break // another node says the same
		}
	}
	return errors.Join(errs...)
}

// Duplicate makes packets of gossip arrive twice.
func (w *World) Duplicate(_ context.Context, probability float64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seed++
	w.Network.Duplicate(probability, w.seed)
	return nil
}

func (w *World) count(kind string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.own[kind] += int64(n)
}

// look notes which life of each node is the newest, and keeps what the one before it
// counted.
func (w *World) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, n := range w.nodes() {
		old := w.last[name]
		if old == n {
			continue
		}
		if old != nil {
			for kind, hits := range old.FaultHits() {
				w.own[kind] += int64(hits)
			}
		}
		w.last[name] = n
	}
}

// Hits counts how often faults acted, of all lives of all nodes.
func (w *World) Hits(context.Context) map[string]int64 {
	w.look()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]int64{"duplicate": w.Network.Duplicated()}
	for _, kind := range []string{"kill", "pause", "damage", "switch"} {
		out[kind] = 0
	}
	for kind, hits := range w.own {
		out[kind] += hits
	}
	for _, n := range w.last {
		for kind, hits := range n.FaultHits() {
			out[kind] += int64(hits)
		}
	}
	return out
}

var _ nemesis.Cluster = (*World)(nil)
