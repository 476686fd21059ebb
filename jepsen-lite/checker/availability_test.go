package checker

import (
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

func mark(ms int, name string) history.Event {
	return history.Event{Time: time.Duration(ms) * time.Millisecond, F: "phase", Fault: name}
}

func start(ms int, fault string) history.Event {
	return history.Event{Time: time.Duration(ms) * time.Millisecond, F: "start", Fault: fault}
}

func stop(ms int, fault string, hits int64) history.Event {
	return history.Event{Time: time.Duration(ms) * time.Millisecond, F: "stop", Fault: fault, Hits: hits}
}

func TestAvailable(t *testing.T) {
	h := recorded(
		write(0, 1, "a"),
		write(10, 11, "b", failed), write(12, 13, "c", on("n2")), // in the fault
		write(14, 15, "d", unsure),
		write(110, 111, "e"), // calm again
		write(112, 113, "f", func(op *history.Op) { op.Outcome, op.Code = history.Fail, fulcrum.CodeConflict }),
		read(150, 151, "e", final),
	)
	h.Events = []history.Event{start(5, "cut"), stop(100, "cut", 1), mark(120, history.PhaseHeal), mark(145, history.PhaseRecovered)}
	got := Available().Run(h, linearRaft)
	if got.Verdict != Valid {
		t.Fatalf("verdict %d: %s", got.Verdict, got.Detail)
	}
	for name, want := range map[string]float64{
		"answered": 5.0 / 7, "answered_node_n1": 4.0 / 6, "answered_node_n2": 1, "answered_main": 4.0 / 6, "answered_final": 1,
		"answered_calm": 1, "answered_faulty": 1.0 / 3, "answered_fault_cut": 1.0 / 3, "recovery_seconds": 0.025, "longest_outage_seconds": 0.098,
	} {
		if v := got.Stats[name]; v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
}

func TestAvailableVerdicts(t *testing.T) {
	one := []history.Op{write(0, 1, "a")}
	tests := []struct {
		name   string
		ops    []history.Op
		events []history.Event
		want   Verdict
	}{
		{"recovered", one, []history.Event{mark(2, history.PhaseHeal), mark(3, history.PhaseRecovered)}, Valid},
		{"never recovered", one, []history.Event{mark(2, history.PhaseHeal), mark(3, history.PhaseFinal)}, Invalid},
		{"cut short", one, []history.Event{mark(2, history.PhaseHeal)}, Unknown},
		{"never healed", one, []history.Event{mark(3, history.PhaseRecovered)}, Unknown},
		{"no operation", nil, []history.Event{mark(2, history.PhaseHeal), mark(3, history.PhaseRecovered)}, Unknown},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			h := recorded(tc.ops...)
			h.Events = tc.events
			if got := Available().Run(h, linearRaft); got.Verdict != tc.want {
				t.Errorf("verdict %d, want %d: %s", got.Verdict, tc.want, got.Detail)
			}
		})
	}
}

func TestAvailabilitySeries(t *testing.T) {
	h := recorded(write(0, 1, "a"), write(10, 11, "b", failed), write(250, 251, "c", on("n2")))
	s := Availability(h)
	if len(s) != 3 || s[0].Node != "" || s[1].Node != "n1" || s[2].Node != "n2" {
		t.Fatalf("want all nodes together, n1 and n2, got %+v", s)
	}
	if s[0].Step != 100*time.Millisecond || len(s[0].Points) != 3 || s[0].Points[2].Time != 200*time.Millisecond {
		t.Fatalf("want three points of 100ms, got %+v", s[0])
	}
	for i, want := range [][]float64{{0.5, -1, 1}, {0.5, -1, -1}, {-1, -1, 1}} {
		for j, p := range s[i].Points {
			rate, ok := p.Rate()
			if !ok {
				rate = -1
			}
			if rate != want[j] {
				t.Errorf("series %q: rate %v at %v, want %v", s[i].Node, rate, p.Time, want[j])
			}
		}
	}
	if s := Availability(recorded()); s != nil {
		t.Errorf("a history without operations has series: %+v", s)
	}
}

func TestBite(t *testing.T) {
	refused := start(3, "cut")
	refused.Error = "no such node"
	tests := []struct {
		name   string
		wanted []string
		events []history.Event
		want   Verdict
	}{
		{"hit", []string{"cut"}, []history.Event{start(1, "cut"), stop(2, "cut", 3)}, Valid},
		{"one of two intervals hit", []string{"cut"}, []history.Event{start(1, "cut"), stop(2, "cut", 0), start(3, "cut"), stop(4, "cut", 1)}, Valid},
		{"none wanted", nil, nil, Valid},
		{"hit nothing", []string{"cut"}, []history.Event{start(1, "cut"), stop(2, "cut", 0)}, Unknown},
		{"nobody counted", []string{"cut"}, []history.Event{start(1, "cut"), stop(2, "cut", -1)}, Unknown},
		{"never stopped, so nobody counted", []string{"cut"}, []history.Event{start(1, "cut")}, Unknown},
		{"never started", []string{"cut"}, nil, Unknown},
		{"another one hit", []string{"cut", "kill"}, []history.Event{start(1, "cut"), stop(2, "cut", 3)}, Unknown},
		{"refused once", []string{"cut"}, []history.Event{start(1, "cut"), stop(2, "cut", 3), refused}, Unknown},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := Bite().Run(&history.History{Events: tc.events}, spoilt(linearRaft, tc.wanted...)); got.Verdict != tc.want {
				t.Errorf("verdict %d, want %d: %s", got.Verdict, tc.want, got.Detail)
			}
		})
	}
}

func TestSidesOfACut(t *testing.T) {
	tests := []struct {
		value string
		node  fulcrum.NodeID
		want  string
	}{
		{"n1 | n2 n3", "n1", "minority_side"},
		{"n1 | n2 n3", "n3", "majority_side"},
		{"n1 n2 | n3 n4", "n1", "minority_side"}, // nobody has a majority
		{"n1 | n2 | n3 n4 n5", "n2", "minority_side"},
		{"n1 | n2 n3", "n4", ""}, // on no side: reaches all
		{"n1", "n1", ""},
		{"leader n2", "n2", ""},
	}
	for _, tc := range tests {
		if got := sideOf(history.Fault{Value: tc.value}, tc.node); got != tc.want {
			t.Errorf("%s in %q: %q, want %q", tc.node, tc.value, got, tc.want)
		}
	}
}
