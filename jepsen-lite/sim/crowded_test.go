package sim_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// A node's links are slow, and full of large values that its clients write to shards that
// others lead. It goes on leading its own shard, which goes on serving.
func TestLargeWritesOverASlowLinkCostNoLeadership(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		keyspaces := []string{"ks1", "ks2", "ks3"}
		for _, ks := range keyspaces {
			if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: ks, Mode: "raft", Shards: 1, Replicas: 3}); err != nil {
				t.Fatal(err)
			}
			known(t, c, ks)
		}
		ready(t, c)
		led := map[fulcrum.NodeID]string{} // by each node, one
		for until := time.Now().Add(time.Minute); len(led) < 3; time.Sleep(time.Second) {
			if time.Now().After(until) {
				t.Fatalf("leaders after a minute: %v", led)
			}
			clear(led)
			for _, ks := range keyspaces {
				if l := shardOf(c, "n1", ks).Leader; l != "" {
					led[l] = ks
				}
			}
		}
		const slow = fulcrum.NodeID("n2")
		for _, to := range c.Names() {
			if to == slow {
				continue
			}
			if err := c.Inject(fulcrum.Fault{Kind: "link", From: slow, To: to, OneWay: true, Rate: 1_000_000, Only: "peers"}); err != nil {
				t.Fatal(err)
			}
		}
		var writes sync.WaitGroup
		var stop atomic.Bool
		defer writes.Wait()
		defer stop.Store(true)
		var large atomic.Int64
		value := strings.Repeat("x", fulcrum.DefaultMaxValue)
		for _, ks := range keyspaces {
			if ks == led[slow] {
				continue
			}
			for i := range 4 {
				writes.Go(func() {
					for !stop.Load() {
						time.Sleep(time.Millisecond)
						if err := put(c, slow, api.Call{Keyspace: ks}, fmt.Sprint("large", i), value); err == nil {
							large.Add(1)
						}
					}
				})
			}
		}
		time.Sleep(time.Second)
		worst := time.Duration(0)
		for i := range 100 {
			begun := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			err := c.Call(ctx, slow, func(ctx context.Context, b api.Backend) error {
				_, _, err := b.Write(ctx, api.Call{Keyspace: led[slow]}, []fulcrum.Write{{Op: fulcrum.OpPut, Key: fmt.Append(nil, "small", i), Value: []byte("v")}})
				return err
			})
			cancel()
			if err != nil {
				t.Errorf("small write %d: %v", i, err)
			}
			worst = max(worst, time.Since(begun))
			for _, n := range c.Names() {
				if l := shardOf(c, n, led[slow]).Leader; l != slow {
					t.Fatalf("after %d small writes, of up to %v, %s says that %q leads, want %s", i, worst, n, l, slow)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if worst > 500*time.Millisecond {
			t.Errorf("a small write took %v", worst)
		}
		stop.Store(true)
		writes.Wait()
		if n := large.Load(); n < 10 { // 2 MB/s for more than ten seconds
			t.Errorf("%d large writes were done", n)
		}
	})
}
