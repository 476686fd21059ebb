package main

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Redis client, unchanged, works on every keyspace; what a mode cannot do
// atomically it refuses and says so.
func TestRedisClientsOnEveryKeyspace(t *testing.T) {
	t.Parallel()
	c := start(t, 3, 0)
	for _, k := range c.status("").Keyspaces {
		t.Run(k.Name, func(t *testing.T) {
			r := c.redis("n2", int(k.ID))
			ctx := t.Context()
			if err := r.Set(ctx, "greeting", "hello", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if got, err := r.Get(ctx, "greeting").Result(); got != "hello" || err != nil {
				t.Errorf("GET: %q, %v", got, err)
			}
			if err := r.Get(ctx, "nothing").Err(); !errors.Is(err, redis.Nil) {
				t.Errorf("GET of a missing key: %v", err)
			}
			redisCounts(t, r, k.Mode)
			redisExpires(t, r)
			redisPipelines(t, r)
			redisScans(t, r)
			if n, err := r.Del(ctx, "greeting").Result(); n != 1 || err != nil {
				t.Errorf("DEL: %d, %v", n, err)
			}
			if n, err := r.Exists(ctx, "greeting").Result(); n != 0 || err != nil {
				t.Errorf("EXISTS after DEL: %d, %v", n, err)
			}
		})
	}
	c.redisBenchmark()
}

func redisCounts(t *testing.T, r *redis.Client, mode string) {
	t.Helper()
	n, err := r.Incr(t.Context(), "counter").Result()
	if mode == "quorum" {
		if err == nil || !strings.Contains(err.Error(), "raft") {
			t.Errorf("INCR in mode quorum: %d, %v; want a refusal that names the modes that can", n, err)
		}
		return
	}
	if n != 1 || err != nil {
		t.Errorf("INCR: %d, %v", n, err)
	}
	if n, err := r.IncrBy(t.Context(), "counter", 41).Result(); n != 42 || err != nil {
		t.Errorf("INCRBY: %d, %v", n, err)
	}
	if err := r.Incr(t.Context(), "greeting").Err(); err == nil || !strings.Contains(err.Error(), "not an integer") {
		t.Errorf("INCR of a word: %v", err)
	}
}

func redisExpires(t *testing.T, r *redis.Client) {
	t.Helper()
	ctx := t.Context()
	if err := r.Set(ctx, "short", "x", 500*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.Set(ctx, "long", "x", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	if d, err := r.TTL(ctx, "long").Result(); d <= 55*time.Minute || d > time.Hour || err != nil {
		t.Errorf("TTL: %s, %v", d, err)
	}
	if d, err := r.TTL(ctx, "greeting").Result(); d != -1 || err != nil {
		t.Errorf("TTL of a key that stays: %s, %v", d, err)
	}
	eventually(t, 10*time.Second, "expiry", func() error {
		if got, err := r.Get(ctx, "short").Result(); !errors.Is(err, redis.Nil) {
			return fmt.Errorf("it is %q, %v", got, err)
		}
		return nil
	})
}

func redisPipelines(t *testing.T, r *redis.Client) {
	t.Helper()
	ctx := t.Context()
	p := r.Pipeline()
	for i := range 100 {
		p.Set(ctx, fmt.Sprintf("many:%03d", i), i, 0)
	}
	got := p.Get(ctx, "many:042")
	if _, err := p.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if got.Val() != "42" {
		t.Errorf("GET at the end of a pipeline: %q", got.Val())
	}
	if values, err := r.MGet(ctx, "many:000", "nothing", "many:099").Result(); err != nil || len(values) != 3 || values[0] != "0" || values[1] != nil || values[2] != "99" {
		t.Errorf("MGET: %v, %v", values, err)
	}
}

func redisScans(t *testing.T, r *redis.Client) {
	t.Helper()
	var keys []string
	it := r.Scan(t.Context(), 0, "many:*", 17).Iterator()
	for it.Next(t.Context()) {
		keys = append(keys, it.Val())
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	if keys = slices.Compact(keys); len(keys) != 100 || keys[0] != "many:000" || keys[99] != "many:099" {
		t.Errorf("SCAN found %d keys: %q", len(keys), keys)
	}
}

// redisBenchmark runs redis-benchmark for a moment on each keyspace.
func (c *cluster) redisBenchmark() {
	c.t.Helper()
	bench, ok := tool(c.t, "redis-benchmark", "no benchmark was run")
	if !ok {
		return
	}
	_, port, err := cutPort(c.node("n1").RedisAddr)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, k := range c.status("").Keyspaces {
		out, err := exec.CommandContext(c.t.Context(), bench, "-p", port, "--dbnum", strconv.Itoa(int(k.ID)), "-t", "set,get", "-n", "1000", "-c", "16", "-q").CombinedOutput()
		text := string(out)
		if err != nil || strings.Contains(text, "Error") || strings.Count(text, "requests per second") < 2 {
			c.t.Errorf("redis-benchmark on %s: %v\n%s", k.Name, err, text)
		}
	}
}
