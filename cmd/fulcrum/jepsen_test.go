package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"fulcrum/jepsen-lite/history"
)

// jepsenFolder is where one test runs `fulcrum jepsen`: in it are ./store, and what the
// command keeps for as long as it runs.
type jepsenFolder struct {
	t   *testing.T
	dir string
}

func newJepsenFolder(t *testing.T) jepsenFolder {
	t.Helper()
	f := jepsenFolder{t, t.TempDir()}
	if err := os.Mkdir(f.temporary(), 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f jepsenFolder) temporary() string { return filepath.Join(f.dir, "tmp") }

// command is one that is not started yet.
func (f jepsenFolder) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{"jepsen"}, args...)...)
	cmd.Dir, cmd.Env = f.dir, append(os.Environ(), "TMPDIR="+f.temporary())
	return cmd
}

// run runs a command to its end.
func (f jepsenFolder) run(args ...string) result {
	f.t.Helper()
	j := f.start(args...)
	return j.wait(3 * time.Minute)
}

// jepsenRun is a command that runs.
type jepsenRun struct {
	f        jepsenFolder
	cmd      *exec.Cmd
	out, err bytes.Buffer // to be read once it has ended
	ended    chan struct{}
	began    time.Time
}

func (f jepsenFolder) start(args ...string) *jepsenRun {
	f.t.Helper()
	j := &jepsenRun{f: f, cmd: f.command(args...), ended: make(chan struct{}), began: time.Now()}
	j.cmd.Stdout, j.cmd.Stderr = &j.out, &j.err
	j.begin()
	return j
}

func (j *jepsenRun) begin() {
	j.f.t.Helper()
	if err := j.cmd.Start(); err != nil {
		j.f.t.Fatal(err)
	}
	go func() { _ = j.cmd.Wait(); close(j.ended) }()
	j.f.t.Cleanup(func() {
		select {
		case <-j.ended:
		default: // a test that failed: give it the chance to stop its nodes
			j.interrupt()
			select {
			case <-j.ended:
			case <-time.After(30 * time.Second):
				_ = j.cmd.Process.Kill()
				<-j.ended
			}
		}
	})
}

func (j *jepsenRun) interrupt() { _ = j.cmd.Process.Signal(syscall.SIGINT) }

func (j *jepsenRun) wait(limit time.Duration) result {
	j.f.t.Helper()
	select {
	case <-j.ended:
	case <-time.After(limit):
		j.f.t.Fatalf("fulcrum %s: it has not ended after %s", strings.Join(j.cmd.Args[1:], " "), limit)
	}
	return result{j.cmd.ProcessState.ExitCode(), strings.TrimRight(j.out.String(), "\n"), strings.TrimRight(j.err.String(), "\n"), time.Since(j.began)}
}

// nothingLeft checks that the command removed all that was only for the run.
func (f jepsenFolder) nothingLeft() {
	f.t.Helper()
	left, err := os.ReadDir(f.temporary())
	if err != nil || len(left) > 0 {
		f.t.Errorf("left behind: %v, %v", left, err)
	}
}

// outcome is what `fulcrum jepsen run` and `check` print as JSON.
type jepsenOutcome struct {
	Test struct {
		Workload, Time string
		Nodes          int
		Seed           uint64
	}
	Verdict string
	Results []struct{ Check, Verdict, Detail string }
	OK      int
	Faults  int
	Report  string
	Again   string
	Notes   []string
}

// judged runs a command that has to end with a verdict and its exit code, and with a
// JSON document and nothing else on standard output.
func (f jepsenFolder) judged(verdict string, args ...string) jepsenOutcome {
	f.t.Helper()
	return f.verdict(f.run(append(args, "-o", "json")...), verdict, args)
}

func (f jepsenFolder) verdict(r result, verdict string, args []string) jepsenOutcome {
	f.t.Helper()
	var out jepsenOutcome
	if err := json.Unmarshal([]byte(r.out), &out); err != nil {
		f.t.Fatalf("fulcrum jepsen %s: %v: %s", strings.Join(args, " "), err, r)
	}
	code := map[string]int{"valid": exitValid, "invalid": exitInvalid, "unknown": exitUndecided}[verdict]
	if out.Verdict != verdict || r.code != code {
		f.t.Errorf("fulcrum jepsen %s: %s, exit code %d; want %s, %d\n%s\n%s", strings.Join(args, " "), out.Verdict, r.code, verdict, code, r.err, r.out)
	}
	return out
}

