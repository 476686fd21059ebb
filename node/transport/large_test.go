package transport

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"time"

	"fulcrum"

	"pgregory.net/rapid"
)

// What the lanes hold open fits what a receiver allows, whatever the limit.
func TestLanesFitTheReceiver(t *testing.T) {
	for _, limit := range []int{1, 1000, 5000, 100_000, 1 << 20, 5 << 20, fulcrum.MaxMessageBytes} {
		total := 0
		for lane := range laneCount {
			largest := 0 // of the lane, by bisection: lanes get smaller with the size
			for lo, hi := 1, limit; lo <= hi; {
				if mid := (lo + hi) / 2; laneOf(mid, limit) >= lane {
					largest, lo = mid, mid+1
				} else {
					hi = mid - 1
				}
			}
			total += largest
		}
		if total > 2*limit {
			t.Errorf("with payloads of up to %d bytes %d may be open", limit, total)
		}
	}
	if laneOf(fulcrum.MaxMessageBytes, fulcrum.MaxMessageBytes) != 0 || laneOf(smallFrame+1, fulcrum.MaxMessageBytes) != laneCount-1 {
		t.Error("the largest frames are not in the first lane, or the smallest not in the last")
	}
	if smallest := fulcrum.MaxMessageBytes >> (2 * (laneCount - 1)); smallest > minStep {
		t.Errorf("frames of %d bytes are in the last lane, and would be cut", smallest)
	}
}

// turns makes a wire that nobody serves, whose turns a test takes.
func turns(queueBytes int) *wire {
	tr := New(Options{Node: "a", QueueBytes: queueBytes})
	c, _ := net.Pipe()
	return tr.newWire(tr.peer("b"), c, false)
}

// Whatever is queued and dropped, in turns of any step: what is sent are whole frames in
// pieces, nothing is lost or starves, and the books are right.
func TestTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := turns(0)
		var wire []byte
		var tn turn
		want := make(map[uint64]frame)
		waits := make(map[uint64]int) // turns since a frame was queued
		take := func() {
			step := rapid.SampledFrom([]int{minStep, firstStep, maxStep}).Draw(t, "step")
			w.step = step
			if !w.next(&tn) {
				t.Fatal("the wire ended")
			}
			small := len(tn.small)
			if small > writeStep {
				t.Fatalf("a turn has %d bytes of small frames", small)
			}
			a, b := tn.encode(0)
			if n := len(a) + len(b) - small; n > step+step/4+(len(tn.pieces)+1)*headRoom {
				t.Fatalf("a turn has %d bytes of what is large, with a step of %d", n, step)
			}
			wire = append(append(wire, a...), b...)
			w.written(&tn, a, 0, 0)
			for id := range waits {
				waits[id]++
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "actions") {
			switch rapid.IntRange(0, 9).Draw(t, "action") {
			case 0, 1, 2, 3, 4, 5:
				size := rapid.OneOf(rapid.IntRange(0, smallFrame), rapid.IntRange(0, 300_000)).Draw(t, "size")
				p := bytes.Repeat([]byte{byte(w.lastID)}, size)
				c := &call{}
				id, err := w.queueCall(c, 0, time.Minute, 7, p)
				if err != nil {
					t.Fatal(err)
				}
				want[id] = frame{kind: kindCall, id: id, channel: 7, timeout: 60_000, payload: p}
			case 6, 7, 8:
				if w.queued > 0 {
					take()
				}
			case 9:
				for id, c := range w.pending {
					if c.large != nil && rapid.Bool().Draw(t, "drop") {
						if known, unsent := w.forget(id); !known || !unsent {
							t.Fatalf("a frame that was dropped: %v, %v", known, unsent)
						}
						delete(want, id)
					}
				}
			}
		}
		for n := 0; w.queued > 0; n++ {
			if take(); n > 10_000 {
				t.Fatal("it does not end")
			}
		}
		for id, c := range w.pending {
			if c.large != nil || c.start >= w.handed {
				t.Fatalf("call %d counts as unsent", id)
			}
		}
		if w.lanes != (lanes{turn: w.lanes.turn}) || len(w.rest)+len(w.buf) > 0 {
			t.Fatal("something is left, which counts nothing")
		}
		j := newJoiner(frameReader(wire), fulcrum.MaxMessageBytes, anyKind, func() int64 { return 0 })
		for len(want) > 0 {
			got, err := j.next()
			if err != nil {
				t.Fatal(err)
			}
			if f, ok := want[got.id]; !ok || !bytes.Equal(got.payload, f.payload) || got.kind != f.kind || got.channel != f.channel || got.timeout > f.timeout || got.timeout < f.timeout-1000 {
				t.Fatalf("frame %d: kind %d, %d bytes, timeout %d", got.id, got.kind, len(got.payload), got.timeout)
			}
			delete(want, got.id)
		}
		if f, err := j.next(); err == nil || len(j.open) > 0 {
			t.Fatalf("more comes: %+v, %d open", f.kind, len(j.open))
		}
	})
}

