package raft_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

func opener(t raft.Tuning) replicationtest.OpenFunc {
	return func(env replication.Env) (replication.Group, error) {
		return raft.Open(env, raft.Options{Tuning: t})
	}
}

func put(key, value string) replication.WriteRequest {
	return replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte(key), Value: []byte(value)}}}
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// cluster runs f over n fresh replicas inside a bubble.
func cluster(t *testing.T, n int, tuning raft.Tuning, f func(t *testing.T, c *replicationtest.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := replicationtest.NewCluster(t, n, opener(tuning), replicationtest.Options{})
		defer c.Close()
		f(t, c)
	})
}

// leader waits for one that all of among agree on.
func leader(t *testing.T, c *replicationtest.Cluster, among ...fulcrum.NodeID) fulcrum.NodeID {
	t.Helper()
	if len(among) == 0 {
		among = c.Alive()
	}
	for range 600 {
		var who fulcrum.NodeID
		agree := true
		for _, id := range among {
			s := c.Group(id).Status()
			if who == "" {
				who = s.Leader
			}
			agree = agree && s.Leader != "" && s.Leader == who
		}
		if agree && who != "" && c.Group(who) != nil && c.Group(who).Status().IsLeader {
			return who
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("no leader among %v after 30s", among)
	return ""
}

func mustPut(t *testing.T, c *replicationtest.Cluster, at fulcrum.NodeID, key, value string) replication.WriteReply {
	t.Helper()
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	r, err := c.Write(ctx, at, put(key, value))
	if err != nil {
		t.Fatalf("put %s at %s: %v", key, at, err)
	}
	return r
}

func read(c *replicationtest.Cluster, at fulcrum.NodeID, key string, level consistency.Level) (string, error) {
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	r, err := c.Group(at).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte(key)}, Level: level})
	if err != nil {
		return "", err
	}
	return string(r.Entries[0].Value), nil
}

func TestWriteThenReadOnLeader(t *testing.T) {
	for _, n := range []int{1, 3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			cluster(t, n, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
				l := leader(t, c)
				mustPut(t, c, l, "k", "v")
				got, err := read(c, l, "k", consistency.L(consistency.Linearizable))
				if err != nil || got != "v" {
					t.Fatalf("read %q, %v", got, err)
				}
			})
		})
	}
}

func TestCampaignElectsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := func(env replication.Env) (replication.Group, error) {
			return raft.Open(env, raft.Options{Campaign: env.Node == "n2"})
		}
		c := replicationtest.NewCluster(t, 3, open, replicationtest.Options{})
		defer c.Close()
		begin := time.Now()
		if l := leader(t, c); l != "n2" {
			t.Errorf("%s leads, want the one that was named", l)
		}
		if d := time.Since(begin); d > 500*time.Millisecond {
			t.Errorf("it took %s", d)
		}
		mustPut(t, c, "n2", "k", "v")
	})
}
