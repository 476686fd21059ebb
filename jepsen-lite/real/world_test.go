package real

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/workload"
)

// One binary and one cluster of three nodes serve all tests; they run one after the
// other, and each leaves the cluster whole. FULCRUM_BINARY names a binary to use.
var (
	binary string
	world  *World
)

func TestMain(m *testing.M) { os.Exit(withWorld(m.Run)) }

func withWorld(run func() int) (code int) {
	dir, err := os.MkdirTemp("", "fulcrum-real-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if binary = os.Getenv("FULCRUM_BINARY"); binary == "" {
		binary = filepath.Join(dir, "fulcrum")
		build := exec.Command("go", "build", "-tags", "pebblegozstd", "-o", binary, "fulcrum/cmd/fulcrum")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fail(fmt.Errorf("go build: %w\n%s", err, out))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if world, err = Open(ctx, Options{Nodes: 3, Binary: binary, Dir: filepath.Join(dir, "data")}); err != nil {
		return fail(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := world.Close(ctx); err != nil {
			code = fail(err)
		}
	}()
	return run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// must fails the test at once; check goes on.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes a keyspace that every node serves.
func create(t *testing.T, w *World, name, mode string) {
	t.Helper()
	must(t, w.Create(soon(t), fulcrum.KeyspaceSpec{Name: name, Mode: mode, Shards: 1, Replicas: 3}))
}

// until asks again and again until f is content.
func until(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx := soon(t)
	var before error
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		if !rest(ctx) {
			t.Fatalf("%s: %v; before: %v", what, err, before)
		}
		before = err
	}
}

func do(t *testing.T, c workload.Client, rq workload.Request) workload.Reply {
	t.Helper()
	rep, err := c.Do(soon(t), rq)
	if err != nil {
		t.Fatalf("%s %s on %s: %v", rq.F, rq.Key, rq.Node, err)
	}
	return rep
}

// ready waits until all nodes serve.
func ready(t *testing.T, w *World) {
	t.Helper()
	for _, n := range w.Nodes() {
		until(t, string(n)+" is ready", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			err := w.cli.Ready(ctx, n)
			if err != nil && !slices.Contains(w.Running(), n) {
				t.Fatalf("%s ended by itself; the end of its log:\n%s", n, tail(w.Log(n)))
			}
			return err
		})
	}
}

func faultsOn(t *testing.T, w *World, n fulcrum.NodeID) (ids []string) {
	t.Helper()
	list, err := w.cli.Faults(soon(t), n)
	must(t, err)
	for _, f := range list {
		ids = append(ids, f.ID)
	}
	return ids
}

func TestOperations(t *testing.T) {
	create(t, world, "ops", "raft")
	c := world.Client(0)
	for i, n := range []fulcrum.NodeID{"n1", "n2", "n3"} {
		rq := func(f history.F, key, value string) workload.Request {
			return workload.Request{Keyspace: "ops", Node: n, F: f, Key: fmt.Sprintf("%s-%d", key, i), Value: value, Level: consistency.Level{}}
		}
		if rep := do(t, c, rq(history.Read, "r", "")); rep.Found || rep.Value != "" || rep.Receipt.Mode != consistency.Raft {
			t.Errorf("read of nothing: %+v", rep)
		}
		wrote := do(t, c, rq(history.Write, "r", "one"))
		read := do(t, c, rq(history.Read, "r", ""))
		if !read.Found || read.Value != "one" || read.Version != wrote.Version || wrote.Version.IsZero() {
			t.Errorf("wrote %+v, read %+v", wrote, read)
		}
		checkReceipt(t, "write", wrote.Receipt, n)

		cas := rq(history.CAS, "r", "two")
		if rep := do(t, c, cas); rep.Applied {
			t.Errorf("cas of a key that is there, as if absent: %+v", rep)
		}
		cas.Expect = wrote.Version
		swapped := do(t, c, cas)
		if !swapped.Applied || !wrote.Version.Less(swapped.Version) {
			t.Errorf("cas: %+v", swapped)
		}
		if rep := do(t, c, cas); rep.Applied {
			t.Errorf("cas against an old version: %+v", rep)
		}
		if rep := do(t, c, rq(history.CAS, "absent", "x")); !rep.Applied {
			t.Errorf("cas of an absent key: %+v", rep)
		}

		gone := do(t, c, rq(history.Delete, "r", ""))
		if rep := do(t, c, rq(history.Read, "r", "")); rep.Found || rep.Value != "" || !rep.Version.IsZero() && rep.Version != gone.Version {
			t.Errorf("deleted as %v, then read %+v", gone.Version, rep)
		}
		for _, e := range []string{"b", "a"} {
			do(t, c, rq(history.Add, "set-"+e, e))
		}
		scan := rq(history.Scan, "", "")
		scan.Key = "set-"
		if rep := do(t, c, scan); len(rep.Elements) != 2*(i+1) || rep.Elements[0].Key != "set-a-0" || rep.Elements[0].Value != "a" || rep.Elements[0].Version.IsZero() {
			t.Errorf("scan: %+v", rep.Elements)
		}
		atomics(t, c, n, rq)
	}
	withTTL := workload.Request{Keyspace: "ops", Node: "n1", F: history.Write, Key: "ttl", Value: "v", TTL: time.Hour}
	do(t, c, withTTL)
	if item, err := world.cli.Get(soon(t), "ops", "ttl"); err != nil || item.ExpireAt.IsZero() {
		t.Errorf("with a TTL: %+v, %v", item, err)
	}
}

// atomics are the operations that go over the Redis protocol.
func atomics(t *testing.T, c workload.Client, n fulcrum.NodeID, rq func(f history.F, key, value string) workload.Request) {
	t.Helper()
	do(t, c, rq(history.Incr, "i", "5"))
	sum := do(t, c, rq(history.Incr, "i", "-2"))
	checkReceipt(t, "incr", sum.Receipt, n)
	if rep := do(t, c, rq(history.Read, "i", "")); rep.Value != "3" || rep.Version != sum.Version {
		t.Errorf("counter: %+v, after %+v", rep, sum)
	}
	do(t, c, rq(history.Append, "l", "a"))
	list := do(t, c, rq(history.Append, "l", "b"))
	if rep := do(t, c, rq(history.Read, "l", "")); rep.Value != "a,b," || rep.Version != list.Version {
		t.Errorf("list: %+v, after %+v", rep, list)
	}
}

func checkReceipt(t *testing.T, what string, rc consistency.Receipt, at fulcrum.NodeID) {
	t.Helper()
	if rc.Keyspace != "ops" || rc.Mode != consistency.Raft || rc.Level.Kind != consistency.QuorumOf || rc.Given.Kind != consistency.QuorumOf ||
		rc.Node != at || rc.Leader == "" || rc.Acks < 2 || rc.Needed != 2 || rc.Replicas != 3 || rc.Version.IsZero() || rc.Durable != "fsync" ||
		rc.Epoch == 0 || rc.Session == "" {
		t.Errorf("receipt of a %s on %s: %+v", what, at, rc)
	}
}

// A token of one client makes another one's read on another node see its write, and is
// sent on both protocols.
func TestSession(t *testing.T) {
	create(t, world, "sess", "leader-follower")
	a, b := world.Client(0), world.Client(1)
	for i := range 20 {
		node := world.Nodes()[i%3]
		rq := workload.Request{Keyspace: "sess", Node: node, F: history.Append, Key: "k", Value: "x", Level: consistency.L(consistency.One)}
		token := do(t, a, rq).Receipt.Session
		if token == "" {
			t.Fatal("no token")
		}
		read := workload.Request{Keyspace: "sess", Node: world.Nodes()[(i+1)%3], F: history.Read, Key: "k", Level: consistency.L(consistency.Session), Session: token}
		if rep := do(t, b, read); rep.Value != strings.Repeat("x,", i+1) || rep.Receipt.Session == "" || rep.Receipt.Given.Kind == 0 {
			t.Fatalf("after %d appends: %+v", i+1, rep)
		}
	}
	for _, f := range []history.F{history.Read, history.Incr} {
		_, err := a.Do(soon(t), workload.Request{Keyspace: "sess", Node: "n1", F: f, Key: "other", Value: "1", Session: "no token"})
		if e := fulcrum.AsError(err); err == nil || e.Maybe || e.Code != fulcrum.CodeInvalid {
			t.Errorf("%s with a token that is none: %v", f, err)
		}
	}
}

// What is refused is definite, says why, and changes nothing.
func TestRefusals(t *testing.T) {
	create(t, world, "ref", "raft")
	create(t, world, "refq", "quorum")
	c := world.Client(0)
	do(t, c, workload.Request{Keyspace: "ref", Node: "n1", F: history.Write, Key: "text", Value: "abc"})
	for name, tc := range map[string]struct {
		rq   workload.Request
		code fulcrum.Code
	}{
		"incr of a text":             {workload.Request{Keyspace: "ref", Node: "n1", F: history.Incr, Key: "text", Value: "1"}, fulcrum.CodeInvalid},
		"incr by a text":             {workload.Request{Keyspace: "ref", Node: "n1", F: history.Incr, Key: "k", Value: "x"}, fulcrum.CodeInvalid},
		"incr in quorum mode":        {workload.Request{Keyspace: "refq", Node: "n1", F: history.Incr, Key: "k", Value: "1"}, fulcrum.CodeMode},
		"append in quorum mode":      {workload.Request{Keyspace: "refq", Node: "n1", F: history.Append, Key: "k", Value: "1"}, fulcrum.CodeMode},
		"read, no keyspace":          {workload.Request{Keyspace: "none", Node: "n1", F: history.Read, Key: "k"}, fulcrum.CodeNotFound},
		"incr, no keyspace":          {workload.Request{Keyspace: "none", Node: "n1", F: history.Incr, Key: "k", Value: "1"}, fulcrum.CodeNotFound},
		"write at a read level":      {workload.Request{Keyspace: "ref", Node: "n1", F: history.Write, Key: "k", Level: consistency.L(consistency.Prefix)}, fulcrum.CodeLevel},
		"append at a read level":     {workload.Request{Keyspace: "ref", Node: "n1", F: history.Append, Key: "k", Level: consistency.L(consistency.Prefix)}, fulcrum.CodeLevel},
		"a node that does not exist": {workload.Request{Keyspace: "ref", Node: "n9", F: history.Write, Key: "k"}, fulcrum.CodeNotFound},
		"no operation":               {workload.Request{Keyspace: "ref", Node: "n1", F: "dance", Key: "k"}, fulcrum.CodeInvalid},
	} {
		_, err := c.Do(soon(t), tc.rq)
		if e := fulcrum.AsError(err); err == nil || e.Code != tc.code || e.Maybe {
			t.Errorf("%s: %v (%+v), want %s", name, err, e, tc.code)
		}
	}
	if rep := do(t, c, workload.Request{Keyspace: "ref", Node: "n1", F: history.Read, Key: "text"}); rep.Value != "abc" {
		t.Errorf("after the refusals: %+v", rep)
	}
	if rep := do(t, c, workload.Request{Keyspace: "ref", Node: "n1", F: history.Read, Key: "k"}); rep.Found {
		t.Errorf("something was done: %+v", rep)
	}
}

// A killed node is gone, answers nothing, and gets the active faults when it starts.
func TestKill(t *testing.T) {
	create(t, world, "kill", "raft")
	c := world.Client(0)
	incr := workload.Request{Keyspace: "kill", Node: "n3", F: history.Incr, Key: "k", Value: "1"}
	do(t, c, incr) // leaves a connection behind
	before, pid := world.Hits(soon(t))["kill"], world.procs["n3"].PID
	must(t, world.Kill(soon(t), "n3"))
	if up := world.Running(); !slices.Equal(up, []fulcrum.NodeID{"n1", "n2"}) { // also reaps it
		t.Errorf("running: %v", up)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("its process: %v", err)
	}
	must(t, world.Kill(soon(t), "n3")) // again: nothing to do
	if n := world.Hits(soon(t))["kill"]; n != before+1 {
		t.Errorf("%d kills, were %d", n, before)
	}
	for _, f := range []history.F{history.Read, history.Write, history.Incr, history.Append, history.Delete, history.Scan} {
		_, err := c.Do(soon(t), workload.Request{Keyspace: "kill", Node: "n3", F: f, Key: "k", Value: "1"})
		if e := fulcrum.AsError(err); err == nil || e.Code != fulcrum.CodeUnavailable || e.Maybe || e.Node != "n3" {
			t.Errorf("%s on a dead node: %v", f, err)
		}
	}
	must(t, world.Inject(soon(t), fulcrum.Fault{ID: "while-dead", Kind: "clock", Node: "n3", Skew: fulcrum.Duration(time.Second)}))
	must(t, world.Start(soon(t), "n3"))
	if ids := faultsOn(t, world, "n3"); !slices.Equal(ids, []string{"while-dead"}) {
		t.Errorf("faults after the start: %v", ids)
	}
	must(t, world.Heal(soon(t)))
	for _, n := range world.Nodes() {
		if ids := faultsOn(t, world, n); len(ids) > 0 {
			t.Errorf("%s after heal: %v", n, ids)
		}
	}
	ready(t, world)
	must(t, world.Stop(soon(t), "n1", "n2"))
	if up := world.Running(); !slices.Equal(up, []fulcrum.NodeID{"n3"}) {
		t.Errorf("running: %v", up)
	}
	must(t, world.Start(soon(t), world.Nodes()...))
	ready(t, world)
	until(t, "the counter", func(ctx context.Context) error {
		rep, err := c.Do(ctx, workload.Request{Keyspace: "kill", Node: "n3", F: history.Read, Key: "k"})
		if err == nil && rep.Value != "1" {
			t.Fatalf("it is %q", rep.Value)
		}
		return err
	})
}

// Of what was sent to a node that stands still nobody knows the outcome.
func TestPause(t *testing.T) {
	create(t, world, "pause", "raft")
	c := world.Client(0)
	do(t, c, workload.Request{Keyspace: "pause", Node: "n2", F: history.Incr, Key: "i", Value: "1"})
	do(t, c, workload.Request{Keyspace: "pause", Node: "n2", F: history.Write, Key: "w", Value: "1"})
	before := world.Hits(soon(t))["pause"]
	must(t, world.Pause(soon(t), "n2"))
	resumed := false
	defer func() {
		if !resumed {
			_ = world.Resume(context.WithoutCancel(t.Context()), "n2")
		}
	}()
	if state, err := stateOf(world.procs["n2"].PID); state != 'T' || err != nil {
		t.Errorf("state %c, %v", state, err)
	}
	for _, tc := range []struct {
		f    history.F
		want fulcrum.Code
	}{
		{history.Read, fulcrum.CodeUnavailable}, {history.Scan, fulcrum.CodeUnavailable},
		{history.Write, fulcrum.CodeUnknown}, {history.Delete, fulcrum.CodeUnknown}, {history.CAS, fulcrum.CodeUnknown},
		{history.Incr, fulcrum.CodeUnknown},
		{history.Append, fulcrum.CodeUnavailable}, // on a new connection: the keyspace was not even selected
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := c.Do(ctx, workload.Request{Keyspace: "pause", Node: "n2", F: tc.f, Key: "i", Value: "1"})
		cancel()
		if e := fulcrum.AsError(err); err == nil || e.Code != tc.want || e.Maybe != (tc.want == fulcrum.CodeUnknown) {
			t.Errorf("%s on a paused node: %v (%+v), want %s", tc.f, err, e, tc.want)
		}
	}
	must(t, world.Inject(soon(t), fulcrum.Fault{ID: "while-paused", Kind: "clock", Node: "n2", Skew: fulcrum.Duration(time.Second)}))
	must(t, world.Inject(soon(t), fulcrum.Fault{ID: "brief", Kind: "clock", Node: "n2", Skew: fulcrum.Duration(time.Second)}))
	must(t, world.Heal(soon(t), "brief"))
	must(t, world.Resume(soon(t), world.Nodes()...))
	resumed = true
	for _, n := range world.Nodes() {
		if ids := faultsOn(t, world, n); !slices.Equal(ids, []string{"while-paused"}) {
			t.Errorf("faults of %s after the pause: %v", n, ids)
		}
	}
	must(t, world.Heal(soon(t), "while-paused"))
	if n := world.Hits(soon(t))["pause"]; n != before+1 {
		t.Errorf("%d pauses, were %d", n, before)
	}
	ready(t, world)
}

// A node whose disk lied, or is a new one, comes back and has what was acknowledged.
func TestDamage(t *testing.T) {
	create(t, world, "damage", "raft")
	c := world.Client(0)
	do(t, c, workload.Request{Keyspace: "damage", Node: "n1", F: history.Write, Key: "k", Value: "kept"})
	if err := world.Damage(soon(t), "n3", nemesis.Wipe, 1); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("damage of a running node: %v", err)
	}
	before := world.Hits(soon(t))["damage"]
	for _, what := range []nemesis.Damage{nemesis.TornTail, nemesis.Wipe} {
		must(t, world.Kill(soon(t), "n3"))
		if what == nemesis.Wipe { // as one does with a disk that the node refuses
			refused(t, "n3")
		}
		must(t, world.Damage(soon(t), "n3", what, 1))
		if what == nemesis.Wipe {
			left, err := os.ReadDir(world.Dir("n3"))
			if err != nil || len(left) != 1 || left[0].Name() != filepath.Base(world.Log("n3")) {
				t.Errorf("after a wipe: %v, %v", left, err)
			}
		}
		must(t, world.Start(soon(t), "n3"))
		ready(t, world)
		until(t, "n3 after "+string(what), func(ctx context.Context) error {
			rep, err := c.Do(ctx, workload.Request{Keyspace: "damage", Node: "n3", F: history.Read, Key: "k", Level: consistency.L(consistency.One)})
			if err == nil && rep.Value != "kept" {
				err = fmt.Errorf("it reads %q", rep.Value)
			}
			return err
		})
	}
	if n := world.Hits(soon(t))["damage"]; n != before+2 {
		t.Errorf("%d damages, were %d", n, before)
	}
}

