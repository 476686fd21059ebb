package real

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/workload"
	"fulcrum/local"
)

// redisServer answers commands, which come as arrays of bulks, as talk says; "" means
// that it closes the connection.
func redisServer(t *testing.T, talk func(args []string) string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c, talk)
		}
	}()
	return l.Addr().String()
}

func serve(c net.Conn, talk func([]string) string) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r := &redisConn{c: c, in: bufio.NewReader(c)}
	for {
		v, err := r.reply(0) // a command looks like a reply
		list, ok := v.([]any)
		if err != nil || !ok {
			return
		}
		var args []string
		for _, a := range list {
			args = append(args, a.(string))
		}
		answer := talk(args)
		if answer == "" {
			return
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

// What an answer, or its absence, says of a command.
func TestRedisOutcomes(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare, command string // answers; "": the connection breaks
		code             fulcrum.Code
	}{
		"done":                      {"+OK\r\n", ":1\r\n", ""},
		"broken before":             {"", ":1\r\n", fulcrum.CodeUnavailable},
		"refused before":            {"-LEVEL no such level\r\n", ":1\r\n", fulcrum.CodeLevel},
		"nonsense before":           {"?\r\n", ":1\r\n", fulcrum.CodeUnavailable},
		"broken after":              {"+OK\r\n", "", fulcrum.CodeUnknown},
		"half an answer":            {"+OK\r\n", ":1", fulcrum.CodeUnknown},
		"nonsense":                  {"+OK\r\n", "!1\r\n", fulcrum.CodeUnknown},
		"another type":              {"+OK\r\n", "+OK\r\n", fulcrum.CodeUnknown},
		"a huge bulk":               {"+OK\r\n", "$999999999\r\n", fulcrum.CodeUnknown},
		"not done":                  {"+OK\r\n", "-UNAVAILABLE no majority\r\n", fulcrum.CodeUnavailable},
		"not known":                 {"+OK\r\n", "-UNKNOWN no answer\r\n", fulcrum.CodeUnknown},
		"overloaded":                {"+OK\r\n", "-OVERLOADED slow down\r\n", fulcrum.CodeOverloaded},
		"too large":                 {"+OK\r\n", "-TOOLARGE\r\n", fulcrum.CodeTooLarge},
		"no integer":                {"+OK\r\n", "-ERR value is not an integer or out of range\r\n", fulcrum.CodeInvalid},
		"an error that says little": {"+OK\r\n", "-ERR something happened\r\n", fulcrum.CodeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			addr := redisServer(t, func(args []string) string {
				switch args[0] {
				case "INCRBY":
					return tc.command
				case "RECEIPT":
					if strings.HasSuffix(tc.command, "\n") {
						return "-ERR no receipt\r\n"
					}
					return ""
				}
				return tc.prepare
			})
			w := &World{at: map[fulcrum.NodeID]place{"n1": {redis: addr}}}
			c := w.Client(0).(*conn)
			defer c.close()
			rep, err := c.Do(soon(t), workload.Request{Keyspace: "k", Node: "n1", F: history.Incr, Key: "a", Value: "1"})
			if tc.code == "" {
				if err != nil || !rep.Applied {
					t.Fatalf("%+v, %v", rep, err)
				}
				return
			}
			e := fulcrum.AsError(err)
			if err == nil || e.Code != tc.code || e.Maybe != (tc.code == fulcrum.CodeUnknown) {
				t.Errorf("%v (%+v), want %s", err, e, tc.code)
			}
		})
	}
}

