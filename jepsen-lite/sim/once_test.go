package sim_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// add increments the key n under a request id, and returns what it then held.
func add(c *sim.Cluster, node fulcrum.NodeID, keyspace string, id fulcrum.RequestID) (n int, err error) {
	err = c.Call(context.Background(), node, func(ctx context.Context, b api.Backend) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		res, _, err := b.Write(ctx, api.Call{Keyspace: keyspace, ID: id}, []fulcrum.Write{{Op: fulcrum.OpAdd, Key: []byte("n"), Value: []byte("1")}})
		if err == nil {
			n, err = strconv.Atoi(string(res[0].Entry.Value))
		}
		return err
	})
	return n, err
}

// Increments with ids, while nodes are killed and cut off: coordinators and clients try
// again whenever they do not know, and none counts twice or is lost.
func TestIncrementsWithIDsCountOnceUnderKills(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3, Seed: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		for _, name := range c.Names() { // so that a kill catches writes on their way
			slow := fulcrum.Fault{ID: "slow-" + string(name), Kind: "disk", Node: name, Stall: fulcrum.Duration(3 * time.Millisecond)}
			if err := c.Inject(slow); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		results := map[int]fulcrum.RequestID{}
		retries := 0
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				for j := 0; ctx.Err() == nil; j++ {
					id := fulcrum.RequestID(fmt.Sprintf("%d-%d", i, j))
					for try := 0; ; try++ {
						n, err := add(c, c.Names()[(i+j+try)%3], "cp", id)
						if err == nil {
							mu.Lock()
							if other, twice := results[n]; twice {
								t.Errorf("%s and %s both counted %d", id, other, n)
							}
							results[n] = id
							mu.Unlock()
							break
						}
						mu.Lock()
						retries++
						mu.Unlock()
						time.Sleep(20 * time.Millisecond)
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		for round := range 6 {
			time.Sleep(700 * time.Millisecond)
			victim := c.Names()[round%3]
			if s := raftLeader(c, "cp"); s != "" {
				victim = s
			}
			if err := c.Kill(victim); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if err := c.Start(victim); err != nil {
				t.Fatal(err)
			}
			ready(t, c)
		}
		cancel()
		wg.Wait()
		got, err := get(c, "n2", api.Call{Keyspace: "cp"}, "n")
		if want := strconv.Itoa(len(results)); err != nil || got != want {
			t.Errorf("counted %s, %v, with %s increments acknowledged", got, err, want)
		}
		if len(results) < 200 || retries == 0 {
			t.Errorf("only %d increments, %d of them tried again by their client", len(results), retries)
		}
		t.Logf("%d increments, %d failed attempts seen by clients", len(results), retries)
	})
}

func raftLeader(c *sim.Cluster, keyspace string) fulcrum.NodeID {
	running := c.Running()
	if len(running) == 0 {
		return ""
	}
	info, err := c.Node(running[0]).Keyspace(keyspace)
	if err != nil || len(info.ShardList) == 0 {
		return ""
	}
	return info.ShardList[0].Leader
}

// A change of replicas is a new epoch of the same mode, and ids go along; a switch to
// another mode forgets them and says so.
func TestIDsGoAlongWithAMoveAndNotWithASwitch(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
		_, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "ks", Mode: "raft", Shards: 1, Replicas: 3})
		if err != nil {
			t.Fatal(err)
		}
		known(t, c, "ks")
		ready(t, c)
		if n, err := add(c, "n1", "ks", "a"); n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		info, err := c.Node("n1").Keyspace("ks")
		if err != nil {
			t.Fatal(err)
		}
		sh := info.ShardList[0]
		gone := sh.Replicas[0].Node
		for _, r := range sh.Replicas {
			if r.Node != sh.Leader {
				gone = r.Node
			}
		}
		at := c.Names()[0]
		if gone == at {
			at = c.Names()[1]
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Remove(ctx, at, gone); err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			info, err := c.Node(at).Keyspace("ks")
			if err == nil && info.ShardList[0].Epoch > sh.Epoch && info.ShardList[0].Phase == "active" {
				break
			}
			if i > 600 {
				t.Fatalf("the replica has not moved: %+v, %v", info, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if n, err := add(c, at, "ks", "a"); n != 1 || err != nil {
			t.Errorf("after the move: %d, %v", n, err)
		}
		mode := "leader-follower"
		if _, err := c.Node(at).AlterKeyspace(t.Context(), "ks", fulcrum.KeyspacePatch{Mode: &mode}); err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			if info, err := c.Node(at).Keyspace("ks"); err == nil && info.Mode == mode {
				break
			}
			if i > 600 {
				t.Fatal("the switch is not done")
			}
			time.Sleep(50 * time.Millisecond)
		}
		if _, err := add(c, at, "ks", "b"); !errors.Is(err, fulcrum.ErrMode) {
			t.Errorf("an id in mode %s: %v", mode, err)
		}
	})
}

func TestTransactionsStayWithinAShard(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for _, mode := range []string{"raft", "leader-follower", "quorum"} {
			if _, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: mode, Mode: mode, Shards: 8, Replicas: 3}); err != nil {
				t.Fatal(err)
			}
			known(t, c, mode)
		}
		ready(t, c)
		put := func(key string) fulcrum.Write {
			return fulcrum.Write{Op: fulcrum.OpPut, Key: []byte(key), Value: []byte(key)}
		}
		txn := func(node fulcrum.NodeID, mode string, x api.Txn) (reply api.TxnReply, err error) {
			err = c.Call(context.Background(), node, func(ctx context.Context, b api.Backend) (err error) {
				reply, _, err = b.Txn(ctx, api.Call{Keyspace: mode}, x)
				return err
			})
			return reply, err
		}
		once := api.Txn{If: []fulcrum.Compare{{Key: []byte("{t}lock")}}, Then: []fulcrum.Write{put("{t}lock"), put("{t}b")},
			Else: []fulcrum.Write{{Op: fulcrum.OpGet, Key: []byte("{t}b")}}, Atomic: true}
		for _, mode := range []string{"raft", "leader-follower"} {
			for i, node := range c.Names() {
				reply, err := txn(node, mode, once)
				if err != nil || reply.Succeeded != (i == 0) || len(reply.Results) != 2-min(i, 1) {
					t.Errorf("%s at %s: %+v, %v", mode, node, reply, err)
				}
				if i > 0 && err == nil && string(reply.Results[0].Entry.Value) != "{t}b" {
					t.Errorf("%s at %s read %+v", mode, node, reply.Results)
				}
			}
			_, err := txn("n1", mode, api.Txn{If: once.If, Else: []fulcrum.Write{put("a"), put("b"), put("c"), put("d")}})
			if e := fulcrum.AsError(err); !errors.Is(err, fulcrum.ErrInvalid) || e.Hint == "" {
				t.Errorf("%s over several shards: %v", mode, err)
			}
		}
		if _, err := txn("n1", "quorum", once); !errors.Is(err, fulcrum.ErrMode) {
			t.Errorf("quorum: %v", err)
		}
	})
}
