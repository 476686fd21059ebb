package transport_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/transport"
)

// knock opens a connection to id as a stranger would, without a transport.
func (n *network) knock(id fulcrum.NodeID) net.Conn {
	n.t.Helper()
	c, err := n.dial(context.Background(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Whatever a stranger says, its connection is closed in time, the log says why, and
// the node goes on serving others.
func TestStrangersAtThePort(t *testing.T) {
	good := transport.Hello(transport.Version, "c1", "x", "b")
	pieces := transport.CallPieces(7, chEcho, 100, []byte("hello world"), 6)
	begun := len(transport.CallPieces(7, chEcho, 100, []byte("hello "), 6)) + 2 // what is announced
	tests := []struct {
		name string
		says []byte
		logs string
		open time.Duration // until it is closed
	}{
		{"another protocol", []byte("GET / HTTP/1.1\r\nHost: b\r\n\r\n"), "does not speak fulcrum's peer protocol", 0},
		{"silence", nil, "timeout", 5 * time.Second},
		{"half a hello", good[:9], "timeout", 5 * time.Second},
		{"a hello too long", []byte("FLCp" + string(rune(transport.Version)) + "\xff\xffxxxx"), "hello of 65535 bytes", 0},
		{"a malformed hello", []byte("FLCp" + string(rune(transport.Version)) + "\x00\x02\xff\xff"), "malformed hello", 0},
		{"a newer version", transport.Hello(transport.Version+1, "c1", "x", "b"), fmt.Sprintf("speaks version %d", transport.Version+1), 0},
		{"another cluster", transport.Hello(transport.Version, "c2", "x", "b"), "belongs to cluster", 0},
		{"a wrong target", transport.Hello(transport.Version, "c1", "x", "y"), "it wants to talk to y, but this is b", 0},
		{"our own name", transport.Hello(transport.Version, "c1", "b", "b"), "two nodes have the same name", 0},
		{"no name", transport.Hello(transport.Version, "c1", "", "b"), "does not say which node", 0},
		{"garbage after a good hello", append(bytes.Clone(good), "garbage that is no frame"...), "it sent garbage", 0},
		{"a reply to nobody", append(bytes.Clone(good), transport.ReplyFrame(1)...), "kind 2 has no place in this direction", 0},
		{"a piece of nothing after a good hello", append(bytes.Clone(good), pieces[begun:]...), "a piece of frame 7, which was not begun", 0},
		{"half a frame after a good hello", append(bytes.Clone(good), pieces[:begun]...), "", 10*time.Minute + time.Second},
		{"silence after a good hello", good, "", 10*time.Minute + time.Second},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log syncBuffer
				n := newNetwork(t)
				n.start("b", func(o *transport.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
				a := n.start("a", nil)
				c := n.knock("b")
				closed := make(chan time.Time, 1)
				go func() {
					_, _ = io.Copy(io.Discard, c) // until b closes
					closed <- time.Now()
				}()
				begun := time.Now()
				_, _ = c.Write(tc.says) // b may close before it has all
				if took := (<-closed).Sub(begun); took > tc.open+time.Second {
					t.Errorf("closed after %v, want %v", took, tc.open)
				}
				synctest.Wait() // it logs after closing
				if !strings.Contains(log.String(), tc.logs) {
					t.Errorf("log is %q, want it to say %q", log.String(), tc.logs)
				}
				if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
					t.Errorf("afterwards b does not serve a: %v", err)
				}
			})
		})
	}
}

// A refused dialer learns why.
func TestRefusalIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.start("b", nil)
		c := n.knock("b")
		go func() { _, _ = c.Write(transport.Hello(transport.Version+1, "c1", "x", "b")) }()
		all, err := io.ReadAll(c)
		if err != nil || !strings.Contains(string(all), fmt.Sprintf("it speaks version %d of the peer protocol, this node version %d", transport.Version+1, transport.Version)) {
			t.Errorf("b said %q, %v", all, err)
		}
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.start("b", func(o *transport.Options) { o.MaxConns = 3 })
		var held []net.Conn
		for range 3 {
			c := n.knock("b")
			go func() { _, _ = io.Copy(io.Discard, c) }() // ends with c
			held = append(held, c)
			_, _ = c.Write(transport.Hello(transport.Version, "c1", "x", "b")) // b reads all of it
		}
		synctest.Wait()
		extra := n.knock("b")
		if _, err := extra.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("one too many reads %v, want it closed", err)
		}
		for _, c := range held {
			_ = c.Close() // makes room
		}
		synctest.Wait()
		a := n.start("a", nil)
		if _, err := a.Call(within(t, time.Second), "b", chEcho, nil); err != nil {
			t.Errorf("when there is room again: %v", err)
		}
	})
}

// A stranger cannot fill the log.
func TestLogIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		n := newNetwork(t)
		n.start("b", func(o *transport.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		for range 100 {
			c := n.knock("b")
			_, _ = c.Write([]byte("nonsense"))
			time.Sleep(20 * time.Millisecond)
		}
		if lines := strings.Count(log.String(), "\n"); lines < 2 || lines > 3 || !strings.Contains(log.String(), "like_it_before=49") {
			t.Errorf("100 refusals in 2 seconds made %d lines:\n%s", lines, log.String())
		}
	})
}

// FuzzPort sends random bytes to a listening transport, before and after a good
// handshake: it must neither panic nor stop serving.
func FuzzPort(f *testing.F) {
	f.Add(false, []byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(true, transport.CallFrame(1, chFast, 100, []byte("hello")))
	f.Add(true, transport.CallFrame(1, chEcho, 1<<63, []byte("hello")))
	pieces := transport.CallPieces(1, chEcho, 100, []byte("hello world"), 4)
	f.Add(true, pieces)
	f.Add(true, append(pieces[:len(pieces)-10], transport.CallPieces(2, chFast, 100, []byte("hello"), 4)...))
	f.Add(true, make([]byte, 100))
	f.Fuzz(func(t *testing.T, greets bool, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.start("b", nil)
			a := n.start("a", nil)
			c := n.knock("b")
			go func() { _, _ = io.Copy(io.Discard, c) }() // ends with c
			if greets {
				_, _ = c.Write(transport.Hello(transport.Version, "c1", "x", "b"))
			}
			_, _ = c.Write(b) // b may close at any byte
			_ = c.Close()
			if got, err := a.Call(within(t, time.Second), "b", chEcho, []byte("x")); string(got) != "a:x" || err != nil {
				t.Fatalf("afterwards b answers %q, %v", got, err)
			}
		})
	})
}
