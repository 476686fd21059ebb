package netfault

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/node/fault"
)

// packets counts what arrives, and when.
type packets struct {
	set *fault.Set
	net *Net
	got chan int
}

func newPackets() *packets {
	s := fault.NewSet()
	return &packets{set: s, net: New("a", s, fault.Gossip, rand.New(rand.NewPCG(7, 7))), got: make(chan int, 2*maxPackets)}
}

func (p *packets) send(numbers ...int) {
	for _, n := range numbers {
		p.net.SendPacket("b", func() { p.got <- n })
	}
}

func (p *packets) arrived() []int {
	synctest.Wait()
	var all []int
	for {
		select {
		case n := <-p.got:
			all = append(all, n)
		default:
			return all
		}
	}
}

func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPackets()
		defer p.net.Close()
		p.send(1, 2, 3)
		if got := p.arrived(); !slices.Equal(got, []int{1, 2, 3}) {
			t.Errorf("on a healthy link %v arrived", got)
		}
		add(t, p.set, fulcrum.Fault{Kind: "link", From: "a", To: "b", Only: "peers", Drop: true})
		p.send(1)
		if got := p.arrived(); len(got) != 1 {
			t.Errorf("a fault of the other layer: %v arrived", got)
		}
		add(t, p.set, fulcrum.Fault{Kind: "isolate", Node: "b"})
		p.send(1)
		if p.net.PacketAllowed("b") || !p.net.PacketAllowed("c") {
			t.Error("a packet from an isolated node is allowed, or one from another is not")
		}
		p.set.Heal(nil)
		time.Sleep(time.Hour)
		if got := p.arrived(); len(got) != 0 {
			t.Errorf("what was lost in a cut came back: %v", got)
		}
		if !p.net.PacketAllowed("b") {
			t.Error("a packet is not allowed after healing")
		}
	})
}

func TestDelayedPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPackets()
		defer p.net.Close()
		add(t, p.set, fulcrum.Fault{ID: "slow", Kind: "link", From: "a", To: "b", Delay: fulcrum.Duration(time.Second)})
		p.send(1, 2)
		p.set.Heal([]string{"slow"})
		add(t, p.set, fulcrum.Fault{Kind: "link", From: "a", To: "b", Delay: fulcrum.Duration(100 * time.Millisecond)})
		p.send(3)
		if got := p.arrived(); len(got) != 0 {
			t.Errorf("%v arrived at once", got)
		}
		time.Sleep(500 * time.Millisecond)
		if got := p.arrived(); !slices.Equal(got, []int{3}) {
			t.Errorf("after 500ms %v arrived, want the packet with the short delay", got)
		}
		time.Sleep(time.Second)
		if got := p.arrived(); !slices.Equal(got, []int{1, 2}) {
			t.Errorf("after 1.5s %v arrived, want the others in order", got)
		}
	})
}

func TestPacketLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPackets()
		defer p.net.Close()
		add(t, p.set, fulcrum.Fault{Kind: "link", From: "a", To: "b", Loss: 0.3})
		for i := range 1000 {
			p.send(i)
		}
		if n := len(p.arrived()); n < 600 || n > 800 { // the seed is fixed: this cannot flake
			t.Errorf("%d of 1000 arrived with a loss of 30%%", n)
		}
	})
}

func TestPacketsAreBoundedAndDroppedByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPackets()
		add(t, p.set, fulcrum.Fault{Kind: "link", From: "a", To: "b", Delay: fulcrum.Duration(time.Second)})
		for i := range maxPackets + 10 {
			p.send(i)
		}
		time.Sleep(2 * time.Second)
		if n := len(p.arrived()); n != maxPackets {
			t.Errorf("%d arrived, want the %d that are held at most", n, maxPackets)
		}
		p.send(1)
		if err := p.net.Close(); err != nil {
			t.Error(err)
		}
		p.send(2)
		time.Sleep(2 * time.Second)
		if got := p.arrived(); len(got) != 0 {
			t.Errorf("after Close %v arrived", got)
		}
	})
}
