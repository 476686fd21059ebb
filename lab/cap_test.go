package lab

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
)

// runOn runs the experiment on a fake, in a bubble: its seconds cost nothing.
func runOn(t *testing.T, f *fake, check func(*Report)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r, err := runCAP(t.Context(), f, &Env{})
		if err != nil {
			t.Fatal(err)
		}
		check(r)
	})
}

func find(t *testing.T, r *Report, phase, keyspace, side, operation, level string) Row {
	t.Helper()
	for _, row := range r.Rows {
		if row.Phase == phase && row.Keyspace == keyspace && row.Side == side && row.Operation == operation && row.Level == level {
			return row
		}
	}
	t.Fatalf("no row %s %s %s %s %s", phase, keyspace, side, operation, level)
	return Row{}
}

func space(t *testing.T, r *Report, label string) Keyspace {
	t.Helper()
	i := slices.IndexFunc(r.Keyspaces, func(k Keyspace) bool { return k.Keyspace == label })
	if i < 0 {
		t.Fatalf("no keyspace %s", label)
	}
	return r.Keyspaces[i]
}

func five() *fake { return newFake("n1", "n2", "n3", "n4", "n5") }

func TestEachModeShowsWhatItDoesWhileCut(t *testing.T) {
	f := five()
	runOn(t, f, func(r *Report) {
		for _, want := range []struct {
			phase, keyspace, side, operation, level string
			answered                                int
		}{
			{Before, "cp", Minority, Put, "quorum", 6},
			{AtOnce, "lf", Minority, Put, "one", 6},
			{AtOnce, "lf", Majority, Put, "one", 0},
			{Cut, "cp", Minority, Put, "quorum", 0},
			{Cut, "cp", Majority, Put, "quorum", 6},
			{Cut, "cp", Minority, Get, "linearizable", 0},
			{Cut, "cp", Minority, Get, "one", 6},
			{Cut, "ap", Minority, Put, "one", 6},
			{Cut, "ap", Minority, Put, "quorum", 0},
			{Cut, "ap", Majority, Put, "one", 6},
			{Cut, "lf", Minority, Put, "one", 0},
			{Cut, "lf", Majority, Put, "quorum", 6},
			{Cut, "ca", Minority, Put, "quorum", 6},
			{Cut, "ca", Majority, Put, "quorum", 0},
		} {
			row := find(t, r, want.phase, want.keyspace, want.side, want.operation, want.level)
			if row.Answered != want.answered || row.Answered+row.Refused+row.Unknown != row.Operations {
				t.Errorf("%+v: answered %d, refused %d, unknown %d of %d", want, row.Answered, row.Refused, row.Unknown, row.Operations)
			}
		}
		if k := space(t, r, "lf"); k.LeaderSide != Minority || k.Lost == 0 || k.Converged == nil {
			t.Errorf("lf: leader on the %s side, %d lost, converged %v: want a cut-off leader whose writes at one are lost", k.LeaderSide, k.Lost, k.Converged)
		}
		if lost := *find(t, r, AtOnce, "lf", Minority, Put, "one").Lost; lost != 6 {
			t.Errorf("lost right after the cut: %d of 6", lost)
		}
		for _, label := range []string{"cp", "ap", "ca"} {
			if k := space(t, r, label); k.Lost != 0 || k.Unchecked != 0 || k.Acknowledged < 30 || !k.Shared.KeptNewest {
				t.Errorf("%s: %+v", label, k)
			}
		}
	})
	if len(f.healed) != 1 || len(f.dropped) != 4 || len(f.spaces) != 0 {
		t.Errorf("left behind: healed %v, dropped %v", f.healed, f.dropped)
	}
}

func TestReadsOfTheOtherSideAreStale(t *testing.T) {
	runOn(t, five(), func(r *Report) {
		stale := func(keyspace, side, level string) int {
			return *find(t, r, Cut, keyspace, side, Get, level).Stale
		}
		if got := stale("cp", Minority, "one"); got != 6 {
			t.Errorf("cp, cut off, at one: %d of 6 stale", got)
		}
		if got := stale("cp", Majority, "linearizable"); got != 0 {
			t.Errorf("cp, majority, linearizable: %d stale", got)
		}
		// Each side has the last word in one of two rounds, and then the other is stale.
		if a, b := stale("ap", Minority, "one"), stale("ap", Majority, "one"); a != 3 || b != 3 {
			t.Errorf("ap at one: %d and %d stale, want 3 and 3", a, b)
		}
	})
}

