package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/local"
	httpapi "fulcrum/node/api/http"
)

const keyLimit, valueLimit = fulcrum.MaxKeyBytes, fulcrum.DefaultMaxValue

// Whatever is wrong gets a clear error, changes nothing, and no node goes down.
func TestBadInput(t *testing.T) {
	t.Parallel()
	c := start(t, 3, 0)
	for _, keyspace := range []string{"default", "cp", "ap", "lf"} {
		c.must("put", "-k", keyspace, "there", "before")
	}
	c.must("put", "-k", "cp", "word", "hello")
	before, settings, pids := c.everything(), c.keyspacesOf(), fmt.Sprint(c.pids())
	c.badCommands()
	c.badRedis()
	c.badHTTP()
	c.badPeers()
	if after := fmt.Sprint(c.pids()); after != pids {
		t.Errorf("processes were %s and are %s", pids, after)
	}
	c.badServe()
	c.secondSwitch()
	if after := c.everything(); !maps.Equal(before, after) {
		t.Errorf("bad input changed data: %s", difference(before, after))
	}
	if after := c.keyspacesOf(); settings != after {
		t.Errorf("bad input changed keyspaces from\n%s to\n%s", settings, after)
	}
	if faults := c.must("fault", "list", "-o", "json"); faults != "[]" {
		t.Errorf("bad input left faults: %s", faults)
	}
	if n := len(c.pids()); n != 3 {
		t.Errorf("%d of 3 processes run", n)
	}
}

// everything is all data of all keyspaces.
func (c *cluster) everything() map[string]string {
	c.t.Helper()
	all := map[string]string{}
	for _, keyspace := range []string{"default", "cp", "ap", "lf"} {
		for key, value := range c.contents(keyspace) {
			all[keyspace+"/"+key] = value
		}
	}
	return all
}

// pids are the processes that run.
func (c *cluster) pids() []int {
	var out []int
	for i := range c.Nodes {
		if c.Nodes[i].Running() {
			out = append(out, c.Nodes[i].PID)
		}
	}
	return out
}

