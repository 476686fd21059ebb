package sim_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// alter begins a switch of mode.
func alter(t *testing.T, c *sim.Cluster, at fulcrum.NodeID, keyspace, mode string) {
	t.Helper()
	if _, err := c.Node(at).AlterKeyspace(t.Context(), keyspace, fulcrum.KeyspacePatch{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
}

// awaitMode waits until all shards of a keyspace run in a mode.
func awaitMode(t *testing.T, c *sim.Cluster, at fulcrum.NodeID, keyspace, mode string) {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		var waits []fulcrum.ShardInfo
		for _, sh := range c.Node(at).Shards() {
			if sh.Keyspace == keyspace && (sh.Mode != mode || sh.Phase != "active") {
				waits = append(waits, sh)
			}
		}
		if len(waits) == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d shards of %s are not in mode %s: %+v", len(waits), keyspace, mode, waits[0])
		}
	}
}

// Shards that cannot change, as too few of their replicas are there, hold up no others.
func TestShardsThatCannotChangeHoldUpNoOthers(t *testing.T) {
	// Nothing that a round of the controller starts ends before the round does: so a step that
	// leads nowhere may take a place that another one needs.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for _, ks := range []fulcrum.KeyspaceSpec{{Name: "a", Mode: "quorum", Shards: 64, Replicas: 1}, {Name: "b", Mode: "raft", Shards: 4, Replicas: 3}} {
			if _, err := c.Node("n1").CreateKeyspace(t.Context(), ks); err != nil {
				t.Fatal(err)
			}
		}
		known(t, c, "b")
		ready(t, c)
		do(t, c.Kill("n3"))
		time.Sleep(10 * time.Second)
		alter(t, c, "n1", "a", "raft")
		time.Sleep(20 * time.Second)
		alter(t, c, "n1", "b", "quorum")
		awaitMode(t, c, "n1", "b", "quorum")
		do(t, c.Start("n3"))
		awaitMode(t, c, "n1", "a", "raft")
	})
}

// Shards whose replicas all live, and cannot settle as they are cut off from each other, are
// fenced for as long as that lasts. Those that share their replicas with them would be, too: no
// more of them are begun than are carried out at once.
func TestShardsThatCannotSettleAreNotAllFenced(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "q", Mode: "quorum", Shards: 64, Replicas: 3}); err != nil {
			t.Fatal(err)
		}
		known(t, c, "q")
		ready(t, c)
		time.Sleep(5 * time.Second)
		controls := c.Node("n1").Cluster().CatalogLeader
		cuts := 0
		for _, a := range c.Names() {
			for _, b := range c.Names() {
				if a != b && a != controls && b != controls {
					cuts++
					do(t, c.Inject(fulcrum.Fault{ID: fmt.Sprint("cut", cuts), Kind: "link", From: a, To: b, Drop: true, Only: "peers"}))
				}
			}
		}
		time.Sleep(5 * time.Second)
		if now := c.Node(controls).Cluster().CatalogLeader; now != controls {
			t.Fatalf("this shows nothing: %s leads the catalog", now)
		}
		alter(t, c, controls, "q", "raft")
		time.Sleep(time.Minute)
		fenced := 0
		for _, sh := range c.Node(controls).Shards() {
			if sh.Phase != "active" {
				fenced++
			}
		}
		if fenced == 0 || fenced > 8 {
			t.Errorf("%d of 64 shards are fenced, as none can settle; more than 8 are too many, and 0 show nothing", fenced)
		}
		for i := range cuts {
			do(t, c.Heal(fmt.Sprint("cut", i+1)))
		}
		awaitMode(t, c, controls, "q", "raft")
	})
}

