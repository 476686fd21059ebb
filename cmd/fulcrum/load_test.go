package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
)

// acknowledged is the tests' own log of what the cluster said is done: by keyspace
// and key, every value that may stand there. A key is written by one client only, so
// that is the last acknowledged value, and later ones whose outcome is unknown.
type acknowledged struct {
	mu     sync.Mutex
	values map[string]map[string][]string
	acks   int
}

func newAcknowledged() *acknowledged { return &acknowledged{values: map[string]map[string][]string{}} }

// done notes an acknowledged write.
func (a *acknowledged) done(keyspace, key, value string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values[keyspace] == nil {
		a.values[keyspace] = map[string][]string{}
	}
	a.values[keyspace][key] = []string{value}
	a.acks++
}

// maybe notes a write whose outcome is unknown, if the key was ever acknowledged.
func (a *acknowledged) maybe(keyspace, key, value string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values[keyspace][key] != nil {
		a.values[keyspace][key] = append(a.values[keyspace][key], value)
	}
}

func (a *acknowledged) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acks
}

// check reads keyspaces in whole, at the level given, and reports every
// acknowledged write that is not there.
func (a *acknowledged) check(t *testing.T, c *cluster, level consistency.Level) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, keyspace := range slices.Sorted(maps.Keys(a.values)) {
		have := c.contents(keyspace, client.Level(level))
		lost := 0
		for key, may := range a.values[keyspace] {
			got, found := have[key]
			if found && slices.Contains(may, got) {
				continue
			}
			if lost++; lost <= 5 {
				t.Errorf("%s: %q holds %q (found: %t), want one of %q: an acknowledged write is lost", keyspace, key, got, found, may)
			}
		}
		if lost > 0 {
			t.Errorf("%s: %d of %d keys have lost an acknowledged write", keyspace, lost, len(a.values[keyspace]))
		}
	}
}

// contents is all of a keyspace, key by key.
func (c *cluster) contents(keyspace string, opts ...client.CallOption) map[string]string {
	c.t.Helper()
	var have map[string]string
	eventually(c.t, 30*time.Second, "scan of "+keyspace, func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
		defer cancel()
		have = map[string]string{}
		for item, err := range c.client().Scan(ctx, keyspace, client.Range{}, opts...) {
			if err != nil {
				return err
			}
			have[item.Key] = string(item.Value)
		}
		return nil
	})
	return have
}

// strong is the level at which a keyspace's reads see every write acknowledged at
// quorum, whatever its mode.
var strong = consistency.L(consistency.Linearizable)

// Clients write, all nodes are killed in the middle of it and started again: every
// acknowledged write is there.
func TestKillAllUnderLoad(t *testing.T) {
	t.Parallel()
	const rounds = 3
	c := start(t, 5, 0)
	log := newAcknowledged()
	keyspaces := []string{"default", "cp", "ap", "lf"}
	for round := 1; round <= rounds; round++ {
		before := log.count()
		stop := c.load(log, keyspaces, round)
		eventually(t, 30*time.Second, "acknowledgements", func() error {
			if n := log.count() - before; n < 400 {
				return fmt.Errorf("%d so far", n)
			}
			return nil
		})
		c.kill(c.Names()...)
		stop()
		t.Logf("round %d: killed %d nodes, %d writes acknowledged so far", round, len(c.Nodes), log.count())
		c.launch(c.Names()...)
		log.check(t, c, strong)
		if t.Failed() {
			return
		}
	}
}

// load writes to the keyspaces, from several clients each, until stop is called,
// which waits for them. Each key is overwritten a few times by the one client that
// it belongs to. Values go through every node.
func (c *cluster) load(log *acknowledged, keyspaces []string, round int) (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var g errgroup.Group
	for _, keyspace := range keyspaces {
		for w := range 3 {
			g.Go(func() error {
				for i := 0; ctx.Err() == nil; i++ {
					// The first letter spreads keys over the shards of a range keyspace.
					key := fmt.Sprintf("%c-%d-%d-%d", "05bhkpsz"[i%8], round, w, i/2)
					c.writeOnce(ctx, log, keyspace, key, fmt.Sprintf("%d.%d.%d", round, w, i), i)
				}
				return nil
			})
		}
	}
	return func() {
		cancel()
		_ = g.Wait()
	}
}

// writeOnce writes at quorum through one node and notes the outcome.
func (c *cluster) writeOnce(ctx context.Context, log *acknowledged, keyspace, key, value string, i int) {
	name := c.Nodes[i%len(c.Nodes)].Name
	_, err := c.client().Put(ctx, keyspace, key, []byte(value), client.On(name), client.NoRetry(), client.Level(consistency.L(consistency.QuorumOf)))
	switch {
	case err == nil:
		log.done(keyspace, key, value)
	case client.Unknown(err):
		log.maybe(keyspace, key, value)
	default: // definitely not done; the node may be dead
		sleepFor(ctx, 10*time.Millisecond)
	}
}

func sleepFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Sixteen clients write, count and read back what they wrote while a keyspace goes
// through all three modes, each to each. No request fails, nothing acknowledged is lost.
func TestSwitchUnderLoad(t *testing.T) {
	c := start(t, 5, 0)
	const name = "turn"
	if _, err := c.client().CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: name, Mode: "raft", Replicas: 5}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the new keyspace takes writes", func() error {
		_, err := c.client().Put(t.Context(), name, "first", nil)
		return err
	})
	log := newAcknowledged()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g errgroup.Group
	clients := make([]*switchClient, 16)
	for i := range clients {
		clients[i] = &switchClient{c: c, keyspace: name, id: i, log: log}
		g.Go(func() error {
			if err := clients[i].run(ctx); err != nil {
				t.Errorf("a request failed: %v", err)
				cancel()
			}
			return nil
		})
	}
	for _, mode := range []string{"quorum", "leader-follower", "raft", "leader-follower", "quorum", "raft"} {
		before := log.count()
		for _, cl := range clients {
			cl.longest.take()
		}
		began := time.Now()
		c.must("keyspace", "alter", name, "--mode", mode)
		took, longest := time.Since(began), time.Duration(0)
		eventually(t, 20*time.Second, "writes in mode "+mode, func() error { // some are acknowledged in the new mode
			if n := log.count() - before; n < 200 && ctx.Err() == nil {
				return fmt.Errorf("%d acknowledged since the switch began", n)
			}
			return nil
		})
		for _, cl := range clients {
			longest = max(longest, cl.longest.take())
		}
		if ctx.Err() != nil {
			break
		}
		t.Logf("to %-15s in %5d ms; the longest request around it took %4d ms", mode, took.Milliseconds(), longest.Milliseconds())
	}
	cancel()
	_ = g.Wait()
	t.Logf("%d writes were acknowledged", log.count())
	log.check(t, c, strong)
	k, err := c.client().Keyspace(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if k.Mode != "raft" || k.Target != "raft" || k.Switch == nil || k.Switch.State != "done" || k.Switch.Done != k.Shards {
		t.Errorf("after the switches: %+v with %+v", k, k.Switch)
	}
}

// switchClient is one client of TestSwitchUnderLoad: its own keys, its own counter.
type switchClient struct {
	c        *cluster
	keyspace string
	id       int
	log      *acknowledged
	longest  longest
}

// longest is the longest time seen since it was taken.
type longest struct {
	mu sync.Mutex
	d  time.Duration
}

func (l *longest) see(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.d = max(l.d, d)
}

func (l *longest) take() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.d
	l.d = 0
	return d
}

// run works until ctx ends, or a request fails.
func (s *switchClient) run(ctx context.Context) error {
	counter := "counter-" + strconv.Itoa(s.id)
	for i := 1; ctx.Err() == nil; i++ {
		value := strconv.Itoa(i)
		if err := s.put(ctx, fmt.Sprintf("key-%d-%d", s.id, i), value); err != nil {
			return err
		}
		if err := s.put(ctx, counter, value); err != nil {
			return err
		}
		if err := s.expect(ctx, counter, value); err != nil {
			return err
		}
	}
	return nil
}

// put writes through any node; an error other than the end of the test is a failure,
// an unknown outcome too.
func (s *switchClient) put(ctx context.Context, key, value string) error {
	callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	began := time.Now()
	_, err := s.c.client().Put(callCtx, s.keyspace, key, []byte(value), s.anywhere()...)
	s.longest.see(time.Since(began))
	if err != nil {
		return fmt.Errorf("client %d, put %s=%s after %s: %w", s.id, key, value, time.Since(began), err)
	}
	s.log.done(s.keyspace, key, value)
	return nil
}

// expect reads back, linearizably in every mode, what this client wrote last.
func (s *switchClient) expect(ctx context.Context, key, value string) error {
	callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	began := time.Now()
	item, err := s.c.client().Get(callCtx, s.keyspace, key, append(s.anywhere(), client.Level(strong))...)
	s.longest.see(time.Since(began))
	if err != nil {
		return fmt.Errorf("client %d, get %s after %s: %w", s.id, key, time.Since(began), err)
	}
	if string(item.Value) != value {
		return fmt.Errorf("client %d: %s holds %q, want %q (receipt %s)", s.id, key, item.Value, value, item.Receipt.Header())
	}
	return nil
}

// anywhere picks a node and allows one attempt: nothing is hidden by a retry.
func (s *switchClient) anywhere() []client.CallOption {
	return []client.CallOption{client.On(s.c.Nodes[rand.N(len(s.c.Nodes))].Name), client.NoRetry()}
}
