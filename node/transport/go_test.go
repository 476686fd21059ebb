package transport_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/transport"
)

// outcome is what done of Go heard, and when.
type outcome struct {
	reply string
	err   error
	after time.Duration
}

// begin begins a call and returns where its outcome comes; a second one fails the test.
func (n *node) begin(t *testing.T, to fulcrum.NodeID, ch transport.Channel, payload string, timeout time.Duration) <-chan outcome {
	begun := time.Now()
	heard := make(chan outcome, 1)
	p := []byte(payload)
	n.Go(to, ch, p, timeout, func(reply []byte, err error) {
		select {
		case heard <- outcome{string(reply), err, time.Since(begun)}:
		default:
			t.Errorf("Go(%s, %d) had a second outcome: %q, %v", to, ch, reply, err)
		}
	})
	clear(p) // Go has copied it
	return heard
}

func TestGoIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		for range 2 { // the first time there is no connection yet
			for _, to := range []fulcrum.NodeID{"b", "a"} { // over the network, and to itself
				for _, ch := range []transport.Channel{chEcho, chFast, chAsync} {
					if got := <-a.begin(t, to, ch, "hello", time.Second); got.err != nil || got.reply != "a:hello" || got.after != 0 {
						t.Errorf("Go(%s, %d) = %+v; want a:hello at once", to, ch, got)
					}
				}
				if got := <-a.begin(t, to, chAsync, "", time.Second); got.err != nil || got.reply != "slow" {
					t.Errorf("Go(%s) of a call not taken = %+v; want slow", to, got)
				}
				got := <-a.begin(t, to, chFail, "", time.Second)
				var fe *fulcrum.Error
				if !errors.As(got.err, &fe) || fe.Code != fulcrum.CodeConflict || fe.Hint != "look again" || fe.Maybe {
					t.Errorf("Go(%s) of a failing handler = %#v, want its conflict", to, got.err)
				}
				if got := <-a.begin(t, to, 99, "", time.Second); !errors.Is(got.err, fulcrum.ErrNotFound) {
					t.Errorf("Go(%s) of a channel without handler = %v, want not-found", to, got.err)
				}
			}
		}
		if n := net.dials.Load(); n != 1 {
			t.Errorf("%d dials for calls to one peer, want 1", n)
		}
	})
}

// What Go refuses was not sent, and done hears so; nothing waits.
func TestGoFailsDefinitely(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(*network, *node)
		to      fulcrum.NodeID
		payload int
		timeout time.Duration
		want    error
		after   time.Duration
	}{
		{"nobody listens", func(*network, *node) {}, "c", 0, time.Hour, fulcrum.ErrUnavailable, 0},
		{"refused a moment ago", func(_ *network, a *node) { _, _ = a.Call(context.Background(), "c", chEcho, nil) }, "c", 0, time.Hour, fulcrum.ErrUnavailable, 0},
		{"another cluster", func(n *network, _ *node) {
			n.start("c", func(o *transport.Options) { o.ClusterID = "c2" })
		}, "c", 0, time.Hour, fulcrum.ErrUnavailable, 0},
		{"a link that is cut", func(_ *network, a *node) { a.cut("b") }, "b", 0, 20 * time.Second, context.DeadlineExceeded, 20 * time.Second},
		{"too large", func(*network, *node) {}, "b", fulcrum.MaxMessageBytes + 1, time.Hour, &fulcrum.Error{Code: fulcrum.CodeTooLarge}, 0},
		{"no time", func(*network, *node) {}, "b", 0, 0, context.DeadlineExceeded, 0},
		{"less than no time, to itself", func(*network, *node) {}, "a", 0, -time.Second, context.DeadlineExceeded, 0},
		{"stopped", func(_ *network, a *node) { a.stop() }, "b", 0, time.Hour, fulcrum.ErrUnavailable, 0},
		{"stopped, to itself", func(_ *network, a *node) { a.stop() }, "a", 0, time.Hour, fulcrum.ErrUnavailable, 0},
		{"stopped, when it was connected", func(_ *network, a *node) {
			_, _ = a.Call(context.Background(), "b", chEcho, nil)
			a.stop()
		}, "b", 0, time.Hour, fulcrum.ErrUnavailable, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newNetwork(t)
				a := net.start("a", nil)
				net.start("b", nil)
				tc.prepare(net, a)
				got := <-a.begin(t, tc.to, chEcho, strings.Repeat("x", tc.payload), tc.timeout)
				var fe *fulcrum.Error
				if !errors.Is(got.err, tc.want) || !errors.As(got.err, &fe) || fe.Maybe {
					t.Errorf("Go = %v, want definitely %v", got.err, tc.want)
				}
				if got.after != tc.after {
					t.Errorf("Go failed after %v, want %v", got.after, tc.after)
				}
			})
		})
	}
}

