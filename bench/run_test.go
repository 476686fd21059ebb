package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fulcrum"
	"fulcrum/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are those of a command line.
func options(t *testing.T, args ...string) bench.Options {
	t.Helper()
	var o bench.Options
	if err := newFlags(&o).Parse(append([]string{"--warmup", "0s"}, args...)); err != nil {
		t.Fatal(err)
	}
	return o
}

func newFlags(o *bench.Options) *flag.FlagSet {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	o.Flags(f)
	return f
}

func run(t *testing.T, f *fake, args ...string) *bench.Result {
	t.Helper()
	o := options(t, args...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := bench.Run(ctx, o, &bench.Redis{Addrs: []string{f.addr}, Options: o}, bench.Progress{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Every operation is sent once and counted once, whatever it is.
func TestCountsAreExact(t *testing.T) {
	const ops = 4000
	for _, pipeline := range []string{"1", "7"} {
		t.Run("pipeline "+pipeline, func(t *testing.T) {
			f := serve(t, nil)
			r := run(t, f, "--clients", "5", "--pipeline", pipeline, "--ops", fmt.Sprint(ops), "--keys", "50", "--load", "--value-size", "0-300",
				"--mix", "get=3,set=2,setex,setnx,getset,del,exists,incr,append,ping,mget:3,mset:4,setwait:2")
			if r.Operations != ops || r.Failed != 0 || len(r.Errors) != 0 || r.NotSent != 0 || r.Interrupted {
				t.Errorf("%d done, %d failed (%v), %d not sent, interrupted %t; want all of %d", r.Operations, r.Failed, r.Errors, r.NotSent, r.Interrupted, ops)
			}
			sum := int64(0)
			sent := map[string]int64{"SET": 50} // loaded
			for _, k := range r.Kinds {
				sum += k.Operations
				name, _, _ := strings.Cut(strings.ToUpper(k.Kind), ":")
				if name == "SETWAIT" {
					name, sent["WAIT"] = "SET", k.Operations
				}
				sent[name] += k.Operations
			}
			if sum != ops {
				t.Errorf("the kinds have %d operations, want %d", sum, ops)
			}
			for name, n := range sent {
				if f.count(name) != n || n == 0 {
					t.Errorf("%s: counted %d, the server got %d", name, n, f.count(name))
				}
			}
			if r.Load == nil || r.Load.Keys != 50 || r.Load.Retries != 0 {
				t.Errorf("load: %+v", r.Load)
			}
		})
	}
}

// A mix is what was asked for: within five standard deviations.
func TestMixKeepsItsRatios(t *testing.T) {
	r := run(t, serve(t, nil), "--clients", "4", "--pipeline", "16", "--ops", "20000", "--mix", "get=95,set=5")
	for i, want := range []int64{19000, 1000} {
		if got := r.Kinds[i].Operations; got < want-155 || got > want+155 {
			t.Errorf("%s: %d of 20000, want about %d", r.Kinds[i].Kind, got, want)
		}
	}
	if got := r.Kinds[0].Missing; got == 0 {
		t.Errorf("of %d gets of keys that were never loaded none is missing", r.Kinds[0].Operations)
	}
}

// A server that stands still for 200 ms delays one operation for each client of a closed
// loop, and in an open one all that were due meanwhile: these have to be in the
// percentiles (coordinated omission).
func TestAStallShowsInTheOpenLoop(t *testing.T) {
	const stall = 200 * time.Millisecond
	stalling := func() func([]string) string {
		var n atomic.Int64
		var lock sync.RWMutex
		return func([]string) string {
			if n.Add(1) == 500 {
				lock.Lock()
				time.Sleep(stall)
				lock.Unlock()
			}
			lock.RLock()
			defer lock.RUnlock()
			return ""
		}
	}
	open := run(t, serve(t, stalling()), "--clients", "2", "--rate", "1000", "--ops", "2000", "--mix", "get")
	if open.Operations != 2000 || open.NotSent != 0 {
		t.Fatalf("%d operations, %d not sent, want 2000 and 0", open.Operations, open.NotSent)
	}
	// 200 of 2000 operations fell into the stall, and the last of them waited least.
	if open.Latency.P99 < 150_000 {
		t.Errorf("open loop: p99 is %d µs; the stall of 200 ms is not in it", open.Latency.P99)
	}
	if open.Latency.Max < 190_000 {
		t.Errorf("open loop: max is %d µs", open.Latency.Max)
	}
	if open.Seconds < 1.9 {
		t.Errorf("2000 operations at 1000 a second took %.2f s: they came before they were due", open.Seconds)
	}
	closed := run(t, serve(t, stalling()), "--clients", "2", "--ops", "2000", "--mix", "get")
	if closed.Latency.Max < 190_000 || closed.Latency.P99 >= open.Latency.P99 {
		t.Errorf("closed loop: p99 %d µs, max %d µs; want one slow operation a client and p99 below the open loop's %d", closed.Latency.P99, closed.Latency.Max, open.Latency.P99)
	}
}

// A store that cannot keep up: what was due and never sent is told, not forgotten.
func TestWhatWasNotSentIsCounted(t *testing.T) {
	f := serve(t, func([]string) string { time.Sleep(10 * time.Millisecond); return "" })
	r := run(t, f, "--clients", "1", "--rate", "2000", "--duration", "500ms", "--op-timeout", "200ms", "--mix", "get")
	if r.NotSent == 0 || r.Operations+r.Failed+r.NotSent != 1000 {
		t.Errorf("%d done, %d failed, %d not sent: want 1000 in all, most of them not sent", r.Operations, r.Failed, r.NotSent)
	}
}

// Errors are counted by prefix and apart from latencies.
func TestErrorsAreCountedApart(t *testing.T) {
	answers := []string{"", "-UNAVAILABLE 1 of 2\r\n", "-UNKNOWN the outcome\r\n", "-OVERLOADED\r\n", "-ERR no\r\n", "-strange words\r\n",
		":7\r\n", "+OK\r\n", "*0\r\n", "*-1\r\n", "*1\r\n-LEVEL inside\r\n"}
	var n atomic.Int64
	f := serve(t, func([]string) string { return answers[int(n.Add(1)-1)%len(answers)] })
	r := run(t, f, "--clients", "3", "--pipeline", "4", "--ops", "1100", "--mix", "get")
	want := map[string]int64{"UNAVAILABLE": 100, "UNKNOWN": 100, "OVERLOADED": 100, "ERR": 200, "REPLY": 400, "LEVEL": 100}
	if !reflect.DeepEqual(r.Errors, want) || r.Operations != 100 || r.Failed != 1000 {
		t.Errorf("errors %v, %d done; want %v and 100", r.Errors, r.Operations, want)
	}
	if r.Texts["UNAVAILABLE"] != "UNAVAILABLE 1 of 2" || r.Texts["LEVEL"] != "LEVEL inside" || len(r.Texts) != 5 {
		t.Errorf("texts of the errors: %q", r.Texts)
	}
}

// What is no protocol, and connections that end, cost one connection, not the run.
func TestOddRepliesAndLostConnections(t *testing.T) {
	for name, odd := range map[string]string{
		"a connection that ends": "!", "no protocol": "HTTP/1.1 400 Bad Request\r\n\r\n", "a length that is none": "$x\r\n", "a negative length": "$-7\r\n",
		"an endless array": "*999999999999\r\n", "a huge string": "$99999999999999\r\n", "a number too large": ":99999999999999999999\r\n",
		"deep arrays": strings.Repeat("*1\r\n", 50) + "$-1\r\n", "an empty line": "\r\n", "a string of another length": "$3\r\nabcdef\r\n", "an endless line": "+" + strings.Repeat("x", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			f := serve(t, func([]string) string {
				if n.Add(1)%10 == 0 {
					return odd
				}
				return ""
			})
			r := run(t, f, "--clients", "2", "--ops", "100", "--mix", "get", "--op-timeout", "2s")
			lost := r.Errors[bench.ErrConnection] + r.Errors[bench.ErrReply]
			if r.Operations+r.Failed != 100 || lost != r.Failed || lost < 5 {
				t.Errorf("%d done, errors %v; want 100 in all, about ten lost", r.Operations, r.Errors)
			}
		})
	}
}

func TestAnOperationIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	var n atomic.Int64
	f := serve(t, func([]string) string {
		if n.Add(1) == 3 {
			<-release
		}
		return ""
	})
	defer close(release)
	r := run(t, f, "--clients", "1", "--ops", "10", "--mix", "get", "--op-timeout", "100ms")
	if r.Operations != 9 || r.Errors[bench.ErrTimeout] != 1 {
		t.Errorf("%d done, errors %v; want 9 and one TIMEOUT", r.Operations, r.Errors)
	}
}

// A batch larger than all buffers between must not wait for a server that waits for
// somebody to read.
func TestLargeBatchesDoNotLock(t *testing.T) {
	r := run(t, serve(t, nil), "--clients", "2", "--pipeline", "64", "--ops", "256", "--keys", "4", "--load", "--value-size", "1000000", "--mix", "getset")
	if r.Operations != 256 {
		t.Errorf("%d done, errors %v; want 256", r.Operations, r.Errors)
	}
}

func TestInterruptionReturnsWhatWasMeasured(t *testing.T) {
	for _, args := range [][]string{{"--duration", "1h"}, {"--duration", "1h", "--rate", "500"}} {
		ctx, cancel := context.WithCancel(t.Context())
		var n atomic.Int64
		f := serve(t, func([]string) string {
			if n.Add(1) == 300 {
				cancel()
			}
			return ""
		})
		o := options(t, append(args, "--mix", "get", "--clients", "3")...)
		r, err := bench.Run(ctx, o, &bench.Redis{Addrs: []string{f.addr}, Options: o}, bench.Progress{})
		if err != nil || !r.Interrupted || r.Operations < 290 || r.Failed != 0 {
			t.Errorf("%v: %+v, %v; want about 300 operations, none failed", args, r, err)
		}
		cancel()
	}
}

func TestConnectionsBeginAsAsked(t *testing.T) {
	var mu sync.Mutex
	var got []string
	note := func(a []string) string {
		mu.Lock()
		defer mu.Unlock()
		if a[0] != "GET" {
			got = append(got, strings.Join(a, " "))
		}
		return ""
	}
	f := serve(t, note)
	run(t, f, "--clients", "1", "--ops", "1", "--mix", "get", "--read-level", "one", "--write-level", "quorum")
	o := options(t, "--clients", "1", "--ops", "1", "--mix", "get")
	for _, ks := range []string{"2", "cp"} {
		o.Keyspace = ks
		if _, err := bench.Run(t.Context(), o, &bench.Redis{Addrs: []string{f.addr}, Options: o}, bench.Progress{}); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"CONSISTENCY READ one WRITE quorum", "SELECT 2", "KEYSPACE cp"}; !slices.Equal(got, want) {
		t.Errorf("connections began with %q, want %q", got, want)
	}
}

func TestRefusedAndUnreachable(t *testing.T) {
	f := serve(t, func(a []string) string {
		if a[0] == "CONSISTENCY" {
			return "-LEVEL raft does not offer two\r\n"
		}
		return ""
	})
	o := options(t, "--read-level", "two", "--ops", "1")
	_, err := bench.Run(t.Context(), o, &bench.Redis{Addrs: []string{f.addr}, Options: o}, bench.Progress{})
	if e := fulcrum.AsError(err); e == nil || e.Code != fulcrum.CodeLevel || !strings.Contains(e.Error(), "does not offer two") {
		t.Errorf("a level that is refused: %v", err)
	}
	o = options(t, "--ops", "1")
	_, err = bench.Run(t.Context(), o, &bench.Redis{Addrs: []string{"127.0.0.1:1"}, Options: o}, bench.Progress{})
	if !errors.Is(err, fulcrum.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	both := &bench.Redis{Addrs: []string{"127.0.0.1:1", serve(t, nil).addr}, Options: o}
	if r, err := bench.Run(t.Context(), o, both, bench.Progress{}); err != nil || r.Operations != 1 {
		t.Errorf("one of two nodes there: %+v, %v", r, err)
	}
	if dead, err := both.Reachable(t.Context()); err != nil || len(dead) != 1 || dead["127.0.0.1:1"] == nil {
		t.Errorf("Reachable: %v, %v", dead, err)
	}
}

// Loading goes on when a node answers again, and gives up when none ever does.
func TestLoadRetries(t *testing.T) {
	var n atomic.Int64
	f := serve(t, func(a []string) string {
		if a[0] == "SET" && n.Add(1)%40 == 7 {
			return "-UNAVAILABLE no leader\r\n"
		}
		return ""
	})
	r := run(t, f, "--clients", "2", "--load", "--keys", "200", "--ops", "200", "--mix", "get")
	if r.Load.Retries == 0 || r.Kinds[0].Missing != 0 || len(f.data) != 200 {
		t.Errorf("load %+v, %d of 200 keys there, %d missing", r.Load, len(f.data), r.Kinds[0].Missing)
	}
}

func TestWarmupIsNotMeasured(t *testing.T) {
	f := serve(t, nil)
	r := run(t, f, "--clients", "2", "--ops", "100", "--mix", "get", "--warmup", "100ms")
	if r.Operations != 100 || r.Warmup == 0 || f.count("GET") != 100+r.Warmup {
		t.Errorf("%d measured, %d before; the server got %d", r.Operations, r.Warmup, f.count("GET"))
	}
}

// The names in the JSON are what programs rely on.
func TestJSONIsStable(t *testing.T) {
	f := serve(t, nil)
	r := run(t, f, "--clients", "2", "--ops", "100", "--keys", "10", "--mix", "get,set", "--load", "--seed", "5", "--value-size", "10-20")
	r.Version, r.Target, r.Endpoints, r.Series = "v1", "redis", []string{f.addr}, []bench.Second{{At: 1, Errors: map[string]int64{"ERR": 1}}}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(b, &tree); err != nil {
		t.Fatal(err)
	}
	latency := []string{"max_us", "mean_us", "p50_us", "p90_us", "p999_us", "p99_us"}
	for path, want := range map[string][]string{
		"": {"began", "endpoints", "errors", "failed", "interrupted", "kinds", "latency", "load", "not_sent", "operations", "ops_per_second",
			"options", "seconds", "series", "target", "version", "warmup_operations"},
		"latency":         latency,
		"kinds/0":         {"errors", "kind", "latency", "missing", "operations", "ops_per_second"},
		"kinds/0/latency": latency,
		"load":            {"keys", "ops_per_second", "retries", "seconds"},
		"series/0":        {"at", "errors", "ops_per_second", "p50_us", "p99_us"},
		"options": {"clients", "duration", "key_prefix", "keys", "load", "mix", "op_timeout", "ops", "pipeline", "rate", "seed", "value_size",
			"warmup", "zipf"},
	} {
		if got := names(tree, path); !slices.Equal(got, want) {
			t.Errorf("%q has the fields %q, want %q", path, got, want)
		}
	}
	var back bench.Result
	if err := json.Unmarshal(b, &back); err != nil || back.Options != r.Options || back.Kinds[1].Operations != r.Kinds[1].Operations {
		t.Errorf("read again: %+v, %v", back, err)
	}
}

// names lists the fields of what a path leads to.
func names(tree any, path string) []string {
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' }) {
		if list, ok := tree.([]any); ok {
			tree = list[0]
			continue
		}
		tree = tree.(map[string]any)[step]
	}
	var out []string
	for name := range tree.(map[string]any) {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
