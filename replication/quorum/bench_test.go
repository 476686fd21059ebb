package quorum_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/quorum"
	rt "fulcrum/replication/replicationtest"
)

// The benchmarks measure the protocol's own cost: the network and the disks are in
// memory and take no time.

func benchCluster(b *testing.B) *rt.Cluster {
	c := rt.NewCluster(b, 3, open(quorum.Options{}), rt.Options{})
	b.Cleanup(c.Close)
	for {
		if _, err := put(c, "n1", consistency.All, "warm", "up"); err == nil {
			return c
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, k := range []consistency.Kind{consistency.One, consistency.QuorumOf, consistency.Linearizable} {
		b.Run(consistency.L(k).String(), func(b *testing.B) {
			c := benchCluster(b)
			g := c.Group("n1")
			value := make([]byte, 256)
			var n atomic.Int64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					w := fulcrum.Write{Op: fulcrum.OpPut, Key: fmt.Appendf(nil, "k%d", n.Add(1)%100_000), Value: value}
					if _, err := g.Write(context.Background(), replication.WriteRequest{Writes: []fulcrum.Write{w}, Level: consistency.L(k)}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, k := range []consistency.Kind{consistency.One, consistency.QuorumOf} {
		b.Run(consistency.L(k).String(), func(b *testing.B) {
			c := benchCluster(b)
			g := c.Group("n1")
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := g.Read(context.Background(), replication.ReadRequest{Keys: [][]byte{[]byte("warm")}, Level: consistency.L(k)}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
