package jepsen

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/real"
	"fulcrum/jepsen-lite/workload"
)

func TestFillSaysWhatThereIs(t *testing.T) {
	tests := []struct {
		name string
		t    Test
		want []string // all in the error
	}{
		{"a workload that is not there", Test{Workload: "registers"}, []string{`"registers"`, "register", "append", "switch"}},
		{"a workload that is yet to come", Test{Workload: "bank"}, []string{"bank", "transactions"}},
		{"a nemesis that is not there", Test{Workload: "register", Nemeses: []string{"partition"}}, []string{`"partition"`, "partition-halves", "kill-one"}},
		{"a level that the mode refuses", Test{Workload: "register", Read: consistency.L(consistency.QuorumOf)}, []string{"raft", "linearizable", "prefix"}},
		{"a step that the mode refuses", Test{Workload: "counter", Mode: consistency.Quorum}, []string{"counter", "quorum", "raft"}},
		{"a level that one mode of a switch refuses", Test{Workload: "switch", Write: consistency.L(consistency.QuorumOf), Read: consistency.L(consistency.Lease)}, []string{"quorum", "lease"}},
		{"too many replicas", Test{Workload: "set", Nodes: 3, Replicas: 5}, []string{"5 replicas", "3 nodes"}},
		{"more than one thing", Test{Workload: "set", Nodes: 12, Concurrency: -1}, []string{"12 nodes", "concurrency -1"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.t.Fill()
			if err == nil {
				t.Fatal("it is taken")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\ndoes not mention %s", err, w)
				}
			}
		})
	}
}

func TestSwitchesUseLevelsThatAllModesHave(t *testing.T) {
	x := Test{Workload: "switch"}
	if err := x.Fill(); err != nil {
		t.Fatal(err)
	}
	if len(x.Modes) != len(consistency.Modes) || !slices.Contains(x.Nemeses, "switch") || x.Write.Kind != consistency.Linearizable || x.Read.Kind != consistency.Linearizable {
		t.Errorf("filled: %+v", x)
	}
	y := Test{Workload: "register", Nemeses: []string{"none"}}
	if err := y.Fill(); err != nil {
		t.Fatal(err)
	}
	if len(y.Modes) != 1 || len(y.Nemeses) != 0 {
		t.Errorf("filled: %+v", y)
	}
}

func TestEveryCaseOfTheSuiteIsOffered(t *testing.T) {
	names := map[string]bool{}
	for _, quick := range []bool{true, false} {
		for _, c := range Suite(quick, time.Minute, 1) {
			if err := c.Test.Fill(); err != nil {
				t.Errorf("%s: %v", c.Name(), err)
			}
			if quick && names[c.Name()] {
				t.Errorf("%s is there twice", c.Name())
			}
			names[c.Name()] = true
		}
	}
}

// On processes a test keeps its name and its seed, is as long as was asked for, and has
// more than one fault.
func TestTheSuiteOnProcesses(t *testing.T) {
	const per = 30 * time.Second
	simulated := map[string]uint64{}
	for _, c := range Suite(true, per, 1) {
		simulated[c.Name()] = c.Test.Seed
	}
	faults, cases := 0, OnProcesses(Suite(true, per, 1))
	for _, c := range cases {
		if seed, ok := simulated[c.Name()]; !ok || seed != c.Test.Seed || c.Test.Sim || c.Test.Time != per {
			t.Errorf("%s: %v, seed %d, want %d: %+v", c.Name(), ok, c.Test.Seed, seed, c.Test)
		}
		delete(simulated, c.Name())
		if err := c.Test.Fill(); err != nil {
			t.Errorf("%s: %v", c.Name(), err)
			continue
		}
		plan, err := c.Test.plan(nodeNames(c.Test.Nodes), real.Options{}.Can)
		if err != nil {
			t.Errorf("%s: %v", c.Name(), err)
			continue
		}
		faults += len(plan.Steps)
	}
	if faults < 2*len(cases) {
		t.Errorf("%d faults in %d tests of %s", faults, len(cases), per)
	}
	for name := range simulated {
		if !strings.Contains(name, "duplicate") {
			t.Errorf("%s is not offered on processes", name)
		}
	}
}