func (c *cluster) badCommands() {
	long := strings.Repeat("k", keyLimit+1)
	for _, tt := range []struct {
		what string
		code int
		says []string
		args []string
	}{
		{"an unknown command", exitUsage, []string{"frobnicate"}, []string{"frobnicate"}},
		{"an unknown subcommand", exitUsage, []string{"frob", "partition"}, []string{"fault", "frob"}},
		{"an unknown flag", exitUsage, []string{"--colour"}, []string{"get", "--colour", "there"}},
		{"an unknown output", exitUsage, []string{"table", "json"}, []string{"status", "-o", "xml"}},
		{"a missing argument", exitUsage, []string{"put --help"}, []string{"put", "there"}},
		{"an unknown keyspace", exitFailed, []string{"nowhere"}, []string{"get", "-k", "nowhere", "there"}},
		{"an unknown mode", exitUsage, []string{"paxos", "raft", "quorum", "leader-follower"}, []string{"keyspace", "alter", "cp", "--mode", "paxos"}},
		{"an unknown mode of levels", exitUsage, []string{"paxos", "raft"}, []string{"levels", "--mode", "paxos"}},
		{"an unknown level", exitUsage, []string{"mostly", "linearizable"}, []string{"put", "-k", "cp", "--level", "mostly", "there", "x"}},
		{"a bound that is none", exitUsage, []string{"bounded:DURATION"}, []string{"get", "--level", "bounded:soon", "there"}},
		{"a write level that raft does not offer", exitUsage, []string{"all", "quorum"}, []string{"put", "-k", "cp", "--level", "all", "there", "x"}},
		{"a read level that quorum does not offer", exitUsage, []string{"lease", "linearizable"}, []string{"get", "-k", "ap", "--level", "lease", "there"}},
		{"a write level that leader-follower does not offer", exitUsage, []string{"any", "two"}, []string{"put", "-k", "lf", "--level", "any", "there", "x"}},
		{"a default level that the mode does not offer", exitUsage, []string{"all"}, []string{"keyspace", "alter", "cp", "--write-level", "all"}},
		{"an atomic step that the mode cannot do", exitUsage, []string{"raft"}, []string{"incr", "-k", "ap", "n"}},
		{"an empty key", exitUsage, []string{"key"}, []string{"put", "", "x"}},
		{"a key over the limit", exitFailed, []string{"8192"}, []string{"put", long, "x"}},
		{"a number that is a word", exitUsage, []string{"integer"}, []string{"incr", "-k", "cp", "word"}},
		{"a negative number that looks like a flag", exitUsage, []string{"-- -5"}, []string{"incr", "-k", "cp", "n", "-5"}},
		{"a time to live of nothing", exitUsage, []string{"--ttl", "positive"}, []string{"put", "--ttl", "0s", "there", "x"}},
		{"deleting another version", exitFailed, []string{"precondition"}, []string{"delete", "-k", "cp", "--version", "1.1", "there"}},
		{"deleting what must be there and is not", exitFailed, []string{"precondition"}, []string{"delete", "-k", "cp", "--if-present", "absent"}},
		{"deleting a version that is none", exitUsage, []string{"version"}, []string{"delete", "-k", "cp", "--version", "", "there"}},
		{"deleting on two conditions", exitUsage, []string{"--if-present"}, []string{"delete", "-k", "cp", "--version", "1.1", "--if-present", "there"}},
		{"an id that is too long", exitUsage, []string{"1 to 119"}, []string{"put", "-k", "cp", "--request-id", strings.Repeat("x", 120), "there", "x"}},
		{"an unknown node", exitFailed, []string{"n9", "n1"}, []string{"get", "--node", "n9", "there"}},
		{"an unknown node to kill", exitFailed, []string{"n9"}, []string{"node", "kill", "n9"}},
		{"a partition that names an unknown node", exitUsage, []string{"n9"}, []string{"fault", "partition", "n1/n2,n9"}},
		{"a partition that names a node twice", exitUsage, []string{"n2"}, []string{"fault", "partition", "n1,n2/n2,n3"}},
		{"a partition with one side", exitUsage, []string{"/"}, []string{"fault", "partition", "n1,n2"}},
		{"an isolated node that is unknown", exitUsage, []string{"n9"}, []string{"fault", "isolate", "n9"}},
		{"a link from a node to itself", exitUsage, []string{"n1"}, []string{"fault", "link", "n1", "n1", "--drop"}},
		{"a loss over all", exitUsage, []string{"130%"}, []string{"fault", "link", "n1", "n2", "--loss", "130%"}},
		{"a keyspace that exists", exitFailed, []string{"cp"}, []string{"keyspace", "create", "cp"}},
		{"a keyspace name that is none", exitUsage, []string{"name"}, []string{"keyspace", "create", "no/name"}},
		{"a keyspace without shards", exitUsage, []string{"shards"}, []string{"keyspace", "create", "none", "--shards", "-1"}},
		{"a keyspace of no shards", exitUsage, []string{"--shards 0"}, []string{"keyspace", "create", "none", "--shards", "0"}},
		{"a keyspace without replicas", exitUsage, []string{"--replicas 0"}, []string{"keyspace", "create", "none", "--replicas", "0"}},
		{"a cluster without nodes", exitUsage, []string{"--nodes 0"}, []string{"up", "--nodes", "0"}},
		{"a cluster without ports", exitUsage, []string{"--base-port 0"}, []string{"up", "--base-port", "0"}},
		{"dropping without --yes", exitUsage, []string{"--yes"}, []string{"keyspace", "drop", "cp"}},
		{"dropping what is not there", exitFailed, []string{"nowhere"}, []string{"keyspace", "drop", "nowhere", "--yes"}},
		{"nothing to alter", exitUsage, []string{"--mode"}, []string{"keyspace", "alter", "cp"}},
		{"an endpoint that is none", exitUsage, []string{"endpoint"}, []string{"status", "--endpoint", "http://::bad"}},
		{"an endpoint where nobody is", exitUnavailable, []string{"127.0.0.1:1"}, []string{"status", "--endpoint", "127.0.0.1:1", "--timeout", "2s"}},
		{"up where a cluster runs", exitFailed, []string{"running already"}, []string{"up"}},
		{"adding a node with a name that is used", exitFailed, []string{"n2"}, []string{"node", "add", "n2"}},
	} {
		r := c.run(tt.args...)
		for i, a := range tt.args {
			if len(a) > 100 {
				tt.args[i] = a[:20] + "..."
			}
		}
		c.t.Run(tt.what, func(t *testing.T) { wantRefusal(t, r, tt.code, tt.says, tt.args) })
	}
	r := fulcrumCommand(c.t, strings.Repeat("v", valueLimit+1), "--data", c.Dir, "put", "there", "-")
	wantRefusal(c.t, r, exitFailed, []string{"1048576"}, []string{"put", "a value over the limit"})
}

