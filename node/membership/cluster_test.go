package membership_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/membership"

	"github.com/prometheus/client_golang/prometheus"
)

// cluster is a few members on one simulated network, with links that can be cut.
type cluster struct {
	t   *testing.T
	net *sim.Network
	up  map[fulcrum.NodeID]*node

	mu    sync.Mutex
	peers map[fulcrum.NodeID]string
	sides map[fulcrum.NodeID]int // nodes of different sides cannot talk
}

type node struct {
	*membership.Membership
	metrics *prometheus.Registry
	ran     chan error

	mu      sync.Mutex
	meta    string
	changes int
}

func newCluster(t *testing.T, names ...fulcrum.NodeID) *cluster {
	c := &cluster{t: t, net: sim.NewNetwork(), peers: map[fulcrum.NodeID]string{}, up: map[fulcrum.NodeID]*node{}}
	for _, id := range names {
		c.peers[id] = string(id) + ":7301"
	}
	for _, id := range names {
		c.start(id, nil)
	}
	return c
}

func (c *cluster) cut(sides ...[]fulcrum.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sides = map[fulcrum.NodeID]int{}
	for i, side := range sides {
		for _, id := range side {
			c.sides[id] = i
		}
	}
}

func (c *cluster) linked(a, b fulcrum.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sides[a] == c.sides[b]
}

// start opens a member; change alters its options.
func (c *cluster) start(id fulcrum.NodeID, change func(*membership.Options)) *node {
	c.t.Helper()
	n := &node{metrics: prometheus.NewRegistry(), ran: make(chan error, 1)}
	addr := string(id) + ":7301"
	l, err := c.net.Listen(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	p, err := c.net.ListenPacket(addr)
	if err != nil {
		c.t.Fatal(err)
	}
	o := membership.Options{
		Node: id, ClusterID: "the-cluster", Advertise: addr, Listener: l, PacketConn: p,
		Dial: func(ctx context.Context, to fulcrum.NodeID, addr string) (net.Conn, error) {
			if to == "" {
				c.t.Errorf("%s dials %s without knowing whom", id, addr)
			}
			if !c.linked(id, to) {
				<-ctx.Done() // as packets that vanish do
				return nil, ctx.Err()
			}
			return c.net.DialFrom(ctx, string(id), addr)
		},
		SendPacket: func(to fulcrum.NodeID, send func()) {
			if c.linked(id, to) {
				send()
			}
		},
		ReceivePacket: func(from fulcrum.NodeID) bool { return c.linked(from, id) },
		Resolve:       c.net.Resolve,
		Meta: func() []byte {
			n.mu.Lock()
			defer n.mu.Unlock()
			return []byte(n.meta)
		},
		Peers: func() map[fulcrum.NodeID]string {
			c.mu.Lock()
			defer c.mu.Unlock()
			return maps.Clone(c.peers)
		},
		OnChange: func([]membership.Member) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.changes++
		},
		Registerer: n.metrics,
	}
	if change != nil {
		change(&o)
	}
	if n.Membership, err = membership.Open(o); err != nil {
		c.t.Fatal(err)
	}
	go func() { n.ran <- n.Run(context.Background()) }()
	c.up[id] = n
	return n
}

// figures returns every metric of n by its name and label values.
func (n *node) figures(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

// stop closes a member and waits for its Run.
func (c *cluster) stop(id fulcrum.NodeID) {
	n := c.up[id]
	delete(c.up, id)
	n.Close()
	if err := <-n.ran; err != nil {
		c.t.Errorf("%s: Run: %v", id, err)
	}
}

// kill crashes a member: nobody hears it leave.
func (c *cluster) kill(id fulcrum.NodeID) {
	c.net.CloseHost(string(id))
	c.stop(id)
}

func (c *cluster) stopAll() {
	var wg sync.WaitGroup
	for _, n := range c.up {
		wg.Go(func() { n.Close(); <-n.ran })
	}
	wg.Wait()
	c.up = nil
	time.Sleep(time.Minute) // what memberlist had under way
	if got := c.net.String(); got != "0 listeners, 0 packet sockets, 0 connection ends" {
		c.t.Errorf("left open: %s", got)
	}
}

// expect checks what each of these members thinks of another.
func (c *cluster) expect(viewers []fulcrum.NodeID, of fulcrum.NodeID, want string) {
	c.t.Helper()
	for _, id := range viewers {
		if got := c.up[id].State(of); got != want {
			c.t.Errorf("%s sees %s %s, want %s", id, of, got, want)
		}
	}
}

// settled waits until everybody running sees everybody else of them alive, and
// returns how long that took.
func (c *cluster) settled(limit time.Duration) time.Duration {
	c.t.Helper()
	begin := time.Now()
	for {
		bad := ""
		for a, n := range c.up {
			for b := range c.up {
				if got := n.State(b); got != membership.StateAlive {
					bad = fmt.Sprintf("%s sees %s %s", a, b, got)
				}
			}
		}
		if bad == "" {
			return time.Since(begin)
		}
		if time.Since(begin) >= limit {
			c.t.Errorf("after %v %s", limit, bad)
			return limit
		}
		time.Sleep(time.Second)
	}
}

var five = []fulcrum.NodeID{"n1", "n2", "n3", "n4", "n5"}