// refused makes the engine's file of a node another one: the node ends at once, and
// Start says what its log says.
func refused(t *testing.T, n fulcrum.NodeID) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(world.Dir(n), stateFile), []byte(strings.Repeat("no database ", 1000)), 0o600))
	err := world.Start(soon(t), n)
	if err != nil && (!strings.Contains(err.Error(), stateFile) || !strings.Contains(err.Error(), "wipe")) {
		t.Errorf("start: %v", err)
	}
	until(t, string(n)+" ends", func(context.Context) error { // its port may have answered before
		if up := world.Running(); slices.Contains(up, n) {
			return fmt.Errorf("running: %v", up)
		}
		return nil
	})
}

func TestSwitch(t *testing.T) {
	create(t, world, "sw", "raft")
	for _, keyspace := range []string{"sw", ""} {
		until(t, "leader of "+keyspace, func(ctx context.Context) error {
			if leader := world.Leader(ctx, keyspace); !slices.Contains(world.Nodes(), leader) {
				return fmt.Errorf("it is %q", leader)
			}
			return nil
		})
	}
	before := world.Hits(soon(t))["switch"]
	must(t, world.Switch(soon(t), "sw", "quorum"))
	until(t, "the switch", func(ctx context.Context) error {
		now, target, err := world.Mode(ctx, "sw")
		if err == nil && (now != "quorum" || target != "quorum") {
			err = fmt.Errorf("%s on the way to %s", now, target)
		}
		return err
	})
	if n := world.Hits(soon(t))["switch"]; n != before+1 {
		t.Errorf("%d switches, were %d", n, before)
	}
	if err := world.Switch(soon(t), "none", "raft"); !errors.Is(err, fulcrum.ErrNotFound) {
		t.Errorf("switch of nothing: %v", err)
	}
}

