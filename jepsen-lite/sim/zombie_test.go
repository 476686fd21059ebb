package sim_test

import (
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
)

// A node that was removed while it was cut off is told when it is back, and ends: else it
// would answer with what it had then, for ever.
func TestANodeThatWasRemovedBehindACutEnds(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		do(t, put(c, "n1", at("cp", consistency.QuorumOf), "k", "old"))
		time.Sleep(5 * time.Second) // it has its lease
		do(t, c.Inject(fulcrum.Fault{ID: "cut", Kind: "isolate", Node: "n4"}))
		time.Sleep(5 * time.Second)
		do(t, c.Remove(t.Context(), "n1", "n4"))
		awaitGone(t, c, "n4")
		do(t, c.Heal("cut"))
		time.Sleep(30 * time.Second)
		if slices.Contains(c.Running(), "n4") {
			do(t, put(c, "n1", at("cp", consistency.QuorumOf), "k", "new"))
			time.Sleep(30 * time.Second)
			got, err := get(c, "n4", at("cp", consistency.One), "k")
			t.Errorf("n4 still runs, and reads %q, %v", got, err)
		}
	})
}
