package sim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// large is a keyspace of one shard with large values, asked at a node without a replica.
type large struct {
	t        *testing.T
	c        *sim.Cluster
	at       fulcrum.NodeID
	keyspace string
	value    []byte
}

func largeValues(t *testing.T, c *sim.Cluster, keyspace string, mode consistency.Mode) large {
	t.Helper()
	_, err := c.Node("n1").CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: keyspace, Mode: mode.String(), Shards: 1, Replicas: 3})
	do(t, err)
	known(t, c, keyspace)
	ready(t, c)
	l := large{t: t, c: c, keyspace: keyspace, value: bytes.Repeat([]byte("x"), 1<<20)}
	if mode == consistency.Quorum {
		l.at = "n1"
		return l
	}
	l.at, _ = stranger(t, c, keyspace)
	return l
}

func (l large) write(ws []fulcrum.Write) (results []fulcrum.Result, err error) {
	err = l.c.Call(l.t.Context(), l.at, func(ctx context.Context, b api.Backend) (err error) {
		results, _, err = b.Write(ctx, api.Call{Keyspace: l.keyspace}, ws)
		return err
	})
	return results, err
}

func (l large) txn(at fulcrum.NodeID, then []fulcrum.Write) (reply api.TxnReply, err error) {
	err = l.c.Call(l.t.Context(), at, func(ctx context.Context, b api.Backend) (err error) {
		reply, _, err = b.Txn(ctx, api.Call{Keyspace: l.keyspace}, api.Txn{Then: then, Atomic: true})
		return err
	})
	return reply, err
}

// each makes a write to each of n keys out of one.
func each(n int, w fulcrum.Write) []fulcrum.Write {
	ws := make([]fulcrum.Write, n)
	for i := range ws {
		ws[i] = w
		ws[i].Key = fmt.Appendf(nil, "k%02d", i)
	}
	return ws
}

// all does writes, every one of which must be applied, and returns their results.
func (l large) all(what string, ws []fulcrum.Write) []fulcrum.Result {
	l.t.Helper()
	results, err := l.write(ws)
	if err != nil || len(results) != len(ws) {
		l.t.Fatalf("%s: %d results for %d writes, %v", what, len(results), len(ws), err)
	}
	for i, res := range results {
		if res.Err != nil || !res.Applied {
			l.t.Fatalf("%s: write %d: applied %v, %v", what, i, res.Applied, res.Err)
		}
	}
	return results
}

func (l large) fill(n int) {
	l.t.Helper()
	for i := range n {
		l.all("put", each(n, fulcrum.Write{Op: fulcrum.OpPut, Value: l.value, Quiet: true})[i:i+1])
	}
}

// Changes of large values are done and told in order, whatever their answers come to
// together, also where one message between nodes cannot hold them.
func TestLargeAnswersToChanges(t *testing.T) {
	for _, mode := range []consistency.Mode{consistency.Raft, consistency.LeaderFollower} {
		t.Run(mode.String(), func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
				const keys = 24
				l := largeValues(t, c, "k", mode)
				l.fill(keys)
				for name, w := range map[string]fulcrum.Write{
					"expire":   {Op: fulcrum.OpExpire, TTL: 3600_000},
					"persist":  {Op: fulcrum.OpExpire, NoValue: true, NoOld: true},
					"setrange": {Op: fulcrum.OpSetRange, Value: []byte("y"), Offset: 7, NoValue: true, NoOld: true},
					"getset":   {Op: fulcrum.OpPut, If: fulcrum.IfPresent, Value: []byte("short"), NoValue: true},
				} {
					results := l.all(name, each(keys, w))
					if name != "getset" {
						continue
					}
					for i, res := range results {
						if len(res.Old.Value) != len(l.value) {
							t.Errorf("getset %d tells %d bytes", i, len(res.Old.Value))
						}
					}
					l.fill(keys)
				}
				for i, res := range l.all("getdel", each(keys, fulcrum.Write{Op: fulcrum.OpDelete, If: fulcrum.IfPresent, NoValue: true})) {
					if len(res.Old.Value) != len(l.value) || res.Entry.Version.IsZero() {
						t.Errorf("getdel %d tells %d bytes", i, len(res.Old.Value))
					}
				}
				results, err := l.write(each(keys, fulcrum.Write{Op: fulcrum.OpDelete, If: fulcrum.IfPresent, NoValue: true}))
				for i, res := range results {
					if err != nil || res.Applied {
						t.Errorf("key %d was there after it was deleted: %v", i, err)
					}
				}
			})
		})
	}
}

