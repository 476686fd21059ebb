package jepsen

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/nemesis"
)

// Case is one test of the suite and what must come of it.
type Case struct {
	Test Test
	// Shows names a check that must find the anomaly of a weak level: a run that cannot
	// produce it proves nothing about the strong levels either. Empty: the run must be valid.
	Shows string
	dense bool // many clients and short faults
}

// Name tells cases apart.
func (c Case) Name() string {
	name := c.Test.Name()
	if c.dense {
		name += "_dense"
	}
	if c.Shows != "" {
		name += "_shows-" + c.Shows
	}
	return name
}

// Judge says whether the case came out as it must, and why not.
func (c Case) Judge(h *history.History, plan *nemesis.Plan) (checker.Judgement, error) {
	return c.verdictOf(h, c.Test.Spec(plan))
}

func (c Case) verdictOf(h *history.History, spec checker.Spec) (checker.Judgement, error) {
	j := judged(h, spec)
	if c.Shows == "" {
		if j.Verdict != checker.Valid {
			return j, fmt.Errorf("%v: %s", j.Verdict, reasons(j))
		}
		return j, nil
	}
	check, err := checker.ByName(c.Shows)
	if err != nil {
		return j, err
	}
	res := check.Run(h, spec)
	j.Results = append(j.Results, res)
	if res.Verdict != checker.Invalid {
		return j, fmt.Errorf("the anomaly that %s must find was not produced: %s", c.Shows, res.Detail)
	}
	return j, nil
}

// reasons is what the checks that did not pass say.
func reasons(j checker.Judgement) string {
	var out []string
	for _, r := range j.Results {
		if r.Verdict != checker.Valid {
			out = append(out, fmt.Sprintf("%s: %s", r.Check, r.Detail))
		}
	}
	return strings.Join(out, "; ")
}

// level is shorthand for a level without a bound.
var level = consistency.L

// row is a line of the suite: a workload at levels under each of some nemeses.
type row struct {
	workload    string
	mode        consistency.Mode
	write, read consistency.Level
	nemeses     []string
	shows       string
	noTokens    bool
	dense       bool // many clients, short faults: for what needs requests that meet
}

// Suite lists the tests: for every mode the workloads at the levels that it offers,
// under every nemesis, and the weak levels that must show their anomaly. Quick is a
// choice of them for every change; each case runs for per of virtual time. Seeds follow
// from seed, so another one makes other plans.
func Suite(quick bool, per time.Duration, seed uint64) []Case {
	var out []Case
	for _, r := range rows(quick) {
		for _, n := range r.nemeses {
			t := Test{Workload: r.workload, Mode: r.mode, Write: r.write, Read: r.read, Nemeses: strings.Split(n, ","), Time: per, Sim: true,
				Rate: simRate, Seed: seed + uint64(len(out))*1000, NoTokens: r.noTokens, Torn: 50}
			if r.dense {
				t.Rate, t.Concurrency, t.Time, t.Quiet, t.Busy = denseRate, denseClients, per/denseShare, time.Second, denseBusy
				if r.mode == consistency.LeaderFollower {
					t.Busy = denseFence
				}
			}
			out = append(out, Case{Test: t, Shows: r.shows, dense: r.dense})
		}
	}
	return out
}

// Matching leaves the cases whose names match. Their plans stay those of the whole suite.
func Matching(cases []Case, names *regexp.Regexp) []Case {
	return slices.DeleteFunc(slices.Clone(cases), func(c Case) bool { return !names.MatchString(c.Name()) })
}

// simRate is operations a second in the suite: few, as most of a fault's life is
// waiting, and they come in bursts (see pace).
const simRate = 5

// A dense test, which is a fifth as long.
const (
	denseShare   = 5
	denseRate    = 60
	denseClients = 20
	denseBusy    = 2 * time.Second
	denseFence   = 10 * time.Second // longer than a leader-follower lease and what follows it
)

// QuickTime is the virtual time of each test of the quick suite.
const QuickTime = 10 * time.Minute

// SuiteOptions says how a suite is run.
type SuiteOptions struct {
	Workers int    // tests at the same time; 1
	Store   string // where reports go: of what came out wrong, on processes all; "": nowhere, not on processes
	Binary  string // of nodes on processes; default: this program
	Version string
	Commit  string
	Tell    func(done, total int, r CaseResult)
}

