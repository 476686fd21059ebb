package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
	"fulcrum/local"
)

// Nodes come and go by command, and the data stays.
func TestNodesByCommand(t *testing.T) {
	t.Parallel()
	c := start(t, 3, 1)
	const keys = 60
	for keyspace, level := range map[string]string{"default": "quorum", "cp": "quorum", "ap": "quorum", "lf": "quorum"} {
		for i := range keys {
			if err := c.putAt(keyspace, fmt.Sprintf("%c%d", "05bhkpsz"[i%8], i), "v", level); err != nil {
				t.Fatal(err)
			}
		}
	}
	intact := func(when string) {
		t.Helper()
		for _, keyspace := range []string{"default", "cp", "ap", "lf"} {
			if n := len(c.contents(keyspace)); n != keys {
				t.Errorf("%s: %s has %d keys, want %d", when, keyspace, n, keys)
			}
		}
	}
	for _, step := range [][2]string{{"stop", "start"}, {"kill", "start"}, {"pause", "resume"}} {
		c.must("node", step[0], "n2")
		if out := c.must("status", "-o", "table"); !strings.Contains(out, "n2") {
			t.Errorf("status: %s", out)
		}
		eventually(t, 20*time.Second, "writes without n2", func() error { // one that is sent to n2 before another leads has no answer
			return c.try("put", "-k", "cp", "--timeout", "3s", "00", "v")
		})
		c.must("node", step[1], "n2")
		intact("after " + step[0] + " and " + step[1])
	}
	c.must("node", "add")
	c.reload()
	if len(c.Nodes) != 4 || !c.node("n4").Joined {
		t.Errorf("after node add: %+v", c.Nodes)
	}
	if out := c.must("get", "-k", "cp", "--node", "n4", "00"); out != "v" {
		t.Errorf("n4 reads %q", out)
	}
	n1 := c.node("n1")
	c.must("node", "remove", "n1")
	c.reload()
	for _, n := range c.status("").Nodes {
		if n.Name == "n1" {
			t.Errorf("n1 is still there: %+v", n)
		}
	}
	intact("after n4 came and n1 went")
	for _, sh := range c.status("").Shards {
		if len(sh.Replicas) != 3 {
			t.Errorf("shard %d of %s has %d replicas, want 3", sh.Group, sh.Keyspace, len(sh.Replicas))
		}
	}
	c.refused(exitFailed, []string{"n1"}, "node", "kill", "n1")
	again := func(dir string, more ...string) []string {
		return append([]string{"serve", "--name", "n1", "--cluster-id", c.ID, "--data", dir, "--redis-addr", n1.RedisAddr, "--http-addr", n1.HTTPAddr, "--peer-addr", n1.PeerAddr, "--gossip-addr", n1.GossipAddr}, more...)
	}
	wantServeRefusal(t, exitFailed, []string{"n1 was removed", "empty data directory"}, again(n1.Dir))
	seed := c.Names()[0] // one is enough, also if it does not lead
	if seed == c.status("").CatalogLeader {
		seed = c.Names()[1]
	}
	fresh := serveWith(t, again(filepath.Join(t.TempDir(), "n1"), "--join", fmt.Sprintf("%s=%s", seed, c.node(seed).PeerAddr))...)
	eventually(t, 30*time.Second, "a new n1 is in the cluster", func() error {
		for _, n := range c.status("n2").Nodes {
			if n.Name == "n1" && n.Live {
				return nil
			}
		}
		return errors.New("it is not live")
	})
	if err := fresh.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-fresh.ended
	wantServeRefusal(t, exitFailed, []string{"another data directory"}, again(n1.Dir))
}

