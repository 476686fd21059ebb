package netfault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/fault"

	"pgregory.net/rapid"
)

// pair is a connection from a to b, each with the faults it knows of. a dialed.
type pair struct {
	t            testing.TB
	faultsA      *fault.Set
	faultsB      *fault.Set
	netA, netB   *Net
	a, b         net.Conn
	innerA       net.Conn
	mu           sync.Mutex
	got          []byte // by b, once receive was called
	gotErr       error
	lastReceived time.Time
}

func connect(t testing.TB) *pair {
	p := &pair{t: t, faultsA: fault.NewSet(), faultsB: fault.NewSet()}
	p.netA = New("a", p.faultsA, fault.Peers, rand.New(rand.NewPCG(1, 1)))
	p.netB = New("b", p.faultsB, fault.Peers, rand.New(rand.NewPCG(2, 2)))
	near, far := net.Pipe()
	p.innerA = near
	p.a, p.b = p.netA.Conn(near, "b"), p.netB.Conn(far, "")
	p.b.(*Conn).SetPeer("a")
	return p
}

func (p *pair) close() {
	_ = p.a.Close()
	_ = p.b.Close()
	if err := errors.Join(p.netA.Close(), p.netB.Close()); err != nil {
		p.t.Error(err)
	}
}

// receive collects what b gets, in the background.
func (p *pair) receive() {
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := p.b.Read(buf)
			p.mu.Lock()
			p.got = append(p.got, buf[:n]...)
			p.gotErr, p.lastReceived = err, time.Now()
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

func (p *pair) received() (string, error) {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.got), p.gotErr
}

func (p *pair) wantReceived(want string) {
	p.t.Helper()
	if got, _ := p.received(); got != want {
		p.t.Errorf("b received %d bytes %.40q, want %d bytes %.40q", len(got), got, len(want), want)
	}
}

func (p *pair) write(s string) {
	p.t.Helper()
	if n, err := p.a.Write([]byte(s)); n != len(s) || err != nil {
		p.t.Fatalf("Write(%.40q) = %d, %v", s, n, err)
	}
}

func cut(from, to fulcrum.NodeID) fulcrum.Fault {
	return fulcrum.Fault{ID: "cut", Kind: "link", From: from, To: to, OneWay: true, Drop: true}
}

func add(t testing.TB, s *fault.Set, f fulcrum.Fault) {
	t.Helper()
	if err := s.Add(f, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// inBubble runs f on a fresh pair in virtual time.
func inBubble(t *testing.T, f func(t *testing.T, p *pair)) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t)
		f(t, p)
		p.close()
	})
}

func TestHealthyConnIsDirect(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "c", Drop: true}) // someone else's
		p.receive()
		p.write("hello")
		p.wantReceived("hello")
		if c := p.a.(*Conn); c.holding.Load() || len(p.netA.holders) != 0 {
			t.Error("a healthy connection holds bytes back")
		}
	})
}

func TestCutHoldsAndHealDelivers(t *testing.T) {
	for name, set := range map[string]func(*pair) *fault.Set{
		"known to the sender":        func(p *pair) *fault.Set { return p.faultsA },
		"known to the receiver only": func(p *pair) *fault.Set { return p.faultsB },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *pair) {
				p.receive()
				p.write("one ")
				p.wantReceived("one ")
				add(t, set(p), cut("a", "b"))
				go func() { // an unbuffered pipe blocks; a socket would not
					for _, s := range []string{"two ", "three ", "four"} {
						_, _ = p.a.Write([]byte(s)) // checked by what arrives
					}
				}()
				time.Sleep(time.Hour)
				p.wantReceived("one ")
				set(p).Heal(nil)
				p.wantReceived("one two three four")
			})
		})
	}
}

// The other direction of a one-way cut goes on.
func TestOneWayCut(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, cut("b", "a"))
		add(t, p.faultsB, cut("b", "a"))
		p.receive()
		p.write("hello")
		p.wantReceived("hello")
	})
}

func TestWriteBlocksWhenFull(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, cut("a", "b"))
		p.receive()
		sent := bytes.Repeat([]byte("0123456789"), maxHeld/5)
		if err := p.a.SetWriteDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		n, err := p.a.Write(sent)
		if n != maxHeld || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write on a cut link = %d, %v; want %d and the deadline", n, err, maxHeld)
		}
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("the deadline came after %v, want 3s", took)
		}
		if n, err := p.a.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write after the deadline = %d, %v", n, err)
		}
		// What was accepted is delivered, though the deadline is over.
		p.faultsA.Heal(nil)
		p.wantReceived(string(sent[:maxHeld]))
		if err := p.a.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		p.write("and on")
		p.wantReceived(string(sent[:maxHeld]) + "and on")
	})
}

