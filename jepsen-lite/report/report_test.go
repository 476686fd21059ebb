package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
)

// sample is a run as a quorum at weak levels might give it: a partition that makes
// requests time out and reads stale, a killed node, and a recovery.
func sample(seed uint64, ops int) Run {
	rnd := rand.New(rand.NewPCG(seed, 0))
	nodes := []fulcrum.NodeID{"n1", "n2", "n3", "n4", "n5"}
	end := time.Duration(ops) * 2 * time.Millisecond
	frac := func(f float64) time.Duration { return time.Duration(f * float64(end)) }
	h := &history.History{Events: []history.Event{
		{Time: 0, F: "phase", Fault: history.PhaseMain},
		{Time: frac(.12), F: "start", Fault: "partition-halves", Value: "n1 n2 | n3 n4 n5"},
		{Time: frac(.30), F: "stop", Fault: "partition-halves", Value: "healed", Hits: 8123},
		{Time: frac(.42), F: "start", Fault: "kill-one", Value: "n4"},
		{Time: frac(.52), F: "stop", Fault: "kill-one", Value: "n4 started", Hits: 1},
		{Time: frac(.60), F: "start", Fault: "delay", Value: "40ms ± 10ms on every link"},
		{Time: frac(.74), F: "stop", Fault: "delay", Hits: 31840},
		{Time: frac(.80), F: "phase", Fault: history.PhaseHeal},
		{Time: frac(.84), F: "phase", Fault: history.PhaseRecovered},
		{Time: frac(.90), F: "phase", Fault: history.PhaseFinal},
		{Time: end, F: "phase", Fault: history.PhaseEnd},
	}}
	during := func(t time.Duration, i int) bool { return t >= h.Events[i].Time && t < h.Events[i+1].Time }
	const clients = 10
	var free [clients]time.Duration
	process := [clients]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	next := clients
	latest := map[string]fulcrum.Version{}
	older := map[string]fulcrum.Version{}
	now := time.Duration(0)
	for i := range ops {
		c := 0
		for k := range free { // whoever has waited longest
			if free[k] < free[c] {
				c = k
			}
		}
		now = max(now+time.Duration(rnd.IntN(3_600_000)), free[c])
		node := nodes[rnd.IntN(len(nodes))]
		op := history.Op{Process: process[c], Client: c, F: history.Write, Node: node, Key: fmt.Sprintf("r%d", rnd.IntN(4)), Value: fmt.Sprint(i),
			Invoke: now, Staleness: -1, Outcome: history.OK, Level: consistency.L(consistency.One), Given: consistency.L(consistency.One), Mode: consistency.Quorum, Acks: 1}
		latency := time.Duration(math.Exp(rnd.NormFloat64()*.5) * 1.8e6)
		if rnd.IntN(3) > 0 {
			op.F, op.Value = history.Read, ""
		}
		minority := node == "n1" || node == "n2"
		switch {
		case during(now, 1) && minority && rnd.IntN(4) == 0:
			latency, op.Outcome, op.Code, op.Error = end/40, history.Info, fulcrum.CodeUnknown, "no answer before the deadline"
		case during(now, 3) && node == "n4":
			latency /= 4
			op.Outcome, op.Code, op.Error = history.Fail, fulcrum.CodeUnavailable, "connection refused"
		case during(now, 5):
			latency += 80 * time.Millisecond
		}
		op.Return = now + latency
		v := fulcrum.Version{Time: uint64(i + 1), Actor: 1}
		switch {
		case op.Outcome != history.OK:
			op.Given, op.Acks = consistency.Level{}, 0
		case op.F == history.Write:
			op.Version, older[op.Key], latest[op.Key] = v, latest[op.Key], v
		case during(now, 1) && minority && !older[op.Key].IsZero():
			op.Version, op.Found, op.Value = older[op.Key], true, fmt.Sprint(older[op.Key].Time-1)
		case !latest[op.Key].IsZero():
			op.Version, op.Found, op.Value = latest[op.Key], true, fmt.Sprint(latest[op.Key].Time-1)
		}
		free[c] = op.Return
		if op.Outcome == history.Info {
			process[c], next = next, next+1
		}
		h.Ops = append(h.Ops, op)
	}
	return Run{
		Name: "register-quorum-partition", History: h, Repro: "fulcrum jepsen run --workload register --keyspace-mode quorum --write-level one --read-level one --nemesis partition-halves,kill-one,delay --sim --seed 42",
		Meta: Meta{
			Command: "fulcrum jepsen run", Seed: seed, Version: "0.4.0", Commit: "1a2b3c4", Started: time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.UTC), Took: 1500 * time.Millisecond, Sim: true,
			Workload: "register", Nemeses: []string{"partition-halves", "kill-one", "delay"}, Mode: "quorum", Write: "one", Read: "one", Nodes: []string{"n1", "n2", "n3", "n4", "n5"},
			Flags: map[string]string{"time": "60s", "rate": "500"}, Plan: []string{"12s partition-halves n1 n2 | n3 n4 n5", "30s heal"},
			Spec: checker.Spec{Workload: "register", Mode: consistency.Quorum, Modes: []consistency.Mode{consistency.Quorum}, Write: consistency.L(consistency.One), Read: consistency.L(consistency.One), Replicas: 3, Nemeses: []string{"partition-halves"}},
		},
		Judgement: checker.Judgement{Verdict: checker.Invalid, Results: []checker.Result{
			{Check: "linearizable", Verdict: checker.Invalid, Detail: "reads went back behind acknowledged writes", Found: 23, Stats: map[string]float64{"keys": 4, "longest_seconds": 1.25},
				Anomalies: []checker.Anomaly{
					{Kind: "stale-read", Key: "r2", Detail: "process 3 read 118 (version 77.1) at 13.201 s, 0.84 s after the write of 121 (version 7a.1) was acknowledged", Ops: []int{70, 75}},
					{Kind: "lost-write", Key: "r<0>", Detail: "the write of 140 was acknowledged and no later read saw it", Ops: []int{90}}}},
			{Check: "converge", Verdict: checker.Valid, Detail: "all 3 replicas of 4 keys hold the same bytes", Stats: map[string]float64{"recovery_seconds": 2.4}},
			{Check: "bite", Verdict: checker.Unknown, Detail: "delay was planned and never seen to act"}}},
	}
}

