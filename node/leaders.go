package node

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
	"fulcrum/replication"
	"fulcrum/replication/raft"
)

// Raft shards elect their leaders themselves, so nothing keeps leadership spread: after
// a failure one node may lead most shards. A node that leads more than its share gives
// one shard at a time to a replica on a node that leads at least two fewer.
//
// It never goes in circles. Let K be the sum over keyspaces and nodes of the square of
// how many shards of the keyspace the node leads, and T the sum over nodes of the square
// of how many it leads in all. A move within a keyspace from a node that leads a of its
// shards to one that leads b <= a-2 makes K smaller; one with b = a-1 leaves K as it is,
// and is made only where the totals differ by at least two, so it makes T smaller. (K, T)
// falls with every move, and cannot fall for ever. Counts may be a moment old when
// several nodes move at once; what that overshoots, later moves take back one by one.
const (
	leadersEvery = 2 * time.Second  // one move a node in that time
	leadersQuiet = 30 * time.Second // to look again when there was nothing to move and nothing has changed
	leadersAsk   = 500 * time.Millisecond
	handOverTime = 3 * time.Second
	heirBehind   = 256 // entries: an heir that lacks more would hold the leader's writes up
)

// leadership is what a node says of the raft shards that it leads.
type leadership struct {
	By    map[string]int // by keyspace
	Total int
	Unfit string // why it should get no more; empty: it may
}

func (n *Node) leadership() leadership {
	l := leadership{By: map[string]int{}, Unfit: n.unfit()}
	for _, h := range n.host.all() {
		if h.mode == consistency.Raft && h.group.Status().IsLeader {
			l.By[h.keyspace]++
			l.Total++
		}
	}
	return l
}

// unfit says why this node should lead nothing; empty if it may.
func (n *Node) unfit() string {
	if n.isDraining() {
		return "it is stopping"
	}
	if err := errors.Join(n.store.Health(), n.store.Room()); err != nil {
		return err.Error()
	}
	return ""
}

// runLeaders spreads leadership until ctx ends. While there is nothing to do it looks at
// what is in memory, and asks others only every leadersQuiet.
func (n *Node) runLeaders(ctx context.Context) error {
	var seen leadersSeen
	for {
		wait := leadersEvery + time.Duration(n.jitter.Int64N(int64(leadersEvery/2))) // nodes do not move in step
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if !n.registered() || n.isDraining() {
			continue
		}
		mine := n.leadership()
		st := n.machine.State()
		live, known := n.liveNodes()
		if known && n.store.Room() != nil {
			n.shed(ctx, st, live)
			continue
		}
		if !known || !n.overFairShare(st, mine) || !seen.news(st.Index, mine.Total, live) {
			continue
		}
		m, ok := n.bestMove(ctx, st, mine, live)
		if !ok {
			continue
		}
		seen = leadersSeen{}
		n.move(ctx, m, "spread")
	}
}

// leadersSeen is what was looked at when there was nothing to move.
type leadersSeen struct {
	at      time.Time
	catalog uint64
	leads   int
	live    []fulcrum.NodeID
}

// news notes a picture and reports whether it is worth another look.
func (s *leadersSeen) news(catalog uint64, leads int, live []fulcrum.NodeID) bool {
	if catalog == s.catalog && leads == s.leads && slices.Equal(live, s.live) && time.Since(s.at) < leadersQuiet {
		return false
	}
	*s = leadersSeen{at: time.Now(), catalog: catalog, leads: leads, live: slices.Clone(live)}
	return true
}

// overFairShare reports whether this node leads more of a keyspace, or in all, than it
// would if each shard's replicas led it in equal parts.
func (n *Node) overFairShare(st *catalog.State, mine leadership) bool {
	total := 0.0
	for _, name := range st.Names() {
		share := 0.0
		for _, sh := range st.Keyspaces[name].Shards {
			if sh.Mode == consistency.Raft && sh.Hosts(n.opt.Name) {
				share += 1 / float64(len(sh.Replicas))
			}
		}
		total += share
		if float64(mine.By[name]) > share+1e-9 {
			return true
		}
	}
	return float64(mine.Total) > math.Ceil(total)
}

// leaderMove is one leadership that would do better elsewhere.
type leaderMove struct {
	shard *hosted
	to    fulcrum.NodeID
	fewer int // how many fewer shards of the keyspace to leads
	total int // and in all
}

// better orders moves: those that even out a keyspace first, the larger difference first.
func (m leaderMove) better(o leaderMove) bool {
	return m.fewer > o.fewer || m.fewer == o.fewer && m.total > o.total
}

// worth reports whether the move makes (K, T) smaller; see above.
func (m leaderMove) worth() bool { return m.fewer >= 2 || m.fewer == 1 && m.total >= 2 }

// bestMove asks the nodes that could take a leadership from this one how many they have.
func (n *Node) bestMove(ctx context.Context, st *catalog.State, mine leadership, live []fulcrum.NodeID) (best leaderMove, ok bool) {
	var moves []leaderMove
	var nodes []fulcrum.NodeID
	for _, h := range n.host.all() {
		if h.mode != consistency.Raft {
			continue
		}
		for _, to := range n.heirs(st, h, live) {
			moves = append(moves, leaderMove{shard: h, to: to})
			if !slices.Contains(nodes, to) {
				nodes = append(nodes, to)
			}
		}
	}
	theirs := n.askLeaderships(ctx, nodes)
	for _, m := range moves {
		they, answered := theirs[m.to]
		if !answered || they.Unfit != "" {
			continue
		}
		m.fewer = mine.By[m.shard.keyspace] - they.By[m.shard.keyspace]
		m.total = mine.Total - they.Total
		if m.worth() && (!ok || m.better(best)) {
			best, ok = m, true
		}
	}
	return best, ok
}

