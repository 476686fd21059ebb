package sim_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// inBubble runs f with a ready cluster in virtual time. The bubble fails when a
// goroutine of the cluster is left after it was closed.
func inBubble(t *testing.T, opt sim.ClusterOptions, f func(t *testing.T, c *sim.Cluster)) {
	t.Helper()
	opt.Dir = t.TempDir()
	if os.Getenv("SIM_LOG") != "" {
		opt.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := sim.OpenCluster(ctx, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.Close(); err != nil {
				t.Errorf("closing the cluster: %v", err)
			}
		}()
		f(t, c)
	})
}

// create makes one keyspace with a replica of one shard on every node.
func create(t *testing.T, c *sim.Cluster, name string, mode consistency.Mode) {
	t.Helper()
	_, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: name, Mode: mode.String(), Shards: 1, Replicas: len(c.Names())})
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	known(t, c, name)
	ready(t, c)
}

// known waits until every node has heard of a keyspace.
func known(t *testing.T, c *sim.Cluster, keyspace string) {
	t.Helper()
	began := time.Now()
	for _, name := range c.Names() {
		for {
			_, err := c.Node(name).Keyspace(keyspace)
			if err == nil {
				break
			}
			if time.Since(began) > time.Second {
				t.Fatalf("%s: %v", name, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func ready(t *testing.T, c *sim.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

// put writes a value at a key, as a client of the node at does.
func put(c *sim.Cluster, at fulcrum.NodeID, call api.Call, key, value string) error {
	return c.Call(context.Background(), at, func(ctx context.Context, b api.Backend) error {
		_, _, err := b.Write(ctx, call, []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte(key), Value: []byte(value)}})
		return err
	})
}

// get returns the live value at a key, or "".
func get(c *sim.Cluster, at fulcrum.NodeID, call api.Call, key string) (value string, err error) {
	err = c.Call(context.Background(), at, func(ctx context.Context, b api.Backend) error {
		entries, _, err := b.Read(ctx, call, [][]byte{[]byte(key)})
		if err == nil && entries[0].Live(b.Now()) {
			value = string(entries[0].Value)
		}
		return err
	})
	return value, err
}

// at is a call at a level.
func at(keyspace string, kind consistency.Kind) api.Call {
	return api.Call{Keyspace: keyspace, Level: consistency.L(kind)}
}

// writer writes key after key, each once, and remembers what became of it.
type writer struct {
	mu    sync.Mutex
	acked []string
	errs  map[string]error
}

// run writes keys with a prefix to one node after another until ctx ends, one write
// each pause.
func (w *writer) run(ctx context.Context, c *sim.Cluster, call api.Call, prefix string, pause time.Duration) {
	names := c.Names()
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("%s-%d", prefix, i)
		err := put(c, names[i%len(names)], call, key, "v")
		w.mu.Lock()
		if err == nil {
			w.acked = append(w.acked, key)
		} else {
			w.errs[key] = err
		}
		w.mu.Unlock()
		time.Sleep(pause)
	}
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// writers runs n clients in each keyspace until stop is called, which waits for them.
func writers(c *sim.Cluster, n int, pause time.Duration, keyspaces ...string) (w map[string]*writer, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	w = map[string]*writer{}
	for _, ks := range keyspaces {
		one := &writer{errs: map[string]error{}}
		w[ks] = one
		for i := range n {
			wg.Go(func() { one.run(ctx, c, api.Call{Keyspace: ks}, fmt.Sprintf("%s-%d", ks, i), pause) })
		}
	}
	return w, func() { cancel(); wg.Wait() }
}

// wantAll fails the test for every key that a node does not show at the keyspace's
// default level.
func wantAll(t *testing.T, c *sim.Cluster, node fulcrum.NodeID, keyspace string, keys []string) {
	t.Helper()
	lost := 0
	for _, key := range keys {
		got, err := get(c, node, api.Call{Keyspace: keyspace}, key)
		if err == nil && got == "v" {
			continue
		}
		if lost++; lost <= 3 {
			t.Errorf("%s at %s: acknowledged write %s: got %q, %v", keyspace, node, key, got, err)
		}
	}
	if lost > 0 {
		t.Errorf("%s: %d of %d acknowledged writes lost", keyspace, lost, len(keys))
	}
}

// serving waits until every node answers a read of the keyspace at its default
// level, and returns how long that took.
func serving(t *testing.T, c *sim.Cluster, keyspace string) time.Duration {
	t.Helper()
	began := time.Now()
	for _, name := range c.Names() {
		for {
			_, err := get(c, name, api.Call{Keyspace: keyspace}, "k")
			if err == nil {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("%s: %s does not serve: %v", keyspace, name, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return time.Since(began)
}

// converge waits until every node's own replica shows the same value at a key.
func converge(t *testing.T, c *sim.Cluster, keyspace, key, want string) {
	t.Helper()
	var last error
	for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		last = nil
		for _, name := range c.Names() {
			if got, err := get(c, name, at(keyspace, consistency.One), key); err != nil || got != want {
				last = fmt.Errorf("%s shows %q, %v", name, got, err)
			}
		}
		if last == nil {
			return
		}
	}
	t.Errorf("%s: key %s did not become %q everywhere: %v", keyspace, key, want, last)
}

var modes = map[string]consistency.Mode{"cp": consistency.Raft, "ap": consistency.Quorum, "lf": consistency.LeaderFollower}

func TestEveryNodeServesEveryMode(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
			call := api.Call{Keyspace: name}
			for _, at := range c.Names() {
				if err := put(c, at, call, "at-"+string(at), "v"); err != nil {
					t.Errorf("%s: write at %s: %v", name, at, err)
				}
				for _, other := range c.Names() {
					if got, err := get(c, other, call, "at-"+string(at)); err != nil || got != "v" {
						t.Errorf("%s: read at %s of what %s wrote: %q, %v", name, other, at, got, err)
					}
				}
			}
		}
	})
}

// The promise table's word on both sides of a cut, for each mode.
func TestBothSidesOfACutDoWhatTheTableSays(t *testing.T) {
	const refused, done = "refused", "done"
	tests := []struct {
		keyspace        string
		access          consistency.Access
		level           consistency.Kind
		minority, other string
	}{
		{"cp", consistency.Write, consistency.QuorumOf, refused, done},
		{"cp", consistency.Read, consistency.Linearizable, refused, done},
		{"cp", consistency.Read, consistency.One, done, done},
		{"ap", consistency.Write, consistency.One, done, done},
		{"ap", consistency.Read, consistency.One, done, done},
		{"ap", consistency.Write, consistency.QuorumOf, refused, done},
		{"ap", consistency.Read, consistency.QuorumOf, refused, done},
		{"ap", consistency.Read, consistency.Linearizable, refused, done},
		{"lf", consistency.Write, consistency.QuorumOf, refused, done},
		{"lf", consistency.Write, consistency.One, refused, done},
		{"lf", consistency.Read, consistency.Linearizable, refused, done},
		{"lf", consistency.Read, consistency.One, done, done},
	}
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
			if err := put(c, "n1", api.Call{Keyspace: name}, "k", "before"); err != nil {
				t.Fatal(err)
			}
			converge(t, c, name, "k", "before")
		}
		cut := fulcrum.Fault{ID: "cut", Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}, {"n2", "n3"}}}
		if err := c.Inject(cut); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second) // leases run out, leaders are elected
		for i, tt := range tests {
			for _, name := range c.Names() {
				want := tt.other
				if name == "n1" {
					want = tt.minority
				}
				began := time.Now()
				var err error
				if tt.access == consistency.Write {
					err = put(c, name, at(tt.keyspace, tt.level), fmt.Sprintf("k%d-%s", i, name), "v")
				} else {
					_, err = get(c, name, at(tt.keyspace, tt.level), "k")
				}
				got := done
				if err != nil {
					got = fmt.Sprintf("%v (code %s)", err, fulcrum.AsError(err).Code)
					if errors.Is(err, fulcrum.ErrUnavailable) && !fulcrum.AsError(err).Maybe {
						got = refused
					}
				}
				if got != want {
					t.Errorf("%s %v at level %v on %s: %s; want %s", tt.keyspace, tt.access, tt.level, name, got, want)
				}
				if took := time.Since(began); took > fulcrum.DefaultRequestLimit {
					t.Errorf("%s %v at level %v on %s took %s", tt.keyspace, tt.access, tt.level, name, took)
				}
			}
		}
		for name := range modes {
			if err := put(c, "n3", api.Call{Keyspace: name}, "k", "during"); err != nil {
				t.Errorf("%s: write on the majority's side: %v", name, err)
			}
		}
		if err := c.Heal(); err != nil {
			t.Fatal(err)
		}
		ready(t, c)
		for name := range modes {
			converge(t, c, name, "k", "during")
		}
		for i, tt := range tests { // what was acknowledged on either side is everywhere
			for _, name := range c.Names() {
				if tt.access == consistency.Write && (name != "n1" || tt.minority == done) {
					converge(t, c, tt.keyspace, fmt.Sprintf("k%d-%s", i, name), "v")
				}
			}
		}
	})
}