// A call waits for a connection within its timeout, also for Run to be called.
func TestGoWaitsForAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		a.cut("b")
		short := a.begin(t, "b", chEcho, "short", 2*time.Second)
		long := a.begin(t, "b", chEcho, "long", time.Hour)
		synctest.Wait()
		if q := a.Peers()[0].QueueBytes; q < len("short")+len("long") {
			t.Errorf("%d bytes wait for a connection, want those of the two calls", q)
		}
		time.Sleep(7 * time.Second)
		a.faults.Heal(nil)
		if got := <-short; !errors.Is(got.err, fulcrum.ErrUnavailable) || got.after != 2*time.Second {
			t.Errorf("the short call = %+v, want it definitely unsent after 2s", got)
		}
		if got := <-long; got.reply != "a:long" || got.after > 15*time.Second {
			t.Errorf("the long call = %+v, want an answer soon after 7s", got)
		}
		if q := a.Peers()[0].QueueBytes; q != 0 {
			t.Errorf("%d bytes still wait", q)
		}

		idle := &node{Transport: transport.New(transport.Options{Node: "idle"})}
		for _, to := range []fulcrum.NodeID{"idle", "b"} {
			if got := <-idle.begin(t, to, chEcho, "", time.Second); !errors.Is(got.err, fulcrum.ErrUnavailable) || got.after != time.Second {
				t.Errorf("Go(%s) without Run = %+v, want it definitely unsent after 1s", to, got)
			}
		}
	})
}

// A call that nobody answers ends soon after its timeout, whatever that is; the late
// answer harms nobody.
func TestGoTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil).HandleAsync(60, func(fulcrum.NodeID, []byte, time.Time, func([]byte, error)) bool { return true }, nopHandler)
		if got := <-a.begin(t, "b", chEcho, "", time.Second); got.err != nil {
			t.Fatal(got.err)
		}
		type begun struct {
			timeout time.Duration
			ch      transport.Channel
			heard   <-chan outcome
		}
		var all []begun
		for i, ms := range []time.Duration{600, 50, 5000, 1, 70, 100, 999, 1000, 1001, 1300, 250, 12345, 10, 2000, 30000} {
			for _, ch := range []transport.Channel{chHang, 60} { // answered late, and never
				all = append(all, begun{ms * time.Millisecond, ch, a.begin(t, "b", ch, "", ms*time.Millisecond)})
			}
			time.Sleep(time.Duration(i*37) * time.Millisecond)
		}
		for _, c := range all {
			got := <-c.heard
			handlers := c.ch == chHang && errors.Is(got.err, fulcrum.ErrUnknown) // it sees the deadline itself
			var fe *fulcrum.Error
			if !handlers && (!errors.Is(got.err, context.DeadlineExceeded) || errors.As(got.err, &fe)) {
				t.Errorf("Go with %v, on %d: %v, want an indefinite timeout", c.timeout, c.ch, got.err)
			}
			if got.after < c.timeout || got.after > c.timeout+100*time.Millisecond {
				t.Errorf("Go with %v, on %d, ended after %v", c.timeout, c.ch, got.after)
			}
		}
		if got := <-a.begin(t, "b", chEcho, "x", time.Second); got.reply != "a:x" {
			t.Errorf("the next call = %+v", got)
		}
		if n := net.dials.Load(); n != 1 {
			t.Errorf("%d dials: a timeout costs no connection", n)
		}
	})
}

