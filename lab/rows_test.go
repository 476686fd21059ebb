package lab

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum"
)

func TestRowsCountWhatWasRecorded(t *testing.T) {
	cp := plans()[0]
	base := op{phase: Cut, keyspace: "cp", side: Minority, operation: Put, level: "quorum"}
	with := func(key string, o outcome, took time.Duration) op {
		x := base
		x.key, x.value, x.outcome, x.took = key, "v"+key, o, took
		if o != answered {
			x.because = "because " + key
		}
		return x
	}
	ops := []op{
		with("a", answered, 1*time.Millisecond), with("b", answered, 2*time.Millisecond), with("c", answered, 3*time.Millisecond),
		with("d", refused, 10*time.Millisecond), with("e", unknown, 20*time.Millisecond), with("f", unknown, 30*time.Millisecond),
	}
	took := 0.5
	after := map[string]aftermath{"cp": {converged: &took, values: map[string]string{"a": "va", "b": "" /* c was not read */, "e": "ve", "f": ""}}}
	rows := rowsOf([]plan{cp}, ops, after)
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1", len(rows))
	}
	r := rows[0]
	if r.Operations != 6 || r.Answered != 3 || r.Refused != 1 || r.Unknown != 2 || r.Because != "because f" {
		t.Errorf("outcomes: %+v", r)
	}
	if r.Median != 6.5 || r.Worst != 30 {
		t.Errorf("median %v ms, worst %v ms; want 6.5 and 30", r.Median, r.Worst)
	}
	if *r.Lost != 1 || *r.Appeared != 1 || *r.Unchecked != 1 || r.Fresh != nil || *r.Converged != took {
		t.Errorf("lost %d, appeared %d, unchecked %d, fresh %v", *r.Lost, *r.Appeared, *r.Unchecked, r.Fresh)
	}
}

func TestAReadIsFreshWhenItReturnsTheNewestAcknowledgedWriteOrALaterOne(t *testing.T) {
	orders := map[string]int{"one": 1, "two": 2, "three": 3}
	for _, tc := range []struct {
		name   string
		value  string
		newest int
		fresh  bool
	}{
		{"the newest", "two", 2, true},
		{"an older one", "one", 2, false},
		{"a later one, of which nobody knows yet", "three", 2, true},
		{"nothing, though something was acknowledged", "", 1, false},
		{"nothing, and nothing was acknowledged", "", 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fresh, stale := freshness([]op{{operation: Get, value: tc.value, newest: tc.newest}}, orders)
			if (fresh == 1) != tc.fresh || fresh+stale != 1 {
				t.Errorf("fresh %d, stale %d", fresh, stale)
			}
		})
	}
	if fresh, stale := freshness([]op{{operation: Get, outcome: refused, newest: 1}}, orders); fresh+stale != 0 {
		t.Error("a refused read was judged")
	}
}

func TestTheSharedKeyTellsWhoWon(t *testing.T) {
	ops := []op{
		{keyspace: "ap", operation: Overwrite, side: Majority, value: "1", order: 1},
		{keyspace: "ap", operation: Overwrite, side: Minority, value: "2", order: 2},
		{keyspace: "ap", operation: Overwrite, side: Majority, value: "3", order: 3, outcome: unknown},
		{keyspace: "cp", operation: Overwrite, side: Majority, value: "9", order: 9},
	}
	for _, tc := range []struct {
		name, value, by string
		kept            bool
	}{
		{"the newest acknowledged write stands", "2", Minority, true},
		{"an older one stands", "1", Majority, false},
		{"one with an unknown outcome stands, which is later", "3", Majority, true},
		{"nothing stands", "", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := sharedOf(ops, "ap", aftermath{values: map[string]string{sharedKey: tc.value}})
			if s.WrittenBy != tc.by || s.KeptNewest != tc.kept || s.NewestBy != Minority || !s.Checked {
				t.Errorf("%+v", s)
			}
		})
	}
	if s := sharedOf(ops, "ap", aftermath{}); s.Checked || s.KeptNewest {
		t.Errorf("it could not be read, and yet %+v", s)
	}
}

