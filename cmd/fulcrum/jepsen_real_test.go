package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fulcrum/client"
	"fulcrum/jepsen-lite/history"
	"fulcrum/local"
)

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// What was acknowledged survives kill -9 of all processes at the same moment, over and
// over: twenty processes and more, by what was seen to die. On a busy machine rounds take
// longer, and it takes more than one run.
func TestJepsenKillsRealProcesses(t *testing.T) {
	t.Parallel()
	f := newJepsenFolder(t)
	killed, acknowledged := int64(0), 0
	for run := 0; run < 4 && killed < 20; run++ {
		out := f.judged("valid", "run", "--workload", "durability", "--nemesis", "kill-all", "--nodes", "3", "--quiet", "1500ms", "--busy", "1s", "--time", "28s",
			"--rate", "40", "--concurrency", "3", "--seed", strconv.Itoa(42753688+run))
		h := f.reported(out, "nodes/n1.log", "nodes/n2.log", "nodes/n3.log")
		for _, e := range h.Events {
			if e.F == "stop" && e.Fault == "kill-all" {
				killed += e.Hits
			}
		}
		for i := range h.Ops {
			if op := &h.Ops[i]; op.F.Mutates() && op.Outcome == history.OK {
				acknowledged++
			}
		}
		t.Logf("after run %d: %d processes killed, %d writes acknowledged", run+1, killed, acknowledged)
	}
	if killed < 20 {
		t.Errorf("%d processes were killed, want 20 and more", killed)
	}
	if acknowledged < 50 {
		t.Errorf("%d writes were acknowledged: too few to say anything", acknowledged)
	}
	f.nothingLeft()
}

// The modes other than raft, cut and paused.
func TestJepsenCutsAndPausesRealProcesses(t *testing.T) {
	for _, mode := range []string{"quorum", "leader-follower"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := newJepsenFolder(t)
			out := f.judged("valid", "run", "--keyspace-mode", mode, "--nemesis", "partition-one,pause-one", "--quiet", "1s", "--busy", "3s", "--time", "12s",
				"--rate", "40", "--concurrency", "4", "--seed", "11")
			if v, detail := out.check("bite"); v != "valid" || !strings.Contains(detail, "partition-one") || !strings.Contains(detail, "pause-one") {
				t.Errorf("bite: %s, %s", v, detail)
			}
			f.reported(out, "nodes/n1.log")
			f.nothingLeft()
		})
	}
}

// cluster is the one that a run started in its temporary folder.
func (f jepsenFolder) cluster() (*local.Cluster, error) {
	dirs, err := filepath.Glob(filepath.Join(f.temporary(), "*", local.File))
	if err != nil || len(dirs) == 0 {
		return nil, errors.New("there is no cluster yet")
	}
	return local.Load(filepath.Dir(dirs[0]))
}

// Ctrl-C ends a run on processes: they are stopped, and what was recorded is reported.
func TestJepsenOnProcessesIsInterrupted(t *testing.T) {
	t.Parallel()
	f := newJepsenFolder(t)
	j := f.start("run", "--nemesis", "partition-one", "--quiet", "300ms", "--busy", "5m", "--time", "10m", "--rate", "40", "-o", "json")
	var c *local.Cluster
	eventually(t, time.Minute, "a fault is active", func() (err error) {
		if c, err = f.cluster(); err != nil {
			return err
		}
		return faultsOf(t, c.Endpoints(), 1)
	})
	j.interrupt()
	r := j.wait(time.Minute)
	out := f.verdict(r, "unknown", []string{"run, interrupted"})
	if !strings.Contains(r.err, "interrupted") || strings.Contains(r.err, "canceled") {
		t.Errorf("it says: %s", r.err)
	}
	if v, _ := out.check("complete"); v != "unknown" || out.OK == 0 {
		t.Errorf("outcome: %+v", out)
	}
	h := f.reported(out, "nodes/n1.log")
	if _, healed := h.Mark(history.PhaseHeal); !healed {
		t.Errorf("nothing was healed: %+v", h.Events)
	}
	for _, n := range c.Nodes {
		if n.Running() {
			t.Errorf("%s (pid %d) runs", n.Name, n.PID)
		}
	}
	f.nothingLeft()
}

// faultsOf returns nil when so many faults are active on the node at an endpoint.
func faultsOf(t *testing.T, endpoints []string, want int) error {
	c, err := client.New(within(t), endpoints)
	if err != nil {
		return err
	}
	defer c.Close()
	has, err := c.Faults(within(t), "n1")
	if err == nil && len(has) != want {
		err = fmt.Errorf("%d faults are active, want %d: %+v", len(has), want, has)
	}
	return err
}