// A context that ends while the answer is awaited leaves the outcome open, and the
// connection is not used again: the late answer would be taken for the next one's.
func TestRedisLateAnswer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	addr := redisServer(t, func(args []string) string {
		if args[0] == "INCRBY" {
			if asked++; asked == 1 {
				cancel()
				return "-OVERLOADED for the first\r\n"[:1] // the rest never comes
			}
			return ":2\r\n"
		}
		if args[0] == "RECEIPT" {
			if asked == 1 {
				return ""
			}
			return "-ERR no receipt\r\n"
		}
		return "+OK\r\n"
	})
	w := &World{at: map[fulcrum.NodeID]place{"n1": {redis: addr}}}
	c := w.Client(0).(*conn)
	defer c.close()
	rq := workload.Request{Keyspace: "k", Node: "n1", F: history.Incr, Key: "a", Value: "1"}
	if _, err := c.Do(ctx, rq); !errors.Is(err, fulcrum.ErrUnknown) || !fulcrum.AsError(err).Maybe {
		t.Errorf("first: %v", err)
	}
	if rep, err := c.Do(soon(t), rq); err != nil || !rep.Applied {
		t.Errorf("second: %+v, %v", rep, err)
	}
}

// The receipt that RECEIPT gives in RESP2 has every field.
func TestReceiptOf(t *testing.T) {
	list := []any{"keyspace", "k", "mode", "leader-follower", "shard", int64(7), "epoch", int64(3), "level", "bounded:2s", "given", "quorum", "node", "n1", "leader", "n2",
		"acks", int64(2), "needed", int64(1), "replicas", int64(3), "version", "ff.1", "found", int64(1), "durable", "fsync", "staleness_ms", "1.5", "clock_bound_ms", "100",
		"hinted", int64(4), "repaired", int64(5), "siblings", int64(6), "latency_us", int64(250), "session", "tok"}
	want := consistency.Receipt{Keyspace: "k", Mode: consistency.LeaderFollower, Shard: 7, Epoch: 3, Level: consistency.Level{Kind: consistency.Bounded, Bound: 2 * time.Second},
		Given: consistency.L(consistency.QuorumOf), Node: "n1", Leader: "n2", Acks: 2, Needed: 1, Replicas: 3, Version: fulcrum.Version{Time: 255, Actor: 1}, Found: true,
		Durable: "fsync", Staleness: 1500 * time.Microsecond, ClockBound: 100 * time.Millisecond, Hinted: 4, Repaired: 5, Siblings: 6, Session: "tok", Latency: 250 * time.Microsecond}
	if got, err := receiptOf(list); err != nil || got != want {
		t.Errorf("%+v, %v\nwant %+v", got, err, want)
	}
	list[slices.Index(list, any("staleness_ms"))+1] = nil
	if got, err := receiptOf(list); err != nil || got.Staleness >= 0 {
		t.Errorf("staleness that is not known: %v, %v", got.Staleness, err)
	}
}

// Counters of a node add up over its lives, whether its death was seen or not.
func TestLives(t *testing.T) {
	w := &World{lives: map[fulcrum.NodeID]*life{}}
	l := w.lifeOf("n1")
	steps := []struct {
		counts map[string]int64 // nil: it died
		want   map[string]int64
	}{
		{map[string]int64{"link": 3}, map[string]int64{"link": 3}},
		{map[string]int64{"link": 5, "disk": 1}, map[string]int64{"link": 5, "disk": 1}},
		{nil, map[string]int64{"link": 5, "disk": 1}},
		{map[string]int64{"link": 2}, map[string]int64{"link": 7, "disk": 1}},
		{map[string]int64{"link": 1, "disk": 4}, map[string]int64{"link": 8, "disk": 5}}, // a life nobody saw end
		{map[string]int64{}, map[string]int64{"link": 8, "disk": 5}},
	}
	for i, s := range steps {
		if s.counts == nil {
			l.end()
		} else {
			l.update(s.counts)
		}
		got := maps.Clone(l.before)
		for k, v := range l.now {
			got[k] += v
		}
		if !maps.Equal(got, s.want) {
			t.Errorf("step %d: %v, want %v", i, got, s.want)
		}
	}
}

