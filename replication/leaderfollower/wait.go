package leaderfollower

import "context"

// waiter waits until check says done, or fails. check runs under mu whenever
// something moved; it must be cheap.
type waiter struct {
	check func() (done bool, err error)
	out   chan error // one slot, written once
}

// wait registers check; the caller holds mu.
func (g *Group) wait(check func() (bool, error)) *waiter {
	w := &waiter{check: check, out: make(chan error, 1)}
	if !w.settle() {
		g.waiters = append(g.waiters, w)
	}
	return w
}

func (w *waiter) settle() bool {
	done, err := w.check()
	if done || err != nil {
		w.out <- err
		return true
	}
	return false
}

// progress looks at every waiter; the caller holds mu and has moved something.
func (g *Group) progress() {
	kept := g.waiters[:0]
	for _, w := range g.waiters {
		if !w.settle() {
			kept = append(kept, w)
		}
	}
	clear(g.waiters[len(kept):])
	g.waiters = kept
}

// forget takes w out; a result that came first is returned.
func (g *Group) forget(w *waiter) (err error, settled bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case err := <-w.out:
		return err, true
	default:
	}
	for i, x := range g.waiters {
		if x == w {
			g.waiters = append(g.waiters[:i], g.waiters[i+1:]...)
			break
		}
	}
	return nil, false
}

// await returns once check says so, with its error or that of ctx.
func (g *Group) await(ctx context.Context, check func() (bool, error)) error {
	g.mu.Lock()
	w := g.wait(check)
	g.mu.Unlock()
	select {
	case err := <-w.out:
		return err
	case <-ctx.Done():
		if err, settled := g.forget(w); settled {
			return err
		}
		return ctx.Err()
	}
}
