package replicationtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
)

func echo(_ context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	return append([]byte(from), msg...), nil
}

// What is on its way over a narrow link takes its time, also when nobody waits for it any
// more: what comes next waits behind it.
func TestNarrowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork()
		defer n.Close()
		var mu sync.Mutex
		var came []string
		begun := time.Now()
		n.Register("a", echo)
		n.Register("b", func(_ context.Context, _ fulcrum.NodeID, msg []byte) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			came = append(came, string(msg[:5])+time.Since(begun).String())
			return nil, nil
		})
		n.Bandwidth("a", "b", 100)
		for _, size := range []int{236, 36} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := n.Peers("a").Call(ctx, "b", append([]byte("after"), make([]byte, size-5)...)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d bytes: %v", size, err)
			}
			cancel()
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if want := []string{"after3s", "after4s"}; !slices.Equal(came, want) {
			t.Errorf("came %v, want %v", came, want)
		}
	})
}

func TestNetwork(t *testing.T) {
	for _, test := range []struct {
		name    string
		fault   func(n *Network)
		code    fulcrum.Code // "": answered; "-": an error that is no *fulcrum.Error
		handled bool
		within  time.Duration
	}{
		{"a healthy link answers", func(n *Network) {}, "", true, 0},
		{"latency is paid twice", func(n *Network) { n.Latency(10 * time.Millisecond) }, "", true, 20 * time.Millisecond},
		{"a narrow link takes as long as it takes", func(n *Network) { n.Bandwidth("a", "b", 650); n.Bandwidth("b", "a", 660) }, "", true, 200 * time.Millisecond},
		{"a cut link hangs until the deadline", func(n *Network) { n.Cut("a", "b") }, "-", false, time.Second},
		{"a cut way back handles, then hangs", func(n *Network) { n.CutOneWay("b", "a") }, "-", true, time.Second},
		{"an isolated node hears nothing", func(n *Network) { n.Isolate("b") }, "-", false, time.Second},
		{"a node that is down refuses at once", func(n *Network) { n.Down("b") }, fulcrum.CodeUnavailable, false, 0},
		{"healing brings the link back", func(n *Network) { n.Isolate("a"); n.Heal() }, "", true, 0},
		{"a node comes up again", func(n *Network) { n.Down("b"); n.Up("b") }, "", true, 0},
		{"a hook may drop the answer alone", func(n *Network) {
			n.OnCall(func(_, _ fulcrum.NodeID, _ []byte) Verdict { return Verdict{DropReply: true} })
		}, "-", true, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := NewNetwork()
				defer n.Close()
				handled := false
				n.Register("a", echo)
				n.Register("b", func(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
					handled = true
					return echo(ctx, from, msg)
				})
				test.fault(n)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				reply, err := n.Peers("a").Call(ctx, "b", []byte("!"))
				var fe *fulcrum.Error
				switch {
				case test.code == "" && (err != nil || string(reply) != "a!"):
					t.Errorf("got %q, %v", reply, err)
				case test.code == "-" && (err == nil || errors.As(err, &fe)):
					t.Errorf("got %v, want an error without a verdict", err)
				case test.code != "" && test.code != "-" && !errors.Is(err, &fulcrum.Error{Code: test.code}):
					t.Errorf("got %v, want %s", err, test.code)
				}
				synctest.Wait()
				if handled != test.handled || time.Since(start) != test.within {
					t.Errorf("handled %v after %s, want %v after %s", handled, time.Since(start), test.handled, test.within)
				}
			})
		})
	}
}

func TestHandlerOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork()
		defer n.Close()
		var finished atomic.Bool
		n.Register("b", func(ctx context.Context, _ fulcrum.NodeID, _ []byte) ([]byte, error) {
			time.Sleep(time.Second)
			finished.Store(true)
			return nil, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := n.Peers("a").Call(ctx, "b", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the deadline", err)
		}
		if finished.Load() {
			t.Fatal("the call waited for its handler")
		}
		time.Sleep(2 * time.Second)
		if !finished.Load() {
			t.Fatal("the handler was given up with its caller")
		}
	})
}