func TestAcknowledgedWritesSurviveKills(t *testing.T) {
	tests := []struct {
		name string
		torn int // percent of unsynced data that survives
		kill []fulcrum.NodeID
	}{
		{"of one node", 0, []fulcrum.NodeID{"n2"}},
		{"of a majority", 0, []fulcrum.NodeID{"n1", "n3"}},
		{"of all nodes at once", 0, []fulcrum.NodeID{"n1", "n2", "n3"}},
		{"of all nodes, whose logs end torn", 50, []fulcrum.NodeID{"n1", "n2", "n3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 3, Torn: tt.torn, Seed: 7}, func(t *testing.T, c *sim.Cluster) {
				for name, mode := range modes {
					create(t, c, name, mode)
				}
				for _, name := range c.Names() { // so that a kill catches writes between append and sync
					slow := fulcrum.Fault{ID: "slow-" + string(name), Kind: "disk", Node: name, Stall: fulcrum.Duration(3 * time.Millisecond)}
					if err := c.Inject(slow); err != nil {
						t.Fatal(err)
					}
				}
				w, stop := writers(c, 2, 4*time.Millisecond, "cp", "ap", "lf")
				for range 2 {
					time.Sleep(700 * time.Millisecond)
					if err := c.Kill(tt.kill...); err != nil {
						t.Fatal(err)
					}
					time.Sleep(300 * time.Millisecond)
					if err := c.Start(tt.kill...); err != nil {
						t.Fatal(err)
					}
					ready(t, c)
				}
				time.Sleep(2 * time.Second) // leader-follower shards had no leader for most of the time until now
				stop()
				ready(t, c)
				for ks, w := range w {
					if len(w.acked) < 50 {
						t.Errorf("%s: only %d writes were acknowledged", ks, len(w.acked))
					}
					wantAll(t, c, "n2", ks, w.acked)
					t.Logf("%s: %d acknowledged, %d not", ks, len(w.acked), len(w.errs))
				}
			})
		})
	}
}

