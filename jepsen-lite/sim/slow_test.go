package sim_test

import (
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
)

// A node behind a long line, which was not heard of for a while, is reached; only the first
// request may take it for a dead one.
func TestANodeBehindALongLineIsReached(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		leader := c.Node("n1").Cluster().CatalogLeader
		home := placedAwayFrom(t, c, leader)
		for _, away := range c.Names() {
			if away != home {
				do(t, c.Inject(fulcrum.Fault{ID: "to-" + string(away), Kind: "link", From: home, To: away, OneWay: true, Delay: fulcrum.Duration(300 * time.Millisecond), Only: "peers"}))
			}
		}
		other := c.Names()[slices.IndexFunc(c.Names(), func(id fulcrum.NodeID) bool { return id != home && id != leader })] // hears nothing of home by itself
		failed := 0
		for range 10 {
			time.Sleep(10 * time.Second)
			if err := put(c, other, at("ap", consistency.One), "k", "v"); err != nil {
				failed++
			}
		}
		if failed > 1 {
			t.Errorf("%d of 10 writes were refused", failed)
		}
	})
}
