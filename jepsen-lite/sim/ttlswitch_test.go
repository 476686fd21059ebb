package sim_test

import (
	"context"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// The clock of a raft shard's log stands still while nobody is there. A key that has an hour
// to live has it, also when its keyspace is then switched to a mode that goes by wall clocks.
func TestASwitchOfModeTakesNoTimeFromKeys(t *testing.T) {
	for _, mode := range []string{"quorum", "leader-follower"} {
		inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
			create(t, c, "ks", consistency.Raft)
			ready(t, c)
			do(t, put(c, "n1", api.Call{Keyspace: "ks"}, "first", "v"))
			do(t, c.Kill("n1", "n2", "n3"))
			time.Sleep(3 * time.Hour)
			do(t, c.Start("n1", "n2", "n3"))
			ready(t, c)
			serving(t, c, "ks")
			do(t, c.Call(t.Context(), "n1", func(ctx context.Context, b api.Backend) error {
				_, _, err := b.Write(ctx, api.Call{Keyspace: "ks"}, []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v"), TTL: time.Hour.Milliseconds()}})
				return err
			}))
			if got, err := get(c, "n2", api.Call{Keyspace: "ks"}, "k"); err != nil || got != "v" {
				t.Fatalf("before the switch: %q, %v", got, err)
			}
			alter(t, c, "n1", "ks", mode)
			awaitMode(t, c, "n1", "ks", mode)
			if got, err := get(c, "n2", api.Call{Keyspace: "ks"}, "k"); err != nil || got != "v" {
				t.Errorf("in mode %s: %q, %v", mode, got, err)
			}
			time.Sleep(2 * time.Hour)
			if got, err := get(c, "n2", api.Call{Keyspace: "ks"}, "k"); err != nil || got != "" {
				t.Errorf("two hours later, in mode %s: %q, %v", mode, got, err)
			}
		})
	}
}
