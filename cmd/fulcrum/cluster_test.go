package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/local"
	"fulcrum/partition"
)

// The tests of this package run the binary as a user does: real processes, ports
// and disks. Each test has a cluster of its own on free ports. FULCRUM_BINARY names a
// binary to test instead of one built here.

var binary string

func TestMain(m *testing.M) {
	os.Exit(withBinary(m.Run))
}

func withBinary(run func() int) int {
	if binary = os.Getenv("FULCRUM_BINARY"); binary == "" {
		dir, err := os.MkdirTemp("", "fulcrum-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "fulcrum")
		build := exec.Command("go", "build", "-o", binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
	}
	for _, kv := range os.Environ() { // settings of whoever runs the tests
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, envPrefix) {
			_ = os.Unsetenv(name)
		}
	}
	return run()
}

// cluster is a running cluster of one test.
type cluster struct {
	*local.Cluster
	t   *testing.T
	mu  sync.Mutex // held around calls of the local.Cluster, which keeps pids
	cli *client.Client
}

// start brings a cluster of n nodes up, with room for spare more, and takes it down
// when the test ends.
func start(t *testing.T, n, spare int) *cluster {
	t.Helper()
	dir := t.TempDir()
	for try := 1; ; try++ {
		base, err := local.FreeBasePort(n + spare)
		if err != nil {
			t.Fatal(err)
		}
		up, err := local.Up(t.Context(), local.Spec{Dir: filepath.Join(dir, strconv.Itoa(try)), Nodes: n, BasePort: base, Binary: binary})
		if errors.Is(err, fulcrum.ErrExists) && try < 5 {
			continue // somebody took a port meanwhile
		}
		if err != nil {
			t.Fatal(err)
		}
		c := own(t, up)
		if err := createKeyspaces(t.Context(), up); err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// own makes a running cluster the test's: it is taken down at the end, and after a
// failure the ends of its logs are printed.
func own(t *testing.T, up *local.Cluster) *cluster {
	t.Helper()
	c := &cluster{Cluster: up, t: t}
	t.Cleanup(func() {
		if c.cli != nil {
			c.cli.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c.reload() // commands change pids too
		if err := c.Down(ctx, false); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("the end of %s's log:\n%s", n.Name, logTail(n.Log, 12))
			}
		}
	})
	return c
}

func logTail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// reload reads what commands wrote about the processes.
func (c *cluster) reload() {
	c.t.Helper()
	fresh, err := local.Load(c.Dir)
	if err != nil {
		c.t.Error(err)
		return
	}
	*c.Cluster = *fresh
}

// result is how a command ended.
type result struct {
	code     int
	out, err string
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d after %s, output %q, errors %q", r.code, r.took.Round(time.Millisecond), r.out, r.err)
}

// fulcrumCommand runs the binary in a directory without settings.
func fulcrumCommand(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = t.TempDir()
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("fulcrum %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), strings.TrimRight(out.String(), "\n"), strings.TrimRight(errs.String(), "\n"), time.Since(began)}
}

// run runs a command against the cluster.
func (c *cluster) run(args ...string) result {
	c.t.Helper()
	return fulcrumCommand(c.t, "", append([]string{"--data", c.Dir}, args...)...)
}

// must runs a command that has to succeed, and returns what it printed.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.code != exitDone {
		c.t.Fatalf("fulcrum %s: %s", strings.Join(args, " "), r)
	}
	return r.out
}

// refused runs a command that has to end with a code and a reason that holds each
// of the words.
func (c *cluster) refused(code int, words []string, args ...string) {
	c.t.Helper()
	wantRefusal(c.t, c.run(args...), code, words, args)
}

func wantRefusal(t *testing.T, r result, code int, words, args []string) {
	t.Helper()
	if r.code != code {
		t.Errorf("fulcrum %s: %s; want exit code %d", strings.Join(args, " "), r, code)
		return
	}
	if !strings.HasPrefix(r.err, "fulcrum: ") {
		t.Errorf("fulcrum %s: no reason on standard error: %s", strings.Join(args, " "), r)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			t.Errorf("fulcrum %s: the reason does not say %q: %s", strings.Join(args, " "), w, r)
		}
	}
}