// A transaction whose answer no message holds, or that writes more than a request may, is
// refused, on whichever node, and then nothing of it is done.
func TestATransactionOverABoundIsNotDone(t *testing.T) {
	for _, mode := range []consistency.Mode{consistency.Raft, consistency.LeaderFollower} {
		t.Run(mode.String(), func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
				const keys = 20
				l := largeValues(t, c, "k", mode)
				l.fill(keys)
				count := fulcrum.Write{Op: fulcrum.OpAdd, Key: []byte("n"), Value: []byte("1"), NoOld: true}
				reads := append([]fulcrum.Write{count}, each(keys, fulcrum.Write{Op: fulcrum.OpGet, NoValue: true})...)
				writes := append([]fulcrum.Write{count}, each(keys, fulcrum.Write{Op: fulcrum.OpSetRange, Value: []byte("y"), NoValue: true, NoOld: true})...)
				for _, at := range c.Names() {
					for name, then := range map[string][]fulcrum.Write{"reads": reads, "writes": writes} {
						if _, err := l.txn(at, then); !errors.Is(err, &fulcrum.Error{Code: fulcrum.CodeTooLarge}) || fulcrum.AsError(err).Maybe {
							t.Errorf("%s on %s: %v", name, at, err)
						}
					}
				}
				for i, at := range c.Names() {
					fits := append([]fulcrum.Write{count}, each(7, fulcrum.Write{Op: fulcrum.OpGet, NoValue: true})...)
					reply, err := l.txn(at, fits)
					if err != nil || string(reply.Results[0].Entry.Value) != fmt.Sprint(i+1) || len(reply.Results[7].Old.Value) != len(l.value) {
						t.Errorf("on %s: %v, %d results", at, err, len(reply.Results))
					}
				}
			})
		})
	}
}

// Any number of large values can be read through any node, at every level, each with its
// key; the values of one answer are few.
func TestLargeValuesAreReadThroughAnyNode(t *testing.T) {
	for _, mode := range []consistency.Mode{consistency.Raft, consistency.Quorum, consistency.LeaderFollower} {
		t.Run(mode.String(), func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
				const n = 24
				l := largeValues(t, c, "k", mode)
				l.fill(n)
				l.all("a short one", each(n, fulcrum.Write{Op: fulcrum.OpPut, Value: []byte("short"), Quiet: true})[7:8])
				var keys [][]byte
				for i, w := range each(n+1, fulcrum.Write{}) {
					keys = append(keys, w.Key)
					if i%2 == 0 {
						keys = append(keys, []byte("k07"))
					}
				}
				for i, w := range each(n, fulcrum.Write{}) { // at one, a replica may lack what it was not waited for
					value := string(l.value)
					if i == 7 {
						value = "short"
					}
					converge(t, c, "k", string(w.Key), value)
				}
				for _, at := range c.Names() {
					for _, first := range []bool{false, true} {
						for _, level := range []consistency.Kind{consistency.Linearizable, consistency.One} {
							l.read(at, api.Call{Keyspace: "k", Level: consistency.L(level), First: first}, keys, fmt.Sprintf("k%02d", n))
						}
					}
				}
			})
		})
	}
}

