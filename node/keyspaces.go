package node

import (
	"context"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/node/catalog"
	"fulcrum/node/fault"
	"fulcrum/partition"
)

// Keyspaces lists all keyspaces by id.
func (n *Node) Keyspaces() []fulcrum.KeyspaceInfo {
	st := n.machine.State()
	out := make([]fulcrum.KeyspaceInfo, 0, len(st.Keyspaces))
	for _, name := range st.Names() {
		out = append(out, keyspaceInfo(st.Keyspaces[name]))
	}
	return out
}

// Keyspace describes one keyspace with its shards.
func (n *Node) Keyspace(name string) (fulcrum.KeyspaceInfo, error) {
	st := n.machine.State()
	ks, ok := st.Keyspaces[name]
	if !ok {
		return fulcrum.KeyspaceInfo{}, catalog.NoKeyspace(name, st)
	}
	info := keyspaceInfo(ks)
	info.ShardList = shardInfos(ks, n.everyStatus(context.Background()))
	if sw := info.Switch; sw != nil && (sw.State == "running" || sw.State == "aborting") {
		c := *sw
		for _, sh := range ks.Shards {
			if sh.Phase != catalog.Active {
				c.Message = "shard " + partition.FormatToken(sh.Start) + " is " + string(sh.Phase)
			}
		}
		info.Switch = &c
	}
	return info, nil
}

// KeyspaceByID finds a keyspace by its Redis database number.
func (n *Node) KeyspaceByID(id uint32) (fulcrum.KeyspaceInfo, error) {
	st := n.machine.State()
	ks, ok := st.ByID(id)
	if !ok {
		return fulcrum.KeyspaceInfo{}, catalog.NoNumber(id, st)
	}
	return keyspaceInfo(ks), nil
}

// CreateKeyspace makes a keyspace and returns once this node knows it, and every other
// that is in reach: see agree.
func (n *Node) CreateKeyspace(ctx context.Context, spec fulcrum.KeyspaceSpec) (fulcrum.KeyspaceInfo, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	st := n.machine.State()
	candidates := st.Candidates("")
	var zones []string
	seen := map[string]bool{}
	for _, c := range candidates {
		if c.Zone != "" && !seen[c.Zone] {
			seen[c.Zone] = true
			zones = append(zones, c.Zone)
		}
	}
	settings, err := catalog.Check(spec, len(candidates), zones)
	if err != nil {
		return fulcrum.KeyspaceInfo{}, err
	}
	made, err := n.change(ctx, catalog.Command{CreateKeyspace: &catalog.CreateKeyspace{Spec: settings}})
	if err != nil {
		return fulcrum.KeyspaceInfo{}, err
	}
	return n.await(ctx, spec.Name, made)
}

// AlterKeyspace changes settings, begins a switch, or aborts one.
func (n *Node) AlterKeyspace(ctx context.Context, name string, patch fulcrum.KeyspacePatch) (fulcrum.KeyspaceInfo, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	st := n.machine.State()
	ks, ok := st.Keyspaces[name]
	if !ok {
		return fulcrum.KeyspaceInfo{}, catalog.NoKeyspace(name, st)
	}
	alter, err := catalog.CheckPatch(ks, patch)
	if err != nil {
		return fulcrum.KeyspaceInfo{}, err
	}
	made, err := n.change(ctx, catalog.Command{AlterKeyspace: &alter})
	if err != nil {
		return fulcrum.KeyspaceInfo{}, err
	}
	return n.await(ctx, name, made)
}

// DropKeyspace removes a keyspace and its data.
func (n *Node) DropKeyspace(ctx context.Context, name string) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	made, err := n.change(ctx, catalog.Command{DropKeyspace: &name})
	if err != nil {
		return err
	}
	return n.agree(ctx, made)
}

// await is agree, and returns the keyspace as it then is.
func (n *Node) await(ctx context.Context, name string, made catalog.Applied) (fulcrum.KeyspaceInfo, error) {
	if err := n.agree(ctx, made); err != nil {
		return fulcrum.KeyspaceInfo{}, err
	}
	st := n.machine.State()
	ks, ok := st.Keyspaces[name]
	if !ok {
		return fulcrum.KeyspaceInfo{}, catalog.NoKeyspace(name, st)
	}
	return keyspaceInfo(ks), nil
}

// agreeTime is how long a change of keyspaces waits for the other nodes' copies of the
// catalog. Who does not show it by then is away, and hears of it later.
const agreeTime = time.Second

// agree is awaitCopy, and then gives the other nodes agreeTime to show the command, too:
// whoever made a keyspace here may use it on any of them next.
func (n *Node) agree(ctx context.Context, made catalog.Applied) error {
	if err := n.awaitCopy(ctx, made); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, agreeTime)
	defer cancel()
	var others sync.WaitGroup
	for _, id := range n.machine.State().NodeNames() {
		if id != n.opt.Name {
			others.Go(func() { _, _ = ask[struct{}](ctx, n, id, adminRequest{Do: "shows", Made: &made}) })
		}
	}
	others.Wait()
	return nil
}

// awaitCopy returns once this node's copy of the catalog shows a command, so that
// who asked this node finds what was made here.
func (n *Node) awaitCopy(ctx context.Context, made catalog.Applied) error {
	for {
		changed := n.machine.Changed()
		if n.machine.State().Reached(made) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fulcrum.Errorf(fulcrum.CodeUnknown, "the change is made, but %s has not heard of it yet", n.opt.Name)
		case <-changed:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// RemoveNode moves a node's replicas away and forgets it. It returns once the node
// is marked; the controller does the rest, which status shows.
func (n *Node) RemoveNode(ctx context.Context, name fulcrum.NodeID) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	made, err := n.change(ctx, catalog.Command{RemoveNode: &catalog.RemoveNode{Node: name}})
	if err != nil || name == n.opt.Name { // who leaves may never hear of it
		return err
	}
	return n.awaitCopy(ctx, made)
}

// Faults lists what is broken, as this node sees it.
func (n *Node) Faults() []fulcrum.Fault { return n.faults.List() }

// AddFault breaks something, on this node.
func (n *Node) AddFault(f fulcrum.Fault) error {
	if !n.opt.AllowFaults {
		return fulcrum.Errorf(fulcrum.CodeFaults, "node %s takes no injected faults", n.opt.Name).WithHint("start it with --allow-faults, as fulcrum up does")
	}
	if err := n.checkFault(f); err != nil {
		return err
	}
	if err := n.faults.Add(f, n.opt.Now()); err != nil {
		return err
	}
	n.log.Warn("fault injected", "id", f.ID, "kind", f.Kind, "sides", f.Sides, "on", f.Node, "from", f.From, "to", f.To)
	return nil
}

// HealFaults mends what was broken: all if ids is nil.
func (n *Node) HealFaults(ids []string) error {
	for _, f := range n.faults.Heal(ids) {
		n.log.Warn("fault healed", "id", f.ID, "kind", f.Kind)
	}
	return nil
}

// FaultHits counts by kind how often injected faults acted on this node since it was
// opened. It may be asked after Close too.
func (n *Node) FaultHits() map[string]uint64 { return n.faults.Hits() }

// CatalogIndex is the index of this node's copy of the catalog.
func (n *Node) CatalogIndex() uint64 { return n.machine.State().Index }

// checkFault refuses a fault that names nodes that are not in the cluster. A node that
// has not heard of any yet believes what it is told.
func (n *Node) checkFault(f fulcrum.Fault) error {
	known := n.machine.State().NodeNames()
	if len(known) == 0 {
		known = nil
	}
	return fault.Validate(f, known)
}
