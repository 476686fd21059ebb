package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/node/api"
)

// sent is one event of a stream.
type sent struct{ event, id, data string }

// stream reads a watch's events over a real connection.
type stream struct {
	t    *testing.T
	resp *nethttp.Response
	in   *bufio.Reader
}

func openStream(t *testing.T, base, path string, headers ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, err := nethttp.NewRequestWithContext(ctx, "GET", base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := nethttp.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return &stream{t: t, resp: resp, in: bufio.NewReader(resp.Body)}
}

// read returns the next event; io.EOF after the last.
func (s *stream) read() (e sent, err error) {
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return e, err
		}
		if line = strings.TrimSuffix(line, "\n"); line == "" {
			return e, nil
		}
		name, value, ok := strings.Cut(line, ": ")
		switch {
		case ok && name == "event":
			e.event = value
		case ok && name == "id":
			e.id = value
		case ok && name == "data" && e.data == "":
			e.data = value
		default:
			s.t.Fatalf("line %q of an event stream", line)
		}
	}
}

func (s *stream) next() sent {
	s.t.Helper()
	e, err := s.read()
	if err != nil {
		s.t.Fatalf("the stream ended: %v", err)
	}
	return e
}

// change reads an event that is a change, and checks what it says.
func (s *stream) change(event, key, value string) (id string) {
	s.t.Helper()
	e := s.next()
	var got watchEvent
	if err := json.Unmarshal([]byte(e.data), &got); err != nil || e.event != event || got.Key != key || got.Value != value || got.Version.IsZero() {
		s.t.Fatalf("%s %s (%v), want %s of %s=%s", e.event, e.data, err, event, key, value)
	}
	return e.id
}

func (s *stream) begun(status int) string {
	s.t.Helper()
	if ct := s.resp.Header.Get("Content-Type"); s.resp.StatusCode != status || ct != "text/event-stream" {
		s.t.Fatalf("status %d, Content-Type %q", s.resp.StatusCode, ct)
	}
	e := s.next()
	var p watchProgress
	if err := json.Unmarshal([]byte(e.data), &p); err != nil || e.event != "progress" || e.id == "" || p.After != e.id {
		s.t.Fatalf("a stream begins with %+v", e)
	}
	return e.id
}

func callTo(keyspace string) api.Call { return api.Call{Keyspace: keyspace} }

func serve(t *testing.T, change ...func(*Options)) (*node, string) {
	t.Helper()
	n := newNode(t, change...)
	server := httptest.NewServer(n)
	t.Cleanup(server.Close)
	return n, server.URL
}

func TestWatchStreamsChanges(t *testing.T) {
	n, base := serve(t)
	n.ask(t, "PUT /v1/kv/cp/before", "x")
	s := openStream(t, base, "/v1/watch/cp?prefix=a")
	s.begun(200)
	n.ask(t, "PUT /v1/kv/cp/a", "one")
	n.ask(t, "PUT /v1/kv/cp/other", "x")
	n.ask(t, "PUT /v1/kv/cp/a%FF?ttl=5", "two")
	n.ask(t, "DELETE /v1/kv/cp/a", "")
	n.Expire("cp", "a%")
	one := s.change("put", "a", "one")
	binary := s.next()
	var e watchEvent
	if err := json.Unmarshal([]byte(binary.data), &e); err != nil || e.Encoding != "base64" || e.Key != "Yf8=" || e.Value != "dHdv" || e.ExpireAt != n.at.UnixMilli()+5000 {
		t.Errorf("bytes that are no text: %s", binary.data)
	}
	s.change("delete", "a", "")
	s.change("expire", "a%", "")
	n.Sign()
	if p := s.next(); p.event != "progress" || p.id == "" {
		t.Errorf("a sign of life: %+v", p)
	}
	for what, again := range map[string]*stream{
		"the address":      openStream(t, base, "/v1/watch/cp?prefix=a&after="+one),
		"the reader's own": openStream(t, base, "/v1/watch/cp?prefix=a&after=cp-1", "Last-Event-ID", one),
	} {
		if got := again.next(); got.id != binary.id || got.data != binary.data {
			t.Errorf("behind %s position: %+v, want %+v", what, got, binary)
		}
	}
	exact := openStream(t, base, "/v1/watch/cp?key=a&after=cp-0")
	exact.change("put", "a", "one")
	exact.change("delete", "a", "")
}

