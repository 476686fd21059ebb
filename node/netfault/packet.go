package netfault

import (
	"container/heap"
	"time"

	"fulcrum"
)

// maxPackets is how many delayed datagrams a Net holds; past it they vanish, as
// in the full queue of a router.
const maxPackets = 4096

// packetQueue holds datagrams that are on their way, the next due first; those due
// at the same time in the order in which they were sent. Net.mu guards it.
type packetQueue struct {
	heap    packetHeap
	sent    uint64        // numbers packets
	sending bool          // a goroutine is at work
	sooner  chan struct{} // has a token when a new packet became the first
}

type packet struct {
	due    time.Time
	number uint64
	send   func()
}

type packetHeap []packet

func (h packetHeap) Len() int { return len(h) }
func (h packetHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].number < h[j].number
}
func (h packetHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *packetHeap) Push(x any)   { *h = append(*h, x.(packet)) }
func (h *packetHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = packet{}
	*h = old[:len(old)-1]
	return p
}

// PacketAllowed reports whether a datagram that has just come from peer gets
// through, or was cut off: the receiver's half of a drop.
func (n *Net) PacketAllowed(peer fulcrum.NodeID) bool {
	if n.in(peer).Drop {
		n.hitIn(peer)
		return false
	}
	return true
}

// SendPacket sends one datagram to peer by calling send: at once on a healthy link,
// later on a slow one (jitter may reorder, as it does to UDP), never when it is
// lost. Rate is not applied: gossip's packets are few. A delayed send runs on a
// goroutine of the Net and must not block.
func (n *Net) SendPacket(peer fulcrum.NodeID, send func()) {
	e := n.out(peer)
	if e.None() {
		send()
		return
	}
	if e.Drop {
		n.hitOut(peer)
		return
	}
	loss := e.Loss
	e.Loss = 0
	late := n.late(e, 0)

	n.mu.Lock()
	lost := loss > 0 && n.rnd.Float64() < loss
	if lost || late > 0 {
		n.hitOut(peer)
	}
	if n.closed || lost || len(n.packets.heap) >= maxPackets {
		n.mu.Unlock()
		return
	}
	if late == 0 && len(n.packets.heap) == 0 {
		n.mu.Unlock()
		send()
		return
	}
	defer n.mu.Unlock()
	q := &n.packets
	q.sent++
	number := q.sent
	heap.Push(&q.heap, packet{due: time.Now().Add(late), number: number, send: send})
	if !q.sending {
		q.sending = true
		q.sooner = make(chan struct{}, 1)
		n.running.Go(n.sendPackets)
		return
	}
	if q.heap[0].number == number {
		select {
		case q.sooner <- struct{}{}:
		default:
		}
	}
}

// sendPackets sends what is due until nothing is left. Net.Close ends and awaits it.
func (n *Net) sendPackets() {
	for {
		n.mu.Lock()
		if len(n.packets.heap) == 0 || n.closed {
			n.packets.heap = nil
			n.packets.sending = false
			n.mu.Unlock()
			return
		}
		wait := time.Until(n.packets.heap[0].due)
		if wait <= 0 {
			p := heap.Pop(&n.packets.heap).(packet)
			n.mu.Unlock()
			p.send()
			continue
		}
		sooner := n.packets.sooner
		n.mu.Unlock()

		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-sooner:
		case <-n.done:
		}
		t.Stop()
	}
}