func TestASideThatChangesItsAnswersIsTimed(t *testing.T) {
	runOn(t, five(), func(r *Report) {
		change := func(side string) Change {
			i := slices.IndexFunc(r.Changes, func(c Change) bool { return c.Keyspace == "lf" && c.Side == side && c.Operation == Put })
			return r.Changes[i]
		}
		const slack = 0.5 // a probe and its pause
		if c := change(Minority); !c.First || c.Last || c.Flips != 1 || c.At < lease.Seconds() || c.At > lease.Seconds()+slack {
			t.Errorf("minority: %+v, want answers until %v", c, lease)
		}
		if c := change(Majority); c.First || !c.Last || c.Flips != 1 || c.At < election.Seconds() || c.At > election.Seconds()+slack {
			t.Errorf("majority: %+v, want answers from %v on", c, election)
		}
	})
}

func TestALostWriteIsFoundAndSaid(t *testing.T) {
	f := five()
	f.forget = func(keyspace, key string) bool {
		return strings.Contains(keyspace, "-cp-") && key == "cut-majority-put-quorum-3"
	}
	runOn(t, f, func(r *Report) {
		if k := space(t, r, "cp"); k.Lost != 1 {
			t.Errorf("cp lost %d, want 1", k.Lost)
		}
		if row := find(t, r, Cut, "cp", Majority, Put, "quorum"); *row.Lost != 1 {
			t.Errorf("the row lost %d, want 1", *row.Lost)
		}
		if !slices.ContainsFunc(r.Findings, func(s string) bool {
			return strings.HasPrefix(s, "cp: after healing, 1 of ") && strings.Contains(s, "1 of 6 put at quorum on the majority side while cut")
		}) {
			t.Errorf("findings do not say so:\n%s", strings.Join(r.Findings, "\n"))
		}
	})
}

func TestAClusterThatCannotBeUsedIsRefusedAndLeftAlone(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    *fake
		code fulcrum.Code
		says string
	}{
		{"two nodes have no minority", newFake("n1", "n2"), fulcrum.CodeInvalid, "3 at least"},
		{"faults are not allowed", &fake{nodes: []fulcrum.NodeID{"n1", "n2", "n3"}}, fulcrum.CodeFaults, "--allow-faults"},
		{"a fault is active", &fake{nodes: []fulcrum.NodeID{"n1", "n2", "n3"}, allowed: true, fault: &fulcrum.Fault{ID: "mine"}}, fulcrum.CodeConflict, "mine"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, err := runCAP(t.Context(), tc.f, &Env{})
				if !errors.Is(err, &fulcrum.Error{Code: tc.code}) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("error %v, want %s with %q", err, tc.code, tc.says)
				}
				if len(tc.f.spaces) != 0 || len(tc.f.healed) != 0 {
					t.Error("something was changed")
				}
			})
		})
	}
}

func TestWhateverHappensTheFaultIsEndedAndTheKeyspacesAreDropped(t *testing.T) {
	for _, tc := range []struct {
		name  string
		after time.Duration // when the user gives up; 0: never
		err   error
	}{
		{"a node refused the fault", 0, errors.New("refused")},
		{"the user gave up while the network was cut", 4 * time.Second, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := five()
				f.cutErr = tc.err
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tc.after > 0 {
					time.AfterFunc(tc.after, cancel)
				}
				report, err := runCAP(ctx, f, &Env{})
				if err == nil || report != nil {
					t.Fatalf("a report: %t, error %v: want an error alone", report != nil, err)
				}
				if f.fault != nil || len(f.healed) != 1 || len(f.spaces) != 0 {
					t.Errorf("left behind: fault %v, %d keyspaces", f.fault, len(f.spaces))
				}
			})
		})
	}
}

func TestKeptKeyspacesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := five()
		if _, err := runCAP(t.Context(), f, &Env{Keep: true}); err != nil {
			t.Fatal(err)
		}
		if len(f.spaces) != 4 {
			t.Errorf("%d keyspaces are left, want 4", len(f.spaces))
		}
	})
}

func TestTheNamesInJSONAreStable(t *testing.T) {
	runOn(t, newFake("n1", "n2", "n3"), func(r *Report) {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{`"experiment":"cap"`, `"sides"`, `"nodes"`, `"keyspaces"`, `"rows"`, `"findings"`, `"phase":"cut"`, `"mode"`, `"keyspace"`, `"side"`,
			`"operation"`, `"level"`, `"answered"`, `"refused"`, `"unknown"`, `"latency_median_ms"`, `"latency_worst_ms"`, `"fresh"`, `"stale"`, `"lost_after_healing"`, `"converged_seconds"`} {
			if !strings.Contains(string(b), name) {
				t.Errorf("%s is not in the JSON", name)
			}
		}
	})
}

func TestFindNamesWhatThereIs(t *testing.T) {
	if x, err := Find("cap"); err != nil || x.Run == nil {
		t.Errorf("cap: %v", err)
	}
	if _, err := Find("pacelc"); !errors.Is(err, fulcrum.ErrNotFound) || !strings.Contains(err.Error(), "cap") {
		t.Errorf("error %v: want not-found with the names there are", err)
	}
}