func (o jepsenOutcome) check(name string) (verdict, detail string) {
	for _, r := range o.Results {
		if r.Check == name {
			return r.Verdict, r.Detail
		}
	}
	return "", ""
}

// reported reads the history of a report, after checking that all its files are there.
func (f jepsenFolder) reported(o jepsenOutcome, more ...string) *history.History {
	f.t.Helper()
	dir := filepath.Join(f.dir, o.Report)
	for _, name := range append([]string{"history.edn", "history.jsonl", "results.json", "results.edn", "test.json", "timeline.html", "latency-raw.svg",
		"latency-quantiles.svg", "rate.svg", "staleness.svg", "availability.svg", "index.html", "repro.sh"}, more...) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Size() == 0 {
			f.t.Errorf("the report has no %s: %v", name, err)
		}
	}
	if latest, err := filepath.EvalSymlinks(filepath.Join(f.dir, "store", "latest")); err != nil || filepath.Base(latest) != filepath.Base(dir) {
		f.t.Errorf("store/latest is %s, %v; want %s", latest, err, dir)
	}
	in, err := os.Open(filepath.Join(dir, "history.jsonl"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer in.Close()
	h, err := history.ReadJSONL(in)
	if err != nil {
		f.t.Fatal(err)
	}
	return h
}

// What makes no sense is refused with what there is, before anything is started.
func TestJepsenRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	f := newJepsenFolder(t)
	const nowhere = "http://127.0.0.1:1"
	for _, tc := range []struct {
		line  string
		words string
	}{
		{"run --workload registers", `"registers" register append switch`},
		{"run --workload bank", "bank transactions"},
		{"run --nemesis kill-none", `"kill-none" kill-all partition-halves`},
		{"run --keyspace-mode cp", `"cp" raft quorum leader-follower`},
		{"run --read-level firm", `"firm" linearizable bounded:DURATION`},
		{"run --read-level quorum", "raft quorum linearizable lease prefix"},
		{"run --keyspace-mode quorum --workload counter", "counter quorum raft leader-follower"},
		{"run --keyspace-mode quorum --write-level session", "session linearizable local_quorum"},
		{"run --nodes 3 --replicas 5", "5 3"},
		{"run --nodes 0", "--nodes"},
		{"run --time -1s", "time -1s"},
		{"run --quiet -1s", "quiet -1s"},
		{"run --shard-by colour", "colour hash range zone"},
		{"run --durability none", "none fsync interval memory"},
		{"run --nodes 2 --nemesis kill-minority", "kill-minority 2"},
		{"run --nemesis duplicate", "duplicate netns --sim"},
		{"run --torn 50", "--torn --sim"},
		{"run --net bridge", "bridge host netns"},
		{"run --net netns --sim", "--net --sim"},
		{"run --keep --sim", "--keep --sim"},
		{"run --sim --endpoint " + nowhere, "--sim --endpoint"},
		{"run --nodes 3 --endpoint " + nowhere, "--nodes --endpoint"},
		{"run --nemesis kill-all --endpoint " + nowhere, "kill-all"},
		{"run --endpoint " + nowhere, "127.0.0.1:1"},
		{"run register", "register"},
		{"suite --workers 0", "--workers"},
		{"suite --time 0s", "--time"},
		{"suite --match (", "--match"},
		{"suite --match nobody", "--match nobody"},
		{"check", "arg"},
		{"check nowhere", "nowhere store/latest"},
		{"split nowhere", "nowhere store/latest"},
		{"check .", "test.json"},
		{"judge", "judge list run suite check split"},
	} {
		args := strings.Fields(tc.line)
		wantRefusal(t, f.run(args...), exitUndecided, strings.Fields(tc.words), append([]string{"jepsen"}, args...))
	}
	f.nothingLeft()
	if _, err := os.Stat(filepath.Join(f.dir, "store")); !os.IsNotExist(err) {
		t.Errorf("a report of nothing was written: %v", err)
	}
}

