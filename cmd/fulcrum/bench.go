package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fulcrum"
	"fulcrum/bench"
	"fulcrum/client"
)

// benchFlags are the flags that only the command line has; the others are the
// generator's own.
type benchFlags struct {
	options bench.Options
	level   string
	nodes   []string
}

func (a *app) benchCommand() *cobra.Command {
	f := &benchFlags{}
	c := &cobra.Command{
		Use: "bench", Short: "Make load over the Redis protocol and measure how it is answered",
		Long: `Make load over the Redis protocol and measure how it is answered.

Closed loop: each of --clients sends its next operation (or --pipeline of them) when the
last one is answered. Open loop, with --rate: operations are due at fixed times, and
latency counts from when they were due, whether or not a client was free to send them:
what a stall does to those who come meanwhile is in the percentiles.

Without --endpoint the nodes are those of the local cluster in --data, or some of them
with --nodes. --endpoint names nodes by HTTP address (http://host:7101: all nodes of that
cluster are asked), or anything that speaks the Redis protocol by host:port.

Errors are counted by their prefix, apart from latencies. UNKNOWN, TIMEOUT and CONNECTION
leave open whether a write was done. incr and append have keys of their own (PREFIXn: and
PREFIXa:). Ctrl-C shows what was measured so far.`,
		Example: "  fulcrum bench -k cp --load\n  fulcrum bench -k cp --mix get --read-level one --clients 64\n" +
			"  fulcrum bench -k ap --mix write --level one --pipeline 16 --clients 64\n  fulcrum bench --rate 2000 --mix get=90,incr=10 --duration 1m -o json\n" +
			"  fulcrum bench --endpoint 127.0.0.1:6379 --mix ycsb-b",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.bench(cmd, f) },
	}
	own := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.options.Flags(own)
	c.Flags().AddGoFlagSet(own)
	fl := c.Flags()
	fl.StringVarP(&f.options.Keyspace, "keyspace", "k", "", "keyspace, by name or database number; default: database 0, which is keyspace default")
	fl.StringVar(&f.level, "level", "", "level of all that the mix does; default: the keyspace's")
	fl.StringSliceVar(&f.nodes, "nodes", nil, "nodes that the clients are spread over, such as n1,n2; default: all")
	_ = fl.SetAnnotation("nodes", argsOnly, []string{"true"}) // nodes in fulcrum.yaml is how many up starts
	return c
}

func (a *app) bench(cmd *cobra.Command, f *benchFlags) error {
	o := f.options
	if err := f.complete(&o); err != nil {
		return usage(cmd, err)
	}
	addrs, err := a.redisAddrs(cmd.Context(), f.nodes)
	if err != nil {
		return err
	}
	target := &bench.Redis{Addrs: addrs, Options: o}
	dead, err := target.Reachable(cmd.Context())
	if err != nil {
		return err
	}
	for _, addr := range slices.Sorted(maps.Keys(dead)) {
		if len(dead) == len(addrs) {
			break // Run says it
		}
		fmt.Fprintf(a.err, "%s cannot be reached, its clients go to others: %v\n", addr, dead[addr])
	}
	result, err := bench.Run(cmd.Context(), o, target, a.benchProgress())
	if err != nil {
		return err
	}
	result.Version, result.Target, result.Endpoints = version, "redis", addrs
	if err := a.show(result, func(w *tabwriter.Writer) { benchTable(w, result) }); err != nil {
		return err
	}
	if result.Operations == 0 && !result.Interrupted {
		return fmt.Errorf("no operation was done: %s", countsOf(result.Errors))
	}
	return nil
}

// complete sets the levels and checks everything, before anything is connected.
func (f *benchFlags) complete(o *bench.Options) error {
	if f.level != "" {
		if o.Read != "" || o.Write != "" {
			return errors.New("--level is for reads and writes: leave it, or --read-level and --write-level, out")
		}
		mix, err := bench.ParseMix(o.Mix)
		if err != nil {
			return err
		}
		if mix.Reads() {
			o.Read = f.level
		}
		if mix.Writes() {
			o.Write = f.level
		}
	}
	return o.Complete()
}

