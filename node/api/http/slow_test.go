package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/node/api"
	"fulcrum/node/api/http/apitest"
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
	nethttp.DefaultClient.Transport = tr // no test here runs in parallel
	defer func() { nethttp.DefaultClient.Transport = own }()
	s := openStream(t, "http://"+l.Addr().String(), "/v1/watch/cp")
	s.begun(200)
	return s
}

// ending is a backend that tells when a watch of it has ended.
type ending struct {
	*apitest.Backend
	ended chan error
}

func (e ending) Watch(ctx context.Context, c api.Call, req api.Watch, emit func(api.WatchBatch) error) error {
	err := e.Backend.Watch(ctx, c, req, emit)
	e.ended <- err
	return err
}

// writeMany makes requests of so many writes, of a KiB each.
func (n *node) writeMany(t *testing.T, requests, writes int) {
	t.Helper()
	for range requests {
		ws := make([]fulcrum.Write, writes)
		for i := range ws {
			ws[i] = fulcrum.Write{Op: fulcrum.OpPut, Key: []byte("k"), Value: bytes.Repeat([]byte("x"), 1<<10)}
		}
		res, _, err := n.Write(t.Context(), callTo("cp"), ws)
		if err != nil || res[0].Err != nil {
			t.Error(err, res)
			return
		}
	}
}

// A reader that takes nothing for long finds, when it comes back, what it was sent, then
// why there is no more, and from where to go on.
func TestSlowReaderIsTold(t *testing.T) {
	ended := make(chan error, 1)
	n := newNode(t, func(o *Options) {
		o.ReaderPatience = 200 * time.Millisecond
		o.Backend = ending{o.Backend.(*apitest.Backend), ended}
	})
	s := slowReader(t, n)
	n.writeMany(t, 20_000, 1) // more than the buffers of the connection hold
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the reader has not been given up after a minute")
	}
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

// A reader that takes something now and then is not given up, also where one batch takes
// longer than its patience.
func TestReaderThatTakesItsTimeIsNotGivenUp(t *testing.T) {
	n := newNode(t, func(o *Options) { o.ReaderPatience = time.Second })
	s := slowReader(t, n)
	const events = 4000
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() { n.writeMany(t, 2, events/2) }) // its reader reads from the first on
	slow := &slowly{from: s.resp.Body}
	s.in = bufio.NewReaderSize(slow, 64<<10) // nothing behind the beginning is in the one before
	for i := range events {
		if e := s.next(); e.event != "put" {
			t.Fatalf("event %d: %s", i, e.event)
		}
	}
	if slow.took < 2*time.Second {
		t.Errorf("all was read in %s: the test shows nothing", slow.took)
	}
}

// slowly reads a little at a time, less than 1 MB a second.
type slowly struct {
	from io.Reader
	took time.Duration
}

func (s *slowly) Read(b []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	s.took += 5 * time.Millisecond
	return s.from.Read(b[:min(len(b), 8<<10)])
}
