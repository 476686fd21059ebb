package resp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestGoRedis drives the server with the client that most Go programs use.
func TestGoRedis(t *testing.T) {
	for proto := 2; proto <= 3; proto++ {
		t.Run(fmt.Sprint("RESP", proto), func(t *testing.T) {
			f := newFake()
			_, addr := serve(t, Options{Backend: f})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			rdb := redis.NewClient(&redis.Options{Addr: addr, Protocol: proto, ClientName: "tester", PoolSize: 2})
			defer rdb.Close()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(rdb.Set(ctx, "a", "1", time.Minute).Err())
			if v, err := rdb.Get(ctx, "a").Result(); v != "1" || err != nil {
				t.Errorf("GET: %q, %v", v, err)
			}
			if _, err := rdb.Get(ctx, "none").Result(); !errors.Is(err, redis.Nil) {
				t.Errorf("GET of nothing: %v", err)
			}
			if d, err := rdb.TTL(ctx, "a").Result(); d != time.Minute || err != nil {
				t.Errorf("TTL: %v, %v", d, err)
			}
			if ok, err := rdb.SetNX(ctx, "a", "2", 0).Result(); ok || err != nil {
				t.Errorf("SETNX: %v, %v", ok, err)
			}
			if v, err := rdb.SetArgs(ctx, "a", "2", redis.SetArgs{Get: true, KeepTTL: true}).Result(); v != "1" || err != nil {
				t.Errorf("SET GET: %q, %v", v, err)
			}
			if v, err := rdb.IncrByFloat(ctx, "f", 2.5).Result(); v != 2.5 || err != nil {
				t.Errorf("INCRBYFLOAT: %v, %v", v, err)
			}
			if v, err := rdb.MGet(ctx, "a", "none").Result(); fmt.Sprint(v) != "[2 <nil>]" || err != nil {
				t.Errorf("MGET: %v, %v", v, err)
			}
			if ok, err := rdb.ExpireGT(ctx, "a", time.Hour).Result(); !ok || err != nil {
				t.Errorf("EXPIRE GT: %v, %v", ok, err)
			}
			goRedisPipeline(ctx, t, rdb)
			var keys []string
			for it := rdb.Scan(ctx, 0, "k*", 3).Iterator(); it.Next(ctx); {
				keys = append(keys, it.Val())
			}
			if slices.Sort(keys); len(keys) != 20 {
				t.Errorf("SCAN: %v", keys)
			}
			if m, err := rdb.ConfigGet(ctx, "save").Result(); m["save"] != "" || len(m) != 1 || err != nil {
				t.Errorf("CONFIG GET: %v, %v", m, err)
			}
			if m, err := rdb.Command(ctx).Result(); m["mset"] == nil || m["mset"].StepCount != 2 || m["get"].ReadOnly != true || err != nil {
				t.Errorf("COMMAND: %v", err)
			}
			if s, err := rdb.Info(ctx).Result(); !strings.Contains(s, "loading:0") || !strings.Contains(s, "db0:keys=22,") || !usesMemory(s) || err != nil {
				t.Errorf("INFO: %v, %s", err, s)
			}
			if s, err := rdb.ClientList(ctx).Result(); !strings.Contains(s, " name=tester ") || !strings.Contains(s, "lib-name=go-redis") || err != nil {
				t.Errorf("CLIENT LIST: %v, %s", err, s)
			}
			if n, err := rdb.Wait(ctx, 1, time.Second).Result(); n != 2 || err != nil {
				t.Errorf("WAIT: %v, %v", n, err)
			}
			if v, err := rdb.Do(ctx, "RECEIPT").Result(); v == nil && err == nil {
				t.Errorf("RECEIPT: %v, %v", v, err)
			}
			must(rdb.FlushDB(ctx).Err())
			if n, err := rdb.DBSize(ctx).Result(); n != 0 || err != nil {
				t.Errorf("DBSIZE: %v, %v", n, err)
			}
			goRedisTransactions(ctx, t, rdb)
			goRedisOther(ctx, t, addr, proto)
		})
	}
}

// usesMemory reports whether INFO names an amount of memory that a process may have.
func usesMemory(info string) bool {
	_, rest, _ := strings.Cut(info, "\nused_memory:")
	n, err := strconv.ParseUint(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), 10, 64)
	return err == nil && n > 1<<20 && n < 1<<40
}

func goRedisPipeline(ctx context.Context, t *testing.T, rdb *redis.Client) {
	t.Helper()
	cmds, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 20 {
			p.Set(ctx, fmt.Sprint("k", i), i, 0)
		}
		for i := range 20 {
			p.IncrBy(ctx, fmt.Sprint("k", i), 100)
		}
		return nil
	})
	if err != nil || len(cmds) != 40 {
		t.Fatalf("pipeline: %d replies, %v", len(cmds), err)
	}
	for i, c := range cmds[20:] {
		if n := c.(*redis.IntCmd).Val(); n != int64(i+100) {
			t.Errorf("pipeline: k%d is %d", i, n)
		}
	}
}

// goRedisOther uses another keyspace, and a mode that refuses.
func goRedisOther(ctx context.Context, t *testing.T, addr string, proto int) {
	t.Helper()
	ap := redis.NewClient(&redis.Options{Addr: addr, Protocol: proto, DB: 2})
	defer ap.Close()
	if err := ap.Set(ctx, "a", "1", 0).Err(); err != nil {
		t.Errorf("SET in ap: %v", err)
	}
	if err := ap.Incr(ctx, "a").Err(); err == nil || !strings.Contains(err.Error(), "modes raft and leader-follower") {
		t.Errorf("INCR in ap: %v", err)
	}
	nowhere := redis.NewClient(&redis.Options{Addr: addr, Protocol: proto, DB: 9})
	defer nowhere.Close()
	if err := nowhere.Ping(ctx).Err(); err == nil || !strings.Contains(err.Error(), "DB index is out of range") {
		t.Errorf("database 9: %v", err)
	}
}

