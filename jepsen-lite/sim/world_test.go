package sim_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/sim"
)

func inWorld(t *testing.T, nodes int, f func(t *testing.T, w *sim.World)) {
	t.Helper()
	inBubble(t, sim.ClusterOptions{Nodes: nodes}, func(t *testing.T, c *sim.Cluster) { f(t, sim.NewWorld(c)) })
}

// must fails the test on any error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Every nemesis bites on a real cluster, and after Mend it serves all three modes.
func TestEveryNemesisBites(t *testing.T) {
	for i, nem := range nemesis.List() {
		if nem.Name == nemesis.None {
			continue
		}
		t.Run(nem.Name, func(t *testing.T) {
			inWorld(t, 3, func(t *testing.T, w *sim.World) {
				for name, mode := range modes {
					create(t, w.Cluster, name, mode)
				}
				keyspace := "cp"
				p, err := nemesis.New([]string{nem.Name}, nemesis.Options{Rand: rand.New(rand.NewPCG(uint64(i), 0)), Nodes: w.Nodes(), Keyspace: keyspace, Duration: 45 * time.Second, Can: w.Can})
				must(t, err)
				_, stop := writers(w.Cluster, 1, 100*time.Millisecond, "cp", "ap", "lf")
				h, began, hits := &history.History{}, time.Now(), w.Hits(t.Context())
				err = p.Run(t.Context(), w, func() time.Duration { return time.Since(began) }, func(e history.Event) {
					h.Events = append(h.Events, e)
					now := w.Hits(t.Context())
					for kind := range hits {
						if now[kind] < hits[kind] {
							t.Errorf("hits of %s fell from %d to %d", kind, hits[kind], now[kind])
						}
					}
					hits = now
				})
				stop()
				must(t, err, p.Mend(t.Context(), w))
				for _, e := range h.Events {
					if e.Error != "" {
						t.Errorf("%s %s %s: %s", e.F, e.Fault, e.Value, e.Error)
					}
				}
				if len(h.Faults()) == 0 {
					t.Error("nothing was done")
				}
				for _, ft := range h.Faults() {
					if ft.Hits <= 0 {
						t.Errorf("%s (%s) from %v to %v was not seen to act", ft.Name, ft.Value, ft.Start, ft.End)
					}
				}
				ready(t, w.Cluster)
				for name := range modes {
					for _, node := range w.Nodes() {
						eventuallyPut(t, w.Cluster, node, name)
					}
				}
			})
		})
	}
}

// eventuallyPut waits until a node takes a write.
func eventuallyPut(t *testing.T, c *sim.Cluster, node fulcrum.NodeID, keyspace string) {
	t.Helper()
	var err error
	for range 300 {
		if err = put(c, node, at(keyspace, consistency.QuorumOf), "after", "all"); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%s does not take a write to %s: %v", node, keyspace, err)
}

// A paused node answers nothing; whoever waits long enough has the answer, whoever
// does not knows nothing.
func TestAPausedNodeGivesNoAnswer(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *sim.World) {
		create(t, w.Cluster, "cp", consistency.Raft)
		leader := leader(t, w.Cluster) // a keyspace serves before every node has heard who leads
		must(t, put(w.Cluster, leader, at("cp", consistency.QuorumOf), "k", "before"), w.Pause(t.Context(), leader))
		answered := make(chan error, 1)
		began := time.Now()
		go func() { answered <- put(w.Cluster, leader, at("cp", consistency.QuorumOf), "k", "patient") }()
		time.Sleep(10 * time.Second)
		select {
		case err := <-answered:
			t.Errorf("a paused node answered after %v: %v", time.Since(began), err)
		default:
		}
		if l := w.Leader(t.Context(), "cp"); l == leader || l == "" {
			t.Errorf("after ten seconds %q leads, %s is paused", l, leader)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Call(ctx, leader, nil); err == nil || !fulcrum.AsError(err).Maybe {
			t.Errorf("a call to a paused node that gave up: %v, want an unknown outcome", err)
		}
		must(t, w.Resume(t.Context(), leader))
		if err := <-answered; err != nil && !fulcrum.AsError(err).Maybe && fulcrum.AsError(err).Code != fulcrum.CodeUnavailable {
			t.Errorf("after it went on: %v", err)
		}
		ready(t, w.Cluster)
	})
}