// Each lane has its turn, however much waits in another.
func TestLanesTakeTurns(t *testing.T) {
	w := turns(1 << 30)
	queue := func(size int) uint64 {
		id, err := w.queueCall(&call{}, 0, time.Minute, 7, make([]byte, size))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	var last []uint64
	for _, size := range []int{5 << 10, 30 << 10, 200 << 10, 1 << 20, 4 << 20, 16 << 20} {
		for range 10 {
			queue(size)
		}
		last = append(last, uint64(laneOf(size, fulcrum.MaxMessageBytes)))
	}
	served := map[int]int{}
	var order []int
	var tn turn
	for range 20 * laneCount {
		for range 4 { // more small frames than go, and of the least large ones
			queue(5 << 10)
			for range 20 {
				queue(4000)
			}
		}
		w.step = minStep
		w.next(&tn)
		a, _ := tn.encode(0)
		for _, p := range tn.pieces {
			served[p.l.lane] += p.n
			if len(order) == 0 || order[len(order)-1] != p.l.lane {
				order = append(order, p.l.lane)
			}
		}
		w.written(&tn, a, 0, 0)
	}
	for lane := range laneCount {
		if !slices.Contains(last, uint64(lane)) {
			t.Errorf("nothing was in lane %d", lane)
		}
		if n := served[lane]; n < 10*minStep && lane < laneCount-3 {
			t.Errorf("lane %d had %d bytes in %d turns", lane, n, 20*laneCount)
		}
	}
	for i := laneCount; i < len(order) && i < 3*laneCount; i++ {
		if order[i] == order[i-1] {
			t.Errorf("lane %d had two turns in a row: %v", order[i], order)
		}
	}
}

func TestWholeFrames(t *testing.T) {
	var b []byte
	var ends []int
	for range 100 {
		b = appendFrame(b, &frame{kind: kindCall, id: 1, payload: make([]byte, 1000)})
		ends = append(ends, len(b))
	}
	for _, tc := range []struct{ limit, want int }{
		{len(b), len(b)}, {len(b) - 1, ends[98]}, {ends[3], ends[3]}, {ends[3] - 1, ends[2]}, {ends[3] + 1, ends[3]}, {1, ends[0]},
	} {
		if got := wholeFrames(b, tc.limit); got != tc.want {
			t.Errorf("whole frames within %d bytes = %d, want %d", tc.limit, got, tc.want)
		}
	}
}

func TestPaced(t *testing.T) {
	for _, tc := range []struct {
		name    string
		step, n int
		took    time.Duration
		want    int
	}{
		{"fast", 64 << 10, 64 << 10, time.Millisecond, 128 << 10},
		{"fast, the most", maxStep, maxStep, 0, maxStep},
		{"little says little", 64 << 10, 5 << 10, time.Millisecond, 64 << 10},
		{"half as fast", 64 << 10, 64 << 10, 2 * paceGoal, 32 << 10},
		{"slow", 64 << 10, 64 << 10, time.Second, minStep},
		{"very slow", minStep, minStep, time.Hour, minStep},
		{"slow, but more than its step", minStep, 1 << 20, paceGoal + 1, 2 * minStep},
		{"as it should be", 32 << 10, 32 << 10, paceGoal, 32 << 10},
		{"a little faster", 32 << 10, 32 << 10, paceGoal * 4 / 5, 40 << 10},
	} {
		if got := paced(tc.step, tc.n, tc.took); got != tc.want {
			t.Errorf("%s: the step after %d, in which %d bytes took %v, is %d, want %d", tc.name, tc.step, tc.n, tc.took, got, tc.want)
		}
	}
}
