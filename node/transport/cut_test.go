package transport_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/transport"
)

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
		net.knock("b")                      // and says nothing
		time.Sleep(1100 * time.Millisecond) // not when a pings: an answer to that would stand in the way of the last one
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

// What was still queued when a connection ended, or was sent in part, was never handled,
// and says so; what was handed to the network may have been handled.
func TestQueuedCallsFailDefinitely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		net.start("b", nil)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Fatal(err)
		}
		a.cut("b")
		calls := []struct {
			what string
			size int
			want error
		}{
			{"a call that a socket takes", 4 << 10, transport.ErrConnLost},
			{"a large one", 600 << 10, transport.ErrConnLost},
			{"one that is more than a socket takes", 4 << 20, fulcrum.ErrUnavailable},
			{"a large call behind it", 4 << 20, fulcrum.ErrUnavailable},
			{"a small call behind it", 4 << 10, fulcrum.ErrUnavailable},
		}
		results := make([]chan error, len(calls))
		for i, c := range calls {
			results[i] = make(chan error, 1)
			go func() {
				_, err := a.Call(within(t, time.Hour), "b", chEcho, make([]byte, c.size))
				results[i] <- err
			}()
			synctest.Wait()
		}
		for i, c := range calls {
			if err := <-results[i]; !errors.Is(err, c.want) {
				t.Errorf("%s = %v, want %v", c.what, err, c.want)
			}
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