func TestDeadlinesWakeThoseWhoWait(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Drop: true})
		errs := make(chan error, 2)
		go func() {
			_, err := p.a.Read(make([]byte, 1))
			errs <- err
		}()
		go func() {
			_, err := p.a.Write(make([]byte, 2*maxHeld))
			errs <- err
		}()
		synctest.Wait()
		if err := p.a.SetDeadline(time.Now().Add(-time.Second)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want the deadline", err)
			}
		}
	})
}

// A deadline during a cut loses nothing that had come in just before it.
func TestReadDeadlineKeepsBytes(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		type result struct {
			n   int
			err error
		}
		done := make(chan result)
		buf := make([]byte, 8)
		go func() {
			n, err := p.b.Read(buf)
			done <- result{n, err}
		}()
		synctest.Wait()
		add(t, p.faultsB, cut("a", "b")) // b is inside Read already
		p.write("secret")
		if err := p.b.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if r := <-done; r.n != 0 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read through a cut = %d, %v", r.n, r.err)
		}
		p.faultsB.Heal(nil)
		if err := p.b.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for len(got) < 6 { // in small pieces
			n, err := p.b.Read(buf[:4])
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n]...)
		}
		if string(got) != "secret" {
			t.Errorf("after healing b read %q", got)
		}
	})
}

func TestDelay(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Delay: fulcrum.Duration(100 * time.Millisecond)})
		p.receive()
		begun := time.Now()
		for range 50 {
			p.write("chunk ")
		}
		time.Sleep(99 * time.Millisecond)
		p.wantReceived("")
		time.Sleep(2 * time.Millisecond)
		p.wantReceived(string(bytes.Repeat([]byte("chunk "), 50)))
		if took := p.lastReceived.Sub(begun); took != 100*time.Millisecond {
			t.Errorf("50 chunks took %v, want one delay of 100ms for all", took)
		}
		// A longer delay ends early when the link heals.
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Delay: fulcrum.Duration(time.Hour)})
		p.write("late")
		p.faultsA.Heal(nil)
		p.wantReceived(string(bytes.Repeat([]byte("chunk "), 50)) + "late")
	})
}

func TestRatePaces(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Rate: 16 << 10})
		p.receive()
		begun := time.Now()
		sent := string(make([]byte, 64<<10))
		p.write(sent)
		time.Sleep(time.Minute)
		p.wantReceived(sent)
		if took := p.lastReceived.Sub(begun); took != 4*time.Second {
			t.Errorf("64 KiB at 16 KiB/s took %v, want 4s", took)
		}
	})
}

// A bound on what waits for the rate lets Write block as soon as a socket would, costs no
// throughput, also over a distance, and means nothing on other links.
func TestLimitUnsent(t *testing.T) {
	const rate, limit = 64 << 10, 32 << 10
	for name, f := range map[string]fulcrum.Fault{
		"near": {Rate: rate}, "far": {Rate: rate, Delay: fulcrum.Duration(3 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *pair) {
				p.a.(*Conn).LimitUnsent(limit)
				p.receive()
				p.write("before")
				f.Kind, f.From, f.To = "link", "a", "b"
				add(t, p.faultsA, f)
				begun := time.Now()
				for n := 1; n <= 16; n++ {
					p.write(string(make([]byte, segment)))
					// It takes a segment while less than the limit waits.
					ahead := time.Duration(n*segment-limit-segment) * time.Second / rate
					if took := time.Since(begun); took < ahead || took > max(0, ahead)+time.Millisecond {
						t.Errorf("write %d returned after %v, want %v", n, took, max(0, ahead))
					}
				}
				time.Sleep(time.Minute)
				p.wantReceived("before" + string(make([]byte, 16*segment)))
				if took := p.lastReceived.Sub(begun); took > 4*time.Second+time.Duration(f.Delay)+10*time.Millisecond {
					t.Errorf("%d bytes at %d/s took %v", 16*segment, rate, took)
				}
			})
		})
	}
	t.Run("a cut link", func(t *testing.T) {
		inBubble(t, func(t *testing.T, p *pair) {
			p.a.(*Conn).LimitUnsent(limit)
			p.receive()
			add(t, p.faultsA, cut("a", "b"))
			begun := time.Now()
			p.write(string(make([]byte, maxHeld)))
			if took := time.Since(begun); took != 0 {
				t.Errorf("a write that may be held took %v", took)
			}
			p.faultsA.Heal(nil)
			p.wantReceived(string(make([]byte, maxHeld)))
		})
	})
	t.Run("deadline and close", func(t *testing.T) {
		inBubble(t, func(t *testing.T, p *pair) {
			p.a.(*Conn).LimitUnsent(limit)
			p.receive()
			add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Rate: 1000})
			if err := p.a.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, err := p.a.Write(make([]byte, 100_000)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n > limit+segment {
				t.Errorf("Write = %d, %v; want some bytes, and the deadline", n, err)
			}
			if err := p.a.SetWriteDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(time.Second, func() { _ = p.a.Close() })
			if n, err := p.a.Write(make([]byte, 100_000)); !errors.Is(err, net.ErrClosed) || n > segment {
				t.Errorf("Write while it is closed = %d, %v", n, err)
			}
		})
	})
}

