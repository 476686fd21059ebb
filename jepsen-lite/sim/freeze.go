package sim

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// machine is what the network knows of one host beside its sockets.
type machine struct {
	thawed atomic.Pointer[chan struct{}] // while the host is frozen; closed when it goes on
}

// frozen returns a channel that is closed when the host goes on, nil when it does not
// stand still.
func (m *machine) frozen() <-chan struct{} {
	if ch := m.thawed.Load(); ch != nil {
		return *ch
	}
	return nil
}

// machine returns the machine of a host. n.mu is held.
func (n *Network) machine(host string) *machine {
	m := n.machines[host]
	if m == nil {
		m = &machine{}
		n.machines[host] = m
	}
	return m
}

// Freeze makes a host stand still as far as others can tell: nothing gets into its
// process nor out of it. Peers may connect, and write until buffers are full, as they
// can to a process that was sent SIGSTOP; packets and bytes are kept, the host's own
// too, and arrive at Thaw. A frozen host may be frozen again, to no effect.
//
// What runs on the host goes on and sees its clock advance; so whoever looks for what
// a process does that wakes up without knowing that it slept needs a real one.
func (n *Network) Freeze(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ch := make(chan struct{})
	n.machine(host).thawed.CompareAndSwap(nil, &ch)
}

// Thaw ends Freeze; on a host that is not frozen it does nothing.
func (n *Network) Thaw(host string) {
	n.mu.Lock()
	ch := n.machine(host).thawed.Swap(nil)
	var held []*packetConn
	for _, p := range n.packets {
		if p.addr.host() == host {
			held = append(held, p)
		}
	}
	n.mu.Unlock()
	if ch == nil {
		return
	}
	close(*ch)
	for _, p := range held {
		p.release()
	}
}

// ThawAll ends every Freeze.
func (n *Network) ThawAll() {
	n.mu.Lock()
	var hosts []string
	for host := range n.machines {
		hosts = append(hosts, host)
	}
	n.mu.Unlock()
	for _, host := range hosts {
		n.Thaw(host)
	}
}

// Moving waits until host is not frozen. It reports false when ctx ended first.
func (n *Network) Moving(ctx context.Context, host string) bool {
	n.mu.Lock()
	m := n.machine(host)
	n.mu.Unlock()
	for {
		thawed := m.frozen()
		if thawed == nil {
			return true
		}
		select {
		case <-thawed:
		case <-ctx.Done():
			return false
		}
	}
}

// awaitThaw is await, and also ends when a frozen host goes on.
func awaitThaw(rung, thawed <-chan struct{}, at time.Time) {
	var late <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-rung:
	case <-thawed:
	case <-late:
	}
}

// Duplicate makes packets arrive twice from now on, each with this probability, drawn
// from seed; 0 ends it. Streams are above such things.
func (n *Network) Duplicate(probability float64, seed uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.twice, n.rand = probability, rand.New(rand.NewPCG(seed, 1))
}

// Duplicated counts the packets that arrived twice.
func (n *Network) Duplicated() int64 { return n.duplicated.Load() }

// copies draws how often a packet arrives. n.mu is held.
func (n *Network) copies() int {
	if n.twice > 0 && n.rand.Float64() < n.twice {
		n.duplicated.Add(1)
		return 2
	}
	return 1
}

// isFrozen reports whether a host stands still.
func (n *Network) isFrozen(host string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.machine(host).frozen() != nil
}
