package transport

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"time"
)

// What a connection has to send is of two sorts. Small frames are encoded one behind the
// other, and what gathers while a write is under way goes with the next. Large ones wait in
// lanes. They are sent by turns: small frames, and then some of what is large, of which as
// much goes at once as the link takes in paceGoal.
//
// Invariant: a small frame waits for what the operating system was given (see maxUnsent),
// for the turn under way, and for small frames before it. A turn has at most a step of what
// is large, and a quarter more, and at most writeStep of what is small, so that neither
// starves. Frames of one lane arrive in the order in which they were queued, and small ones
// do; others overtake each other.
const (
	writeStep  = 64 << 10 // of one Write: what must move within StallTimeout
	keepBuffer = 1 << 20  // larger write buffers are not kept by a connection

	minStep   = 16 << 10 // of what is large, in a turn
	maxStep   = 128 << 10
	firstStep = writeStep
	paceGoal  = 20 * time.Millisecond
)

// allHanded and notHanded are values of call.start, which else is where a small frame
// begins in all small frames. handed starts above allHanded.
const (
	allHanded = 0
	notHanded = math.MaxUint64
)

// full reports whether size bytes more are too many. What is small may go a little beyond
// the bound: heartbeats are not refused because large values wait.
func (w *wire) full(size int) bool {
	limit := w.t.o.QueueBytes
	if size <= smallFrame {
		limit += limit / 8
	}
	if w.queued == 0 || w.queued+size <= limit {
		return false
	}
	w.t.m.overloaded.Inc()
	return true
}

// early is f as a large frame, nil if it may go as a small one. It does not need mu: it copies.
func (w *wire) early(f *frame, expires int64) *large {
	if len(f.payload) <= mediumFrame {
		return nil
	}
	return newLarge(f, expires, w.t.o.MaxFrameBytes)
}

// queue queues f, as l if that is not nil, and reports as what, and where it begins. l is
// not the caller's any more. It needs mu and a living w.
func (w *wire) queue(f *frame, l *large, expires int64) (start uint64, _ *large, ok bool) {
	if size := len(f.payload); l == nil && size > smallFrame && (w.queued+size > w.step || w.lanes.head() != nil) {
		l = newLarge(f, expires, w.t.o.MaxFrameBytes)
	}
	if l == nil {
		start, ok = w.put(f, false)
		return start, nil, ok
	}
	l.id = f.id
	if !w.putLarge(l) {
		l.recycle()
		return 0, nil, false
	}
	return notHanded, l, true
}

// put queues a small frame and reports where it begins. Past the bound it refuses what is
// not urgent. It needs mu and a living w.
func (w *wire) put(f *frame, urgent bool) (start uint64, ok bool) {
	if !urgent && w.full(len(f.payload)) {
		return 0, false
	}
	if w.buf == nil {
		w.buf, w.spare = w.spare, nil
	}
	before := len(w.buf)
	start = w.handed + uint64(len(w.rest)+before)
	w.buf = appendFrame(w.buf, f)
	w.queued += len(w.buf) - before
	w.frames++
	w.wakeWriter()
	return start, true
}

// putLarge queues a large frame, which belongs to w from then on. It needs mu and a living w.
func (w *wire) putLarge(l *large) (ok bool) {
	if w.full(l.size()) {
		return false
	}
	w.lanes.push(l)
	w.queued += l.size()
	w.frames++
	w.wakeWriter()
	return true
}

// drop stops sending l, of which not all was sent, and lets the peer forget what it has of
// it. It needs mu.
func (w *wire) drop(l *large) {
	w.lanes.remove(l)
	l.dropped = true
	w.queued -= l.rest()
	if c := w.pending[l.id]; c != nil {
		c.large = nil
	}
	if l.sent > 0 {
		w.put(&frame{kind: kindDrop, id: l.id}, true)
	}
	if !l.busy {
		l.recycle()
	}
}

// wakeWriter needs mu.
func (w *wire) wakeWriter() {
	if w.waiting {
		w.waiting = false
		w.kick <- struct{}{} // has room: one token for each time waiting is set
	}
}

// turn is what goes to the connection before the writer looks at its queues again.
type turn struct {
	small  []byte // whole frames
	alone  bool   // what is behind small in its memory is not to be sent yet
	pieces []piece
}

// piece is n bytes of a large frame, from byte from.
type piece struct {
	l       *large
	from, n int
}

// write writes what is queued until w ends.
func (w *wire) write() {
	var t turn
	for w.next(&t) {
		begun := w.t.now()
		first, second := t.encode(begun)
		if !w.send(first) || !w.send(second) {
			return
		}
		w.written(&t, first, len(first)+len(second), time.Duration(w.t.now()-begun))
	}
}

// paced is the step after one in which n bytes took so long: what fits into paceGoal, at
// most twice as much as before.
func paced(step, n int, took time.Duration) int {
	fits := 2 * float64(step)
	if took > 0 {
		fits = min(fits, float64(n)*float64(paceGoal)/float64(took))
	}
	if fits > float64(step) && n < step/2 {
		return step // so little says little
	}
	return int(max(minStep, min(fits, maxStep)))
}

