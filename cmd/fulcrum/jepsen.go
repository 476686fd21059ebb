package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/consistency"
	jepsen "fulcrum/jepsen-lite"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/workload"
	"fulcrum/mutant"
)

// Exit codes of jepsen: those of Jepsen's own tools.
const (
	exitValid     = 0
	exitInvalid   = 1
	exitUndecided = 2 // unknown, which is never a pass; also wrong usage
)

func (a *app) jepsenCommand() *cobra.Command {
	c := group("jepsen", "Prove from recorded histories which promises were kept, while everything breaks",
		a.jepsenList(), a.jepsenRun(), a.jepsenSuite(), a.jepsenCheck(), a.jepsenSplit())
	if mutant.Enabled {
		c.AddCommand(a.jepsenMutants())
	}
	c.Long = `jepsen-lite lets clients work on a cluster while a nemesis breaks it, records what
every client saw, and judges the record: by the promise table, at the levels that
were asked for. The cluster is one of processes of its own, one that runs already
(--endpoint), or a simulated one in virtual time (--sim), where an hour takes seconds.

Start with: fulcrum jepsen run --sim --nemesis partition-halves
Of the global flags it takes --endpoint, which has no default here, and --output.

Exit codes: 0 valid, 1 invalid, 2 unknown (nothing proven either way), interrupted, or
wrong usage.`
	return c
}

func (a *app) jepsenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List workloads, nemeses and checks", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			out := jepsenListing{}
			for _, w := range workload.List() {
				out.Workloads = append(out.Workloads, namedAbout{w.Name, strings.TrimSpace(w.About + later(w.Later))})
			}
			for _, n := range nemesis.List() {
				out.Nemeses = append(out.Nemeses, namedAbout{n.Name, n.About})
			}
			for _, c := range checker.All() {
				out.Checks = append(out.Checks, c.Name)
			}
			return a.show(out, func(w *tabwriter.Writer) {
				for _, part := range []struct {
					title string
					list  []namedAbout
				}{{"WORKLOAD", out.Workloads}, {"NEMESIS", out.Nemeses}} {
					row(w, part.title, "ABOUT")
					for _, x := range part.list {
						row(w, x.Name, x.About)
					}
					fmt.Fprintln(w)
				}
				fmt.Fprintf(w, "Checks, chosen by the promise table: %s\n", strings.Join(out.Checks, ", "))
			})
		},
	}
}

type jepsenListing struct {
	Workloads []namedAbout `json:"workloads"`
	Nemeses   []namedAbout `json:"nemeses"`
	Checks    []string     `json:"checks"`
}

type namedAbout struct {
	Name  string `json:"name"`
	About string `json:"about"`
}

func later(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// jepsenFlags is what run and suite share.
type jepsenFlags struct {
	store string
	netns bool
	keep  bool
}

func (f *jepsenFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.store, "store", "store", "where reports go: STORE/TEST/TIME/")
}

