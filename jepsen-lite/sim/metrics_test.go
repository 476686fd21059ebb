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

// seriesOf is a keyspace's metrics on a node, and the value of the label "to" of each series.
func seriesOf(t *testing.T, c *sim.Cluster, node fulcrum.NodeID, keyspace string) map[string][]string {
	t.Helper()
	families, err := c.Registry(node).Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string][]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			of, to := "", ""
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "keyspace":
					of = l.GetValue()
				case "to":
					to = l.GetValue()
				}
			}
			if of == keyspace {
				series[f.GetName()] = append(series[f.GetName()], to)
			}
		}
	}
	return series
}

// What counts for a keyspace is on every node from the start, at zero: a rate has no
// beginning otherwise, and an alert on it misses the first time.
func TestCountersOfAKeyspaceAreThereFromTheStart(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "a", consistency.Raft)
		ready(t, c)
		for _, name := range c.Names() { // one of them has no replica
			series := seriesOf(t, c, name, "a")
			for metric, want := range map[string][]string{
				"fulcrum_watch_events_total":                 {""},
				"fulcrum_mode_switch_shard_duration_seconds": {""},
				"fulcrum_mode_switch_shards_total":           {"leader-follower", "quorum", "raft"},
			} {
				if !slices.Equal(series[metric], want) {
					t.Errorf("%s: %s is there for %q, want %q", name, metric, series[metric], want)
				}
			}
		}
	})
}

// A keyspace that is dropped takes its series along: names that come and go would be labels
// for good. One of the same name counts anew.
func TestSeriesOfADroppedKeyspaceGo(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		use := func(keyspace string) {
			create(t, c, keyspace, consistency.Raft)
			ready(t, c)
			for i := range 8 {
				do(t, c.Call(t.Context(), "n1", func(ctx context.Context, b api.Backend) error {
					_, _, err := b.Write(ctx, api.Call{Keyspace: keyspace}, []fulcrum.Write{{Op: fulcrum.OpPut, Key: fmt.Append(nil, i), Value: []byte("v")}})
					return err
				}))
			}
		}
		for range 2 {
			use("a")
			if n := metricOf(t, c, "n1", "fulcrum_requests_total", "a"); n != 8 {
				t.Errorf("%v requests are counted, want 8", n)
			}
			do(t, c.Node("n1").DropKeyspace(t.Context(), "a"))
			time.Sleep(10 * time.Second)
			for _, name := range c.Names() {
				if left := seriesOf(t, c, name, "a"); len(left) > 0 {
					t.Errorf("%s: %v is still there", name, left)
				}
			}
		}
	})
}

// metricOf is the sum of a counter over the series of a keyspace.
func metricOf(t *testing.T, c *sim.Cluster, node fulcrum.NodeID, name, keyspace string) (sum float64) {
	t.Helper()
	families, err := c.Registry(node).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetName() == "keyspace" && l.GetValue() == keyspace {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}
