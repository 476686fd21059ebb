package bench

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// phase is a warm-up or a measurement: it says when which operation is due.
type phase struct {
	lasts time.Duration // 0: as long as limit takes
	limit int64         // operations; 0: as many as fit
	rate  float64       // open loop, operations a second; 0: closed
	drain time.Duration // open loop: how long after the end what was due may still be sent

	recorders []*recorder
	begin     time.Time
	until     time.Time // zero: no end
	ended     time.Time // set when all clients are back

	taken atomic.Int64 // operations that clients took
	due   chan int64   // open loop: those whose time has come
}

// maxDue bounds what waits for a client. A dispatcher that finds it full waits; the times
// when operations were due do not move by that.
const maxDue = 1 << 16

func newPhase(o Options, lasts time.Duration, limit int64) *phase {
	return &phase{lasts: lasts, limit: limit, rate: o.Rate, drain: time.Duration(o.OpTimeout), due: make(chan int64, maxDue)}
}

func (ph *phase) start() {
	ph.begin = time.Now()
	if ph.lasts > 0 {
		ph.until = ph.begin.Add(ph.lasts)
	}
}

// scheduled is how many operations an open loop has.
func (ph *phase) scheduled() int64 {
	n := int64(math.MaxInt64)
	if ph.lasts > 0 {
		n = int64(math.Ceil(ph.rate * ph.lasts.Seconds()))
	}
	if ph.limit > 0 {
		n = min(n, ph.limit)
	}
	return n
}

// at is when operation k of an open loop is due.
func (ph *phase) at(k int64) time.Time {
	return ph.begin.Add(time.Duration(float64(k) / ph.rate * float64(time.Second)))
}

// dispatch hands out the operations of an open loop when they are due. It is one
// goroutine for all clients, because a runtime timer wakes up to a millisecond late, and
// a system call for every client would cost a thread each.
func (ph *phase) dispatch(ctx context.Context) {
	defer close(ph.due)
	total := ph.scheduled()
	for k := int64(0); k < total; {
		now := time.Now()
		for ; k < total && !ph.at(k).After(now); k++ {
			if !ph.hand(ctx, k) {
				return
			}
		}
		if k < total && !ph.sleepUntil(ctx, ph.at(k)) {
			return
		}
	}
}

func (ph *phase) hand(ctx context.Context, k int64) bool {
	select {
	case ph.due <- k:
		return true
	default:
	}
	late := time.NewTimer(time.Until(ph.last()))
	defer late.Stop()
	select {
	case ph.due <- k:
		return true
	case <-late.C:
		return false
	case <-ctx.Done():
		return false
	}
}

// last is when what was due and not sent is given up.
func (ph *phase) last() time.Time {
	end := ph.until
	if end.IsZero() {
		end = ph.at(ph.scheduled())
	}
	return end.Add(ph.drain)
}

func (ph *phase) sleepUntil(ctx context.Context, t time.Time) bool {
	const ends = 2 * time.Millisecond
	if long := time.Until(t) - ends; long > 0 {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(long):
		}
	}
	if short := time.Until(t); short > 0 {
		pause(short)
	}
	return ctx.Err() == nil
}

// take sets when the next operations are due and returns how many there are, as many as
// ops has room for; 0: the phase is over. In an open loop it waits for the first one, and
// the others are those that are late already.
func (ph *phase) take(ctx context.Context, ops []Op) int {
	if ph.rate > 0 {
		return ph.takeDue(ctx, ops)
	}
	if !ph.until.IsZero() && !time.Now().Before(ph.until) {
		return 0
	}
	n := int64(len(ops))
	before := ph.taken.Add(n) - n
	if ph.limit > 0 {
		n = min(n, max(ph.limit-before, 0))
	}
	for i := range n {
		ops[i].due = time.Time{}
	}
	return int(n)
}

func (ph *phase) takeDue(ctx context.Context, ops []Op) int {
	n := 0
	for n < len(ops) {
		k, more := int64(0), false
		if n == 0 {
			select {
			case k, more = <-ph.due:
			case <-ctx.Done():
			}
		} else {
			select {
			case k, more = <-ph.due:
			default:
			}
		}
		if !more {
			break
		}
		ops[n].due = ph.at(k)
		n++
	}
	if n > 0 && time.Now().After(ph.last()) {
		return 0 // given up: counted as not sent
	}
	ph.taken.Add(int64(n))
	return n
}

// notSent is how many operations of an open loop were due and never sent.
func (ph *phase) notSent() int64 {
	if ph.rate == 0 {
		return 0
	}
	due := min(ph.scheduled(), int64(ph.ended.Sub(ph.begin).Seconds()*ph.rate)+1)
	return max(due-ph.taken.Load(), 0)
}

// watch tells what each second was like.
func (ph *phase) watch(stop <-chan struct{}, each func(Second)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	before := ph.begin
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			t := lastSecond(ph.recorders)
			s := Second{At: float64(int64(now.Sub(ph.begin).Seconds()*10+0.5)) / 10, OpsPerSec: rate(t.latency.TotalCount(), now.Sub(before))}
			if t.latency.TotalCount() > 0 {
				s.P50, s.P99 = t.latency.ValueAtQuantile(50), t.latency.ValueAtQuantile(99)
			}
			if len(t.errors) > 0 {
				s.Errors = t.errors
			}
			before = now
			each(s)
		}
	}
}
