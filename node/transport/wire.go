package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
)

const readBuffer = 64 << 10

// errWireEnded says that a call was not given to a wire because it had ended.
var errWireEnded = errors.New("connection ended")

// wire is one connection after its handshake: on an outbound one we call and the
// peer answers, on an inbound one the other way round. Three goroutines serve it:
// read, write and watch; all end with it.
type wire struct {
	t       *Transport
	peer    *peer
	conn    net.Conn
	inbound bool
	done    chan struct{} // closed by end
	kick    chan struct{} // has a token when the writer should look again

	closing    atomic.Bool  // no call may begin; set under mu
	lastRead   atomic.Int64 // Transport.now of the last bytes that came
	writeSince atomic.Int64 // Transport.now at which the Write under way began; 0: none

	mu       sync.Mutex
	err      error  // why it ended; nil while it lives
	draining bool   // end once all is written; closing is set too
	waiting  bool   // the writer has nothing to do, and needs a kick
	rest     []byte // encoded small frames that are next to be written
	base     []byte // the memory that rest is the end of
	buf      []byte // those behind them
	spare    []byte // an empty buffer to continue with
	lanes    lanes  // large frames
	frames   int    // queued since the writer looked last
	step     int    // of what is large, in a turn
	queued   int    // bytes that are not written yet, but for heads of large frames
	handed   uint64 // bytes of small frames ever handed to Write, and one: those that begin here or later were never sent
	lastID   uint64
	lastUse  int64 // Transport.now of the last call begun or answered
	pending  map[uint64]*call

	alarm     *time.Timer // wakes watch for calls of Go that expire before its next check
	alarmAt   int64       // Transport.now for which alarm is set; 0: it is not
	nextCheck int64       // Transport.now of the next check at the latest

	ping ping // the ping under way
}

// ping is the one ping under way on a wire; id 0: none.
type ping struct {
	id     uint64
	end    uint64 // where its frame ends in all that is written
	asked  int64  // Transport.now when it was handed to Write; 0: not yet
	outFor int64  // Transport.now when that Write was done; 0: not yet
}

func (t *Transport) newWire(p *peer, c net.Conn, inbound bool) *wire {
	setUp(c)
	w := &wire{
		t: t, peer: p, conn: c, inbound: inbound,
		done: make(chan struct{}), kick: make(chan struct{}, 1),
		pending: make(map[uint64]*call), lastUse: t.now(), handed: allHanded + 1, step: firstStep,
		alarm: time.NewTimer(time.Hour), nextCheck: t.now() + int64(t.o.KeepAlive),
	}
	w.alarm.Stop()
	w.heard()
	return w
}

// serve runs w; false: the transport is stopping, and w has ended.
func (t *Transport) serve(w *wire) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping {
		_ = w.conn.Close() // nothing was sent on it
		return false
	}
	t.wires[w] = struct{}{}
	w.peer.wires.Add(1)
	t.m.connections(w.inbound).Inc()
	t.running.Go(w.read)
	t.running.Go(w.write)
	t.running.Go(w.watch)
	return true
}

// end closes w for the reason given and answers its calls. Only the first counts.
func (w *wire) end(reason error) {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	w.err = reason
	w.closing.Store(true)
	close(w.done)
	calls, handed := w.pending, w.handed
	w.pending, w.buf, w.spare, w.lanes = nil, nil, nil, lanes{}
	w.mu.Unlock()

	_ = w.conn.Close() // the reason is known already
	for _, c := range calls {
		if c.start >= handed {
			c.err = w.t.unsent(w.peer.id, reason)
		} else {
			c.err = fmt.Errorf("call to %s: %w (%w)", w.peer.id, ErrConnLost, reason)
		}
		w.t.settle(c)
	}
	w.t.forgetWire(w)
}

func (t *Transport) forgetWire(w *wire) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.wires, w)
	w.peer.wires.Add(-1)
	t.m.connections(w.inbound).Dec()
	if w.inbound {
		t.inbound--
	}
}

// drain ends w once everything queued is written, or after drainTimeout.
func (w *wire) drain() {
	w.mu.Lock()
	w.draining = true
	w.closing.Store(true)
	w.wakeWriter()
	w.mu.Unlock()
	_ = w.conn.SetWriteDeadline(time.Now().Add(drainTimeout)) // a closed one is drained
}

// startCall queues a call of Call. The error is errWireEnded, or a definite
// *fulcrum.Error.
func (w *wire) startCall(ctx context.Context, ch Channel, payload []byte) (uint64, *call, error) {
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	if err := ctx.Err(); err != nil {
		return 0, nil, w.t.unsent(w.peer.id, err)
	}
	if left <= 0 { // its timer has not fired yet
		return 0, nil, w.t.unsent(w.peer.id, context.DeadlineExceeded)
	}
	c := w.t.calls.Get().(*call)
	id, err := w.queueCall(c, w.t.now(), left, ch, payload)
	if err != nil {
		w.t.recycle(c)
		return 0, nil, err
	}
	return id, c, nil
}

