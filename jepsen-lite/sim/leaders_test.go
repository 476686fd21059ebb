package sim_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

const clients = 8

// leads counts the shards of a keyspace that each running node leads.
func leads(c *sim.Cluster, keyspace string) map[fulcrum.NodeID]int {
	out := map[fulcrum.NodeID]int{}
	for _, name := range c.Running() {
		out[name] = 0
	}
	for _, s := range c.Node(c.Running()[0]).Shards() {
		if s.Keyspace == keyspace && s.Leader != "" {
			out[s.Leader]++
		}
	}
	return out
}

// even reports whether every shard has a leader and no two nodes differ by more than by.
func even(leads map[fulcrum.NodeID]int, shards, by int) bool {
	least, most := shards, 0
	for _, n := range leads {
		least, most, shards = min(least, n), max(most, n), shards-n
	}
	return most-least <= by && shards == 0
}

// handedOver sums a metric over all nodes that run.
func handedOver(t *testing.T, c *sim.Cluster, why string) (sum float64) {
	t.Helper()
	for _, name := range c.Running() {
		families, err := c.Registry(name).Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "fulcrum_leader_handovers_total" {
				continue
			}
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "why" && l.GetValue() == why {
						sum += m.GetCounter().GetValue()
					}
				}
			}
		}
	}
	return sum
}

// load writes through some nodes, each client after a pause, until stopped; each write
// must be done within limit.
func load(c *sim.Cluster, pause, limit time.Duration, at ...fulcrum.NodeID) (stop func() (done int, errs []error)) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	done := 0
	end := make(chan struct{})
	for i := range clients {
		wg.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-end:
					return
				case <-time.After(pause):
				}
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				err := c.Call(ctx, at[i%len(at)], func(ctx context.Context, b api.Backend) error {
					_, _, err := b.Write(ctx, api.Call{Keyspace: "cp"}, []fulcrum.Write{{Op: fulcrum.OpPut, Key: fmt.Append(nil, i, "-", j%50), Value: []byte("v")}})
					return err
				})
				cancel()
				mu.Lock()
				if done++; err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
			}
		})
	}
	return func() (int, []error) {
		close(end)
		wg.Wait()
		return done, errs
	}
}

// spread waits until all nodes lead about as many shards.
func spread(t *testing.T, c *sim.Cluster, shards, by int) {
	t.Helper()
	for range 60 {
		if even(leads(c, "cp"), shards, by) {
			return
		}
		time.Sleep(time.Second)
	}
	t.Fatalf("leaders after a minute: %v", leads(c, "cp"))
}

func shards(t *testing.T, c *sim.Cluster, n, replicas int) {
	t.Helper()
	if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "cp", Mode: "raft", Shards: n, Replicas: replicas}); err != nil {
		t.Fatal(err)
	}
	known(t, c, "cp")
	ready(t, c)
}

// After a failure one node leads more than its share; that evens out by itself, fails no
// request, and then rests.
func TestLeadershipIsSpreadAgain(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		shards(t, c, 8, 3)
		for _, down := range []fulcrum.NodeID{"n2"} {
			if err := c.Kill(down); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			if err := c.Start(down); err != nil {
				t.Fatal(err)
			}
			ready(t, c)
			if l := leads(c, "cp"); even(l, 8, 1) {
				t.Errorf("leaders are spread before anything was done: %v", l)
			}
			stop := load(c, 100*time.Millisecond, time.Second, c.Names()...)
			spread(t, c, 8, 1)
			time.Sleep(5 * time.Second)
			before := handedOver(t, c, "spread")
			time.Sleep(time.Minute)
			if done, errs := stop(); len(errs) > 0 {
				t.Errorf("%d of %d writes failed: %v", len(errs), done, errs[0])
			}
			if after := handedOver(t, c, "spread"); after != before || before == 0 {
				t.Errorf("%v leaderships were handed over, and %v in a minute with nothing to do", before, after-before)
			}
		}
	})
}

// A planned stop of any node, which leads some shards, fails no request at the others
// and lets none wait for an election timeout.
func TestAPlannedStopFailsNoRequest(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 5}, func(t *testing.T, c *sim.Cluster) {
		shards(t, c, 10, 3)
		spread(t, c, 10, 2) // a move needs a shard that both have
		for _, down := range c.Names()[:3] {
			rest := slices.DeleteFunc(c.Names(), func(id fulcrum.NodeID) bool { return id == down })
			stop := load(c, 5*time.Millisecond, 700*time.Millisecond, rest...)
			time.Sleep(time.Second)
			if leads(c, "cp")[down] == 0 {
				t.Fatalf("%s leads nothing: %v", down, leads(c, "cp"))
			}
			if err := c.Stop(down); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
			done, errs := stop()
			if len(errs) > 0 {
				t.Errorf("stop of %s: %d of %d writes failed: %v", down, len(errs), done, errs[0])
			}
			if done < 500 {
				t.Errorf("only %d writes were made", done)
			}
			if err := c.Start(down); err != nil {
				t.Fatal(err)
			}
			ready(t, c)
			spread(t, c, 10, 2) // a move needs a shard that both have
		}
	})
}

// A disk on which syncs take 5 s: the node's leaderships move, it says so, gets none
// back while the fault lasts, and some after.
func TestAStalledDiskLosesItsLeaderships(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		shards(t, c, 6, 3)
		spread(t, c, 6, 1)
		for _, bad := range c.Names() { // the catalog's leader is one of them
			rest := slices.DeleteFunc(c.Names(), func(id fulcrum.NodeID) bool { return id == bad })
			if leads(c, "cp")[bad] == 0 {
				t.Fatalf("%s leads nothing: %v", bad, leads(c, "cp"))
			}
			stop := load(c, 50*time.Millisecond, 2500*time.Millisecond, rest...)
			time.Sleep(time.Second)
			if err := c.Inject(fulcrum.Fault{ID: "stall", Kind: "disk", Node: bad, Stall: fulcrum.Duration(5 * time.Second)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Second)
			if n := leads(c, "cp")[bad]; n > 0 {
				t.Errorf("%s leads %d shards on a stalled disk", bad, n)
			}
			said := false
			for _, h := range c.Node(bad).Ready() {
				said = said || h.Check == "disk" && h.Err != ""
			}
			if !said {
				t.Errorf("%s says nothing of its disk: %+v", bad, c.Node(bad).Ready())
			}
			done, errs := stop()
			unknown := 0
			for _, err := range errs {
				if !fulcrum.AsError(err).Maybe {
					t.Errorf("a write failed: %v", err)
				}
				unknown++
			}
			// Those that were in a log when it stalled.
			if unknown > clients {
				t.Errorf("%d of %d writes have an unknown outcome, the first: %v", unknown, done, errs[0])
			}
			if err := c.Heal(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second) // the syncs under way end
			ready(t, c)
			spread(t, c, 6, 1)
			if n := leads(c, "cp")[bad]; n == 0 {
				t.Errorf("%s leads nothing with a disk that works: %v", bad, leads(c, "cp"))
			}
		}
	})
}