func TestCasesByName(t *testing.T) {
	all := Suite(true, time.Minute, 7)
	some := Matching(all, regexp.MustCompile("_raft_.*_kill-one$"))
	if len(some) < 3 || len(some) == len(all) {
		t.Errorf("%d of %d cases match", len(some), len(all))
	}
	for _, c := range some {
		same := func(other Case) bool { return other.Name() == c.Name() && other.Test.Seed == c.Test.Seed }
		if c.Test.Mode != consistency.Raft || !slices.ContainsFunc(all, same) {
			t.Errorf("%s with seed %d is not one of the suite's", c.Name(), c.Test.Seed)
		}
	}
}

// What is known of an operation follows from its error, and a read that failed has
// changed nothing.
func TestOutcomes(t *testing.T) {
	refused := fulcrum.Errorf(fulcrum.CodeUnavailable, "too few")
	open := fulcrum.Errorf(fulcrum.CodeUnknown, "no answer")
	version := fulcrum.Version{Time: 7, Actor: 1}
	tests := []struct {
		name string
		f    history.F
		rep  workload.Reply
		err  error
		want history.Outcome
	}{
		{"a write that was done", history.Write, workload.Reply{Applied: true, Version: version}, nil, history.OK},
		{"a write that was refused", history.Write, workload.Reply{}, refused, history.Fail},
		{"a write without an answer", history.Write, workload.Reply{Version: version}, open, history.Info},
		{"a write whose context ended", history.Write, workload.Reply{}, context.DeadlineExceeded, history.Info},
		{"an error that nobody knows", history.Delete, workload.Reply{}, errors.New("what"), history.Info},
		{"a read without an answer", history.Read, workload.Reply{}, open, history.Fail},
		{"a scan without an answer", history.Scan, workload.Reply{}, context.DeadlineExceeded, history.Fail},
		{"a compare-and-set that met another version", history.CAS, workload.Reply{Version: version}, nil, history.Fail},
		{"a compare-and-set that was done", history.CAS, workload.Reply{Applied: true, Version: version}, nil, history.OK},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			op := history.Op{F: tc.f}
			fill(&op, tc.rep)
			judge(&op, tc.rep, tc.err)
			if op.Outcome != tc.want {
				t.Errorf("outcome %v, want %v", op.Outcome, tc.want)
			}
			if op.Outcome != history.OK && !op.Version.IsZero() {
				t.Error("an operation that is not known to be done has a version")
			}
			if tc.f == history.CAS && op.Found != (op.Outcome == history.OK) {
				t.Errorf("a compare-and-set says found %v", op.Found)
			}
		})
	}
}

// The plan and the operations of a run follow from its seed.
func TestASeedRepeatsPlanAndOperations(t *testing.T) {
	run := func(seed uint64) (plan string, ops []string) {
		x := Test{Workload: "register", Nemeses: []string{"combined"}, Time: time.Minute, Seed: seed, Sim: true, Rate: 5, Concurrency: 1}
		if err := x.Fill(); err != nil {
			t.Fatal(err)
		}
		h, p, err := Simulate(t.Context(), x, SimOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range h.Ops {
			if op.Phase == history.Main && op.F == history.Write {
				ops = append(ops, op.Key+"="+op.Value)
			}
		}
		return p.String(), ops
	}
	plan, ops := run(3)
	again, opsAgain := run(3)
	if plan != again {
		t.Errorf("one seed, two plans:\n%s\n%s", plan, again)
	}
	// How many there are depends on how long each took.
	if n := min(len(ops), len(opsAgain)); n < 20 || !slices.Equal(ops[:n], opsAgain[:n]) {
		t.Errorf("one seed, other operations: %v\n%v", ops, opsAgain)
	}
	if other, _ := run(4); other == plan {
		t.Error("another seed makes the same plan")
	}
}

// Breaking off a simulation from outside its bubble ends it, heals it, and keeps what
// was recorded.
func TestASimulationCanBeBrokenOff(t *testing.T) {
	x := Test{Workload: "register", Nemeses: []string{"kill-all", "partition-halves"}, Time: 900 * time.Hour, Sim: true, Rate: 5}
	if err := x.Fill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	h, _, err := Simulate(ctx, x, SimOptions{Tell: func(p Progress) {
		if n++; n == 50 {
			cancel()
		}
	}})
	cancel()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if h == nil || len(h.Ops) == 0 {
		t.Fatal("nothing was kept")
	}
	if _, ended := h.Mark(history.PhaseHeal); !ended {
		t.Error("it was not healed")
	}
}