// badRedis sends raw bytes, each over a connection of its own.
func (c *cluster) badRedis() {
	bulk := func(args ...string) string {
		var b strings.Builder
		fmt.Fprintf(&b, "*%d\r\n", len(args))
		for _, a := range args {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
		}
		return b.String()
	}
	for _, tt := range []struct{ what, send, want string }{
		{"an unknown command", bulk("FROB", "x"), "-ERR unknown command"},
		{"too few arguments", bulk("SET", "there"), "-ERR wrong number of arguments"},
		{"too many arguments", bulk("GET", "a", "b"), "-ERR wrong number of arguments"},
		{"an unknown database", bulk("SELECT", "99"), "-ERR"},
		{"an unknown keyspace", bulk("KEYSPACE", "nowhere"), "-ERR"},
		{"an unknown level", bulk("CONSISTENCY", "READ", "mostly"), "-"},
		{"a level that the mode does not offer", bulk("CONSISTENCY", "WRITE", "all"), "-LEVEL"},
		{"an empty key", bulk("SET", "", "x"), "-ERR"},
		{"a key over the limit", bulk("SET", strings.Repeat("k", keyLimit+1), "x"), "-TOOLARGE"},
		{"a value over the limit", bulk("SET", "there", strings.Repeat("v", valueLimit+1)), "-TOOLARGE"},
		{"a number that is a word", bulk("INCR", "there"), "-ERR value is not an integer"},
		{"an option that is none", bulk("SET", "there", "x", "SOMETIMES"), "-ERR syntax error"},
		{"an expiry that is past", bulk("SET", "there", "x", "EX", "0"), "-ERR"},
		{"a bulk length that is negative", "*1\r\n$-5\r\n", "-ERR Protocol error"},
		{"a bulk length that is a word", "*1\r\n$abc\r\n", "-ERR Protocol error"},
		{"more arguments than there can be", "*99999999999\r\n", "-ERR Protocol error"},
		{"a bulk that is longer than it says", "*1\r\n$3\r\nPINGPING\r\n", "-ERR Protocol error"},
		{"an inline command without an end to its quotes", "GET \"there\r\n", "-ERR Protocol error"},
		{"a line without end", strings.Repeat("x", 1<<17), "-ERR Protocol error"},
	} {
		c.t.Run("Redis/"+tt.what, func(t *testing.T) {
			line, err := sendRaw(c.node("n1").RedisAddr, tt.send)
			if err != nil || !strings.HasPrefix(line, tt.want) || len(strings.TrimSpace(line)) < 8 {
				t.Errorf("answer %q, %v; want %s and a reason", line, err, tt.want)
			}
		})
	}
	if line, err := sendRaw(c.node("n1").RedisAddr, bulk("PING")); line != "+PONG\r\n" {
		c.t.Errorf("after all that PING answers %q, %v", line, err)
	}
}

// sendRaw sends bytes on a new connection and reads the first line of the answer.
func sendRaw(addr, send string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	go func() { _, _ = io.WriteString(conn, send) }() // the other side may stop reading and answer
	return bufio.NewReader(conn).ReadString('\n')
}