// Only the end of a batch is a position: whoever goes on from anywhere else gets all of it.
func TestBatchHasOnePosition(t *testing.T) {
	n, base := serve(t)
	s := openStream(t, base, "/v1/watch/cp")
	s.begun(200)
	var ws []fulcrum.Write
	for _, k := range []string{"a", "b", "c"} {
		ws = append(ws, fulcrum.Write{Op: fulcrum.OpPut, Key: []byte(k), Value: []byte("v")})
	}
	if _, _, err := n.Write(t.Context(), callTo("cp"), ws); err != nil {
		t.Fatal(err)
	}
	if first, second, third := s.change("put", "a", "v"), s.change("put", "b", "v"), s.change("put", "c", "v"); first != "" || second != "" || third == "" {
		t.Errorf("ids %q, %q, %q: want one, at the end", first, second, third)
	}
}

func TestWatchIsRefusedBeforeItBegins(t *testing.T) {
	n := newNode(t)
	n.ask(t, "PUT /v1/kv/cp/a", "x")
	n.Compact("cp")
	for _, tc := range []struct {
		request string
		status  int
		code    fulcrum.Code
	}{
		{"GET /v1/watch/cp?after=cp-0", 410, fulcrum.CodeCompacted},
		{"GET /v1/watch/ap", 400, fulcrum.CodeMode},
		{"GET /v1/watch/none", 404, fulcrum.CodeNotFound},
		{"GET /v1/watch/cp?after=nonsense", 400, fulcrum.CodeInvalid},
		{"GET /v1/watch/cp?levle=one", 400, fulcrum.CodeInvalid},
		{"GET /v1/watch/cp?key=", 400, fulcrum.CodeInvalid},
		{"GET /v1/watch/cp?key=a&prefix=b", 400, fulcrum.CodeInvalid},
		{"GET /v1/watch/cp?prefix=" + strings.Repeat("x", fulcrum.MaxKeyBytes+2), 413, fulcrum.CodeTooLarge},
		{"POST /v1/watch/cp", 405, fulcrum.CodeInvalid},
		{"GET /v1/watch/", 404, fulcrum.CodeNotFound},
	} {
		w := n.ask(t, tc.request, "")
		if p := problemOf(t, w); w.Code != tc.status || p.Code != tc.code {
			t.Errorf("%.40s: %d %s, want %d %s", tc.request, w.Code, p.Code, tc.status, tc.code)
		}
	}
}

// A watch that has begun ends with an event that says why, and from where to go on.
func TestWatchSaysWhyItEnds(t *testing.T) {
	n, base := serve(t)
	s := openStream(t, base, "/v1/watch/cp?prefix=zzz")
	last := s.begun(200)
	n.Compact("cp")
	e := s.next()
	var end watchEnd
	if err := json.Unmarshal([]byte(e.data), &end); err != nil || e.event != "error" || e.id != "" || end.Code != fulcrum.CodeCompacted || end.After != "" || end.Hint == "" {
		t.Errorf("%+v behind %s", e, last)
	}
	if _, err := s.read(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last event: %v", err)
	}
}

// Neither the deadline for reading a request nor the one for writing an answer ends a
// watch; the end of the server does, at once, and says so.
func TestWatchOutlivesDeadlinesAndEndsWithTheServer(t *testing.T) {
	n := newNode(t)
	server := httptest.NewUnstartedServer(n)
	server.Config.ReadTimeout, server.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	server.Start()
	defer server.Close()
	s := openStream(t, server.URL, "/v1/watch/cp")
	s.begun(200)
	time.Sleep(500 * time.Millisecond) // real time, well behind both
	n.ask(t, "PUT /v1/kv/cp/a", "x")
	s.change("put", "a", "x")
	_ = s.resp.Body.Close() // or closing the server would wait for it

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, n) }()
	s = openStream(t, "http://"+l.Addr().String(), "/v1/watch/cp")
	last := s.begun(200)
	stop()
	var end watchEnd
	if e := s.next(); json.Unmarshal([]byte(e.data), &end) != nil || e.event != "error" || end.Code != fulcrum.CodeUnavailable || end.After != last {
		t.Errorf("the end: %+v, want unavailable behind %s", e, last)
	}
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a watch holds the server up")
	}
}

// A reader that takes nothing is cut off, and one that goes away is noticed.
func TestWatchLetsGoOfReaders(t *testing.T) {
	n, base := serve(t, func(o *Options) { o.ReaderPatience = 200 * time.Millisecond })
	s := openStream(t, base, "/v1/watch/cp")
	s.begun(200)
	for range 20_000 { // more than the buffers of the connection hold
		if _, _, err := n.Write(t.Context(), callTo("cp"), []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: make([]byte, 1<<10)}}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second)
	events := 0
	for ; ; events++ {
		if _, err := s.read(); err != nil {
			break
		}
	}
	if events == 20_000 {
		t.Error("a reader that took nothing was not cut off")
	}
	t.Logf("cut off behind %d events", events)
	gone := openStream(t, base, "/v1/watch/cp")
	gone.begun(200)
	_ = gone.resp.Body.Close() // the server's Close at the end waits for its requests
}
