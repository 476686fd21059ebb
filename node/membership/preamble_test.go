package membership

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"fulcrum"

	"pgregory.net/rapid"
)

func TestPreambleOfAnyNameReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := fulcrum.NodeID(rapid.StringMatching(`[a-zA-Z0-9._-]{1,64}`).Draw(t, "name"))
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		frame := append(appendPreamble(nil, name), body...)

		if got, rest, err := cutPreamble(frame); err != nil || got != name || !bytes.Equal(rest, body) {
			t.Fatalf("packet: %q, %x, %v", got, rest, err)
		}
		r := bytes.NewReader(frame)
		if got, err := readPreamble(iotest.OneByteReader(r)); err != nil || got != name || r.Len() != len(body) {
			t.Fatalf("stream: %q, %v, %d bytes left of %d", got, err, r.Len(), len(body))
		}
	})
}

func TestPreamblesThatAreRefused(t *testing.T) {
	tests := []struct{ name, frame string }{
		{"nothing", ""},
		{"only the magic", "\xf1"},
		{"another magic", "\xf2\x02n1"},
		{"memberlist without a preamble", "\xf4\x03abc"},
		{"no name", "\xf1\x00"},
		{"a name cut short", "\xf1\x05n1"},
		{"a name that is too long", "\xf1\x41" + strings.Repeat("n", 65)},
		{"a name with a slash", "\xf1\x03n/1"},
		{"a name that is not ASCII", "\xf1\x02\xc3\xa4"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if id, _, err := cutPreamble([]byte(tc.frame)); err == nil {
				t.Errorf("a packet of it comes from %q", id)
			}
			if id, err := readPreamble(strings.NewReader(tc.frame)); err == nil {
				t.Errorf("a stream of it comes from %q", id)
			}
		})
	}
}

func FuzzPreamble(f *testing.F) {
	f.Add([]byte("\xf1\x02n1body"))
	f.Add([]byte("\xf1\xff"))
	f.Add([]byte("\xf4\x0bthe-cluster"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		id, rest, err := cutPreamble(frame)
		r := bytes.NewReader(frame)
		streamID, streamErr := readPreamble(r)
		if (err == nil) != (streamErr == nil) || id != streamID {
			t.Fatalf("packet says %q, %v; stream says %q, %v", id, err, streamID, streamErr)
		}
		if used := len(frame) - r.Len(); used > 2+maxNameBytes {
			t.Fatalf("read %d bytes", used)
		}
		if err == nil && (!bytes.Equal(append(appendPreamble(nil, id), rest...), frame) || r.Len() != len(rest)) {
			t.Fatalf("%q does not read back", frame)
		}
		if streamErr != nil && !errors.Is(streamErr, errPreamble) && !errors.Is(streamErr, io.EOF) && !errors.Is(streamErr, io.ErrUnexpectedEOF) {
			t.Fatalf("unexpected error %v", streamErr)
		}
	})
}

func FuzzProfile(f *testing.F) {
	f.Add(appendProfile(nil, profile{addr: "n1:7301", meta: []byte("zone=a")}))
	f.Add([]byte("\x01\xff\xff\xff\xff\x0f"))
	f.Add([]byte("bye n1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, ok := cutGoodbye(b); ok && goodbye+string(id) != string(b) {
			t.Fatalf("%q is a goodbye of %q", b, id)
		}
		p, err := decodeProfile(b)
		if err != nil {
			return
		}
		if !validAddr(p.addr) {
			t.Fatalf("accepted address %q", p.addr)
		}
		again, err := decodeProfile(appendProfile(nil, p))
		if err != nil || again.addr != p.addr || !bytes.Equal(again.meta, p.meta) {
			t.Fatalf("%+v reads back as %+v, %v", p, again, err)
		}
	})
}

func TestStandInIsOneForOneAddress(t *testing.T) {
	tests := []struct{ addr, want string }{
		{"127.0.0.1:7301", "127.0.0.1:7301"},
		{"[::1]:7301", "[::1]:7301"},
	}
	for _, tc := range tests {
		if got := standIn(tc.addr).String(); got != tc.want {
			t.Errorf("%s becomes %s", tc.addr, got)
		}
	}
	_, discard, _ := net.ParseCIDR("100::/64")
	a, again, b := standIn("node-a.svc:7301"), standIn("node-a.svc:7301"), standIn("node-b.svc:7301")
	if !discard.Contains(a.IP) || a.String() != again.String() || a.IP.Equal(b.IP) || a.Port != 7301 {
		t.Errorf("stand-ins %v, %v, %v: want one in %v for each name", a, again, b, discard)
	}
}
