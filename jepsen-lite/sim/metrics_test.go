package sim_test

import (
	"slices"
	"testing"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
)

// What counts for a keyspace is on every node from the start, at zero: a rate has no
// beginning otherwise, and an alert on it misses the first time.
func TestCountersOfAKeyspaceAreThereFromTheStart(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "a", consistency.Raft)
		ready(t, c)
		for _, name := range c.Names() { // one of them has no replica
			families, err := c.Registry(name).Gather()
			if err != nil {
				t.Fatal(err)
			}
			series := map[string][]string{}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					keyspace, to := "", ""
					for _, l := range m.GetLabel() {
						switch l.GetName() {
						case "keyspace":
							keyspace = l.GetValue()
						case "to":
							to = l.GetValue()
						}
					}
					if keyspace == "a" {
						series[f.GetName()] = append(series[f.GetName()], to)
					}
				}
			}
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
