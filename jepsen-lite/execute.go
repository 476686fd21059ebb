package jepsen

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
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
	Keep      bool     // leave the started cluster running; not with Netns
	Binary    string   // of started nodes; default: this program
	Version   string
	Commit    string // of the source; default: as the compiler noted it
	Tell      func(Progress)
}

// Outcome is a judged run.
type Outcome struct {
	Test    Test             `json:"test"`
	Verdict checker.Verdict  `json:"verdict"`
	Results []checker.Result `json:"results"`
	OK      int              `json:"ok"`
	Fail    int              `json:"fail"`
	Info    int              `json:"unknown"`
	Faults  int              `json:"faults"`
	Dir     string           `json:"report"`
	Again   string           `json:"again"`           // the command that repeats it
	Notes   []string         `json:"notes,omitempty"` // what was left running, and where
}

// Execute runs t, judges what was recorded and writes the report. The Outcome is nil
// when nothing could be recorded. With an Outcome, an error says what cut the run
// short; what was recorded until then is judged, as unknown at best, and the faults are
// healed.
//
// t must have been filled; with Endpoints it is filled again once their nodes are known.
func Execute(ctx context.Context, t Test, w Where) (*Outcome, error) {
	if w.Tell == nil {
		w.Tell = func(Progress) {}
	}
	defer w.Tell(Progress{})
	if !t.Sim {
		return w.onProcesses(ctx, t)
	}
	r := record{test: t, began: time.Now(), version: w.Version, commit: w.Commit, again: t.Command()}
	log, err := os.CreateTemp("", "fulcrum-jepsen-*.log")
	if err != nil {
		return nil, err
	}
	defer func() { _ = errors.Join(log.Close(), os.Remove(log.Name())) }() // the report has a copy
	r.logs = map[string]string{"all": log.Name()}
	r.history, r.plan, err = Simulate(ctx, t, SimOptions{Tell: w.Tell, Logger: slog.New(slog.NewTextHandler(log, nil))})
	return r.outcome(ctx, w.Store, err)
}

// onProcesses runs t on real processes. What it started is stopped, or noted, and a
// cluster that is not ours is left as it was.
func (w Where) onProcesses(ctx context.Context, t Test) (out *Outcome, err error) {
	began := time.Now()
	opt := real.Options{Nodes: t.Nodes, Binary: w.Binary, Netns: w.Netns, Wipe: true, Endpoints: w.Endpoints, Progress: func(done, total int, what string) {
		w.Tell(Progress{Phase: what, Total: time.Duration(total), Elapsed: time.Duration(done)})
	}}
	if _, err := t.plan(nodeNames(t.Nodes), opt.Can); err != nil { // before anything is started
		return nil, err
	}
	if opt.Dir, err = os.MkdirTemp("", "fulcrum-jepsen-"); err != nil {
		return nil, err
	}
	world, err := real.Open(ctx, opt)
	if err != nil {
		return nil, early(ctx, errors.Join(err, os.RemoveAll(opt.Dir)))
	}
	defer func() { // when the report has the nodes' logs
		if w.Keep && out != nil {
			out.Notes = append(out.Notes, "The cluster runs on. Stop it with: fulcrum down --wipe --data "+opt.Dir)
			return
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, world.Close(closing), os.RemoveAll(opt.Dir))
	}()
	if len(w.Endpoints) > 0 {
		t.Nodes = len(world.Nodes())
		if err := t.Fill(); err != nil {
			return nil, err
		}
	}
	r := record{test: t, began: began, version: w.Version, commit: w.Commit, again: t.Command() + w.flags(), nodes: world.Nodes(), logs: map[string]string{}}
	r.history, r.plan, err = Run(ctx, t, world, w.Tell)
	for _, n := range world.Nodes() {
		if log := world.Log(n); log != "" {
			r.logs[string(n)] = log
		}
	}
	return r.outcome(ctx, w.Store, err)
}

// flags are those of w that a command line needs to repeat a run there.
func (w Where) flags() (out string) {
	if len(w.Endpoints) > 0 {
		out += " --endpoint " + strings.Join(w.Endpoints, ",")
	}
	if w.Netns {
		out += " --net netns"
	}
	return out
}

// record is what a run leaves behind.
type record struct {
	test    Test
	history *history.History
	plan    *nemesis.Plan // nil when none was drawn
	began   time.Time
	version string
	commit  string
	again   string
	nodes   []fulcrum.NodeID  // nil: n1, n2 ...
	logs    map[string]string // by node
}