// CaseResult is what came of one case.
type CaseResult struct {
	Name    string  `json:"name"`
	Err     string  `json:"error,omitempty"` // why it is not as it must be
	Dir     string  `json:"report,omitempty"`
	Again   string  `json:"again,omitempty"`
	OK      int     `json:"ok"`
	Fail    int     `json:"fail"`
	Info    int     `json:"unknown"`
	Faults  int     `json:"faults"`
	Virtual float64 `json:"virtual_seconds"`
	Seconds float64 `json:"seconds"`
	verdict checker.Verdict
}

// Summary is what came of a suite.
type Summary struct {
	Verdict      checker.Verdict `json:"-"`
	Result       string          `json:"verdict"`
	Cases        []CaseResult    `json:"cases"`
	Wrong        int             `json:"wrong"`
	Left         int             `json:"not_run,omitempty"` // when ctx ended
	Operations   int             `json:"operations"`
	Faults       int             `json:"faults"`
	VirtualHours float64         `json:"virtual_cluster_hours"`
	Seconds      float64         `json:"seconds"`
}

// suiteGC is the garbage collector's percentage while a suite runs, and SuiteMemory the most
// that it lets the heap grow to, softly. Both are needed: what pebble holds outlives one more
// collection, as it has finalizers, so it counts as alive when the next one is planned, and
// with four times as much garbage in between the heap would grow without end.
const (
	suiteGC     = 400
	SuiteMemory = 1 << 30
)

// RunSuite runs every case, simulated or on processes, and returns when all are done or
// ctx ends.
func RunSuite(ctx context.Context, cases []Case, opt SuiteOptions) (*Summary, error) {
	began := time.Now()
	defer debug.SetGCPercent(debug.SetGCPercent(suiteGC)) // simulated nodes make much garbage and keep little
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(min(SuiteMemory, debug.SetMemoryLimit(-1))))
	if opt.Tell == nil {
		opt.Tell = func(int, int, CaseResult) {}
	}
	var g errgroup.Group
	g.SetLimit(max(1, opt.Workers))
	var mu sync.Mutex
	s := &Summary{Verdict: checker.Valid}
	for _, c := range cases {
		if err := c.Test.Fill(); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name(), err)
		}
	}
	for _, c := range cases {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			r := c.run(ctx, opt)
			if ctx.Err() != nil {
				return nil // it was cut short: that says nothing
			}
			mu.Lock()
			defer mu.Unlock()
			s.add(r)
			opt.Tell(len(s.Cases), len(cases), r)
			return nil
		})
	}
	_ = g.Wait()
	s.Seconds = time.Since(began).Seconds()
	if ctx.Err() != nil {
		s.Left, s.Verdict = len(cases)-len(s.Cases), checker.Worst(s.Verdict, checker.Unknown)
	}
	s.Result = s.Verdict.String()
	slices.SortStableFunc(s.Cases, func(a, b CaseResult) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

func (s *Summary) add(r CaseResult) {
	s.Cases = append(s.Cases, r)
	s.Operations += r.OK + r.Fail + r.Info
	s.Faults += r.Faults
	s.VirtualHours += r.Virtual / 3600
	if r.Err != "" {
		s.Wrong++
		s.Verdict = checker.Worst(s.Verdict, r.verdict)
	}
}

// run simulates one case and judges it.
func (c Case) run(ctx context.Context, opt SuiteOptions) CaseResult {
	began := time.Now()
	r := CaseResult{Name: c.Name()}
	if err := c.Test.Fill(); err != nil {
		r.Err = err.Error()
		return r
	}
	if !c.Test.Sim {
		return c.onProcesses(ctx, opt)
	}
	r.Again = c.Test.Command()
	h, plan, err := Simulate(ctx, c.Test, SimOptions{})
	if h == nil {
		r.Err = err.Error()
		return r
	}
	r.OK, r.Fail, r.Info = count(h)
	r.Faults, r.Virtual = len(h.Faults()), h.End().Seconds()
	j, wrong := c.Judge(h, plan)
	if err = errors.Join(err, wrong); err != nil {
		r.Err, r.verdict = err.Error(), checker.Worst(j.Verdict, checker.Unknown)
		if c.Shows != "" {
			r.verdict = checker.Unknown
		}
		if opt.Store != "" {
			r.Dir, err = record{test: c.Test, history: h, plan: plan, began: began, version: opt.Version, commit: opt.Commit, again: r.Again}.store(opt.Store, j)
			if err != nil {
				r.Dir = err.Error()
			}
		}
	}
	r.Seconds = time.Since(began).Seconds()
	return r
}

// count is how many operations had which outcome.
func count(h *history.History) (ok, fail, info int) {
	for i := range h.Ops {
		switch h.Ops[i].Outcome {
		case history.OK:
			ok++
		case history.Fail:
			fail++
		default:
			info++
		}
	}
	return ok, fail, info
}
