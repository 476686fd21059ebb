package transport_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/node/transport"
)

// overLoopback returns two transports on real sockets, which end with the test.
func overLoopback(tb testing.TB) (a, b *transport.Transport) {
	addrs := make(map[fulcrum.NodeID]string)
	var all []*transport.Transport
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(func() {
		cancel()
		running.Wait()
	})
	listeners := make(map[fulcrum.NodeID]net.Listener)
	for _, id := range []fulcrum.NodeID{"a", "b"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		listeners[id], addrs[id] = l, l.Addr().String()
	}
	for _, id := range []fulcrum.NodeID{"a", "b"} {
		tr := transport.New(transport.Options{
			Node: id, ClusterID: "c1", Listener: listeners[id],
			Dial: func(ctx context.Context, to fulcrum.NodeID) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addrs[to])
			},
		})
		handleAll(tr)
		running.Go(func() {
			if err := tr.Run(ctx); err != nil {
				tb.Errorf("Run of %s: %v", id, err)
			}
		})
		all = append(all, tr)
	}
	return all[0], all[1]
}

func BenchmarkCalls(b *testing.B) {
	for _, bench := range []struct {
		name    string
		ch      transport.Channel
		callers int
	}{
		{"300 bytes, 64 callers, fast handler", chFast, 64},
		{"300 bytes, 64 callers, handler on a goroutine", chEcho, 64},
		{"300 bytes, 1 caller, fast handler", chFast, 1},
	} {
		b.Run(bench.name, func(b *testing.B) {
			a, _ := overLoopback(b)
			payload := make([]byte, 300)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
			defer cancel()
			if _, err := a.Call(ctx, "b", bench.ch, payload); err != nil {
				b.Fatal(err)
			}
			tokens := make(chan struct{}, 4096)
			b.ReportAllocs()
			b.ResetTimer()
			var callers sync.WaitGroup
			for range bench.callers {
				callers.Go(func() {
					for range tokens {
						if _, err := a.Call(ctx, "b", bench.ch, payload); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			for range b.N {
				tokens <- struct{}{}
			}
			close(tokens)
			callers.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkGo keeps 64 calls under way: each answer begins the next call where it is read.
func BenchmarkGo(b *testing.B) {
	const outstanding = 64
	for _, bench := range []struct {
		name string
		ch   transport.Channel
	}{
		{"300 bytes, 64 outstanding, fast handler", chFast},
		{"300 bytes, 64 outstanding, async handler", chAsync},
		{"300 bytes, 64 outstanding, handler on a goroutine", chEcho},
	} {
		b.Run(bench.name, func(b *testing.B) {
			a, _ := overLoopback(b)
			payload := make([]byte, 300)
			if _, err := a.Call(context.Background(), "b", bench.ch, payload); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var chains sync.WaitGroup
			for range outstanding {
				chains.Add(1)
				var next func([]byte, error)
				next = func(_ []byte, err error) {
					if err != nil {
						b.Error(err)
					}
					if err != nil || left.Add(-1) < 0 {
						chains.Done()
						return
					}
					a.Go("b", bench.ch, payload, time.Second, next)
				}
				next(nil, nil)
			}
			chains.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkLargeCalls sends large payloads over loopback.
func BenchmarkLargeCalls(b *testing.B) {
	for _, size := range []int{16 << 10, 256 << 10, 4 << 20} {
		b.Run(fmt.Sprint(size>>10, " KiB, 4 callers"), func(b *testing.B) {
			a, _ := overLoopback(b)
			payload := make([]byte, size)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
			defer cancel()
			tokens := make(chan struct{}, 4096)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			var callers sync.WaitGroup
			for range 4 {
				callers.Go(func() {
					for range tokens {
						if _, err := a.Call(ctx, "b", chDiscard, payload); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			for range b.N {
				tokens <- struct{}{}
			}
			close(tokens)
			callers.Wait()
		})
	}
}
