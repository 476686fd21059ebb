package node

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
)

// A replica in mode raft has nothing to hand over: one that cannot even be opened in the
// epoch that it missed the end of must be able to begin anew in the next.
func TestARaftReplicaThatCannotBeOpenedHoldsNothingUp(t *testing.T) {
	n := openTestQueue(t).n
	n.opt = Options{Name: "n1", Registry: prometheus.NewRegistry()}
	n.metrics = newMetrics(n)
	n.clock = newSwapClock(n.wall, 1)
	ref := catalog.ShardRef{Keyspace: &catalog.Keyspace{Name: "ks", Durability: "fsync"}, Shard: &catalog.Shard{Group: 7, Epoch: 3, Mode: consistency.Raft}}
	old := record{Epoch: 1, Mode: consistency.Raft, Based: true, Replicas: []fulcrum.NodeID{"n1"}} // and its State is empty
	if err := newHost(n).handOverLeftovers(t.Context(), ref, old); err != nil {
		t.Error(err)
	}
}
