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

// How a mutant is hunted.
const (
	mutantTime  = 10 * time.Minute // virtual, of each try
	mutantTries = 8                // seeds
	mutantLimit = 2 * time.Minute  // real, of one try; a mutant may also hang
)

// Kill is what became of one mutant.
type Kill struct {
	Mutant  string  `json:"mutant"`
	Breaks  string  `json:"breaks"`
	By      string  `json:"killed_by,omitempty"` // the check, "crash", or the Go test; empty: it survived
	Why     string  `json:"why,omitempty"`
	Try     int     `json:"try"` // which seed found it
	Seconds float64 `json:"seconds"`
	Again   string  `json:"again"`
}

// testOf is the run that should kill m.
func testOf(m mutant.Mutant, seed uint64) (Test, error) {
	t := Test{Workload: m.Workload, Nodes: m.Nodes, Replicas: m.Replicas, Time: mutantTime, Rate: simRate, Seed: seed, Sim: true}
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
	return t, t.Fill()
}

// Hunt runs each mutant against what should kill it, in a process of its own, and
// returns what became of it. binary must have been built with -tags mutants; source is
// the folder of the module, where Go tests are run for those that only they can see.
func Hunt(ctx context.Context, all []mutant.Mutant, binary, source string, tell func(Kill)) ([]Kill, error) {
	var kills []Kill
	for _, m := range all {
		k, err := hunt(ctx, m, binary, source)
		if err != nil {
			return kills, err
		}
		kills = append(kills, k)
		tell(k)
	}
	return kills, nil
}

func hunt(ctx context.Context, m mutant.Mutant, binary, source string) (Kill, error) {
	began := time.Now()
	k := Kill{Mutant: m.Name, Breaks: m.Breaks}
	for try := 1; try <= mutantTries && m.Workload != "" && k.By == ""; try++ {
		t, err := testOf(m, uint64(try))
		if err != nil {
			return k, err
		}
		k.Try, k.Again = try, fmt.Sprintf("FULCRUM_MUTANT=%s %s", m.Name, t.Command())
		if k.By, k.Why, err = attack(ctx, m, binary, t); err != nil {
			return k, fmt.Errorf("mutant %s: %w", m.Name, err)
		}
	}
	if k.By == "" && m.Test != "" {
		var err error
		if k.By, err = goTest(ctx, m, source); err != nil {
			return k, fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		pkg, name, _ := strings.Cut(m.Test, " ")
		k.Again = fmt.Sprintf("FULCRUM_MUTANT=%s go test -tags 'pebblegozstd mutants' ./%s -run %s", m.Name, pkg, name)
	}
	k.Seconds = time.Since(began).Seconds()
	return k, nil
}

// failing is the first check that did not pass, as the table of a run shows it.
var failing = regexp.MustCompile(`(?m)^([a-z-]+) +(invalid|unknown) +(.*)$`)

// attack makes one run. A mutant of the store is killed by a verdict of invalid, or by
// its own crash; one of the harness by anything but a pass.
func attack(ctx context.Context, m mutant.Mutant, binary string, t Test) (by, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, mutantLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "fulcrum-mutant-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(dir)
	args := append(strings.Fields(t.Command())[1:], "--store", dir, "-o", "table")
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "FULCRUM_MUTANT="+m.Name)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", "", nil
	case ctx.Err() == context.DeadlineExceeded:
		return "hang", "did not end in " + mutantLimit.String(), nil
	case !errors.As(err, &exit):
		return "", "", err
	}
	if i := bytes.Index(errOut.Bytes(), []byte("panic: ")); i >= 0 || bytes.Contains(errOut.Bytes(), []byte("fatal error: ")) {
		line, _, _ := strings.Cut(errOut.String()[max(0, i):], "\n")
		return "crash", line, nil
	}
	want := "invalid"
	if m.Harness {
		want = "unknown"
	}
	for _, f := range failing.FindAllStringSubmatch(out.String(), -1) {
		if f[2] == want || m.Harness {
			return f[1], f[3], nil
		}
	}
	if len(out.Bytes()) == 0 {
		return "", "", fmt.Errorf("%s: %w: %s", t.Command(), err, errOut.String())
	}
	return "", "", nil
}

// goTest runs the test that should fail, and says whether it did.
func goTest(ctx context.Context, m mutant.Mutant, source string) (by string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*mutantLimit)
	defer cancel()
	pkg, name, _ := strings.Cut(m.Test, " ")
	cmd := exec.CommandContext(ctx, "go", "test", "-tags", "pebblegozstd mutants", "-count=1", "-run", "^"+name+"$", "./"+pkg)
	cmd.Dir, cmd.Env = source, append(os.Environ(), "FULCRUM_MUTANT="+m.Name)
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return "", nil
	case bytes.Contains(out, []byte("--- FAIL: "+name)) || bytes.Contains(out, []byte("panic: ")):
		return name, nil
	}
	return "", fmt.Errorf("go test %s: %w: %s", m.Test, err, out)
}
