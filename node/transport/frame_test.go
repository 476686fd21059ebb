package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"strings"
	"testing"

	"fulcrum"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func frameReader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }

func readFrame(r *bufio.Reader, maxPayload int) (frame, error) {
	h, err := peekHeader(r, maxPayload)
	if err != nil {
		return frame{}, err
	}
	return readRest(r, h, maxPayload)
}

// A frame of a large value is read into memory of its size, at once; its writer's buffer
// grows once.
func TestALargeFrameIsCopiedOnce(t *testing.T) {
	f := frame{kind: kindCall, id: 1, payload: bytes.Repeat([]byte("x"), 256<<10)}
	sent := appendFrame(nil, &f)
	if cap(sent) > len(sent)*5/4 {
		t.Errorf("room of %d bytes for a frame of %d", cap(sent), len(sent))
	}
	body, src := len(sent)-frameHeader, bytes.NewReader(nil)
	r := bufio.NewReaderSize(src, readBuffer)
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			src.Reset(sent)
			r.Reset(src)
			if _, err := readFrame(r, len(f.payload)); err != nil {
				b.Fatal(err)
			}
		}
	})
	if each := got.AllocedBytesPerOp(); each > int64(body)*5/4 {
		t.Errorf("%d bytes were allocated for a body of %d", each, body)
	}
}

func TestFramesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sent []frame
		var wire []byte
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			f := frame{
				kind:    kind(rapid.IntRange(int(kindCall), int(kindEnd)-1).Draw(t, "kind")),
				id:      rapid.Uint64().Draw(t, "id"),
				channel: Channel(rapid.Byte().Draw(t, "channel")),
				timeout: rapid.Uint64().Draw(t, "timeout"),
				payload: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload"),
			}
			sent = append(sent, f)
			wire = appendFrame(wire, &f)
		}
		r := frameReader(wire)
		for _, want := range sent {
			got, err := readFrame(r, 100)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(frame{})); err != nil || diff != "" {
				t.Fatalf("%v %s", err, diff)
			}
		}
		if _, err := readFrame(r, 100); err != io.EOF {
			t.Fatalf("after the last frame: %v", err)
		}
	})
}

// checked gives a body its header.
func checked(body ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(body, castagnoli()))
	return append(b, body...)
}

func TestReadFrameRefuses(t *testing.T) {
	good := appendFrame(nil, &frame{kind: kindCall, id: 300, payload: []byte("hello")})
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	tests := []struct {
		name  string
		bytes []byte
		want  error
		says  string
	}{
		{"nothing", nil, io.EOF, ""},
		{"half a header", good[:5], io.ErrUnexpectedEOF, ""},
		{"half a body", good[:len(good)-1], io.ErrUnexpectedEOF, ""},
		{"a header alone", good[:frameHeader], io.ErrUnexpectedEOF, ""},
		{"zeros", make([]byte, 100), errBadFrame, "0 bytes"},
		{"a flipped bit", flipped, errBadFrame, "checksum"},
		{"another protocol", []byte("GET / HTTP/1.1\r\n"), errBadFrame, "bytes, want"},
		{"a length over the limit", []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, errBadFrame, "4294967295 bytes"},
		{"a payload over the limit", appendFrame(nil, &frame{kind: kindCall, payload: make([]byte, 1001)}), errBadFrame, "payload of 1001"},
		{"kind 0", checked(0, 1, 0, 0), errBadFrame, "kind 0"},
		{"a kind of the future", checked(byte(kindEnd), 1, 0, 0), errBadFrame, "is unknown"},
		{"an id without end", checked(1, 0xff, 0xff, 0xff), errBadFrame, "id is cut short"},
		{"no channel", checked(1, 0xff, 0xff, 0x01), errBadFrame, "id is cut short"},
		{"a timeout without end", checked(1, 1, 0, 0xff), errBadFrame, "timeout is cut short"},
		{"an id too long for 64 bits", checked(append([]byte{1}, bytes.Repeat([]byte{0xff}, 12)...)...), errBadFrame, "id is cut short"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			_, err := readFrame(frameReader(tc.bytes), 1000)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("readFrame = %v, want %v, saying %q", err, tc.want, tc.says)
			}
		})
	}
}

