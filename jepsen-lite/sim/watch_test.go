package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// watcher follows a keyspace from node to node, as a client does.
type watcher struct {
	mu     sync.Mutex // guards what follows while run runs
	events []fulcrum.Event
	after  string
	signs  int // batches without events
	starts int
	at     fulcrum.NodeID // where it is now
	ended  error          // what no other node would do better
}

// run watches at one node after another, always behind what it was told last, until ctx
// ends or no node can go on.
func (w *watcher) run(ctx context.Context, c *sim.Cluster, keyspace string, req api.Watch) {
	names := c.Names()
	for i := 0; ctx.Err() == nil; i++ {
		at := names[i%len(names)]
		w.mu.Lock()
		w.at = at
		if w.after != "" {
			req.After = w.after
		}
		w.mu.Unlock()
		err := c.Call(ctx, at, func(ctx context.Context, b api.Backend) error {
			w.mu.Lock()
			w.starts++
			w.mu.Unlock()
			return b.Watch(ctx, api.Call{Keyspace: keyspace}, req, func(b api.WatchBatch) error {
				if ctx.Err() != nil {
					return ctx.Err() // the node died before this got out
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				w.events, w.after = append(w.events, b.Events...), b.Next
				if len(b.Events) == 0 {
					w.signs++
				}
				return nil
			})
		})
		if e := fulcrum.AsError(err); e != nil && e.Code != fulcrum.CodeUnavailable && e.Code != fulcrum.CodeUnknown && ctx.Err() == nil {
			w.mu.Lock()
			w.ended = err
			w.mu.Unlock()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// has waits until the last change to key that was told has the value.
func (w *watcher) has(t *testing.T, key, value string) {
	t.Helper()
	for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		w.mu.Lock()
		for i := len(w.events) - 1; i >= 0; i-- {
			if e := w.events[i].Entry; string(e.Key) == key && string(e.Value) == value {
				w.mu.Unlock()
				return
			}
		}
		w.mu.Unlock()
	}
	t.Fatalf("%s=%s was not told within a minute; the watch ended with %v", key, value, w.end())
}

// stands says how often the watch began, its signs of life, and why it ended, if it has.
func (w *watcher) stands() (starts, signs int, ended error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.starts, w.signs, w.ended
}

func (w *watcher) end() error {
	_, _, ended := w.stands()
	return ended
}

// watchIn starts a watcher; stop ends it and waits.
func watchIn(c *sim.Cluster, keyspace string, req api.Watch) (w *watcher, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	w = &watcher{}
	var wg sync.WaitGroup
	wg.Go(func() { w.run(ctx, c, keyspace, req) })
	return w, func() { cancel(); wg.Wait() }
}

func (w *watcher) begun(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		begun := w.after != ""
		w.mu.Unlock()
		if begun {
			return
		}
	}
	t.Fatalf("the watch has not begun within a minute: %v", w.end())
}

// wantOnce fails the test unless each acknowledged key was told exactly once, and the
// versions of a key only rise.
func (w *watcher) wantOnce(t *testing.T, acked []string) {
	t.Helper()
	count := map[string]int{}
	newest := map[string]fulcrum.Version{}
	for _, e := range w.events {
		key := string(e.Entry.Key)
		if !newest[key].Less(e.Entry.Version) {
			t.Errorf("%s: version %v is told behind %v", key, e.Entry.Version, newest[key])
		}
		newest[key] = e.Entry.Version
		count[key]++
	}
	wrong := 0
	for _, key := range acked {
		if count[key] != 1 {
			if wrong++; wrong <= 5 {
				t.Errorf("%s was acknowledged, and told %d times", key, count[key])
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d acknowledged writes were not told once", wrong, len(acked))
	}
}

// The watched node is killed, cut off, or loses its replicas, again and again; shards go
// from epoch to epoch. The watch goes on elsewhere and misses and repeats nothing.
func TestAWatchOutlivesTheNodesItIsAskedOf(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 6, Seed: seed}, func(t *testing.T, c *sim.Cluster) {
				if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "r", Mode: "raft", Shards: 4, Replicas: 3}); err != nil {
					t.Fatal(err)
				}
				known(t, c, "r")
				ready(t, c)
				all, stopAll := watchIn(c, "r", api.Watch{})
				some, stopSome := watchIn(c, "r", api.Watch{Prefix: []byte("r-1")})
				all.begun(t)
				some.begun(t)
				w, stop := writers(c, 3, 20*time.Millisecond, "r")
				r := rand.New(rand.NewPCG(seed, 3))
				for i := range 8 {
					victim := c.Names()[r.IntN(5)]
					if all.mu.Lock(); i%2 == 0 || r.IntN(2) == 0 {
						victim = all.at
					}
					all.mu.Unlock()
					switch i % 4 {
					case 0, 2:
						if err := c.Kill(victim); err != nil {
							t.Fatal(err)
						}
						time.Sleep(3 * time.Second)
						if err := c.Start(victim); err != nil {
							t.Fatal(err)
						}
					case 1:
						if err := c.Inject(fulcrum.Fault{ID: "cut", Kind: "isolate", Node: victim}); err != nil {
							t.Fatal(err)
						}
						time.Sleep(6 * time.Second)
						if err := c.Heal("cut"); err != nil {
							t.Fatal(err)
						}
					case 3:
						if i == 3 { // its replicas move: their shards begin another epoch
							do(t, c.Remove(t.Context(), "n1", "n6"))
							time.Sleep(10 * time.Second)
							awaitEnd(t, c, "n6")
						}
					}
					time.Sleep(3 * time.Second)
				}
				stop()
				ready(t, c)
				time.Sleep(2 * time.Second)
				if err := put(c, "n1", at("r", consistency.QuorumOf), "r-1-last", "end"); err != nil {
					t.Fatal(err)
				}
				for i := range 16 { // one for each shard, most likely
					if err := put(c, "n1", at("r", consistency.QuorumOf), fmt.Sprint("end-", i), "end"); err != nil {
						t.Fatal(err)
					}
				}
				some.has(t, "r-1-last", "end")
				for i := range 16 {
					all.has(t, fmt.Sprint("end-", i), "end")
				}
				time.Sleep(10 * time.Second)
				stopAll()
				stopSome()
				acked := w["r"].acked
				if len(acked) < 1000 {
					t.Fatalf("only %d writes were acknowledged: too few to mean anything", len(acked))
				}
				if all.starts < 4 {
					t.Errorf("the watch began only %d times", all.starts)
				}
				all.wantOnce(t, acked)
				var mine []string
				for _, key := range acked {
					if strings.HasPrefix(key, "r-1") {
						mine = append(mine, key)
					}
				}
				some.wantOnce(t, mine)
				for _, e := range some.events {
					if !strings.HasPrefix(string(e.Entry.Key), "r-1") {
						t.Fatalf("%s is told to a watch of another prefix", e.Entry.Key)
					}
				}
				t.Logf("%d acknowledged; all: %d events, %d starts, %d signs of life; some: %d events, %d starts", len(acked), len(all.events), all.starts, all.signs, len(some.events), some.starts)
			})
		})
	}
}

