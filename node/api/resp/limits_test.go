package resp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
)

func TestMalformed(t *testing.T) {
	long := strings.Repeat("x", maxLineBytes+1)
	for _, c := range []struct{ name, send, want string }{
		{"a count that is no number", "*x\r\n", "invalid multibulk length"},
		{"too many arguments", "*131073\r\n", "invalid multibulk length"},
		{"a count that overflows", "*99999999999999999999\r\n", "invalid multibulk length"},
		{"a count with a leading zero", "*01\r\n", "invalid multibulk length"},
		{"no bulk in an array", "*1\r\n:1\r\n", "expected '$', got ':'"},
		{"an empty line in an array", "*1\r\n\r\n", "expected '$', got '?'"},
		{"a negative length", "*1\r\n$-1\r\n", "invalid bulk length"},
		{"a length that is no number", "*1\r\n$1x\r\n", "invalid bulk length"},
		{"a length above 512 MB", "*1\r\n$536870913\r\n", "invalid bulk length"},
		{"a length that overflows", "*1\r\n$9223372036854775808\r\n", "invalid bulk length"},
		{"a bulk longer than it said", "*1\r\n$4\r\nPINGX\r\n", "expected CRLF after a bulk string"},
		{"a count line without end", "*" + long, "too big mbulk count string"},
		{"a length line without end", "*1\r\n$" + long, "too big bulk count string"},
		{"an inline command without end", long, "too big inline request"},
		{"a long inline command", long + "\r\n", "too big inline request"},
		{"an open quote", "SET a \"b\r\n", "unbalanced quotes in request"},
		{"a quote in a word", "SET a \"b\"c\r\n", "unbalanced quotes in request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			_, addr := serve(t, Options{Backend: newFake(), Registerer: reg})
			s := connect(t, addr)
			s.send("PING\r\n" + c.send)
			check(t, "replies", s.replies(2), []string{"+PONG", "-ERR Protocol error: " + c.want})
			if !s.closed() {
				t.Error("the connection is still open")
			}
			if n := metric(t, reg, "fulcrum_redis_protocol_errors_total"); n != 1 {
				t.Errorf("%v protocol errors are counted", n)
			}
		})
	}
}

// What strangers send costs them their connections, is counted, and does not fill the log:
// one line a second of each kind.
func TestGarbageDoesNotFillTheLog(t *testing.T) {
	reg := prometheus.NewRegistry()
	var log lines
	_, addr := serve(t, Options{Backend: newFake(), Registerer: reg, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	began := time.Now()
	const strangers = 200
	for i := range strangers {
		s := connect(t, addr)
		s.send([]string{"*x\r\n", "POST / HTTP/1.1\r\n"}[i%2])
		if !s.closedAfterAll() {
			t.Fatal("the connection is still open")
		}
		s.nc.Close()
	}
	most := 2 * (1 + int(time.Since(began)/time.Second))
	if n := log.count("disconnected") + log.count("attack"); n < 2 || n > most {
		t.Errorf("%d strangers made %d lines in %s", strangers, n, time.Since(began))
	}
	if n := metric(t, reg, "fulcrum_redis_protocol_errors_total"); n != strangers/2 {
		t.Errorf("%v protocol errors are counted, want %d", n, strangers/2)
	}
}

// lines is a log that may be read meanwhile.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), word)
}

// closedAfterAll reads what is still said, and reports whether the other side then leaves.
func (s *session) closedAfterAll() bool {
	_, err := io.Copy(io.Discard, s.br)
	return err == nil
}

// metric is the value of a counter or gauge without labels.
func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue() + f.Metric[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func TestHarmlessOddities(t *testing.T) {
	_, addr := serve(t, Options{Backend: newFake()})
	s := connect(t, addr)
	s.send("\r\n\n*0\r\n*-1\r\n   \r\nPING\n*1\n$4\nPING\r\n")
	check(t, "replies", s.replies(2), []string{"+PONG", "+PONG"})
	s.send("POST / HTTP/1.1\r\nHost: x\r\n\r\n")
	if !s.closed() {
		t.Error("an HTTP request was not hung up on")
	}
}

func TestTooLarge(t *testing.T) {
	const maxValue = 64 << 10 // the fake's
	_, addr := serve(t, Options{Backend: newFake()})
	s := connect(t, addr)
	exact, over := strings.Repeat("v", maxValue), strings.Repeat("v", maxValue+1)
	huge := strings.Repeat("v", 3<<20)
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"SET", "a", exact}, "+OK"},
		{[]string{"SET", "a", over}, "-TOOLARGE key or value too large: value of 65537 bytes, the limit is 65536"},
		{[]string{"SET", "a", huge}, "-TOOLARGE 3145728 bytes: the limit is 65536 bytes a value..."},
		{[]string{"MSET", "b", "1", "a", huge, "c", "1"}, "-TOOLARGE 3145728 bytes..."},
		{[]string{"APPEND", "a", "x"}, "-TOOLARGE key or value too large: 65537 bytes, the limit is 65536"},
		{[]string{"SET", strings.Repeat("k", fulcrum.MaxKeyBytes+1), "1"}, "-TOOLARGE key or value too large: key of 8193 bytes, the limit is 8192"},
		{[]string{"GET", strings.Repeat("k", fulcrum.MaxKeyBytes+1)}, "-TOOLARGE ..."},
		{[]string{"SET", strings.Repeat("k", fulcrum.MaxKeyBytes), "1"}, "+OK"},
		{[]string{"EXISTS", "b", "c"}, ":0"},
		{[]string{"STRLEN", "a"}, ":65536"},
	} {
		got := s.do(c.words...)
		if begin, ok := strings.CutSuffix(c.want, "..."); !(ok && strings.HasPrefix(got, begin)) && got != c.want {
			t.Errorf("%.40q: got %.80q, want %q", c.words, got, c.want)
		}
	}
}

