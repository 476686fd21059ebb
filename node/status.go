package node

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/partition"
	"fulcrum/replication"
)

// replicaStatus is what a node tells others of one replica that it runs.
type replicaStatus struct {
	Epoch   fulcrum.Epoch
	Status  replication.Status
	Damaged string `json:",omitempty"` // it does not run: its data is damaged. Epoch is 0 then
}

// nodeStatus is the answer to "status", and to "progress", which counts no keys.
type nodeStatus map[fulcrum.GroupID]replicaStatus

func (n *Node) localStatus(of func(*hosted) replication.Status) nodeStatus {
	out := nodeStatus{}
	for _, h := range n.host.all() {
		out[h.shard] = replicaStatus{Epoch: h.epoch, Status: of(h)}
	}
	for _, d := range n.store.Damages() {
		out[d.Group] = replicaStatus{Damaged: d.Why}
	}
	return out
}

// counted is the status of a replica with its keys counted: Status knows them roughly,
// as every request asks for it.
func (n *Node) counted(h *hosted) replication.Status {
	s := h.group.Status()
	if keys, bytes, err := n.store.Count(h.shard); err == nil {
		s.Keys, s.Bytes = keys, bytes
	}
	return s
}

// progress is the status of a replica without a count: enough for whoever asks often.
func progress(h *hosted) replication.Status { return h.group.Status() }

// statusCache keeps what all nodes said for a moment, so that status pages, scrapes
// and DBSIZE do not each ask everybody.
type statusCache struct {
	mu   sync.Mutex
	at   time.Time
	last map[fulcrum.NodeID]nodeStatus
}

const (
	statusFresh   = 300 * time.Millisecond
	statusTimeout = 200 * time.Millisecond
)

// everyStatus asks all nodes, each for a short while; who does not answer is missing.
func (n *Node) everyStatus(ctx context.Context) map[fulcrum.NodeID]nodeStatus {
	n.status.mu.Lock()
	last, at := n.status.last, n.status.at
	n.status.mu.Unlock()
	if time.Since(at) < statusFresh {
		return last
	}
	out := n.askStatus(ctx, adminRequest{Do: "status"}, n.counted)
	n.status.mu.Lock()
	n.status.last, n.status.at = out, time.Now()
	n.status.mu.Unlock()
	return out
}

