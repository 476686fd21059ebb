package membership_test

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/membership"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

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

func TestCloseDoesNotWaitForTheLost(t *testing.T) {
	tests := []struct {
		name   string
		before func(c *cluster)
	}{
		{"when everybody is there", func(*cluster) {}},
		{"when it just lost everybody", func(c *cluster) { c.cut(five[:1], five[1:]) }},
		{"while rejoins are hanging", func(c *cluster) { c.cut(five[:1], five[1:]); time.Sleep(2 * time.Minute) }},
		{"when its sockets are gone", func(c *cluster) { c.net.CloseHost("n1") }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, five...)
				defer c.stopAll()
				c.settled(15 * time.Second)
				tc.before(c)
				n1, begin := c.up["n1"], time.Now()
				c.stop("n1")
				if took := time.Since(begin); took > time.Second {
					t.Errorf("took %v of virtual time", took)
				}
				if err := n1.Close(); err != nil {
					t.Errorf("again: %v", err)
				}
				if err := n1.Run(context.Background()); err != nil {
					t.Errorf("Run after Close: %v", err)
				}
				if families, _ := n1.metrics.Gather(); len(families) != 0 {
					t.Errorf("%d metrics are still registered", len(families))
				}
				before := n1.Members()
				time.Sleep(time.Minute)
				if after := n1.Members(); !slices.EqualFunc(before, after, func(a, b membership.Member) bool { return a.State == b.State }) {
					t.Errorf("the view still changes: %v, then %v", before, after)
				}
			})
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "n1", "n2")
		defer c.stopAll()
		c.settled(15 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.up["n1"].Run(ctx) }()
		time.Sleep(time.Minute)
		begin := time.Now()
		cancel()
		if err := <-ended; err != nil || time.Since(begin) > time.Second {
			t.Errorf("ended %v after its context, with %v", time.Since(begin), err)
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
		for _, moved := range []string{"fulcrum_gossip_packets_total out", "fulcrum_gossip_packets_total in", "fulcrum_gossip_rejoins_total"} {
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
