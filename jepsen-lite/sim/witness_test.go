package sim_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// stranger returns a node without a replica of a keyspace's only shard, and its replicas,
// the leader first.
func stranger(t *testing.T, c *sim.Cluster, keyspace string) (at fulcrum.NodeID, replicas []fulcrum.NodeID) {
	t.Helper()
	var sh fulcrum.ShardInfo
	for i := 0; sh.Leader == "" && i < 1000; i++ {
		time.Sleep(10 * time.Millisecond)
		sh = shardOf(c, c.Names()[i%len(c.Names())], keyspace)
	}
	replicas = []fulcrum.NodeID{sh.Leader}
	for _, r := range sh.Replicas {
		if r.Node != sh.Leader {
			replicas = append(replicas, r.Node)
		}
	}
	for _, id := range c.Names() {
		if !slices.Contains(replicas, id) {
			at = id
		}
	}
	if len(replicas) != 3 || at == "" || sh.Leader == "" {
		t.Fatalf("replicas %v, stranger %q", replicas, at)
	}
	return at, replicas
}

// A node without a replica has its reads confirmed by a witness: also while the leader
// cannot ask anybody, and not once the others have left its term.
func TestANodeWithoutAReplicaAsksAWitness(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		_, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "r", Mode: "raft", Shards: 1, Replicas: 3})
		do(t, err)
		known(t, c, "r")
		ready(t, c)
		call := at("r", consistency.Linearizable)
		do(t, put(c, "n1", at("r", consistency.QuorumOf), "k", "old"))
		s, replicas := stranger(t, c, "r")
		leader, others := replicas[0], replicas[1:]
		read := func(limit time.Duration) (value string, r consistency.Receipt, err error) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			err = c.Call(ctx, s, func(ctx context.Context, b api.Backend) error {
				entries, receipt, err := b.Read(ctx, call, [][]byte{[]byte("k")})
				if err == nil {
					value, r = string(entries[0].Value), receipt
				}
				return err
			})
			return value, r, err
		}
		for range 2 { // the first one finds the leader
			if value, r, err := read(5 * time.Second); err != nil || value != "old" || r.Acks < r.Needed || r.Leader != leader {
				t.Fatalf("%q, %d of %d at %s: %v", value, r.Acks, r.Needed, r.Leader, err)
			}
		}
		cut := func(id string, from, to fulcrum.NodeID) {
			do(t, c.Inject(fulcrum.Fault{ID: id + "-there", Kind: "link", From: from, To: to, Drop: true}))
			do(t, c.Inject(fulcrum.Fault{ID: id + "-back", Kind: "link", From: to, To: from, Drop: true}))
		}
		cut("first", leader, others[0])
		cut("second", leader, others[1])
		if value, r, err := read(50 * time.Millisecond); err != nil || value != "old" || r.Acks != 2 || r.Needed != 2 {
			t.Errorf("the leader can ask nobody, and the witness was not asked: %q, %d of %d: %v", value, r.Acks, r.Needed, err)
		}
		do(t, c.Inject(fulcrum.Fault{ID: "alone", Kind: "partition", Sides: [][]fulcrum.NodeID{{s, leader}, others}}))
		if value, r, err := read(100 * time.Millisecond); err == nil {
			t.Errorf("nobody but the leader can be asked, and the answer is %q, %d of %d", value, r.Acks, r.Needed)
		}
		do(t, c.Heal("alone"))
		for until := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if put(c, others[0], at("r", consistency.QuorumOf), "k", "new") == nil {
				break
			} else if time.Now().After(until) {
				t.Fatal("nobody else was elected within a minute")
			}
		}
		if value, _, err := read(10 * time.Second); err != nil || value != "new" {
			t.Errorf("after the next leader's write: %q, %v", value, err)
		}
	})
}