// outcome judges what was recorded and writes the report; err is what cut the run short.
func (r record) outcome(ctx context.Context, root string, err error) (*Outcome, error) {
	if r.history == nil || len(r.history.Ops) == 0 {
		if err == nil {
			err = fulcrum.Errorf(fulcrum.CodeUnavailable, "no operation was recorded").WithHint("give the run more time with --time")
		}
		return nil, early(ctx, err)
	}
	j := judged(r.history, r.test.Spec(r.plan))
	dir, werr := r.store(root, j)
	return summed(r.test, r.history, j, dir, r.again), errors.Join(besides(ctx, err), werr)
}

// judged judges a run that may have been cut short, which proves nothing.
func judged(h *history.History, s checker.Spec) checker.Judgement {
	j := checker.Judge(h, s)
	if _, ended := h.Mark(history.PhaseEnd); !ended {
		cut := checker.Result{Check: "complete", Verdict: checker.Unknown, Detail: "the run was cut short: what it did not come to is not proven"}
		j.Results = slices.Insert(j.Results, 0, cut)
		j.Verdict = checker.Worst(j.Verdict, cut.Verdict)
	}
	return j
}

func summed(t Test, h *history.History, j checker.Judgement, dir, again string) *Outcome {
	o := &Outcome{Test: t, Verdict: j.Verdict, Results: j.Results, Dir: dir, Again: again, Faults: len(h.Faults())}
	o.OK, o.Fail, o.Info = count(h)
	return o
}

// early is the error of a run that recorded nothing.
func early(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if err = besides(ctx, err); err != nil {
		return fmt.Errorf("interrupted before anything was recorded: %w", err)
	}
	return errors.New("interrupted before anything was recorded")
}

// besides is what err says besides that ctx has ended.
func besides(ctx context.Context, err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var rest []error
		for _, e := range joined.Unwrap() {
			rest = append(rest, besides(ctx, e))
		}
		return errors.Join(rest...)
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// store writes the report and returns its folder.
func (r record) store(root string, j checker.Judgement) (string, error) {
	t := r.test
	meta := report.Meta{Command: strings.Join(os.Args, " "), Seed: t.Seed, Version: r.version, Commit: cmp.Or(r.commit, commit()), Started: r.began, Took: time.Since(r.began), Sim: t.Sim,
		Workload: t.Workload, Nemeses: t.Nemeses, Mode: t.Mode.String(), Write: t.Write.String(), Read: t.Read.String(), Flags: t.Flags(), Spec: t.Spec(r.plan)}
	if r.nodes == nil {
		r.nodes = nodeNames(t.Nodes)
	}
	for _, n := range r.nodes {
		meta.Nodes = append(meta.Nodes, string(n))
	}
	if r.plan != nil {
		for _, s := range r.plan.Steps {
			meta.Plan = append(meta.Plan, s.String())
		}
	}
	return report.Write(root, report.Run{Name: t.Name(), Meta: meta, History: r.history, Judgement: j, NodeLogs: r.logs, Repro: r.again, Linear: linear(r.history, j)})
}

// nodeNames are those of a cluster that is started for a test.
func nodeNames(n int) (out []fulcrum.NodeID) {
	for i := range n {
		out = append(out, fulcrum.NodeID(fmt.Sprintf("n%d", i+1)))
	}
	return out
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
	return summed(t, run.History, judged(run.History, spec), dir, run.Repro), nil
}

// Split writes a history of its own for each register, counter and set of a stored run,
// where Jepsen's jepsen.independent puts them: DIR/independent/NAME/history.edn. It returns
// the files.
func Split(dir string) ([]string, error) {
	run, err := report.Read(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, object := range history.Objects(run.History) {
		name := url.PathEscape(object)
		if name == "." || name == ".." {
			return files, fulcrum.Errorf(fulcrum.CodeInvalid, "%s: %q can be no folder", dir, object)
		}
		file := filepath.Join(dir, "independent", name, "history.edn")
		var b bytes.Buffer
		if err := history.WriteObjectEDN(&b, run.History, object); err != nil {
			return files, err
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, b.Bytes(), 0o644)); err != nil {
			return files, err
		}
		files = append(files, file)
	}
	return files, nil
}
