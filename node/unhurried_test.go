package node

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

// frames is a network that notes what travels, and answers with handlers.
type frames struct {
	mu       sync.Mutex
	sent     map[fulcrum.NodeID]int
	handlers map[transport.Channel]transport.Handler
}

func (f *frames) call(ctx context.Context, to fulcrum.NodeID, msg []byte) ([]byte, error) {
	f.mu.Lock()
	f.sent[to]++
	f.mu.Unlock()
	if to == "cut" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return answerEach(ctx, "n1", msg, f.handlers)
}

func unhurriedOver(handlers map[transport.Channel]transport.Handler) (*unhurried, *frames) {
	f := &frames{sent: map[fulcrum.NodeID]int{}, handlers: handlers}
	return &unhurried{call: f.call}, f
}

func echo(_ context.Context, _ fulcrum.NodeID, msg []byte) ([]byte, error) {
	if string(msg) == "bad" {
		return nil, fulcrum.Errorf(fulcrum.CodeEpoch, "another epoch")
	}
	return append([]byte("re:"), msg...), nil
}

func TestUnhurriedMessagesTravelTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		catalog := func(context.Context, fulcrum.NodeID, []byte) ([]byte, error) { return []byte("catalog"), nil }
		u, f := unhurriedOver(map[transport.Channel]transport.Handler{chGroup: echo, chCatalog: catalog})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		ask := func(to fulcrum.NodeID, ch transport.Channel, msg, want string) {
			all.Go(func() {
				if got, err := u.Call(ctx, to, ch, []byte(msg)); err != nil || string(got) != want {
					t.Errorf("%q to %s = %q, %v; want %q", msg, to, got, err, want)
				}
			})
		}
		begun := time.Now()
		for i := range 20 {
			ask("n2", chGroup, fmt.Sprint(i), fmt.Sprint("re:", i))
		}
		ask("n2", chCatalog, "x", "catalog")
		ask("n3", chGroup, "y", "re:y")
		all.Go(func() {
			if _, err := u.Call(ctx, "n2", chGroup, []byte("bad")); !errors.Is(err, fulcrum.ErrEpoch) {
				t.Errorf("a refused message: %v, want its own error", err)
			}
		})
		all.Wait()
		if took := time.Since(begun); took != unhurriedDelay {
			t.Errorf("it took %v, want %v", took, unhurriedDelay)
		}
		ask("n2", chGroup, "later", "re:later")
		all.Wait()
		if f.sent["n2"] != 2 || f.sent["n3"] != 1 {
			t.Errorf("frames %v, want 2 to n2 and 1 to n3", f.sent)
		}
	})
}

func TestUnhurriedMessagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := unhurriedOver(map[transport.Channel]transport.Handler{chGroup: echo})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		for range unhurriedMost {
			all.Go(func() { _, _ = u.Call(ctx, "n2", chGroup, []byte("x")) })
		}
		synctest.Wait()
		if _, err := u.Call(ctx, "n2", chGroup, []byte("x")); !errors.Is(err, fulcrum.ErrOverloaded) {
			t.Errorf("one more: %v, want overloaded", err)
		}
		all.Wait()
		if _, err := u.Call(ctx, "cut", chGroup, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("into a cut: %v, want the deadline", err)
		}
	})
}

// A group that does not answer keeps its own answer back, and no other's for long.
func TestUnhurriedAnswersDoNotWaitForTheSlowest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handler := func(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
			if string(msg) == "slow" {
				<-ctx.Done()
				return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "too busy")
			}
			return echo(ctx, from, msg)
		}
		u, _ := unhurriedOver(map[transport.Channel]transport.Handler{chGroup: handler})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		begun := time.Now()
		all.Go(func() {
			if _, err := u.Call(ctx, "n2", chGroup, []byte("slow")); !errors.Is(err, fulcrum.ErrUnavailable) {
				t.Errorf("the slow one: %v", err)
			}
		})
		if got, err := u.Call(ctx, "n2", chGroup, []byte("x")); err != nil || string(got) != "re:x" {
			t.Errorf("the other one: %q, %v", got, err)
		}
		all.Wait()
		if took := time.Since(begun); took > unhurriedDelay+unhurriedLimit {
			t.Errorf("it took %v, want %v at the most", took, unhurriedDelay+unhurriedLimit)
		}
	})
}

func TestUnhurriedNoise(t *testing.T) {
	for _, msg := range []string{"\xff", "\x02", "\x02\x05abc", string(append([]byte{byte(chData)}, 1, 'x'))} {
		if got, err := answerEach(t.Context(), "n2", []byte(msg), map[transport.Channel]transport.Handler{chGroup: echo}); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("%q = %q, %v; want invalid", msg, got, err)
		}
	}
}