// queueCall queues c, which has left to be answered. With an error, which is that of
// startCall, c is still the caller's; without one it may be settled already.
func (w *wire) queueCall(c *call, now int64, left time.Duration, ch Channel, payload []byte) (uint64, error) {
	f := frame{kind: kindCall, channel: ch, timeout: millis(left), payload: payload}
	l := w.early(&f, now+int64(left))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing.Load() {
		l.recycle()
		return 0, errWireEnded
	}
	w.lastID++
	f.id = w.lastID
	start, l, ok := w.queue(&f, l, now+int64(left))
	if !ok {
		return 0, fulcrum.Errorf(fulcrum.CodeOverloaded, "%d bytes wait to be sent from %s to %s", w.queued, w.t.o.Node, w.peer.id)
	}
	c.start, c.large = start, l
	w.pending[f.id] = c
	w.lastUse = now
	if c.then != nil {
		w.wakeBy(c.expires, now)
	}
	return f.id, nil
}

// forget takes a call back; known: nobody is answering it. unsent: not all of it was sent,
// and never will be.
func (w *wire) forget(id uint64) (known, unsent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.pending[id]
	if c == nil {
		return false, false
	}
	w.takeBack(id, c)
	return true, c.start == notHanded
}

// takeBack needs mu.
func (w *wire) takeBack(id uint64, c *call) {
	if c.large != nil {
		w.drop(c.large)
	}
	delete(w.pending, id)
}

// answer queues the answer to a peer's call, which ends at its deadline. If it does not
// fit into the queue the caller hears nothing, and runs into that. One that is too large for
// a message was worked for all the same: what the call did is done, so nobody may hear that
// it is not.
func (w *wire) answer(id uint64, deadline time.Time, reply []byte, err error) {
	f := frame{kind: kindReply, id: id, payload: reply}
	if err == nil && len(reply) > w.t.o.MaxFrameBytes {
		err = fulcrum.Errorf(fulcrum.CodeUnknown, "the request was handled, but its answer of %d bytes cannot be sent: at most %d fit", len(reply), w.t.o.MaxFrameBytes)
	}
	if err != nil {
		f.kind, f.payload = kindError, fulcrum.AppendError(nil, err)
	}
	expires := w.t.now() + int64(time.Until(deadline))
	l := w.early(&f, expires)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		l.recycle()
		return
	}
	w.lastUse = w.t.now()
	w.queue(&f, l, expires)
}

// Read makes w the reader under its own bufio.Reader: it notes every sign of life.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.conn.Read(p)
	if n > 0 {
		w.heard()
		w.t.m.bytesIn.Add(float64(n))
	}
	return n, err
}

func (w *wire) heard() {
	now := w.t.now()
	w.lastRead.Store(now)
	w.peer.lastHeard.Store(max(1, now))
}

// read takes frames apart until w ends. A bad frame ends it: nobody knows where the
// next one would begin.
func (w *wire) read() {
	frames := newJoiner(bufio.NewReaderSize(w, readBuffer), w.t.o.MaxFrameBytes, w.takes, w.t.now)
	for {
		f, err := frames.next()
		if err == nil {
			w.t.m.framesIn.Inc()
			err = w.take(f)
		}
		if err == nil {
			continue
		}
		if errors.Is(err, errBadFrame) {
			w.t.m.badFrames.Inc()
			w.t.log.Warn("closed a peer connection: it sent garbage", "peer", w.peer.id, "remote", addr(w.conn), "err", err)
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("closed by the peer")
		}
		w.end(err)
		return
	}
}

// takes reports whether large frames of a kind come from the peer.
func (w *wire) takes(k kind) bool {
	if w.inbound {
		return k == kindCall
	}
	return k == kindReply || k == kindError
}

// take acts on one frame.
func (w *wire) take(f frame) error {
	switch {
	case f.kind == kindCall && w.inbound:
		w.t.handle(w, f)
	case f.kind == kindPing && w.inbound:
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.err == nil && len(w.buf) < w.t.o.QueueBytes { // who floods us with pings hears less
			w.put(&frame{kind: kindPong, id: f.id}, true)
		}
	case f.kind == kindPong && !w.inbound:
		w.ponged(f.id)
	case (f.kind == kindReply || f.kind == kindError) && !w.inbound:
		w.answered(f)
	default:
		return fmt.Errorf("%w: kind %d has no place in this direction", errBadFrame, f.kind)
	}
	return nil
}

// answered ends the call that f answers. Calls that were given up are not known
// any more; their answers are ignored.
func (w *wire) answered(f frame) {
	w.mu.Lock()
	c := w.pending[f.id]
	delete(w.pending, f.id)
	w.mu.Unlock()
	if c == nil {
		return
	}
	if f.kind == kindReply {
		c.reply = f.payload
	} else if c.err = fulcrum.DecodeError(f.payload); errors.Is(c.err, fulcrum.ErrShort) {
		c.err = fmt.Errorf("call to %s: its error cannot be read: %w", w.peer.id, c.err)
	}
	w.t.settle(c)
}

func addr(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}
