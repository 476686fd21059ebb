package jepsen

import (
	"slices"
	"sync"

	"fulcrum/jepsen-lite/history"
	"fulcrum/mutant"
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
	if mutant.On("recorder-drops-ops") {
		ops = slices.DeleteFunc(ops, func(op history.Op) bool { // mutant: forgets some of what was acknowledged
			return op.Outcome == history.OK && op.F.Mutates() && len(r.ops)%16 == 0
		})
	}
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
	if n := len(h.Ops); mutant.On("history-truncated") {
		h.Ops = slices.Delete(h.Ops, n/3, n/2) // mutant: a part in the middle is gone
	}
	slices.SortStableFunc(h.Ops, func(a, b history.Op) int { return int(min(1, max(-1, a.Invoke-b.Invoke))) })
	slices.SortStableFunc(h.Events, func(a, b history.Event) int { return int(min(1, max(-1, a.Time-b.Time))) })
	return h
}
