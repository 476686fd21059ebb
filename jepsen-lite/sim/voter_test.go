package sim_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
)

// makeKeyspace makes one with a replica on each of the nodes that run.
func makeKeyspace(t *testing.T, c *sim.Cluster, at fulcrum.NodeID, name string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.Node(at).CreateKeyspace(ctx, fulcrum.KeyspaceSpec{Name: name, Mode: "raft", Shards: 1, Replicas: len(c.Running())})
	return err
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// A voter of the catalog that lost its disk has no vote until the catalog has taken it in
// again: with one that is behind it would elect that one, and what n1 and n2 committed
// would be gone. When n1 is back, all of it is there, and in the end n2 has its vote again.
func TestAVoterWithoutItsDiskHasNoVote(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n3"), makeKeyspace(t, c, "n1", "kept"))
		do(t, c.Kill("n1", "n2"), c.Wipe("n2"), c.Start("n2", "n3"))
		time.Sleep(30 * time.Second)
		for _, id := range c.Running() {
			if err := makeKeyspace(t, c, id, "later"); err == nil {
				t.Errorf("%s and a voter without its disk changed the catalog", id)
			}
		}
		do(t, c.Start("n1"))
		time.Sleep(10 * time.Second) // until the lease of the n2 that was cannot hold
		known(t, c, "kept")
		ready(t, c)
		time.Sleep(30 * time.Second)
		do(t, c.Kill("n1"), makeKeyspace(t, c, "n3", "latest"))
	})
}

// The same when it is restarted before anybody took it in.
func TestAVoterWithoutItsDiskStaysWithoutItsVote(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n3"), makeKeyspace(t, c, "n1", "kept"))
		do(t, c.Kill("n1", "n2"), c.Wipe("n2"), c.Start("n2", "n3"))
		time.Sleep(3 * time.Second)
		do(t, c.Kill("n2", "n3"), c.Start("n2", "n3"))
		time.Sleep(30 * time.Second)
		if err := makeKeyspace(t, c, "n3", "later"); err == nil {
			t.Error("n3 and a voter without its disk changed the catalog")
		}
		do(t, c.Start("n1"))
		time.Sleep(10 * time.Second) // until the lease of the n2 that was cannot hold
		known(t, c, "kept")
		ready(t, c)
	})
}

// Nodes that crash as soon as the cluster is born still have their votes.
func TestACrashAtBirthCostsNoVote(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n1", "n2", "n3"), c.Wipe("n1"), c.Wipe("n2"), c.Wipe("n3"), c.Start("n1", "n2", "n3"))
		for range 10 {
			time.Sleep(120 * time.Millisecond)
			do(t, c.Kill("n1", "n2", "n3"), c.Start("n1", "n2", "n3"))
		}
		time.Sleep(5 * time.Second)
		ready(t, c)
		do(t, c.Kill("n2"), makeKeyspace(t, c, "n3", "later"))
	})
}

// A first voter that loses its disk while the cluster is being born may have voted. Whoever heard
// of its first life takes no part in a birth with the second; the catalog takes it in.
func TestAVoterThatLosesItsDiskAtBirthHasNoVote(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n1", "n2", "n3"), c.Wipe("n1"), c.Wipe("n2"), c.Wipe("n3"), c.Start("n2", "n3"))
		time.Sleep(2 * time.Second) // they wait for n1
		do(t, c.Kill("n3"), c.Wipe("n3"), c.Start("n3"))
		time.Sleep(30 * time.Second)
		for _, id := range c.Running() {
			if err := makeKeyspace(t, c, id, "early"); err == nil {
				t.Errorf("a voter without its disk took part in a birth; %s made a keyspace", id)
			}
		}
		do(t, c.Start("n1"))
		ready(t, c)
		time.Sleep(30 * time.Second)
		do(t, c.Kill("n1"), makeKeyspace(t, c, "n3", "later")) // n3 has its vote again
	})
}

// A first voter that is not known to the catalog starts late, or lost its disk before it
// registered: it has no vote either until it has caught up.
func TestAVoterThatStartsLateHasNoVoteAtFirst(t *testing.T) {
	var said safeBuffer
	opt := sim.ClusterOptions{Nodes: 3, Logger: slog.New(slog.NewTextHandler(&said, nil))}
	inBubble(t, opt, func(t *testing.T, c *sim.Cluster) {
		do(t, c.Kill("n1", "n2", "n3"), c.Wipe("n1"), c.Wipe("n2"), c.Wipe("n3"), c.Start("n1", "n2"))
		ready(t, c)
		do(t, makeKeyspace(t, c, "n1", "kept"))
		said.Reset()
		do(t, c.Start("n3"))
		ready(t, c)
		time.Sleep(10 * time.Second)
		var votes []bool
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "of=n3") {
				votes = append(votes, strings.Contains(line, "and has a vote there"))
			}
		}
		if !slices.Equal(votes, []bool{false, true}) {
			t.Errorf("n3 had no vote, and then one: %v\n%s", votes, said.String())
		}
		do(t, c.Kill("n1"), makeKeyspace(t, c, "n3", "later"))
	})
}

// safeBuffer is what several goroutines have written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *safeBuffer) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Reset()
}

// A catalog that lost a voter with a node that was removed, and had no other for it, has as
// many as before once a node comes: it goes on without one of those that it was left with.
func TestTheCatalogGetsItsVoterBack(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		removed(t, c, "n4") // which has no vote
		removed(t, c, "n3")
		do(t, c.Start("n4"))
		ready(t, c)
		time.Sleep(5 * time.Second)
		voters := 0
		for _, n := range c.Node("n1").Cluster().Nodes {
			if n.Voter {
				voters++
			}
		}
		if voters != 3 {
			t.Errorf("%d voters", voters)
		}
		do(t, c.Kill("n1"), makeKeyspace(t, c, "n4", "later"))
	})
}
