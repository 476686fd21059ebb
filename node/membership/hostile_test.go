package membership_test

import (
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum/node/membership"
)

// Whatever comes in, with the right preamble and label or without, nothing
// crashes and the members stay alive to each other.
func TestGarbageIsHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, five[:3]...)
		defer c.stopAll()
		c.settled(15 * time.Second)
		rnd := rand.New(rand.NewPCG(1, 2))
		bad, err := c.net.ListenPacket("n9:1")
		if err != nil {
			t.Fatal(err)
		}
		defer bad.Close()
		to, _ := c.net.Resolve("n1:7301")
		preamble := "\xf1\x02n2"
		label := "\xf4\x0bthe-cluster"
		for i := range 3000 {
			junk := make([]byte, rnd.IntN(300))
			for j := range junk {
				junk[j] = byte(rnd.Uint32())
			}
			if len(junk) > 0 && i%2 == 0 {
				junk[0] %= 16 // a message type
			}
			prefix := []string{"", "\xf1", "\xf1\xff", preamble, preamble + "\xf4\x05other", preamble + label}[i%6]
			frame := append([]byte(prefix), junk...)
			if i%50 == 0 {
				frame = append(frame, make([]byte, 5000)...)
			}
			bad.WriteTo(frame, to)
			if i%20 == 0 {
				if s, err := c.net.DialFrom(t.Context(), "n9", "n1:7301"); err == nil {
					s.Write(frame)
					if i%40 == 0 {
						s.Close()
					} else {
						defer s.Close() // a stream that says nothing more
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		time.Sleep(time.Minute)
		c.settled(30 * time.Second)
		if got := len(c.up["n1"].Members()); got != 3 {
			t.Errorf("garbage made %d members out of 3", got)
		}
		got := c.up["n1"].figures(t)
		if got["fulcrum_gossip_refused_total packet"] == 0 || got["fulcrum_gossip_refused_total stream"] == 0 {
			t.Errorf("refusals are not counted: %v", got)
		}
	})
}

// tap keeps copies of the packets that are sent.
type tap struct {
	net.PacketConn
	mu   sync.Mutex
	seen [][]byte
}

func (p *tap) WriteTo(b []byte, to net.Addr) (int, error) {
	p.mu.Lock()
	if len(p.seen) < 500 {
		p.seen = append(p.seen, slices.Clone(b))
	}
	p.mu.Unlock()
	return p.PacketConn.WriteTo(b, to)
}

// Real packets with a few bytes changed pass the preamble and the label and reach
// memberlist's decoders. They may tell lies for a while, never crash a member,
// and the truth wins afterwards.
func TestDamagedPacketsAreSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, five[:2]...)
		defer c.stopAll()
		wire := &tap{}
		c.mu.Lock()
		c.peers["n3"] = "n3:7301"
		c.mu.Unlock()
		c.start("n3", func(o *membership.Options) {
			wire.PacketConn = o.PacketConn
			o.PacketConn = wire
		})
		c.settled(15 * time.Second)
		time.Sleep(time.Minute)

		bad, err := c.net.ListenPacket("n9:1")
		if err != nil {
			t.Fatal(err)
		}
		defer bad.Close()
		to, _ := c.net.Resolve("n1:7301")
		rnd := rand.New(rand.NewPCG(3, 4))
		wire.mu.Lock()
		frames := slices.Clone(wire.seen)
		wire.mu.Unlock()
		const intact = len("\xf1\x02n3\xf4\x0bthe-cluster")
		for i := range 20000 {
			frame := slices.Clone(frames[rnd.IntN(len(frames))])
			for range 1 + rnd.IntN(4) {
				frame[intact+rnd.IntN(len(frame)-intact)] = byte(rnd.Uint32())
			}
			if rnd.IntN(4) == 0 {
				frame = frame[:intact+rnd.IntN(len(frame)-intact)]
			}
			bad.WriteTo(frame, to)
			if i%100 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		time.Sleep(time.Minute) // for every lie to spread
		t.Logf("the truth won after %v", c.settled(10*time.Minute))
		if a := len(frames); a < 100 {
			t.Errorf("only %d packets were there to damage", a)
		}
	})
}
