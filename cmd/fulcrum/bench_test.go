package main

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"fulcrum/bench"
)

// The load generator on a real cluster: what it says was done is there.
func TestBench(t *testing.T) {
	t.Parallel()
	c := start(t, 3, 0)
	measure := func(code int, args ...string) bench.Result {
		t.Helper()
		got := c.run(append([]string{"bench", "-o", "json", "--warmup", "0s", "--keys", "60", "--clients", "4", "--seed", "7"}, args...)...)
		var r bench.Result
		if err := json.Unmarshal([]byte(got.out), &r); err != nil || got.code != code {
			t.Fatalf("bench %s: %s; %v; want exit code %d", strings.Join(args, " "), got, err, code)
		}
		return r
	}
	r := measure(exitDone, "-k", "cp", "--load", "--mix", "get=2,incr=1", "--ops", "300")
	if r.Operations != 300 || r.Failed != 0 || r.Kinds[0].Missing != 0 || r.Load == nil || len(r.Endpoints) != 3 || r.Latency.P99 == 0 {
		t.Errorf("%+v", r)
	}
	counted := 0
	for key, value := range c.contents("cp") {
		if strings.HasPrefix(key, "bench:n:") {
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Error(err)
			}
			counted += n
		} else if len(value) != 256 {
			t.Errorf("%s has %d bytes", key, len(value))
		}
	}
	if int64(counted) != r.Kinds[1].Operations {
		t.Errorf("the counters add up to %d, bench says %d were done", counted, r.Kinds[1].Operations)
	}
	if r := measure(exitDone, "-k", "ap", "--nodes", "n2", "--level", "one", "--mix", "set", "--pipeline", "8", "--ops", "160"); r.Operations != 160 || r.Endpoints[0] != c.node("n2").RedisAddr {
		t.Errorf("%+v", r)
	}
	if r := measure(exitDone, "--endpoint", c.Endpoints()[0], "--mix", "write", "--rate", "400", "--ops", "100"); r.Operations != 100 || len(r.Endpoints) != 3 {
		t.Errorf("%+v", r)
	}
	if r := measure(exitFailed, "-k", "ap", "--mix", "incr", "--ops", "20"); r.Failed != 20 || !strings.Contains(r.Texts["ERR"], "raft") {
		t.Errorf("counters in mode quorum: %+v", r)
	}
	c.refused(exitUsage, []string{"lease", "quorum"}, "bench", "-k", "ap", "--mix", "get", "--level", "lease")
	c.refused(exitUsage, []string{"--clients 0", "no operation"}, "bench", "--clients", "0", "--mix", "frob")
	c.refused(exitUsage, []string{"--read-level"}, "bench", "--level", "one", "--read-level", "one")
	c.refused(exitFailed, []string{"nowhere"}, "bench", "-k", "nowhere", "--ops", "1")
	c.refused(exitFailed, []string{"n9", "n1"}, "bench", "--nodes", "n9")
	c.refused(exitUnavailable, []string{"127.0.0.1:1"}, "bench", "--endpoint", "127.0.0.1:1")
	if out := c.must("bench", "-o", "table", "--ops", "50", "--warmup", "0s", "--mix", "read"); !strings.Contains(out, "P99.9") || !strings.Contains(out, "50") {
		t.Errorf("table: %s", out)
	}
}