func write(t *testing.T, run Run) (store, dir string) {
	t.Helper()
	store = os.Getenv("REPORT_DIR") // to look at what this test writes
	if store == "" {
		store = t.TempDir()
	}
	dir, err := Write(store, run)
	if err != nil {
		t.Fatal(err)
	}
	return store, dir
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	run := sample(42, 4000)
	log := filepath.Join(t.TempDir(), "whatever")
	if err := os.WriteFile(log, []byte("started\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run.NodeLogs = map[string]string{"n1": log, "n2": log + ".missing"}
	run.Linear = []byte("<html>")
	store, dir := write(t, run)
	for _, link := range []string{filepath.Join(store, "latest"), filepath.Join(store, run.Name, "latest"), dir} {
		back, err := Read(link)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(back.NodeLogs["n1"]); err != nil || string(got) != "started\n" {
			t.Errorf("log: %q %v", got, err)
		}
		if got, err := os.ReadFile(back.NodeLogs["n2"]); err != nil || !strings.Contains(string(got), "could not be copied") {
			t.Errorf("a log that is not there: %q %v", got, err)
		}
		back.NodeLogs = run.NodeLogs
		if !reflect.DeepEqual(run, back) {
			t.Errorf("through %s\n%+v\ncame back as\n%+v", link, run.Judgement, back.Judgement)
		}
	}
	if want := filepath.Join(store, run.Name, "20260304T050607.089Z"); os.Getenv("REPORT_DIR") == "" && dir != want {
		t.Errorf("written to %s, want %s", dir, want)
	}
}

func TestEveryFileIsThere(t *testing.T) {
	_, dir := write(t, sample(1, 300))
	for _, name := range []string{"history.edn", "history.jsonl", "results.json", "results.edn", "test.json", "timeline.html", "latency-raw.svg",
		"latency-quantiles.svg", "rate.svg", "staleness.svg", "availability.svg", "repro.sh", "index.html"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		switch filepath.Ext(name) {
		case ".svg":
			wellFormed(t, name, b)
		case ".json":
			if !json.Valid(b) {
				t.Errorf("%s is no JSON", name)
			}
		}
		for _, far := range []string{"src=", "@import", "url(", "https://"} { // the namespace of SVG is http
			if strings.Contains(string(b), far) {
				t.Errorf("%s has %q: it must need no network", name, far)
			}
		}
	}
	info, err := os.Stat(filepath.Join(dir, "repro.sh"))
	if err != nil || info.Mode()&0o111 == 0 {
		t.Errorf("repro.sh cannot be run: %v", err)
	}
}

func wellFormed(t *testing.T, name string, b []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(b)); ; {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
}

func TestTwoRunsOfOneInstantAreBothKept(t *testing.T) {
	store := t.TempDir()
	run := sample(3, 50)
	first, err1 := Write(store, run)
	second, err2 := Write(store, run)
	if err := errors.Join(err1, err2); err != nil || first == second {
		t.Fatalf("%s and %s: %v", first, second, err)
	}
	latest, err := filepath.EvalSymlinks(filepath.Join(store, "latest"))
	if want, _ := filepath.EvalSymlinks(second); err != nil || latest != want {
		t.Errorf("latest is %s, want %s: %v", latest, want, err)
	}
}

func TestRunsAtOnceDoNotMeet(t *testing.T) {
	store := t.TempDir()
	const runs = 8
	var wg sync.WaitGroup
	dirs, errs := make([]string, runs), make([]error, runs)
	for i := range runs {
		wg.Go(func() { dirs[i], errs[i] = Write(store, sample(3, 20)) })
	}
	wg.Wait()
	slices.Sort(dirs)
	if err := errors.Join(errs...); err != nil || len(slices.Compact(dirs)) != runs {
		t.Errorf("%v: %v", dirs, err)
	}
	if _, err := Read(filepath.Join(store, "latest")); err != nil {
		t.Error(err)
	}
}

func TestAChangedRunIsRefused(t *testing.T) {
	_, good := write(t, sample(5, 200))
	for name, c := range map[string]struct {
		file   string
		change func([]byte) []byte // nil: it is deleted
		want   string
	}{
		"truncated":      {"history.jsonl", func(b []byte) []byte { return b[:len(b)/2] }, "truncated"},
		"a line deleted": {"history.jsonl", func(b []byte) []byte { _, rest, _ := bytes.Cut(b, []byte("\n")); return rest }, "line 1: index is 1"},
		"edited":         {"history.jsonl", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"n1"`), []byte(`"n2"`)) }, "was edited"},
		"no history":     {"history.jsonl", nil, "history.jsonl is missing"},
		"no test.json":   {"test.json", nil, "is no run, or was cut off"},
		"half test.json": {"test.json", func(b []byte) []byte { return b[:len(b)/2] }, "test.json: unexpected end"},
		"no results":     {"results.json", nil, "the report was cut off"},
		"half results":   {"results.json", func(b []byte) []byte { return b[:len(b)/2] }, "results.json: unexpected end"},
		"a new verdict":  {"results.json", func(b []byte) []byte { return bytes.Replace(b, []byte("false"), []byte(`"fine"`), 1) }, `verdict "fine"`},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, c.file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.change == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, c.change(b), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), c.want) || fulcrum.AsError(err).Code != fulcrum.CodeInvalid {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := Read(filepath.Join(good, "nowhere")); !errors.Is(err, fulcrum.ErrNotFound) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// TestAFailureLeavesAnIncompleteFolder gives it a history that cannot be written.
func TestAFailureLeavesAnIncompleteFolder(t *testing.T) {
	store := t.TempDir()
	run := sample(6, 50)
	run.History.Ops[0].Return = -1
	if _, err := Write(store, run); err == nil || !strings.Contains(err.Error(), ".incomplete") {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Lstat(filepath.Join(store, "latest")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("latest points at a report that is not whole: %v", err)
	}
	dirs, _ := filepath.Glob(filepath.Join(store, run.Name, "*.incomplete"))
	if len(dirs) != 1 {
		t.Fatalf("left %v", dirs)
	}
	if _, err := Read(dirs[0]); err == nil {
		t.Error("what is not whole was read")
	}
}

// TestOddRunsAreWritten has what no figure can be drawn of.
func TestOddRunsAreWritten(t *testing.T) {
	lone := &history.History{Ops: []history.Op{{F: history.Read, Outcome: history.OK, Staleness: -1}}}
	odd := sample(8, 100)
	odd.Name = "../../a b/<x>"
	odd.Judgement.Results[0].Stats = map[string]float64{"nan": math.NaN(), "inf": math.Inf(1), "x": 1}
	odd.Judgement.Results[0].Anomalies[0].Ops = []int{-1, 1 << 40}
	odd.History.Ops[3].Value, odd.History.Ops[4].Error = "</a><script>\xff\x00", `"><b id=x>`
	odd.History.Events[1].Fault, odd.History.Events[1].Value = "a<b", `"<i>`
	for name, run := range map[string]Run{
		"empty": {History: &history.History{}}, "one instant": {Name: "x", History: lone}, "odd": odd, "many": sample(9, 30_000),
	} {
		store := t.TempDir()
		dir, err := Write(store, run)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if rel, err := filepath.Rel(store, dir); err != nil || strings.Count(rel, string(filepath.Separator)) != 1 || strings.HasPrefix(rel, "..") {
			t.Errorf("%s: written to %s", name, dir)
		}
		if _, err := Read(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, file := range []string{"index.html", "timeline.html"} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || bytes.Contains(b, []byte("<script")) || bytes.Contains(b, []byte(`"><b id=x>`)) || bytes.Contains(b, []byte("<i>")) || bytes.Contains(b, []byte("NaN")) {
				t.Errorf("%s: %s holds what was not escaped: %v", name, file, err)
			}
		}
		svgs, _ := filepath.Glob(filepath.Join(dir, "*.svg"))
		for _, path := range svgs {
			b, err := os.ReadFile(path)
			if err != nil || bytes.Contains(b, []byte("NaN")) || bytes.Contains(b, []byte("Inf")) {
				t.Errorf("%s: %s: %v", name, path, err)
			}
			wellFormed(t, path, b)
		}
	}
}
