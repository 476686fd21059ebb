package transport

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"fulcrum"
)

// AsyncHandler may answer a call from a peer later, without a goroutine of its own. It
// runs on the goroutine that reads the peer's connection, and must not block: all calls
// of that peer wait for it.
//
// If it returns true it took the call: it owns payload, and has called answer or will
// call it, once, from any goroutine. Until then the call counts against MaxInflight,
// also when its connection has ended. If it returns false it must have left payload
// alone; answer does nothing then.
//
// deadline is when the caller gives up; nobody enforces it here, and a later answer is
// sent and ignored. The reply must not be modified after answer was called; the error
// reaches the caller by fulcrum.AppendError.
type AsyncHandler func(from fulcrum.NodeID, payload []byte, deadline time.Time, answer func(reply []byte, err error)) (taken bool)

// HandleAsync lets fast answer the calls on ch, and slow those that fast does not take,
// each on a goroutine of its own as with Handle. Neither may be nil. It must not be
// called after Run.
//
// An answer is dropped silently when the caller's connection has ended, or the
// transport has stopped. Run does not wait for answers that are due. Until Run returns,
// fast may still be asked.
func (t *Transport) HandleAsync(ch Channel, fast AsyncHandler, slow Handler) {
	t.handlers[ch] = handling{h: slow, async: fast}
}

// asyncCall is a call that an AsyncHandler was asked to take. It is counted in the
// peer's inflight.
type asyncCall struct {
	w        *wire
	id       uint64
	channel  Channel
	deadline time.Time
	ended    atomic.Bool // answered, or not taken: a second answer must not be counted out again
}

// offer asks h to take the call f, which is counted in the peer's inflight. If it
// does, its answer counts it out.
func (w *wire) offer(h AsyncHandler, f frame, deadline time.Time) (taken bool) {
	a := &asyncCall{w: w, id: f.id, channel: f.channel, deadline: deadline}
	if h(w.peer.id, f.payload, deadline, a.answer) {
		return true
	}
	a.ended.Store(true)
	return false
}

func (a *asyncCall) answer(reply []byte, err error) {
	if a.ended.Swap(true) {
		return
	}
	a.w.peer.inflight[a.channel].Add(-1) // first: whoever hears the answer may call again
	a.w.answer(a.id, a.deadline, reply, err)
}

// askSelf asks h to take a call of this node to itself, and waits for its answer until
// ctx ends. Its error is what Call returns.
func (t *Transport) askSelf(ctx context.Context, h AsyncHandler, payload []byte) (reply []byte, taken bool, err error) {
	type answer struct {
		reply []byte
		err   error
	}
	answered := make(chan answer, 1)
	deadline, _ := ctx.Deadline()
	if !h(t.o.Node, payload, deadline, func(reply []byte, err error) {
		select {
		case answered <- answer{reply, err}:
		default: // only the first counts
		}
	}) {
		return nil, false, nil
	}
	select {
	case a := <-answered:
		if a.err != nil {
			return nil, true, fulcrum.AsError(a.err)
		}
		return a.reply, true, nil
	case <-ctx.Done(): // also when the transport stops
	}
	if t.life.Err() != nil {
		return nil, true, fmt.Errorf("call to %s: %w (%w)", t.o.Node, ErrConnLost, errStopping)
	}
	return nil, true, fmt.Errorf("call to %s: %w", t.o.Node, ctx.Err())
}
