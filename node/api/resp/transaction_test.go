package resp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"fulcrum"
	"fulcrum/consistency"
)

const (
	queuedOK = "+QUEUED"
	aborted  = "-EXECABORT Transaction discarded because of previous errors."
)

func TestTransactions(t *testing.T) {
	for name, steps := range map[string][]step{
		"commands run in order, each seeing those before it": {
			{"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"INCR a", queuedOK}, {"GET a", queuedOK}, {"GET none", queuedOK}, {"EXEC", "*4\n+OK\n:2\n$1\n2\n$-1"}, {"GET a", "$1\n2"},
			{"EXEC", "-ERR EXEC without MULTI"},
		},
		"every command that has a place": {
			{"MULTI", "+OK"}, {"SET s v EX 10", queuedOK}, {"TTL s", queuedOK}, {"PTTL s", queuedOK}, {"PERSIST s", queuedOK}, {"TTL s", queuedOK}, {"EXPIRE s 100", queuedOK}, {"EXPIRETIME s", queuedOK}, {"TYPE s", queuedOK}, {"STRLEN s", queuedOK},
			{"EXEC", "*9\n+OK\n:10\n:10000\n:1\n:-1\n:1\n:1700000100\n+string\n:1"},
			{"MULTI", "+OK"}, {"SET s v2 GET", queuedOK}, {"SET s v3 XX GET", queuedOK}, {"SET s v4 NX", queuedOK}, {"SET s v4 KEEPTTL", queuedOK}, {"GETSET s v5", queuedOK}, {"GETDEL s", queuedOK}, {"GETDEL s", queuedOK}, {"SETNX s v6", queuedOK}, {"SETNX s v7", queuedOK},
			{"EXEC", "*9\n$1\nv\n$2\nv2\n$-1\n+OK\n$2\nv4\n$2\nv5\n$-1\n:1\n:0"},
			{"MULTI", "+OK"}, {"GETEX s", queuedOK}, {"GETEX s EX 5", queuedOK}, {"TTL s", queuedOK}, {"GETEX s PERSIST", queuedOK}, {"GETEX none EX 5", queuedOK}, {"SETEX s 7 x", queuedOK}, {"PSETEX s 7000 x", queuedOK}, {"TTL s", queuedOK}, {"GETEX s PXAT 1", queuedOK}, {"EXISTS s", queuedOK},
			{"EXEC", "*10\n$2\nv6\n$2\nv6\n:5\n$2\nv6\n$-1\n+OK\n+OK\n:7\n$1\nx\n:0"},
			{"MULTI", "+OK"}, {"APPEND p Hello", queuedOK}, {"GETRANGE p 1 2", queuedOK}, {"SETRANGE p 1 u", queuedOK}, {`SETRANGE p 1 ""`, queuedOK}, {"GET p", queuedOK}, {"INCRBYFLOAT f 1.5", queuedOK}, {"INCRBY n 5", queuedOK}, {"DECR n", queuedOK}, {"DECRBY n 3", queuedOK},
			{"EXEC", "*9\n:5\n$2\nel\n:5\n:5\n$5\nHullo\n$3\n1.5\n:5\n:4\n:1"},
			{"MULTI", "+OK"}, {"MSET x 1 y 2", queuedOK}, {"MGET x none y", queuedOK}, {"EXISTS x x none", queuedOK}, {"TOUCH x", queuedOK}, {"DEL x x none", queuedOK}, {"UNLINK y", queuedOK}, {"MGET x y", queuedOK}, {"PING", queuedOK}, {"PING hi", queuedOK}, {"ECHO hi", queuedOK}, {"UNWATCH", queuedOK},
			{"EXEC", "*11\n+OK\n*3\n$1\n1\n$-1\n$1\n2\n:2\n:1\n:1\n:1\n*2\n$-1\n$-1\n+PONG\n$2\nhi\n$2\nhi\n+OK"},
		},
		"a command that fails undoes nothing": {
			{"SET s word", "+OK"}, {"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"INCR s", queuedOK}, {"SET b 2", queuedOK},
			{"EXEC", "*3\n+OK\n-ERR value is not an integer or out of range\n+OK"}, {"MGET a b s", "*3\n$1\n1\n$1\n2\n$4\nword"},
		},
		"a refused command aborts all": {
			{"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"SET a", "-ERR wrong number of arguments for 'set' command"}, {"SET b 1", queuedOK}, {"EXEC", aborted}, {"EXISTS a b", ":0"},
			{"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"NONSENSE", "-ERR unknown command 'NONSENSE'..."}, {"EXEC", aborted},
			{"MULTI", "+OK"}, {"SET a 1 NX XX", "-ERR syntax error"}, {"EXEC", aborted}, {"MULTI", "+OK"}, {"INCRBY a x", "-ERR value is not an integer or out of range"}, {"EXEC", aborted},
			{"MULTI", "+OK"}, {`SET "" 1`, "-ERR empty key"}, {"EXEC", aborted}, {"MULTI", "+OK"}, {"MSET a", "-ERR wrong number of arguments for 'mset' command"}, {"MSET a 1 b", "-ERR wrong number of arguments for 'mset' command"}, {"EXEC", aborted},
			{"MULTI", "+OK"}, {"PING a b", "-ERR wrong number of arguments for 'ping' command"}, {"EXEC", aborted},
			{"MULTI", "+OK"}, {"EXEC now", "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command"}, {"EXEC", "-ERR EXEC without MULTI"}, {"GET a", "$-1"},
		},
		"what has no place is refused": {
			{"MULTI", "+OK"}, {"SCAN 0", "-ERR 'scan' cannot run inside a transaction..."}, {"EXEC", aborted}, {"MULTI", "+OK"}, {"SELECT 1", "-ERR 'select' cannot..."}, {"EXEC", aborted}, {"KEYSPACE", "$7\ndefault"},
			{"MULTI", "+OK"}, {"FLUSHDB", "-ERR 'flushdb' cannot..."}, {"KEYS *", "-ERR 'keys' cannot..."}, {"CONSISTENCY READ one", "-ERR 'consistency' cannot..."}, {"CLIENT ID", "-ERR 'client' cannot..."}, {"HELLO 3", "-ERR 'hello' cannot..."}, {"INFO", "-ERR 'info' cannot..."}, {"WAIT 1 1", "-ERR 'wait' cannot..."}, {"KEYSPACE cp", "-ERR 'keyspace' cannot..."}, {"SESSION ON", "-ERR 'session' cannot..."},
			{"MSETNX a 1", "-ERR MSETNX cannot..."}, {"EXPIRE a 1 NX", "-ERR EXPIRE with NX..."}, {"EXEC", aborted},
		},
		"the edges of a transaction": {
			{"EXEC", "-ERR EXEC without MULTI"}, {"DISCARD", "-ERR DISCARD without MULTI"}, {"UNWATCH", "+OK"},
			{"MULTI", "+OK"}, {"MULTI", "-ERR MULTI calls can not be nested"}, {"WATCH a", "-ERR WATCH inside MULTI is not allowed"}, {"SET a 1", queuedOK}, {"EXEC", "*1\n+OK"},
			{"MULTI", "+OK"}, {"EXEC", "*0"}, {"MULTI", "+OK"}, {"SET a 2", queuedOK}, {"DISCARD", "+OK"}, {"GET a", "$1\n1"}, {"EXEC", "-ERR EXEC without MULTI"},
			{"MULTI", "+OK"}, {"SET a 2", queuedOK}, {"RESET", "+RESET"}, {"GET a", "$1\n1"}, {"EXEC", "-ERR EXEC without MULTI"}, {"MULTI", "+OK"}, {"NONSENSE", "-ERR unknown..."}, {"RESET", "+RESET"}, {"MULTI", "+OK"}, {"PING", queuedOK}, {"EXEC", "*1\n+PONG"},
		},
		"a watched key that stayed as it was": {
			{"SET a 1", "+OK"}, {"WATCH a none", "+OK"}, {"GET a", "$1\n1"}, {"MULTI", "+OK"}, {"SET a 2", queuedOK}, {"EXEC", "*1\n+OK"},
			{"SET a 3", "+OK"}, {"MULTI", "+OK"}, {"SET a 4", queuedOK}, {"EXEC", "*1\n+OK"}, // EXEC has forgotten the keys
		},
		"a watched key that changed": {
			{"SET a 1", "+OK"}, {"WATCH a b", "+OK"}, {"SET a 1", "+OK"}, {"MULTI", "+OK"}, {"SET c 1", queuedOK}, {"EXEC", "*-1"}, {"EXISTS c", ":0"},
			{"WATCH a b", "+OK"}, {"SET b 1", "+OK"}, {"MULTI", "+OK"}, {"SET c 1", queuedOK}, {"EXEC", "*-1"},
			{"WATCH b", "+OK"}, {"DEL b", ":1"}, {"MULTI", "+OK"}, {"PING", queuedOK}, {"EXEC", "*-1"}, {"WATCH a", "+OK"}, {"DEL a", ":1"}, {"MULTI", "+OK"}, {"EXEC", "*-1"},
			{"WATCH a", "+OK"}, {"SET a 1", "+OK"}, {"WATCH a", "+OK"}, {"MULTI", "+OK"}, {"SET c 1", queuedOK}, {"EXEC", "*-1"}, // the first WATCH counts
			{"WATCH a", "+OK"}, {"PERSIST a", ":0"}, {"GETEX a PERSIST", "$1\n1"}, {"EXPIRE a 9 XX", ":0"}, {"MULTI", "+OK"}, {"PERSIST a", queuedOK}, {"EXEC", "*1\n:0"}, // what changes nothing is no change
			{"EXPIRE a 9", ":1"}, {"WATCH a", "+OK"}, {"PERSIST a", ":1"}, {"MULTI", "+OK"}, {"EXEC", "*-1"}, {"EXPIRE a 9", ":1"}, {"WATCH a", "+OK"}, {"GETEX a PERSIST", "$1\n1"}, {"TTL a", ":-1"}, {"MULTI", "+OK"}, {"EXEC", "*-1"},
			{"WATCH a", "+OK"}, {"SET a 2", "+OK"}, {"UNWATCH", "+OK"}, {"MULTI", "+OK"}, {"SET c 1", queuedOK}, {"EXEC", "*1\n+OK"},
			{"WATCH a", "+OK"}, {"SET a 3", "+OK"}, {"MULTI", "+OK"}, {"DISCARD", "+OK"}, {"MULTI", "+OK"}, {"SET c 2", queuedOK}, {"EXEC", "*1\n+OK"},
			{"WATCH a", "+OK"}, {"SET a 4", "+OK"}, {"MULTI", "+OK"}, {"NONSENSE", "-ERR unknown..."}, {"EXEC", aborted}, {"MULTI", "+OK"}, {"SET c 3", queuedOK}, {"EXEC", "*1\n+OK"},
		},
		"keys of several shards": {
			{"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"SET far:a 1", queuedOK}, {"EXEC", "-CROSSSLOT the keys belong to several shards ([7 8]): an atomic request must stay within one (give the keys a common {tag})"}, {"EXISTS a far:a", ":0"},
			{"WATCH far:a", "+OK"}, {"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"EXEC", "-CROSSSLOT ..."}, {"MSETNX a 1 far:a 1", "-CROSSSLOT ...([7 8])..."}, {"MSETNX far:a 1 far:b 1", ":1"}, {"EXEC", "-ERR EXEC without MULTI"},
		},
		"mode quorum has none": {
			{"SELECT 2", "+OK"}, {"WATCH a", "-ERR mode quorum has no transactions: use a keyspace in mode raft or leader-follower"}, {"MULTI", "+OK"}, {"SET a 1", "-ERR mode quorum has no transactions..."}, {"EXEC", aborted}, {"EXISTS a", ":0"},
		},
		"one keyspace": {
			{"WATCH a", "+OK"}, {"SELECT 1", "+OK"}, {"WATCH a", "-ERR the keys watched so far are in keyspace default: UNWATCH them first"}, {"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"EXEC", "-ERR the watched keys are in keyspace default, the commands in cp: ..."},
			{"GET a", "$-1"}, {"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"EXEC", "*1\n+OK"}, {"SELECT 0", "+OK"}, {"GET a", "$-1"},
		},
		"in RESP3": {
			{"HELLO 3", "%7..."}, {"WATCH a", "+OK"}, {"SET a 1", "+OK"}, {"MULTI", "+OK"}, {"GET a", queuedOK}, {"EXEC", "_"}, {"MULTI", "+OK"}, {"GET none", queuedOK}, {"EXEC", "*1\n_"},
		},
		"receipts and levels": {
			{"CONSISTENCY READ one", "+OK"}, {"WATCH a", "+OK"}, {"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"EXEC", "*1\n+OK"}, {"RECEIPT", "*...\n$8\nkeyspace\n$7\ndefault..."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := serve(t, Options{Backend: newFake()})
			play(t, connect(t, addr), steps)
		})
	}
}

// What decides about a change is read at linearizable whatever the connection's level: at one,
// a value of long ago would say what is done.
func TestConditionsOnExpiryAreLinearizable(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	for _, line := range []string{"CONSISTENCY READ one", "SET a 1 EX 10", "EXPIRE a 20 GT", "PERSIST a", "PERSIST a", "GETEX a PERSIST", "EXPIRE a 20 NX"} {
		s.line(line)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	reads := 0
	for _, call := range f.calls {
		if call.Level.Kind == consistency.One {
			t.Errorf("a call at %v", call.Level)
		}
		if call.Level.Kind == consistency.Linearizable {
			reads++
		}
	}
	if reads != 5 {
		t.Errorf("%d linearizable reads: %+v", reads, f.calls)
	}
}

// WATCH reads at linearizable whatever the connection's level, and EXEC is one
// transaction whose writes stand or fall alone.
func TestExecIsOneTransaction(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	for _, line := range []string{"CONSISTENCY READ one", "SET a 1", "WATCH a none", "MULTI", "SET b 1 EX 10", "MGET a b", "PING"} {
		s.line(line)
	}
	f.mu.Lock()
	watchedAt, before := f.calls[len(f.calls)-1].Level, len(f.calls)
	version := f.data["default"]["a"].Version
	f.now += 5000
	f.mu.Unlock()
	if got := s.do("EXEC"); got != "*3\n+OK\n*2\n$1\n1\n$1\n1\n+PONG" {
		t.Fatalf("EXEC: %q", got)
	}
	if got := s.do("TTL", "b"); got != ":10" {
		t.Errorf("the time to live counts from EXEC: %q", got)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if watchedAt.Kind != consistency.Linearizable {
		t.Errorf("WATCH read at %v", watchedAt)
	}
	if len(f.txns) != 1 || f.calls[before].Atomic || f.txns[0].Atomic || len(f.txns[0].Then) != 3 {
		t.Fatalf("EXEC made %+v", f.txns)
	}
	want := []fulcrum.Compare{{Key: []byte("a"), Version: version}, {Key: []byte("none")}}
	if fmt.Sprint(f.txns[0].If) != fmt.Sprint(want) {
		t.Errorf("compares: %v, want %v", f.txns[0].If, want)
	}
}

func TestWatchedKeyThatExpires(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	pass := func() {
		f.mu.Lock()
		f.now += 10_000
		f.mu.Unlock()
	}
	play(t, s, []step{{"SET a 1 EX 5", "+OK"}, {"WATCH a", "+OK"}, {"MULTI", "+OK"}, {"SET b 1", queuedOK}})
	pass()
	play(t, s, []step{{"EXEC", "*-1"}, {"SET a 1 EX 5", "+OK"}})
	pass()
	play(t, s, []step{{"WATCH a", "+OK"}, {"MULTI", "+OK"}, {"SET b 1", queuedOK}, {"EXEC", "*1\n+OK"}}) // expired already: absent
}

// A whole transaction in one write, behind and before plain commands.
func TestTransactionInAPipeline(t *testing.T) {
	f := newFake()
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	s.send(array("SET", "a", "1") + array("MULTI") + array("INCR", "a") + array("GET", "a") + array("EXEC") + array("INCR", "a") + array("GET", "a"))
	for _, want := range []string{"+OK", "+OK", queuedOK, queuedOK, "*2\n:2\n$1\n2", ":3", "$1\n3"} {
		if got := s.reply(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	s.send(array("CLIENT", "REPLY", "OFF") + array("MULTI") + array("SET", "a", "7") + array("EXEC") + array("CLIENT", "REPLY", "ON") + array("GET", "a"))
	for _, want := range []string{"+OK", "$1\n7"} {
		if got := s.reply(); got != want {
			t.Errorf("after silence: got %q, want %q", got, want)
		}
	}
}

func TestTransactionBounds(t *testing.T) {
	f := newFake()
	server, addr := serve(t, Options{Backend: f, MaxValue: 64 << 10, MaxBufferBytes: 1 << 20})
	t.Run("operations", func(t *testing.T) {
		s := connect(t, addr)
		s.do("MULTI")
		for i := range fulcrum.MaxOpsPerBatch {
			if got := s.do("SET", fmt.Sprint("k", i), "v"); got != queuedOK {
				t.Fatalf("operation %d: %q", i, got)
			}
		}
		if got := s.do("DEL", "a", "b"); !strings.HasPrefix(got, "-TOOLARGE a transaction takes at most 128 operations") {
			t.Errorf("operation 129: %q", got)
		}
		if got := s.do("EXEC"); got != aborted {
			t.Errorf("EXEC: %q", got)
		}
		s.do("MULTI")
		for i := range fulcrum.MaxOpsPerBatch {
			s.do("SET", fmt.Sprint("k", i), "v")
		}
		if got := s.do("EXEC"); !strings.HasPrefix(got, "*128\n+OK") {
			t.Errorf("EXEC of 128: %q", got)
		}
	})
	t.Run("watched keys", func(t *testing.T) {
		s := connect(t, addr)
		words := []string{"WATCH"}
		for i := range maxTxnWatched + 1 {
			words = append(words, fmt.Sprint("k", i))
		}
		if got := s.do(words...); !strings.HasPrefix(got, "-TOOLARGE at most 128 keys") {
			t.Errorf("WATCH of 129 keys: %q", got)
		}
		if got := s.do(words[:maxTxnWatched+1]...); got != "+OK" {
			t.Errorf("WATCH of 128 keys: %q", got)
		}
	})
	used := func() int64 { return server.budget.used.Load() }
	t.Run("memory of all", func(t *testing.T) { // 1 MiB for all connections together
		s := connect(t, addr)
		s.do("MULTI")
		got := queuedOK
		for n := 0; got == queuedOK && n < 100; n++ {
			got = s.do("SET", "k", strings.Repeat("x", 60<<10))
		}
		if !strings.HasPrefix(got, "-OVERLOADED") {
			t.Errorf("a queue of more than the server's memory: %.80q", got)
		}
		if got := s.do("EXEC"); got != aborted {
			t.Errorf("EXEC: %q", got)
		}
		for _, end := range []string{"EXEC", "DISCARD", "RESET"} {
			s.do("MULTI")
			s.do("SET", "k", strings.Repeat("x", 60<<10))
			if used() < 60<<10 {
				t.Errorf("a queued command takes %d bytes of the budget", used())
			}
			s.do(end)
			if n := used(); n > 60<<10 {
				t.Errorf("%s leaves %d bytes taken", end, n)
			}
		}
	})
	t.Run("a client that leaves", func(t *testing.T) {
		s := connect(t, addr)
		id := strings.TrimPrefix(s.do("CLIENT", "ID"), ":")
		s.do("MULTI")
		s.do("SET", "gone", strings.Repeat("x", 60<<10))
		s.nc.Close()
		other := connect(t, addr)
		for strings.Contains(other.do("CLIENT", "LIST", "ID", id), "id=") { // connect's deadline ends it
		}
		if got := other.do("EXISTS", "gone"); got != ":0" {
			t.Errorf("the queue of a client that left was run: %q", got)
		}
		if n := used(); n > 60<<10 {
			t.Errorf("a client that left leaves %d bytes taken", n)
		}
	})
	t.Run("bytes of one", func(t *testing.T) {
		_, addr := serve(t, Options{Backend: f, MaxValue: 64 << 10})
		s := connect(t, addr)
		s.do("MULTI")
		got := queuedOK
		for n := 0; got == queuedOK && n < 128; n++ {
			got = s.do("SET", "k", strings.Repeat("x", 60<<10))
		}
		if !strings.HasPrefix(got, "-TOOLARGE a transaction takes at most 4 MiB") {
			t.Errorf("a queue of more than 4 MiB: %.80q", got)
		}
		if got := s.do("SET", "k", strings.Repeat("x", 1<<20)); !strings.HasPrefix(got, "-TOOLARGE") {
			t.Errorf("a value over the limit: %.80q", got)
		}
		s.do("DISCARD")
		s.do("MULTI")
		s.do("SET", "big", strings.Repeat("x", 17<<20))
		if got := s.do("EXEC"); got != aborted {
			t.Errorf("EXEC behind a command that was not taken in: %q", got)
		}
	})
}

// Errors of the whole: what the backend says, and the transaction is over.
func TestExecThatFails(t *testing.T) {
	f := newFake()
	fail := fulcrum.Errorf(fulcrum.CodeUnavailable, "no leader")
	f.before = func(_ context.Context, _ string, ws []fulcrum.Write) error {
		if len(ws) > 0 {
			return fail
		}
		return nil
	}
	_, addr := serve(t, Options{Backend: f})
	s := connect(t, addr)
	for want, err := range map[string]*fulcrum.Error{
		"-UNAVAILABLE no leader": fulcrum.Errorf(fulcrum.CodeUnavailable, "no leader"),
		"-UNKNOWN who knows":     fulcrum.Errorf(fulcrum.CodeUnknown, "who knows"),
	} {
		fail = err
		play(t, s, []step{{"MULTI", "+OK"}, {"SET a 1", queuedOK}, {"EXEC", want}, {"EXEC", "-ERR EXEC without MULTI"}, {"RECEIPT", "-ERR no receipt..."}})
	}
	play(t, s, []step{{"MULTI", "+OK"}, {"SET a 1", queuedOK}})
	f.drop("default")
	play(t, s, []step{{"EXEC", "-ERR no keyspace has the database number 0..."}})
}

func TestClientListShowsTheQueue(t *testing.T) {
	_, addr := serve(t, Options{Backend: newFake()})
	s, other := connect(t, addr), connect(t, addr)
	id := strings.TrimPrefix(s.do("CLIENT", "ID"), ":")
	for _, step := range []struct{ send, want string }{{"PING", "multi=-1"}, {"MULTI", "multi=0"}, {"PING", "multi=1"}, {"EXEC", "multi=-1"}} {
		s.do(step.send)
		if got := other.do("CLIENT", "LIST", "ID", id); !strings.Contains(got, step.want) {
			t.Errorf("after %s: %q, want %s", step.send, got, step.want)
		}
	}
}

// goRedisTransactions drives TxPipelined and Watch; the counters of many clients that
// use optimistic locking must add up.
func goRedisTransactions(ctx context.Context, t *testing.T, rdb *redis.Client) {
	t.Helper()
	var sum *redis.IntCmd
	cmds, err := rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "tx", 1, 0)
		sum = p.IncrBy(ctx, "tx", 41)
		return nil
	})
	if err != nil || len(cmds) != 2 || sum.Val() != 42 {
		t.Errorf("TxPipelined: %d replies, the sum is %v, %v", len(cmds), sum, err)
	}
	if _, err := rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "tx", 1, 0)
		p.Keys(ctx, "*")
		return nil
	}); err == nil {
		t.Error("TxPipelined with KEYS succeeded")
	}
	err = rdb.Watch(ctx, func(tx *redis.Tx) error {
		rdb.Incr(ctx, "tx")
		_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.Set(ctx, "tx", 0, 0).Err() })
		return err
	}, "tx")
	if !errors.Is(err, redis.TxFailedErr) || rdb.Get(ctx, "tx").Val() != "43" {
		t.Errorf("Watch of a key that changed: %v, the key holds %q", err, rdb.Get(ctx, "tx").Val())
	}
	const clients, each = 4, 10
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for done := 0; done < each && ctx.Err() == nil; {
				if goRedisAdd(ctx, rdb, "tx") == nil {
					done++
				}
			}
		})
	}
	wg.Wait()
	if got := rdb.Get(ctx, "tx").Val(); got != fmt.Sprint(43+clients*each) {
		t.Errorf("%d additions under WATCH made %s", clients*each, got)
	}
	rdb.Del(ctx, "tx")
}

// goRedisAdd adds one by WATCH, GET, MULTI, SET, EXEC.
func goRedisAdd(ctx context.Context, rdb *redis.Client, key string) error {
	return rdb.Watch(ctx, func(tx *redis.Tx) error {
		n, err := tx.Get(ctx, key).Int()
		if err != nil {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.Set(ctx, key, n+1, 0).Err() })
		return err
	}, key)
}

func TestRedisCLITransaction(t *testing.T) {
	_, addr := serve(t, Options{Backend: newFake()})
	if got := toolStdin(t, "redis-cli", addr, "MULTI\nSET a 1\nINCR a\nEXEC\nGET a\n"); got != "OK\nQUEUED\nQUEUED\nOK\n2\n2" {
		t.Errorf("redis-cli: %q", got)
	}
}
