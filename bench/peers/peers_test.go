package main

import (
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum/bench/figures"
)

func TestTheReport(t *testing.T) {
	s := settings{nodes: 3, keys: 10, size: "256", duration: time.Second, repeats: 2}
	all := map[string]*system{fulcrumNode: {}, etcd: {}}
	r := newReport(&s)
	r.Began = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	s.cases, s.clients = []string{"set"}, []int{64}
	plan := planOf(&s, all)
	if len(plan) != 2 || plan[0].system != fulcrumNode || plan[1].system != etcd {
		t.Fatalf("plan: %+v", plan)
	}
	for _, factor := range []float64{1, 2} {
		r.add(plan[0], sample{OpsPerSec: 12000 * factor, P50: 900, P99: 20_000, CPU: 0.08})
		r.add(plan[1], sample{OpsPerSec: 4000 * factor, P50: 9000, P99: 1_500_000, CPU: 0.4, Failed: 3})
	}
	text := r.markdown()
	for _, want := range []string{"2026-11-25, on ", "| set | 64 | fulcrum SET | 18,000 (12,000-24,000) | 900µs | 20ms | 0.080 |  |  |",
		"| set | 64 | etcd put (6 failed) | 6,000 (4,000-8,000) | 9ms | 1.5s | 0.400 | 3.00x [3.00-3.00] | 4x: missed |"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table has no %q:\n%s", want, text)
		}
	}
	doc := "before\n<!-- peers: x -->\n\nold\n\n<!-- end of peers -->\nafter\n"
	once, err := figures.Between(doc, "peers", text)
	if err != nil || strings.Contains(once, "old") || !strings.HasPrefix(once, "before\n<!-- peers: x -->\n") || !strings.HasSuffix(once, "<!-- end of peers -->\nafter\n") {
		t.Errorf("inserted: %v\n%s", err, once)
	}
	if twice, _ := figures.Between(once, "peers", text); twice != once {
		t.Errorf("inserted again, the document changes:\n%s", twice)
	}
	for _, other := range []string{"nothing", strings.ReplaceAll(doc, "peers", "go-ycsb")} {
		if _, err := figures.Between(other, "peers", text); err == nil {
			t.Errorf("a document without the comments is taken: %s", other)
		}
	}
}

// Every contest can be planned, and what is not there is left out.
func TestPlans(t *testing.T) {
	whole := planOf(&settings{}, everything())
	without := planOf(&settings{}, map[string]*system{fulcrumNode: {}, etcd: {}})
	if len(whole) != 59 || slices.ContainsFunc(without, func(m measurement) bool { return m.system == redis || m.system == redisSync || m.byYCSB() }) {
		t.Errorf("%d measurements of everything, without Redis and go-ycsb: %+v", len(whole), without)
	}
	seen := map[string]bool{}
	for _, m := range whole {
		id := m.contest + m.label + string(rune(m.clients))
		if seen[id] {
			t.Errorf("%s is there twice: the rows could not be told apart", id)
		}
		seen[id] = true
	}
}

// What a plan measures it has loaded before: each keyspace's keys, and go-ycsb's, once.
// The keyspace is named to go-ycsb by its number.
func TestKeysAreLoadedOnce(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	program := filepath.Join(t.TempDir(), "driver")
	text := "#!/bin/sh\necho \"$@\" >> " + log + "\necho '{\"operations\": 1}'\n"
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	sys := &system{name: fulcrumNode, driver: []string{program, "own", "-k", "cp"}, ycsb: []string{program, "ycsb", "-k", "cp"},
		databases: map[string]string{"cp": "3", oneShard: "7"}}
	s := settings{keys: 10, size: "256", cases: []string{"set", "get", "set-1", "go-ycsb-a", "go-ycsb-b", "go-ycsb-c-1"}}
	if err := sys.load(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	keys := " --load --clients 64 --keys 10 --value-size 256"
	want := "own -k cp" + keys + " --ops 1 --mix set --warmup 0s\n" + "own -k cp" + keys + " --ops 1 --mix set --warmup 0s -k one\n" +
		"ycsb -k 3" + keys + "\n" + "ycsb -k 3" + keys + " -k 7\n"
	if got, err := os.ReadFile(log); err != nil || string(got) != want {
		t.Errorf("%v: it was loaded with\n%s, want\n%s", err, got, want)
	}
}

func TestBadFlags(t *testing.T) {
	for says, args := range map[string][]string{
		"no \"frob\"": {"--cases", "set,frob"}, "no \"mysql\"": {"--systems", "mysql"}, "want numbers": {"--clients", "1,x"},
		"positive": {"--repeats", "0"}, "use table": {"-o", "xml"}, "there are none": {"what"},
	} {
		if _, err := parse(args, io.Discard); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want it refused with %q", args, err, says)
		}
	}
}

// What was started is stopped, also what does not listen.
func TestProcessesAreStopped(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("needs the command sleep as a process that does not end by itself, and it is not installed")
	}
	var p processes
	for range 3 {
		if err := p.start(t.TempDir(), sleep, "600"); err != nil {
			t.Fatal(err)
		}
	}
	pids := p.pids()
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if d, err := figures.CPU(pids...); err == nil {
		t.Errorf("they still run: %s", d)
	}
	if ports, err := freePorts(5); err != nil || len(slices.Compact(slices.Sorted(slices.Values(ports)))) != 5 || math.MaxUint16 < slices.Max(ports) {
		t.Errorf("free ports: %v, %v", ports, err)
	}
}
