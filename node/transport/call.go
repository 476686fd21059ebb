package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"fulcrum"
)

// call is one call waiting for its answer. Whoever takes it out of wire.pending
// settles it, once.
type call struct {
	done  chan struct{} // has room for one token: settling never blocks
	start uint64        // where its frame begins in all small ones that its wire was given to write, allHanded or notHanded
	large *large        // its frame, if that is large and not all of it was sent
	reply []byte
	err   error

	// Of Go only; done is not used then.
	then    func(reply []byte, err error) // nil: a call of Call
	begun   int64                         // Transport.now
	expires int64                         // Transport.now
}

// Call asks the handler of ch on node to, and returns its answer, which the caller
// owns. payload is copied before Call returns. See the package comment for what the
// errors mean. A call to this node itself runs the handler on the caller's goroutine.
func (t *Transport) Call(ctx context.Context, to fulcrum.NodeID, ch Channel, payload []byte) ([]byte, error) {
	if err := t.fits(to, payload); err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.o.CallTimeout)
		defer cancel()
	}
	if err := t.awaitRun(ctx, to); err != nil {
		return nil, err
	}
	if to == t.o.Node {
		return t.callSelf(ctx, ch, bytes.Clone(payload))
	}
	begun := time.Now()
	p := t.peer(to)
	if p == nil {
		return nil, t.unsent(to, errTooManyNodes)
	}
	for {
		w, err := p.connected(ctx, len(payload))
		if err != nil {
			return nil, err
		}
		id, c, err := w.startCall(ctx, ch, payload)
		if errors.Is(err, errWireEnded) {
			continue // it ended between connected and here; nothing was sent
		}
		if err != nil {
			return nil, err
		}
		reply, err := t.await(ctx, w, id, c)
		t.m.callSeconds.Observe(time.Since(begun).Seconds())
		return reply, err
	}
}

// fits refuses a payload that no frame takes.
func (t *Transport) fits(to fulcrum.NodeID, payload []byte) error {
	if len(payload) > t.o.MaxFrameBytes {
		return fulcrum.Errorf(fulcrum.CodeTooLarge, "message of %d bytes to %s: at most %d fit", len(payload), to, t.o.MaxFrameBytes)
	}
	return nil
}

// awaitRun waits until Run was called.
func (t *Transport) awaitRun(ctx context.Context, to fulcrum.NodeID) error {
	select {
	case <-t.started:
		return nil
	case <-ctx.Done():
		return t.unsent(to, ctx.Err())
	}
}

// await returns the answer to c. When ctx ends first the call is forgotten, and a
// late answer ignored.
func (t *Transport) await(ctx context.Context, w *wire, id uint64, c *call) ([]byte, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		if known, unsent := w.forget(id); known {
			t.recycle(c)
			return nil, w.givenUp(unsent, ctx.Err())
		}
		<-c.done // it was being answered at that moment
	}
	reply, err := c.reply, c.err
	t.recycle(c)
	return reply, err
}

// givenUp is the outcome of a call that ended for the reason given.
func (w *wire) givenUp(unsent bool, reason error) error {
	if unsent { // nobody handles a part of it
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "not all of a message could be sent from %s to %s: %w", w.t.o.Node, w.peer.id, reason)
	}
	return fmt.Errorf("call to %s: %w", w.peer.id, reason)
}

// recycle keeps c for another call. Nobody else may know it any more.
func (t *Transport) recycle(c *call) {
	c.reply, c.err, c.then, c.large = nil, nil, nil, nil
	t.calls.Put(c)
}

// callSelf answers without a network, with the same errors as over one. The handler
// gets payload.
func (t *Transport) callSelf(ctx context.Context, ch Channel, payload []byte) ([]byte, error) {
	h := t.handlers[ch]
	if h.h == nil {
		return nil, noHandler(ch)
	}
	if err := ctx.Err(); err != nil {
		return nil, t.unsent(t.o.Node, err)
	}
	if !t.begin() {
		return nil, t.unsent(t.o.Node, errStopping)
	}
	defer t.handling.Done()
	if !h.fast {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(t.life, cancel)()
	}
	if h.async != nil {
		if reply, taken, err := t.askSelf(ctx, h.async, payload); taken {
			return reply, err
		}
	}
	reply, err := h.h(ctx, t.o.Node, payload)
	if err != nil {
		return nil, fulcrum.AsError(err)
	}
	return reply, nil
}

