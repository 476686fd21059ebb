// Package report keeps a run: it writes everything that a person or a program wants
// of it into a folder, under Jepsen's names, and reads it back to be judged again.
//
// Start reading at Write. svg.go draws figures, plots.go says which; index.go makes the
// page that a person opens first, timeline.go the one with every operation.
package report

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
)

// Run is one run with its judgement.
type Run struct {
	Name      string // of the test; its folder in the store
	Meta      Meta
	History   *history.History
	Judgement checker.Judgement
	NodeLogs  map[string]string // node -> path of its log, to be copied; Read: where it lies in the run's folder
	Repro     string            // the shell command that repeats the run
	Linear    []byte            // porcupine's page of the first key that failed; nil: none
}

// Meta is test.json: what was run, and all that is needed to run or judge it again.
type Meta struct {
	Command  string            `json:"command,omitempty"` // as it was called
	Seed     uint64            `json:"seed"`
	Version  string            `json:"version,omitempty"` // of fulcrum
	Commit   string            `json:"commit,omitempty"`
	Started  time.Time         `json:"started"`           // by the wall; names the folder
	Took     time.Duration     `json:"took_ns,omitempty"` // by the wall; virtual time is in the history
	Sim      bool              `json:"sim"`
	Workload string            `json:"workload"`
	Nemeses  []string          `json:"nemeses,omitempty"`
	Mode     string            `json:"mode"`
	Write    string            `json:"write_level"`
	Read     string            `json:"read_level"`
	Nodes    []string          `json:"nodes,omitempty"`
	Flags    map[string]string `json:"flags,omitempty"`
	Plan     []string          `json:"plan,omitempty"` // of the nemesis, a step each
	Spec     checker.Spec      `json:"spec"`           // what the checks were derived from
}

// test is the whole of test.json.
type test struct {
	Name string `json:"name"`
	Meta
	Repro   string `json:"repro,omitempty"`
	History stored `json:"history"`
}

// stored is how a file was when it was written.
type stored struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Lines  int    `json:"lines"`
}

// The names of files in a run's folder.
const (
	historyFile = "history.jsonl"
	ednFile     = "history.edn"
	testFile    = "test.json"
	resultsFile = "results.json"
	linearFile  = "linear.html"
	reproFile   = "repro.sh"
	logsFolder  = "nodes"
)

// stamp is how Jepsen names the folder of a run.
const stamp = "20060102T150405.000Z"

// Write writes run into a new folder store/<name>/<time>, points store/<name>/latest
// and store/latest at it, and returns it. Until it is whole the folder's name ends in
// ".incomplete", and so it stays when something fails, with what could be written. A
// node's log that is not there is no failure; its place says so.
func Write(store string, run Run) (dir string, err error) {
	name := fileName(run.Name)
	dir, err = reserve(filepath.Join(store, name), run.Meta.Started.UTC())
	if err != nil {
		return "", fmt.Errorf("report: %w", err)
	}
	incomplete := dir + unfinished
	if err := fill(incomplete, &run); err != nil {
		return "", fmt.Errorf("report: %w (what could be written is in %s)", err, incomplete)
	}
	if err := os.Rename(incomplete, dir); err != nil {
		return "", fmt.Errorf("report: %w (all of it is in %s)", err, incomplete)
	}
	for link, to := range map[string]string{
		filepath.Join(store, name, "latest"): filepath.Base(dir),
		filepath.Join(store, "latest"):       filepath.Join(name, filepath.Base(dir)),
	} {
		if err := relink(link, to); err != nil {
			return dir, fmt.Errorf("report: %s is written, but the link %s is not: %w", dir, link, err)
		}
	}
	return dir, nil
}

// unfinished ends the name of a folder that is not whole.
const unfinished = ".incomplete"

// reserve makes the unfinished folder of a run that began at t and returns its name to
// be. Runs of the same millisecond, as virtual time and parallel runs have them, get the
// next ones.
func reserve(parent string, t time.Time) (dir string, err error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	for range 10_000 {
		dir = filepath.Join(parent, t.Format(stamp))
		t = t.Add(time.Millisecond)
		if err := os.Mkdir(dir+unfinished, 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return "", err
		}
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) { // asked when the name is ours: no run can become whole under it
			return dir, nil
		}
		if err := os.Remove(dir + unfinished); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("too many runs at %s: %w", dir, fs.ErrExist)
}

// relink makes link a symbolic link to to, in one step for whoever looks.
func relink(link, to string) error {
	fresh := link + "." + fileName(to) // no other run has that name
	if err := os.Symlink(to, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, link)
}

// fill writes all files, the history first: it is what cannot be made again.
func fill(dir string, run *Run) error {
	t := test{Name: run.Name, Meta: run.Meta, Repro: run.Repro, History: stored{File: historyFile}}
	sum := newTally()
	if err := file(dir, historyFile, 0o644, func(w io.Writer) error {
		return history.WriteJSONL(io.MultiWriter(w, sum), run.History)
	}); err != nil {
		return err
	}
	t.History.SHA256, t.History.Lines = sum.sum(), sum.lines
	steps := []struct {
		name  string
		mode  os.FileMode
		write func(w io.Writer) error
	}{
		{testFile, 0o644, func(w io.Writer) error { return indented(w, t) }},
		{ednFile, 0o644, func(w io.Writer) error { return history.WriteEDN(w, run.History) }},
		{reproFile, 0o755, func(w io.Writer) error { return repro(w, run) }},
		{"timeline.html", 0o644, func(w io.Writer) error { return timeline(w, run) }},
		{linearFile, 0o644, func(w io.Writer) error { _, err := w.Write(run.Linear); return err }},
	}
	for _, s := range steps {
		if s.name == linearFile && run.Linear == nil || s.name == reproFile && run.Repro == "" {
			continue
		}
		if err := file(dir, s.name, s.mode, s.write); err != nil {
			return err
		}
	}
	if err := copyLogs(dir, run.NodeLogs); err != nil {
		return err
	}
	if err := pages(dir, run); err != nil {
		return err
	}
	return results(dir, run.Judgement)
}

