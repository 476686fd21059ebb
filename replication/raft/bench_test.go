package raft_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// Three replicas in memory, in real time: what the protocol itself costs, with a
// disk that takes a millisecond to sync.
func benchCluster(b *testing.B) (*replicationtest.Cluster, replication.Group) {
	c := replicationtest.NewCluster(b, 3, opener(raft.Tuning{}), replicationtest.Options{})
	b.Cleanup(c.Close)
	for {
		for _, id := range c.IDs {
			if c.Group(id).Status().IsLeader {
				for _, id := range c.IDs {
					c.Log(id).SyncDelay(time.Millisecond)
				}
				return c, c.Group(id)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func BenchmarkWrite(b *testing.B) {
	c, g := benchCluster(b)
	var n atomic.Int64
	before := c.Log(g.Status().Leader).Appends()
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := g.Write(context.Background(), put(fmt.Sprint("k", n.Add(1)%1000), "value")); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/float64(c.Log(g.Status().Leader).Appends()-before), "writes/entry")
}

// What a write of a large value costs in memory, on three replicas together.
func BenchmarkWriteLarge(b *testing.B) {
	c, g := benchCluster(b)
	for _, id := range c.IDs {
		c.Log(id).SyncDelay(0)
	}
	value := strings.Repeat("v", 64<<10)
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if _, err := g.Write(context.Background(), put(fmt.Sprint("k", n%100), value)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLinearizableRead(b *testing.B) {
	_, g := benchCluster(b)
	if _, err := g.Write(context.Background(), put("k", "v")); err != nil {
		b.Fatal(err)
	}
	req := replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: consistency.L(consistency.Linearizable)}
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := g.Read(context.Background(), req); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