// Interrupted while the nodes start, it leaves none; told to keep them, it says where.
func TestJepsenStartsAndKeeps(t *testing.T) {
	t.Parallel()
	f := newJepsenFolder(t)
	j := f.start("run", "--time", "10m")
	var c *local.Cluster
	eventually(t, time.Minute, "nodes start", func() (err error) {
		c, err = f.cluster()
		return err
	})
	j.interrupt()
	if r := j.wait(time.Minute); r.code != exitUndecided || !strings.Contains(r.err, "interrupted") {
		t.Errorf("interrupted: %s", r)
	}
	for _, n := range c.Nodes {
		if n.Running() {
			t.Errorf("%s (pid %d) runs", n.Name, n.PID)
		}
	}
	f.nothingLeft()

	out := f.judged("valid", "run", "--time", "1500ms", "--rate", "40", "--nodes", "1", "--keep")
	if len(out.Notes) != 1 {
		t.Fatalf("it does not say where the cluster is: %+v", out)
	}
	_, stop, _ := strings.Cut(out.Notes[0], "Stop it with: fulcrum ")
	_, dir, _ := strings.Cut(stop, "--data ")
	kept, err := local.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !kept.Nodes[0].Running() {
		t.Error("the node does not run")
	}
	if r := fulcrumCommand(t, "", strings.Fields(stop)...); r.code != exitDone {
		t.Errorf("%s: %s", stop, r)
	}
	if kept.Nodes[0].Running() {
		t.Error("the node runs")
	}
	f.nothingLeft()
}

// A cluster that runs already is left as it was: with its faults and keyspaces and
// without those of the run, which may end early.
func TestJepsenOnARunningCluster(t *testing.T) {
	t.Parallel()
	c := start(t, 3, 0)
	f := newJepsenFolder(t)
	endpoint := "http://" + c.node("n2").HTTPAddr
	args := func(more ...string) []string {
		return append([]string{"run", "--endpoint", endpoint, "--nemesis", "partition-one", "--rate", "40", "--quiet", "500ms"}, more...)
	}
	before := c.keyspacesOf()

	// Somebody else's keyspace is not touched.
	c.must("keyspace", "create", "jepsen")
	eventually(t, 20*time.Second, "the keyspace serves", func() error { return c.try("put", "-k", "jepsen", "mine", "1") })
	wantRefusal(t, f.run(args("--time", "5s")...), exitUndecided, []string{"jepsen", "keyspace drop jepsen --yes"}, []string{"jepsen run"})
	if v := c.must("get", "-k", "jepsen", "mine"); v != "1" {
		t.Errorf("what was in it: %q", v)
	}
	c.must("keyspace", "drop", "jepsen", "--yes")

	c.must("fault", "link", "n1", "n3", "--delay", "1ms")
	asBefore := func(when string) {
		t.Helper()
		if now := c.keyspacesOf(); now != before {
			t.Errorf("%s: keyspaces are %s, were %s", when, now, before)
		}
		if err := faultsOf(t, c.Endpoints(), 1); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	out := f.judged("valid", args("--busy", "1500ms", "--time", "5s")...)
	if out.Test.Nodes != 3 || !strings.Contains(out.Again, "--endpoint "+endpoint) {
		t.Errorf("outcome: %+v", out)
	}
	f.reported(out)
	asBefore("after a run")

	j := f.start(args("--busy", "5m", "--time", "10m", "-o", "json")...)
	eventually(t, time.Minute, "a fault of the run is active", func() error { return faultsOf(t, c.Endpoints(), 2) })
	j.interrupt()
	f.verdict(j.wait(time.Minute), "unknown", []string{"run, interrupted"})
	asBefore("after one that was interrupted")
	f.nothingLeft()
}

// lockNetns waits until no other test has namespaces: their names are the same in all.
func lockNetns(t *testing.T) {
	t.Helper()
	l, err := os.OpenFile(filepath.Join(os.TempDir(), "fulcrum-netns-test.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	eventually(t, 2*time.Minute, "the other tests with namespaces have ended", func() error {
		return syscall.Flock(int(l.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
}

// With root, packets are really lost.
func TestJepsenInNamespaces(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: --net netns needs root")
	}
	for _, name := range []string{"ip", "nft"} {
		if _, ok := tool(t, name, "--net netns was not run"); !ok {
			t.SkipNow()
		}
	}
	lockNetns(t)
	f := newJepsenFolder(t)
	out := f.judged("valid", "run", "--net", "netns", "--nemesis", "partition-one", "--quiet", "500ms", "--busy", "2s", "--time", "4s", "--rate", "40")
	if v, detail := out.check("bite"); v != "valid" || !strings.Contains(detail, "partition-one") {
		t.Errorf("bite: %s, %s", v, detail)
	}
	if !strings.Contains(out.Again, "--net netns") {
		t.Errorf("again: %s", out.Again)
	}
	for _, list := range [][]string{{"netns", "list"}, {"-br", "link"}} {
		if b, err := exec.Command("ip", list...).Output(); err != nil || strings.Contains(string(b), "fulcrum-jl") {
			t.Errorf("ip %v: %v: %s", list, err, b)
		}
	}
	f.nothingLeft()
}
