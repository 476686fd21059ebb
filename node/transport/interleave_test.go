package transport_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/transport"
)

// slow lets the link between two nodes carry so many bytes a second, in one direction.
func (n *node) slow(to fulcrum.NodeID, rate int64) {
	n.t.Helper()
	if err := n.faults.Add(fulcrum.Fault{Kind: "link", From: n.id, To: to, OneWay: true, Rate: rate}, time.Now()); err != nil {
		n.t.Fatal(err)
	}
}

// carries is how long a link of that rate takes for so many bytes.
func carries(bytes int, rate int64) time.Duration {
	return time.Duration(float64(bytes) / float64(rate) * float64(time.Second))
}

const (
	chCount transport.Channel = 60 // answers with so many bytes as the payload says
	chSum   transport.Channel = 61 // answers with the payload's checksum
)

func handleLarge(tr *transport.Transport, handled *atomic.Int64) {
	tr.Handle(chCount, func(_ context.Context, _ fulcrum.NodeID, p []byte) ([]byte, error) {
		var n int
		_, err := fmt.Sscan(string(p), &n)
		return make([]byte, n), err
	})
	tr.Handle(chSum, func(_ context.Context, _ fulcrum.NodeID, p []byte) ([]byte, error) {
		handled.Add(1)
		sum := sha256.Sum256(p)
		return sum[:], nil
	})
}

// Over a slow link small calls wait for a piece, and what the socket holds, of the large
// messages that are under way in the same direction, and not for all of them.
func TestSmallCallsPassLargeOnes(t *testing.T) {
	const rate = 1 << 20
	for _, tc := range []struct {
		name string
		slow func(a, b *node)
		call func(a *node, size int) error
	}{
		{"calls", func(a, _ *node) { a.slow("b", rate) }, func(a *node, size int) error {
			_, err := a.Call(within(a.t, time.Minute), "b", chSum, make([]byte, size))
			return err
		}},
		{"answers", func(_, b *node) { b.slow("a", rate) }, func(a *node, size int) error {
			_, err := a.Call(within(a.t, time.Minute), "b", chCount, fmt.Append(nil, size))
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newNetwork(t)
				a, b := net.start("a", nil), net.start("b", nil)
				handleLarge(b.Transport, new(atomic.Int64))
				tc.slow(a, b)
				var large sync.WaitGroup
				left := atomic.Int64{}
				for _, size := range []int{100 << 10, 1 << 20, 2 << 20, 3 << 20, 8 << 20} {
					left.Add(1)
					large.Go(func() {
						if err := tc.call(a, size); err != nil {
							t.Errorf("call with %d bytes = %v", size, err)
						}
						left.Add(-1)
					})
				}
				time.Sleep(time.Millisecond)
				for i := 0; left.Load() > 0; i++ {
					bound := 2*transport.PaceGoal*5/4 + carries(transport.MaxUnsent+32<<10, rate)
					if i == 0 { // nothing was known of the link
						bound = carries(transport.MaxStep*5/4+transport.MaxUnsent+32<<10, rate)
					}
					begun := time.Now()
					if _, err := a.Call(within(t, time.Minute), "b", chEcho, []byte("small")); err != nil {
						t.Fatal(err)
					}
					if took := time.Since(begun); took > bound {
						t.Errorf("small call %d took %v, want at most %v", i, took, bound)
					}
					time.Sleep(30 * time.Millisecond)
				}
				large.Wait()
			})
		})
	}
}

// Frames of a middle size do not wait for much larger ones either.
func TestMediumCallsPassLargeOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1 << 20
		net := newNetwork(t)
		a, b := net.start("a", nil), net.start("b", nil)
		handleLarge(b.Transport, new(atomic.Int64))
		a.slow("b", rate)
		var large sync.WaitGroup
		for range 4 {
			large.Go(func() {
				if _, err := a.Call(within(t, time.Minute), "b", chSum, make([]byte, 8<<20)); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Second)
		for _, size := range []int{10 << 10, 100 << 10, 1 << 20} {
			// It shares the link with one large message.
			bound := carries(2*size+4*transport.MinStep+transport.MaxUnsent, rate)
			begun := time.Now()
			if _, err := a.Call(within(t, time.Minute), "b", chSum, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took > bound {
				t.Errorf("call with %d bytes took %v, want at most %v", size, took, bound)
			}
		}
		large.Wait()
	})
}

