package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"testing"
	"time"

	"fulcrum"
)

// slowReader serves n, and opens a watch whose connection the reader can leave alone.
func slowReader(t *testing.T, n *node) *stream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, n) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	own := nethttp.DefaultClient.Transport
	tr := &nethttp.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	nethttp.DefaultClient.Transport = tr // TestMain has no parallel tests that would share it
	defer func() { nethttp.DefaultClient.Transport = own }()
	s := openStream(t, "http://"+l.Addr().String(), "/v1/watch/cp")
	s.begun(200)
	return s
}

func (n *node) writeMany(t *testing.T, count, bytes int) {
	t.Helper()
	for range count {
		if _, _, err := n.Write(t.Context(), callTo("cp"), []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: make([]byte, bytes)}}); err != nil {
			t.Fatal(err)
		}
	}
}

// A reader that takes nothing for long finds, when it comes back, what it was sent, then
// why there is no more, and from where to go on.
func TestSlowReaderIsTold(t *testing.T) {
	n := newNode(t, func(o *Options) { o.ReaderPatience = 200 * time.Millisecond })
	s := slowReader(t, n)
	n.writeMany(t, 20_000, 1<<10) // more than the buffers of the connection hold
	time.Sleep(2 * time.Second)   // real time, well behind its patience
	last, events := "", 0
	for ; ; events++ {
		e, err := s.read()
		if err != nil {
			t.Fatalf("the stream ends behind %d events with %v, and does not say why", events, err)
		}
		if e.event != "error" {
			last = e.id
			continue
		}
		var end watchEnd
		if err := json.Unmarshal([]byte(e.data), &end); err != nil || end.Code != fulcrum.CodeOverloaded || end.After != last || !strings.Contains(end.Detail, "took nothing for 200ms") || end.Hint == "" {
			t.Errorf("the end: %+v (%v), want overloaded behind %s", e, err, last)
		}
		break
	}
	if _, err := s.read(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last event: %v", err)
	}
	if events == 0 || events >= 20_000 {
		t.Errorf("given up behind %d events", events)
	}
	t.Logf("given up behind %d events", events)
}

// A reader that takes something now and then is not given up, also where one event takes
// longer than its patience.
func TestReaderThatTakesItsTimeIsNotGivenUp(t *testing.T) {
	n := newNode(t, func(o *Options) { o.ReaderPatience = 500 * time.Millisecond })
	s := slowReader(t, n)
	n.writeMany(t, 6, 1<<20)
	slow := &slowly{from: s.resp.Body}
	s.in.Reset(slow)
	for i := range 6 {
		if e := s.next(); e.event != "put" {
			t.Fatalf("event %d: %s", i, e.event)
		}
	}
	if slow.took < 2*time.Second {
		t.Errorf("all was read in %s: the test shows nothing", slow.took)
	}
}

// slowly reads a little at a time, about 4 MB a second.
type slowly struct {
	from io.Reader
	took time.Duration
}

func (s *slowly) Read(b []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	s.took += 10 * time.Millisecond
	return s.from.Read(b[:min(len(b), 40<<10)])
}

// Where it is in the middle of an event that does not fit, it cannot be told: the
// connection is cut off, so that nobody takes the event for whole.
func TestSlowReaderInTheMiddleOfAnEvent(t *testing.T) {
	n := newNode(t, func(o *Options) { o.ReaderPatience = 200 * time.Millisecond })
	s := slowReader(t, n)
	n.writeMany(t, 30, 1<<20)
	time.Sleep(2 * time.Second)
	for events := 0; ; events++ {
		e, err := s.read()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if err != nil || e.event != "put" || !json.Valid([]byte(e.data)) || events > 30 {
			t.Fatalf("event %d is %s of %d bytes, %v; want whole ones, then a connection that was cut off", events, e.event, len(e.data), err)
		}
	}
}