// pages writes the figures and the page that shows them.
func pages(dir string, run *Run) error {
	p := newPlots(run)
	drawings := p.all()
	for _, d := range drawings {
		if err := file(dir, d.file, 0o644, func(w io.Writer) error { _, err := w.Write(d.fig.svg(true)); return err }); err != nil {
			return err
		}
	}
	return file(dir, "index.html", 0o644, func(w io.Writer) error { return index(w, run, p, drawings) })
}

func repro(w io.Writer, run *Run) error {
	command := run.Repro
	if args, ok := strings.CutPrefix(command, "fulcrum "); ok {
		command = `exec "${FULCRUM:-fulcrum}" ` + args + ` "$@"`
	}
	_, err := fmt.Fprintf(w, "#!/bin/sh\n# Repeats this run of %s. FULCRUM may name the program, where it is not in the PATH;\n# more flags may follow.\n%s\n", fileName(run.Name), command)
	return err
}

// file writes one file through a buffer.
func file(dir, name string, mode os.FileMode, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 64<<10)
	if err := write(w); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.Flush()
}

func indented(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// copyLogs copies the logs of nodes to nodes/<node>.log.
func copyLogs(dir string, logs map[string]string) error {
	if len(logs) == 0 {
		return nil
	}
	to := filepath.Join(dir, logsFolder)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for node, path := range logs {
		if err := file(to, fileName(node)+".log", 0o644, func(w io.Writer) error {
			from, err := os.Open(path)
			if err != nil {
				_, err = fmt.Fprintf(w, "this log could not be copied: %v\n", err)
				return err
			}
			defer from.Close()
			_, err = io.Copy(w, from)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// tally counts and sums up what is written to it.
type tally struct {
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
	lines int
}

func newTally() *tally { return &tally{hash: sha256.New()} }

func (t *tally) Write(p []byte) (int, error) {
	for _, c := range p {
		if c == '\n' {
			t.lines++
		}
	}
	return t.hash.Write(p)
}

func (t *tally) sum() string { return hex.EncodeToString(t.hash.Sum(nil)) }

// Read reads the run that Write wrote into dir, to be judged again. A folder that is no
// run, a run that was cut off and a history that is not as it was written are
// *fulcrum.Error of CodeInvalid; a folder that is not there one of CodeNotFound.
func Read(dir string) (Run, error) {
	b, err := os.ReadFile(filepath.Join(dir, testFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(dir); statErr != nil {
			return Run{}, fulcrum.Errorf(fulcrum.CodeNotFound, "no run at %s: %w", dir, statErr).WithHint("give the folder of one run, such as store/latest")
		}
		return Run{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%s is no run, or was cut off: it has no %s", dir, testFile).
			WithHint("give the folder of one run, such as store/latest")
	}
	if err != nil {
		return Run{}, err
	}
	var t test
	if err := json.Unmarshal(b, &t); err != nil {
		return Run{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%s: %w", filepath.Join(dir, testFile), err).WithHint("the file was cut off or edited")
	}
	run := Run{Name: t.Name, Meta: t.Meta, Repro: t.Repro}
	if run.History, err = readHistory(dir, t.History); err != nil {
		return Run{}, err
	}
	if run.Judgement, err = readResults(dir); err != nil {
		return Run{}, err
	}
	if run.Linear, err = os.ReadFile(filepath.Join(dir, linearFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Run{}, err
	}
	logs, _ := filepath.Glob(filepath.Join(dir, logsFolder, "*.log")) // the pattern is well-formed
	for _, path := range slices.Sorted(slices.Values(logs)) {
		if run.NodeLogs == nil {
			run.NodeLogs = map[string]string{}
		}
		base := filepath.Base(path)
		run.NodeLogs[base[:len(base)-len(".log")]] = path
	}
	return run, nil
}

// readHistory reads history.jsonl and holds it against what test.json says of it. A
// file that cannot be read and one that is not the same are told apart: the first names
// a line, the second says that it cannot be trusted.
func readHistory(dir string, want stored) (*history.History, error) {
	path := filepath.Join(dir, historyFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "%s is missing", path).WithHint("the run was cut off or its history deleted; repeat it")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := newTally()
	in := io.TeeReader(f, sum)
	h, bad := history.ReadJSONL(in)
	if _, err := io.Copy(io.Discard, in); err != nil { // what a bad line left unread
		return nil, err
	}
	if sum.sum() == want.SHA256 {
		return h, bad
	}
	what := "edited"
	if sum.lines < want.Lines {
		what = "truncated"
	}
	e := fulcrum.Errorf(fulcrum.CodeInvalid, "%s was %s: it has %d lines and was written with %d, and its SHA-256 is not that of %s",
		path, what, sum.lines, want.Lines, testFile)
	if bad != nil {
		e = fulcrum.Errorf(fulcrum.CodeInvalid, "%s; %w", e.Detail, bad)
	}
	return nil, e.WithHint("restore the file or repeat the run")
}