func TestHitsOf(t *testing.T) {
	page := "# HELP fulcrum_fault_hits_total x\n# TYPE fulcrum_fault_hits_total counter\nfulcrum_fault_hits_total{kind=\"link\"} 12\n" +
		"fulcrum_fault_hits_total{kind=\"disk\"} 1.5e+06\nfulcrum_fault_hits_total_other{kind=\"disk\"} 4\nfulcrum_faults_active{kind=\"link\"} 1\n"
	if got, want := hitsOf(page), map[string]int64{"link": 12, "disk": 1500000}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Each damage changes what it says, the same for the same seed, and nothing else.
func TestDamageOfFiles(t *testing.T) {
	make := func() string {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, logDir), 0o700))
		files := map[string][]byte{"node.log": []byte("said"), "identity.json": []byte("{}"), stateFile: bytes.Repeat([]byte{0, 7}, 500),
			"log/000009.log": bytes.Repeat([]byte("old"), 100), "log/000010.log": bytes.Repeat([]byte("new"), 100), "log/000008.sst": bytes.Repeat([]byte("table"), 100)}
		for name, b := range files {
			must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
		}
		return dir
	}
	for _, what := range []nemesis.Damage{nemesis.TornTail, nemesis.BitFlip, nemesis.Wipe} {
		for seed := range uint64(20) {
			before, a, b := filesIn(t, make()), make(), make()
			for _, dir := range []string{a, b} {
				must(t, damage(local.Node{Dir: dir, Log: filepath.Join(dir, "node.log")}, what, rand.New(rand.NewPCG(seed, 0))))
			}
			after := filesIn(t, a)
			if !maps.Equal(after, filesIn(t, b)) {
				t.Errorf("%s, seed %d: not the same each time", what, seed)
			}
			switch what {
			case nemesis.TornTail:
				tail, kept := strings.CutPrefix(after["log/000010.log"], before["log/000010.log"])
				if !kept || tail == "" {
					t.Errorf("seed %d: the newest log: %d bytes, were %d", seed, len(after["log/000010.log"]), len(before["log/000010.log"]))
				}
				after["log/000010.log"] = before["log/000010.log"]
				if !maps.Equal(after, before) {
					t.Errorf("seed %d: more than the newest log changed", seed)
				}
			case nemesis.BitFlip:
				if n := differingBits(before, after); n != 1 {
					t.Errorf("seed %d: %d bits differ", seed, n)
				}
			case nemesis.Wipe:
				if !maps.Equal(after, map[string]string{"node.log": "said"}) {
					t.Errorf("left: %v", slices.Collect(maps.Keys(after)))
				}
			}
		}
	}
	if err := damage(local.Node{Dir: make()}, "curse", nil); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("a damage that there is not: %v", err)
	}
}

func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[name] = string(b)
		return err
	}))
	return out
}

func differingBits(a, b map[string]string) (n int) {
	for name := range a {
		if len(a[name]) != len(b[name]) {
			return -1
		}
		for i := range a[name] {
			for x := a[name][i] ^ b[name][i]; x != 0; x &= x - 1 {
				n++
			}
		}
	}
	return n
}

// The leader is whom most name; who names none does not count.
func TestMost(t *testing.T) {
	for want, votes := range map[fulcrum.NodeID]map[fulcrum.NodeID]int{
		"": {"": 3}, "n2": {"": 3, "n2": 1}, "n1": {"n1": 2, "n2": 1}, "n3": {"n4": 1, "n3": 1},
	} {
		if got := most(votes); got != want {
			t.Errorf("%v: %q, want %q", votes, got, want)
		}
	}
}

// What a cluster cannot do is said before it is tried.
func TestCan(t *testing.T) {
	attached := &World{opt: Options{Endpoints: []string{"localhost:1"}}, tame: true}
	for what, w := range map[string]*World{"faults": attached, "kill": attached, "packets": {}, "dance": {}} {
		if err := w.Can(what); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, what := range []string{"faults", "kill", "pause", "damage", "switch"} {
		if err := new(World).Can(what); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
