package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum"

	"pgregory.net/rapid"
)

const testLimit = 100_000 // of a payload, in these tests

func anyKind(k kind) bool { return k == kindCall || k == kindReply || k == kindError }

// joining returns a joiner of b whose clock is at *now.
func joining(b []byte, now *int64) *joiner {
	return newJoiner(frameReader(b), testLimit, anyKind, func() int64 { return *now })
}

// inPieces is f as pieces of at most step bytes.
func inPieces(f frame, step int) (pieces [][]byte) {
	l := newLarge(&f, int64(f.timeout)*int64(time.Millisecond), testLimit)
	for from := 0; from < l.size(); from += step {
		pieces = append(pieces, bytes.Clone(l.encode(from, min(step, l.size()-from), 0)))
	}
	return pieces
}

// A large frame that goes whole is as any other.
func TestALargeFrameInOnePiece(t *testing.T) {
	for _, f := range []frame{
		{kind: kindCall, id: 300, channel: 7, timeout: 1234, payload: bytes.Repeat([]byte("x"), 5000)},
		{kind: kindReply, id: 1 << 60, payload: bytes.Repeat([]byte("y"), 70_000)},
		{kind: kindError, id: 1, payload: bytes.Repeat([]byte("z"), 10_000)},
	} {
		if got, want := inPieces(f, testLimit), appendFrame(nil, &f); len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Errorf("a frame of kind %d differs", f.kind)
		}
	}
}

// Frames in pieces of any sizes, among each other and among small ones, arrive whole, in
// the order of their ends. Those that are dropped do not.
func TestPiecesComeTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var wire []byte
		var want []frame
		type sending struct {
			frame
			l    *large
			sent int
		}
		var open []*sending
		total := 0
		for id := uint64(1); id < 40 || len(open) > 0; id++ {
			size := rapid.IntRange(0, testLimit/2).Draw(t, "size")
			f := frame{
				kind: rapid.SampledFrom([]kind{kindCall, kindReply, kindError}).Draw(t, "kind"), id: id,
				channel: Channel(rapid.Byte().Draw(t, "channel")), payload: bytes.Repeat([]byte{byte(id)}, size),
			}
			if f.kind == kindCall {
				f.timeout = rapid.Uint64Range(0, 100_000).Draw(t, "timeout")
			}
			switch {
			case id >= 40:
			case size > 2 && len(open) < maxOpen && total+size <= 2*testLimit:
				total += size
				open = append(open, &sending{frame: f, l: newLarge(&f, int64(f.timeout)*int64(time.Millisecond), testLimit)})
			default:
				wire = appendFrame(wire, &f)
				want = append(want, f)
			}
			for range rapid.IntRange(0, 3).Draw(t, "pieces") {
				if len(open) == 0 {
					break
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				s := open[i]
				if s.sent > 0 && rapid.IntRange(0, 9).Draw(t, "drop") == 0 {
					wire = appendFrame(wire, &frame{kind: kindDrop, id: s.id})
				} else {
					n := min(rapid.IntRange(1, testLimit/3).Draw(t, "n"), s.l.size()-s.sent)
					wire = append(wire, s.l.encode(s.sent, n, 0)...)
					if s.sent += n; s.sent < s.l.size() {
						continue
					}
					want = append(want, s.frame)
				}
				total -= s.l.size()
				open = slices.Delete(open, i, i+1)
			}
		}
		j := joining(wire, new(int64))
		for i, f := range want {
			got, err := j.next()
			if err != nil || !equal(got, f) {
				t.Fatalf("frame %d = kind %d, id %d, %d bytes, %v; want kind %d, id %d, %d bytes", i, got.kind, got.id, len(got.payload), err, f.kind, f.id, len(f.payload))
			}
		}
		if _, err := j.next(); err != io.EOF || len(j.open) != 0 || j.total != 0 {
			t.Fatalf("after the last frame: %v, %d open, %d bytes", err, len(j.open), j.total)
		}
	})
}

// first is a first piece with such an announcement.
func first(id uint64, k kind, size uint64, payload string) []byte {
	b := binary.AppendUvarint([]byte{byte(k)}, size)
	return appendFrame(nil, &frame{kind: kindBegin, id: id, payload: append(b, payload...)})
}

func more(id uint64, payload string) []byte {
	return appendFrame(nil, &frame{kind: kindMore, id: id, payload: []byte(payload)})
}

func drop(id uint64, payload string) []byte {
	return appendFrame(nil, &frame{kind: kindDrop, id: id, payload: []byte(payload)})
}