func (c *cluster) badHTTP() {
	big := strings.Repeat("v", valueLimit+1)
	for _, tt := range []struct {
		what, method, path, body string
		status                   int
		code                     fulcrum.Code
	}{
		{"an unknown path", "GET", "/v2/kv", "", 404, fulcrum.CodeNotFound},
		{"an unknown keyspace", "GET", "/v1/kv/nowhere/there", "", 404, fulcrum.CodeNotFound},
		{"a method that is none", "PATCH", "/v1/kv/cp/there", "", 405, fulcrum.CodeInvalid},
		{"an unknown level", "PUT", "/v1/kv/cp/there?level=mostly", "x", 400, fulcrum.CodeLevel},
		{"a level that the mode does not offer", "PUT", "/v1/kv/cp/there?level=all", "x", 400, fulcrum.CodeLevel},
		{"an unknown parameter", "PUT", "/v1/kv/cp/there?tll=5s", "x", 400, fulcrum.CodeInvalid},
		{"a time to live that is none", "PUT", "/v1/kv/cp/there?ttl=soon", "x", 400, fulcrum.CodeInvalid},
		{"a time to live that is empty", "PUT", "/v1/kv/cp/there?ttl=", "x", 400, fulcrum.CodeInvalid},
		{"a level that is empty", "PUT", "/v1/kv/cp/there?level=", "x", 400, fulcrum.CodeInvalid},
		{"a keyspace of no shards", "POST", "/v1/keyspaces", `{"name":"x","shards":0}`, 400, fulcrum.CodeInvalid},
		{"an empty key", "PUT", "/v1/kv/cp/", "x", 400, fulcrum.CodeInvalid},
		{"a key over the limit", "PUT", "/v1/kv/cp/" + strings.Repeat("k", keyLimit+1), "x", 413, fulcrum.CodeTooLarge},
		{"a value over the limit", "PUT", "/v1/kv/cp/there", big, 413, fulcrum.CodeTooLarge},
		{"a body that is no JSON", "POST", "/v1/keyspaces", "{", 400, fulcrum.CodeInvalid},
		{"a body with an unknown field", "POST", "/v1/keyspaces", `{"name":"x","colour":"red"}`, 400, fulcrum.CodeInvalid},
		{"a keyspace that exists", "POST", "/v1/keyspaces", `{"name":"cp"}`, 409, fulcrum.CodeExists},
		{"an unknown mode", "PATCH", "/v1/keyspaces/cp", `{"mode":"paxos"}`, 400, fulcrum.CodeInvalid},
		{"nothing to alter", "PATCH", "/v1/keyspaces/cp", `{}`, 400, fulcrum.CodeInvalid},
		{"a fault of no kind", "POST", "/v1/faults", `{"kind":"gremlin"}`, 400, fulcrum.CodeInvalid},
		{"a partition that names an unknown node", "POST", "/v1/faults", `{"kind":"partition","sides":[["n1"],["n9"]]}`, 400, fulcrum.CodeInvalid},
		{"removing an unknown node", "DELETE", "/v1/nodes/n9", "", 404, fulcrum.CodeNotFound},
	} {
		c.t.Run("HTTP/"+tt.what, func(t *testing.T) {
			status, header, body, err := fetch(t.Context(), tt.method, "http://"+c.node("n2").HTTPAddr+tt.path, tt.body)
			if err != nil {
				t.Fatal(err)
			}
			var p httpapi.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil || header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%d, no problem: %v: %s", status, err, body)
			}
			if status != tt.status || p.Code != tt.code || p.Outcome != "not-applied" || p.Detail == "" {
				t.Errorf("%d %+v; want %d and code %s", status, p, tt.status, tt.code)
			}
			if tt.what == "a level that the mode does not offer" && len(p.Levels) == 0 {
				t.Errorf("the levels that there are, are not listed: %s", body)
			}
		})
	}
	line, err := sendRaw(c.node("n2").HTTPAddr, "GET / HTTP/9.9 what\r\n\r\n")
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 400") {
		c.t.Errorf("a malformed request line: %q, %v", line, err)
	}
}

// badPeers sends noise to the ports on which nodes talk.
func (c *cluster) badPeers() {
	n := c.node("n3")
	for _, addr := range []string{n.PeerAddr, n.GossipAddr} {
		for _, noise := range []string{"GET / HTTP/1.1\r\n\r\n", strings.Repeat("\xff", 1<<16), strings.Repeat("\x00", 1<<16)} {
			conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
			if err != nil {
				c.t.Fatalf("%s: %v", addr, err)
			}
			_ = conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
			_, _ = io.WriteString(conn, noise)
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}
	conn, err := net.Dial("udp", n.GossipAddr)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	for range 10 {
		_, _ = io.WriteString(conn, strings.Repeat("\xff", 1200))
	}
	c.must("put", "-k", "cp", "--node", "n3", "there", "before")
}

// badServe starts nodes that must not start: each ends with a reason.
func (c *cluster) badServe() {
	n1 := c.node("n1")
	free := filepath.Join(c.t.TempDir(), "free")
	peers := fmt.Sprintf("n1=%s,n2=%s,n3=%s", n1.PeerAddr, c.node("n2").PeerAddr, c.node("n3").PeerAddr)
	ports := func() []string {
		var out []string
		for _, flag := range []string{"--redis-addr", "--http-addr", "--peer-addr", "--gossip-addr"} {
			out = append(out, flag, freeAddr(c.t))
		}
		return out
	}
	serve := func(name, id, dir string, more ...string) []string {
		return append([]string{"serve", "--name", name, "--cluster-id", id, "--data", dir, "--join", peers}, more...)
	}
	stopped := c.stoppedNode()
	tests := []struct {
		what string
		code int
		says []string
		args []string
	}{
		{"a taken port", exitFailed, []string{n1.RedisAddr}, serve("n8", c.ID, free, append(ports(), "--redis-addr", n1.RedisAddr)...)},
		{"a data directory in use", exitFailed, []string{n1.Dir}, serve("n1", c.ID, n1.Dir, ports()...)},
		{"a data directory of another cluster", exitUsage, []string{c.ID}, serve(string(stopped.Name), "other", stopped.Dir, ports()...)},
		{"a data directory of another node", exitUsage, []string{string(stopped.Name)}, serve("n8", c.ID, stopped.Dir, ports()...)},
		{"a node name used twice", exitFailed, []string{"n1"}, serve("n1", c.ID, free, ports()...)},
		{"no name", exitUsage, []string{"--name"}, []string{"serve", "--cluster-id", "x"}},
		{"a name that is none", exitUsage, []string{"no/name"}, serve("no/name", c.ID, free, ports()...)},
		{"an address that is none", exitUsage, []string{"host:port"}, serve("n8", c.ID, free, append(ports(), "--peer-addr", "nowhere")...)},
		{"values of nothing", exitUsage, []string{"--max-value-bytes 0"}, serve("n8", c.ID, free, append(ports(), "--max-value-bytes", "0")...)},
		{"a log level that is none", exitUsage, []string{"loud"}, serve("n8", c.ID, free, append(ports(), "--log-level", "loud")...)},
	}
	for _, tt := range tests {
		c.t.Run("serve/"+tt.what, func(t *testing.T) { wantServeRefusal(t, tt.code, tt.says, tt.args) })
	}
	c.t.Run("serve/a read-only data directory", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may write everywhere: run the tests as another user to see this refused")
		}
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		wantServeRefusal(t, exitFailed, []string{dir}, serve("n8", c.ID, dir, ports()...))
	})
	c.launch(stopped.Name)
	c.t.Run("up on a taken port", func(t *testing.T) {
		args := []string{"up", "--data", filepath.Join(t.TempDir(), "d"), "--nodes", "1", "--base-port", fmt.Sprint(c.BasePort)}
		wantRefusal(t, fulcrumCommand(t, "", args...), exitFailed, []string{n1.RedisAddr, "nothing was started"}, args)
	})
}

