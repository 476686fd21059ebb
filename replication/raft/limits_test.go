package raft_test

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// Nodes may take values of different sizes, and a node may be started again with another
// limit: what a write leaves is decided by the limit of the node that led when it was
// proposed, on all replicas, also when they apply it anew after a restart.
func TestNodesOfDifferentValueLimitsAgree(t *testing.T) {
	limits := map[fulcrum.NodeID]int{"n1": 10, "n2": 20, "n3": 30}
	opt := replicationtest.Options{Edit: func(env *replication.Env) { env.MaxValue = limits[env.Node] }}
	synctest.Test(t, func(t *testing.T) {
		c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{}), opt)
		defer c.Close()
		same := func(when string) {
			t.Helper()
			for _, id := range c.IDs {
				level := func() bool { return c.State(id).Applied() >= c.State(leader(t, c)).Applied() }
				for until := time.Now().Add(time.Minute); !level(); time.Sleep(10 * time.Millisecond) {
					if time.Now().After(until) {
						t.Fatalf("%s: %s stays behind", when, id)
					}
				}
			}
			for _, id := range c.IDs[1:] {
				if got, want := c.State(id).Dump(), c.State(c.IDs[0]).Dump(); !reflect.DeepEqual(got, want) {
					t.Fatalf("%s: %s holds\n%v\n%s holds\n%v", when, id, got, c.IDs[0], want)
				}
			}
		}
		for _, lead := range c.IDs {
			for until := time.Now().Add(time.Minute); leader(t, c) != lead; {
				if time.Now().After(until) {
					t.Fatalf("%s does not come to lead", lead)
				}
				ctx, cancel := within(5 * time.Second)
				_ = c.Group(leader(t, c)).(*raft.Group).HandOverTo(ctx, lead)
				cancel()
			}
			key := []byte("of " + lead)
			put := replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: key, Value: make([]byte, 9), Quiet: true}}}
			add := replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpAppend, Key: key, Value: make([]byte, 9)}}}
			for i, req := range []replication.WriteRequest{put, add, add, add} {
				ctx, cancel := within(5 * time.Second)
				rep, err := c.Group(lead).Write(ctx, req)
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				if want := 9*(i+1) <= limits[lead]; rep.Results[0].Applied != want {
					t.Errorf("%s led, value %d: applied is %v, want %v", lead, i, rep.Results[0].Applied, want)
				}
			}
			same("as it came")
		}
		limits = map[fulcrum.NodeID]int{"n1": 1000, "n2": 1, "n3": 5}
		for _, id := range c.IDs {
			c.Restart(id) // what was not durable is applied anew
		}
		leader(t, c)
		mustPut(t, c, leader(t, c), "k", "v")
		same("applied anew under other limits")
	})
}