func TestAWatchEndsWithItsKeyspace(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "a", consistency.Raft)
		create(t, c, "b", consistency.Raft)
		create(t, c, "q", consistency.Quorum)
		a, stopA := watchIn(c, "a", api.Watch{})
		b, stopB := watchIn(c, "b", api.Watch{})
		q, stopQ := watchIn(c, "q", api.Watch{})
		defer func() { stopA(); stopB(); stopQ() }()
		a.begun(t)
		b.begun(t)
		time.Sleep(20 * time.Second)
		if starts, signs, _ := a.stands(); signs < 3 || starts != 1 {
			t.Errorf("an idle watch: %d signs of life in 20s, %d starts", signs, starts)
		}
		if err := q.end(); !errors.Is(err, fulcrum.ErrMode) {
			t.Errorf("watch in mode quorum: %v, want mode", err)
		}
		mode := "quorum"
		if err := c.Node("n1").DropKeyspace(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Node("n1").AlterKeyspace(t.Context(), "b", fulcrum.KeyspacePatch{Mode: &mode}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		stopA()
		stopB()
		if !errors.Is(a.ended, fulcrum.ErrNotFound) {
			t.Errorf("watch of a keyspace that was dropped: %v, want not-found", a.ended)
		}
		if !errors.Is(b.ended, fulcrum.ErrMode) {
			t.Errorf("watch of a keyspace that left mode raft: %v, want mode", b.ended)
		}
	})
}