func TestTooLargeCommandOfManyParts(t *testing.T) {
	sv, addr := serve(t, Options{Backend: newFake(), MaxPipelineBytes: 2 << 20})
	s := connect(t, addr)
	words := []string{"MSET"}
	for i := range 64 {
		words = append(words, fmt.Sprint(i), strings.Repeat("v", 60<<10))
	}
	if got := s.do(words...); !strings.HasPrefix(got, "-TOOLARGE ") {
		t.Errorf("got %.80q", got)
	}
	play(t, s, []step{{"DBSIZE", ":0"}, {"PING", "+PONG"}})
	if used := sv.budget.used.Load(); used < 0 || used > 4<<20 {
		t.Errorf("%d bytes are charged", used)
	}
}

func TestBufferBudget(t *testing.T) {
	sv, addr := serve(t, Options{Backend: newFake(), MaxBufferBytes: 200 << 10, MaxValue: 1 << 20})
	first := connect(t, addr)
	first.send("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$200000\r\n" + strings.Repeat("x", 150_000)) // and waits
	for sv.budget.used.Load() < 100<<10 {
		runtime.Gosched()
	}
	second := connect(t, addr)
	second.send("*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$200000\r\n" + strings.Repeat("x", 150_000))
	if got := second.reply(); !strings.HasPrefix(got, "-OVERLOADED ") {
		t.Errorf("got %q", got)
	}
	first.nc.Close()
	for sv.budget.used.Load() != 0 {
		runtime.Gosched()
	}
	third := connect(t, addr)
	if got := third.do("SET", "c", "1"); got != "+OK" {
		t.Errorf("after the others left: %q", got)
	}
}

func TestMaxClients(t *testing.T) {
	reg := prometheus.NewRegistry()
	_, addr := serve(t, Options{Backend: newFake(), MaxClients: 2, Registerer: reg})
	a, b := connect(t, addr), connect(t, addr)
	play(t, a, []step{{"PING", "+PONG"}})
	play(t, b, []step{{"PING", "+PONG"}, {"INFO clients", "$65\n# Clients\nconnected_clients:2\nmaxclients:2\nblocked_clients:0\n"}})
	c := connect(t, addr)
	if got := c.reply(); got != "-ERR max number of clients reached" || !c.closed() {
		t.Errorf("got %q", got)
	}
	if n := metric(t, reg, "fulcrum_redis_connections"); n != 2 {
		t.Errorf("%v connections are counted", n)
	}
	if n := metric(t, reg, "fulcrum_redis_rejected_connections_total"); n != 1 {
		t.Errorf("%v rejections are counted", n)
	}
	play(t, a, []step{{"CLIENT KILL ID 2", ":1"}})
	if !b.closed() {
		t.Error("a killed client is still connected")
	}
	for got := ""; got != "+PONG"; { // until the place is free
		d := connect(t, addr)
		d.send("PING\r\n")
		got, _ = rawReply(d.br)
		got = strings.TrimSpace(got)
	}
}

