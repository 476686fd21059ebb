package transport

import (
	"bytes"
	"context"
	"errors"
	"math"
	"time"

	"fulcrum"
)

const (
	expiryGrain = int64(100 * time.Millisecond) // calls of Go end up to this much after their timeout
	waiterBytes = 4 << 10                       // what a call of Go that waits for a connection costs, besides its payload
)

// Go begins a call to the handler of ch on node to, and returns at once. payload is
// copied before Go returns. Without a connection to the node, one is made in the
// background, and the call sent if it is there within timeout.
//
// done hears the outcome, exactly once: the answer, which it owns, or an error that
// means what Call's does. It runs on any goroutine, usually the one that reads the
// connection, so it must not block; no lock of the transport is held meanwhile, and it
// may begin other calls. It may run before Go returns: one that tries again at once
// after a definite error would never end. Small calls to one node over one connection are
// sent in the order in which Go was called, and so are those of about one size; others
// overtake larger ones. Those that waited for the connection are sent in any order.
//
// A call not answered within timeout fails with a context.DeadlineExceeded, up to
// 100 ms late. A timeout of nothing or less has passed: the call is not sent. One
// above an hour is an hour.
//
// A call to this node itself runs the handler on a goroutine of its own; at most
// MaxInflight do. As with Call, its handler must heed its ctx: nobody else ends it.
func (t *Transport) Go(to fulcrum.NodeID, ch Channel, payload []byte, timeout time.Duration, done func(reply []byte, err error)) {
	if err := t.fits(to, payload); err != nil {
		done(nil, err)
		return
	}
	if timeout <= 0 {
		done(nil, t.unsent(to, context.DeadlineExceeded))
		return
	}
	now := t.now()
	c := t.calls.Get().(*call)
	c.then, c.begun, c.expires = done, now, now+int64(min(timeout, maxTimeout))
	if to == t.o.Node {
		t.goSelf(c, ch, bytes.Clone(payload))
		return
	}
	p := t.peer(to)
	if p == nil {
		t.tell(c, nil, t.unsent(to, errTooManyNodes))
		return
	}
	if sent, err := p.goNow(c, now, ch, payload); err != nil {
		t.tell(c, nil, err)
	} else if !sent {
		p.goLater(c, ch, payload)
	}
}

// goNow queues c if there is a living connection. With an error, which is definite, or
// if it was not sent, c is still the caller's.
func (p *peer) goNow(c *call, now int64, ch Channel, payload []byte) (sent bool, err error) {
	select {
	case <-p.t.started:
	default:
		return false, nil
	}
	for {
		w, _, err := p.wireOrAttempt()
		if err != nil {
			return false, p.t.unsent(p.id, err)
		}
		if w == nil {
			return false, nil
		}
		_, err = w.queueCall(c, now, time.Duration(c.expires-now), ch, payload)
		if err == nil || !errors.Is(err, errWireEnded) {
			return err == nil, err
		}
	}
}

// goLater queues c once there is a connection, if too much does not wait for it already.
func (p *peer) goLater(c *call, ch Channel, payload []byte) {
	size := len(payload) + waiterBytes
	if err := p.reserve(size); err != nil {
		p.t.tell(c, nil, err)
		return
	}
	payload = bytes.Clone(payload)
	running := p.t.goRun(func() {
		err := p.goConnected(c, ch, payload)
		p.waiting.Add(-int64(size))
		if err != nil {
			p.t.tell(c, nil, err)
		}
	})
	if !running {
		p.waiting.Add(-int64(size))
		p.t.tell(c, nil, p.t.unsent(p.id, errStopping))
	}
}

// goConnected waits for a connection and queues c. With an error, which is definite, c
// is still the caller's.
func (p *peer) goConnected(c *call, ch Channel, payload []byte) error {
	ctx, cancel := context.WithDeadline(context.Background(), p.t.epoch.Add(time.Duration(c.expires)))
	defer cancel()
	if err := p.t.awaitRun(ctx, p.id); err != nil {
		return err
	}
	for {
		w, err := p.wait(ctx)
		if err != nil {
			return err
		}
		now := p.t.now()
		if now >= c.expires {
			return p.t.unsent(p.id, context.DeadlineExceeded)
		}
		_, err = w.queueCall(c, now, time.Duration(c.expires-now), ch, payload)
		if err == nil || !errors.Is(err, errWireEnded) {
			return err
		}
	}
}

// goSelf answers c without a network.
func (t *Transport) goSelf(c *call, ch Channel, payload []byte) {
	if t.toSelf.Add(1) > int64(t.o.MaxInflight) {
		t.toSelf.Add(-1)
		t.m.overloaded.Inc()
		t.tell(c, nil, fulcrum.Errorf(fulcrum.CodeOverloaded, "%s is handling %d calls of its own already", t.o.Node, t.o.MaxInflight))
		return
	}
	running := t.goRun(func() {
		reply, err := t.handleSelf(c.expires, ch, payload)
		t.toSelf.Add(-1)
		t.tell(c, reply, err)
	})
	if !running {
		t.toSelf.Add(-1)
		t.tell(c, nil, t.unsent(t.o.Node, errStopping))
	}
}

func (t *Transport) handleSelf(expires int64, ch Channel, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithDeadline(context.Background(), t.epoch.Add(time.Duration(expires)))
	defer cancel()
	if err := t.awaitRun(ctx, t.o.Node); err != nil {
		return nil, err
	}
	return t.callSelf(ctx, ch, payload)
}

// settle hands the outcome of c, which was sent and is in no wire.pending any more, to
// who waits for it. No lock may be held: a callback of Go may do what it likes.
func (t *Transport) settle(c *call) {
	if c.then == nil {
		c.done <- struct{}{}
		return
	}
	t.m.callSeconds.Observe(time.Duration(t.now() - c.begun).Seconds())
	t.tell(c, c.reply, c.err)
}

// tell ends a call of Go, which nobody else may know any more. No lock may be held.
func (t *Transport) tell(c *call, reply []byte, err error) {
	then := c.then
	t.recycle(c)
	then(reply, err)
}

// wakeBy sees to it that watch looks soon after expires. Its next check does so for
// most: calls that are answered in time cost no timer and no wake-up. It needs mu.
func (w *wire) wakeBy(expires, now int64) {
	if expires >= w.nextCheck {
		return
	}
	at := expires + expiryGrain - expires%expiryGrain // together with those that expire a little earlier
	if w.alarmAt == 0 || at < w.alarmAt {
		w.alarmAt = at
		w.alarm.Reset(time.Duration(at - now))
	}
}

// sweep ends the calls of Go that have expired. next is when watch looks again in any
// case, 0 if that is as it was.
func (w *wire) sweep(now, next int64) {
	w.mu.Lock()
	if next != 0 {
		w.nextCheck = next
	}
	late := w.expire(now)
	w.mu.Unlock()
	if len(late) == 0 {
		return
	}
	for _, c := range late {
		c.err = w.givenUp(c.start == notHanded, context.DeadlineExceeded)
		w.t.settle(c)
	}
}

// expire takes the expired calls of Go out, and sets the alarm for the others. It
// needs mu.
func (w *wire) expire(now int64) (late []*call) {
	next := int64(math.MaxInt64)
	for id, c := range w.pending {
		switch {
		case c.then == nil: // its caller waits with a timer of its own
		case c.expires <= now:
			w.takeBack(id, c)
			late = append(late, c)
		default:
			next = min(next, c.expires)
		}
	}
	if w.alarmAt != 0 {
		w.alarm.Stop()
		w.alarmAt = 0
	}
	w.wakeBy(next, now)
	return late
}
