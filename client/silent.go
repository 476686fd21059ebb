package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A node that is paused, or behind a cut, takes requests and says nothing. Whether it is
// that, or only what it was asked takes its time, a second question tells: one that any
// node answers at once. Of a silent node's other requests nothing is known either, so
// whoever may ask another one does; and for a while it is asked last.
const (
	askAfter  = 500 * time.Millisecond // without an answer, and then as often
	askFor    = time.Second            // a second question without an answer: the node is silent
	avoidedIn = 10 * time.Second       // unless it answers something before
)

// errNoSign is why an attempt at a silent node was ended.
var errNoSign = errors.New("it gives no sign of life")

// watchdog looks after one attempt.
type watchdog struct {
	ctx     context.Context // of the second questions
	cancel  context.CancelFunc
	timer   *time.Timer
	asking  sync.WaitGroup // the timer's function, while it runs
	mu      sync.Mutex
	stopped bool // guarded by mu: no further question
	alive   bool // a question was answered; to be read when stop has waited
}

// lookAfter calls silent, once, if the node at base gives no sign of life before stop is called.
// stop waits for silent, and reports whether there was such a sign.
func (c *Client) lookAfter(ctx context.Context, base string, silent func()) (stop func() (alive bool)) {
	w := &watchdog{}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.mu.Lock() // until the timer is known
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(askAfter, func() {
		w.mu.Lock()
		if w.stopped {
			w.mu.Unlock()
			return
		}
		w.asking.Add(1)
		w.mu.Unlock()
		defer w.asking.Done()
		switch {
		case c.alive(w.ctx, base):
			w.alive = true
			w.timer.Reset(askAfter)
		case w.ctx.Err() == nil:
			silent()
		}
	})
	return w.stop
}

func (w *watchdog) stop() (alive bool) {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.cancel()
	w.asking.Wait()
	w.timer.Stop()
	return w.alive
}

// alive reports whether the node at base answers anything at all.
func (c *Client) alive(ctx context.Context, base string) bool {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	hr, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/livez", nil)
	if err != nil {
		return false
	}
	resp, err := c.http.Do(hr)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10)) // what it says does not matter, but its connection serves again
	_ = resp.Body.Close()
	return true
}

// avoid has the node at base asked last for a while, and the keyspace's table asked for
// anew: who led there may have been replaced.
func (c *Client) avoid(base, keyspace string) {
	c.forget(keyspace)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent == nil || len(c.silent) >= 1024 { // a bound, not a policy
		c.silent = map[string]time.Time{}
	}
	c.silent[base] = time.Now()
}

// answers notes that the node at base did.
func (c *Client) answers(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.silent, base)
}

// soundFirst returns targets with those last that were silent just now.
func (c *Client) soundFirst(targets []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.silent) == 0 || len(targets) < 2 {
		return targets
	}
	was := func(base string) int {
		if at, ok := c.silent[base]; ok && time.Since(at) < avoidedIn {
			return 1
		}
		return 0
	}
	targets = slices.Clone(targets)
	slices.SortStableFunc(targets, func(a, b string) int { return was(a) - was(b) })
	return targets
}
