package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/fault"
	"fulcrum/node/netfault"
	"fulcrum/node/transport"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

const (
	chEcho transport.Channel = iota
	chFast
	chFail
	chHang // until its ctx ends
	chBig
)

// network connects transports through net.Pipe, with the faults of each node around
// it, so that all of it runs in a bubble.
type network struct {
	t *testing.T

	mu        sync.Mutex
	listeners map[fulcrum.NodeID]*pipeListener
	dials     atomic.Int64
}

func newNetwork(t *testing.T) *network {
	return &network{t: t, listeners: make(map[fulcrum.NodeID]*pipeListener)}
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (n *network) listen(id fulcrum.NodeID) *pipeListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[id] = l
	return l
}

func (n *network) dial(ctx context.Context, to fulcrum.NodeID) (net.Conn, error) {
	n.dials.Add(1)
	n.mu.Lock()
	l := n.listeners[to]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("no node %s: %w", to, syscall.ECONNREFUSED)
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// node is one transport of a test, with its own faults.
type node struct {
	*transport.Transport
	id     fulcrum.NodeID
	faults *fault.Set
	stop   func()
}

// start runs a transport; change may adjust its options. It is stopped, and all it
// started has ended, when the test is over.
func (n *network) start(id fulcrum.NodeID, change func(*transport.Options)) *node {
	n.t.Helper()
	set := fault.NewSet()
	nf := netfault.New(id, set, fault.Peers, rand.New(rand.NewPCG(1, 2)))
	o := transport.Options{
		Node: id, ClusterID: "c1",
		Listener: nf.Listener(n.listen(id)),
		Dial: func(ctx context.Context, to fulcrum.NodeID) (net.Conn, error) {
			return nf.Dial(ctx, to, func(ctx context.Context) (net.Conn, error) { return n.dial(ctx, to) })
		},
		Rand: rand.New(rand.NewPCG(3, 4)),
	}
	if change != nil {
		change(&o)
	}
	tr := transport.New(o)
	handleAll(tr)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := tr.Run(ctx); err != nil {
			n.t.Errorf("Run of %s: %v", id, err)
		}
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-ended
		if err := nf.Close(); err != nil {
			n.t.Errorf("closing the network of %s: %v", id, err)
		}
	})
	n.t.Cleanup(stop)
	return &node{Transport: tr, id: id, faults: set, stop: stop}
}

func handleAll(tr *transport.Transport) {
	echo := func(_ context.Context, from fulcrum.NodeID, p []byte) ([]byte, error) {
		return append([]byte(from+":"), p...), nil
	}
	tr.Handle(chEcho, echo)
	tr.HandleFast(chFast, echo)
	tr.Handle(chFail, func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) {
		return nil, fulcrum.Errorf(fulcrum.CodeConflict, "it was changed meanwhile").WithHint("look again")
	})
	tr.Handle(chHang, func(ctx context.Context, _ fulcrum.NodeID, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	tr.Handle(chBig, func(_ context.Context, _ fulcrum.NodeID, p []byte) ([]byte, error) {
		return make([]byte, 100*len(p)), nil
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestCallsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		for _, to := range []fulcrum.NodeID{"b", "a"} { // over the network, and to itself
			for _, ch := range []transport.Channel{chEcho, chFast} {
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

// cut isolates n from to, in both directions, as far as n knows.
func (n *node) cut(to fulcrum.NodeID) {
	if err := n.faults.Add(fulcrum.Fault{Kind: "link", From: n.id, To: to, Drop: true}, time.Now()); err != nil {
		panic(err)
	}
}

func TestDialsAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		for range 1000 {
			if _, err := a.Call(within(t, time.Hour), "b", chEcho, nil); !errors.Is(err, fulcrum.ErrUnavailable) {
				t.Fatalf("Call = %v", err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := net.dials.Load(); n < 9 || n > 11 {
			t.Errorf("%d dials in a second of calls to a node that refuses, want 10", n)
		}
		net.start("b", nil)
		time.Sleep(100 * time.Millisecond)
		if _, err := a.Call(within(t, time.Hour), "b", chEcho, nil); err != nil {
			t.Errorf("when the node is back: %v", err)
		}
	})
}

// A call sent into a cut fails without an answer as to its outcome; after healing
// the connection goes on.
func TestCutAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Fatal(err)
		}
		a.cut("b")
		begun := time.Now()
		_, err := a.Call(within(t, 3*time.Second), "b", chEcho, nil)
		var fe *fulcrum.Error
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &fe) || time.Since(begun) != 3*time.Second {
			t.Errorf("Call into a cut = %v after %v, want an unclassified deadline after 3s", err, time.Since(begun))
		}
		answered := make(chan error)
		go func() {
			_, err := a.Call(within(t, time.Minute), "b", chEcho, nil)
			answered <- err
		}()
		time.Sleep(time.Second)
		a.faults.Heal(nil)
		if err := <-answered; err != nil {
			t.Errorf("Call that waited for the link to heal: %v", err)
		}
		if n := net.dials.Load(); n != 1 {
			t.Errorf("%d dials; a short cut should not cost the connection", n)
		}
	})
}

// A long cut costs the connection; then calls dial, and wait for the link to heal.
func TestLongCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Fatal(err)
		}
		a.cut("b")
		begun := time.Now()
		_, err := a.Call(within(t, time.Hour), "b", chEcho, nil)
		if took := time.Since(begun); !errors.Is(err, transport.ErrConnLost) || took < 10*time.Second || took > 13*time.Second {
			t.Errorf("Call into a long cut = %v after %v, want a lost connection after about 11s", err, took)
		}
		time.AfterFunc(time.Minute, func() { a.faults.Heal(nil) })
		begun = time.Now()
		_, err = a.Call(within(t, time.Hour), "b", chEcho, nil)
		if took := time.Since(begun); err != nil || took < time.Minute || took > time.Minute+time.Second {
			t.Errorf("Call that waits for healing = %v after %v, want an answer within a second of the minute", err, took)
		}
	})
}

