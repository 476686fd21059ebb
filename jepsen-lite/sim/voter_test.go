package sim_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
)

// makeKeyspace makes one with a replica on each of the nodes that run.
func makeKeyspace(t *testing.T, c *sim.Cluster, at fulcrum.NodeID, name string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.Node(at).CreateKeyspace(ctx, fulcrum.KeyspaceSpec{Name: name, Mode: "raft", Shards: 1, Replicas: len(c.Running())})
	return err
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// A voter of the catalog that lost its disk has no vote until the catalog has taken it in
// again: with one that is behind it would elect that one, and what n1 and n2 committed
// would be gone. When n1 is back, all of it is there, and in the end n2 has its vote again.
func TestAVoterWithoutItsDiskHasNoVote(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n3"), makeKeyspace(t, c, "n1", "kept"))
		do(t, c.Kill("n1", "n2"), c.Wipe("n2"), c.Start("n2", "n3"))
		time.Sleep(30 * time.Second)
		for _, id := range c.Running() {
			if err := makeKeyspace(t, c, id, "later"); err == nil {
				t.Errorf("%s and a voter without its disk changed the catalog", id)
			}
		}
		do(t, c.Start("n1"))
		time.Sleep(10 * time.Second) // until the lease of the n2 that was cannot hold
		known(t, c, "kept")
		ready(t, c)
		time.Sleep(30 * time.Second)
		do(t, c.Kill("n1"), makeKeyspace(t, c, "n3", "latest"))
	})
}

// The same when it is restarted before anybody took it in.
func TestAVoterWithoutItsDiskStaysWithoutItsVote(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n3"), makeKeyspace(t, c, "n1", "kept"))
		do(t, c.Kill("n1", "n2"), c.Wipe("n2"), c.Start("n2", "n3"))
		time.Sleep(3 * time.Second)
		do(t, c.Kill("n2", "n3"), c.Start("n2", "n3"))
		time.Sleep(30 * time.Second)
		if err := makeKeyspace(t, c, "n3", "later"); err == nil {
			t.Error("n3 and a voter without its disk changed the catalog")
		}
		do(t, c.Start("n1"))
		time.Sleep(10 * time.Second) // until the lease of the n2 that was cannot hold
		known(t, c, "kept")
		ready(t, c)
	})
}

// Nodes that crash as soon as the cluster is born still have their votes.
func TestACrashAtBirthCostsNoVote(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n1", "n2", "n3"), c.Wipe("n1"), c.Wipe("n2"), c.Wipe("n3"), c.Start("n1", "n2", "n3"))
		for range 10 {
			time.Sleep(120 * time.Millisecond)
			do(t, c.Kill("n1", "n2", "n3"), c.Start("n1", "n2", "n3"))
		}
		time.Sleep(5 * time.Second)
		ready(t, c)
		do(t, c.Kill("n2"), makeKeyspace(t, c, "n3", "later"))
	})
}