func TestJepsenList(t *testing.T) {
	t.Parallel()
	f := newJepsenFolder(t)
	var list struct {
		Workloads, Nemeses []struct{ Name, About string }
		Checks             []string
	}
	r := f.run("list")
	if err := json.Unmarshal([]byte(r.out), &list); err != nil || r.code != exitValid {
		t.Fatalf("%v: %s", err, r)
	}
	table := f.run("list", "-o", "table").out
	names := slices.Clone(list.Checks)
	for _, x := range slices.Concat(list.Workloads, list.Nemeses) {
		if names = append(names, x.Name); x.About == "" {
			t.Errorf("%s: nothing is said about it", x.Name)
		}
	}
	for _, want := range []string{"register", "durability", "bank", "kill-all", "combined", "linearizable", "converge"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not listed: %v", want, names)
		}
	}
	for _, name := range names {
		if !strings.Contains(table, name) {
			t.Errorf("the table lacks %s", name)
		}
	}
}

// A simulated run, its report, the same run again by its repro.sh, and the judgement of
// its history: again, after it was cut off and edited, and of a forgery.
func TestJepsenSimulatesAndChecks(t *testing.T) {
	t.Parallel()
	f := newJepsenFolder(t)
	out := f.judged("valid", "run", "--sim", "--nemesis", "partition-halves", "--time", "2m", "--seed", "7", "--rate", "20")
	h := f.reported(out)
	if out.Test.Seed != 7 || out.Test.Time != "2m0s" || out.Faults == 0 || out.OK == 0 {
		t.Errorf("outcome: %+v", out)
	}
	dir := filepath.Join(f.dir, out.Report)

	repro := exec.Command("sh", filepath.Join(dir, "repro.sh"), "--store", "again", "-o", "json")
	repro.Dir, repro.Env = f.dir, append(os.Environ(), "FULCRUM="+binary, "TMPDIR="+f.temporary())
	b, err := repro.Output()
	var again jepsenOutcome
	if err != nil || json.Unmarshal(b, &again) != nil {
		t.Fatalf("repro.sh: %v: %s", err, b)
	}
	if again.Again != out.Again || again.Faults != out.Faults {
		t.Errorf("repro.sh ran %s with %d faults, want %s with %d", again.Again, again.Faults, out.Again, out.Faults)
	}

	checked := f.judged("valid", "check", out.Report)
	if len(checked.Results) != len(out.Results) || checked.OK != out.OK || checked.Again != out.Again {
		t.Errorf("checked again: %+v\nwas: %+v", checked, out)
	}
	if table := f.run("check", "store/latest", "-o", "table"); !strings.Contains(table.out, "VALID") || table.code != exitValid {
		t.Errorf("as a table: %s", table)
	}

	var split struct{ Files []string }
	if r := f.run("split", out.Report); json.Unmarshal([]byte(r.out), &split) != nil || len(split.Files) < 3 {
		t.Errorf("split: %s", r)
	}
	for _, file := range split.Files {
		text, err := os.ReadFile(filepath.Join(f.dir, file))
		key := filepath.Base(filepath.Dir(file))
		if err != nil || !strings.Contains(string(text), ":f :write") || strings.Contains(string(text), key) {
			t.Errorf("%s: %v, or no write, or values with the key %s: %.300s", file, err, key, text)
		}
	}

	path := filepath.Join(dir, "history.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	forged := forge(t, string(whole), h)
	for _, tc := range []struct{ name, text, word string }{
		{"cut off", string(whole[:len(whole)/2]), "truncated"},
		{"edited", forged, "edited"},
		{"emptied", "", "truncated"},
	} {
		write(t, path, tc.text)
		wantRefusal(t, f.run("check", out.Report), exitUndecided, []string{"history.jsonl", tc.word}, []string{"jepsen check of a history that was " + tc.name})
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, f.run("check", out.Report), exitUndecided, []string{"history.jsonl", "missing"}, []string{"jepsen check without a history"})

	write(t, path, forged)
	sign(t, dir, forged)
	if v, _ := f.judged("invalid", "check", out.Report).check("linearizable"); v != "invalid" {
		t.Errorf("a history in which a read saw what nobody wrote is %s", v)
	}
	f.nothingLeft()
}

// forge lets one read have seen a value that nobody wrote.
func forge(t *testing.T, text string, h *history.History) string {
	t.Helper()
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.F != history.Read || op.Outcome != history.OK || !op.Found || op.Phase != history.Main {
			continue
		}
		lines := strings.SplitAfter(text, "\n")
		for i, l := range lines {
			if value := fmt.Sprintf(`"value":%q`, op.Value); strings.Contains(l, `"f":"read"`) && strings.Contains(l, `"type":"ok"`) && strings.Contains(l, value) {
				lines[i] = strings.Replace(l, value, `"value":"forged"`, 1)
				return strings.Join(lines, "")
			}
		}
	}
	t.Fatal("there is no read to be forged")
	return ""
}