// read reads keys at a node until all are answered; absent is not there, k07 is short.
func (l large) read(at fulcrum.NodeID, call api.Call, keys [][]byte, absent string) {
	l.t.Helper()
	for rest := keys; len(rest) > 0; {
		var entries []fulcrum.Entry
		err := l.c.Call(l.t.Context(), at, func(ctx context.Context, b api.Backend) (err error) {
			entries, _, err = b.Read(ctx, call, rest)
			return err
		})
		if err != nil || len(entries) == 0 || !call.First && len(entries) != len(keys) {
			l.t.Fatalf("%s, %v: %d entries for %d keys, %v", at, call.Level, len(entries), len(rest), err)
		}
		if call.First && len(entries) > 20 {
			l.t.Errorf("%s, %v: %d entries at once", at, call.Level, len(entries))
		}
		for i, e := range entries {
			want := len(l.value)
			switch string(rest[i]) {
			case "k07":
				want = len("short")
			case absent:
				want = 0
			}
			if len(e.Value) != want {
				l.t.Errorf("%s, %v: %s has %d bytes, want %d", at, call.Level, rest[i], len(e.Value), want)
			}
		}
		rest = rest[len(entries):]
	}
}

// Many transactions at once, of which the leader has room for a few at a time, are each
// done once.
func TestLargeTransactionsAtOnceAreEachDoneOnce(t *testing.T) {
	for _, mode := range []consistency.Mode{consistency.Raft, consistency.LeaderFollower} {
		t.Run(mode.String(), func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
				const keys, txns = 6, 12
				l := largeValues(t, c, "k", mode)
				l.value = l.value[:len(l.value)-txns]
				l.fill(keys)
				var mu sync.Mutex
				seen := map[int]bool{}
				var wg sync.WaitGroup
				for i := range txns {
					wg.Go(func() {
						reply, err := l.txn(c.Names()[i%4], each(keys, fulcrum.Write{Op: fulcrum.OpAppend, Value: []byte("y"), NoValue: true, NoOld: true}))
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						defer mu.Unlock()
						seen[reply.Results[0].Length-len(l.value)] = true
					})
				}
				wg.Wait()
				if len(seen) != txns || !seen[1] || !seen[txns] {
					t.Errorf("bytes appended: %v", seen)
				}
			})
		})
	}
}

// A scan of large values goes through any node: its pages are cut where one answer holds
// no more, each is in order, and together they have every key once.
func TestLargeValuesAreScannedThroughAnyNode(t *testing.T) {
	for _, mode := range []consistency.Mode{consistency.Raft, consistency.Quorum, consistency.LeaderFollower} {
		t.Run(mode.String(), func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 4}, func(t *testing.T, c *sim.Cluster) {
				const n = 40
				l := largeValues(t, c, "k", mode)
				l.fill(n)
				for _, at := range c.Names() {
					for _, keysOnly := range []bool{false, true} {
						l.scan(at, n, keysOnly)
					}
				}
			})
		})
	}
}

// scan pages through all n keys at a node.
func (l large) scan(at fulcrum.NodeID, n int, keysOnly bool) {
	l.t.Helper()
	req, pages, seen := api.Scan{KeysOnly: keysOnly}, 0, 0
	for ; pages == 0 || req.After != nil; pages++ {
		var page api.Page
		var rc consistency.Receipt
		err := l.c.Call(l.t.Context(), at, func(ctx context.Context, b api.Backend) (err error) {
			page, rc, err = b.Scan(ctx, api.Call{Keyspace: "k"}, req)
			return err
		})
		if err != nil || len(page.Entries) == 0 {
			l.t.Fatalf("%s, keys only %v, after %q: %d entries, %v", at, keysOnly, req.After, len(page.Entries), err)
		}
		newest := fulcrum.Version{}
		for _, e := range page.Entries {
			if want := fmt.Sprintf("k%02d", seen); string(e.Key) != want || keysOnly != (len(e.Value) == 0) {
				l.t.Fatalf("%s, keys only %v: %q with %d bytes, want %s", at, keysOnly, e.Key, len(e.Value), want)
			}
			if newest.Less(e.Version) {
				newest = e.Version
			}
			seen++
		}
		if !rc.Found || rc.Version != newest {
			l.t.Errorf("%s: the receipt says found %v, version %s; want %s", at, rc.Found, rc.Version, newest)
		}
		req.After = page.Next
	}
	if seen != n || keysOnly && pages != 1 || !keysOnly && pages == 1 {
		l.t.Errorf("%s, keys only %v: %d keys in %d pages, want %d", at, keysOnly, seen, pages, n)
	}
}
