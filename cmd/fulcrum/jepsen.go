package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
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
		a.jepsenList(), a.jepsenRun(), a.jepsenSuite(), a.jepsenCheck())
	if mutant.Enabled {
		c.AddCommand(a.jepsenMutants())
	}
	c.Long = `jepsen-lite lets clients work on a cluster while a nemesis breaks it, records what
every client saw, and judges the record: by the promise table, at the levels that
were asked for. The cluster is one of processes of its own, one that runs already
(--endpoint), or a simulated one in virtual time (--sim), where an hour takes seconds.

Exit codes: 0 valid, 1 invalid, 2 unknown (nothing proven either way) or wrong usage.`
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

A run that a seed decided can be repeated: the report says how. In simulation the
plan of faults and operations is the same; the order of goroutines is not.`,
		Example: `  fulcrum jepsen run --workload register --nemesis partition-halves --sim
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
			if t.Sim && len(a.endpoints) > 0 {
				return usagef(cmd, "--sim simulates a cluster: leave it or --endpoint out")
			}
			if f.netns && (t.Sim || len(a.endpoints) > 0) {
				return usagef(cmd, "--net netns is for a cluster of processes that jepsen starts: leave --sim and --endpoint out")
			}
			if err := t.Fill(); err != nil {
				return usage(cmd, err)
			}
			return a.jepsenTest(cmd.Context(), t, f)
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
	fl.IntVar(&t.Nodes, "nodes", t.Nodes, "nodes of the cluster that is started")
	fl.IntVar(&t.Replicas, "replicas", 0, "replicas of the keyspace; default: one a node, up to 5")
	fl.IntVar(&t.Shards, "shards", 0, "shards of the keyspace; default 2")
	fl.StringVar(&t.ShardBy, "shard-by", "", "hash, range or zone; default hash")
	fl.StringVar(&t.Durability, "durability", "", "fsync, interval or memory; default fsync")
	fl.BoolVar(&t.NoTokens, "drop-tokens", false, "sessions forget their tokens, to see what that breaks")
	fl.DurationVar(&t.Quiet, "quiet", 0, "mean pause between faults")
	fl.DurationVar(&t.Busy, "busy", 0, "mean length of faults")
	fl.DurationVar(&t.OpTimeout, "op-timeout", 0, "how long a client waits for an answer; default 5s")
	fl.DurationVar(&t.Recovery, "recovery", 0, "how long the mended cluster may take to answer everywhere; default 2m")
	fl.Uint64Var(&t.Seed, "seed", 0, "decides operations and faults; default: from the clock")
	fl.BoolVar(&t.Sim, "sim", false, "simulate the cluster, in virtual time")
	fl.IntVar(&t.Torn, "torn", 0, "with --sim: percent of unsynced data that a crash leaves nevertheless")
	fl.Var((*netFlag)(&f.netns), "net", "host, or netns: each node in a network namespace of its own with real packet loss (needs root)")
	fl.BoolVar(&f.keep, "keep", false, "leave the cluster that was started running")
	return c
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
func (a *app) jepsenTest(ctx context.Context, t jepsen.Test, f jepsenFlags) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	out, err := jepsen.Execute(ctx, t, jepsen.Where{Store: f.store, Endpoints: a.endpoints, Netns: f.netns, Keep: f.keep, Version: version, Tell: a.jepsenProgress(t)})
	if out == nil {
		return jepsenError(err)
	}
	if err := a.show(out, func(w *tabwriter.Writer) { jepsenTable(w, out) }); err != nil {
		return err
	}
	if err != nil {
		fmt.Fprintln(a.err, "fulcrum: "+err.Error())
	}
	return verdictCode(out.Judgement.Verdict)
}