// sign makes test.json say that a history is the one that was recorded.
func sign(t *testing.T, dir, text string) {
	t.Helper()
	path := filepath.Join(dir, "test.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var test map[string]any
	if err := json.Unmarshal(b, &test); err != nil {
		t.Fatal(err)
	}
	test["history"].(map[string]any)["sha256"] = sha256Of(text)
	if b, err = json.Marshal(test); err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// On a terminal there is a line of progress, and standard output is one JSON document
// nevertheless. Ctrl-C ends a simulation: what was recorded is judged as unknown.
func TestJepsenSimulationIsInterrupted(t *testing.T) {
	t.Parallel()
	f := newJepsenFolder(t)
	seen := f.onTerminal([]string{"run", "--sim", "--nemesis", "kill-one", "--time", "900h", "-o", "json"}, "ok 1")
	out := f.verdict(seen.result, "unknown", []string{"run, interrupted"})
	f.reported(out)
	if v, _ := out.check("complete"); v != "unknown" || out.OK == 0 {
		t.Errorf("outcome: %+v", out)
	}
	for _, want := range []string{"\r\x1b[K[", "main", "of 900h0m0s", "interrupted"} {
		if !strings.Contains(seen.terminal, want) {
			t.Errorf("the terminal does not show %q", want)
		}
	}
	f.judged("unknown", "check", out.Report)
}

func TestJepsenSuiteIsInterrupted(t *testing.T) {
	t.Parallel()
	f := newJepsenFolder(t)
	seen := f.onTerminal([]string{"suite", "--quick", "--time", "20s", "--workers", "1", "-o", "json"}, "[")
	var sum struct {
		Verdict string
		Cases   []struct{ Name, Error string }
		NotRun  int `json:"not_run"`
		Wrong   int
	}
	if err := json.Unmarshal([]byte(seen.out), &sum); err != nil {
		t.Fatalf("%v: %s", err, seen.result)
	}
	if seen.code != exitUndecided || sum.Verdict != "unknown" || len(sum.Cases) == 0 || sum.NotRun == 0 || sum.Wrong != 0 {
		t.Errorf("exit code %d, %+v", seen.code, sum)
	}
	if _, err := os.Stat(filepath.Join(f.dir, "store")); !os.IsNotExist(err) {
		t.Errorf("a report of what was cut short was written: %v", err)
	}
}

// seenOnTerminal is a command whose standard error was a terminal.
type seenOnTerminal struct {
	result
	terminal string
}

// onTerminal starts a command with a terminal as its standard error, and interrupts it
// when that shows some text.
func (f jepsenFolder) onTerminal(args []string, until string) seenOnTerminal {
	f.t.Helper()
	screen, tty := openTerminal(f.t)
	j := &jepsenRun{f: f, cmd: f.command(args...), ended: make(chan struct{}), began: time.Now()}
	j.cmd.Stdout, j.cmd.Stderr = &j.out, tty
	j.begin()
	_ = tty.Close()
	var all bytes.Buffer
	once := sync.OnceFunc(j.interrupt)
	buf := make([]byte, 4096)
	_ = screen.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		n, err := screen.Read(buf)
		all.Write(buf[:n])
		if bytes.Contains(all.Bytes(), []byte(until)) {
			once()
		}
		if err != nil { // the command has ended, and with it the terminal
			break
		}
	}
	return seenOnTerminal{j.wait(time.Minute), all.String()}
}

// openTerminal makes a pseudoterminal: what is written to tty is read from screen.
func openTerminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	fd, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("SKIPPED: no pseudoterminal: %v", err)
	}
	screen = os.NewFile(uintptr(fd), "screen")
	t.Cleanup(func() { _ = screen.Close() })
	number, unlock := int32(0), int32(0)
	for request, arg := range map[uintptr]*int32{syscall.TIOCSPTLCK: &unlock, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatal(errno)
		}
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return screen, tty
}

// within is a context for a step that should take a moment.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