func (a *app) jepsenRun() *cobra.Command {
	var f jepsenFlags
	t := jepsen.Test{Workload: "register", Nodes: 3}
	var nemeses []string
	mode, write, read := "raft", "", ""
	c := &cobra.Command{
		Use: "run", Short: "Run one workload under one or more nemeses, and judge it",
		Long: `Run one workload under one or more nemeses, and judge it.

Without --endpoint it starts a cluster of its own on free ports, or with --sim one
in virtual time. At the end everything is mended, the cluster gets time to recover,
and every node is read. The report is written to --store, with a page to look at.

Clients use a keyspace named jepsen. On a cluster that runs already it must not be
there; it is made, and dropped at the end, and the only faults healed are its own.

Ctrl-C ends the run early: what was broken is mended, what was started is stopped,
and what was recorded is judged and reported. A second one ends it at once, and leaves
all that behind.

The same seed gives the same plan of faults and operations; test.json, repro.sh and
the last line here say how to repeat a run. The order of goroutines is not repeated.`,
		Example: `  fulcrum jepsen run --workload register --nemesis partition-halves --sim --time 10m
  fulcrum jepsen run --workload register --nemesis kill-all,delay --keyspace-mode quorum --write-level linearizable --read-level linearizable --time 60s
  fulcrum jepsen run --workload set --nemesis partition-one --endpoint http://127.0.0.1:7101`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if t.Mode, t.Write, t.Read, err = jepsenLevels(mode, write, read); err != nil {
				return usage(cmd, err)
			}
			t.Nemeses = nemeses
			if !cmd.Flags().Changed("seed") {
				t.Seed = uint64(time.Now().UnixNano()) % 1e9
			}
			if err := a.jepsenTogether(cmd, t, f); err != nil {
				return usage(cmd, err)
			}
			if len(a.endpoints) > 0 {
				t.Nodes = maxJepsenNodes
			}
			if err := t.Fill(); err != nil {
				return usage(cmd, err)
			}
			if len(a.endpoints) > 0 && !cmd.Flags().Changed("replicas") {
				t.Replicas = 0 // as many as there are nodes, which is seen there
			}
			return a.jepsenTest(cmd, t, f)
		},
	}
	f.add(c)
	fl := c.Flags()
	fl.StringVar(&t.Workload, "workload", t.Workload, "what clients do; see fulcrum jepsen list")
	fl.StringSliceVar(&nemeses, "nemesis", nil, "what is broken, one or more; see fulcrum jepsen list")
	fl.StringVar(&mode, "keyspace-mode", mode, "mode of the keyspace: raft, quorum or leader-follower")
	fl.StringVar(&write, "write-level", "", "level of writes; default: the mode's, linearizable where the mode is switched")
	fl.StringVar(&read, "read-level", "", "level of reads; default: the mode's, linearizable where the mode is switched")
	fl.DurationVar(&t.Time, "time", time.Minute, "how long clients and nemesis work")
	fl.Float64Var(&t.Rate, "rate", 0, "operations a second, of all clients together; 0: no limit (100 with --sim)")
	fl.IntVar(&t.Concurrency, "concurrency", 5, "clients")
	fl.IntVar(&t.Nodes, "nodes", t.Nodes, "nodes of the cluster that is started, up to 9")
	fl.IntVar(&t.Replicas, "replicas", 0, "replicas of the keyspace; default: one a node, up to 5")
	fl.IntVar(&t.Shards, "shards", 2, "shards of the keyspace")
	fl.StringVar(&t.ShardBy, "shard-by", "", "hash, range or zone; default hash")
	fl.StringVar(&t.Durability, "durability", "", "fsync, interval or memory; default fsync")
	fl.BoolVar(&t.NoTokens, "drop-tokens", false, "sessions forget their tokens, to see what that breaks")
	fl.DurationVar(&t.Quiet, "quiet", 0, "mean pause between faults; default: 3s to 10s")
	fl.DurationVar(&t.Busy, "busy", 0, "mean length of faults; default: 5s to 20s")
	fl.DurationVar(&t.OpTimeout, "op-timeout", 5*time.Second, "how long a client waits for an answer")
	fl.DurationVar(&t.Recovery, "recovery", 2*time.Minute, "how long the mended cluster may take to answer everywhere")
	fl.Uint64Var(&t.Seed, "seed", 0, "decides operations and faults; default: from the clock")
	fl.BoolVar(&t.Sim, "sim", false, "simulate the cluster, in virtual time")
	fl.IntVar(&t.Torn, "torn", 0, "with --sim: percent of unsynced data that a crash leaves nevertheless")
	fl.Var((*netFlag)(&f.netns), "net", "host, or netns: each node in a network namespace of its own with real packet loss (needs root)")
	fl.BoolVar(&f.keep, "keep", false, "leave the cluster that was started running, and say where it is")
	return c
}

// maxJepsenNodes is as many as a test takes.
const maxJepsenNodes = 9

