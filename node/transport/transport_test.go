package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/transport"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestCallsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		for _, to := range []fulcrum.NodeID{"b", "a"} { // over the network, and to itself
			for _, ch := range []transport.Channel{chEcho, chFast, chAsync} {
				got, err := a.Call(within(t, time.Second), to, ch, []byte("hello"))
				if err != nil || string(got) != "a:hello" {
					t.Errorf("Call(%s, %d) = %q, %v; want a:hello", to, ch, got, err)
				}
			}
			_, err := a.Call(within(t, time.Second), to, chFail, nil)
			var fe *fulcrum.Error
			if !errors.As(err, &fe) || fe.Code != fulcrum.CodeConflict || fe.Hint != "look again" || fe.Maybe {
				t.Errorf("Call(%s) of a failing handler = %#v, want its conflict", to, err)
			}
			if _, err := a.Call(within(t, time.Second), to, 99, nil); !errors.Is(err, fulcrum.ErrNotFound) {
				t.Errorf("Call(%s) of a channel without handler = %v, want not-found", to, err)
			}
		}
		if n := net.dials.Load(); n != 1 {
			t.Errorf("%d dials for calls to one peer, want 1", n)
		}
	})
}

func TestDefiniteFailures(t *testing.T) {
	hour := time.Hour
	tests := []struct {
		name  string
		other func(*network) // what is there instead of a good b
		ctx   time.Duration
		want  error
		says  string
		after time.Duration
	}{
		{"nobody listens", func(*network) {}, hour, fulcrum.ErrUnavailable, "connection refused", 0},
		{"another cluster", func(n *network) {
			n.start("b", func(o *transport.Options) { o.ClusterID = "c2" })
		}, hour, fulcrum.ErrUnavailable, `a belongs to cluster "c1", b to cluster "c2"`, 0},
		{"another node at the address", func(n *network) {
			n.start("x", nil)
			n.listeners["b"] = n.listeners["x"]
		}, hour, fulcrum.ErrUnavailable, "it wants to talk to b, but this is x", 0},
		{"a node of the same name", func(n *network) {
			n.start("b", func(o *transport.Options) { o.Node = "a" })
		}, hour, fulcrum.ErrUnavailable, "it wants to talk to b, but this is a", 0},
		{"one who says nothing", func(n *network) {
			l := n.listen("b")
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					n.t.Cleanup(func() { c.Close() })
					go io.Copy(io.Discard, c)
				}
			}()
			n.t.Cleanup(func() { l.Close() })
		}, 20 * time.Second, fulcrum.ErrUnavailable, "deadline exceeded", 20 * time.Second},
		{"a link that is cut", func(n *network) { n.start("b", nil) }, 20 * time.Second, fulcrum.ErrUnavailable, "deadline exceeded", 20 * time.Second},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newNetwork(t)
				tc.other(net)
				a := net.start("a", nil)
				if strings.Contains(tc.name, "cut") {
					a.cut("b")
				}
				begun := time.Now()
				_, err := a.Call(within(t, tc.ctx), "b", chEcho, nil)
				var fe *fulcrum.Error
				if !errors.Is(err, tc.want) || !errors.As(err, &fe) || fe.Maybe || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("Call = %v, want definitely %v, saying %q", err, tc.want, tc.says)
				}
				if took := time.Since(begun); took != tc.after {
					t.Errorf("Call took %v, want %v", took, tc.after)
				}
			})
		})
	}
}

func TestHandlerSeesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		const ch = 50
		got := make(chan time.Duration, 2)
		net.start("b", func(o *transport.Options) {
			o.CallTimeout = 7 * time.Second
		}).Handle(ch, func(ctx context.Context, _ fulcrum.NodeID, _ []byte) ([]byte, error) {
			deadline, _ := ctx.Deadline()
			got <- time.Until(deadline)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		begun := time.Now()
		_, err := a.Call(within(t, 3*time.Second), "b", ch, nil)
		if left := <-got; left != 3*time.Second {
			t.Errorf("the handler had %v, want 3s", left)
		}
		if err == nil || time.Since(begun) != 3*time.Second {
			t.Errorf("Call = %v after %v", err, time.Since(begun))
		}
		// A call without a deadline gets one.
		_, err = a.Call(context.Background(), "b", ch, nil)
		if left := <-got; err == nil || left != fulcrum.DefaultRequestLimit {
			t.Errorf("without a deadline the handler had %v, and Call = %v; want %v", left, err, fulcrum.DefaultRequestLimit)
		}
	})
}