// redisAddrs finds the Redis ports of the nodes.
func (a *app) redisAddrs(ctx context.Context, nodes []string) ([]string, error) {
	addrs := map[fulcrum.NodeID]string{}
	var names []fulcrum.NodeID
	var plain []string
	add := func(name fulcrum.NodeID, addr string) {
		names = append(names, name)
		addrs[name] = addr
	}
	for _, e := range a.endpoints {
		if !strings.Contains(e, "://") {
			plain = append(plain, e)
		}
	}
	switch {
	case len(plain) > 0 && len(plain) < len(a.endpoints):
		return nil, usageError{err: errors.New("--endpoint: either HTTP addresses (http://host:port) or those of the Redis protocol (host:port)"), cmd: "fulcrum bench"}
	case len(plain) > 0 && len(nodes) > 0:
		return nil, usageError{err: errors.New("--nodes needs a cluster that can be asked: leave it out, or give --endpoint as http://host:port"), cmd: "fulcrum bench"}
	case len(plain) > 0:
		return plain, nil
	case len(a.endpoints) > 0:
		cl, err := client.New(ctx, a.endpoints)
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		asking, cancel := a.deadline(ctx)
		defer cancel()
		info, err := cl.Cluster(asking)
		if err != nil {
			return nil, err
		}
		for _, n := range info.Nodes {
			add(n.Name, n.RedisAddr)
		}
	default:
		c, err := a.cluster()
		if err != nil {
			return nil, err
		}
		for _, n := range c.Nodes {
			add(n.Name, n.RedisAddr)
		}
	}
	if len(nodes) == 0 {
		for _, name := range names {
			nodes = append(nodes, string(name))
		}
	}
	out := make([]string, len(nodes))
	for i, name := range nodes {
		if out[i] = addrs[fulcrum.NodeID(name)]; out[i] == "" {
			return nil, fulcrum.Errorf(fulcrum.CodeNotFound, "no node %q in the cluster", name).WithHint("nodes are %v", names)
		}
	}
	return out, nil
}

// benchProgress shows each second on a terminal, and nothing elsewhere.
func (a *app) benchProgress() bench.Progress {
	if !isTerminal(a.err) {
		return bench.Progress{}
	}
	bar := a.progress()
	return bench.Progress{
		Load: func(done, total int) { bar(done, total, fmt.Sprintf("writing keys, %d of %d", done, total)) },
		Second: func(s bench.Second) {
			fmt.Fprintf(a.err, "%6.1f s %10.0f ops/s   p50 %-8s p99 %-8s %s\n", s.At, s.OpsPerSec, micros(s.P50), micros(s.P99), countsOf(s.Errors))
		},
	}
}

func benchTable(w *tabwriter.Writer, r *bench.Result) {
	loop := fmt.Sprintf("closed loop, %d clients, pipelines of %d", r.Options.Clients, r.Options.Pipeline)
	if r.Options.Rate > 0 {
		loop = fmt.Sprintf("open loop, %g operations a second due, %d clients", r.Options.Rate, r.Options.Clients)
	}
	fmt.Fprintf(w, "%s: %s; %s; %.1f s.\n", r.Options.Mix, loop, strings.Join(r.Endpoints, " "), r.Seconds)
	if r.Load != nil {
		fmt.Fprintf(w, "%d keys were written first, %.0f a second.\n", r.Load.Keys, r.Load.OpsPerSec)
	}
	if r.Interrupted {
		fmt.Fprintln(w, "Interrupted: this is what was measured until then.")
	}
	fmt.Fprintln(w)
	row(w, "OPERATION", "OPS/S", "DONE", "MISSING", "MEAN", "P50", "P90", "P99", "P99.9", "MAX", "ERRORS")
	line := func(name string, ops float64, done int64, missing any, l bench.Latency, errs map[string]int64) {
		row(w, name, fmt.Sprintf("%.0f", ops), done, missing, micros(int64(l.Mean)), micros(l.P50), micros(l.P90), micros(l.P99), micros(l.P999), micros(l.Max), countsOf(errs))
	}
	for _, k := range r.Kinds {
		line(k.Kind, k.OpsPerSec, k.Operations, k.Missing, k.Latency, k.Errors)
	}
	if len(r.Kinds) > 1 {
		line("all", r.OpsPerSec, r.Operations, "", r.Latency, r.Errors)
	}
	for i, word := range slices.Sorted(maps.Keys(r.Texts)) {
		if i == 0 {
			fmt.Fprintln(w, "\nThe first error of each sort:")
		}
		fmt.Fprintf(w, "  %s\n", r.Texts[word])
	}
	if r.NotSent > 0 {
		fmt.Fprintf(w, "\n%d operations were due and never sent: the store cannot keep up with this rate, and latencies only say for how long it was tried.\n", r.NotSent)
	}
}

func micros(us int64) string {
	if us == 0 {
		return "-"
	}
	return milliseconds(float64(us) / float64(time.Millisecond/time.Microsecond))
}

// countsOf lists errors, the most frequent first.
func countsOf(errs map[string]int64) string {
	if len(errs) == 0 {
		return "-"
	}
	words := slices.SortedFunc(maps.Keys(errs), func(a, b string) int {
		if errs[a] != errs[b] {
			return int(min(max(errs[b]-errs[a], -1), 1))
		}
		return strings.Compare(a, b)
	})
	for i, word := range words {
		words[i] = fmt.Sprintf("%s %d", word, errs[word])
	}
	return strings.Join(words, ", ")
}
