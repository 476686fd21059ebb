package sim_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// move is a keyspace whose only shard is large and has three replicas. One of its nodes is
// removed, and its replica goes to another one over a slow network.
type move struct {
	leader, other fulcrum.NodeID // the replicas that stay
	leaves, fresh fulcrum.NodeID
	w             *writer
	stop          func()
}

const moved = "cp"

// beginMove returns while the new node is being filled.
func beginMove(t *testing.T, c *sim.Cluster) *move {
	t.Helper()
	if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: moved, Mode: "raft", Shards: 1, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	known(t, c, moved)
	ready(t, c)
	for i := range 1500 {
		if err := put(c, "n1", api.Call{Keyspace: moved}, fmt.Sprint("large", i), string(make([]byte, 10_000))); err != nil {
			t.Fatal(err)
		}
	}
	sh := shardOf(c, "n1", moved)
	for until := time.Now().Add(time.Minute); sh.Leader == ""; sh = shardOf(c, "n1", moved) {
		if time.Now().After(until) {
			t.Fatal("no leader within a minute")
		}
		time.Sleep(100 * time.Millisecond)
	}
	m := &move{leader: sh.Leader}
	var stay []fulcrum.NodeID
	for _, r := range sh.Replicas {
		if r.Node != sh.Leader {
			stay = append(stay, r.Node)
		}
	}
	m.other, m.leaves = stay[0], stay[1]
	for _, id := range c.Names() {
		if slices.ContainsFunc(sh.Replicas, func(r fulcrum.ReplicaInfo) bool { return r.Node == id }) {
			continue
		}
		for _, r := range sh.Replicas {
			if err := c.Inject(fulcrum.Fault{Kind: "link", From: r.Node, To: id, OneWay: true, Rate: 1 << 20, Only: "peers"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	w, stop := writers(c, 1, 50*time.Millisecond, moved)
	m.w, m.stop = w[moved], stop
	if err := c.Remove(t.Context(), m.leader, m.leaves); err != nil {
		t.Fatal(err)
	}
	m.awaits(t, c, "learner", func(sh fulcrum.ShardInfo) bool { return len(sh.Learners) == 1 })
	m.fresh = shardOf(c, m.via(c), moved).Learners[0].Node
	time.Sleep(2 * time.Second)
	return m
}

// via is one of the replicas that stay, and are up.
func (m *move) via(c *sim.Cluster) fulcrum.NodeID {
	if slices.Contains(c.Running(), m.other) {
		return m.other
	}
	return m.leader
}

// awaits waits until the shard is like that.
func (m *move) awaits(t *testing.T, c *sim.Cluster, what string, is func(fulcrum.ShardInfo) bool) {
	t.Helper()
	for until := time.Now().Add(5 * time.Minute); !is(shardOf(c, m.via(c), moved)); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no %s: %+v", what, shardOf(c, m.via(c), moved))
		}
	}
}

// goesOn fails the test unless a write is done soon.
func (m *move) goesOn(t *testing.T, c *sim.Cluster, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	err := c.Call(ctx, m.via(c), func(ctx context.Context, b api.Backend) error {
		_, _, err := b.Write(ctx, api.Call{Keyspace: moved}, []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte(key), Value: []byte("v")}})
		return err
	})
	if err != nil {
		t.Errorf("the shard stands still: %v", err)
		return
	}
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.w.acked = append(m.w.acked, key)
}

// learns fails the test unless the move is still under way.
func (m *move) learns(t *testing.T, c *sim.Cluster) {
	t.Helper()
	// As the new node itself sees it: the others hear of it over the slow network.
	if sh := shardOf(c, m.fresh, moved); sh.Epoch != 1 || len(sh.Learners) != 1 || !sh.Learners[0].CatchingUp {
		t.Fatalf("this shows nothing: the new replica is filled already: %+v", sh)
	}
}

func has(rs []fulcrum.ReplicaInfo, id fulcrum.NodeID) bool {
	return slices.ContainsFunc(rs, func(r fulcrum.ReplicaInfo) bool { return r.Node == id })
}

// done waits until the move is, in one change of epoch, with all that was acknowledged.
func (m *move) done(t *testing.T, c *sim.Cluster) {
	t.Helper()
	m.awaits(t, c, "new replica", func(sh fulcrum.ShardInfo) bool {
		return sh.Phase == "active" && has(sh.Replicas, m.fresh) && !has(sh.Replicas, m.leaves)
	})
	sh := shardOf(c, m.via(c), moved)
	if sh.Epoch != 2 || len(sh.Learners) > 0 {
		t.Errorf("it took epochs up to %d; learners are %v", sh.Epoch, sh.Learners)
	}
	for _, r := range sh.Replicas {
		if r.Node == m.fresh && r.CatchingUp {
			t.Errorf("%s has a vote before it has the data", m.fresh)
		}
	}
	m.goesOn(t, c, "moved")
	m.stop()
	if len(m.w.acked) < 100 {
		t.Errorf("only %d writes were acknowledged", len(m.w.acked))
	}
	wantAll(t, c, m.fresh, moved, m.w.acked)
}

// While a replica moves, any replica may die: writes go on without it before the new one is
// filled, and the move is finished without it.
func TestAReplicaDiesWhileAnotherMoves(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
				m := beginMove(t, c)
				defer m.stop()
				dies := m.leader
				if who == "follower" {
					dies = m.other
				}
				if err := c.Kill(dies); err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				m.goesOn(t, c, "without")
				m.learns(t, c)
				m.done(t, c)
				if err := c.Start(dies); err != nil {
					t.Fatal(err)
				}
				eventually(t, c, dies, moved, "moved", "v")
			})
		})
	}
}

// A node that dies while it is filled costs the shard nothing: another replica may even die
// beside it. It goes on when it is back.
func TestTheNewNodeDiesWhileItIsFilled(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		m := beginMove(t, c)
		defer m.stop()
		if err := c.Kill(m.fresh); err != nil {
			t.Fatal(err)
		}
		m.goesOn(t, c, "without it")
		if err := c.Kill(m.other); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		m.goesOn(t, c, "without both")
		if sh := shardOf(c, m.via(c), moved); sh.Epoch != 1 {
			t.Errorf("epoch %d began without the new replica", sh.Epoch)
		}
		if err := c.Start(m.other, m.fresh); err != nil {
			t.Fatal(err)
		}
		m.done(t, c)
	})
}

// One that stays away is replaced by another node.
func TestTheNewNodeStaysAway(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 5}, func(t *testing.T, c *sim.Cluster) {
		m := beginMove(t, c)
		defer m.stop()
		if err := c.Kill(m.fresh); err != nil {
			t.Fatal(err)
		}
		for _, id := range c.Running() {
			if sh := shardOf(c, m.via(c), moved); !has(sh.Replicas, id) {
				m.fresh = id
			}
		}
		m.done(t, c)
	})
}

// Whoever leads the catalog next goes on with the move.
func TestTheControllerDiesDuringAMove(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		m := beginMove(t, c)
		defer m.stop()
		leads := c.Node(m.via(c)).Cluster().CatalogLeader
		if err := c.Kill(leads); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := c.Start(leads); err != nil {
			t.Fatal(err)
		}
		m.done(t, c)
	})
}
