// Command growth measures what fulcrum costs as things grow: keys, values, shards, nodes,
// and how a node that holds much data starts. Everything that is compared with each other
// runs in turns, several times over.
//
// Start reading at run; series.go says what is measured, cluster.go how.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"fulcrum/bench/figures"
)

// settings are the flags.
type settings struct {
	only     []string
	repeats  int
	duration time.Duration
	maxKeys  int
	dir      string
	fulcrum  string
	output   string
	into     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "growth:", err)
		os.Exit(1)
	}
}

func parse(args []string, errs io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("growth", flag.ContinueOnError)
	f.SetOutput(errs)
	f.Usage = func() {
		fmt.Fprintln(errs, "growth measures what fulcrum costs as things grow.\n\nSeries:")
		for _, one := range all {
			fmt.Fprintf(errs, "  %-8s %s\n", one.name, one.about)
		}
		fmt.Fprintln(errs, "\nFlags:")
		f.PrintDefaults()
	}
	only := f.String("only", "", "some of the series, with commas between; default: all")
	f.IntVar(&s.repeats, "repeats", 3, "how often everything is measured, in turns")
	f.DurationVar(&s.duration, "duration", 5*time.Second, "of one measurement")
	f.IntVar(&s.maxKeys, "max-keys", 10_000_000, "the most keys")
	f.StringVar(&s.dir, "dir", "", "directory for the data; default: a temporary one")
	f.StringVar(&s.fulcrum, "fulcrum", "bin/fulcrum", "the binary")
	f.StringVar(&s.output, "o", "markdown", "markdown or json")
	f.StringVar(&s.into, "into", "", "also write the table into this document, between its growth comments")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	s.only = strings.FieldsFunc(*only, func(r rune) bool { return r == ',' || r == ' ' })
	var err error
	for _, name := range s.only {
		if !slices.ContainsFunc(all, func(one series) bool { return one.name == name }) {
			err = errors.Join(err, fmt.Errorf("--only: there is no %q; see --help", name))
		}
	}
	if s.repeats < 1 || s.duration < time.Second || s.maxKeys < leastKeys {
		err = errors.Join(err, fmt.Errorf("--repeats must be positive, --duration a second or more, --max-keys %d or more", leastKeys))
	}
	if !slices.Contains([]string{"markdown", "json"}, s.output) || f.NArg() > 0 {
		err = errors.Join(err, fmt.Errorf("-o %s: use markdown or json; arguments %q: there are none", s.output, f.Args()))
	}
	return s, err
}

// run measures and prints.
func run(ctx context.Context, args []string, out, errs io.Writer) error {
	s, err := parse(args, errs)
	if err != nil {
		return err
	}
	began := time.Now()
	rows, version, err := measureAll(ctx, s, errs)
	if len(rows) == 0 {
		return err
	}
	text := fmt.Sprintf("%s, on %s.\n%s. %d repeats in turns, %s each. Made by: %s\n\n%s", began.Format(time.DateOnly), figures.Machine(), version,
		s.repeats, s.duration, strings.TrimSpace("go run ./bench/growth "+strings.Join(args, " ")), table(rows))
	if s.output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return errors.Join(err, enc.Encode(rows))
	}
	_, printErr := io.WriteString(out, text)
	if s.into != "" {
		printErr = errors.Join(printErr, figures.Insert(s.into, "growth", text))
	}
	return errors.Join(err, printErr)
}

// measureAll runs one series after the other. With an error it returns what it has.
func measureAll(ctx context.Context, s settings, errs io.Writer) (rows []*row, version string, err error) {
	for _, one := range all {
		if len(s.only) > 0 && !slices.Contains(s.only, one.name) {
			continue
		}
		fmt.Fprintf(errs, "%s: %s\n", one.name, one.about)
		m := &meter{s: s, series: one, errs: errs}
		err := one.run(ctx, m)
		err = errors.Join(err, m.end())
		rows, version = append(rows, m.rows...), m.version
		if err != nil {
			return rows, version, fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return rows, version, nil
}
