package jepsen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/real"
	"fulcrum/jepsen-lite/report"
)

// Where says on what a test runs, and where its report goes.
type Where struct {
	Store     string   // folder of reports
	Endpoints []string // of a cluster that runs; else one is started, or simulated
	Netns     bool     // started nodes live in network namespaces
	Keep      bool     // leave the started cluster running
	Binary    string   // of started nodes; default: this program
	Version   string
	Tell      func(Progress)
}

// Outcome is a judged run.
type Outcome struct {
	Test      Test              `json:"test"`
	Verdict   string            `json:"verdict"`
	Judgement checker.Judgement `json:"judgement"`
	OK        int               `json:"ok"`
	Fail      int               `json:"fail"`
	Info      int               `json:"unknown"`
	Faults    int               `json:"faults"`
	Dir       string            `json:"report"`
	Again     string            `json:"again"`
	Notes     []string          `json:"notes,omitempty"` // where the cluster was left
}

// Execute runs t, judges what was recorded and writes the report. The Outcome is nil
// when nothing could be recorded. With an Outcome, an error says what cut the run
// short; what was recorded until then is judged, and the faults are healed.
func Execute(ctx context.Context, t Test, w Where) (*Outcome, error) {
	if w.Tell == nil {
		w.Tell = func(Progress) {}
	}
	defer w.Tell(Progress{})
	began := time.Now()
	var h *history.History
	var plan *nemesis.Plan
	var logs map[string]string
	var notes []string
	var err error
	if t.Sim {
		h, plan, err = Simulate(ctx, t, SimOptions{Tell: w.Tell})
	} else {
		var close func() ([]string, error)
		h, plan, logs, close, err = onProcesses(ctx, t, w)
		if close != nil {
			defer func() { // after the report took the nodes' logs
				more, cerr := close()
				notes, err = append(notes, more...), errors.Join(err, cerr)
			}()
		}
	}
	if h == nil || len(h.Ops) == 0 {
		return nil, errors.Join(err, errNothing(err))
	}
	j := checker.Judge(h, t.Spec(plan))
	dir, werr := store(w.Store, t, h, j, plan, began, w.Version, logs)
	return outcome(t, h, j, dir), errors.Join(err, werr)
}

// errNothing says that nothing was recorded, where no other error does.
func errNothing(err error) error {
	if err != nil {
		return nil
	}
	return fulcrum.Errorf(fulcrum.CodeUnavailable, "no operation was recorded").WithHint("give the run more time with --time")
}

func outcome(t Test, h *history.History, j checker.Judgement, dir string) *Outcome {
	o := &Outcome{Test: t, Verdict: j.Verdict.String(), Judgement: j, Dir: dir, Again: t.Command(), Faults: len(h.Faults())}
	o.OK, o.Fail, o.Info = count(h)
	return o
}

// onProcesses runs t on real processes. close stops what was started.
func onProcesses(ctx context.Context, t Test, w Where) (h *history.History, plan *nemesis.Plan, logs map[string]string, close func() ([]string, error), err error) {
	dir, err := os.MkdirTemp("", "fulcrum-jepsen-")
	if err != nil {
		return nil, nil, nil, nil, err
	}
	world, err := real.Open(ctx, real.Options{Nodes: t.Nodes, Binary: w.Binary, Dir: filepath.Join(dir, "cluster"), Netns: w.Netns, Wipe: !w.Keep, Endpoints: w.Endpoints,
		Progress: func(done, total int, what string) {
			w.Tell(Progress{Phase: what, Total: time.Duration(total), Elapsed: time.Duration(done)})
		}})
	if err != nil {
		return nil, nil, nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	close = func() ([]string, error) {
		if w.Keep && len(w.Endpoints) == 0 {
			return nil, nil
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return nil, errors.Join(world.Close(closing), os.RemoveAll(dir))
	}
	if n := len(world.Nodes()); n != t.Nodes { // that of the endpoints
		t.Nodes, t.Replicas = n, min(n, t.Replicas)
	}
	h, plan, err = Run(ctx, t, world, w.Tell)
	logs = map[string]string{}
	for _, n := range world.Nodes() {
		if log := world.Log(n); log != "" {
			logs[string(n)] = log
		}
	}
	return h, plan, logs, close, err
}

// store writes the report and returns its folder.
func store(root string, t Test, h *history.History, j checker.Judgement, plan *nemesis.Plan, began time.Time, version string, logs map[string]string) (string, error) {
	meta := report.Meta{Command: strings.Join(os.Args, " "), Seed: t.Seed, Version: version, Commit: commit(), Started: began, Took: time.Since(began), Sim: t.Sim,
		Workload: t.Workload, Nemeses: t.Nemeses, Mode: t.Mode.String(), Write: t.Write.String(), Read: t.Read.String(), Spec: t.Spec(plan)}
	for i := range t.Nodes {
		meta.Nodes = append(meta.Nodes, fmt.Sprintf("n%d", i+1))
	}
	if plan != nil {
		for _, s := range plan.Steps {
			meta.Plan = append(meta.Plan, s.String())
		}
	}
	run := report.Run{Name: t.Name(), Meta: meta, History: h, Judgement: j, NodeLogs: logs, Repro: t.Command()}
	run.Linear = linear(h, j)
	return report.Write(root, run)
}

// linear is porcupine's page of the first key that failed, nil when none did.
func linear(h *history.History, j checker.Judgement) []byte {
	for _, r := range j.Results {
		if r.Check != "linearizable" && r.Check != "porcupine" {
			continue
		}
		for _, x := range r.Anomalies {
			if page, err := checker.LinearHTML(h, x.Key); err == nil && len(page) > 0 {
				return page
			}
		}
	}
	return nil
}

// commit is that of the source this program was built from, if it is known.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

// Recheck judges a stored run again. A folder that holds none, or one that was cut
// short or edited, is an error.
func Recheck(dir string) (*Outcome, error) {
	run, err := report.Read(dir)
	if err != nil {
		return nil, err
	}
	spec := run.Meta.Spec
	t := Test{Workload: spec.Workload, Nemeses: spec.Nemeses, Mode: spec.Mode, Modes: spec.Modes, Write: spec.Write, Read: spec.Read,
		Replicas: spec.Replicas, NoTokens: !spec.Tokens, Nodes: len(run.Meta.Nodes), Seed: run.Meta.Seed, Sim: run.Meta.Sim}
	o := outcome(t, run.History, checker.Judge(run.History, spec), dir)
	o.Again = run.Repro
	return o, nil
}
