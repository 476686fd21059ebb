package sim_test

import (
	"fmt"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
)

// A keyspace whose nodes were removed until fewer were left than it wants replicas gets
// them back when nodes come, and loses nothing: neither meanwhile nor when
// one of those that stayed dies afterwards.
func TestReplicasComeBackWithNewNodes(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 5}, func(t *testing.T, c *sim.Cluster) {
		want := map[string]int{"cp": 3, "ap": 3, "lf": 3, "wide": 5}
		for name, replicas := range want {
			spec := fulcrum.KeyspaceSpec{Name: name, Mode: "raft", Shards: 4, Replicas: replicas}
			if mode, ok := modes[name]; ok {
				spec.Mode = mode.String()
			}
			if _, err := c.Node("n1").CreateKeyspace(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			known(t, c, name)
		}
		ready(t, c)
		w, stop := writers(c, 1, 20*time.Millisecond, "cp", "ap", "lf", "wide")
		defer stop()
		back := []fulcrum.NodeID{"n3", "n4", "n5"}
		for _, id := range back {
			removed(t, c, id)
		}
		for name := range want {
			if k, err := c.Node("n1").Keyspace(name); err != nil || k.Placed != 2 || k.Replicas != want[name] {
				t.Errorf("%s has %d of %d replicas on two nodes, %v", name, k.Placed, k.Replicas, err)
			}
		}
		if err := c.Start(back...); err != nil {
			t.Fatal(err)
		}
		awaitPlaced(t, c, want)
		time.Sleep(time.Second)
		awaitAcked(t, w, 100)
		stop()
		if err := c.Kill("n2"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		for name := range want {
			wantAll(t, c, "n3", name, w[name].acked)
		}
	})
}

// awaitAcked waits until so many writes of each keyspace were acknowledged.
func awaitAcked(t *testing.T, ws map[string]*writer, least int) {
	t.Helper()
	until := time.Now().Add(time.Minute)
	for name, w := range ws {
		for w.count() < least {
			if time.Now().After(until) {
				t.Fatalf("%s: only %d writes were acknowledged", name, w.count())
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// removed takes a node out of the cluster, and its disk from it.
func removed(t *testing.T, c *sim.Cluster, id fulcrum.NodeID) {
	t.Helper()
	do(t, c.Remove(t.Context(), "n1", id))
	awaitGone(t, c, id)
	awaitEnd(t, c, id)
	do(t, c.Wipe(id))
}

// awaitPlaced waits until every shard has so many replicas, and each of them the data.
func awaitPlaced(t *testing.T, c *sim.Cluster, want map[string]int) {
	t.Helper()
	why := func() string {
		for _, sh := range c.Node("n1").Shards() {
			for _, r := range sh.Replicas {
				if !r.Known || r.CatchingUp {
					return fmt.Sprintf("%s of %s: %+v", sh.Start, sh.Keyspace, r)
				}
			}
			if len(sh.Replicas) != want[sh.Keyspace] || sh.Phase != "active" || len(sh.Learners) > 0 {
				return fmt.Sprintf("%+v", sh)
			}
		}
		return ""
	}
	for until := time.Now().Add(2 * time.Minute); why() != ""; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("not all replicas are back: %s", why())
		}
	}
}