// jepsenTogether says which flags of run do not go together, or were given as nothing.
func (a *app) jepsenTogether(cmd *cobra.Command, t jepsen.Test, f jepsenFlags) error {
	var errs []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	given, attached := cmd.Flags().Changed, len(a.endpoints) > 0
	wrong(t.Sim && attached, "--sim simulates a cluster: leave it or --endpoint out (which may come from %sENDPOINT or the settings file)", envPrefix)
	wrong(f.netns && (t.Sim || attached), "--net netns is for a cluster of processes that jepsen starts: leave --sim and --endpoint out")
	wrong(f.keep && (t.Sim || attached || f.netns), "--keep is for a cluster of processes that jepsen starts without namespaces: leave it out, or --sim, --endpoint and --net netns")
	wrong(given("nodes") && attached, "--nodes is for a cluster that jepsen starts: leave it or --endpoint out")
	wrong(given("torn") && !t.Sim, "--torn is for simulated disks: add --sim, or leave it out (nemesis disk-torn tears real ones)")
	for name, zero := range map[string]bool{"nodes": t.Nodes == 0, "replicas": t.Replicas == 0, "shards": t.Shards == 0, "concurrency": t.Concurrency == 0,
		"time": t.Time == 0, "op-timeout": t.OpTimeout == 0, "recovery": t.Recovery == 0} {
		wrong(zero && given(name), "--%s: want more than 0", name)
	}
	return errors.Join(errs...)
}

// netFlag is --net.
type netFlag bool

func (n *netFlag) String() string {
	if *n {
		return "netns"
	}
	return "host"
}

func (n *netFlag) Type() string { return "string" }

func (n *netFlag) Set(s string) error {
	if s != "host" && s != "netns" {
		return fmt.Errorf("%q: use host or netns", s)
	}
	*n = s == "netns"
	return nil
}

func jepsenLevels(mode, write, read string) (m consistency.Mode, w, r consistency.Level, err error) {
	m, err = consistency.ParseMode(mode)
	if err == nil {
		w, err = consistency.ParseLevel(write)
	}
	if err == nil {
		r, err = consistency.ParseLevel(read)
	}
	return m, w, r, err
}

// jepsenTest runs one test and shows the verdict.
func (a *app) jepsenTest(cmd *cobra.Command, t jepsen.Test, f jepsenFlags) error {
	ctx := cmd.Context()
	defer a.interruptible(ctx)()
	out, err := jepsen.Execute(ctx, t, jepsen.Where{Store: f.store, Endpoints: a.endpoints, Netns: f.netns, Keep: f.keep, Version: version, Commit: commit, Tell: a.jepsenProgress()})
	if out == nil {
		return jepsenError(cmd, err)
	}
	if err := a.show(out, func(w *tabwriter.Writer) { jepsenTable(w, out) }); err != nil {
		return err
	}
	if err != nil {
		fmt.Fprintln(a.err, "fulcrum: "+err.Error())
	}
	return verdictCode(out.Verdict)
}

// interruptible says what the first Ctrl-C does, which ends ctx, and lets a second one
// end the program at once. stop ends that.
func (a *app) interruptible(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		fmt.Fprintln(a.err, "fulcrum: interrupted: cleaning up and reporting what there is; once more ends it at once and leaves things as they are")
	})
}

// jepsenError is a run that could not be judged: unknown, unless the command line was
// wrong.
func jepsenError(cmd *cobra.Command, err error) error {
	if e := (*fulcrum.Error)(nil); errors.As(err, &e) {
		switch e.Code {
		case fulcrum.CodeInvalid, fulcrum.CodeLevel, fulcrum.CodeMode:
			return usage(cmd, err)
		}
	}
	return undecided{err}
}

// undecided is an error of jepsen that leaves the verdict open.
type undecided struct{ error }

func (u undecided) Unwrap() error { return u.error }

