package jepsen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"fulcrum/consistency"
	"fulcrum/mutant"
)

// How a mutant is hunted: many short runs with much going on, not one long one. Each
// takes a second or two.
const (
	mutantTime    = time.Minute // virtual, of each try
	mutantRate    = 100         // operations a second
	mutantClients = 20          // so that there are always some under way when a fault begins
	mutantQuiet   = time.Second
	mutantBusy    = 2 * time.Second
	mutantFence   = 10 * time.Second // instead of mutantBusy where a leader is replaced only once its lease has run out
	mutantTries   = 24               // seeds
	mutantLimit   = 2 * time.Minute  // real, of one try; a mutant may also hang
)

// Kill is what became of one mutant.
type Kill struct {
	Mutant  string  `json:"mutant"`
	Breaks  string  `json:"breaks"`
	By      string  `json:"killed_by,omitempty"` // the check, "crash", "hang", or the Go test; empty: it survived
	Why     string  `json:"why,omitempty"`
	Seed    uint64  `json:"seed,omitempty"` // that found it; 0: a Go test did
	Seconds float64 `json:"seconds"`        // until then, the runs of the whole program included
	Again   string  `json:"again"`
	// Whole are runs that the whole program failed too: they prove nothing about the
	// mutant, and something about the program.
	Whole []string `json:"whole_failed,omitempty"`
}

// testOf is the run that should kill m.
func testOf(m mutant.Mutant, seed uint64) (Test, error) {
	t := Test{Workload: m.Workload, Nodes: m.Nodes, Replicas: m.Replicas, Shards: m.Shards, Seed: seed, Sim: true,
		Time: mutantTime, Rate: mutantRate, Concurrency: mutantClients, Quiet: mutantQuiet, Busy: mutantBusy, Torn: 50}
	if m.Nemesis != "" {
		t.Nemeses = strings.Split(m.Nemesis, ",")
	}
	var errs [3]error
	t.Mode, errs[0] = consistency.ParseMode(m.Mode)
	t.Write, errs[1] = consistency.ParseLevel(m.Write)
	t.Read, errs[2] = consistency.ParseLevel(m.Read)
	if err := errors.Join(errs[:]...); err != nil {
		return t, fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	switch {
	case m.Busy > 0:
		t.Busy = m.Busy
	case t.Mode == consistency.LeaderFollower:
		t.Busy = mutantFence
	}
	return t, t.Fill()
}

// Hunt runs each mutant against what should kill it, in a process of its own, and
// returns what became of it. A run kills only if the whole program passes the same run:
// what fails without the mutant proves nothing about it. binary must have been built
// with -tags mutants; source is the folder of the module, where Go tests are run for
// those that only they can see. first is the first seed that is tried.
func Hunt(ctx context.Context, all []mutant.Mutant, first uint64, binary, source string, tell func(Kill)) ([]Kill, error) {
	var kills []Kill
	for _, m := range all {
		k, err := hunt(ctx, m, first, binary, source)
		if err != nil {
			return kills, fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		kills = append(kills, k)
		tell(k)
	}
	return kills, nil
}

func hunt(ctx context.Context, m mutant.Mutant, first uint64, binary, source string) (Kill, error) {
	began := time.Now()
	k := Kill{Mutant: m.Name, Breaks: m.Breaks}
	for seed := first; seed < first+mutantTries && m.Workload != "" && k.By == ""; seed++ {
		if err := k.try(ctx, m, binary, seed); err != nil {
			return k, err
		}
	}
	if k.By == "" && m.Test != "" {
		pkg, name, _ := strings.Cut(m.Test, " ")
		k.Again, k.Seed = fmt.Sprintf("FULCRUM_MUTANT=%s go test -tags 'pebblegozstd mutants' ./%s -run '^%s$'", m.Name, pkg, name), 0
		failed, err := goTest(ctx, m.Test, m.Name, source)
		if err != nil {
			return k, err
		}
		if failed {
			if failed, err = goTest(ctx, m.Test, "", source); err != nil {
				return k, err
			}
			if k.By = name; failed {
				k.By, k.Whole = "", append(k.Whole, m.Test)
			}
		}
	}
	k.Seconds = time.Since(began).Seconds()
	return k, nil
}

// try makes the run with one seed, and again without the mutant if that found it.
func (k *Kill) try(ctx context.Context, m mutant.Mutant, binary string, seed uint64) error {
	t, err := testOf(m, seed)
	if err != nil {
		return err
	}
	k.Seed, k.Again = seed, fmt.Sprintf("FULCRUM_MUTANT=%s bin/%s", m.Name, strings.Replace(t.Command(), "fulcrum", "fulcrum-mutants", 1))
	by, why, err := attack(ctx, m.Name, m.Harness, binary, t)
	if by == "" || err != nil {
		return err
	}
	whole, _, err := attack(ctx, "", true, binary, t)
	if err != nil {
		return err
	}
	if whole != "" {
		k.Whole = append(k.Whole, fmt.Sprintf("%s: %s", whole, t.Command()))
		return nil
	}
	k.By, k.Why = by, why
	return nil
}

// failing is the first check that did not pass, as the table of a run shows it.
var failing = regexp.MustCompile(`(?m)^([a-z-]+) +(invalid|unknown) +(.*)$`)

// crashed is how a Go program says that it ends because of a mistake in it.
var crashed = regexp.MustCompile(`(?m)^(panic|fatal error): .*$`)

// said is why a run was cut short.
var said = regexp.MustCompile(`(?m)^fulcrum: .*$`)

// attack makes one run with the mutant name, "" for the whole program, and says which
// check failed, or "". A mutant of the store is killed by a verdict of invalid, or by its
// own crash; with open, as for one of the harness, by anything but a pass.
func attack(ctx context.Context, name string, open bool, binary string, t Test) (by, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, mutantLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "fulcrum-mutant-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(dir)
	args := append(strings.Fields(t.Command())[1:], "--store", dir, "-o", "table")
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "FULCRUM_MUTANT="+name)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", "", nil
	case ctx.Err() == context.DeadlineExceeded:
		return "hang", "did not end in " + mutantLimit.String(), nil
	case ctx.Err() != nil:
		return "", "", ctx.Err()
	case !errors.As(err, &exit):
		return "", "", err
	}
	if line := crashed.FindString(errOut.String()); line != "" {
		return "crash", line, nil
	}
	for _, f := range failing.FindAllStringSubmatch(out.String(), -1) {
		if f[2] == "invalid" || open {
			return f[1], strings.TrimSpace(f[3]), nil
		}
		// Neither is a run that could not go on a pass: something hangs that should not.
		if line := said.FindString(errOut.String()); f[1] == "complete" && line != "" {
			return f[1], line, nil
		}
	}
	if out.Len() == 0 {
		return "", "", fmt.Errorf("%s: %w: %s", t.Command(), err, errOut.String())
	}
	return "", "", nil
}

// goTest runs a test, as "package TestName", with a mutant, and says whether it failed.
func goTest(ctx context.Context, test, name, source string) (failed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*mutantLimit)
	defer cancel()
	pkg, fn, _ := strings.Cut(test, " ")
	cmd := exec.CommandContext(ctx, "go", "test", "-tags", "pebblegozstd mutants", "-count=1", "-run", "^"+fn+"$", "./"+pkg)
	cmd.Dir, cmd.Env = source, append(os.Environ(), "FULCRUM_MUTANT="+name)
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return false, nil
	case bytes.Contains(out, []byte("--- FAIL: "+fn)) || crashed.Match(out):
		return true, nil
	}
	return false, fmt.Errorf("go test %s: %w: %s", test, err, out)
}