func TestErrorsAreSortedIntoRefusedAndUnknown(t *testing.T) {
	maybe := fulcrum.Errorf(fulcrum.CodeUnknown, "no answer")
	for _, tc := range []struct {
		operation string
		err       error
		want      outcome
	}{
		{Put, nil, answered}, {Get, nil, answered},
		{Put, fulcrum.ErrUnavailable, refused}, {Put, maybe, unknown}, {Overwrite, maybe, unknown},
		{Get, maybe, refused}, {Get, errors.New("x"), refused},
	} {
		if got, _ := judge(tc.operation, tc.err); got != tc.want {
			t.Errorf("%s with %v: %d, want %d", tc.operation, tc.err, got, tc.want)
		}
	}
}

func TestSidesKeepEveryMajorityOnTheLargerOne(t *testing.T) {
	n := func(s string) (out []fulcrum.NodeID) {
		for _, x := range strings.Fields(s) {
			out = append(out, fulcrum.NodeID(x))
		}
		return out
	}
	for _, tc := range []struct {
		name, nodes, prefer string
		sets                []string
		minority            string // empty: refused
	}{
		{"five nodes, two leaders", "a b c d e", "d b", []string{"a b c d e"}, "b d"},
		{"one leader of both", "a b c d e", "d d", []string{"a b c d e"}, "a d"},
		{"no leader known", "a b c d e", "", []string{"a b c d e"}, "a b"},
		{"three nodes", "a b c", "c a", []string{"a b c"}, "c"},
		{"four nodes", "a b c d", "c", []string{"a b c d"}, "c"},
		{"seven nodes, sets of five", "a b c d e f g", "c", []string{"a b c d e", "c d e f g"}, "a c f"},
		{"a leader that is no node", "a b c", "x", []string{"a b c"}, "a"},
		{"two nodes", "a b", "a", []string{"a b"}, ""},
		{"sets that bear no loss", "a b c", "", []string{"a", "b", "c"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var sets [][]fulcrum.NodeID
			for _, s := range tc.sets {
				sets = append(sets, n(s))
			}
			minority, majority, err := chooseSides(n(tc.nodes), n(tc.prefer), sets)
			if !slices.Equal(minority, n(tc.minority)) && err == nil || (err != nil) != (tc.minority == "") {
				t.Fatalf("%v / %v, %v; want %s", minority, majority, err, tc.minority)
			}
			if err == nil && len(minority)+len(majority) != len(n(tc.nodes)) {
				t.Errorf("%v / %v: a node is missing", minority, majority)
			}
		})
	}
}

func TestAWatchFindsTheLastChange(t *testing.T) {
	p := func(ended int, answered bool) probe {
		return probe{began: time.Duration(ended-1) * time.Second, ended: time.Duration(ended) * time.Second, answered: answered}
	}
	w := watch{probes: []probe{p(1, true), p(2, false), p(3, true), p(5, false), p(6, false)}}
	if c := w.change(); !c.First || c.Last || c.Flips != 3 || c.At != 4 || c.Probes != 5 {
		t.Errorf("%+v", c)
	}
	if w.settled(7*time.Second, 3*time.Second) || !w.settled(8*time.Second, 3*time.Second) {
		t.Error("settled before, or not at, 3 s after the first probe of the last run ended")
	}
	if (&watch{}).settled(time.Hour, time.Second) {
		t.Error("settled without a probe")
	}
}

func TestFindingsOnlySayWhatTheReportHolds(t *testing.T) {
	if got := findings(&Report{}); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	fresh, stale := 4, 2
	row := func(side string, answered int) Row {
		return Row{Phase: Cut, Keyspace: "ap", Side: side, Operation: Get, Level: "one", Operations: 6, Answered: answered, Refused: 6 - answered, Fresh: &fresh, Stale: &stale}
	}
	for _, tc := range []struct {
		minority, majority int
		want               string
	}{
		{6, 6, "both sides were available"},
		{0, 6, "only the majority side was available"},
		{6, 0, "only the minority side was available"},
		{0, 0, "neither side was available"},
		{3, 6, "some were answered and some were not"},
	} {
		r := &Report{Keyspaces: []Keyspace{{Keyspace: "ap"}}, Rows: []Row{row(Minority, tc.minority), row(Majority, tc.majority)}}
		got := findings(r)
		if !strings.HasSuffix(got[0], tc.want+".") {
			t.Errorf("%d and %d of 6 answered: %q, want %q", tc.minority, tc.majority, got[0], tc.want)
		}
		all := strings.Join(got, "\n")
		if strings.Contains(all, "overwrote") || strings.Contains(all, "missing") || !strings.Contains(all, "did not give the same answers") {
			t.Errorf("it speaks of what was not measured:\n%s", all)
		}
	}
}
