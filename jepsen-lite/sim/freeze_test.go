package sim_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum/jepsen-lite/sim"
)

// got is what a read in the background came to.
type got struct {
	data string
	err  error
}

// reading reads once from c in the background.
func reading(c net.Conn) <-chan got {
	out := make(chan got, 1)
	go func() {
		b := make([]byte, 64)
		n, err := c.Read(b)
		out <- got{string(b[:n]), err}
	}()
	return out
}

func TestNothingGetsInOrOutOfAFrozenHostAndAllOfItArrivesLate(t *testing.T) {
	for _, frozen := range []string{"n1", "n2"} {
		t.Run(frozen, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := sim.NewNetwork()
				a, b := pair(t, n)
				n.Freeze(frozen)
				n.Freeze(frozen)
				for _, c := range []net.Conn{a, b} {
					if _, err := c.Write([]byte("late")); err != nil {
						t.Fatalf("write to a buffer that has room: %v", err)
					}
				}
				atA, atB := reading(a), reading(b)
				time.Sleep(time.Hour)
				select {
				case g := <-atA:
					t.Errorf("n1 read %v while %s was frozen", g, frozen)
				case g := <-atB:
					t.Errorf("n2 read %v while %s was frozen", g, frozen)
				default:
				}
				n.Thaw(frozen)
				for _, g := range []got{<-atA, <-atB} {
					if g != (got{data: "late"}) {
						t.Errorf("after the thaw: %v, want what was written", g)
					}
				}
				a.Close()
				b.Close()
			})
		})
	}
}

func TestAFrozenHostsEndOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork()
		a, b := pair(t, n)
		n.Freeze("n2")
		if err := b.Close(); err != nil { // it is the process that does not know that it is frozen
			t.Fatal(err)
		}
		if _, err := a.Write([]byte("to whom it may concern")); err != nil {
			t.Errorf("n1 knows that a frozen host closed: %v", err)
		}
		if err := a.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if g := <-reading(a); !errors.Is(g.err, os.ErrDeadlineExceeded) {
			t.Errorf("read from a frozen host: %v, want the deadline", g)
		}
		if err := a.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		n.Thaw("n2")
		if g := <-reading(a); g.err != io.EOF {
			t.Errorf("after the thaw: %v, want the end", g)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write after the thaw: %v, want EPIPE", err)
		}
		a.Close()
	})
}

func TestConnectingWithAFrozenHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork()
		l, err := n.Listen("n2:1")
		if err != nil {
			t.Fatal(err)
		}
		n.Freeze("n2")
		c, err := n.DialFrom(t.Context(), "n1", "n2:1")
		if err != nil {
			t.Fatalf("the kernel of a frozen process takes connections: %v", err)
		}
		accepted := make(chan net.Conn)
		go func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		}()
		synctest.Wait()
		select {
		case <-accepted:
			t.Error("a frozen process accepted")
		default:
		}
		n.Thaw("n2")
		(<-accepted).Close()
		c.Close()

		n.Freeze("n1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.DialFrom(ctx, "n1", "n2:1"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a frozen host dialed: %v", err)
		}
		n.CloseHost("n1") // a crash ends the freeze
		if c, err = n.DialFrom(t.Context(), "n1", "n2:1"); err != nil {
			t.Errorf("after a crash: %v", err)
		}
		l.Close()
		c.Close()
	})
}

func TestPacketsOfFrozenHostsAreKept(t *testing.T) {
	for _, frozen := range []string{"n1", "n2"} {
		synctest.Test(t, func(t *testing.T) {
			n := sim.NewNetwork()
			a, errA := n.ListenPacket("n1:1")
			b, errB := n.ListenPacket("n2:1")
			if err := errors.Join(errA, errB); err != nil {
				t.Fatal(err)
			}
			n.Freeze(frozen)
			if _, err := a.WriteTo([]byte("ping"), b.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 16)
			b.SetReadDeadline(time.Now().Add(time.Second))
			if _, _, err := b.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("with %s frozen: %v, want the deadline", frozen, err)
			}
			b.SetReadDeadline(time.Now().Add(time.Second))
			n.ThawAll()
			if k, _, err := b.ReadFrom(buf); err != nil || string(buf[:k]) != "ping" {
				t.Errorf("after the thaw of %s: %q, %v", frozen, buf[:k], err)
			}
			a.Close()
			b.Close()
		})
	}
}

func TestPacketsArriveTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork()
		a, errA := n.ListenPacket("n1:1")
		b, errB := n.ListenPacket("n2:1")
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		arrived := func() (count int) {
			for range 100 {
				if _, err := a.WriteTo([]byte("p"), b.LocalAddr()); err != nil {
					t.Fatal(err)
				}
			}
			b.SetReadDeadline(time.Now().Add(time.Second))
			for {
				if _, _, err := b.ReadFrom(make([]byte, 16)); err != nil {
					return count
				}
				count++
			}
		}
		if got := arrived(); got != 100 {
			t.Errorf("%d of 100 packets arrived", got)
		}
		n.Duplicate(1, 7)
		if got := arrived(); got != 200 || n.Duplicated() != 100 {
			t.Errorf("%d arrived of 100 that are doubled, %d are counted", got, n.Duplicated())
		}
		n.Duplicate(0.5, 7)
		if got := arrived(); got < 120 || got > 180 {
			t.Errorf("%d arrived of 100 of which half are doubled", got)
		}
		n.Duplicate(0, 7)
		if got := arrived(); got != 100 {
			t.Errorf("%d of 100 arrived after it had ended", got)
		}
		a.Close()
		b.Close()
	})
}