// encode returns what to write: the small frames and pieces of little size together, and a
// piece that is too long to be copied there.
func (t *turn) encode(now int64) (first, second []byte) {
	first = t.small
	for i, p := range t.pieces {
		b := p.l.encode(p.from, p.n, now)
		switch {
		case i < len(t.pieces)-1 || len(first) > 0 && t.fits(len(first)+p.n):
			first = append(first, b...)
		default:
			second = b
		}
	}
	return first, second
}

// fits reports whether a piece may be copied behind the small frames, so that there are
// size bytes.
func (t *turn) fits(size int) bool { return !t.alone && size <= writeStep }

// send writes b; false: w has ended.
func (w *wire) send(b []byte) bool {
	for len(b) > 0 {
		step := b[:min(len(b), writeStep)]
		w.writeSince.Store(max(1, w.t.now()))
		n, err := w.conn.Write(step)
		w.writeSince.Store(0)
		w.t.m.bytesOut.Add(float64(n))
		if err != nil {
			w.end(fmt.Errorf("write: %w", err))
			return false
		}
		b = b[len(step):]
	}
	return true
}

// next waits for frames and says what to send; false: w has ended.
func (w *wire) next(t *turn) bool {
	t.small, t.alone, t.pieces = nil, false, t.pieces[:0]
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if !w.awaitFrames() {
			return false
		}
		w.takeSmall(t)
		w.takeLarge(t)
		w.t.m.framesOut.Add(float64(w.frames))
		w.frames = 0
		if len(t.small) > 0 || len(t.pieces) > 0 {
			return true
		}
	}
}

// awaitFrames waits until something is queued; false: w has ended. It needs mu, and gives
// it up meanwhile.
func (w *wire) awaitFrames() bool {
	for w.err == nil && len(w.rest)+len(w.buf) == 0 && w.lanes.head() == nil {
		if w.draining {
			w.mu.Unlock()
			w.end(errStopping)
			w.mu.Lock()
			return false
		}
		w.waiting = true
		w.mu.Unlock()
		select {
		case <-w.kick:
			runtime.Gosched() // whoever is ready to queue more goes first: fewer, larger writes
		case <-w.done:
		}
		w.mu.Lock()
	}
	return w.err == nil
}

// takeSmall takes the small frames, or some if they are many. It needs mu.
func (w *wire) takeSmall(t *turn) {
	if len(w.rest) == 0 {
		w.base, w.rest = w.buf, w.buf
		w.buf, w.spare = w.spare, nil
	}
	n := wholeFrames(w.rest, writeStep)
	t.small, w.rest = w.rest[:n], w.rest[n:]
	t.alone = len(w.rest) > 0
	w.handed += uint64(n)
	if w.ping.id != 0 && w.ping.asked == 0 && w.handed >= w.ping.end {
		w.ping.asked = w.t.now()
	}
}

// wholeFrames is how many bytes of b are whole frames, together at most limit.
func wholeFrames(b []byte, limit int) int {
	if len(b) <= limit {
		return len(b)
	}
	n := 0
	for {
		size := frameHeader + int(binary.BigEndian.Uint32(b[n:]))
		if n > 0 && n+size > limit {
			return n
		}
		n += size
	}
}

// takeLarge takes about a step of what is large: whole frames that fit together in one
// write, and at the end one piece, or one frame that does not. It needs mu.
func (w *wire) takeLarge(t *turn) {
	size, step := len(t.small), w.step
	for left := step; ; {
		l := w.lanes.head()
		if l == nil {
			return
		}
		if l.expires != 0 && l.expires <= w.t.now() {
			w.drop(l)
			continue
		}
		n := l.rest()
		switch {
		case n <= left || left == step && n <= step+step/4: // all of the rest
		case left < step: // a turn of its own
			if t.pieces[len(t.pieces)-1].l.lane == l.lane {
				w.lanes.pass()
			}
			return
		default:
			n = step
		}
		t.pieces = append(t.pieces, piece{l, l.sent, n})
		l.sent, l.busy = l.sent+n, true
		if l.rest() == 0 {
			w.lanes.remove(l)
			if c := w.pending[l.id]; c != nil {
				c.large, c.start = nil, allHanded
			}
		}
		size, left = size+n+headRoom, left-n
		if l.rest() > 0 || left <= 0 || !t.fits(size) {
			w.lanes.pass()
			return
		}
	}
}

// written takes the memory of t back, of which first was the first write, and notes how
// long its n bytes took.
func (w *wire) written(t *turn, first []byte, n int, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step = paced(w.step, n, took)
	w.queued -= len(t.small)
	for _, p := range t.pieces {
		w.queued -= p.n
		if p.l.busy = false; p.l.dropped || p.l.rest() == 0 {
			p.l.recycle()
		}
	}
	clear(t.pieces)
	if w.ping.asked != 0 && w.ping.outFor == 0 {
		w.ping.outFor = w.t.now()
	}
	if t.alone {
		return // there is more in it
	}
	mem := w.base
	if cap(first) > cap(mem) {
		mem = first // pieces were copied there
	}
	w.base, w.rest = nil, nil
	if w.err == nil && cap(mem) <= keepBuffer {
		if w.buf == nil {
			w.buf = mem[:0]
		} else {
			w.spare = mem[:0]
		}
	}
}