// unsent is the error of a call that definitely was not sent.
func (t *Transport) unsent(to fulcrum.NodeID, cause error) error {
	e := fulcrum.Errorf(fulcrum.CodeUnavailable, "no connection from %s to %s: %w", t.o.Node, to, cause)
	return e
}

func noHandler(ch Channel) error {
	return fulcrum.Errorf(fulcrum.CodeNotFound, "nobody handles channel %d", ch)
}

// handle answers one call that came in over w, on this goroutine if its handler is
// fast, or takes it to answer it later.
func (t *Transport) handle(w *wire, f frame) {
	h := t.handlers[f.channel]
	deadline := time.Now().Add(timeoutOf(f))
	switch {
	case h.h == nil:
		w.answer(f.id, deadline, nil, noHandler(f.channel))
		return
	case h.fast:
		reply, err := h.h(deadlineOnly{t.life, deadline}, w.peer.id, f.payload)
		w.answer(f.id, deadline, reply, err)
		return
	}
	inflight := &w.peer.inflight[f.channel]
	if inflight.Add(1) > int64(t.o.MaxInflight) {
		inflight.Add(-1)
		t.m.overloaded.Inc()
		w.answer(f.id, deadline, nil, fulcrum.Errorf(fulcrum.CodeOverloaded, "%s is handling %d calls of %s on channel %d already", t.o.Node, t.o.MaxInflight, w.peer.id, f.channel))
		return
	}
	if h.async != nil && w.offer(h.async, f, deadline) {
		return
	}
	if !t.begin() {
		inflight.Add(-1)
		w.answer(f.id, deadline, nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "%s is stopping", t.o.Node))
		return
	}
	t.hand(task{w: w, h: h.h, f: f, deadline: deadline})
}

// task is a call that a goroutine other than its connection's is to answer. It is counted
// in handling, and in its peer's inflight.
type task struct {
	w        *wire
	h        Handler
	f        frame
	deadline time.Time
}

func (t *Transport) do(k task) {
	defer t.handling.Done()
	defer k.w.peer.inflight[k.f.channel].Add(-1)
	ctx, cancel := context.WithDeadline(t.life, k.deadline)
	defer cancel()
	reply, err := k.h(ctx, k.w.peer.id, k.f.payload)
	k.w.answer(k.f.id, k.deadline, reply, err)
}

// restMost is how many goroutines rest when they have answered, and wait for more to do:
// their stacks have grown to what a handler needs, which a new one's would have to.
const restMost = 64

// hand gives k to a goroutine that rests, or to a new one. The caller is a goroutine of
// the transport's, that Run waits for.
func (t *Transport) hand(k task) {
	select {
	case t.tasks <- k:
	default:
		t.running.Go(func() { t.work(k) })
	}
}

// work answers k, and what comes while it rests.
func (t *Transport) work(k task) {
	for {
		t.do(k)
		if t.resting.Add(1) > restMost {
			t.resting.Add(-1)
			return
		}
		select {
		case k = <-t.tasks:
			t.resting.Add(-1)
		case <-t.life.Done():
			return
		}
	}
}

// maxTimeout bounds what a peer can ask us to wait.
const maxTimeout = time.Hour

func timeoutOf(f frame) time.Duration {
	if f.timeout > uint64(maxTimeout/time.Millisecond) {
		return maxTimeout
	}
	return time.Duration(f.timeout) * time.Millisecond
}

// deadlineOnly is a context whose deadline can be asked for, but does not fire: a
// fast handler never waits, so a timer for each call would be wasted.
type deadlineOnly struct {
	context.Context
	deadline time.Time
}

func (d deadlineOnly) Deadline() (time.Time, bool) { return d.deadline, true }