func TestSwitchesOfModeUnderWritesLoseAndFailNothing(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		_, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "ks", Mode: "raft", Shards: 4, Replicas: 3})
		if err != nil {
			t.Fatal(err)
		}
		known(t, c, "ks")
		ready(t, c)
		w, stop := writers(c, 8, 20*time.Millisecond, "ks")
		for _, mode := range []string{"quorum", "leader-follower", "raft", "leader-follower", "quorum", "raft"} {
			time.Sleep(time.Second)
			began := time.Now()
			if _, err := c.Node("n2").AlterKeyspace(t.Context(), "ks", fulcrum.KeyspacePatch{Mode: &mode}); err != nil {
				t.Fatalf("switch to %s: %v", mode, err)
			}
			for {
				ks, err := c.Node("n2").Keyspace("ks")
				if err != nil {
					t.Fatal(err)
				}
				if ks.Mode == mode {
					break
				}
				if time.Since(began) > 30*time.Second {
					t.Fatalf("switch to %s is not done: %+v", mode, ks.Switch)
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Logf("switch to %s took %s", mode, time.Since(began))
		}
		time.Sleep(time.Second)
		stop()
		ready(t, c)
		for key, err := range w["ks"].errs {
			t.Errorf("write of %s failed: %v", key, err)
		}
		if len(w["ks"].acked) < 500 {
			t.Errorf("only %d writes were acknowledged", len(w["ks"].acked))
		}
		wantAll(t, c, "n1", "ks", w["ks"].acked)
	})
}