// Whoever attaches uses the cluster and injects faults, but leaves processes and
// others' faults alone.
func TestAttach(t *testing.T) {
	create(t, world, "att", "raft")
	a, err := Open(soon(t), Options{Endpoints: []string{strings.TrimPrefix(world.at["n2"].http, "http://")}})
	must(t, err)
	if names := a.Nodes(); len(names) != 3 || len(a.Running()) != 3 {
		t.Errorf("nodes: %v", names)
	}
	c := a.Client(0)
	do(t, c, workload.Request{Keyspace: "att", Node: "n1", F: history.Append, Key: "k", Value: "v"})
	if rep := do(t, c, workload.Request{Keyspace: "att", Node: "n3", F: history.Read, Key: "k"}); rep.Value != "v," {
		t.Errorf("read %+v", rep)
	}
	for _, what := range []string{"kill", "pause", "damage", "packets"} {
		if err := a.Can(what); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("can %s: %v", what, err)
		}
	}
	for what, err := range map[string]error{"kill": a.Kill(soon(t), "n1"), "stop": a.Stop(soon(t), "n1"), "start": a.Start(soon(t), "n1"), "pause": a.Pause(soon(t), "n1"),
		"resume": a.Resume(soon(t), "n1"), "damage": a.Damage(soon(t), "n1", nemesis.Wipe, 1), "duplicate": a.Duplicate(soon(t), 0.5)} {
		if !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, world.Inject(soon(t), fulcrum.Fault{ID: "theirs", Kind: "clock", Node: "n1", Skew: fulcrum.Duration(time.Second)}))
	must(t, a.Inject(soon(t), fulcrum.Fault{Kind: "clock", Node: "n1", Skew: fulcrum.Duration(time.Second)}))
	if ids := faultsOn(t, world, "n3"); len(ids) != 2 {
		t.Errorf("faults while attached: %v", ids)
	}
	must(t, a.Close(soon(t)))
	if ids := faultsOn(t, world, "n3"); !slices.Equal(ids, []string{"theirs"}) {
		t.Errorf("faults after it left: %v", ids)
	}
	must(t, world.Heal(soon(t)))
	if up := world.Running(); len(up) != 3 {
		t.Errorf("running after it left: %v", up)
	}
	if _, err := Open(soon(t), Options{Nodes: 1, Binary: binary, Dir: world.opt.Dir}); !errors.Is(err, fulcrum.ErrExists) {
		t.Errorf("open over a cluster that is there: %v", err)
	}
}

