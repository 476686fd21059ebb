package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
)

var one = consistency.L(consistency.One)

// replica is what one node itself holds of a keyspace: value and version of each key.
func (c *cluster) replica(node fulcrum.NodeID, keyspace string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	have := map[string]string{}
	for item, err := range c.client().Scan(ctx, keyspace, client.Range{}, client.On(node), client.Level(one), client.NoRetry()) {
		if err != nil {
			return nil, err
		}
		have[item.Key] = fmt.Sprintf("%q at %s", item.Value, item.Version)
	}
	return have, nil
}

// converges waits until every node holds the same keys, values and versions, and
// returns them.
func (c *cluster) converges(keyspace string, least int) map[string]string {
	c.t.Helper()
	var first map[string]string
	eventually(c.t, 45*time.Second, "convergence of "+keyspace, func() error {
		first = nil
		for _, node := range c.Names() {
			have, err := c.replica(node, keyspace)
			if err != nil {
				return fmt.Errorf("%s: %w", node, err)
			}
			if len(have) < least {
				return fmt.Errorf("%s has %d keys of %d", node, len(have), least)
			}
			if first == nil {
				first = have
			}
			if !maps.Equal(first, have) {
				return fmt.Errorf("%s differs from %s: %s", node, c.Nodes[0].Name, difference(first, have))
			}
		}
		return nil
	})
	return first
}

func difference(a, b map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if a[k] != b[k] {
			out = append(out, fmt.Sprintf("%s: %s, %s", k, a[k], b[k]))
		}
	}
	return fmt.Sprintf("%d and %d keys; %s", len(a), len(b), strings.Join(out[:min(len(out), 3)], "; "))
}

// A node that was away comes back and ends up with exactly what the others have.
func TestMinorityHealsAndConverges(t *testing.T) {
	t.Parallel()
	c := start(t, 5, 0)
	const keys = 200
	levels := map[string]consistency.Kind{"ap": consistency.One, "cp": consistency.QuorumOf, "lf": consistency.QuorumOf}
	c.kill("n5")
	var g errgroup.Group
	for keyspace, level := range levels {
		for w := range 4 {
			g.Go(func() error { return c.fill(keyspace, level, w, keys/4) })
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	c.launch("n5")
	for keyspace := range levels {
		have := c.converges(keyspace, keys)
		if len(have) != keys {
			t.Errorf("%s has %d keys, want %d", keyspace, len(have), keys)
		}
	}
	c.lateWrites()
}

// fill writes n keys through the nodes that are up, trying again what was refused:
// a leader may have been on the node that was killed.
func (c *cluster) fill(keyspace string, level consistency.Kind, w, n int) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), 60*time.Second)
	defer cancel()
	for i := 0; i < n; {
		key := fmt.Sprintf("%c-%d-%d", "05bhkpsz"[i%8], w, i)
		_, err := c.client().Put(ctx, keyspace, key, []byte(strings.Repeat(key, 20)), client.On(c.Nodes[(w+i)%4].Name), client.Level(consistency.L(level)), client.NoRetry())
		if err == nil {
			i++
		} else if sleepFor(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// lateWrites: n1, cut off, takes writes at level one that nobody else has, and dies;
// the others switch to raft without it. When it comes back, what it alone held is there,
// but where somebody has written since.
func (c *cluster) lateWrites() {
	c.t.Helper()
	before := c.converges("ap", 1)
	c.must("fault", "isolate", "n1")
	for i := range 10 {
		c.must("put", "-k", "ap", "--node", "n1", "--level", "one", fmt.Sprintf("late-%d", i), fmt.Sprintf("only on n1 %d", i))
	}
	c.must("put", "-k", "ap", "--node", "n1", "--level", "one", "overtaken", "old")
	c.must("put", "-k", "ap", "--node", "n3", "overtaken", "new")
	c.kill("n1")
	c.must("keyspace", "alter", "ap", "--mode", "raft")
	c.must("put", "-k", "ap", "--node", "n3", "late-0", "newer than what n1 has")
	c.must("fault", "heal")
	c.launch("n1")
	want := map[string]string{"overtaken": "new", "late-0": "newer than what n1 has"}
	for i := 1; i < 10; i++ {
		want[fmt.Sprintf("late-%d", i)] = fmt.Sprintf("only on n1 %d", i)
	}
	eventually(c.t, 45*time.Second, "late writes are handed over", func() error {
		for _, key := range slices.Sorted(maps.Keys(want)) {
			item, err := c.client().Get(c.t.Context(), "ap", key)
			if err != nil || string(item.Value) != want[key] {
				return fmt.Errorf("%s holds %q, %v; want %q", key, item.Value, err, want[key])
			}
		}
		k, err := c.client().Keyspace(c.t.Context(), "ap")
		if err != nil || k.Switch == nil || k.Switch.LateKeys < 9 {
			return fmt.Errorf("the keyspace counts no late writes: %+v, %v", k.Switch, err)
		}
		return nil
	})
	after := c.converges("ap", len(before)+len(want))
	for key, value := range before {
		if after[key] != value {
			c.t.Errorf("%s was %s before the switch, and is %s", key, value, after[key])
		}
	}
}
