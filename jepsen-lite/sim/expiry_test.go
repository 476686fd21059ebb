package sim_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// post sends body to a node over the simulated network, and wants a 200.
func post(t *testing.T, c *sim.Cluster, at fulcrum.NodeID, path, body string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return c.Network.Dial(ctx, addr) }}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Post("http://"+string(at)+":"+sim.HTTPPort+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s: %s", path, resp.Status)
	}
}

// A time to live that a transaction gives counts from when it takes effect, whatever the
// wall clock of the node says that was asked.
func TestATimeToLiveInATransactionIsKept(t *testing.T) {
	for _, skew := range []time.Duration{time.Minute, -time.Minute} {
		t.Run(skew.String(), func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
				create(t, c, "cp", consistency.Raft)
				asked := c.Names()[0]
				if asked == raftLeader(c, "cp") {
					asked = c.Names()[1]
				}
				if err := c.Inject(fulcrum.Fault{ID: "skew", Kind: "clock", Node: asked, Skew: fulcrum.Duration(skew)}); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				post(t, c, asked, "/v1/txn/cp", `{"then":[{"op":"put","key":"{t}a","value":"v","ttl":20},{"op":"put","key":"{t}b","value":"v"},{"op":"expire","key":"{t}b","ttl":20}]}`)
				for _, want := range []struct {
					after time.Duration
					value string
				}{{0, "v"}, {19 * time.Second, "v"}, {25 * time.Second, ""}} {
					time.Sleep(want.after - time.Since(began))
					for _, key := range []string{"{t}a", "{t}b"} {
						if got, err := get(c, "n3", api.Call{Keyspace: "cp"}, key); err != nil || got != want.value {
							t.Errorf("%s is %q after %v of 20s, want %q (%v)", key, got, time.Since(began), want.value, err)
						}
					}
				}
			})
		})
	}
}

// The clock of a shard falls behind wall clocks, as while all replicas are down. A watch, too,
// tells when a key expires by the clock of the node that was asked.
func TestAWatchTellsWhenAKeyExpires(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		if err := put(c, "n1", api.Call{Keyspace: "cp"}, "first", "v"); err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(c.Names()...); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if err := c.Start(c.Names()...); err != nil {
			t.Fatal(err)
		}
		ready(t, c)
		enough := errors.New("enough")
		for _, at := range c.Names() {
			err := c.Call(context.Background(), at, func(ctx context.Context, b api.Backend) error {
				return b.Watch(ctx, api.Call{Keyspace: "cp"}, api.Watch{}, func(batch api.WatchBatch) error {
					if len(batch.Events) > 0 {
						if left := time.Until(time.UnixMilli(batch.Events[0].Entry.ExpireAt)); left > time.Minute+10*time.Millisecond || left < 55*time.Second {
							t.Errorf("%s tells of a key with a minute to live that it expires in %v", at, left)
						}
						return enough
					}
					_, _, err := b.Write(ctx, api.Call{Keyspace: "cp"}, []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v"), TTL: 60_000}})
					return err
				})
			})
			if !errors.Is(err, enough) {
				t.Errorf("%s: %v", at, err)
			}
		}
	})
}

// A moment of expiry is as far away as the leader's wall clock says, whatever the clock of the
// node says that was asked; one that is over takes the key away at once.
func TestAMomentOfExpiryIsTheLeaders(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		asked := c.Names()[0]
		if asked == raftLeader(c, "cp") {
			asked = c.Names()[1]
		}
		if err := c.Inject(fulcrum.Fault{ID: "skew", Kind: "clock", Node: asked, Skew: fulcrum.Duration(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		ks, err := c.Node(asked).Keyspace("cp")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := c.Network.Dial(t.Context(), string(asked)+":"+sim.RedisPort)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		say := func(command string, lines ...string) {
			t.Helper()
			fmt.Fprintf(conn, "%s\r\n", command)
			for _, want := range lines {
				if line, err := r.ReadString('\n'); err != nil || strings.TrimSpace(line) != want {
					t.Fatalf("%s: %q, %v, want %q", command, line, err, want)
				}
			}
		}
		say(fmt.Sprint("SELECT ", ks.ID), "+OK")
		say("SET k v", "+OK")
		say(fmt.Sprint("EXPIREAT k ", time.Now().Add(10*time.Minute).Unix()), ":1")
		say("EXISTS k", ":1")
		say(fmt.Sprint("EXPIREAT k ", time.Now().Add(15*time.Minute).Unix()), ":1")
		time.Sleep(14 * time.Minute)
		if got, err := get(c, "n3", api.Call{Keyspace: "cp"}, "k"); err != nil || got != "v" {
			t.Errorf("k is %q after 14 minutes of 15 (%v)", got, err)
		}
		say(fmt.Sprint("EXPIREAT k ", time.Now().Add(-time.Second).Unix()), ":1")
		say("EXISTS k", ":0")
		say("EXPIREAT k 5", ":0")
		say("SET k v", "+OK")
		say("EXPIREAT k 0", ":1")
		say("EXISTS k", ":0")
		say(fmt.Sprint("SET k v EXAT ", time.Now().Add(10*time.Minute).Unix()), "+OK")
		say("EXISTS k", ":1")
		say(fmt.Sprint("GETEX k EXAT ", time.Now().Add(15*time.Minute).Unix()), "$1", "v")
		say("EXISTS k", ":1")
		say(fmt.Sprint("SET k w NX EXAT ", time.Now().Add(-time.Second).Unix()), "$-1")
		say(fmt.Sprint("GETEX k EXAT ", time.Now().Add(-time.Second).Unix()), "$1", "v")
		say("EXISTS k", ":0")
		say(fmt.Sprint("SET k v EXAT ", time.Now().Add(-time.Second).Unix()), "+OK")
		say("EXISTS k", ":0")
	})
}