// Only one direction is cut, and only the receiver knows: the same for the caller.
func TestReceiverCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		b := net.start("b", nil)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Fatal(err)
		}
		b.cut("a")
		if _, err := a.Call(within(t, 3*time.Second), "b", chEcho, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Call = %v, want the deadline", err)
		}
		b.faults.Heal(nil)
		if _, err := a.Call(within(t, 3*time.Second), "b", chEcho, nil); err != nil {
			t.Errorf("after healing: %v", err)
		}
	})
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
		begun = time.Now()
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
		if _, err := a.Call(within(t, time.Second), "b", chBig, make([]byte, 100)); !errors.Is(err, &fulcrum.Error{Code: fulcrum.CodeTooLarge}) {
			t.Errorf("Call answered with too much = %v", err)
		}
		if _, err := a.Call(within(t, time.Second), "b", chEcho, make([]byte, 990)); err != nil {
			t.Errorf("Call with as much as fits = %v", err)
		}
		// A node with a larger limit sends too much: its connection ends, b goes on.
		if _, err := big.Call(within(t, time.Second), "b", chEcho, make([]byte, 1_000_000)); !errors.Is(err, transport.ErrConnLost) {
			t.Errorf("oversized frame: %v, want a lost connection", err)
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

func TestStopAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		b := net.start("b", nil)
		result := make(chan error)
		go func() {
			_, err := a.Call(within(t, time.Hour), "b", chHang, nil)
			result <- err
		}()
		time.Sleep(time.Second)
		b.stop() // the handler ends, and its answer is still sent
		if err := <-result; !errors.Is(err, fulcrum.ErrUnknown) {
			t.Errorf("Call of a handler that was stopped = %v, want its own unknown", err)
		}
		if _, err := b.Call(within(t, time.Second), "a", chEcho, nil); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("Call by a stopped node = %v", err)
		}
		if _, err := b.Call(within(t, time.Second), "b", chEcho, nil); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("Call of a stopped node to itself = %v", err)
		}
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("Call to a stopped node = %v, want unavailable", err)
		}
		net.start("b", nil)
		time.Sleep(time.Second)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Errorf("Call to a restarted node = %v", err)
		}
	})
}