// A copy of a data directory would be a second node with the votes and the promises of the
// first: it is refused while that one runs. The same directory elsewhere, once its node has
// stopped, is a node that moved.
func TestACopyOfADataDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	c := start(t, 3, 0)
	c.must("node", "stop", "n2")
	elsewhere := filepath.Join(t.TempDir(), "n2")
	if err := os.CopyFS(elsewhere, os.DirFS(c.node("n2").Dir)); err != nil {
		t.Fatal(err)
	}
	c.must("node", "start", "n2")
	base, err := local.FreeBasePort(1)
	if err != nil {
		t.Fatal(err)
	}
	at := func(offset int) string { return fmt.Sprintf("127.0.0.1:%d", base+offset+1) }
	moved := func(dir string) []string {
		return []string{"serve", "--name", "n2", "--cluster-id", c.ID, "--data", dir, "--redis-addr", at(0), "--http-addr", at(100), "--peer-addr", at(200), "--gossip-addr", at(300)}
	}
	wantServeRefusal(t, exitFailed, []string{"n2 is running at another address", "copy of this data directory"}, moved(elsewhere))
	c.must("put", "-k", "cp", "k", "v")
	c.must("node", "stop", "n2")
	serveWith(t, moved(c.node("n2").Dir)...)
	eventually(t, 30*time.Second, "n2 is live at its new address", func() error {
		for _, n := range c.status("n1").Nodes {
			if n.Name == "n2" && n.Live && n.PeerAddr == at(200) {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

// Once a cluster is up, every node takes every other for live, whichever is asked; also when
// it is started again with its data.
func TestNodesAreLiveOnceTheyAreUp(t *testing.T) {
	t.Parallel()
	c := start(t, 5, 0)
	look := func(when string) {
		t.Helper()
		c.reload()
		for _, name := range c.Names() {
			for _, n := range c.status(name).Nodes {
				if !n.Live || n.Gossip != "alive" {
					t.Errorf("%s: %s does not take %s for live: %v, by gossip %s", when, name, n.Name, n.Live, n.Gossip)
				}
			}
		}
	}
	look("new")
	c.must("down")
	c.must("up")
	look("again")
	c.must("node", "add")
	look("one more")
	c.must("node", "stop", "n2")
	eventually(t, time.Minute, "n2 is missed", func() error { // its lease has ended
		for _, n := range c.status("n1").Nodes {
			if n.Name == "n2" && n.Live {
				return errors.New("it is live")
			}
		}
		return nil
	})
	c.must("node", "start", "n2")
	look("one back")
}

// A keyspace that lost a replica with a node that was removed says so, and gets it back from
// the next node that is added.
func TestANodeThatIsAddedFillsKeyspacesUp(t *testing.T) {
	t.Parallel()
	c := start(t, 3, 1)
	const keys = 60
	all := []string{"default", "cp", "ap", "lf"}
	for _, keyspace := range all {
		for i := range keys {
			if err := c.putAt(keyspace, fmt.Sprintf("%c%d", "05bhkpsz"[i%8], i), "v", "quorum"); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.must("node", "remove", "n3")
	for _, how := range [][]string{{"status", "-o", "table"}, {"keyspace", "list", "-o", "table"}, {"keyspace", "describe", "ap", "-o", "table"}} {
		if out := c.must(how...); !strings.Contains(out, "2 of 3") {
			t.Errorf("%v does not say that a replica is missing:\n%s", how, out)
		}
	}
	c.must("node", "add")
	c.reload()
	eventually(t, time.Minute, "every shard has three replicas", func() error {
		for _, sh := range c.status("").Shards {
			whole := 0
			for _, r := range sh.Replicas {
				if r.Known && !r.CatchingUp {
					whole++
				}
			}
			if whole != 3 {
				return fmt.Errorf("%+v", sh)
			}
		}
		return nil
	})
	if out := c.must("status", "-o", "table"); strings.Contains(out, " of 3") {
		t.Errorf("all replicas are back:\n%s", out)
	}
	c.must("node", "kill", "n2")
	for _, keyspace := range all {
		if n := len(c.contents(keyspace)); n != keys {
			t.Errorf("without n2: %s has %d keys, want %d", keyspace, n, keys)
		}
	}
}

func (c *cluster) putAt(keyspace, key, value, level string) error {
	l, err := consistency.ParseLevel(level)
	if err != nil {
		return err
	}
	_, err = c.client().Put(c.t.Context(), keyspace, key, []byte(value), client.Level(l))
	return err
}

// One node alone: alive while it runs, ready when it can serve, gone soon after
// SIGTERM, and without --allow-faults nobody can break it.
func TestServeStopsInOrder(t *testing.T) {
	t.Parallel()
	n := serveAlone(t, "solo")
	if status, _, _, err := fetch(t.Context(), http.MethodGet, n.url+"/livez", ""); status != http.StatusOK || err != nil {
		t.Errorf("/livez: %d, %v", status, err)
	}
	args := []string{"--endpoint", n.url}
	if r := fulcrumCommand(t, "", append(args, "keyspace", "create", "one")...); r.code != exitDone {
		t.Fatalf("keyspace create: %s", r)
	}
	eventually(t, 20*time.Second, "a keyspace with one replica serves", func() error {
		if r := fulcrumCommand(t, "", append(args, "put", "-k", "one", "k", "v")...); r.code != exitDone {
			return fmt.Errorf("%s", r)
		}
		return nil
	})

	// Faults are off.
	status, _, body, err := fetch(t.Context(), http.MethodPost, n.url+"/v1/faults", `{"kind":"isolate","node":"solo"}`)
	if status != http.StatusForbidden || !strings.Contains(body, `"faults-off"`) || err != nil {
		t.Errorf("POST /v1/faults: %d %s, %v", status, body, err)
	}
	fault := append(args, "fault", "isolate", "solo")
	wantRefusal(t, fulcrumCommand(t, "", fault...), exitFailed, []string{"--allow-faults"}, fault)

	// SIGTERM.
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, "/readyz says no", func() error {
		if status, _, _, err := fetch(t.Context(), http.MethodGet, n.url+"/readyz", ""); err == nil && status == http.StatusOK {
			return fmt.Errorf("it answers %d", status)
		}
		return nil
	})
	select {
	case <-n.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it runs 20 s after SIGTERM")
	}
	if code := n.cmd.ProcessState.ExitCode(); code != exitDone {
		t.Errorf("exit code %d after SIGTERM; its log:\n%s", code, n.log.String())
	}
	if !strings.Contains(n.log.String(), "node has stopped") {
		t.Errorf("the log does not end in order:\n%s", n.log.String())
	}
}

// A node with few processors runs with a timer slack of 1 ms, in the process that was
// started and with its environment.
func TestServeQuietsTheMonitor(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || runtime.GOMAXPROCS(0) > 4 {
		t.Skip("timer slack is set on Linux, for nodes of up to four processors")
	}
	n := serveAlone(t, "slack")
	got, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", n.cmd.Process.Pid))
	if err != nil {
		t.Skip("the kernel does not tell a process's timer slack: ", err)
	}
	if string(got) != "1000000\n" {
		t.Errorf("timer slack %q ns, want 1000000", got)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", n.cmd.Process.Pid))
	if err != nil || !strings.Contains(string(env), "PATH=") {
		t.Errorf("the environment did not come along: %q, %v", env, err)
	}
}

// served is a `fulcrum serve` that the test started itself.
type served struct {
	cmd   *exec.Cmd
	url   string
	log   *strings.Builder // to be read once it has ended
	ended chan struct{}
	args  []string
}

// serveAlone starts a cluster of one node with `fulcrum serve`, and waits until it is ready.
func serveAlone(t *testing.T, name string, more ...string) *served {
	t.Helper()
	base, err := local.FreeBasePort(1)
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"serve", "--name", name, "--cluster-id", "test", "--data", filepath.Join(t.TempDir(), name), "--index", "1",
		"--base-port", fmt.Sprint(base), "--initial-nodes", fmt.Sprintf("%s=127.0.0.1:%d", name, base+201)}, more...)
	n := serveWith(t, args...)
	n.url = fmt.Sprintf("http://127.0.0.1:%d", base+101)
	eventually(t, 30*time.Second, name+" is ready", func() error {
		status, _, body, err := fetch(t.Context(), http.MethodGet, n.url+"/readyz?verbose", "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	return n
}

// serveWith starts the binary in the background and kills it when the test ends.
func serveWith(t *testing.T, args ...string) *served {
	t.Helper()
	n := &served{cmd: exec.Command(binary, args...), log: &strings.Builder{}, ended: make(chan struct{}), args: args}
	n.cmd.Dir, n.cmd.Stdout, n.cmd.Stderr = t.TempDir(), n.log, n.log
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = n.cmd.Wait(); close(n.ended) }()
	t.Cleanup(func() {
		_ = n.cmd.Process.Kill()
		<-n.ended
		if t.Failed() {
			t.Logf("the log of fulcrum %s:\n%s", strings.Join(args, " "), n.log)
		}
	})
	return n
}

// keyspacesOf is what a cluster says of its keyspaces, to compare.
func (c *cluster) keyspacesOf() string {
	c.t.Helper()
	var list []fulcrum.KeyspaceInfo
	if err := json.Unmarshal([]byte(c.must("keyspace", "list", "-o", "json")), &list); err != nil {
		c.t.Fatal(err)
	}
	b, err := json.Marshal(list)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}
