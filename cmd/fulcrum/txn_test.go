package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"fulcrum"
	"fulcrum/client"
)

// Transactions and request ids on real nodes, through every way in: the Redis protocol,
// HTTP, the Go client and the command line.
func TestTransactionsAndRequestIDs(t *testing.T) {
	t.Parallel()
	c := start(t, 3, 0)
	t.Run("redis", c.redisTransactions)
	t.Run("http", c.httpTransactions)
	t.Run("client", c.clientTransactions)
	t.Run("commands", c.commandsWithID)
	t.Run("delete on a condition", c.conditionalDeletes)
}

// conditionalDeletes removes a key where a condition holds, and leaves it where none does;
// TestBadInput has what is refused.
func (c *cluster) conditionalDeletes(t *testing.T) {
	for _, condition := range [][]string{{"--if-present"}, {"--version", "of the put"}} {
		var put keyResult
		if err := json.Unmarshal([]byte(c.must("put", "-k", "cp", "mine", "1", "-o", "json")), &put); err != nil || put.Version == "" {
			t.Fatalf("%+v, %v", put, err)
		}
		if condition[0] == "--version" {
			c.refused(exitFailed, []string{"precondition"}, "delete", "-k", "cp", "mine", "--version", "1.1")
			condition[1] = put.Version
		}
		if out := c.must("get", "-k", "cp", "mine"); out != "1" {
			t.Errorf("before delete %v: %q", condition, out)
		}
		c.must(append([]string{"delete", "-k", "cp", "mine"}, condition...)...)
		if r := c.run("get", "-k", "cp", "mine"); r.code != exitFailed {
			t.Errorf("after delete %v: %s", condition, r)
		}
	}
}

func (c *cluster) redisTransactions(t *testing.T) {
	ctx, id := t.Context(), 0
	for _, k := range c.status("").Keyspaces {
		r := c.redis("n2", int(k.ID))
		if k.Mode == "quorum" {
			_, err := r.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.Set(ctx, "{t}a", 1, 0).Err() })
			if err == nil || r.Exists(ctx, "{t}a").Val() != 0 {
				t.Errorf("a transaction in mode quorum: %v", err)
			}
			continue
		}
		if k.Name == "cp" {
			id = int(k.ID)
		}
		var sum, n *redis.IntCmd
		_, err := r.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, "{t}a", 1, 0)
			sum = p.IncrBy(ctx, "{t}a", 41)
			p.Append(ctx, "{t}b", "x")
			n = p.Exists(ctx, "{t}a", "{t}b", "{t}c")
			return nil
		})
		if err != nil || sum.Val() != 42 || n.Val() != 2 {
			t.Errorf("%s: TxPipelined: %v, the sum is %v, %v exist", k.Name, err, sum, n)
		}
		err = r.Watch(ctx, func(tx *redis.Tx) error {
			r.Incr(ctx, "{t}a")
			_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.Set(ctx, "{t}a", 0, 0).Err() })
			return err
		}, "{t}a")
		if !errors.Is(err, redis.TxFailedErr) || r.Get(ctx, "{t}a").Val() != "43" {
			t.Errorf("%s: WATCH of a key that changed: %v, it holds %q", k.Name, err, r.Get(ctx, "{t}a").Val())
		}
	}
	r := c.redis("n1", id)
	_, err := r.TxPipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 64 {
			p.Set(ctx, fmt.Sprint("apart:", i), 1, 0)
		}
		return nil
	})
	if err == nil || !strings.HasPrefix(err.Error(), "CROSSSLOT ") || !strings.Contains(err.Error(), "{tag}") || r.Exists(ctx, "apart:1").Val() != 0 {
		t.Errorf("keys of several shards: %v", err)
	}
	if err := r.MSetNX(ctx, "apart:1", 1, "apart:2", 1, "apart:3", 1, "apart:4", 1, "apart:5", 1, "apart:6", 1).Err(); err == nil || !strings.HasPrefix(err.Error(), "CROSSSLOT ") {
		t.Errorf("MSETNX of keys of several shards: %v", err)
	}
	if got := r.MSetNX(ctx, "{m}1", 1, "{m}2", 1).Val(); !got || r.MSetNX(ctx, "{m}2", 2, "{m}3", 2).Val() || r.Exists(ctx, "{m}3").Val() != 0 {
		t.Error("MSETNX of one shard is not all or nothing")
	}
	c.counted(t, id)
}