func TestJoinerRefuses(t *testing.T) {
	flip := func(b []byte, at int) []byte {
		b[at] ^= 1
		return b
	}
	var many []byte
	for id := range uint64(maxOpen) {
		many = append(many, first(id, kindCall, 100, "x")...)
	}
	long := strings.Repeat("x", 100)
	tests := []struct {
		name  string
		bytes []byte
		want  error
		says  string
	}{
		{"a first piece alone", first(1, kindCall, 10, "hello"), io.EOF, ""},
		{"half of a first piece", first(1, kindCall, 10, "hello")[:16], io.ErrUnexpectedEOF, ""},
		{"half of its head", first(1, kindCall, 10, "hello")[:10], io.ErrUnexpectedEOF, ""},
		{"half of a later piece", slices.Concat(first(1, kindCall, 300, "hello"), more(1, long)[:80]), io.ErrUnexpectedEOF, ""},
		{"an announcement cut short", checked(byte(kindBegin), 1, 0, 0, byte(kindCall)), errBadFrame, "first piece of frame 1 is cut short"},
		{"no announcement", checked(byte(kindBegin), 1, 0, 0), errBadFrame, "first piece of frame 1 is cut short"},
		{"a length without end", checked(byte(kindBegin), 1, 0, 0, byte(kindCall), 0xff, 0xff), errBadFrame, "first piece of frame 1 is cut short"},
		{"a length over the limit", first(1, kindCall, testLimit+1, "x"), errBadFrame, "100001 bytes in pieces, want 1 to 100000"},
		{"a length over all limits", first(1, kindCall, 1<<63, "x"), errBadFrame, "want 1 to 100000"},
		{"a ping in pieces", first(1, kindPing, 10, "x"), errBadFrame, "kind 4 has no place in pieces"},
		{"pieces in pieces", first(1, kindBegin, 10, "x"), errBadFrame, "kind 6 has no place in pieces"},
		{"a first piece of nothing", first(1, kindCall, 10, ""), errBadFrame, "a piece of 0 bytes of frame 1, of which 0 of 10"},
		{"more in a first piece than announced", first(1, kindCall, 2, "xxx"), errBadFrame, "a piece of 3 bytes of frame 1, of which 0 of 2"},
		{"an empty frame in pieces", first(1, kindCall, 0, ""), errBadFrame, "payload of 0 bytes in pieces"},
		{"more than announced", slices.Concat(first(1, kindCall, 10, "hello"), more(1, "worlds")), errBadFrame, "a piece of 6 bytes of frame 1, of which 5 of 10"},
		{"a later piece of nothing", slices.Concat(first(1, kindCall, 10, "hello"), more(1, "")), errBadFrame, "a piece of 0 bytes of frame 1, of which 5"},
		{"a piece of what was not begun", more(1, "x"), errBadFrame, "frame 1, which was not begun"},
		{"a piece of what was dropped", slices.Concat(first(1, kindCall, 9, "x"), drop(1, ""), more(1, "x")), errBadFrame, "frame 1, which was not begun"},
		{"a piece of what is whole", slices.Concat(first(1, kindCall, 9, "x"), more(1, "12345678"), more(1, "x")), errBadFrame, "frame 1, which was not begun"},
		{"dropping what was not begun", drop(1, ""), errBadFrame, "frame 1 is dropped, which was not begun"},
		{"dropping with a payload", slices.Concat(first(1, kindCall, 9, "x"), drop(1, "x")), errBadFrame, "frame 1 is dropped"},
		{"the same frame twice", slices.Concat(first(1, kindCall, 9, "x"), first(1, kindCall, 9, "x")), errBadFrame, "frame 1 begins twice"},
		{"too many at once", append(many, first(99, kindCall, 9, "x")...), errBadFrame, fmt.Sprintf("%d frames of 600 bytes", maxOpen)},
		{"too much at once", slices.Concat(first(1, kindCall, testLimit, "x"), first(2, kindCall, testLimit, "x"), first(3, kindCall, 2, "x")), errBadFrame, "2 frames of 200000 bytes"},
		{"a flipped bit in a first piece", flip(first(1, kindCall, 200, long), 60), errBadFrame, "checksum"},
		{"a flipped bit in its announcement", flip(first(1, kindCall, 1000, long), 13), errBadFrame, "checksum"},
		{"a flipped bit in a later piece", slices.Concat(first(1, kindCall, 200, "x"), flip(more(1, long), 50)), errBadFrame, "checksum"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			j := joining(tc.bytes, new(int64))
			var err error
			for err == nil {
				_, err = j.next()
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("the joiner ends with %v, want %v, saying %q", err, tc.want, tc.says)
			}
		})
	}
}

func TestPiecesKeepTheirDirection(t *testing.T) {
	for _, inbound := range []bool{false, true} {
		w := &wire{inbound: inbound}
		for k := range kindEnd {
			want := inbound && k == kindCall || !inbound && (k == kindReply || k == kindError)
			if w.takes(k) != want {
				t.Errorf("kind %d in pieces, inbound %v: %v", k, inbound, !want)
			}
		}
	}
}

