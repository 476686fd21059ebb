package sim_test

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// inBubble runs f with a ready cluster in virtual time. The bubble fails when a
// goroutine of the cluster is left after it was closed.
func inBubble(t *testing.T, opt sim.ClusterOptions, f func(t *testing.T, c *sim.Cluster)) {
	t.Helper()
	opt.Dir = t.TempDir()
	if os.Getenv("SIM_LOG") != "" {
		opt.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := sim.OpenCluster(ctx, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.Close(); err != nil {
				t.Errorf("closing the cluster: %v", err)
			}
		}()
		f(t, c)
	})
}

// create makes one keyspace with a replica of one shard on every node.
func create(t *testing.T, c *sim.Cluster, name string, mode consistency.Mode) {
	t.Helper()
	_, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: name, Mode: mode.String(), Shards: 1, Replicas: len(c.Names())})
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	ready(t, c)
}

func ready(t *testing.T, c *sim.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

func put(c *sim.Cluster, at fulcrum.NodeID, call api.Call, key, value string) (consistency.Receipt, error) {
	_, r, err := c.Node(at).Write(context.Background(), call, []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte(key), Value: []byte(value)}})
	return r, err
}

// get returns the live value at a key, or "".
func get(c *sim.Cluster, at fulcrum.NodeID, call api.Call, key string) (string, error) {
	n := c.Node(at)
	entries, _, err := n.Read(context.Background(), call, [][]byte{[]byte(key)})
	if err != nil || !entries[0].Live(n.Now()) {
		return "", err
	}
	return string(entries[0].Value), nil
}

var modes = map[string]consistency.Mode{"cp": consistency.Raft, "ap": consistency.Quorum, "lf": consistency.LeaderFollower}

func TestEveryNodeServesEveryMode(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
			call := api.Call{Keyspace: name}
			for _, at := range c.Names() {
				if _, err := put(c, at, call, "at-"+string(at), "v"); err != nil {
					t.Errorf("%s: write at %s: %v", name, at, err)
				}
				for _, other := range c.Names() {
					if got, err := get(c, other, call, "at-"+string(at)); err != nil || got != "v" {
						t.Errorf("%s: read at %s of what %s wrote: %q, %v", name, other, at, got, err)
					}
				}
			}
		}
	})
}
