package membership_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/membership"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
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

func TestHealedSplitMergesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, five...)
		defer c.stopAll()
		t.Logf("everybody met after %v", c.settled(15*time.Second))

		c.cut(five[:2], five[2:])
		time.Sleep(2 * time.Minute)
		for _, id := range five[2:] {
			c.expect(five[:2], id, membership.StateDead)
		}
		for _, id := range five[:2] {
			c.expect(five[2:], id, membership.StateDead)
		}

		c.cut()
		t.Logf("merged %v after healing", c.settled(time.Minute))
		time.Sleep(5 * time.Minute)
		c.settled(0)
	})
}

// The control of the test above: without the rejoining of Peers the same split
// is never mended, so that test fails when rejoining breaks.
func TestSplitOutlivesHealingWithoutRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		for i, id := range five[:3] {
			seed := map[fulcrum.NodeID]string{}
			if i > 0 {
				seed["n1"] = "n1:7301"
			}
			var mu sync.Mutex
			time.AfterFunc(time.Minute, func() { mu.Lock(); clear(seed); mu.Unlock() })
			c.start(id, func(o *membership.Options) {
				o.Peers = func() map[fulcrum.NodeID]string {
					mu.Lock()
					defer mu.Unlock()
					return maps.Clone(seed)
				}
			})
		}
		defer c.stopAll()
		c.settled(30 * time.Second)
		time.Sleep(time.Minute)
		c.cut(five[:1], five[1:3])
		time.Sleep(2 * time.Minute)
		c.cut()
		time.Sleep(30 * time.Minute)
		c.expect(five[1:3], "n1", membership.StateDead)
		c.expect(five[:1], "n2", membership.StateDead)
	})
}

func TestHowMembersGo(t *testing.T) {
	tests := []struct {
		name string
		gone func(c *cluster)
		want string
	}{
		{"one that is killed is dead", func(c *cluster) { c.kill("n3") }, membership.StateDead},
		{"one that closes has left", func(c *cluster) { c.stop("n3") }, membership.StateLeft},
		{"one that is cut off is dead", func(c *cluster) { c.cut([]fulcrum.NodeID{"n3"}, []fulcrum.NodeID{"n1", "n2", "n4", "n5"}) }, membership.StateDead},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, five...)
				defer c.stopAll()
				c.settled(15 * time.Second)
				c.expect(five, "n9", membership.StateUnknown)
				others := []fulcrum.NodeID{"n1", "n2", "n4", "n5"}

				tc.gone(c)
				begin := time.Now()
				for time.Since(begin) < time.Minute && slices.ContainsFunc(others, func(id fulcrum.NodeID) bool { return c.up[id].State("n3") != tc.want }) {
					time.Sleep(time.Second)
				}
				t.Logf("seen by all after %v", time.Since(begin))
				c.expect(others, "n3", tc.want)
				time.Sleep(10 * time.Minute) // long after memberlist forgot it
				c.expect(others, "n3", tc.want)
			})
		})
	}
}

// A node that restarts begins with incarnation 1 again, while the others hold it
// for dead with a higher one.
func TestRestartedMembersAreAliveAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, five...)
		defer c.stopAll()
		c.settled(15 * time.Second)
		for round := range 3 {
			c.kill("n2")
			time.Sleep(time.Duration(round*20+1) * time.Second) // before and after it is found dead
			c.start("n2", nil)
			t.Logf("alive %v after restart", c.settled(30*time.Second))
		}
		for _, id := range five {
			c.kill(id)
		}
		time.Sleep(time.Minute)
		for _, id := range five {
			c.start(id, nil)
		}
		t.Logf("all alive %v after all were killed", c.settled(30*time.Second))
	})
}

func TestPairThatCannotTalkIsSuspectToEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.peers = map[fulcrum.NodeID]string{"n1": "n1:7301", "n2": "n2:7301", "n3": "n3:7301"}
		var mu sync.Mutex
		broken := false
		apart := func(a, b fulcrum.NodeID) bool {
			mu.Lock()
			defer mu.Unlock()
			return broken && (a == "n1" && b == "n2" || a == "n2" && b == "n1")
		}
		for _, id := range five[:3] {
			c.start(id, func(o *membership.Options) {
				dial := o.Dial
				o.Dial = func(ctx context.Context, to fulcrum.NodeID, addr string) (net.Conn, error) {
					if apart(id, to) {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return dial(ctx, to, addr)
				}
				o.SendPacket = nil
				o.ReceivePacket = func(from fulcrum.NodeID) bool { return !apart(from, id) }
			})
		}
		defer c.stopAll()
		c.settled(15 * time.Second)
		time.Sleep(5 * time.Minute)
		c.settled(0) // a healthy cluster suspects nobody
		mu.Lock()
		broken = true
		mu.Unlock()
		time.Sleep(time.Minute)
		c.expect(five[:1], "n2", membership.StateSuspect)
		c.expect(five[1:2], "n1", membership.StateSuspect)
		c.expect(five[2:3], "n1", membership.StateAlive)
		c.expect(five[2:3], "n2", membership.StateAlive)
		mu.Lock()
		broken = false
		mu.Unlock()
		c.settled(10 * time.Second)
	})
}

func TestOtherClustersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "n1", "n2")
		defer c.stopAll()
		c.settled(15 * time.Second)
		c.mu.Lock()
		c.peers["n3"] = "n3:7301"
		c.mu.Unlock()
		c.start("n3", func(o *membership.Options) { o.ClusterID = "another-cluster" })
		time.Sleep(5 * time.Minute)
		c.expect(five[:2], "n3", membership.StateUnknown)
		c.expect([]fulcrum.NodeID{"n3"}, "n1", membership.StateUnknown)
		c.expect([]fulcrum.NodeID{"n3"}, "n3", membership.StateAlive)
		c.expect(five[:1], "n2", membership.StateAlive)
		if got := len(c.up["n1"].Members()); got != 2 {
			t.Errorf("n1 knows %d members, want 2", got)
		}
	})
}

func TestMetadataSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, five...)
		defer c.stopAll()
		c.settled(15 * time.Second)
		seen := func() string {
			for _, m := range c.up["n5"].Members() {
				if m.Node == "n1" {
					if m.Addr != "n1:7301" {
						t.Errorf("n1 is said to be at %s", m.Addr)
					}
					return string(m.Meta)
				}
			}
			return "nothing"
		}
		set := func(meta string) {
			n1 := c.up["n1"]
			n1.mu.Lock()
			n1.meta = meta
			n1.mu.Unlock()
			time.Sleep(10 * time.Second)
		}
		most := string(make([]byte, membership.MetaLimit("n1:7301")))
		for _, meta := range []string{"zone=a", "", most, "zone=b"} {
			set(meta)
			if got := seen(); got != meta {
				t.Errorf("n5 sees metadata of %d bytes, want the %d that were set", len(got), len(meta))
			}
		}
		set(most + "x")
		if got := seen(); got != "zone=b" {
			t.Errorf("metadata that is too large replaced the last good one by %d bytes", len(got))
		}
		n5 := c.up["n5"]
		n5.mu.Lock()
		defer n5.mu.Unlock()
		if n5.changes < 4 || n5.changes > 40 {
			t.Errorf("OnChange was called %d times", n5.changes)
		}
	})
}

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

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, five[:3]...)
		defer c.stopAll()
		c.settled(15 * time.Second)
		c.kill("n3")
		time.Sleep(time.Minute)
		families, err := c.up["n1"].metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v %v", problems, err)
		}
		got := c.up["n1"].figures(t)
		if got["fulcrum_gossip_members alive"] != 2 || got["fulcrum_gossip_members dead"] != 1 {
			t.Errorf("members: %v", got)
		}
		for _, moved := range []string{"fulcrum_gossip_packets_total sent", "fulcrum_gossip_packets_total received", "fulcrum_gossip_rejoins_total"} {
			if got[moved] == 0 {
				t.Errorf("%s stayed zero: %v", moved, got)
			}
		}
	})
}

func TestOpenSaysEverythingThatIsWrong(t *testing.T) {
	tests := []struct {
		name   string
		change func(*membership.Options)
	}{
		{"a name with a slash", func(o *membership.Options) { o.Node = "n/1" }},
		{"no cluster", func(o *membership.Options) { o.ClusterID = "" }},
		{"a cluster id that is too long", func(o *membership.Options) { o.ClusterID = string(make([]byte, 256)) }},
		{"an address nobody can reach", func(o *membership.Options) { o.Advertise = ":7301" }},
		{"the unspecified address", func(o *membership.Options) { o.Advertise = "0.0.0.0:7301" }},
		{"no dialer", func(o *membership.Options) { o.Dial = nil }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			n := sim.NewNetwork()
			l, _ := n.Listen("n1:1")
			p, _ := n.ListenPacket("n1:1")
			o := membership.Options{Node: "n1", ClusterID: "c", Advertise: "n1:1", Listener: l, PacketConn: p,
				Dial: func(context.Context, fulcrum.NodeID, string) (net.Conn, error) { return nil, net.ErrClosed }}
			tc.change(&o)
			if _, err := membership.Open(o); err == nil {
				t.Fatal("was accepted")
			}
			if got := n.String(); got != "0 listeners, 0 packet sockets, 0 connection ends" {
				t.Errorf("after an error %s are open", got)
			}
		})
	}
}