// A peer that claims to send 16 MiB and does not costs little memory.
func TestLyingLengthCostsLittle(t *testing.T) {
	b := binary.BigEndian.AppendUint32(nil, fulcrum.MaxMessageBytes)
	b = append(b, make([]byte, 100)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := readFrame(frameReader(b), fulcrum.MaxMessageBytes); err != io.ErrUnexpectedEOF {
		t.Errorf("readFrame = %v", err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("a lying header took %d bytes", took)
	}
}

func equal(f, g frame) bool {
	return f.kind == g.kind && f.id == g.id && f.channel == g.channel && f.timeout == g.timeout && bytes.Equal(f.payload, g.payload)
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Add(appendFrame(nil, &frame{kind: kindCall, id: 7, channel: 3, timeout: 500, payload: []byte("hello")}))
	f.Add(append(checked(byte(kindPing), 1, 0, 0), checked(byte(kindError), 2, 0, 0, 9)...))
	const limit = 1 << 10
	f.Fuzz(func(t *testing.T, b []byte) {
		// As they are: any error is fine, a panic is not. What is read must come back
		// from its own encoding.
		for r := frameReader(b); ; {
			got, err := readFrame(r, limit)
			if err != nil {
				break
			}
			again, err := readFrame(frameReader(appendFrame(nil, &got)), limit)
			if err != nil || !equal(got, again) {
				t.Fatalf("%+v came back as %+v, %v", got, again, err)
			}
		}
		// As a body with a right checksum, past which fuzzing would hardly get.
		if len(b) >= minFrame {
			got, err := readFrame(frameReader(checked(b...)), limit)
			if err != nil && !errors.Is(err, errBadFrame) {
				t.Fatalf("readFrame = %v, want a bad frame", err)
			}
			if len(got.payload) > limit && err == nil {
				t.Fatalf("payload of %d bytes", len(got.payload))
			}
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendHello(nil, hello{version: protocolVersion, cluster: "c", from: "n1", to: "n2", refusal: "no"}))
	f.Add(appendHello(nil, hello{version: 9, cluster: "c"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if err != nil || h.version != protocolVersion {
			return
		}
		again, err := readHello(bytes.NewReader(appendHello(nil, h)))
		if err != nil || again != h {
			t.Fatalf("%+v came back as %+v, %v", h, again, err)
		}
	})
}

func TestObjection(t *testing.T) {
	tr := New(Options{Node: "n1", ClusterID: "c1"})
	good := hello{version: protocolVersion, cluster: "c1", from: "n2", to: "n1"}
	with := func(change func(*hello)) hello {
		h := good
		change(&h)
		return h
	}
	tests := []struct {
		name string
		h    hello
		want string
	}{
		{"none to a good one", good, ""},
		{"a newer version", with(func(h *hello) { h.version++ }), fmt.Sprintf("it speaks version %d of the peer protocol, this node version %d", protocolVersion+1, protocolVersion)},
		{"another cluster", with(func(h *hello) { h.cluster = "c2" }), `n2 belongs to cluster "c2", n1 to cluster "c1"`},
		{"another node", with(func(h *hello) { h.from = "n3" }), "n3 answered at the address of n2"},
		{"no name", with(func(h *hello) { h.from = "" }), "it does not say which node it is"},
		{"for someone else", with(func(h *hello) { h.to = "n9" }), "it wants to talk to n9, but this is n1"},
		{"it refuses", with(func(h *hello) { h.refusal = "go away" }), "n2 says: go away"},
		{"a name that would spoil the log", with(func(h *hello) { h.from, h.refusal = "n\n2", "x" }), `"n\n2" says: x`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := tr.objection(tc.h, "n2"); got != tc.want {
				t.Errorf("objection = %q, want %q", got, tc.want)
			}
		})
	}
}