// tool runs one of Redis's own programs against a server.
func tool(t *testing.T, name, addr string, args ...string) string {
	t.Helper()
	return toolStdin(t, name, addr, "", args...)
}

func toolStdin(t *testing.T, name, addr, stdin string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed: apt-get install redis-tools", name)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, append([]string{"-h", host, "-p", port}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir()) // no history of anyone
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %q: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestRedisCLI(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"set", "a", "1"}, "OK"},
		{[]string{"get", "a"}, "1"},
		{[]string{"-n", "2", "get", "a"}, ""},
		{[]string{"-3", "hello", "3"}, "server redis..."},
		{[]string{"-3", "consistency"}, "keyspace default..."},
		{[]string{"-n", "9", "get", "a"}, "..."},
		{[]string{"mset", "k1", "1", "k2", "2"}, "OK"},
		{[]string{"--scan", "--pattern", "k*"}, "k1\nk2"},
		{[]string{"-r", "3", "incr", "n"}, "1\n2\n3"},
		{[]string{"command", "count"}, "67"},
		{[]string{"client", "id"}, "..."},
	} {
		got := tool(t, "redis-cli", addr, c.args...)
		begin, ok := strings.CutSuffix(c.want, "...")
		if !(ok && strings.HasPrefix(got, begin)) && got != c.want {
			t.Errorf("redis-cli %q: got %q, want %q", c.args, got, c.want)
		}
	}
	if out := tool(t, "redis-cli", addr, "--bigkeys"); !strings.Contains(out, "Biggest string found") {
		t.Errorf("redis-cli --bigkeys: %s", out)
	}
}

func TestRedisBenchmark(t *testing.T) {
	_, addr := serve(t, Options{Backend: newFake()})
	for _, pipeline := range []string{"1", "16"} {
		out := tool(t, "redis-benchmark", addr, "-t", "ping,set,get,incr,mset", "-n", "2000", "-c", "8", "-P", pipeline, "-r", "100", "-q")
		for _, name := range []string{"PING_INLINE", "SET", "GET", "INCR", "MSET"} {
			if !strings.Contains(out, name) || strings.Contains(out, "rror") {
				t.Errorf("redis-benchmark with a pipeline of %s: %s", pipeline, out)
			}
		}
	}
}

// BenchmarkServer is one client on the loopback, with pipelines of different depths.
func BenchmarkServer(b *testing.B) {
	for _, op := range []string{"SET", "GET"} {
		for _, depth := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("%s/pipeline=%d", op, depth), func(b *testing.B) {
				_, addr := serve(b, Options{Backend: instant{newFake()}})
				s := connect(b, addr)
				s.nc.SetDeadline(time.Time{})
				one, reply := array("GET", "key:0001"), len("$-1\r\n")
				if op == "SET" {
					one, reply = array("SET", "key:0001", "value:0123456789"), len("+OK\r\n")
				}
				batch := []byte(strings.Repeat(one, depth))
				in := make([]byte, reply*depth)
				b.ReportAllocs()
				for n := 0; n < b.N; n += depth {
					if _, err := s.nc.Write(batch); err != nil {
						b.Fatal(err)
					}
					for got := 0; got < len(in); {
						k, err := s.nc.Read(in[got:])
						if err != nil {
							b.Fatal(err)
						}
						got += k
					}
				}
			})
		}
	}
}

// BenchmarkParse is the parser alone.
func BenchmarkParse(b *testing.B) {
	stream := []byte(strings.Repeat(array("SET", "key:0001", "value:0123456789"), 100))
	r := newReader()
	r.maxCommand = 1 << 20
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		r.buf, r.start, r.pos, r.end = stream, 0, 0, len(stream)
		for n := range 101 {
			if _, st, err := r.next(); err != nil || (st != ready) != (n == 100) {
				b.Fatal(n, st, err)
			}
		}
	}
}

// eager is a client that has sent its next command whenever the server looks.
type eager struct {
	net.Conn
	left int
	told func()
}

func (e *eager) Read(p []byte) (int, error) {
	if e.left--; e.left < 0 {
		return 0, io.EOF
	}
	return copy(p, "PING\r\n"), nil
}

func (e *eager) Write(p []byte) (int, error)      { e.told(); return len(p), nil }
func (e *eager) Close() error                     { return nil }
func (e *eager) SetWriteDeadline(time.Time) error { return nil }

// Where there is one processor, clients whose next command is always there already take
// turns with others.
func TestEagerClientsTakeTurns(t *testing.T) {
	for _, processors := range []int{1, 2} {
		t.Run(fmt.Sprint(processors), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
			s := New(Options{Backend: newFake()})
			runtime.GOMAXPROCS(1) // from now on the test itself needs it
			const commands = 200
			var mu sync.Mutex
			last, turns := -1, 0
			var served sync.WaitGroup
			for i := range 2 {
				c := newConn(t.Context(), s, &eager{left: commands, told: func() {
					mu.Lock()
					defer mu.Unlock()
					if last != i {
						last = i
						turns++
					}
				}}, new(atomic.Bool))
				served.Go(c.serve)
			}
			served.Wait()
			if processors == 1 && turns < commands {
				t.Errorf("two clients of %d commands each had %d turns", commands, turns)
			}
			if processors > 1 && turns > commands/4 {
				t.Errorf("with more processors nobody has to make way, which costs a wake-up: %d turns", turns)
			}
		})
	}
}
