package sim_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// readiness counts what nodes say of it.
type readiness struct {
	slog.Handler
	said *atomic.Int64
}

func (r readiness) Handle(_ context.Context, rec slog.Record) error {
	if rec.Message == "node is ready" {
		r.said.Add(1)
	}
	return nil
}

func (r readiness) Enabled(context.Context, slog.Level) bool { return true }
func (r readiness) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r readiness) WithGroup(string) slog.Handler            { return r }

// A node says once in each life that it is ready, and not before it is.
func TestANodeSaysThatItIsReady(t *testing.T) {
	r := readiness{slog.DiscardHandler, new(atomic.Int64)}
	inBubble(t, sim.ClusterOptions{Nodes: 3, Logger: slog.New(r)}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		want := func(n int64, when string) {
			t.Helper()
			time.Sleep(10 * time.Second)
			if got := r.said.Load(); got != n {
				t.Errorf("%s it was said %d times, want %d", when, got, n)
			}
		}
		want(3, "when three nodes had come up")
		if err := errors.Join(c.Kill("n1", "n2", "n3"), c.Start("n1")); err != nil {
			t.Fatal(err)
		}
		want(3, "when one of them was alone")
		if err := c.Start("n2", "n3"); err != nil {
			t.Fatal(err)
		}
		want(6, "when all were there again")
	})
}

// What users speak to a node goes through the simulated network too.
func TestUsersReachNodesOverTheSimulatedNetwork(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return c.Network.Dial(ctx, addr) }}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		do := func(method, url, body string) (int, string) {
			req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(b)
		}
		if code, body := do("PUT", "http://n1:"+sim.HTTPPort+"/v1/kv/cp/k", "over http"); code/100 != 2 {
			t.Errorf("PUT: %d %s", code, body)
		}
		if code, body := do("GET", "http://n2:"+sim.HTTPPort+"/v1/kv/cp/k", ""); code != 200 || body != "over http" {
			t.Errorf("GET: %d %s", code, body)
		}
		for _, path := range []string{"/readyz", "/metrics", "/v1/cluster"} {
			if code, body := do("GET", "http://n3:"+sim.HTTPPort+path, ""); code != 200 {
				t.Errorf("GET %s: %d %s", path, code, body)
			}
		}
		conn, err := c.Network.Dial(t.Context(), "n3:"+sim.RedisPort)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ks, err := c.Node("n3").Keyspace("cp")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "SELECT %d\r\nGET k\r\n", ks.ID)
		r := bufio.NewReader(conn)
		var lines []string
		for range 3 {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, strings.TrimSpace(line))
		}
		if want := []string{"+OK", "$9", "over http"}; !slices.Equal(lines, want) {
			t.Errorf("the Redis port said %q, want %q", lines, want)
		}
	})
}

// A write at level "any" that no replica could take waits at its coordinator,
// through a crash of that node.
func TestAHintOfAnyArrivesInTheEnd(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "ap", Mode: "quorum", Shards: 1, Replicas: 1}); err != nil {
			t.Fatal(err)
		}
		known(t, c, "ap")
		ready(t, c)
		home := c.Node("n1").Shards()[0].Replicas[0].Node
		names := c.Names()
		away := names[(slices.Index(names, home)+1)%len(names)]
		if err := c.Inject(fulcrum.Fault{ID: "cut", Kind: "isolate", Node: away}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // until it is known: what is under way when a link breaks has no known outcome
		if err := put(c, away, at("ap", consistency.Any), "k", "hint"); err != nil {
			t.Fatalf("write at any behind a cut: %v", err)
		}
		if err := put(c, away, at("ap", consistency.One), "k2", "v"); err == nil {
			t.Error("a write at one was acknowledged without a replica")
		}
		if err := c.Kill(away); err != nil {
			t.Fatal(err)
		}
		if err := c.Start(away); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if got, err := get(c, home, at("ap", consistency.One), "k"); got != "" || err != nil {
			t.Errorf("the replica has %q, %v before the cut healed", got, err)
		}
		if err := c.Heal(); err != nil {
			t.Fatal(err)
		}
		eventually(t, c, home, "ap", "k", "hint")
	})
}

