package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum/jepsen-lite/sim"

	"golang.org/x/net/nettest"
	"pgregory.net/rapid"
)

// pair returns both ends of a connection from host n1 to n2:7201.
func pair(t testing.TB, n *sim.Network) (dialed, accepted net.Conn) {
	t.Helper()
	l, err := n.Listen("n2:7201")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialed, err = n.DialFrom(context.Background(), "n1", "n2:7201"); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return dialed, accepted
}

// The net.Conn contract, as the Go project states it: deadlines past, present and
// future, closing while blocked, concurrent use.
func TestConnBehavesLikeANetConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := pair(t, sim.NewNetwork())
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

func TestHowConnectionsEnd(t *testing.T) {
	bye := []byte("bye")
	tests := []struct {
		name             string
		end              func(n *sim.Network, a, b net.Conn)
		wantData         string
		wantRead, wantWr error // at b, afterwards
	}{
		{"a peer that closed leaves what it wrote, then end of file, and takes no more",
			func(_ *sim.Network, a, _ net.Conn) { a.Write(bye); a.Close() }, "bye", io.EOF, syscall.EPIPE},
		{"a peer that closed its writing half still reads",
			func(_ *sim.Network, a, _ net.Conn) {
				a.Write(bye)
				a.(interface{ CloseWrite() error }).CloseWrite()
			}, "bye", io.EOF, nil},
		{"a crashed peer resets, and loses what was in flight",
			func(n *sim.Network, a, _ net.Conn) { a.Write(bye); n.CloseHost("n1") }, "", syscall.ECONNRESET, syscall.ECONNRESET},
		{"the crash of another host changes nothing",
			func(n *sim.Network, a, _ net.Conn) { a.Write(bye); a.Close(); n.CloseHost("n3") }, "bye", io.EOF, syscall.EPIPE},
		{"one's own crash closes",
			func(n *sim.Network, a, _ net.Conn) { a.Write(bye); n.CloseHost("n2") }, "", net.ErrClosed, net.ErrClosed},
		{"a deadline that passed wins over data that is there",
			func(_ *sim.Network, a, b net.Conn) { a.Write(bye); b.SetDeadline(time.Now().Add(-1)) }, "", os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := sim.NewNetwork()
				a, b := pair(t, n)
				tc.end(n, a, b)
				data, err := io.ReadAll(b)
				if err == nil {
					err = io.EOF
				}
				if string(data) != tc.wantData || !errors.Is(err, tc.wantRead) {
					t.Errorf("read %q, %v; want %q, %v", data, err, tc.wantData, tc.wantRead)
				}
				if _, err := b.Write([]byte("x")); !errors.Is(err, tc.wantWr) || (err == nil) != (tc.wantWr == nil) {
					t.Errorf("write: %v, want %v", err, tc.wantWr)
				}
				a.Close()
				b.Close()
				if _, _, open := n.Open(); open != 0 {
					t.Errorf("%d connection ends are still known after both closed", open)
				}
			})
		})
	}
}

func TestBlockedCallsWake(t *testing.T) {
	tests := []struct {
		name string
		wake func(n *sim.Network, a, b net.Conn)
		want error
	}{
		{"when the deadline comes", func(_ *sim.Network, a, _ net.Conn) { a.SetDeadline(time.Now().Add(time.Hour)) }, os.ErrDeadlineExceeded},
		{"when a deadline is moved into the past", func(_ *sim.Network, a, _ net.Conn) {
			a.SetDeadline(time.Now().Add(time.Hour))
			a.SetDeadline(time.Unix(1, 0))
		}, os.ErrDeadlineExceeded},
		{"when they are closed", func(_ *sim.Network, a, _ net.Conn) { a.Close() }, net.ErrClosed},
		{"when the peer crashes", func(n *sim.Network, _, _ net.Conn) { n.CloseHost("n2") }, syscall.ECONNRESET},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := sim.NewNetwork()
				a, b := pair(t, n)
				defer b.Close()
				errs := make(chan error, 2)
				go func() { _, err := a.Read(make([]byte, 1)); errs <- err }()
				go func() { // the peer reads nothing, so this blocks when the buffer is full
					written, err := a.Write(make([]byte, 2*sim.StreamBufferBytes))
					if written != sim.StreamBufferBytes {
						t.Errorf("wrote %d bytes into a buffer of %d", written, sim.StreamBufferBytes)
					}
					errs <- err
				}()
				synctest.Wait()
				if len(errs) != 0 {
					t.Fatalf("did not block: %v", <-errs)
				}
				tc.wake(n, a, b)
				for range 2 {
					if err := <-errs; !errors.Is(err, tc.want) {
						t.Errorf("got %v, want %v", err, tc.want)
					}
				}
			})
		})
	}
}

func TestWritesBlockUntilThePeerReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, sim.NewNetwork())
		big := bytes.Repeat([]byte("0123456789"), sim.StreamBufferBytes/3)
		go func() {
			a.Write(big)
			a.Close()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, big) {
			t.Errorf("read %d bytes, %v; want the %d that were written", len(got), err, len(big))
		}
	})
}