// pipes is a listener in memory, for bubbles.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.conns <- b
	return a
}

// ask sends a command and returns what comes back in one piece.
func ask(nc net.Conn, text string) string {
	nc.Write([]byte(text))
	return hear(nc)
}

func hear(nc net.Conn) string {
	buf := make([]byte, 4096)
	n, err := nc.Read(buf)
	if err != nil {
		return "closed"
	}
	return string(buf[:n])
}

func TestDrain(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes time.Duration
		want  string
		ends  time.Duration
	}{
		{"a running command finishes", 2 * time.Second, "+OK\r\n", 2 * time.Second},
		{"one that takes too long is cut off", time.Hour, "closed", 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, l := newFake(), newPipes()
				f.before = func(ctx context.Context, _ string, _ []fulcrum.Write) error {
					select {
					case <-time.After(c.takes):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				served := make(chan error, 1)
				go func() {
					served <- New(Options{Backend: f, RequestTimeout: time.Minute}).Serve(ctx, l)
				}()
				idle, busy := l.dial(), l.dial()
				if got := ask(idle, "PING\r\n"); got != "+PONG\r\n" {
					t.Fatal(got)
				}
				reply := make(chan string, 1)
				go func() { reply <- ask(busy, "SET a 1\r\n") }()
				synctest.Wait()
				start := time.Now()
				cancel()
				if got := hear(idle); got != "closed" || time.Since(start) != 0 {
					t.Errorf("an idle client hears %q after %v", got, time.Since(start))
				}
				if got := <-reply; got != c.want {
					t.Errorf("the busy client hears %q, want %q", got, c.want)
				}
				if err := <-served; err != nil || time.Since(start) != c.ends {
					t.Errorf("Serve ended with %v after %v, want %v", err, time.Since(start), c.ends)
				}
			})
		})
	}
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, l := newFake(), newPipes()
		f.before = func(ctx context.Context, keyspace string, _ []fulcrum.Write) error {
			if keyspace == "cp" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- New(Options{Backend: f, RequestTimeout: 3 * time.Second, IdleTimeout: time.Minute, WriteTimeout: 10 * time.Second}).Serve(ctx, l)
		}()
		stuck := l.dial()
		start := time.Now()
		if got := ask(stuck, "SELECT 1\r\n") + ask(stuck, "SET a 1\r\n"); got != "+OK\r\n-UNKNOWN no answer before the deadline\r\n" || time.Since(start) != 3*time.Second {
			t.Errorf("a request without answer: %q after %v", got, time.Since(start))
		}
		start = time.Now()
		if got := ask(stuck, "WAIT 9 700\r\n"); got != ":2\r\n" || time.Since(start) != 700*time.Millisecond {
			t.Errorf("WAIT: %q after %v", got, time.Since(start))
		}
		start = time.Now()
		if got := ask(stuck, "WAIT 9 0\r\n"); got != ":2\r\n" || time.Since(start) != 3*time.Second {
			t.Errorf("WAIT for ever: %q after %v", got, time.Since(start))
		}
		start = time.Now()
		if got := hear(stuck); got != "closed" || time.Since(start) != time.Minute {
			t.Errorf("a silent client: %q after %v", got, time.Since(start))
		}
		deaf := l.dial()
		deaf.Write([]byte("PING\r\n"))
		time.Sleep(11 * time.Second)
		if got := hear(deaf); got != "closed" {
			t.Errorf("a client that takes no replies hears %q", got)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func TestListenerFails(t *testing.T) {
	l := newPipes()
	l.Close()
	if err := New(Options{Backend: newFake()}).Serve(t.Context(), l); err == nil {
		t.Error("Serve on a closed listener returned nil")
	}
}
