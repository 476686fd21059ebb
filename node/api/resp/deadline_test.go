package resp

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

type ctxKey struct{}

func TestADeadlineThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), ctxKey{}, "v"))
		defer cancel()
		d := &deadline{Context: parent, at: time.Now().Add(time.Second)}
		if at, ok := d.Deadline(); !ok || at != d.at || d.Err() != nil || d.Value(ctxKey{}) != "v" {
			t.Errorf("deadline %v, error %v, value %v", at, d.Err(), d.Value(ctxKey{}))
		}
		time.Sleep(time.Second)
		if !errors.Is(d.Err(), context.DeadlineExceeded) || d.real != nil {
			t.Errorf("it is over: error %v; it has begun to wait: %v", d.Err(), d.real != nil)
		}
		d = &deadline{Context: parent, at: time.Now().Add(time.Hour)}
		cancel()
		if !errors.Is(d.Err(), context.Canceled) {
			t.Errorf("its parent has ended: error %v", d.Err())
		}
		early, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		want, _ := early.Deadline()
		if at, _ := (&deadline{Context: early, at: want.Add(1)}).Deadline(); at != want {
			t.Errorf("the parent's deadline is earlier: got %v, want %v", at, want)
		}
	})
}

func TestADeadlineThatIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := func(what string, d *deadline, want error, end func()) {
			t.Helper()
			before := runtime.NumGoroutine()
			child, cancel := context.WithCancel(d)
			defer cancel()
			if n := runtime.NumGoroutine() - before; n != 0 {
				t.Errorf("%s: a context below it needs %d goroutines", what, n)
			}
			end()
			synctest.Wait()
			select {
			case <-d.Done():
			default:
				t.Errorf("%s: it is not done", what)
			}
			if !errors.Is(d.Err(), want) || !errors.Is(child.Err(), want) {
				t.Errorf("%s: errors %v and, below it, %v; want %v", what, d.Err(), child.Err(), want)
			}
		}
		parent, cancel := context.WithCancel(t.Context())
		of := func(ctx context.Context) *deadline { return &deadline{Context: ctx, at: time.Now().Add(time.Second)} }
		late := of(parent)
		ends("after its time", late, context.DeadlineExceeded, func() { time.Sleep(time.Second) })
		done := of(parent)
		ends("at the end of the call", done, context.Canceled, done.cancel)
		ends("with its parent", of(parent), context.Canceled, cancel)

		over := of(t.Context())
		over.cancel()
		if !errors.Is(over.Err(), context.Canceled) {
			t.Errorf("after the call: %v", over.Err())
		}
		select {
		case <-over.Done():
		default:
			t.Error("who asks after the end of the call waits for ever")
		}
	})
}