// Whatever the sizes of writes and reads, the bytes arrive once and in order.
func TestStreamsKeepOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := pair(t, sim.NewNetwork())
		var want, got []byte
		for _, write := range rapid.SliceOfN(rapid.Bool(), 1, 60).Draw(rt, "write or read") {
			if write {
				p := rapid.SliceOfN(rapid.Byte(), 0, 900).Draw(rt, "bytes")
				a.Write(p)
				want = append(want, p...)
			} else if len(got) < len(want) {
				p := make([]byte, rapid.IntRange(1, 700).Draw(rt, "room"))
				n, _ := b.Read(p)
				got = append(got, p[:n]...)
			}
		}
		a.Close()
		rest, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(append(got, rest...), want) {
			rt.Fatalf("read %d bytes, %v; want %d", len(got)+len(rest), err, len(want))
		}
	})
}

func TestWhoMayListenAndDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		n := sim.NewNetwork()
		if _, err := n.Dial(ctx, "n1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial nobody: %v, want ECONNREFUSED", err)
		}
		l, err := n.Listen("n1:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("n1:1"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listen twice: %v, want EADDRINUSE", err)
		}
		if _, err := n.Listen("nonsense"); err == nil {
			t.Error("an address without a port was taken")
		}
		if p, err := n.ListenPacket("n1:1"); err != nil {
			t.Errorf("packets and connections do not share ports: %v", err)
		} else {
			p.Close()
		}
		any1, err1 := n.Listen("n1:0")
		any2, err2 := n.Listen("n1:0")
		if err1 != nil || err2 != nil || any1.Addr().String() == any2.Addr().String() {
			t.Errorf("port 0 twice: %v %v, %v %v", any1, err1, any2, err2)
		}

		waiting, err := n.DialFrom(ctx, "n9", "n1:1")
		if err != nil {
			t.Fatal(err)
		}
		if host, _, _ := net.SplitHostPort(waiting.LocalAddr().String()); host != "n9" || waiting.RemoteAddr().String() != "n1:1" {
			t.Errorf("addresses %v -> %v", waiting.LocalAddr(), waiting.RemoteAddr())
		}
		l.Close()
		if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection never accepted reads %v after its listener closed, want ECONNRESET", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept on a closed listener: %v", err)
		}
		if again, err := n.Listen("n1:1"); err != nil {
			t.Errorf("a closed listener still holds its address: %v", err)
		} else {
			again.Close()
		}
	})
}

func TestDialWaitsForRoomInTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork()
		l, _ := n.Listen("n1:1")
		defer l.Close()
		for range sim.AcceptBacklog {
			if _, err := n.Dial(context.Background(), "n1:1"); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := n.Dial(ctx, "n1:1"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("dial into a full backlog: %v, want a timeout", err)
		}
		done := make(chan error)
		go func() {
			_, err := n.Dial(context.Background(), "n1:1")
			done <- err
		}()
		synctest.Wait()
		l.Accept()
		if err := <-done; err != nil {
			t.Errorf("dial after an accept: %v", err)
		}
	})
}

func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork()
		a, _ := n.ListenPacket("n1:1")
		b, _ := n.ListenPacket("n2:1")
		to, _ := n.Resolve("n2:1")
		buf := make([]byte, 8)

		a.WriteTo([]byte("longer than eight"), to)
		if k, from, err := b.ReadFrom(buf); err != nil || string(buf[:k]) != "longer t" || from.String() != "n1:1" {
			t.Errorf("got %q from %v, %v", buf[:k], from, err)
		}
		nobody, _ := n.Resolve("n3:1")
		if _, err := a.WriteTo([]byte("x"), nobody); err != nil {
			t.Errorf("a packet to nobody is lost silently, got %v", err)
		}
		if _, err := a.WriteTo(make([]byte, sim.MaxPacketBytes+1), to); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("an oversized packet: %v, want EMSGSIZE", err)
		}

		for i := range sim.PacketQueue + 10 {
			a.WriteTo(fmt.Appendf(nil, "%d", i), to)
		}
		b.SetReadDeadline(time.Now().Add(time.Second))
		got := 0
		for ; ; got++ {
			k, _, err := b.ReadFrom(buf)
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("read from an empty queue: %v, want a timeout", err)
				}
				break
			}
			if string(buf[:k]) != fmt.Sprint(got) {
				t.Fatalf("packet %d holds %q", got, buf[:k])
			}
		}
		if got != sim.PacketQueue {
			t.Errorf("%d packets arrived, want the %d that fit", got, sim.PacketQueue)
		}

		b.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Hour, func() { n.CloseHost("n2") })
		if _, _, err := b.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read on a crashed host: %v, want net.ErrClosed", err)
		}
		if again, err := n.ListenPacket("n2:1"); err != nil {
			t.Errorf("a crashed host cannot come back: %v", err)
		} else {
			again.Close()
		}
		a.Close()
	})
}

// A whole HTTP exchange, with the server's own goroutines, inside a bubble: the
// virtual hour passes only if every one of their waits is durably blocking.
func TestHTTPServesInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork()
		l, err := n.Listen("n1:80")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Hour)
			io.WriteString(w, "late")
		})}
		go server.Serve(l)
		transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return n.DialFrom(ctx, "n2", addr)
		}}
		reply, err := (&http.Client{Transport: transport}).Get("http://n1/")
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(reply.Body); string(body) != "late" || err != nil {
			t.Errorf("got %q, %v", body, err)
		}
		transport.CloseIdleConnections()
		server.Close()
		synctest.Wait()
		if got := n.String(); got != "0 listeners, 0 packet sockets, 0 connection ends" {
			t.Errorf("left open: %s", got)
		}
	})
}
