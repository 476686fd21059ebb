package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
)

// watching is `fulcrum watch` while it runs.
type watching struct {
	c    *cluster
	cmd  *exec.Cmd
	seen chan string // lines
}

func (c *cluster) watch(args ...string) *watching {
	c.t.Helper()
	return c.watchSaying(os.Stderr, args...)
}

// watchSaying is watch whose standard error goes to say.
func (c *cluster) watchSaying(say io.Writer, args ...string) *watching {
	c.t.Helper()
	w := &watching{c: c, seen: make(chan string, 1000)}
	w.cmd = exec.CommandContext(c.t.Context(), binary, append([]string{"--data", c.Dir, "watch"}, args...)...)
	w.cmd.Dir, w.cmd.Stderr = c.t.TempDir(), say
	out, err := w.cmd.StdoutPipe()
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	go w.read(out) // ends with the process
	return w
}

func (w *watching) read(out io.Reader) {
	defer close(w.seen)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		w.seen <- lines.Text()
	}
}

func (w *watching) line() string {
	w.c.t.Helper()
	select {
	case l, ok := <-w.seen:
		if !ok {
			w.c.t.Fatal("the watch ended")
		}
		return l
	case <-time.After(time.Minute):
		w.c.t.Fatal("the watch says nothing for a minute")
	}
	return ""
}

// change is the next line that is one.
func (w *watching) change() watchLine {
	w.c.t.Helper()
	for {
		var l watchLine
		if err := json.Unmarshal([]byte(w.line()), &l); err != nil {
			w.c.t.Fatal(err)
		}
		if l.Type != "progress" {
			return l
		}
	}
}

// interrupt is Ctrl-C: exit code 0.
func (w *watching) interrupt() {
	w.c.t.Helper()
	if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
		w.c.t.Error(err)
	}
	var exit *exec.ExitError
	if err := w.cmd.Wait(); errors.As(err, &exit) {
		w.c.t.Errorf("Ctrl-C ends the watch with %v", exit)
	}
}

func TestWatch(t *testing.T) {
	c := start(t, 3, 0)
	w := c.watch("-k", "cp", "user:", "-o", "json")
	var first watchLine
	if err := json.Unmarshal([]byte(w.line()), &first); err != nil || first.Type != "progress" || first.After == "" {
		t.Fatalf("a watch begins with %+v, %v", first, err)
	}
	people := c.watch("-k", "cp", "--key", "user:1", "-o", "table")
	c.must("put", "-k", "cp", "user:1", "ann")
	c.must("put", "-k", "cp", "other", "x")
	c.must("delete", "-k", "cp", "user:1")
	if l := w.change(); l.Type != "put" || l.Key != "user:1" || *l.Value != "ann" || l.Version == "" || l.After == "" {
		t.Errorf("%+v", l)
	}
	if l := w.change(); l.Type != "delete" || l.Key != "user:1" || l.Value != nil {
		t.Errorf("%+v", l)
	}
	// The table has no line for the beginning: only what came behind it is sure to be told.
	eventually(t, time.Minute, "a table of changes", func() error {
		c.must("put", "-k", "cp", "user:1", "bob")
		select {
		case l := <-people.seen:
			if !strings.Contains(l, `"user:1"`) || !strings.HasPrefix(l, "put ") && !strings.HasPrefix(l, "delete ") {
				t.Errorf("line %q", l)
			}
			return nil
		case <-time.After(time.Second):
			return errors.New("nothing told yet")
		}
	})
	people.interrupt()

	// Every node dies and comes back, one after the other: one of them has the watch.
	version := ""
	for i, name := range []fulcrum.NodeID{"n1", "n2", "n3"} {
		c.kill(name)
		value := fmt.Sprint("killed ", i)
		c.must("put", "-k", "cp", "user:2", value)
		for {
			l := w.change()
			if version != "" && l.Key == "user:2" && l.Version <= version {
				t.Fatalf("%+v behind version %s", l, version)
			}
			if l.Key == "user:2" {
				if version = l.Version; *l.Value != value {
					t.Fatalf("told %q, want %q", *l.Value, value)
				}
				break
			}
		}
		c.launch(name)
	}
	w.interrupt()
	for range 40 { // more than a replica keeps of a shard, even while it is watched
		if _, err := c.client().Put(t.Context(), "cp", "user:3", make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	c.refused(exitFailed, []string{"no longer kept", "without --after"}, "watch", "-k", "cp", "user:", "--after", first.After)
	c.isolated()
	c.refused(exitUsage, []string{"no watch", "--mode raft"}, "watch", "-k", "ap")
	c.refused(exitUsage, []string{"not a position"}, "watch", "-k", "cp", "--after", "nonsense")
	c.refused(exitUsage, []string{"which one"}, "watch", "-k", "cp", "--key")
	c.refused(exitFailed, []string{"no keyspace"}, "watch", "-k", "none")
}

// isolated is a watch at a node that is cut off: it says so, goes on when it is healed, and
// ends when it has waited for as long as it was told to.
func (c *cluster) isolated() {
	c.must("fault", "isolate", "n1")
	c.refused(exitUnavailable, []string{"cannot watch now, trying again: ", "no node to watch at for 3s: "}, "watch", "-k", "cp", "--node", "n1", "--timeout", "3s")
	said := make(lines, 100)
	w := c.watchSaying(said, "-k", "cp", "--node", "n1", "-o", "json")
	if l := said.next(c.t); !strings.HasPrefix(l, "fulcrum: cannot watch now, trying again: ") {
		c.t.Errorf("a watch that cannot begin says %q", l)
	}
	c.must("fault", "heal")
	for l := ""; !strings.Contains(l, "watching again"); { // a reason again, if it took long
		l = said.next(c.t)
	}
	w.line()
	w.interrupt()
}

// lines are what a process writes, line by line.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		l <- line
	}
	return len(b), nil
}

func (l lines) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-l:
		return line
	case <-time.After(time.Minute):
		t.Fatal("nothing is said for a minute")
	}
	return ""
}

func TestWatchTroublesAreToldSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		told := (&troubles{out: &out}).tell
		for range 100 { // 50 s of one second's trouble and none
			told(fulcrum.ErrUnavailable)
			time.Sleep(250 * time.Millisecond)
			told(nil)
			time.Sleep(250 * time.Millisecond)
		}
		flaps := strings.Count(out.String(), "\n")
		out.Reset()
		time.Sleep(time.Minute)
		for range 200 { // a minute
			told(fulcrum.ErrUnavailable)
			time.Sleep(300 * time.Millisecond)
		}
		told(nil)
		told(nil)
		if flaps != 10 || strings.Count(out.String(), "trying again: ") != 6 || strings.Count(out.String(), "watching again") != 1 {
			t.Errorf("%d lines of a watch that flaps; of one that is long away:\n%s", flaps, out.String())
		}
	})
}
