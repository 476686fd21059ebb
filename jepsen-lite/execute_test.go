package jepsen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/history"
)

// recorded is a run of two writes and a read, each on its own process; last is what the
// read saw. Without ended it was cut short.
func recorded(t *testing.T, last string, ended bool) record {
	t.Helper()
	x := Test{Workload: "register", Seed: 5}
	if err := x.Fill(); err != nil {
		t.Fatal(err)
	}
	h := &history.History{Events: []history.Event{{F: "phase", Fault: history.PhaseMain}}}
	version := map[string]fulcrum.Version{"a": {Time: 1, Actor: 1}, "b": {Time: 2, Actor: 1}}
	for i, op := range []history.Op{{F: history.Write, Value: "a"}, {F: history.Write, Value: "b"}, {F: history.Read, Value: last, Found: true}} {
		op.Process, op.Key, op.Node, op.Outcome = i, "k", "n1", history.OK
		op.Version = version[op.Value]
		op.Invoke = time.Duration(i+1) * time.Second
		op.Return = op.Invoke + time.Millisecond
		h.Ops = append(h.Ops, op)
	}
	for i, mark := range []string{history.PhaseHeal, history.PhaseRecovered, history.PhaseFinal, history.PhaseEnd} {
		if ended || mark == history.PhaseHeal {
			h.Events = append(h.Events, history.Event{Time: time.Duration(10+i) * time.Second, F: "phase", Fault: mark})
		}
	}
	return record{test: x, history: h, began: time.Unix(1e9, 0), again: "fulcrum " + last}
}

// A key that is not linearizable gets porcupine's page, and the same verdict again from
// the folder.
func TestAFailingKeyIsDrawn(t *testing.T) {
	store := t.TempDir()
	bad, err := recorded(t, "a", true).outcome(t.Context(), store, nil)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(bad.Dir, "linear.html"))
	if bad.Verdict != checker.Invalid || err != nil || !strings.Contains(string(page), "<html") {
		t.Errorf("a stale read is %v, its page %.40q, %v", bad.Verdict, page, err)
	}
	again, err := Recheck(bad.Dir)
	if err != nil || again.Verdict != bad.Verdict || len(again.Results) != len(bad.Results) || again.Again != "fulcrum a" || again.Test.Name() != bad.Test.Name() {
		t.Errorf("checked again: %+v, %v\nwas: %+v", again, err, bad)
	}
	good, err := recorded(t, "b", true).outcome(t.Context(), store, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(good.Dir, "linear.html")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("linear.html without a key that failed: %v", err)
	}
}

// A run that was cut short is no pass, now and when it is checked again; what it found
// until then counts.
func TestARunThatWasCutShortIsUnknownAtBest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for last, want := range map[string]checker.Verdict{"b": checker.Unknown, "a": checker.Invalid} {
		out, err := recorded(t, last, false).outcome(ctx, t.TempDir(), errors.Join(context.Canceled, fmt.Errorf("n2: %w", context.Canceled)))
		if err != nil {
			t.Errorf("besides the end of ctx: %v", err)
		}
		if out.Verdict != want || out.Results[0].Check != "complete" || out.Results[0].Verdict != checker.Unknown {
			t.Errorf("a read of %s: %v, want %v: %+v", last, out.Verdict, want, out.Results)
		}
		if again, err := Recheck(out.Dir); err != nil || again.Verdict != want {
			t.Errorf("a read of %s, checked again: %+v, %v", last, again, err)
		}
	}
	broken := errors.New("n2 does not start")
	if _, err := recorded(t, "b", false).outcome(t.Context(), t.TempDir(), broken); !errors.Is(err, broken) {
		t.Errorf("what cut it short: %v", err)
	}
	if out, err := (record{}).outcome(ctx, t.TempDir(), errors.Join(context.Canceled, broken)); out != nil || !errors.Is(err, broken) || strings.Contains(err.Error(), "canceled") {
		t.Errorf("with nothing recorded: %+v, %v", out, err)
	}
	if out, err := (record{}).outcome(t.Context(), t.TempDir(), nil); out != nil || !errors.Is(err, fulcrum.ErrUnavailable) {
		t.Errorf("with nothing recorded: %+v, %v", out, err)
	}
}

// What cannot be done to a cluster is refused before one is started or asked.
func TestExecuteRefusesBeforeItStarts(t *testing.T) {
	for nemesis, where := range map[string]Where{"duplicate": {}, "kill-one": {Endpoints: []string{"http://127.0.0.1:1"}}} {
		x := Test{Workload: "register", Nemeses: []string{nemesis}}
		if err := x.Fill(); err != nil {
			t.Fatal(err)
		}
		where.Binary = "/nonexistent"
		if out, err := Execute(t.Context(), x, where); out != nil || !errors.Is(err, fulcrum.ErrInvalid) || !strings.Contains(err.Error(), nemesis) {
			t.Errorf("%s: %+v, %v", nemesis, out, err)
		}
	}
}

func TestCommandRepeatsWhatIsNotTheDefault(t *testing.T) {
	x := Test{Workload: "set", Quiet: time.Second, Busy: 2 * time.Second, OpTimeout: 3 * time.Second, Recovery: time.Minute, Mode: consistency.Quorum, Seed: 9}
	if err := x.Fill(); err != nil {
		t.Fatal(err)
	}
	got := x.Command() + Where{Netns: true, Endpoints: []string{"http://a", "http://b"}}.flags()
	if want := " --quiet 1s --busy 2s --op-timeout 3s --recovery 1m0s --seed 9 --endpoint http://a,http://b --net netns"; !strings.HasSuffix(got, want) {
		t.Errorf("%s\ndoes not end in%s", got, want)
	}
	b, err := json.Marshal(x)
	if err != nil || !strings.Contains(string(b), `"op_timeout":"3s"`) || !strings.Contains(string(b), `"keyspace_mode":"quorum"`) {
		t.Errorf("%s, %v", b, err)
	}
}