// jepsenError is a run that could not be judged: unknown, unless the command line was
// wrong.
func jepsenError(err error) error {
	if e := (*fulcrum.Error)(nil); errors.As(err, &e) {
		switch e.Code {
		case fulcrum.CodeInvalid, fulcrum.CodeLevel, fulcrum.CodeMode:
			return usageError{err: err}
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
func (a *app) jepsenProgress(t jepsen.Test) func(jepsen.Progress) {
	bar := a.progress()
	return func(p jepsen.Progress) {
		if p.Phase == "" {
			bar(1, 1, "")
			return
		}
		what := fmt.Sprintf("%s %s  ok %d  fail %d  unknown %d", p.Phase, p.Elapsed.Round(time.Second), p.OK, p.Fail, p.Info)
		if p.Fault != "" {
			what += "  " + p.Fault
		}
		bar(int(min(99, 100*p.Elapsed/max(1, p.Total))), 100, what)
	}
}

func jepsenTable(w *tabwriter.Writer, out *jepsen.Outcome) {
	fmt.Fprintf(w, "%s: %s\n\n", out.Test.Name(), strings.ToUpper(out.Judgement.Verdict.String()))
	row(w, "CHECK", "VERDICT", "WHAT")
	for _, r := range out.Judgement.Results {
		row(w, r.Check, r.Verdict, r.Detail)
	}
	for _, r := range out.Judgement.Results {
		for i, x := range r.Anomalies {
			if i == 3 {
				fmt.Fprintf(w, "  ... %d more in the report\n", r.Found-i)
				break
			}
			fmt.Fprintf(w, "  %s, key %s: %s\n", x.Kind, x.Key, x.Detail)
		}
	}
	fmt.Fprintf(w, "\n%d operations: %d done, %d not done, %d unknown. Faults: %d.\nReport: %s/index.html\nAgain: %s\n",
		out.OK+out.Fail+out.Info, out.OK, out.Fail, out.Info, out.Faults, out.Dir, out.Test.Command())
}

func (a *app) jepsenCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check DIR", Short: "Judge a stored history again", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			out, err := jepsen.Recheck(in[0])
			if err != nil {
				return undecided{err}
			}
			if err := a.show(out, func(w *tabwriter.Writer) { jepsenTable(w, out) }); err != nil {
				return err
			}
			return verdictCode(out.Judgement.Verdict)
		},
	}
}

func (a *app) jepsenSuite() *cobra.Command {
	var f jepsenFlags
	quick := false
	per, seed := time.Duration(0), uint64(1)
	workers := 2
	c := &cobra.Command{
		Use: "suite", Short: "Run every workload under every nemesis in every mode, simulated, and the weak levels that must fail",
		Long: `Run every workload under every nemesis in every mode in virtual time, and the weak
levels that must be seen to fail. Reports are written for what came out wrong.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if per == 0 {
				if per = 30 * time.Minute; quick {
					per = jepsen.QuickTime
				}
			}
			if per < 0 || workers < 1 || workers > 64 {
				return usagef(cmd, "want a positive --time and 1 to 64 --workers")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			bar := a.progress()
			sum, err := jepsen.RunSuite(ctx, jepsen.Suite(quick, per, seed), jepsen.SuiteOptions{Workers: workers, Store: f.store, Version: version,
				Tell: func(done, total int, r jepsen.CaseResult) {
					bar(min(done, total-1), total, fmt.Sprintf("%d/%d %s", done, total, r.Name))
					if r.Err != "" && !a.asJSON() {
						fmt.Fprintf(a.err, "%s: %s\n  report: %s\n  again:  %s\n", r.Name, r.Err, r.Dir, r.Again)
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
	c.Flags().DurationVar(&per, "time", 0, "virtual time of each test; default 30m, with --quick 10m")
	c.Flags().Uint64Var(&seed, "seed", seed, "another seed makes other plans")
	c.Flags().IntVar(&workers, "workers", workers, "tests at the same time")
	return c
}

func suiteTable(w *tabwriter.Writer, s *jepsen.Summary) {
	row(w, "TEST", "RESULT", "OK", "FAIL", "UNKNOWN", "FAULTS", "TOOK")
	for _, r := range s.Cases {
		result := "as it must be"
		if r.Err != "" {
			result = r.Err
		}
		row(w, r.Name, result, r.OK, r.Fail, r.Info, r.Faults, fmt.Sprintf("%.1fs", r.Seconds))
	}
	fmt.Fprintf(w, "\n%d tests, %d wrong; %.1f virtual hours in %.0f s, %d operations, %d faults: %s\n", len(s.Cases), s.Wrong, s.VirtualHours, s.Seconds, s.Operations, s.Faults, s.Verdict)
}