func nopHandler(context.Context, fulcrum.NodeID, []byte) ([]byte, error) { return nil, nil }

// Calls under way end with their connection: what was handed to the network may have
// been handled, what was not was never sent. Their callbacks may begin calls.
func TestGoWhenTheConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		again := make(chan error, 1)
		a.Go("b", chHang, nil, time.Hour, func(_ []byte, err error) {
			if !errors.Is(err, transport.ErrConnLost) {
				t.Errorf("call under way = %v, want a lost connection", err)
			}
			a.Go("b", chEcho, nil, time.Hour, func(_ []byte, err error) { again <- err })
		})
		pending := a.begin(t, "b", chHang, "", time.Hour)
		synctest.Wait()
		a.cut("b")
		written := a.begin(t, "b", chEcho, strings.Repeat("x", 600<<10), time.Hour)
		synctest.Wait()
		half := a.begin(t, "b", chEcho, strings.Repeat("x", 4<<20), time.Hour) // more than a socket takes
		synctest.Wait()
		queued := a.begin(t, "b", chEcho, strings.Repeat("x", 4<<20), time.Hour)
		for what, heard := range map[string]<-chan outcome{"answer awaited": pending, "written": written} {
			if got := <-heard; !errors.Is(got.err, transport.ErrConnLost) {
				t.Errorf("%s: %v, want a lost connection", what, got.err)
			}
		}
		for what, heard := range map[string]<-chan outcome{"written in part": half, "queued": queued} {
			if got := <-heard; !errors.Is(got.err, fulcrum.ErrUnavailable) {
				t.Errorf("%s: %v, want unavailable", what, got.err)
			}
		}
		a.faults.Heal(nil)
		if err := <-again; err != nil {
			t.Errorf("a call begun by the callback = %v", err)
		}
		last := a.begin(t, "b", chHang, "", time.Hour)
		self := a.begin(t, "a", chHang, "", time.Hour)
		synctest.Wait()
		a.stop()
		if got := <-last; !errors.Is(got.err, transport.ErrConnLost) {
			t.Errorf("under way when its caller stops: %v, want a lost connection", got.err)
		}
		if got := <-self; !errors.Is(got.err, fulcrum.ErrUnknown) {
			t.Errorf("to itself when it stops: %v, want the handler's error", got.err)
		}
	})
}

// What waits for a connection is bounded, also in number; so are calls to oneself.
func TestGoOverload(t *testing.T) {
	for _, tc := range []struct {
		name    string
		to      fulcrum.NodeID
		payload int
		passes  int // of 40 calls
	}{
		{"no connection, large", "b", 10_000, 10},
		{"no connection, empty", "b", 0, 36},
		{"connected, large", "c", 50_000, 22}, // netfault takes 1 MiB first, as a socket would
		{"to itself", "a", 0, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newNetwork(t)
				a := net.start("a", func(o *transport.Options) { o.MaxInflight, o.QueueBytes = 4, 150_000 })
				net.start("b", nil)
				net.start("c", nil)
				if got := <-a.begin(t, "c", chEcho, "", time.Second); got.err != nil {
					t.Fatal(got.err)
				}
				a.cut("b")
				a.cut("c")
				var all []<-chan outcome
				for range 40 {
					all = append(all, a.begin(t, tc.to, chHang, strings.Repeat("x", tc.payload), time.Second))
					synctest.Wait()
				}
				passed := 0
				for _, heard := range all {
					if got := <-heard; !errors.Is(got.err, fulcrum.ErrOverloaded) {
						passed++
					} else if got.after != 0 {
						t.Errorf("overloaded after %v, want at once", got.after)
					}
				}
				if got := <-a.begin(t, "a", chEcho, "", time.Second); got.err != nil {
					t.Errorf("a call to itself afterwards = %v", got.err)
				}
				if passed < tc.passes || passed > tc.passes+3 {
					t.Errorf("%d of 40 calls passed, want about %d", passed, tc.passes)
				}
			})
		})
	}
}