// stoppedNode stops a node, for its data directory, and returns it.
func (c *cluster) stoppedNode() local.Node {
	c.t.Helper()
	if err := c.Stop(c.t.Context(), "n3"); err != nil {
		c.t.Fatal(err)
	}
	return c.node("n3")
}

// wantServeRefusal starts a node that has to end by itself, with a code and a reason.
func wantServeRefusal(t *testing.T, code int, says, args []string) {
	t.Helper()
	n := serveWith(t, args...)
	select {
	case <-n.ended:
	case <-time.After(30 * time.Second):
		t.Fatalf("it runs")
	}
	log := n.log.String()
	lines := strings.Split(strings.TrimSpace(log), "\n")
	r := result{code: n.cmd.ProcessState.ExitCode(), err: lines[len(lines)-1]}
	if i := strings.LastIndex(log, "fulcrum: "); i >= 0 {
		r.err = log[i:]
	}
	wantRefusal(t, r, code, says, args)
}

// secondSwitch asks for a switch while one runs, which cannot end because the only
// replica is paused: it is refused, and the first ends once the replica is back.
func (c *cluster) secondSwitch() {
	c.t.Helper()
	c.must("keyspace", "create", "solo", "--replicas", "1", "--shards", "1")
	eventually(c.t, 20*time.Second, "solo serves", func() error { return c.try("put", "-k", "solo", "k", "v") })
	k, err := c.client().Keyspace(c.t.Context(), "solo")
	if err != nil {
		c.t.Fatal(err)
	}
	holder := string(k.ShardList[0].Replicas[0].Node)
	c.must("node", "pause", holder)
	eventually(c.t, 30*time.Second, "the switch begins", func() error { // the catalog may need a new leader first
		return c.try("keyspace", "alter", "solo", "--mode", "quorum", "--no-wait", "--timeout", "10s")
	})
	c.refused(exitFailed, []string{"solo", "switch"}, "keyspace", "alter", "solo", "--mode", "leader-follower", "--no-wait")
	c.must("node", "resume", holder)
	eventually(c.t, 30*time.Second, "the first switch ends", func() error {
		k, err := c.client().Keyspace(c.t.Context(), "solo")
		if err == nil && (k.Switch == nil || k.Switch.State != "done" || k.Mode != "quorum") {
			err = fmt.Errorf("%+v", k.Switch)
		}
		return err
	})
	if out := c.must("get", "-k", "solo", "k"); out != "v" {
		c.t.Errorf("solo has %q after the switch, want v", out)
	}
	c.must("keyspace", "drop", "solo", "--yes")
	c.reload()
}