// metric is the sum of a counter or a gauge over its labels.
func metric(t *testing.T, c *sim.Cluster, node fulcrum.NodeID, name string) float64 {
	t.Helper()
	families, err := c.Registry(node).Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// leader waits until the first shard has a leader.
func leader(t *testing.T, c *sim.Cluster) fulcrum.NodeID {
	t.Helper()
	for range 1000 {
		if l := c.Node("n1").Shards()[0].Leader; l != "" {
			return l
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no leader")
	return ""
}

func TestWritesLostByAnOldLeaderAreCountedAndKept(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "lf", consistency.LeaderFollower)
		var safe, weak []string
		for i := range 20 {
			key := fmt.Sprintf("safe-%d", i)
			if err := put(c, "n1", at("lf", consistency.QuorumOf), key, "v"); err != nil {
				t.Fatal(err)
			}
			safe = append(safe, key)
		}
		old := leader(t, c)
		if err := c.Inject(fulcrum.Fault{ID: "cut", Kind: "isolate", Node: old}); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			key := fmt.Sprintf("weak-%d", i)
			if err := put(c, old, at("lf", consistency.One), key, "v"); err != nil {
				t.Errorf("write at level one on the leader, before its lease ran out: %v", err)
				continue
			}
			weak = append(weak, key)
		}
		time.Sleep(10 * time.Second)
		for _, name := range c.Names() {
			key := "new-" + string(name)
			switch err := put(c, name, at("lf", consistency.QuorumOf), key, "v"); {
			case name == old && err == nil:
				t.Error("the old leader acknowledged a write at quorum behind the cut")
			case name != old && err != nil:
				t.Errorf("write on the majority's side: %v", err)
			case name != old:
				safe = append(safe, key)
			}
		}
		if err := c.Heal(); err != nil {
			t.Fatal(err)
		}
		ready(t, c)
		serving(t, c, "lf")
		for _, key := range weak {
			converge(t, c, "lf", key, "")
		}
		for _, name := range c.Names() {
			wantAll(t, c, name, "lf", safe)
			want := 0
			if name == old {
				want = len(weak)
			}
			const lost = "fulcrum_lost_acknowledged_writes_total"
			for range 600 { // its log is cut off when the new leader next ships to it
				if metric(t, c, name, lost) == float64(want) {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if got := metric(t, c, name, lost); got != float64(want) {
				t.Errorf("%s counted %v lost writes; want %d", name, got, want)
			}
		}
		kept := ""
		files, _ := filepath.Glob(filepath.Join(c.Dir(old), "lost", "*"))
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			kept += string(b)
		}
		if got := strings.Count(kept, "\n"); got != len(weak) {
			t.Errorf("%d writes were kept in %v; want %d", got, files, len(weak))
		}
	})
}

func TestSkewedClocksDoNotLoseOrderedWrites(t *testing.T) {
	for _, skew := range []time.Duration{30 * time.Second, -30 * time.Second} {
		t.Run(skew.String(), func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
				create(t, c, "cp", consistency.Raft)
				create(t, c, "lf", consistency.LeaderFollower)
				create(t, c, "ap", consistency.Quorum)
				calls := []api.Call{{Keyspace: "cp"}, {Keyspace: "lf"}, at("ap", consistency.Linearizable)}
				step := 0
				unsure := map[string]bool{} // writes that may yet take effect
				rewrite := func() {
					for _, writer := range c.Names() {
						for _, call := range calls {
							step++
							want := fmt.Sprintf("v%d", step)
							err := put(c, writer, call, "k", want)
							if err != nil {
								unsure[want] = fulcrum.AsError(err).Maybe
								// Without an orderer, a clock ahead of the bound is refused.
								if call.Keyspace != "ap" || skew < 0 {
									t.Errorf("%s: write on %s: %v", call.Keyspace, writer, err)
								}
								continue
							}
							for _, reader := range c.Names() {
								if got, err := get(c, reader, call, "k"); err != nil || got != want && !unsure[got] {
									t.Errorf("%s: %s wrote %s, %s reads %q, %v", call.Keyspace, writer, want, reader, got, err)
								}
							}
						}
					}
				}
				rewrite()
				for _, name := range c.Names() {
					if err := c.Inject(fulcrum.Fault{ID: "skew", Kind: "clock", Node: name, Skew: fulcrum.Duration(skew)}); err != nil {
						t.Fatal(err)
					}
					rewrite()
					if err := c.Heal("skew"); err != nil {
						t.Fatal(err)
					}
					rewrite()
				}
				ready(t, c)
			})
		})
	}
}

func TestEveryNodeServesSoonAfterACutHeals(t *testing.T) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
				create(t, c, name, mode)
				for _, cut := range []time.Duration{time.Second, 5 * time.Second, 30 * time.Second} {
					for _, alone := range c.Names() {
						if err := c.Inject(fulcrum.Fault{ID: "cut", Kind: "isolate", Node: alone}); err != nil {
							t.Fatal(err)
						}
						time.Sleep(cut)
						if err := c.Heal("cut"); err != nil {
							t.Fatal(err)
						}
						// An election that the cut had stopped begins anew when it heals: a follower
						// waits up to two seconds before it stands, and a vote may be split.
						if took := serving(t, c, name); took > 3*time.Second {
							t.Errorf("after %s was alone for %s it took %s until every node served again", alone, cut, took)
						}
					}
				}
			})
		})
	}
}