// A shard whose leader the catalog's leader cannot reach changes all the same, as others reach
// both.
func TestTheCatalogsLeaderCannotReachTheShards(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "cp", Mode: "raft", Shards: 9, Replicas: 3}); err != nil {
			t.Fatal(err)
		}
		known(t, c, "cp")
		ready(t, c)
		do(t, put(c, "n1", api.Call{Keyspace: "cp"}, "k", "v"))
		time.Sleep(5 * time.Second)
		controls := c.Node("n1").Cluster().CatalogLeader
		led := func(at fulcrum.NodeID) (shards map[fulcrum.NodeID]int) {
			shards = map[fulcrum.NodeID]int{}
			for _, sh := range c.Node(at).Shards() {
				shards[sh.Leader]++
			}
			return shards
		}
		var leads, third fulcrum.NodeID
		for id := range led("n1") {
			if id != controls && id != "" {
				leads = id
			}
		}
		for _, id := range c.Names() {
			if id != controls && id != leads {
				third = id
			}
		}
		do(t, c.Inject(fulcrum.Fault{ID: "cut", Kind: "link", From: controls, To: leads, Drop: true, Only: "peers"}))
		time.Sleep(5 * time.Second)
		if now := c.Node(third).Cluster().CatalogLeader; now != controls || led(third)[leads] == 0 {
			t.Fatalf("this shows nothing: %s leads the catalog, and the shards are led so: %v", now, led(third))
		}
		alter(t, c, third, "cp", "quorum")
		awaitMode(t, c, third, "cp", "quorum")
		// A replica that hears nothing of the catalog stays in the old epoch until the cut heals.
		do(t, c.Heal("cut"))
		serving(t, c, "cp")
		if got, err := get(c, third, at("cp", consistency.QuorumOf), "k"); err != nil || got != "v" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func votersOf(c *sim.Cluster, at fulcrum.NodeID) (voters []fulcrum.NodeID) {
	for _, n := range c.Node(at).Cluster().Nodes {
		if n.Voter {
			voters = append(voters, n.Name)
		}
	}
	return voters
}

// However many voters leave, and others take their place, there are as many as before.
func TestVotersThatAreReplacedBecomeNoMore(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		for _, id := range []fulcrum.NodeID{"n3", "n2"} {
			removed(t, c, id)
			if voters := votersOf(c, "n1"); len(voters) != 3 && id == "n3" {
				t.Errorf("without %s the voters are %v", id, voters)
			}
			do(t, c.Start(id))
			ready(t, c)
			time.Sleep(10 * time.Second)
			if voters := votersOf(c, "n1"); len(voters) != 3 {
				t.Errorf("with another %s the voters are %v", id, voters)
			}
		}
	})
}

// A removal that has to wait makes no voter each time that it is tried.
func TestARemovalThatWaitsMakesOneVoter(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 8}, func(t *testing.T, c *sim.Cluster) {
		if voters := votersOf(c, "n1"); len(voters) != 5 {
			t.Fatalf("the voters are %v", voters)
		}
		do(t, c.Kill("n4", "n5"))
		time.Sleep(10 * time.Second)
		do(t, c.Remove(t.Context(), "n1", "n3"))
		time.Sleep(30 * time.Second)
		if voters := votersOf(c, "n1"); len(voters) > 6 {
			t.Errorf("the voters are %v", voters)
		}
		do(t, c.Start("n4", "n5"))
		awaitGone(t, c, "n3")
		if voters := votersOf(c, "n1"); len(voters) != 5 {
			t.Errorf("in the end the voters are %v", voters)
		}
	})
}

// The only voter can be removed: another node takes its place.
func TestTheOnlyVoterIsRemoved(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 2}, func(t *testing.T, c *sim.Cluster) {
		if voters := votersOf(c, "n2"); fmt.Sprint(voters) != "[n1]" {
			t.Fatalf("the voters are %v", voters)
		}
		do(t, makeKeyspace(t, c, "n1", "kept"), c.Remove(t.Context(), "n2", "n1"))
		awaitEnd(t, c, "n1")
		if voters := votersOf(c, "n2"); fmt.Sprint(voters) != "[n2]" {
			t.Errorf("the voters are %v", voters)
		}
		do(t, makeKeyspace(t, c, "n2", "later"))
	})
}