// A caller that gives up is free at once; the late answer harms nobody.
func TestCancelledCallIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		ctx, cancel := context.WithCancel(within(t, time.Second))
		time.AfterFunc(time.Millisecond, cancel)
		if _, err := a.Call(ctx, "b", chHang, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Call = %v, want canceled", err)
		}
		time.Sleep(2 * time.Second) // the answer comes
		if got, err := a.Call(within(t, time.Second), "b", chEcho, []byte("x")); string(got) != "a:x" {
			t.Errorf("next Call = %q, %v", got, err)
		}
		if _, err := a.Call(ctx, "b", chEcho, nil); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("Call with an ended ctx = %v, want definitely not sent", err)
		}
	})
}

func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		small := func(o *transport.Options) { o.MaxInflight, o.QueueBytes = 4, 10_000 }
		a := net.start("a", small)
		net.start("b", small)
		results := make(chan error, 10)
		for range 10 {
			go func() {
				_, err := a.Call(within(t, 5*time.Second), "b", chHang, nil)
				results <- err
			}()
		}
		time.Sleep(time.Second)
		if n := len(results); n != 6 {
			t.Errorf("%d of 10 calls were answered at once, want all but the 4 that may be handled", n)
		}
		for range len(results) {
			if err := <-results; !errors.Is(err, fulcrum.ErrOverloaded) {
				t.Errorf("Call beyond the limit = %v, want overloaded", err)
			}
		}
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Errorf("a call on another channel meanwhile: %v", err)
		}
		// The queue: nothing leaves a, so at most 10,000 bytes are taken.
		time.Sleep(10 * time.Second)
		for range 4 {
			<-results
		}
		a.cut("b")
		for range 300 { // netfault takes 1 MiB first, as a socket would
			go func() {
				_, err := a.Call(within(t, time.Second), "b", chEcho, make([]byte, 9_000))
				results <- err
			}()
			synctest.Wait()
		}
		overloaded := 0
		for range 300 {
			if errors.Is(<-results, fulcrum.ErrOverloaded) {
				overloaded++
			}
		}
		if overloaded < 100 {
			t.Errorf("%d of 300 calls overloaded, want those beyond the bound", overloaded)
		}
	})
}

func TestSizeLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		small := func(o *transport.Options) { o.MaxFrameBytes = 1000 }
		a := net.start("a", small)
		net.start("b", small)
		big := net.start("big", nil)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, make([]byte, 1001)); !errors.Is(err, &fulcrum.Error{Code: fulcrum.CodeTooLarge}) {
			t.Errorf("Call with too much = %v", err)
		}
		if _, err := a.Call(within(t, time.Second), "b", chBig, make([]byte, 100)); !errors.Is(err, fulcrum.ErrUnknown) || !fulcrum.AsError(err).Maybe {
			t.Errorf("Call answered with too much = %v", err)
		}
		if _, err := a.Call(within(t, time.Second), "b", chEcho, make([]byte, 990)); err != nil {
			t.Errorf("Call with as much as fits = %v", err)
		}
		// A node with a larger limit sends too much: its connection ends, b goes on. Of a
		// large frame b takes no more than the first piece.
		for size, want := range map[int]error{1500: transport.ErrConnLost, 1_000_000: fulcrum.ErrUnavailable} {
			if _, err := big.Call(within(t, time.Second), "b", chEcho, make([]byte, size)); !errors.Is(err, want) {
				t.Errorf("oversized frame of %d bytes: %v, want %v", size, err, want)
			}
		}
		if _, err := big.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Errorf("after an oversized frame: %v", err)
		}
	})
}

func TestLargeMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 1 << 20, fulcrum.MaxMessageBytes - 2} {
			p := bytes.Repeat([]byte{7}, size)
			got, err := a.Call(within(t, time.Minute), "b", chEcho, p)
			if err != nil || !bytes.Equal(got[2:], p) {
				t.Errorf("%d bytes came back as %d, %v", size, len(got), err)
			}
		}
	})
}

func TestPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		b := net.start("b", nil)
		if len(a.Peers()) != 0 {
			t.Errorf("Peers = %+v before any call", a.Peers())
		}
		slow := fulcrum.Fault{Kind: "link", From: "a", To: "b", OneWay: true, Delay: fulcrum.Duration(40 * time.Millisecond)}
		if err := a.faults.Add(slow, time.Now()); err != nil {
			t.Fatal(err)
		}
		_, _ = a.Call(within(t, 3*time.Second), "b", chHang, nil) // long enough for a ping; its outcome is tested above
		_, _ = a.Call(within(t, time.Second), "c", chEcho, nil)
		time.Sleep(100 * time.Millisecond) // on the second pings are due, and one may be queued
		peers := a.Peers()
		if len(peers) != 2 || peers[0].Node != "b" || peers[1].Node != "c" {
			t.Fatalf("Peers = %+v, want b and c", peers)
		}
		if p := peers[0]; p.RTT != 40*time.Millisecond || !p.Connected || time.Since(p.LastHeard) > time.Second || p.QueueBytes != 0 {
			t.Errorf("b: %+v, want it connected, just heard, at 40ms", p)
		}
		if p := peers[1]; p.Connected || !p.LastHeard.IsZero() {
			t.Errorf("c: %+v, want it never heard", p)
		}
		if p := b.Peers()[0]; p.Node != "a" || !p.Connected || p.LastHeard.IsZero() {
			t.Errorf("b knows a as %+v", p)
		}
	})
}

func TestMetricsAreClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		reg := prometheus.NewPedanticRegistry()
		a := net.start("a", func(o *transport.Options) { o.Registerer = reg })
		net.start("b", nil)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Fatal(err)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
		got := make(map[string]float64)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		for name, want := range map[string]float64{
			"fulcrum_peer_frames_total in":       1,
			"fulcrum_peer_frames_total out":      1,
			"fulcrum_peer_connections out":       1,
			"fulcrum_peer_connections in":        0,
			"fulcrum_peer_bad_frames_total":      0,
			"fulcrum_peer_call_duration_seconds": 1,
		} {
			if v, ok := got[name]; !ok || v != want {
				t.Errorf("%s = %v, want %v", name, v, want)
			}
		}
	})
}

// The same over real sockets, where writes are buffered and goroutines truly race.
func TestOverLoopback(t *testing.T) {
	a, b := overLoopback(t)
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			from, to, name := a, fulcrum.NodeID("b"), "a"
			if i%2 == 1 {
				from, to, name = b, "a", "b"
			}
			for j := range 50 {
				msg := fmt.Sprintf("%d/%d", i, j)
				got, err := from.Call(within(t, time.Minute), to, transport.Channel(j%2), []byte(msg))
				if want := name + ":" + msg; string(got) != want {
					t.Errorf("Call = %q, %v; want %q", got, err, want)
				}
			}
		})
	}
	callers.Wait()
}

// Goroutines that have answered answer more, few of them stay, and none outlives Run.
func TestGoroutinesRestBetweenCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a, b := net.start("a", nil), net.start("b", nil)
		burst := func(n int) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() { _, _ = a.Call(within(t, time.Second), "b", chHang, nil) })
			}
			wg.Wait()
			time.Sleep(time.Second)
		}
		for range 20 {
			burst(1)
		}
		if n := b.Resting(); n != 1 {
			t.Errorf("after calls one by one %d goroutines rest, want the one that answered all", n)
		}
		burst(2 * transport.RestMost)
		if n := b.Resting(); n != transport.RestMost {
			t.Errorf("after %d calls at once %d goroutines rest, want %d", 2*transport.RestMost, n, transport.RestMost)
		}
		burst(transport.RestMost + 3)
		if n := b.Resting(); n != transport.RestMost {
			t.Errorf("after %d more %d rest", transport.RestMost+3, n)
		}
	})
}
