package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/local"
)

// The main job, as a user does it: start a cluster, use each mode, cut the network,
// see who answers what, heal, switch a keyspace's mode, look at the metrics, stop.
func TestMainJob(t *testing.T) {
	c := upByCommand(t)

	// Use.
	c.must("put", "-k", "cp", "balance", "100")
	var got keyResult
	if err := json.Unmarshal([]byte(c.must("get", "-k", "cp", "balance", "--receipt", "-o", "json")), &got); err != nil {
		t.Fatal(err)
	}
	if r := got.Receipt; got.Value == nil || *got.Value != "100" || r == nil || r.Given != consistency.L(consistency.Linearizable) || r.Needed != 3 || r.Acks < 3 || r.Leader == "" {
		t.Errorf("get --receipt: %+v with %+v", got, r)
	}
	c.must("put", "-k", "ap", "likes", "1")
	c.must("put", "-k", "lf", "post", "hi")
	if out := c.must("get", "-k", "lf", "post"); out != "hi" {
		t.Errorf("lf has %q", out)
	}

	// Cut.
	var side fulcrum.NodeID
	eventually(t, 10*time.Second, "status shows who leads", func() error {
		if side = c.leader("lf", "post"); side == "" {
			return errors.New("nobody does")
		}
		return nil
	})
	for _, keyspace := range []string{"cp", "ap", "lf"} {
		c.converges(keyspace, 1) // a write is on a majority when it is acknowledged; the others have it soon
	}
	c.must("fault", "partition", "n1,n2/n3,n4,n5")
	if out := c.must("fault", "list", "-o", "table"); !strings.Contains(out, "n1,n2 / n3,n4,n5") {
		t.Errorf("fault list: %s", out)
	}
	c.cutRaft()
	c.cutQuorum()
	c.cutLeader(side)

	// Heal: ap converges, and what was acknowledged at quorum is there.
	c.must("fault", "heal")
	for _, node := range c.Names() {
		for _, want := range []struct{ keyspace, key, level, value string }{{"ap", "likes", "one", "8"}, {"cp", "balance", "linearizable", "50"}, {"lf", "post", "linearizable", "hello"}} {
			eventually(t, 20*time.Second, fmt.Sprintf("%s in %s through %s at %s after healing", want.key, want.keyspace, node, want.level), func() error {
				r := c.run("get", "-k", want.keyspace, "--node", string(node), "--level", want.level, want.key)
				if r.code != exitDone || r.out != want.value {
					return fmt.Errorf("%s; want %q", r, want.value)
				}
				return nil
			})
		}
	}

	// Switch.
	if out := c.must("keyspace", "alter", "ap", "--mode", "raft", "-o", "table"); !strings.Contains(out, "runs in mode raft") {
		t.Errorf("keyspace alter: %s", out)
	}
	c.checkRedisCLI()
	c.checkHTTP()
	c.checkMetrics()
	c.checkPrometheus()

	// Stop, and start again with the data.
	c.must("down")
	c.reload()
	for _, n := range c.Nodes {
		if n.Running() {
			t.Errorf("%s runs after down", n.Name)
		}
	}
	c.must("up")
	c.reload()
	if out := c.must("get", "-k", "ap", "likes"); out != "8" {
		t.Errorf("after down and up ap has %q, want 8", out)
	}
}

// upByCommand starts five nodes with `fulcrum up`.
func upByCommand(t *testing.T) *cluster {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	var base int
	var r result
	for try := 0; try == 0 || try < 5 && strings.Contains(r.err, "cannot be used"); try++ { // somebody took a port meanwhile
		var err error
		if base, err = local.FreeBasePort(5); err != nil {
			t.Fatal(err)
		}
		r = fulcrumCommand(t, "", "up", "--data", dir, "--base-port", strconv.Itoa(base), "-o", "table")
	}
	if r.code != exitDone {
		t.Fatalf("fulcrum up: %s", r)
	}
	for _, want := range []string{"A cluster of 5 nodes is up", strconv.Itoa(base + 1), strconv.Itoa(base + 105), "default", "cp", "ap", "lf", "leader-follower", "Try next:", "fault partition"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("fulcrum up does not print %q:\n%s", want, r.out)
		}
	}
	t.Logf("fulcrum up took %s", r.took.Round(time.Millisecond))
	up, err := local.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return own(t, up)
}

// cutRaft: the minority refuses and says why, the majority goes on; what is stale
// may be read on both sides, if asked for.
func (c *cluster) cutRaft() {
	c.t.Helper()
	c.refused(exitUnavailable, []string{"2 of", "3 are needed"}, "put", "-k", "cp", "--node", "n1", "balance", "13")
	eventually(c.t, 10*time.Second, "the majority takes writes of cp", func() error { return c.try("put", "-k", "cp", "--node", "n3", "balance", "50") })
	c.refused(exitUnavailable, []string{"needed"}, "put", "-k", "cp", "--node", "n1", "balance", "13")
	c.refused(exitUnavailable, nil, "get", "-k", "cp", "--node", "n1", "balance")
	if out := c.must("get", "-k", "cp", "--node", "n3", "balance"); out != "50" {
		c.t.Errorf("the majority of cp reads %q, want 50", out)
	}
	if out := c.must("get", "-k", "cp", "--node", "n1", "--level", "one", "balance"); out == "50" {
		c.t.Errorf("the minority of cp reads %q: is there a cut?", out)
	}
}

