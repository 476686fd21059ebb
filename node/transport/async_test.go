package transport_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/transport"
)

const chLater transport.Channel = 61

// later is an AsyncHandler that takes every call and leaves the answers to the test.
type later chan func(reply []byte, err error)

func (l later) handle(_ fulcrum.NodeID, _ []byte, _ time.Time, answer func([]byte, error)) bool {
	l <- answer
	return true
}

// answersLater starts b, whose calls on chLater the test answers.
func (n *network) answersLater(change func(*transport.Options)) (*node, later) {
	l := make(later, 100)
	b := n.start("b", change)
	b.HandleAsync(chLater, l.handle, func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) {
		return nil, errors.New("slow was asked for a call that fast took")
	})
	return b, l
}

func TestAnswersComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		b, later := net.answersLater(nil)
		for _, from := range []*node{a, b} { // over the network, and to itself
			first := from.begin(t, "b", chLater, "", time.Minute)
			answerFirst := <-later
			second := from.begin(t, "b", chLater, "", time.Minute)
			answerSecond := <-later
			time.Sleep(3 * time.Second)
			answerSecond([]byte("second"), nil)
			if got := <-second; got.reply != "second" || got.err != nil || got.after != 3*time.Second {
				t.Errorf("the second call of %s = %+v", from.id, got)
			}
			time.Sleep(time.Second)
			answerFirst(nil, fulcrum.Errorf(fulcrum.CodeConflict, "too old"))
			if got := <-first; !errors.Is(got.err, &fulcrum.Error{Code: fulcrum.CodeConflict}) || got.after != 4*time.Second {
				t.Errorf("the first call of %s = %+v", from.id, got)
			}
			answerFirst([]byte("again"), nil) // not the contract, and harms nobody
		}
	})
}

func TestAsyncHandlerSeesTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		b := net.start("b", nil)
		b.HandleAsync(62, func(from fulcrum.NodeID, p []byte, deadline time.Time, answer func([]byte, error)) bool {
			if from != "a" && from != "b" || string(p) != "hello" || time.Until(deadline) != 3*time.Second {
				t.Errorf("asked for %q of %s within %v", p, from, time.Until(deadline))
			}
			time.AfterFunc(time.Second, func() { answer([]byte("fast"), nil) }) // not taken: it must do nothing
			return false
		}, func(ctx context.Context, _ fulcrum.NodeID, p []byte) ([]byte, error) {
			if deadline, _ := ctx.Deadline(); time.Until(deadline) != 3*time.Second {
				t.Errorf("slow has %v", time.Until(deadline))
			}
			time.Sleep(2 * time.Second) // it may block
			return p, nil
		})
		for _, from := range []*node{a, b} {
			if got := <-from.begin(t, "b", 62, "hello", 3*time.Second); got.reply != "hello" || got.after != 2*time.Second {
				t.Errorf("a call of %s not taken = %+v, want slow's answer", from.id, got)
			}
		}
	})
}

// An answer that nobody waits for any more harms nobody.
func TestAnswersTooLate(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(a, b *node) // what happens before the answer
		want error
	}{
		{"after the timeout", func(*node, *node) { time.Sleep(2 * time.Second) }, context.DeadlineExceeded},
		{"after the caller stopped", func(a, _ *node) { a.stop() }, transport.ErrConnLost},
		{"after the handling node stopped", func(_, b *node) { b.stop() }, transport.ErrConnLost},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newNetwork(t)
				a := net.start("a", nil)
				b, later := net.answersLater(nil)
				heard := a.begin(t, "b", chLater, "", time.Second)
				self := b.begin(t, "b", chLater, "", time.Second)
				answers := []func([]byte, error){<-later, <-later}
				begun := time.Now()
				tc.end(a, b)
				if took := time.Since(begun); took > 2*time.Second {
					t.Errorf("stopping took %v while an answer was due", took)
				}
				if got := <-heard; !errors.Is(got.err, tc.want) {
					t.Errorf("Go = %v, want %v", got.err, tc.want)
				}
				if got := <-self; !errors.Is(got.err, context.DeadlineExceeded) && !errors.Is(got.err, transport.ErrConnLost) {
					t.Errorf("Go to itself = %v, want it unanswered", got.err)
				}
				for _, answer := range answers {
					answer([]byte("late"), nil)
					answer([]byte("late"), nil)
				}
			})
		})
	}
}

// What was answered before the end of Run's drain still goes out.
func TestAnswerWhileStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		b, later := net.answersLater(nil)
		heard := a.begin(t, "b", chLater, "", time.Minute)
		answer := <-later
		hold := make(chan struct{})
		b.Handle(63, func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) { <-hold; return nil, nil })
		held := a.begin(t, "b", 63, "", time.Minute)
		synctest.Wait()
		go b.stop()
		synctest.Wait() // for the handler
		answer([]byte("in time"), nil)
		close(hold)
		if got := <-heard; got.reply != "in time" {
			t.Errorf("answered while stopping: %+v", got)
		}
		if got := <-held; got.err != nil {
			t.Errorf("handled while stopping: %v", got.err)
		}
	})
}

// Calls taken count against MaxInflight until they are answered, whatever became of
// their connection, and of their caller. Those on other channels do not.
func TestTakenCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork(t)
		a := net.start("a", nil)
		_, later := net.answersLater(func(o *transport.Options) { o.MaxInflight = 4 })
		answers := make([]func([]byte, error), 4)
		for i := range answers {
			a.begin(t, "b", chLater, "", time.Second)
			answers[i] = <-later
		}
		refused := func(when string) {
			t.Helper()
			if got := <-a.begin(t, "b", chLater, "", time.Second); !errors.Is(got.err, fulcrum.ErrOverloaded) {
				t.Errorf("%s: a fifth call = %+v, want overloaded", when, got)
			}
			if got := <-a.begin(t, "b", chEcho, "", time.Second); got.err != nil {
				t.Errorf("%s: a call on another channel = %+v, want its answer", when, got)
			}
		}
		refused("under way")
		time.Sleep(2 * time.Second)
		refused("after their timeout")
		a.stop()
		a = net.start("a", nil)
		refused("after their connection")
		answers[0](nil, nil)
		answers[0](nil, nil) // counts once
		heard := a.begin(t, "b", chLater, "", time.Second)
		answers[0] = <-later
		refused("with another in place of the answered one")
		for _, answer := range answers {
			answer([]byte("x"), nil)
		}
		if got := <-heard; got.reply != "x" {
			t.Errorf("the last call = %+v", got)
		}
		if got := <-a.begin(t, "b", chEcho, "", time.Second); got.err != nil {
			t.Errorf("after all answers: %v", got.err)
		}
	})
}