// eventually waits until a node's own replica shows a value.
func eventually(t *testing.T, c *sim.Cluster, node fulcrum.NodeID, keyspace, key, want string) {
	t.Helper()
	var got string
	var err error
	for range 600 {
		if got, err = get(c, node, at(keyspace, consistency.One), key); err == nil && got == want {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%s: %s shows %q, %v at %s; want %q", keyspace, node, got, err, key, want)
}

// A write acknowledged at level one by a replica that was cut off is handed over
// behind a switch that it missed, and loses only to what is newer.
func TestASwitchWaitsForNobodyAndLosesNothing(t *testing.T) {
	for _, to := range []string{"raft", "leader-follower"} {
		t.Run("to "+to, func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
				create(t, c, "ap", consistency.Quorum)
				for _, key := range []string{"both", "alone"} {
					if err := put(c, "n1", at("ap", consistency.All), key, "before"); err != nil {
						t.Fatal(err)
					}
				}
				cut := fulcrum.Fault{ID: "cut", Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}, {"n2", "n3"}}}
				if err := c.Inject(cut); err != nil {
					t.Fatal(err)
				}
				for _, key := range []string{"both", "alone", "fresh"} {
					if err := put(c, "n1", at("ap", consistency.One), key, "n1's"); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(10 * time.Second) // until there is a leader of the catalog on the other side
				if _, err := c.Node("n2").AlterKeyspace(t.Context(), "ap", fulcrum.KeyspacePatch{Mode: &to}); err != nil {
					t.Fatal(err)
				}
				for range 600 {
					if ks, err := c.Node("n2").Keyspace("ap"); err == nil && ks.Mode == to {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				if err := put(c, "n2", api.Call{Keyspace: "ap"}, "both", "newer"); err != nil {
					t.Fatalf("write after the switch: %v", err)
				}
				if err := c.Heal(); err != nil {
					t.Fatal(err)
				}
				for _, name := range c.Names() {
					eventually(t, c, name, "ap", "fresh", "n1's")
					eventually(t, c, name, "ap", "alone", "n1's")
					eventually(t, c, name, "ap", "both", "newer")
				}
				late := 0
				for range 100 { // counted once they have all arrived
					ks, err := c.Node("n2").Keyspace("ap")
					if err != nil || ks.Switch == nil {
						t.Fatalf("the switch is %+v, %v", ks.Switch, err)
					}
					if late = ks.Switch.LateKeys; late >= 2 {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
				if late < 2 {
					t.Errorf("the switch counts %d late writes, want at least 2", late)
				}
			})
		})
	}
}

// A node that lost its disk comes back as another replica of the same name, and
// what was acknowledged is still there with it as one of the two that are left.
func TestALostDiskIsFilledFromTheOthers(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
		}
		w, stop := writers(c, 2, 5*time.Millisecond, "cp", "ap", "lf")
		time.Sleep(time.Second)
		stop()
		if err := c.Kill("n3"); err != nil {
			t.Fatal(err)
		}
		if err := c.Wipe("n3"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // until the lease of the n3 that was cannot hold: two of a name are refused
		if err := c.Start("n3"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		ready(t, c)
		for ks := range modes {
			for _, s := range c.Node("n3").Shards() {
				if s.Keyspace == ks && s.Epoch < 2 {
					t.Errorf("%s is still at epoch %d, which n3 has forgotten", ks, s.Epoch)
				}
			}
		}
		if err := c.Kill("n1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		for ks := range modes {
			wantAll(t, c, "n3", ks, w[ks].acked)
		}
	})
}

// A stop by signal hands leadership over: the others go on without an election's
// pause, and the node comes back as it was.
func TestAPlannedStopCostsLittle(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
		}
		for _, down := range c.Names() {
			if err := c.Stop(down); err != nil {
				t.Fatalf("stop %s: %v", down, err)
			}
			began := time.Now()
			for name := range modes {
				for _, up := range c.Running() {
					for put(c, up, api.Call{Keyspace: name}, "k", "v") != nil && time.Since(began) < time.Minute {
						time.Sleep(10 * time.Millisecond)
					}
				}
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("without %s it took %s until every keyspace was written again", down, took)
			}
			if err := c.Start(down); err != nil {
				t.Fatal(err)
			}
			ready(t, c)
		}
	})
}

func TestARemovedNodeGivesItsReplicasAway(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: name, Mode: mode.String(), Shards: 2, Replicas: 3}); err != nil {
				t.Fatal(err)
			}
			known(t, c, name)
		}
		ready(t, c)
		w, stop := writers(c, 2, 5*time.Millisecond, "cp", "ap", "lf")
		time.Sleep(time.Second)
		if err := c.Remove(t.Context(), "n1", "n4"); err != nil {
			t.Fatal(err)
		}
		gone := func() bool {
			return !slices.ContainsFunc(c.Node("n1").Cluster().Nodes, func(n fulcrum.NodeInfo) bool { return n.Name == "n4" })
		}
		for range 600 {
			if gone() {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		stop()
		if !gone() {
			t.Errorf("n4 is still there: %+v", c.Node("n1").Shards())
		}
		awaitEnd(t, c, "n4")
		ready(t, c)
		for ks := range modes {
			wantAll(t, c, "n2", ks, w[ks].acked)
		}
		for _, s := range c.Node("n1").Shards() {
			if len(s.Replicas) != 3 {
				t.Errorf("shard %d of %s has %d replicas, want 3", s.Group, s.Keyspace, len(s.Replicas))
			}
		}
	})
}

// Whoever made a keyspace through one node may use it on any other next, also on one that
// hears late of it; who is cut off does not hold that up for long.
func TestAKeyspaceIsKnownEverywhereOnceItIsMade(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		leader := c.Node("n1").Cluster().CatalogLeader
		var others []fulcrum.NodeID
		for _, id := range c.Names() {
			if id != leader {
				others = append(others, id)
			}
		}
		at, far := others[0], others[1]
		links := func(f fulcrum.Fault) {
			for _, from := range []fulcrum.NodeID{leader, at} {
				f.ID, f.Kind, f.From, f.To = string(from), "link", from, far
				do(t, c.Inject(f))
			}
		}
		links(fulcrum.Fault{Delay: fulcrum.Duration(200 * time.Millisecond)})
		do(t, makeKeyspace(t, c, at, "late"))
		for _, id := range c.Names() {
			if _, err := c.Node(id).Keyspace("late"); err != nil {
				t.Errorf("%s, once it was made: %v", id, err)
			}
		}
		do(t, c.Node(at).DropKeyspace(t.Context(), "late"))
		if _, err := c.Node(far).Keyspace("late"); err == nil {
			t.Errorf("%s has a keyspace that was dropped", far)
		}
		do(t, c.Heal(string(leader), string(at)))
		links(fulcrum.Fault{Drop: true})
		begun := time.Now()
		do(t, makeKeyspace(t, c, at, "cut"))
		if took := time.Since(begun); took > 1500*time.Millisecond {
			t.Errorf("a node that is cut off held up a new keyspace for %s", took)
		}
	})
}
