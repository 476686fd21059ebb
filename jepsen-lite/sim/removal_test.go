package sim_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
)

// The removal of a voter waits while the voters that stay would be no majority: else the
// catalog could not be changed any more, though a majority was there to do so before.
func TestARemovalLeavesTheCatalogAMajority(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 5}, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n4", "n5"))
		time.Sleep(10 * time.Second)
		do(t, c.Remove(t.Context(), "n1", "n3"))
		time.Sleep(30 * time.Second)
		do(t, makeKeyspace(t, c, "n1", "meanwhile"), c.Start("n4"))
		awaitGone(t, c, "n3")
		do(t, makeKeyspace(t, c, "n1", "after"))
	})
}

// Not all nodes can be removed: the last one is refused, and goes on.
func TestTheLastNodeStays(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		do(t, makeKeyspace(t, c, "n1", "kept"))
		do(t, c.Remove(t.Context(), "n1", "n2"), c.Remove(t.Context(), "n1", "n3"))
		if err := c.Node("n1").RemoveNode(t.Context(), "n1"); !errors.Is(err, fulcrum.ErrConflict) {
			t.Errorf("the last node: %v", err)
		}
		awaitGone(t, c, "n2", "n3")
		awaitEnd(t, c, "n2", "n3")
		do(t, makeKeyspace(t, c, "n1", "later"))
	})
}

// awaitEnd waits until nodes that were removed have ended by themselves.
func awaitEnd(t *testing.T, c *sim.Cluster, ids ...fulcrum.NodeID) {
	t.Helper()
	runs := func(id fulcrum.NodeID) bool { return slices.Contains(c.Running(), id) }
	for until := time.Now().Add(time.Minute); slices.ContainsFunc(ids, runs); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("of %v, which were removed, some still run: %v", ids, c.Running())
		}
	}
}

// awaitGone waits until n1 knows of none of the nodes.
func awaitGone(t *testing.T, c *sim.Cluster, ids ...fulcrum.NodeID) {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		there := 0
		for _, n := range c.Node("n1").Cluster().Nodes {
			for _, id := range ids {
				if n.Name == id {
					there++
				}
			}
		}
		if there == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d of %v are still there: %+v", there, ids, c.Node("n1").Shards())
		}
	}
}
