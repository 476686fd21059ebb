package history

import (
	"container/heap"
	"fmt"
	"time"

	"fulcrum"
)

// step is one line of a history file: the start of an operation, its end, or an event.
type step struct {
	op    int // index into Ops; -1: an event
	event int // index into Events
	end   bool
}

// steps calls emit for every step of h, by time. It needs memory for the operations
// under way, not for the whole run.
//
// Among steps of the same instant an invocation comes before the completions of other
// processes: two operations are only ordered when their times say so. It refuses a
// history that breaks the rules of Op: what is written must be readable.
func (h *History) steps(emit func(step) error) error {
	s := stepper{h: h, open: map[int]int{}, gone: map[int]bool{}, emit: emit}
	for i := range h.Ops {
		if err := s.invoke(i); err != nil {
			return err
		}
	}
	for s.ends.Len() > 0 {
		if err := s.next(); err != nil {
			return err
		}
	}
	return s.events(1<<63 - 1)
}

type stepper struct {
	h     *History
	open  map[int]int // process -> the op it is in
	gone  map[int]bool
	ends  ends
	event int // the next one to emit
	emit  func(step) error
}

func (s *stepper) invoke(i int) error {
	op := &s.h.Ops[i]
	for s.ends.Len() > 0 && s.ends[0].at < op.Invoke {
		if err := s.next(); err != nil {
			return err
		}
	}
	if j, ok := s.open[op.Process]; ok && s.h.Ops[j].Return == op.Invoke { // it ended in this very instant
		if err := s.complete(j); err != nil {
			return err
		}
	}
	if err := s.check(i); err != nil {
		return fulcrum.Errorf(fulcrum.CodeInternal, "history: op %d: %v", i, err).
			WithHint("a bug of whoever recorded it: see the rules at history.Op")
	}
	if err := s.events(op.Invoke); err != nil {
		return err
	}
	s.open[op.Process] = i
	heap.Push(&s.ends, end{at: op.Return, op: i})
	return s.emit(step{op: i})
}

// check holds op i against the rules, when all that ended before it is completed.
func (s *stepper) check(i int) error {
	op := &s.h.Ops[i]
	switch {
	case op.Invoke < 0 || op.Return < op.Invoke:
		return fmt.Errorf("it returned at %v and was invoked at %v", op.Return, op.Invoke)
	case i > 0 && op.Invoke < s.h.Ops[i-1].Invoke:
		return fmt.Errorf("it was invoked at %v, before the op in front of it", op.Invoke)
	case op.Process < 0 || s.gone[op.Process]:
		return fmt.Errorf("process %d acts after an unknown outcome, or is negative", op.Process)
	}
	if j, ok := s.open[op.Process]; ok {
		return fmt.Errorf("process %d is still in op %d", op.Process, j)
	}
	return nil
}

// next completes the operation that ends first, unless invoke did so already.
func (s *stepper) next() error {
	e := heap.Pop(&s.ends).(end)
	if j, ok := s.open[s.h.Ops[e.op].Process]; !ok || j != e.op {
		return nil
	}
	return s.complete(e.op)
}

func (s *stepper) complete(i int) error {
	op := &s.h.Ops[i]
	delete(s.open, op.Process)
	if op.Outcome == Info {
		s.gone[op.Process] = true
	}
	if err := s.events(op.Return); err != nil {
		return err
	}
	return s.emit(step{op: i, end: true})
}

func (s *stepper) events(until time.Duration) error {
	for ; s.event < len(s.h.Events) && s.h.Events[s.event].Time <= until; s.event++ {
		e := s.h.Events[s.event]
		if e.Time < 0 || s.event > 0 && e.Time < s.h.Events[s.event-1].Time {
			return fulcrum.Errorf(fulcrum.CodeInternal, "history: event %d is at %v, before the one in front of it", s.event, e.Time).
				WithHint("a bug of whoever recorded it: see the rules at history.History")
		}
		if err := s.emit(step{op: -1, event: s.event}); err != nil {
			return err
		}
	}
	return nil
}

// ends is a heap of the operations under way, the one that ends first on top.
type ends []end

type end struct {
	at time.Duration
	op int
}

func (e ends) Len() int { return len(e) }
func (e ends) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].op < e[j].op
}
func (e ends) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)   { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}