func verdictCode(v checker.Verdict) error {
	switch v {
	case checker.Valid:
		return nil
	case checker.Invalid:
		return silent{exitInvalid}
	}
	return silent{exitUndecided}
}

// jepsenProgress shows the phase, the share of time that is over, and what clients got.
func (a *app) jepsenProgress() func(jepsen.Progress) {
	bar := a.progress()
	return func(p jepsen.Progress) {
		if p.Phase == "" {
			bar(1, 1, "")
			return
		}
		what := p.Phase
		if p.OK+p.Fail+p.Info > 0 {
			what = fmt.Sprintf("%s %s of %s  ok %d  fail %d  unknown %d", p.Phase, p.Elapsed.Round(time.Second), p.Total, p.OK, p.Fail, p.Info)
		}
		if p.Fault != "" {
			what += "  " + p.Fault
		}
		bar(int(min(99, 100*p.Elapsed/max(1, p.Total))), 100, what)
	}
}

func jepsenTable(w *tabwriter.Writer, out *jepsen.Outcome) {
	fmt.Fprintf(w, "%s: %s\n\n", out.Test.Name(), strings.ToUpper(out.Verdict.String()))
	row(w, "CHECK", "VERDICT", "WHAT")
	for _, r := range out.Results {
		row(w, r.Check, r.Verdict, r.Detail)
	}
	for _, r := range out.Results {
		for i, x := range r.Anomalies {
			if i == 3 {
				fmt.Fprintf(w, "  ... %d more in the report\n", r.Found-i)
				break
			}
			what := x.Kind
			if x.Key != "" {
				what += ", key " + x.Key
			}
			fmt.Fprintf(w, "  %s: %s\n", what, x.Detail)
		}
	}
	fmt.Fprintf(w, "\n%d operations: %d done, %d not done, %d unknown. Faults: %d.\nReport: %s/index.html\nAgain: %s\n",
		out.OK+out.Fail+out.Info, out.OK, out.Fail, out.Info, out.Faults, out.Dir, out.Again)
	for _, n := range out.Notes {
		fmt.Fprintln(w, n)
	}
}

func (a *app) jepsenCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check DIR", Short: "Judge a stored history again",
		Long: `Judge the history in a report's folder again, by what test.json there says was run.
A history that is not as it was written is refused. Nothing is written.

Exit codes: 0 valid, 1 invalid, 2 unknown or no history that can be judged.`,
		Example: `  fulcrum jepsen check store/latest`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			out, err := jepsen.Recheck(in[0])
			if err != nil {
				return undecided{err}
			}
			if err := a.show(out, func(w *tabwriter.Writer) { jepsenTable(w, out) }); err != nil {
				return err
			}
			return verdictCode(out.Verdict)
		},
	}
}

func (a *app) jepsenSplit() *cobra.Command {
	return &cobra.Command{
		Use: "split DIR", Short: "Write a history of its own for each object of a run",
		Long: `Write a history of its own for each register, counter and set of a stored run, for
checkers that know one object only: DIR/independent/NAME/history.edn, as Jepsen does.
Lists and transactions are judged together: their history is DIR/history.edn.`,
		Example: `  fulcrum jepsen split store/latest`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, in []string) error {
			files, err := jepsen.Split(in[0])
			if err != nil {
				return undecided{err}
			}
			out := struct {
				Files []string `json:"files"`
			}{append([]string{}, files...)}
			return a.show(out, func(w *tabwriter.Writer) {
				for _, f := range files {
					row(w, f)
				}
			})
		},
	}
}