// cutQuorum: both sides answer at level one; at quorum only the majority does.
func (c *cluster) cutQuorum() {
	c.t.Helper()
	c.must("put", "-k", "ap", "--level", "one", "--node", "n1", "likes", "7")
	if out := c.must("get", "-k", "ap", "--level", "one", "--node", "n1", "likes"); out != "7" {
		c.t.Errorf("ap on n1: %q, want 7", out)
	}
	c.must("put", "-k", "ap", "--level", "one", "--node", "n3", "likes", "8")
	if out := c.must("get", "-k", "ap", "--level", "one", "--node", "n1", "likes"); out != "7" {
		c.t.Errorf("ap on n1 after the other side wrote: %q, want 7", out)
	}
	c.refused(exitUnavailable, []string{"2 of"}, "put", "-k", "ap", "--node", "n1", "likes", "13")
	c.must("put", "-k", "ap", "--node", "n3", "likes", "8")
}

// cutLeader: the promise table for the side the leader was on when the cut came.
func (c *cluster) cutLeader(leader fulcrum.NodeID) {
	c.t.Helper()
	c.t.Logf("the leader of lf is %s", leader)
	if leader == "n1" || leader == "n2" { // its lease ends, then the majority promotes a leader
		c.eventuallyRefused(15*time.Second, nil, "put", "-k", "lf", "--node", "n1", "--level", "one", "other", "x")
	}
	c.eventuallyRefused(15*time.Second, []string{"3 are needed"}, "put", "-k", "lf", "--node", "n1", "post", "lost")
	eventually(c.t, 20*time.Second, "the majority takes writes of lf", func() error { return c.try("put", "-k", "lf", "--node", "n3", "post", "hello") })
	c.refused(exitUnavailable, nil, "get", "-k", "lf", "--node", "n1", "post")
	if out := c.must("get", "-k", "lf", "--node", "n1", "--level", "prefix", "post"); out == "hello" {
		c.t.Errorf("the minority of lf reads %q: is there a cut?", out)
	}
}

// eventuallyRefused runs a write again until it is definitely refused. Until a side
// has noticed the cut its outcome may be unknown; at quorum it must never be done.
func (c *cluster) eventuallyRefused(limit time.Duration, words []string, args ...string) {
	c.t.Helper()
	atQuorum := !strings.Contains(strings.Join(args, " "), "--level one")
	eventually(c.t, limit, "refusal of "+strings.Join(args, " "), func() error {
		r := c.run(args...)
		switch {
		case r.code == exitUnavailable:
			wantRefusal(c.t, r, exitUnavailable, words, args)
			return nil
		case r.code == exitDone && !atQuorum, r.code == exitUnknown:
			return fmt.Errorf("%s", r)
		}
		c.t.Fatalf("fulcrum %s: %s", strings.Join(args, " "), r)
		return nil
	})
}

// try runs a command and returns an error unless it succeeds.
func (c *cluster) try(args ...string) error {
	if r := c.run(args...); r.code != exitDone {
		return fmt.Errorf("fulcrum %s: %s", strings.Join(args, " "), r)
	}
	return nil
}

// checkRedisCLI reads ap, database 2, over the Redis protocol: with redis-cli where
// there is one, with go-redis in any case.
func (c *cluster) checkRedisCLI() {
	c.t.Helper()
	if got, err := c.redis("n1", 2).Get(c.t.Context(), "likes").Result(); got != "8" || err != nil {
		c.t.Errorf("go-redis: likes is %q, %v; want 8", got, err)
	}
	cli, ok := tool(c.t, "redis-cli", "go-redis was used")
	if !ok {
		return
	}
	_, port, err := cutPort(c.node("n1").RedisAddr)
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := exec.CommandContext(c.t.Context(), cli, "-p", port, "-n", "2", "get", "likes").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "8" {
		c.t.Errorf("redis-cli -p %s -n 2 get likes: %q, %v; want 8", port, out, err)
	}
}

// checkHTTP reads ap as curl does, receipt included.
func (c *cluster) checkHTTP() {
	c.t.Helper()
	status, header, body := c.get("n1", "/v1/kv/ap/likes")
	if status != http.StatusOK || body != "8" || header.Get("ETag") == "" {
		c.t.Errorf("GET /v1/kv/ap/likes: %d %q %v", status, body, header)
	}
	receipt, err := consistency.ParseHeader(header.Get("Fulcrum-Receipt"))
	if err != nil {
		c.t.Fatal(err)
	}
	for name, want := range map[string]string{"keyspace": "ap", "mode": "raft", "level": "linearizable", "given": "linearizable", "node": "n1", "needed": "3", "replicas": "5", "epoch": "2"} {
		if receipt[name] != want {
			c.t.Errorf("Fulcrum-Receipt has %s=%q, want %q: %s", name, receipt[name], want, header.Get("Fulcrum-Receipt"))
		}
	}
}