// askStatus asks all nodes, this one by a call of its own.
func (n *Node) askStatus(ctx context.Context, req adminRequest, here func(*hosted) replication.Status) map[fulcrum.NodeID]nodeStatus {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	out := map[fulcrum.NodeID]nodeStatus{n.opt.Name: n.localStatus(here)}
	for _, id := range n.machine.State().NodeNames() {
		if id == n.opt.Name {
			continue
		}
		wg.Go(func() {
			if s, err := ask[nodeStatus](ctx, n, id, req); err == nil {
				mu.Lock()
				out[id] = s
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out
}

// Count is about how many keys a keyspace holds: of each shard, what its leader or
// its fullest replica counts.
func (n *Node) Count(ctx context.Context, keyspace string) (int64, error) {
	ks, ok := n.machine.State().Keyspaces[keyspace]
	if !ok {
		return 0, catalog.NoKeyspace(keyspace, n.machine.State())
	}
	all := n.everyStatus(ctx)
	var total int64
	for _, sh := range ks.Shards {
		most := 0
		for _, id := range sh.Replicas {
			most = max(most, all[id][sh.Group].Status.Keys)
		}
		total += int64(most)
	}
	return total, nil
}

// Synced is how many replicas besides the first hold everything: see api.Backend.
func (n *Node) Synced(ctx context.Context, keyspace string, want int) (int, error) {
	for {
		ks, ok := n.machine.State().Keyspaces[keyspace]
		if !ok {
			return 0, catalog.NoKeyspace(keyspace, n.machine.State())
		}
		got := n.syncedNow(ctx, ks)
		if got >= want {
			return got, nil
		}
		select {
		case <-ctx.Done():
			return got, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (n *Node) syncedNow(ctx context.Context, ks *catalog.Keyspace) int {
	// Not everyStatus: this answer must be newer than the writes before it.
	all := n.askStatus(context.WithoutCancel(ctx), adminRequest{Do: "progress"}, progress)
	least := -1
	for _, sh := range ks.Shards {
		var last uint64
		owed := 0
		for _, id := range sh.Replicas {
			s := all[id][sh.Group].Status
			last = max(last, s.LastIndex)
			owed += s.Hints
		}
		have := 0
		for _, id := range sh.Replicas {
			rs, ok := all[id][sh.Group]
			switch {
			case !ok || rs.Epoch != sh.Epoch || rs.Status.CatchingUp:
			case sh.Mode == consistency.Quorum && owed == 0, sh.Mode != consistency.Quorum && rs.Status.LastIndex >= last:
				have++
			}
		}
		if least < 0 || have-1 < least {
			least = max(have-1, 0)
		}
	}
	return max(least, 0)
}

// Cluster is this node's view of the whole.
func (n *Node) Cluster() fulcrum.ClusterInfo {
	st := n.machine.State()
	leader, self := n.catalog.Leader()
	if self {
		leader = n.opt.Name
	}
	info := fulcrum.ClusterInfo{ClusterID: n.opt.ClusterID, Node: n.opt.Name, CatalogLeader: leader, CatalogIndex: st.Index,
		FaultsAllowed: n.opt.AllowFaults, Version: n.opt.Version, Faults: n.Faults()}
	all := n.everyStatus(context.Background())
	replicas, leaders := map[fulcrum.NodeID]int{}, map[fulcrum.NodeID]int{}
	st.Groups(func(ref catalog.ShardRef) {
		for _, id := range ref.Shard.Replicas {
			replicas[id]++
		}
		if l := leaderOf(ref.Shard, all); l != "" {
			leaders[l]++
		}
	})
	for _, id := range st.NodeNames() {
		info.Nodes = append(info.Nodes, n.nodeInfo(st.Nodes[id], replicas[id], leaders[id]))
	}
	for _, name := range st.Names() {
		info.Keyspaces = append(info.Keyspaces, keyspaceInfo(st.Keyspaces[name]))
	}
	return info
}

func (n *Node) nodeInfo(node catalog.Node, replicas, leaders int) fulcrum.NodeInfo {
	live, known := n.liveNodes()
	info := fulcrum.NodeInfo{Name: node.Name, Zone: node.Zone, RedisAddr: node.RedisAddr, HTTPAddr: node.HTTPAddr, PeerAddr: node.PeerAddr,
		GossipAddr: node.GossipAddr, Voter: node.Voter, Live: known && slices.Contains(live, node.Name), Gossip: n.members.State(node.Name),
		Epoch: node.Liveness, Replicas: replicas, Leaders: leaders, Self: node.Name == n.opt.Name, State: "active", Actor: node.Actor, SeenAgo: -1}
	if node.Removing {
		info.State = "removing"
	}
	for _, p := range n.peers.Peers() {
		if p.Node == node.Name && !p.LastHeard.IsZero() {
			info.SeenAgo = time.Since(p.LastHeard).Seconds()
		}
	}
	if info.Self {
		info.SeenAgo = 0
	}
	return info
}

// leaderOf is who leads a shard, as the replicas themselves say: of several, the
// one with the highest term.
func leaderOf(sh *catalog.Shard, all map[fulcrum.NodeID]nodeStatus) fulcrum.NodeID {
	var leader fulcrum.NodeID
	var term uint64
	for _, id := range sh.Replicas {
		if rs, ok := all[id][sh.Group]; ok && rs.Epoch == sh.Epoch && rs.Status.IsLeader && rs.Status.Term >= term {
			leader, term = id, rs.Status.Term
		}
	}
	return leader
}

// Shards lists every shard with what its replicas say of themselves.
func (n *Node) Shards() []fulcrum.ShardInfo {
	st := n.machine.State()
	all := n.everyStatus(context.Background())
	var out []fulcrum.ShardInfo
	for _, name := range st.Names() {
		out = append(out, shardInfos(st.Keyspaces[name], all)...)
	}
	return out
}

func shardInfos(ks *catalog.Keyspace, all map[fulcrum.NodeID]nodeStatus) []fulcrum.ShardInfo {
	out := make([]fulcrum.ShardInfo, len(ks.Shards))
	for i, sh := range ks.Shards {
		info := fulcrum.ShardInfo{Group: sh.Group, Keyspace: ks.Name, Start: partition.FormatToken(sh.Start), Mode: sh.Mode.String(),
			Epoch: sh.Epoch, Phase: string(sh.Phase), Leader: leaderOf(sh, all)}
		if i+1 < len(ks.Shards) {
			info.End = partition.FormatToken(ks.Shards[i+1].Start)
		}
		for _, id := range sh.Replicas {
			info.Replicas = append(info.Replicas, replicaInfo(sh, id, all))
		}
		for _, id := range sh.Learners {
			info.Learners = append(info.Learners, replicaInfo(sh, id, all))
		}
		out[i] = info
	}
	return out
}

func replicaInfo(sh *catalog.Shard, id fulcrum.NodeID, all map[fulcrum.NodeID]nodeStatus) fulcrum.ReplicaInfo {
	rs, ok := all[id][sh.Group]
	if !ok || rs.Epoch != sh.Epoch {
		return fulcrum.ReplicaInfo{Node: id, Damaged: rs.Damaged}
	}
	s := rs.Status
	return fulcrum.ReplicaInfo{Node: id, Known: true, Leader: s.IsLeader, CatchingUp: s.CatchingUp, Applied: s.Applied,
		Behind: s.Behind, BehindFor: s.BehindFor.Seconds(), Keys: s.Keys, Bytes: s.Bytes, Hints: s.Hints}
}

func keyspaceInfo(ks *catalog.Keyspace) fulcrum.KeyspaceInfo {
	scheme, _ := ks.Scheme.MarshalText()
	return fulcrum.KeyspaceInfo{Name: ks.Name, ID: ks.ID, Mode: ks.Mode.String(), Target: ks.Target.String(), ShardBy: string(scheme),
		Shards: len(ks.Shards), Replicas: ks.Replicas, Placed: ks.Placed(), ReadLevel: ks.ReadLevel.String(), WriteLevel: ks.WriteLevel.String(),
		Durability: ks.Durability, Conflict: ks.Conflict, Engine: ks.Engine, Switch: ks.Switch}
}

// Live reports whether the process makes progress; it fails only where a restart
// helps.
func (n *Node) Live() []fulcrum.Health {
	return []fulcrum.Health{{Check: "process"}}
}

// Ready reports whether this node can do its part: /readyz.
func (n *Node) Ready() []fulcrum.Health {
	fail := func(check string, bad bool, why string) fulcrum.Health {
		if !bad {
			why = ""
		}
		return fulcrum.Health{Check: check, Err: why}
	}
	checks := []fulcrum.Health{
		fail("draining", n.isDraining(), "the node is shutting down"),
		fail("registered", !n.registered(), "the catalog has not taken this node in yet"),
	}
	disk := fulcrum.Health{Check: "disk"}
	if err := n.store.Health(); err != nil {
		disk.Err = err.Error()
	}
	checks = append(checks, disk, n.readyReplicas())
	return checks
}

// tellReady logs, once, how long it took until this node was ready.
func (n *Node) tellReady(ctx context.Context) error {
	for {
		if !slices.ContainsFunc(n.Ready(), func(h fulcrum.Health) bool { return h.Err != "" }) {
			n.log.Info("node is ready", "after", n.age())
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(time.Second, 10*time.Millisecond+n.age()/32)):
		}
	}
}

// age is how long ago this node began to open its files.
func (n *Node) age() time.Duration { return time.Since(n.started).Round(time.Millisecond) }

// readyReplicas checks that every replica that belongs here runs, and has somebody
// to follow.
func (n *Node) readyReplicas() fulcrum.Health {
	h := fulcrum.Health{Check: "replicas"}
	n.machine.State().Groups(func(ref catalog.ShardRef) {
		sh := ref.Shard
		if _, damaged := n.store.Damage(sh.Group); damaged {
			h.Err = "the data of shard " + strconv.FormatUint(uint64(sh.Group), 10) + " of " + ref.Keyspace.Name + " is damaged here; it is rebuilt from its peers"
		}
		if h.Err != "" || sh.Phase != catalog.Active || !sh.Hosts(n.opt.Name) || slices.Contains(sh.Wiped, n.opt.Name) {
			return
		}
		hd, err := n.host.at(sh.Group, sh.Epoch)
		if err != nil {
			h.Err = err.Error()
			return
		}
		switch s := hd.group.Status(); {
		case s.CatchingUp:
			h.Err = "shard " + strconv.FormatUint(uint64(sh.Group), 10) + " of " + ref.Keyspace.Name + " is catching up"
		case sh.Mode != consistency.Quorum && s.Leader == "":
			h.Err = "shard " + strconv.FormatUint(uint64(sh.Group), 10) + " of " + ref.Keyspace.Name + " has no leader"
		}
	})
	return h
}

// Limits are what edges check before they take in bytes.
func (n *Node) Limits() api.Limits { return api.Limits{MaxValue: n.opt.MaxValue} }

var _ api.Backend = (*Node)(nil)
