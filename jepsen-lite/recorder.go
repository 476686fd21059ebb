package jepsen

import (
	"slices"
	"sync"

	"fulcrum/jepsen-lite/history"
)

// recorder collects what happens. Its methods may be called from any goroutine.
type recorder struct {
	mu     sync.Mutex
	ops    []history.Op
	events []history.Event
}

func (r *recorder) add(ops ...history.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, ops...)
}

func (r *recorder) event(e history.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// history is what was recorded so far, in order of time.
func (r *recorder) history() *history.History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &history.History{Ops: slices.Clone(r.ops), Events: slices.Clone(r.events)}
	slices.SortStableFunc(h.Ops, func(a, b history.Op) int { return int(min(1, max(-1, a.Invoke-b.Invoke))) })
	slices.SortStableFunc(h.Events, func(a, b history.Event) int { return int(min(1, max(-1, a.Time-b.Time))) })
	return h
}