// heirs are the live replicas that could lead a shard at once.
func (n *Node) heirs(st *catalog.State, h *hosted, live []fulcrum.NodeID) (out []fulcrum.NodeID) {
	ref, ok := st.Group(h.shard)
	s := h.group.Status()
	if !ok || ref.Shard.Epoch != h.epoch || ref.Shard.Phase != catalog.Active || !s.IsLeader || s.Fenced {
		return nil
	}
	for _, p := range s.Peers {
		if mayLead(p) && ref.Shard.Hosts(p.Node) && slices.Contains(live, p.Node) && !st.Nodes[p.Node].Removing {
			out = append(out, p.Node)
		}
	}
	return out
}

func mayLead(p replication.PeerStatus) bool {
	return p.Silent >= 0 && p.Silent < time.Second && p.Match > 0 && p.Behind <= heirBehind
}

func (n *Node) askLeaderships(ctx context.Context, nodes []fulcrum.NodeID) map[fulcrum.NodeID]leadership {
	ctx, cancel := context.WithTimeout(ctx, leadersAsk)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[fulcrum.NodeID]leadership{}
	for _, id := range nodes {
		wg.Go(func() {
			if l, err := ask[leadership](ctx, n, id, adminRequest{Do: "leads"}); err == nil {
				mu.Lock()
				defer mu.Unlock()
				out[id] = l
			}
		})
	}
	wg.Wait()
	return out
}

// shed gives away every leadership that another node may take: this one has no room on
// its disk, and would have to refuse the writes that others can still take.
func (n *Node) shed(ctx context.Context, st *catalog.State, live []fulcrum.NodeID) {
	heirs := map[*hosted][]fulcrum.NodeID{}
	var nodes []fulcrum.NodeID
	for _, h := range n.host.all() {
		if h.mode != consistency.Raft {
			continue
		}
		heirs[h] = n.heirs(st, h, live)
		for _, to := range heirs[h] {
			if !slices.Contains(nodes, to) {
				nodes = append(nodes, to)
			}
		}
	}
	theirs := n.askLeaderships(ctx, nodes)
	var wg sync.WaitGroup
	defer wg.Wait()
	for h, to := range heirs {
		i := slices.IndexFunc(to, func(id fulcrum.NodeID) bool { l, ok := theirs[id]; return ok && l.Unfit == "" })
		if i >= 0 {
			wg.Go(func() { n.move(ctx, leaderMove{shard: h, to: to[i]}, "disk") })
		}
	}
}

func (n *Node) move(ctx context.Context, m leaderMove, why string) {
	g, ok := m.shard.group.(*raft.Group)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	if err := g.HandOverTo(ctx, m.to); err != nil {
		n.log.Info("a leadership was not handed over", "keyspace", m.shard.keyspace, "group", m.shard.shard, "to", m.to, "err", err)
		return
	}
	n.metrics.handedOver.WithLabelValues(m.shard.keyspace, why).Inc()
	n.log.Info("a leadership was handed over", "why", why, "keyspace", m.shard.keyspace, "group", m.shard.shard, "to", m.to)
}

// retire makes the replicas here take no leadership: the node is stopping.
func (n *Node) retire() {
	for _, h := range n.host.all() {
		if g, ok := h.group.(*raft.Group); ok {
			g.Retire()
		}
	}
	n.catalog.Retire()
}

// drain gives all leadership away, so that a planned stop costs no election timeout. A
// replica that is elected all the same, by votes that were under way, hands over again.
func (n *Node) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), handOverTime)
	defer cancel()
	stays := map[fulcrum.GroupID]bool{} // nobody takes it
	for ctx.Err() == nil {
		n.retire() // those too that were opened since
		if n.drainOnce(ctx, stays) == 0 {
			break
		}
	}
	if err := n.resign(ctx); err != nil { // to whoever leads the catalog now
		n.log.Debug("not resigned", "err", err)
	}
}

// drainOnce asks each group that is led here to move, and returns how many there were.
func (n *Node) drainOnce(ctx context.Context, stays map[fulcrum.GroupID]bool) (led int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	give := func(g fulcrum.GroupID, keyspace string, handOver func(context.Context) error) {
		led++
		wg.Go(func() {
			err := handOver(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				stays[g] = true
				n.log.Info("leadership not handed over", "group", g, "err", err)
			} else if keyspace != "" {
				n.metrics.handedOver.WithLabelValues(keyspace, "stop").Inc()
			}
		})
	}
	mu.Lock()
	for _, h := range n.host.all() {
		if h.group.Status().IsLeader && h.mode == consistency.Raft && !stays[h.shard] {
			give(h.shard, h.keyspace, h.group.HandOver)
		}
	}
	if _, self := n.catalog.Leader(); self && !stays[fulcrum.CatalogGroup] {
		give(fulcrum.CatalogGroup, "", n.catalog.HandOver)
	}
	mu.Unlock()
	wg.Wait()
	return led
}