// Positions: of another keyspace, of nobody, and a version.
func TestWhereAWatchMayBegin(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "a", consistency.Raft)
		create(t, c, "b", consistency.Raft)
		var v fulcrum.Version
		for i := range 3 {
			err := c.Call(t.Context(), "n1", func(ctx context.Context, b api.Backend) error {
				res, _, err := b.Write(ctx, api.Call{Keyspace: "a"}, []fulcrum.Write{{Op: fulcrum.OpPut, Key: fmt.Append(nil, i), Value: []byte("v")}})
				if err == nil && i == 0 {
					v = res[0].Entry.Version
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		first := func(at fulcrum.NodeID, keyspace string, req api.Watch) (batch api.WatchBatch, err error) {
			enough := errors.New("enough")
			err = c.Call(t.Context(), at, func(ctx context.Context, b api.Backend) error {
				return b.Watch(ctx, api.Call{Keyspace: keyspace}, req, func(b api.WatchBatch) error {
					batch = b
					return enough
				})
			})
			if errors.Is(err, enough) {
				err = nil
			}
			return batch, err
		}
		for _, name := range c.Names() {
			batch, err := first(name, "a", api.Watch{After: v.String()})
			if err != nil || len(batch.Events) != 2 || string(batch.Events[0].Entry.Key) != "1" {
				t.Errorf("%s, since a version: %d events, %v", name, len(batch.Events), err)
			}
			if again, err := first(name, "a", api.Watch{After: batch.Next}); err != nil || len(again.Events) != 0 {
				t.Errorf("%s, behind that: %d events, %v", name, len(again.Events), err)
			}
			if one, err := first(name, "a", api.Watch{After: v.String(), Start: []byte("2"), End: []byte("2\x00")}); err != nil || len(one.Events) != 1 {
				t.Errorf("%s, one key: %d events, %v", name, len(one.Events), err)
			}
			future := v
			future.Time += uint64(time.Hour.Milliseconds()) << 16
			if _, err := first(name, "a", api.Watch{After: future.String()}); !errors.Is(err, fulcrum.ErrInvalid) {
				t.Errorf("%s, since a version of the future: %v, want invalid", name, err)
			}
			for what, req := range map[string]api.Watch{"another keyspace": {After: batch.Next}, "nonsense": {After: "nonsense"}, "no range": {Start: []byte("b"), End: []byte("a")}} {
				if _, err := first(name, "b", req); !errors.Is(err, fulcrum.ErrInvalid) {
					t.Errorf("%s, %s: %v, want invalid", name, what, err)
				}
			}
		}
	})
}

// A request that changes more than a replica keeps of a shard reaches every watch, also at
// nodes that have no replica of it.
func TestWatchesAreToldOfLargeRequests(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "a", consistency.Raft)
		const rounds, keys = 3, 7
		ctx, stop := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		told := map[fulcrum.NodeID]*[]fulcrum.Event{}
		for _, name := range c.Names() {
			begun, events := make(chan bool, 100), new([]fulcrum.Event)
			told[name] = events
			watching.Go(func() {
				err := c.Call(ctx, name, func(ctx context.Context, b api.Backend) error {
					return b.Watch(ctx, api.Call{Keyspace: "a"}, api.Watch{}, func(b api.WatchBatch) error {
						*events = append(*events, b.Events...)
						begun <- true
						return nil
					})
				})
				if ctx.Err() == nil {
					t.Errorf("the watch at %s ends: %v", name, err)
					begun <- false
				}
			})
			<-begun
		}
		for round := range rounds {
			var ws []fulcrum.Write
			for i := range keys {
				ws = append(ws, fulcrum.Write{Op: fulcrum.OpPut, Key: fmt.Appendf(nil, "{one}%d", i), Value: bytes.Repeat([]byte{byte(round)}, 1<<20)})
			}
			err := c.Call(t.Context(), "n1", func(ctx context.Context, b api.Backend) error {
				_, _, err := b.Txn(ctx, api.Call{Keyspace: "a"}, api.Txn{Then: ws})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		stop()
		watching.Wait()
		for name, events := range told {
			if len(*events) != rounds*keys {
				t.Errorf("at %s: %d events of %d", name, len(*events), rounds*keys)
			}
			for n, e := range *events {
				if string(e.Entry.Key) != fmt.Sprintf("{one}%d", n%keys) || e.Entry.Value[0] != byte(n/keys) {
					t.Fatalf("at %s: event %d is of %s, round %d", name, n, e.Entry.Key, e.Entry.Value[0])
				}
			}
		}
	})
}