func (a *app) jepsenSuite() *cobra.Command {
	var f jepsenFlags
	quick, real, match := false, false, ""
	per, seed := time.Duration(0), uint64(1)
	workers := 2
	c := &cobra.Command{
		Use: "suite", Short: "Run every workload under every nemesis in every mode, and the weak levels that must fail",
		Long: `Run every workload under every nemesis in every mode in virtual time, and the weak
levels that must be seen to fail. Reports are written for what came out wrong.

With --real the same tests run on real processes, a cluster of its own each: without
those that need what only a simulated network can do, and with a report of each.

Exit codes: 0 all as it must be, 1 something is invalid, 2 something is unknown, or the
suite was interrupted.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if per == 0 {
				if cmd.Flags().Changed("time") {
					return usagef(cmd, "want a positive --time")
				}
				switch per = 30 * time.Minute; {
				case real:
					per = 30 * time.Second
				case quick:
					per = jepsen.QuickTime
				}
			}
			if real && !cmd.Flags().Changed("workers") {
				workers = 1
			}
			if per < 0 || workers < 1 || workers > 64 {
				return usagef(cmd, "want a positive --time and 1 to 64 --workers")
			}
			names, err := regexp.Compile(match)
			if err != nil {
				return usagef(cmd, "--match: %v", err)
			}
			cases := jepsen.Suite(quick, per, seed)
			if real {
				cases = jepsen.OnProcesses(cases)
			}
			if cases = jepsen.Matching(cases, names); len(cases) == 0 {
				return usagef(cmd, "--match %q: no test has such a name", match)
			}
			ctx := cmd.Context()
			defer a.interruptible(ctx)()
			bar := a.progress()
			sum, err := jepsen.RunSuite(ctx, cases, jepsen.SuiteOptions{Workers: workers, Store: f.store, Version: version, Commit: commit,
				Tell: func(done, total int, r jepsen.CaseResult) {
					bar(min(done, total-1), total, fmt.Sprintf("%d/%d %s", done, total, r.Name))
					if r.Err != "" && isTerminal(a.err) { // the result says it too, but much later
						fmt.Fprintf(a.err, "\r\x1b[K%s: %s\n  report: %s\n", r.Name, r.Err, r.Dir)
					}
				}})
			bar(1, 1, "")
			if err != nil {
				return undecided{err}
			}
			if err := a.show(sum, func(w *tabwriter.Writer) { suiteTable(w, sum) }); err != nil {
				return err
			}
			return verdictCode(sum.Verdict)
		},
	}
	f.add(c)
	c.Flags().BoolVar(&quick, "quick", false, "the choice that make test runs")
	c.Flags().BoolVar(&real, "real", false, "on real processes instead of in virtual time")
	c.Flags().StringVar(&match, "match", "", "only the tests whose names match a regular expression, such as _raft_")
	c.Flags().DurationVar(&per, "time", 0, "time of each test, virtual but with --real; default 30m, with --quick 10m, with --real 30s")
	c.Flags().Uint64Var(&seed, "seed", seed, "another seed makes other plans")
	c.Flags().IntVar(&workers, "workers", workers, "tests at the same time; with --real 1")
	return c
}

func suiteTable(w *tabwriter.Writer, s *jepsen.Summary) {
	row(w, "TEST", "RESULT", "OK", "FAIL", "UNKNOWN", "FAULTS", "TOOK")
	for _, r := range s.Cases {
		result := "as it must be"
		if r.Err != "" {
			result = "WRONG"
		}
		row(w, r.Name, result, r.OK, r.Fail, r.Info, r.Faults, fmt.Sprintf("%.1fs", r.Seconds))
	}
	fmt.Fprintln(w)
	for _, r := range s.Cases {
		if r.Err != "" {
			fmt.Fprintf(w, "%s: %s\n  report: %s\n  again:  %s\n", r.Name, strings.ReplaceAll(r.Err, "\n", "; "), r.Dir, r.Again)
		}
	}
	if s.Left > 0 {
		fmt.Fprintf(w, "Interrupted: %d tests were not run to their end.\n", s.Left)
	}
	fmt.Fprintf(w, "%d tests, %d wrong; %.1f virtual hours in %.0f s, %d operations, %d faults: %s\n", len(s.Cases), s.Wrong, s.VirtualHours, s.Seconds, s.Operations, s.Faults, s.Verdict)
}