// A partition keeps the minority from writing, and the nodes count that it bit.
func TestInject(t *testing.T) {
	create(t, world, "part", "raft")
	c := world.Client(0)
	partition := fulcrum.Fault{ID: "p", Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}, {"n2", "n3"}}}
	must(t, world.Inject(soon(t), partition))
	if err := world.Inject(soon(t), partition); !errors.Is(err, fulcrum.ErrExists) {
		t.Errorf("the same fault twice: %v", err)
	}
	if err := world.Inject(soon(t), fulcrum.Fault{ID: "m", Kind: "magic"}); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("a fault that there is not: %v", err)
	}
	until(t, "n1 cannot write", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if _, err := c.Do(ctx, workload.Request{Keyspace: "part", Node: "n1", F: history.Write, Key: "lost", Value: "1"}); err == nil {
			return errors.New("it can")
		}
		return nil
	})
	until(t, "n2 can write", func(ctx context.Context) error {
		_, err := c.Do(ctx, workload.Request{Keyspace: "part", Node: "n2", F: history.Write, Key: "k", Value: "2"})
		return err
	})
	if n := world.Hits(soon(t))["partition"]; n == 0 {
		t.Error("nobody counted the partition")
	}
	must(t, world.Heal(soon(t), "p"))
	until(t, "n1 reads what the others wrote", func(ctx context.Context) error {
		rep, err := c.Do(ctx, workload.Request{Keyspace: "part", Node: "n1", F: history.Read, Key: "k"})
		if err == nil && rep.Value != "2" {
			err = fmt.Errorf("it reads %q", rep.Value)
		}
		return err
	})
	ready(t, world)
}