// Answers, timeouts and the ends of connections race: each call has one outcome, its own.
func TestGoEndsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		start := func() *node {
			b := net.start("b", nil)
			b.HandleAsync(60, func(_ fulcrum.NodeID, p []byte, deadline time.Time, answer func([]byte, error)) bool {
				left := time.Until(deadline) // rounded up: the caller's time is over then, or almost
				time.AfterFunc(left-left%time.Millisecond, func() { answer(p, nil) })
				return true
			}, nopHandler)
			return b
		}
		b := start()
		var outcomes [4000]atomic.Int32
		var answered, late, lost atomic.Int32
		var under sync.WaitGroup
		for i := range outcomes {
			under.Add(1)
			want := fmt.Sprint(i)
			a.Go("b", 60, []byte(want), time.Duration(1+i%300)*time.Millisecond, func(reply []byte, err error) {
				switch {
				case err == nil && string(reply) == want:
					answered.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					late.Add(1)
				case errors.Is(err, transport.ErrConnLost), errors.Is(err, fulcrum.ErrUnavailable):
					lost.Add(1)
				default:
					t.Errorf("call %s = %q, %v", want, reply, err)
				}
				if outcomes[i].Add(1) == 1 {
					under.Done()
				}
			})
			if i%20 == 0 {
				time.Sleep(time.Millisecond)
			}
			if i%1000 == 999 { // the connection ends meanwhile
				b.stop()
				b = start()
			}
		}
		under.Wait()
		time.Sleep(5 * time.Second)
		for i := range outcomes {
			if n := outcomes[i].Load(); n != 1 {
				t.Errorf("call %d had %d outcomes", i, n)
			}
		}
		if answered.Load() == 0 || late.Load() == 0 || lost.Load() == 0 {
			t.Errorf("%d answered, %d late, %d lost: want some of each", answered.Load(), late.Load(), lost.Load())
		}
	})
}

// The same over real sockets, where goroutines truly race.
func TestGoOverLoopback(t *testing.T) {
	a, _ := overLoopback(t)
	var under sync.WaitGroup
	for i := range 2000 {
		under.Add(1)
		want := fmt.Sprintf("a:%d", i)
		var once atomic.Bool
		timeout := time.Minute
		if i%4 == 3 {
			timeout = 2 * time.Millisecond // may pass, or not
		}
		a.Go("b", []transport.Channel{chEcho, chFast, chAsync}[i%3], []byte(want[2:]), timeout, func(reply []byte, err error) {
			if once.Swap(true) {
				t.Errorf("call %d had a second outcome", i)
				return
			}
			defer under.Done()
			if err != nil && (timeout == time.Minute || !errors.Is(err, context.DeadlineExceeded)) || err == nil && string(reply) != want {
				t.Errorf("Go = %q, %v; want %q", reply, err, want)
			}
		})
	}
	under.Wait()
}

// Calls that are answered in time leave nothing behind that wakes an idle node.
func TestGoLeavesNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		alarms := func(timeout time.Duration) int {
			if got := <-a.begin(t, "b", chEcho, "", timeout); got.err != nil {
				t.Error(got.err)
			}
			return transport.Alarms(a.Transport)
		}
		for _, timeout := range []time.Duration{time.Second, 2 * time.Second, time.Hour} {
			if n := alarms(timeout); n != 0 {
				t.Errorf("%d alarms set after a call with %v, want none: the next check is early enough", n, timeout)
			}
			time.Sleep(300 * time.Millisecond)
		}
		if n := alarms(50 * time.Millisecond); n != 1 {
			t.Errorf("%d alarms set after a call with 50ms, want one", n)
		}
		time.Sleep(200 * time.Millisecond)
		if n := transport.Alarms(a.Transport); n != 0 {
			t.Errorf("%d alarms set with nothing under way, want none", n)
		}
	})
}