func TestLossDelaysAStream(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Loss: 0.999999})
		p.receive()
		begun := time.Now()
		p.write("hello")
		time.Sleep(time.Minute)
		p.wantReceived("hello")
		if took := p.lastReceived.Sub(begun); took != (1+2+4+8+16)*retransmission {
			t.Errorf("a segment lost five times took %v, want 6.2s", took)
		}
	})
}

func TestCloseDeliversWhatIsOnItsWay(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Delay: fulcrum.Duration(time.Second)})
		p.receive()
		p.write("goodbye")
		if err := p.a.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := p.a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close = %v", err)
		}
		if got, err := p.received(); got != "" || err != nil {
			t.Errorf("before the delay b has %q, %v", got, err)
		}
		time.Sleep(2 * time.Second)
		if got, err := p.received(); got != "goodbye" || !errors.Is(err, io.EOF) {
			t.Errorf("b has %q, %v; want goodbye and the end", got, err)
		}
	})
}

// The end of a stream does not get through a cut, but the closing side is done at
// once; for a linger the kernel would still try.
func TestCloseDuringACut(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		p.receive()
		add(t, p.faultsA, cut("a", "b"))
		errs := make(chan error, 2)
		go func() {
			_, err := p.a.Write(make([]byte, 2*maxHeld))
			errs <- err
		}()
		go func() {
			_, err := p.a.Read(make([]byte, 1))
			errs <- err
		}()
		synctest.Wait()
		begun := time.Now()
		if err := p.a.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v, want closed", err)
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("Close took %v", took)
		}
		if got, err := p.received(); got != "" || err != nil {
			t.Errorf("through the cut b got %d bytes, %v", len(got), err)
		}
		time.Sleep(linger + time.Second)
		if got, err := p.received(); got != "" || !errors.Is(err, io.EOF) {
			t.Errorf("after the linger b has %d bytes, %v; want none and the end", len(got), err)
		}
	})
}

func TestCloseDuringACutThatHeals(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		p.receive()
		add(t, p.faultsA, cut("a", "b"))
		p.write("last words")
		if err := p.a.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		p.faultsA.Heal(nil)
		if got, err := p.received(); got != "last words" || !errors.Is(err, io.EOF) {
			t.Errorf("b has %q, %v", got, err)
		}
	})
}

func TestEndOfStreamWaitsForHealing(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		p.receive()
		p.write("all")
		p.wantReceived("all")
		add(t, p.faultsA, cut("a", "b"))
		if err := p.a.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := p.received(); err != nil {
			t.Errorf("through the cut b learned of the end: %v", err)
		}
		p.faultsA.Heal(nil)
		if _, err := p.received(); !errors.Is(err, io.EOF) {
			t.Errorf("after healing b has %v, want the end", err)
		}
	})
}

// Net.Close ends what would still be delivered, even inside a blocked write.
func TestNetCloseEndsSenders(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) { // nobody receives: the pipe is full
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Delay: 1})
		p.write("into the void")
		time.Sleep(time.Second)
		if err := p.a.Close(); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := p.netA.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("Net.Close took %v", took)
		}
	})
}

// A conn whose writes are stuck in a full socket closes within the linger.
func TestCloseOfAStuckSender(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pair) {
		add(t, p.faultsA, fulcrum.Fault{Kind: "link", From: "a", To: "b", Delay: 1})
		p.write("into the void")
		time.Sleep(time.Second)
		if err := p.a.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(linger + time.Second)
		synctest.Wait()
		if len(p.netA.holders) != 0 {
			t.Error("the sender outlives the linger")
		}
	})
}

func TestDial(t *testing.T) {
	for _, direction := range []fulcrum.Fault{cut("a", "b"), cut("b", "a")} {
		inBubble(t, func(t *testing.T, p *pair) {
			add(t, p.faultsA, direction)
			ok := func(context.Context) (net.Conn, error) { return p.innerA, nil }
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			begun := time.Now()
			if _, err := p.netA.Dial(ctx, "b", ok); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Minute {
				t.Errorf("Dial through a cut = %v after %v, want the deadline after 1m", err, time.Since(begun))
			}
			time.AfterFunc(5*time.Second, func() { p.faultsA.Heal(nil) })
			begun = time.Now()
			if _, err := p.netA.Dial(context.Background(), "b", ok); err != nil || time.Since(begun) != 5*time.Second {
				t.Errorf("Dial through a cut that heals = %v after %v, want success after 5s", err, time.Since(begun))
			}
			if _, err := p.netA.Dial(ctx, "c", func(context.Context) (net.Conn, error) { return nil, io.ErrNoProgress }); !errors.Is(err, io.ErrNoProgress) {
				t.Errorf("Dial = %v, want the error of the dialer", err)
			}
		})
	}
}

