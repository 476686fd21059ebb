package sim_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
)

// The catalog cannot be changed from a minority: who asks there is told so soon, what is
// missing and what to do, and that nothing was done. That holds for a leader that was just
// cut off, too.
func TestAChangeOfTheCatalogIsRefusedSoon(t *testing.T) {
	raft, quorum := "raft", "quorum"
	inBubble(t, sim.ClusterOptions{Nodes: 5}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "k", modes["cp"])
		leader := c.Node("n1").Cluster().CatalogLeader
		var rest []fulcrum.NodeID
		for _, id := range c.Names() {
			if id != leader {
				rest = append(rest, id)
			}
		}
		follower := rest[0]
		changes := map[string]func(context.Context, fulcrum.NodeID) error{
			"create": func(ctx context.Context, at fulcrum.NodeID) error {
				_, err := c.Node(at).CreateKeyspace(ctx, fulcrum.KeyspaceSpec{Name: "new", Mode: raft})
				return err
			},
			"alter": func(ctx context.Context, at fulcrum.NodeID) error {
				_, err := c.Node(at).AlterKeyspace(ctx, "k", fulcrum.KeyspacePatch{Mode: &quorum})
				return err
			},
			"drop":   func(ctx context.Context, at fulcrum.NodeID) error { return c.Node(at).DropKeyspace(ctx, "k") },
			"remove": func(ctx context.Context, at fulcrum.NodeID) error { return c.Node(at).RemoveNode(ctx, rest[1]) },
		}
		for name, change := range changes {
			do(t, c.Inject(fulcrum.Fault{ID: "cut", Kind: "partition", Sides: [][]fulcrum.NodeID{{leader, follower}, rest[1:]}}))
			refused := func(at fulcrum.NodeID, limit, want time.Duration) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				begun := time.Now()
				err := change(ctx, at)
				e := fulcrum.AsError(err)
				if took := time.Since(begun); !errors.Is(err, fulcrum.ErrUnavailable) || e.Maybe || e.Hint == "" || took > want {
					t.Errorf("%s at %s: %v after %s", name, at, err, took)
				}
			}
			refused(leader, time.Minute, 5*time.Second) // it does not know yet
			refused(follower, time.Minute, 5*time.Second)
			refused(follower, 300*time.Millisecond, 400*time.Millisecond) // a deadline is kept
			do(t, c.Heal("cut"))
			ready(t, c)
			if _, err := c.Node(rest[1]).Keyspace("new"); err == nil {
				t.Errorf("%s was refused and done", name)
			}
			if k, err := c.Node(rest[1]).Keyspace("k"); err != nil || k.Target != "raft" || len(c.Node(rest[1]).Cluster().Nodes) != 5 {
				t.Errorf("%s was refused and done: %+v, %v", name, k, err)
			}
			if leader = c.Node(rest[1]).Cluster().CatalogLeader; leader == follower { // the next cut is around this one
				follower = rest[1]
			}
			rest = nil
			for _, id := range c.Names() {
				if id != leader && id != follower {
					rest = append(rest, id)
				}
			}
			rest = append([]fulcrum.NodeID{follower}, rest...)
		}
	})
}

// Without a leader, though a majority is there, a change is tried for some seconds: an
// election takes less.
func TestAChangeOfTheCatalogWaitsForAnElection(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		leader := c.Node("n1").Cluster().CatalogLeader
		var at fulcrum.NodeID
		for _, id := range c.Names() {
			if id != leader {
				at = id
			}
		}
		do(t, c.Kill(leader))
		begun := time.Now()
		if _, err := c.Node(at).CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "new", Replicas: 2}); err != nil {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
	})
}