// What a write under way when the power failed left at the end of the log is not taken
// for a record, and costs none that was acknowledged.
func TestATornTailCostsNothing(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *sim.World) {
		for name, mode := range modes {
			create(t, w.Cluster, name, mode)
		}
		wrote, stop := writers(w.Cluster, 2, 5*time.Millisecond, "cp", "ap", "lf")
		for seed := range uint64(6) { // each kind of tail about twice
			time.Sleep(200 * time.Millisecond)
			must(t, w.Kill(t.Context(), w.Nodes()...))
			for i, name := range w.Nodes() {
				must(t, w.Damage(t.Context(), name, nemesis.TornTail, 3*seed+uint64(i)))
			}
			must(t, w.Start(t.Context(), w.Nodes()...))
			ready(t, w.Cluster)
		}
		stop()
		for ks := range modes {
			for _, name := range w.Nodes() {
				wantAll(t, w.Cluster, name, ks, wrote[ks].acked)
			}
		}
	})
}

// A flipped bit is refused or does no harm: no read shows what nobody wrote.
func TestAFlippedBitIsNeverServed(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inWorld(t, 3, func(t *testing.T, w *sim.World) {
				create(t, w.Cluster, "cp", consistency.Raft)
				wrote, stop := writers(w.Cluster, 2, 5*time.Millisecond, "cp")
				time.Sleep(2 * time.Second)
				stop()
				must(t, w.Kill(t.Context(), "n3"), w.Damage(t.Context(), "n3", nemesis.BitFlip, seed))
				err := w.Start(t.Context(), "n3")
				time.Sleep(5 * time.Second)
				if len(w.Running()) < 3 {
					t.Logf("n3 refuses its disk: %v", err)
					time.Sleep(5 * time.Second)
					must(t, w.Damage(t.Context(), "n3", nemesis.Wipe, 0), w.Start(t.Context(), "n3"))
					time.Sleep(30 * time.Second)
				}
				ready(t, w.Cluster)
				wantAll(t, w.Cluster, "n3", "cp", wrote["cp"].acked)
			})
		})
	}
}

// A node that lost its disk within an epoch, and is cut off so that the next one cannot
// begin, waits for it. It once looked again at once, for ever: virtual time stood still.
func TestDisksAreLostBehindAPartition(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *sim.World) {
		for name, mode := range modes {
			create(t, w.Cluster, name, mode)
		}
		p, err := nemesis.New([]string{"disk-bit-flip", "partition-halves", "disk-wipe", "disk-torn"}, nemesis.Options{
			Rand: rand.New(rand.NewPCG(104, 0)), Nodes: w.Nodes(), Keyspace: "cp", Duration: 2 * time.Minute, Can: w.Can})
		must(t, err)
		_, stop := writers(w.Cluster, 1, 100*time.Millisecond, "cp", "ap", "lf")
		began := time.Now()
		err = p.Run(t.Context(), w, func() time.Duration { return time.Since(began) }, func(e history.Event) {
			if e.F == "stop" && e.Hits == 0 || e.Error != "" {
				t.Errorf("%s %s %q: %d hits, %s", e.F, e.Fault, e.Value, e.Hits, e.Error)
			}
		})
		stop()
		must(t, err, p.Mend(t.Context(), w))
		ready(t, w.Cluster)
	})
}

func TestWhatAWorldRefuses(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *sim.World) {
		ctx := t.Context()
		for what, err := range map[string]error{
			"an unknown capability": w.Can("earthquake"),
			"damage under a node":   w.Damage(ctx, "n1", nemesis.TornTail, 1),
			"unknown damage":        w.Damage(ctx, "n1", "scratch", 1),
			"a second start":        w.Start(ctx, "n1"),
			"a stranger":            w.Kill(ctx, "n9"),
			"an unknown keyspace":   w.Switch(ctx, "nowhere", "raft"),
		} {
			if err == nil {
				t.Errorf("%s is not refused", what)
			}
		}
		if l := w.Leader(ctx, ""); l != "n1" {
			t.Errorf("the catalog's leader is %q", l)
		}
		if now, target, err := w.Mode(ctx, "nowhere"); err == nil {
			t.Errorf("the mode of a keyspace that is not there is %s, %s", now, target)
		}
	})
}