// Nothing that waits, here or at a peer, holds up the end of Run.
func TestStopIsPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		b := net.start("b", nil)
		net.start("c", nil)
		errs := make(map[string]chan error)
		call := func(what string, from *node, to fulcrum.NodeID) {
			errs[what] = make(chan error, 1)
			go func() {
				_, err := from.Call(within(t, time.Hour), to, chHang, nil)
				errs[what] <- err
			}()
		}
		call("of b", a, "b")
		call("of c by b", b, "c")
		call("of b by itself", b, "b")
		net.knock("b") // and says nothing
		time.Sleep(time.Second)
		a.cut("b")
		b.cut("d")
		net.start("d", nil)
		call("into a cut", b, "d")
		time.Sleep(time.Second)
		begun := time.Now()
		b.stop()
		if took := time.Since(begun); took != 0 {
			t.Errorf("Run took %v to end", took)
		}
		if err := <-errs["into a cut"]; !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("Call waiting for a connection = %v, want unavailable", err)
		}
		if err := <-errs["of c by b"]; !errors.Is(err, transport.ErrConnLost) {
			t.Errorf("Call under way = %v, want a lost connection", err)
		}
		if err := <-errs["of b by itself"]; !errors.Is(err, fulcrum.ErrUnknown) {
			t.Errorf("Call of itself = %v, want the handler's error", err)
		}
		a.stop()
		if err := <-errs["of b"]; !errors.Is(err, transport.ErrConnLost) {
			t.Errorf("Call through a cut, when its caller stops = %v, want a lost connection", err)
		}
	})
}

// A peer that takes nothing, and one that does not answer the handshake, hold up the
// end of Run for no longer than the last answers may take.
func TestStopWithDeafPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		deaf := net.listen("deaf")
		results := make(chan error, 2)
		call := func(to fulcrum.NodeID) {
			_, err := a.Call(within(t, time.Hour), to, chEcho, make([]byte, 4<<20))
			results <- err
		}
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Fatal(err)
		}
		a.cut("b")
		go call("b")
		go call("deaf")
		c := <-deaf.conns // and never read
		defer c.Close()
		synctest.Wait()
		begun := time.Now()
		a.stop()
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("Run took %v to end, want at most 2s", took)
		}
		for range 2 {
			if err := <-results; err == nil {
				t.Error("a call was answered by nobody")
			}
		}
	})
}

// What was still queued when a connection ended was never sent, and says so; what
// was handed to the network may have been handled.
func TestQueuedCallsFailDefinitely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Fatal(err)
		}
		a.cut("b")
		results := make([]chan error, 2)
		for i := range results {
			results[i] = make(chan error, 1)
			go func() {
				_, err := a.Call(within(t, time.Hour), "b", chEcho, make([]byte, 4<<20)) // more than a socket takes
				results[i] <- err
			}()
			synctest.Wait()
		}
		if err := <-results[0]; !errors.Is(err, transport.ErrConnLost) {
			t.Errorf("the call being written = %v, want a lost connection", err)
		}
		if err := <-results[1]; !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("the call behind it = %v, want unavailable", err)
		}
	})
}

// A slow link is not a dead one: a large message takes its time.
func TestSlowLinkIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		slow := fulcrum.Fault{Kind: "link", From: "a", To: "b", OneWay: true, Rate: 200_000}
		if err := a.faults.Add(slow, time.Now()); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		_, err := a.Call(within(t, time.Hour), "b", chEcho, make([]byte, 8<<20))
		if took := time.Since(begun); err != nil || took < 40*time.Second || took > 45*time.Second {
			t.Errorf("8 MiB at 200 kB/s = %v after %v, want an answer after 42s", err, took)
		}
		if n := net.dials.Load(); n != 1 {
			t.Errorf("%d dials", n)
		}
	})
}

func TestIdleConnectionsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		b := net.start("b", nil)
		for range 2 {
			if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
				t.Fatal(err)
			}
			if !a.Peers()[0].Connected || !b.Peers()[0].Connected {
				t.Error("not connected after a call")
			}
			time.Sleep(6 * time.Minute)
			if a.Peers()[0].Connected || b.Peers()[0].Connected {
				t.Error("still connected after six idle minutes")
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

// Many callers in both directions, while the link misbehaves: each gets its own answer.
func TestManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		nodes := []*node{net.start("a", nil), net.start("b", nil)}
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() {
				from, to := nodes[i%2], nodes[1-i%2]
				for j := range 20 {
					msg := fmt.Sprintf("%d/%d", i, j)
					got, err := from.Call(within(t, time.Minute), to.id, transport.Channel(j%2), []byte(msg))
					if want := string(from.id) + ":" + msg; string(got) != want {
						t.Errorf("Call = %q, %v; want %q", got, err, want)
					}
				}
			})
		}
		for _, f := range []fulcrum.Fault{
			{Kind: "link", From: "a", To: "b", Delay: fulcrum.Duration(5 * time.Millisecond), Jitter: fulcrum.Duration(20 * time.Millisecond), Loss: 0.1},
			{Kind: "isolate", Node: "a"},
		} {
			if err := nodes[0].faults.Add(f, time.Now()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
		}
		nodes[0].faults.Heal(nil)
		callers.Wait()
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