// eventually calls f until it returns nil.
func eventually(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// client is a client of the cluster, for the whole test.
func (c *cluster) client() *client.Client {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cli == nil {
		cl, err := client.New(c.t.Context(), c.Endpoints())
		if err != nil {
			c.t.Fatal(err)
		}
		c.cli = cl
	}
	return c.cli
}

// node finds a node by name.
func (c *cluster) node(name fulcrum.NodeID) local.Node {
	c.t.Helper()
	n, err := c.Node(name)
	if err != nil {
		c.t.Fatal(err)
	}
	return *n
}

// redis opens a Redis client on a node and a keyspace's database.
func (c *cluster) redis(name fulcrum.NodeID, db int) *redis.Client {
	c.t.Helper()
	r := redis.NewClient(&redis.Options{Addr: c.node(name).RedisAddr, DB: db, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxRetries: -1, PoolSize: 8})
	c.t.Cleanup(func() { _ = r.Close() })
	return r
}

// kill ends nodes as a crash does, all at the same time.
func (c *cluster) kill(names ...fulcrum.NodeID) {
	c.t.Helper()
	for _, name := range names {
		if err := syscall.Kill(c.node(name).PID, syscall.SIGKILL); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, name := range names {
		n := c.node(name)
		eventually(c.t, 10*time.Second, "end of "+string(name), func() error {
			if n.Running() {
				return errors.New("it runs")
			}
			return nil
		})
	}
}

// launch starts nodes again, all at the same time, and waits until they are ready.
func (c *cluster) launch(names ...fulcrum.NodeID) {
	c.t.Helper()
	for _, name := range names {
		if err := c.Launch(name); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, name := range names {
		n := c.node(name)
		if err := n.WaitReady(c.t.Context()); err != nil {
			c.t.Fatal(err)
		}
	}
}

// status is what `fulcrum status -o json` prints, asked of a node ("": any).
func (c *cluster) status(node fulcrum.NodeID) clusterStatus {
	c.t.Helper()
	var s clusterStatus
	if err := json.Unmarshal([]byte(c.must("status", "-o", "json", "--node", string(node))), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// leader is who leads the shard of a key, as status says; empty if nobody does.
func (c *cluster) leader(keyspace, key string) fulcrum.NodeID {
	c.t.Helper()
	s := c.status("")
	var scheme partition.Scheme
	for _, k := range s.Keyspaces {
		if k.Name == keyspace {
			if err := scheme.UnmarshalText([]byte(k.ShardBy)); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	token := scheme.Token([]byte(key))
	for _, sh := range s.Shards {
		from, err := partition.ParseToken(sh.Start)
		if err != nil {
			c.t.Fatal(err)
		}
		to, err := partition.ParseToken(sh.End)
		if sh.End != "" && err != nil {
			c.t.Fatal(err)
		}
		if sh.Keyspace == keyspace && bytes.Compare(token, from) >= 0 && (sh.End == "" || bytes.Compare(token, to) < 0) {
			return sh.Leader
		}
	}
	c.t.Fatalf("no shard of %s holds %q", keyspace, key)
	return ""
}

// get fetches a path from a node's HTTP port.
func (c *cluster) get(name fulcrum.NodeID, path string) (int, http.Header, string) {
	c.t.Helper()
	status, header, body, err := fetch(c.t.Context(), http.MethodGet, "http://"+c.node(name).HTTPAddr+path, "")
	if err != nil {
		c.t.Fatal(err)
	}
	return status, header, body
}

func fetch(ctx context.Context, method, url, body string) (int, http.Header, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, res.Header, string(b), err
}

// tool finds a program that a check needs, or says that the check is skipped.
func tool(t *testing.T, name, without string) (string, bool) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Logf("SKIPPED: %s is not installed: %s", name, without)
		return "", false
	}
	return path, true
}