// Whatever breaks and heals, at either end and when: a stream neither loses nor
// reorders a byte.
func TestStreamIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// testing.TB lacks Deadline, which may not be asked for in a bubble.
		rapid.Check(struct{ testing.TB }{t}, func(rt *rapid.T) {
			p := connect(t)
			defer p.close()
			p.receive()
			var sent []byte
			written := make(chan []byte, 100)
			writes := make(chan []byte, 100)
			go func() {
				defer close(written)
				for b := range writes {
					n, err := p.a.Write(b)
					if n != len(b) || err != nil {
						t.Errorf("Write = %d, %v", n, err)
					}
				}
			}()
			sets := []*fault.Set{p.faultsA, p.faultsB}
			for range rapid.IntRange(1, 30).Draw(rt, "steps") {
				s := sets[rapid.IntRange(0, 1).Draw(rt, "node")]
				switch rapid.IntRange(0, 4).Draw(rt, "step") {
				case 0, 1:
					b := make([]byte, rapid.IntRange(1, 3*segment).Draw(rt, "bytes"))
					for i := range b {
						b[i] = byte(len(sent) + i)
					}
					sent = append(sent, b...)
					writes <- b
				case 2:
					f := fulcrum.Fault{Kind: "link", From: "a", To: "b"}
					switch rapid.IntRange(0, 2).Draw(rt, "fault") {
					case 0:
						f.Drop = true
					case 1:
						f.Delay, f.Jitter = fulcrum.Duration(time.Millisecond), fulcrum.Duration(time.Second)
					case 2:
						f.Loss, f.Rate = 0.3, 10_000
					}
					add(t, s, f)
				case 3:
					s.Heal(nil)
				case 4:
					time.Sleep(time.Duration(rapid.IntRange(0, int(time.Second)).Draw(rt, "pause")))
				}
			}
			close(writes)
			p.faultsA.Heal(nil)
			p.faultsB.Heal(nil)
			<-written
			if got, err := p.received(); got != string(sent) || err != nil {
				rt.Fatalf("b received %d bytes, %v; want the %d sent, in order", len(got), err, len(sent))
			}
		})
	})
}

func BenchmarkWriteWhenHealthy(b *testing.B) {
	n := New("a", fault.NewSet(), fault.Peers, nil)
	c := n.Conn(nowhere{}, "b")
	p := make([]byte, 300)
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// Hits are what was held back, delayed or dropped, and not that a fault is set.
func TestHits(t *testing.T) {
	slow := fulcrum.Fault{Kind: "link", From: "a", To: "b", Delay: fulcrum.Duration(time.Second)}
	for name, tc := range map[string]struct {
		fault fulcrum.Fault
		act   func(p *pair)
		hit   bool
	}{
		"nothing was sent over the cut":    {cut("a", "b"), func(*pair) {}, false},
		"bytes were held back":             {cut("a", "b"), func(p *pair) { p.write("x") }, true},
		"bytes went the other way":         {cut("b", "a"), func(p *pair) { p.write("x") }, false},
		"bytes were delayed":               {slow, func(p *pair) { p.write("x") }, true},
		"the end was held back":            {cut("a", "b"), func(p *pair) { _ = p.a.Close() }, true},
		"a datagram was dropped":           {cut("a", "b"), func(p *pair) { p.netA.SendPacket("b", func() {}) }, true},
		"a datagram was delayed":           {slow, func(p *pair) { p.netA.SendPacket("b", func() {}) }, true},
		"one that came was dropped":        {cut("b", "a"), func(p *pair) { p.netA.PacketAllowed("b") }, true},
		"one that came was another's":      {cut("b", "a"), func(p *pair) { p.netA.PacketAllowed("c") }, false},
		"one that went was not concerned":  {cut("b", "a"), func(p *pair) { p.netA.SendPacket("b", func() {}) }, false},
		"somebody tried to connect":        {cut("a", "b"), dialInVain, true},
		"the answer to that was held back": {cut("b", "a"), dialInVain, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *pair) {
				p.receive()
				add(t, p.faultsA, tc.fault)
				tc.act(p)
				time.Sleep(5 * time.Second)
				if got := p.faultsA.Hits()["link"]; (got > 0) != tc.hit {
					t.Errorf("%d hits, want some: %v", got, tc.hit)
				}
			})
		})
	}
}

func dialInVain(p *pair) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := p.netA.Dial(ctx, "b", func(context.Context) (net.Conn, error) { return nil, io.ErrNoProgress }); err == nil {
		p.t.Error("connected through a cut")
	}
}
