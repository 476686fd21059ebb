package sim_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// What a node owes to a keyspace that is dropped while it hands it over does not go to
// another one that gets the name.
func TestLateWritesKeepToTheirKeyspace(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		leader := c.Node("n1").Cluster().CatalogLeader
		home := placedAwayFrom(t, c, leader) // its news of the catalog would come as late as its answers
		away := c.Names()[slices.IndexFunc(c.Names(), func(id fulcrum.NodeID) bool { return id != home && id != leader })]
		do(t, c.Inject(fulcrum.Fault{ID: "cut", Kind: "isolate", Node: away}))
		time.Sleep(time.Second)
		const batches = 5
		for i := range batches {
			do(t, c.Call(t.Context(), away, func(ctx context.Context, b api.Backend) error {
				ws := make([]fulcrum.Write, fulcrum.MaxOpsPerBatch)
				for j := range ws {
					ws[j] = fulcrum.Write{Op: fulcrum.OpPut, Key: fmt.Appendf(nil, "k%d-%03d", i, j), Value: []byte("old")}
				}
				_, _, err := b.Write(ctx, at("ap", consistency.Any), ws)
				return err
			}))
		}
		do(t, c.Inject(fulcrum.Fault{ID: "slow", Kind: "link", From: home, To: away, OneWay: true, Delay: fulcrum.Duration(300 * time.Millisecond), Only: "peers"}), c.Heal("cut"))
		for got, until := "", time.Now().Add(time.Minute); got == "" && time.Now().Before(until); time.Sleep(5 * time.Millisecond) { // the first batch is there, and not yet answered
			var err error
			got, err = get(c, home, at("ap", consistency.One), "k0-000")
			do(t, err)
		}
		do(t, c.Node(leader).DropKeyspace(t.Context(), "ap"))
		_, err := c.Node(leader).CreateKeyspace(t.Context(), onOneNode)
		do(t, err)
		time.Sleep(20 * time.Second)
		page, _, err := c.Node(leader).Scan(t.Context(), at("ap", consistency.One), api.Scan{})
		if err != nil || len(page.Entries) > 0 {
			t.Errorf("the new keyspace has %d writes of the old one, %v", len(page.Entries), err)
		}
	})
}

var onOneNode = fulcrum.KeyspaceSpec{Name: "ap", Mode: "quorum", Shards: 1, Replicas: 1}

// placedAwayFrom makes the keyspace onOneNode, and returns the node that has it: not the one
// named.
func placedAwayFrom(t *testing.T, c *sim.Cluster, not fulcrum.NodeID) fulcrum.NodeID {
	t.Helper()
	for {
		_, err := c.Node("n1").CreateKeyspace(t.Context(), onOneNode)
		do(t, err)
		ready(t, c)
		if home := c.Node("n1").Shards()[0].Replicas[0].Node; home != not {
			return home
		}
		do(t, c.Node("n1").DropKeyspace(t.Context(), onOneNode.Name))
	}
}
