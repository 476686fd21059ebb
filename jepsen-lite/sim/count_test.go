package sim_test

import (
	"context"
	"testing"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// A key that is written again and again is one key to those who ask how many there are.
func TestACountKnowsOverwrites(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3, Seed: 1}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		for i := range 50 {
			if i%20 == 1 {
				time.Sleep(15 * time.Second) // the engine has the key
			}
			if _, err := add(c, "n1", "cp", ""); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second) // what nodes said about themselves is kept for a moment
		err := c.Call(context.Background(), "n2", func(ctx context.Context, b api.Backend) error {
			n, err := b.Count(ctx, "cp")
			if err == nil && n != 1 {
				t.Errorf("%d keys, want 1", n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
