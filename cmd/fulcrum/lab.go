package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/lab"
	"fulcrum/local"
)

// labAtMost bounds an experiment; --timeout can only make it longer.
const labAtMost = 10 * time.Minute

func (a *app) labCommand() *cobra.Command {
	return group("lab", "Run the guide's examples as live experiments", a.labList(), a.labRun())
}

func (a *app) labList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the experiments", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.show(lab.List(), func(w *tabwriter.Writer) {
				row(w, "NAME", "TITLE")
				for _, x := range lab.List() {
					row(w, x.Name, x.Title)
				}
				for _, x := range lab.List() {
					fmt.Fprintf(w, "\n%s: %s\nRun it with: fulcrum lab run %s\n", x.Name, x.About, x.Name)
				}
			})
		},
	}
}

func (a *app) labRun() *cobra.Command {
	nodes := 5
	keep := false
	c := &cobra.Command{
		Use: "run NAME", Short: "Run an experiment on a cluster of its own, or on that of --endpoint",
		Long: `Run an experiment on a cluster of its own, or on that of --endpoint.

Its own cluster is started on free ports in a temporary directory, and stopped and
removed at the end, also after Ctrl-C. In the cluster of --endpoint the experiment
makes keyspaces of its own, injects its fault, and takes both away again. Everything
that is printed was measured in this run.`,
		Example: "  fulcrum lab run cap\n  fulcrum lab run cap --nodes 3 -o json\n  fulcrum lab run cap --endpoint http://127.0.0.1:7101",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, in []string) error {
			x, err := lab.Find(in[0])
			if err != nil {
				return usage(cmd, err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), max(a.timeout, labAtMost))
			defer cancel()
			if len(a.endpoints) > 0 {
				if cmd.Flags().Changed("nodes") {
					return usagef(cmd, "--nodes is for a cluster that the experiment starts: leave it or --endpoint out")
				}
				return a.experiment(ctx, x, a.endpoints, keep)
			}
			if nodes < 3 || nodes > local.MaxNodes {
				return usagef(cmd, "--nodes %d: a majority and a minority side need 3 at least (and %d at most)", nodes, local.MaxNodes)
			}
			return a.onOwnCluster(ctx, x, nodes, keep)
		},
	}
	c.Flags().IntVar(&nodes, "nodes", nodes, "nodes of the cluster that is started")
	c.Flags().BoolVar(&keep, "keep", false, "leave the cluster, or in that of --endpoint the experiment's keyspaces, for you to look at")
	return c
}

// onOwnCluster starts a cluster for the experiment. However that ends, the cluster is
// stopped and its directory removed, unless it is to be kept.
func (a *app) onOwnCluster(ctx context.Context, x lab.Experiment, nodes int, keep bool) (err error) {
	base, err := local.FreeBasePort(nodes)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fulcrum-lab-")
	if err != nil {
		return err
	}
	bar := a.progress()
	cluster, err := local.Up(ctx, local.Spec{Dir: dir, Nodes: nodes, BasePort: base, Progress: bar})
	if err != nil {
		bar(1, 1, "")
		return errors.Join(fmt.Errorf("start a cluster for the experiment: %w", err), os.RemoveAll(dir))
	}
	defer func() {
		if keep {
			fmt.Fprintf(a.err, "The cluster is still up: fulcrum --data %[1]s status; remove it with fulcrum --data %[1]s down --wipe\n", dir)
			return
		}
		bar(0, 1, "stopping the cluster")
		downCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, cluster.Down(downCtx, true), os.RemoveAll(dir))
		bar(1, 1, "")
	}()
	return a.experiment(ctx, x, cluster.Endpoints(), keep)
}

// experiment runs x on the cluster of endpoints and shows what it found.
func (a *app) experiment(ctx context.Context, x lab.Experiment, endpoints []string, keep bool) error {
	c, err := client.New(ctx, endpoints)
	if err != nil {
		return err
	}
	defer c.Close()
	report, err := x.Run(ctx, &lab.Env{Client: c, Keep: keep, Progress: a.progress()})
	if report == nil {
		if errors.Is(ctx.Err(), context.Canceled) && errors.Is(err, context.Canceled) {
			return fmt.Errorf("interrupted, and cleaned up: %w", err)
		}
		return err
	}
	return errors.Join(err, a.show(report, func(w *tabwriter.Writer) { labTable(w, x, report) }))
}

// labPhases are the sections of the table. The probes of lab.Settling are summed up in
// the findings; all of them are in the JSON.
var labPhases = []struct{ phase, title string }{
	{lab.Before, "Before the cut, the network whole"},
	{lab.AtOnce, "Right after the cut"},
	{lab.Cut, "While cut, once both sides had settled in"},
}

// labTable prints a report. A title has no tabs, and so begins a block of its own widths.
func labTable(w *tabwriter.Writer, x lab.Experiment, r *lab.Report) {
	fmt.Fprintf(w, "%s. Took %.0f s.\n\n", x.Title, r.Seconds)
	for _, s := range r.Sides {
		row(w, s.Name+" side:", joinNodes(s.Nodes))
	}
	fmt.Fprintln(w)
	row(w, "KEYSPACE", "MODE", "REPLICAS", "LEADER BEFORE THE CUT")
	for _, k := range r.Keyspaces {
		leader := "-"
		if k.Leader != "" {
			leader = fmt.Sprintf("%s, on the %s side", k.Leader, k.LeaderSide)
		}
		row(w, k.Keyspace, k.Mode, joinNodes(k.Replicas), leader)
	}
	for _, p := range labPhases {
		fmt.Fprintf(w, "\n%s\n", p.title)
		row(w, "MODE", "KEYSPACE", "SIDE", "OPERATION", "LEVEL", "ANSWERED", "REFUSED", "UNKNOWN", "LATENCY (median)", "FRESH/STALE", "LOST AFTER HEALING", "CONVERGED IN")
		for _, m := range r.Rows {
			if m.Phase == p.phase {
				row(w, m.Mode, m.Keyspace, m.Side, m.Operation, m.Level, fmt.Sprintf("%d/%d", m.Answered, m.Operations), m.Refused, m.Unknown,
					milliseconds(m.Median), freshCell(m), lostCell(m), convergedCell(m))
			}
		}
	}
	fmt.Fprintf(w, "\nput: a new key each time. overwrite: the one key that both sides write; get: that key, fresh when it\n"+
		"returns the newest write that either side had acknowledged. Converged: all nodes give the same answers.\n\nWhat was measured:\n")
	for _, f := range r.Findings {
		fmt.Fprintf(w, "  - %s\n", f)
	}
}

func joinNodes(nodes []fulcrum.NodeID) string {
	s := make([]string, len(nodes))
	for i, n := range nodes {
		s[i] = string(n)
	}
	return strings.Join(s, ",")
}

func milliseconds(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

func freshCell(m lab.Row) string {
	if m.Fresh == nil || m.Stale == nil || m.Answered == 0 {
		return "-"
	}
	return fmt.Sprintf("%d/%d", *m.Fresh, *m.Stale)
}

func lostCell(m lab.Row) string {
	if m.Lost == nil || m.Answered == 0 {
		return "-"
	}
	s := fmt.Sprint(*m.Lost)
	if m.Unchecked != nil && *m.Unchecked > 0 {
		s += fmt.Sprintf(" (%d not readable)", *m.Unchecked)
	}
	return s
}

func convergedCell(m lab.Row) string {
	switch {
	case m.Phase == lab.Before:
		return "-"
	case m.Converged == nil:
		return "not yet"
	}
	return fmt.Sprintf("%.2fs", *m.Converged)
}