// counted lets clients on all nodes add under WATCH: nothing is lost.
func (c *cluster) counted(t *testing.T, id int) {
	const each = 10
	var wg sync.WaitGroup
	for _, n := range c.Nodes {
		r := c.redis(n.Name, id)
		wg.Go(func() {
			for done := 0; done < each && t.Context().Err() == nil; {
				err := r.Watch(t.Context(), func(tx *redis.Tx) error {
					n, err := tx.Get(t.Context(), "{w}n").Int()
					if err != nil && !errors.Is(err, redis.Nil) {
						return err
					}
					_, err = tx.TxPipelined(t.Context(), func(p redis.Pipeliner) error { return p.Set(t.Context(), "{w}n", n+1, 0).Err() })
					return err
				}, "{w}n")
				switch {
				case err == nil:
					done++
				case !errors.Is(err, redis.TxFailedErr):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, want := c.redis("n1", id).Get(t.Context(), "{w}n").Val(), fmt.Sprint(each*len(c.Nodes)); got != want {
		t.Errorf("%s additions under WATCH made %q", want, got)
	}
}

// post sends a transaction to a node.
func (c *cluster) post(t *testing.T, node fulcrum.NodeID, keyspace, key, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.node(node).HTTPAddr+"/v1/txn/"+keyspace, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(r)
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

func (c *cluster) httpTransactions(t *testing.T) {
	const book = `{"if":[{"key":"{f}12A","target":"exists","op":"!="}],"then":[{"op":"put","key":"{f}12A","value":"ann"},{"op":"incr","key":"{f}sold"}],"else":[{"op":"get","key":"{f}12A"}]}`
	status, first := c.post(t, "n1", "cp", "book-1", book)
	if status != 200 || !strings.Contains(first, `"succeeded":true`) {
		t.Fatalf("%d %s", status, first)
	}
	for _, n := range c.Nodes { // again, on every node: the first one's answer
		if status, again := c.post(t, n.Name, "cp", "book-1", book); status != 200 || again != first {
			t.Errorf("again on %s: %d %s, first %s", n.Name, status, again, first)
		}
	}
	status, other := c.post(t, "n2", "cp", "book-2", book)
	var a struct {
		Succeeded bool
		Results   []struct{ Value string }
	}
	if err := json.Unmarshal([]byte(other), &a); status != 200 || err != nil || a.Succeeded || len(a.Results) != 1 || a.Results[0].Value != "ann" {
		t.Errorf("under another key: %d %s", status, other)
	}
	for _, refused := range []struct {
		keyspace, key, body string
		status              int
		says                string
	}{
		{"cp", "book-1", `{"then":[{"op":"get","key":"{f}12A"}]}`, 422, "book-1"},
		{"cp", "", `{"then":[{"op":"put","key":"{f}new","value":"1"},{"op":"put","key":"{f}12A","value":"bob","if":"absent"}]}`, 412, "nothing was done"},
		{"cp", "", `{"then":[{"op":"put","key":"{f}new","value":"1"},{"op":"incr","key":"{f}12A"}]}`, 400, "not an integer"},
		{"cp", "", `{"then":[{"op":"get","key":"{f}new"},{"op":"put","key":"{f}new","value":"1"},{"op":"put","key":"none","value":"1","if":"present"},{"op":"get","key":"x1"},{"op":"get","key":"x2"},{"op":"get","key":"x3"}]}`, 400, "{tag}"},
		{"ap", "", `{"then":[{"op":"get","key":"a"}]}`, 400, "mode raft"},
		{"lf", "key", `{"then":[{"op":"put","key":"a","value":"1"}]}`, 400, "raft"},
	} {
		if status, body := c.post(t, "n3", refused.keyspace, refused.key, refused.body); status != refused.status || !strings.Contains(body, refused.says) {
			t.Errorf("%s\n got %d %s\nwant %d %s", refused.body, status, body, refused.status, refused.says)
		}
	}
	if _, err := c.client().Get(t.Context(), "cp", "{f}new"); !errors.Is(err, fulcrum.ErrNotFound) {
		t.Errorf("a transaction that was undone left something: %v", err)
	}
}

// clientTransactions stops nodes in turn under a client whose writes have ids: every
// one is done once.
func (c *cluster) clientTransactions(t *testing.T) {
	cl, err := client.New(t.Context(), c.Endpoints(), client.WithExactlyOnce(), client.WithAttempts(30))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var done atomic.Int64
	var wg sync.WaitGroup
	killed := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for over := false; !over; {
				select {
				case <-killed:
					over = true // one more behind the last kill
				default:
				}
				if _, _, err := cl.Incr(t.Context(), "cp", "once", 1); err != nil {
					t.Errorf("incr: %v", err)
					return
				}
				done.Add(1)
			}
		})
	}
	for _, n := range c.Nodes {
		c.must("node", "kill", string(n.Name))
		c.must("node", "start", string(n.Name))
	}
	close(killed)
	wg.Wait()
	item, err := cl.Get(t.Context(), "cp", "once")
	if err != nil || string(item.Value) != fmt.Sprint(done.Load()) {
		t.Errorf("%d increments, each once, through kills made %q, %v", done.Load(), item.Value, err)
	}
}

func (c *cluster) commandsWithID(t *testing.T) {
	for range 2 {
		if got := c.must("incr", "-k", "cp", "visits", "10", "--request-id", "cli-1", "-o", "table"); got != "10" {
			t.Errorf("incr: %q", got)
		}
		c.must("put", "-k", "cp", "word", "a", "--request-id", "cli-2")
		c.must("cas", "-k", "cp", "word", "a", "b", "--request-id", "cli-3")
		c.must("delete", "-k", "cp", "gone", "--request-id", "cli-4")
	}
	if got := c.must("get", "-k", "cp", "word", "-o", "table"); got != "b" {
		t.Errorf("word is %q: a repeated command was done again", got)
	}
	c.refused(exitFailed, []string{"does not hold"}, "cas", "-k", "cp", "word", "a", "c", "--request-id", "cli-5")
	c.refused(exitFailed, []string{"cli-1"}, "put", "-k", "cp", "visits", "z", "--request-id", "cli-1")
	c.refused(exitUsage, []string{"request id"}, "put", "-k", "cp", "word", "z", "--request-id", "")
	c.refused(exitUsage, []string{"raft"}, "put", "-k", "ap", "word", "z", "--request-id", "cli-6")
}