// Many small calls do not keep a large one from its share of the link.
func TestSmallCallsDoNotStarveLargeOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1 << 20
		net := newNetwork(t)
		a, b := net.start("a", nil), net.start("b", nil)
		handleLarge(b.Transport, new(atomic.Int64))
		a.slow("b", rate)
		var calls sync.WaitGroup
		var done atomic.Bool
		for i := range 300 { // more than 1 MiB of them is under way at any time
			calls.Go(func() {
				for !done.Load() {
					if _, err := a.Call(within(t, time.Minute), "b", chSum, make([]byte, 4<<10-i%2*(1<<10))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(time.Second)
		begun := time.Now()
		for _, size := range []int{6 << 10, 200 << 10, 2 << 20} {
			if _, err := a.Call(within(t, time.Minute), "b", chSum, make([]byte, size)); err != nil {
				t.Error(err)
			}
		}
		// A turn has minStep of what is large to 64 KiB of what is small.
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("2.2 MiB of large calls took %v beside small ones", took)
		}
		done.Store(true)
		calls.Wait()
	})
}

// A large call that is given up sends no more, nobody handles a part of it, and it
// definitely was not done. Those after it are whole.
func TestGivenUpCallsStopSending(t *testing.T) {
	const rate = 1 << 20
	giveUp := map[string]func(a *node, size int) error{
		"Call, deadline": func(a *node, size int) error {
			_, err := a.Call(within(a.t, time.Second), "b", chSum, make([]byte, size))
			return err
		},
		"Call, cancelled": func(a *node, size int) error {
			ctx, cancel := context.WithCancel(within(a.t, time.Hour))
			time.AfterFunc(time.Second, cancel)
			_, err := a.Call(ctx, "b", chSum, make([]byte, size))
			return err
		},
		"Go": func(a *node, size int) error {
			heard := make(chan error, 1)
			a.Go("b", chSum, make([]byte, size), time.Second, func(_ []byte, err error) { heard <- err })
			return <-heard
		},
	}
	for name, call := range giveUp {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newNetwork(t)
				a, b := net.start("a", nil), net.start("b", nil)
				var handled atomic.Int64
				handleLarge(b.Transport, &handled)
				a.slow("b", rate)
				begun := time.Now()
				ended := make(chan error, 1)
				go func() { ended <- call(a, 8<<20) }()
				time.Sleep(100 * time.Millisecond)
				err := call(a, 7<<20) // behind the other, which it does not get past
				for i, err := range []error{err, <-ended} {
					var fe *fulcrum.Error
					if !errors.As(err, &fe) || fe.Code != fulcrum.CodeUnavailable || fe.Maybe ||
						!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
						t.Errorf("call %d = %v, want that it was definitely not done, and why", i, err)
					}
				}
				if took := time.Since(begun); took > 1300*time.Millisecond {
					t.Errorf("giving up took %v", took)
				}
				if n := a.Peers()[0].QueueBytes; n > 256<<10 {
					t.Errorf("%d bytes still wait to be sent", n)
				}
				begun = time.Now()
				p := bytes.Repeat([]byte("x"), 512<<10)
				sum := sha256.Sum256(p)
				if got, err := a.Call(within(t, time.Minute), "b", chSum, p); err != nil || !bytes.Equal(got, sum[:]) {
					t.Errorf("the next call = %x, %v", got, err)
				}
				if took := time.Since(begun); took > time.Second {
					t.Errorf("512 KiB after those that were given up took %v", took)
				}
				if n := handled.Load(); n != 1 {
					t.Errorf("%d calls were handled, want the last only", n)
				}
				if n := net.dials.Load(); n != 1 {
					t.Errorf("%d dials: giving up costs no connection", n)
				}
			})
		})
	}
}

// An answer that comes too late is not sent on.
func TestLateAnswersStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a, b := net.start("a", nil), net.start("b", nil)
		handleLarge(b.Transport, new(atomic.Int64))
		b.slow("a", 1<<20)
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				if _, err := a.Call(within(t, time.Second), "b", chCount, fmt.Append(nil, 8<<20)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("call answered with 8 MiB over 1 MiB/s = %v", err)
				}
			})
		}
		calls.Wait()
		begun := time.Now()
		got, err := a.Call(within(t, time.Minute), "b", chCount, fmt.Append(nil, 7<<20))
		if err != nil || len(got) != 7<<20 {
			t.Errorf("the next call = %d bytes, %v", len(got), err)
		}
		if took := time.Since(begun); took > 7500*time.Millisecond {
			t.Errorf("an answer of 7 MiB over 1 MiB/s took %v after those that nobody waits for", took)
		}
		if n := net.dials.Load(); n != 1 {
			t.Errorf("%d dials", n)
		}
	})
}

// Calls of all sizes, in both directions at once, over links that are slow, lossy or cut
// for a while, with some that are given up: what arrives is what was sent.
func TestAllSizesArriveWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		nodes := []*node{net.start("a", nil), net.start("b", nil)}
		for _, n := range nodes {
			handleLarge(n.Transport, new(atomic.Int64))
		}
		var callers sync.WaitGroup
		var whole atomic.Int64
		for i := range 24 {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			callers.Go(func() {
				from, to := nodes[i%2], nodes[1-i%2]
				for range 8 {
					p := make([]byte, 1<<rnd.IntN(21)+rnd.IntN(5000))
					for i := range p {
						p[i] = byte(rnd.Uint32())
					}
					limit := time.Minute
					if rnd.IntN(4) == 0 {
						limit = time.Duration(rnd.IntN(int(time.Second)))
					}
					sum := sha256.Sum256(p)
					got, err := from.Call(within(t, limit), to.id, chSum, p)
					switch {
					case err == nil && bytes.Equal(got, sum[:]):
						whole.Add(1)
					case err == nil || limit == time.Minute:
						t.Errorf("%d bytes = %x, %v", len(p), got, err)
					}
					echo, err := from.Call(within(t, time.Minute), to.id, chEcho, p[:len(p)/2])
					if want := append([]byte(from.id+":"), p[:len(p)/2]...); err != nil || !bytes.Equal(echo, want) {
						t.Errorf("%d bytes came back as %d, %v", len(p)/2, len(echo), err)
					}
				}
			})
		}
		for _, f := range []fulcrum.Fault{
			{Kind: "link", From: "a", To: "b", Rate: 2 << 20, Delay: fulcrum.Duration(10 * time.Millisecond)},
			{Kind: "link", From: "a", To: "b", Loss: 0.05, Jitter: fulcrum.Duration(20 * time.Millisecond)},
			{Kind: "isolate", Node: "a"},
		} {
			for _, n := range nodes {
				if err := n.faults.Add(f, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(3 * time.Second)
			if f.Kind == "isolate" {
				for _, n := range nodes {
					n.faults.Heal(nil)
				}
			}
		}
		callers.Wait()
		if n := whole.Load(); n < 24*8/2 {
			t.Errorf("%d calls were answered", n)
		}
		if n := net.dials.Load(); n != 2 {
			t.Errorf("%d dials, want one each way", n)
		}
	})
}