// What a call's pieces take to arrive is taken from its timeout.
func TestPiecesSpendTheTimeout(t *testing.T) {
	for took, want := range map[time.Duration]uint64{0: 500, 200 * time.Millisecond: 300, time.Hour: 0} {
		now := int64(time.Minute)
		pieces := inPieces(frame{kind: kindCall, id: 1, timeout: 500, payload: make([]byte, 100)}, 50)
		src := bytes.NewBuffer(pieces[0])
		j := joining(nil, &now)
		j.r.Reset(src)
		if _, err := j.next(); err != io.EOF {
			t.Fatal(err)
		}
		now += int64(took)
		src.Write(pieces[1])
		if f, err := j.next(); err != nil || f.timeout != want {
			t.Errorf("after %v on its way a call has %d ms left, %v; want %d", took, f.timeout, err, want)
		}
	}
}

// Who announces much and sends little costs little, however many connections it opens.
func TestLyingPiecesCostLittle(t *testing.T) {
	var b []byte
	for id := range uint64(maxOpen) {
		size := uint64(fulcrum.MaxMessageBytes / 4)
		b = append(b, first(id, kindCall, size, "x")...)
	}
	long := appendFrame(nil, &frame{kind: kindMore, id: 1, payload: make([]byte, fulcrum.MaxMessageBytes/8)})
	b = append(b, long[:1000]...) // and the rest never comes
	read := func() {
		j := newJoiner(frameReader(b), fulcrum.MaxMessageBytes, anyKind, func() int64 { return 0 })
		if _, err := j.next(); err != io.ErrUnexpectedEOF {
			t.Fatalf("the joiner ends with %v", err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	read()
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 64<<10 {
		t.Errorf("%d bytes of lies took %d", len(b), took)
	}
	for range 100 {
		read()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("half frames of connections that ended hold %d bytes", grown)
	}
}

// The memory of a large frame that comes in the pieces of a fast link is taken at once.
func TestPiecesAreCopiedOnce(t *testing.T) {
	f := frame{kind: kindCall, id: 1, payload: bytes.Repeat([]byte("x"), 300<<10)}
	l := newLarge(&f, 0, fulcrum.MaxMessageBytes)
	sent := bytes.Clone(l.encode(0, maxStep, 0))
	sent = append(sent, l.encode(maxStep, l.size()-maxStep, 0)...)
	src := bytes.NewReader(nil)
	j := newJoiner(frameReader(nil), fulcrum.MaxMessageBytes, anyKind, func() int64 { return 0 })
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			src.Reset(sent)
			j.r.Reset(src)
			if got, err := j.next(); err != nil || !equal(got, f) {
				b.Fatal(err)
			}
		}
	})
	if each := got.AllocedBytesPerOp(); each > int64(len(f.payload))*5/4 {
		t.Errorf("%d bytes were allocated for a payload of %d", each, len(f.payload))
	}
}

// FuzzPieces reads any bytes, also as bodies of frames with right checksums, which begin
// with their length: the joiner must neither panic nor keep more than was sent, nor
// make up what was not.
func FuzzPieces(f *testing.F) {
	body := func(frames ...[]byte) (b []byte) {
		for _, fr := range frames {
			b = append(b, byte(len(fr)-frameHeader))
			b = append(b, fr[frameHeader:]...)
		}
		return b
	}
	f.Add([]byte{})
	f.Add(body(first(1, kindCall, 10, "hello"), first(2, kindReply, 3, "x"), more(1, "world"), drop(2, "")))
	f.Add(body(first(1, kindCall, 1<<40, "hello"), more(2, "x")))
	f.Add(body(checked(byte(kindBegin), 1, 0, 0, byte(kindCall), 0x80, 0x80, 0)))
	f.Add(body(first(1, kindError, 5, "hello"), drop(1, ""), checked(byte(kindPing), 1, 0, 0)))
	const limit = 1 << 10
	f.Fuzz(func(t *testing.T, b []byte) {
		var wire []byte
		for rest := b; len(rest) > 1; {
			n := min(int(rest[0]), len(rest)-1)
			wire = append(wire, checked(rest[1:1+n]...)...)
			rest = rest[1+n:]
		}
		for _, sent := range [][]byte{b, wire} {
			j := newJoiner(frameReader(sent), limit, anyKind, func() int64 { return 0 })
			for got := 0; ; {
				f, err := j.next()
				kept, total := 0, 0
				for id, p := range j.open {
					kept, total = kept+len(p.payload), total+p.size
					if p.id != id || p.size > limit || len(p.payload) >= p.size || cap(p.payload) > p.size {
						t.Fatalf("frame %d: %d of %d bytes in %d", id, len(p.payload), p.size, cap(p.payload))
					}
				}
				if got += len(f.payload); err == nil && got+kept > len(sent) || total != j.total || total > 2*limit || len(j.open) > maxOpen {
					t.Fatalf("%d frames of %d bytes (%d) are open, %d bytes came whole and %d in part, of %d", len(j.open), total, j.total, got, kept, len(sent))
				}
				if err != nil {
					break
				}
				if len(f.payload) > limit || f.kind == kindBegin || f.kind == kindMore || f.kind == kindDrop {
					t.Fatalf("kind %d with %d bytes came out", f.kind, len(f.payload))
				}
			}
		}
	})
}
