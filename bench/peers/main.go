// Command peers measures fulcrum beside etcd and Redis: the same load, on the same
// machine, in turns, several times over, and prints ratios with their spread. Nothing of
// it is in the store; docs/performance.md says how to read the figures.
//
// Start reading at run; cases.go says what is measured, systems.go what is started.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fulcrum/bench/figures"
)

// settings are the flags.
type settings struct {
	cases    []string
	systems  []string
	clients  []int
	repeats  int
	duration time.Duration
	warmup   time.Duration
	settle   time.Duration
	keys     int
	size     string
	nodes    int
	keyspace string
	dir      string
	fulcrum  string
	output   string
	from     string
	into     string
	table    string
	ycsb     string // the driver of go-ycsb; empty: not wanted, or not to be had
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func parse(args []string, errs io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	f.SetOutput(errs)
	f.Usage = func() {
		fmt.Fprintln(errs, "peers measures fulcrum beside etcd and Redis.\n\nCases:")
		for _, c := range cases {
			fmt.Fprintf(errs, "  %-16s %s (%s clients)\n", c.name, c.about, join(c.clients))
		}
		fmt.Fprintln(errs, "\nFlags:")
		f.PrintDefaults()
	}
	only := f.String("cases", "", "some of the cases, with commas between; default: all")
	systems := f.String("systems", "fulcrum,etcd,redis,redis-sync", "what to measure")
	clients := f.String("clients", "", "numbers of clients instead of those of each case, with commas between")
	f.IntVar(&s.repeats, "repeats", 3, "how often everything is measured, in turns")
	f.DurationVar(&s.duration, "duration", 5*time.Second, "of one measurement")
	f.DurationVar(&s.warmup, "warmup", 500*time.Millisecond, "before each")
	f.DurationVar(&s.settle, "settle", 300*time.Millisecond, "pause between two")
	f.IntVar(&s.keys, "keys", 100_000, "keys")
	f.StringVar(&s.size, "value-size", "256", "bytes of a value")
	f.IntVar(&s.nodes, "nodes", 3, "nodes of fulcrum and of etcd")
	f.StringVar(&s.keyspace, "keyspace", "default", "fulcrum's keyspace")
	f.StringVar(&s.dir, "dir", "", "directory on the disk that all data is to be on; default: a temporary one")
	f.StringVar(&s.fulcrum, "fulcrum", "bin/fulcrum", "the binary")
	f.StringVar(&s.output, "o", "table", "table, markdown or json")
	f.StringVar(&s.from, "from", "", "measure nothing: print the JSON of an earlier run as -o says")
	f.StringVar(&s.into, "into", "", "also write the table into this document, between two comments")
	f.StringVar(&s.table, "table", "peers", "which comments: those that begin with this name, and with \"end of\" it")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	var err error
	s.cases, s.systems = split(*only), split(*systems)
	for _, c := range split(*clients) {
		n, e := strconv.Atoi(c)
		if e != nil || n < 1 {
			err = errors.Join(err, fmt.Errorf("--clients %q: want numbers from 1", c))
		}
		s.clients = append(s.clients, n)
	}
	for _, name := range s.cases {
		if !slices.ContainsFunc(cases, func(c contest) bool { return c.name == name }) {
			err = errors.Join(err, fmt.Errorf("--cases: there is no %q; see --help", name))
		}
	}
	for _, name := range s.systems {
		if !slices.Contains([]string{fulcrumNode, etcd, redis, redisSync}, name) {
			err = errors.Join(err, fmt.Errorf("--systems: there is no %q: use %s, %s, %s, %s", name, fulcrumNode, etcd, redis, redisSync))
		}
	}
	if s.repeats < 1 || s.nodes < 1 || s.duration <= 0 {
		err = errors.Join(err, errors.New("--repeats, --nodes and --duration must be positive"))
	}
	if !slices.Contains([]string{"table", "markdown", "json"}, s.output) || f.NArg() > 0 {
		err = errors.Join(err, fmt.Errorf("-o %s: use table, markdown or json; arguments %q: there are none", s.output, f.Args()))
	}
	return s, err
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// run measures, or reads what was measured, and prints it.
func run(ctx context.Context, args []string, out, errs io.Writer) error {
	s, err := parse(args, errs)
	if err != nil {
		return err
	}
	var report *Report
	if s.from != "" {
		if report, err = readReport(s.from); err != nil {
			return err
		}
	} else if report, err = measureAll(ctx, &s, errs); err != nil && report == nil {
		return err
	}
	report.Command = cmdline(report.Command, s, args)
	return errors.Join(err, report.print(out, s.output), report.insert(s.into, s.table))
}

func cmdline(earlier string, s settings, args []string) string {
	if s.from != "" {
		return earlier
	}
	return strings.TrimSpace("go run ./bench/peers " + strings.Join(args, " "))
}

func readReport(path string) (*Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// measureAll starts the systems, measures every case with each in turn, and stops them,
// also when ctx ends; then it returns what it has, with the error.
func measureAll(ctx context.Context, s *settings, errs io.Writer) (report *Report, err error) {
	if s.dir, err = os.MkdirTemp(s.dir, "fulcrum-peers-"); err != nil {
		return nil, err
	}
	say := func(format string, args ...any) { fmt.Fprintf(errs, format+"\n", args...) }
	running := map[string]*system{}
	defer func() {
		say("stopping everything")
		for _, sys := range running {
			err = errors.Join(err, sys.stop())
		}
		err = errors.Join(err, os.RemoveAll(s.dir))
	}()
	wanted := planOf(s, everything())
	if slices.ContainsFunc(wanted, measurement.byYCSB) {
		driver, err := build("bench/peers/ycsb-driver", "ycsb-driver")
		if err != nil {
			say("the cases of go-ycsb are left out: it cannot be had here: %v", err)
		}
		s.ycsb = driver
	}
	for _, name := range s.systems {
		if !slices.ContainsFunc(wanted, func(m measurement) bool { return m.system == name }) {
			continue
		}
		say("starting %s", name)
		sys, err := startSystem(ctx, name, s)
		switch {
		case errors.Is(err, errNotInstalled):
			say("%s is left out: %v", name, err)
			continue
		case err != nil:
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
		running[name] = sys
		say("writing %d keys to %s", s.keys, name)
		if err := sys.load(ctx, s); err != nil {
			return nil, fmt.Errorf("write the keys to %s: %w", name, err)
		}
	}
	report = newReport(s)
	for _, sys := range running {
		report.Versions[sys.name] = sys.version
	}
	plan := planOf(s, running)
	if len(plan) == 0 {
		return nil, errors.New("nothing of what was asked for can be measured here")
	}
	total := s.repeats * len(plan)
	say("%d measurements, about %s", total, (time.Duration(total) * (s.warmup + s.duration + s.settle + 300*time.Millisecond)).Round(time.Second))
	for repeat := range s.repeats {
		for i, m := range plan {
			if err := pause(ctx, s.settle); err != nil {
				return report, err
			}
			got, err := running[m.system].measure(ctx, m.byYCSB(), m.args(s)...)
			if err != nil {
				return report, fmt.Errorf("%s at %d clients, %s: %w", m.contest, m.clients, m.label, err)
			}
			report.add(m, got)
			say("[%d/%d] %s, %d clients, %s: %.0f ops/s, p99 %s", repeat*len(plan)+i+1, total, m.contest, m.clients, m.label, got.OpsPerSec, figures.Millis(got.P99))
		}
	}
	return report, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// cacheDir is where what had to be built is kept.
func cacheDir() (string, error) {
	dir, err := filepath.Abs("bin")
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}
