package checker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

// Available measures the share of requests that were answered, by node, by fault and
// by phase, and how long the cluster took to recover. It excludes only one thing:
//
//	never-recovered  the faults were healed and the nodes did not all answer again
func Available() Check { return Check{Name: "availability", Run: runAvailable} }

// share counts how many of the requests asked were answered.
type share struct{ asked, answered int }

func (s *share) count(ok bool) {
	s.asked++
	if ok {
		s.answered++
	}
}

// answered reports whether a node did what was asked, or refused it on its own merits:
// a condition that does not hold, an operation that the mode cannot do.
func answered(op *history.Op) bool {
	switch {
	case op.Outcome == history.OK:
		return true
	case op.Outcome != history.Fail:
		return false
	}
	switch op.Code {
	case "", fulcrum.CodeConflict, fulcrum.CodeMode, fulcrum.CodeLevel, fulcrum.CodeInvalid, fulcrum.CodeNotFound:
		return true
	}
	return false
}

func runAvailable(h *history.History, _ Spec) Result {
	t := newTally("availability")
	faults := h.Faults()
	shares := map[string]*share{}
	count := func(name string, ok bool) {
		if shares[name] == nil {
			shares[name] = &share{}
		}
		shares[name].count(ok)
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		ok := answered(op)
		count("answered", ok)
		count("answered_node_"+string(op.Node), ok)
		if op.Phase == history.Final {
			count("answered_final", ok)
			continue
		}
		count("answered_main", ok)
		calm := true
		seen := map[string]bool{}
		for _, f := range faults {
			if op.Invoke < f.Start || op.Invoke >= f.End {
				continue
			}
			calm = false
			if !seen[f.Name] {
				count("answered_fault_"+f.Name, ok)
			}
			seen[f.Name] = true
			if side := sideOf(f, op.Node); side != "" {
				count("answered_"+side, ok)
			}
		}
		if calm {
			count("answered_calm", ok)
		} else {
			count("answered_faulty", ok)
		}
	}
	for name, s := range shares {
		t.stats[name] = float64(s.answered) / float64(s.asked)
	}
	t.stats["operations"] = float64(len(h.Ops))
	t.stats["longest_outage_seconds"] = outage(h).Seconds()
	if len(h.Ops) == 0 {
		t.unknown("no operation was made")
	} else {
		t.recovery(h)
	}
	sides := ""
	if _, cut := t.stats[majoritySide]; cut {
		sides = fmt.Sprintf(" (while cut, %.1f%% on the majority's side and %.1f%% on the minority's)", 100*t.stats[majoritySide], 100*t.stats[minoritySide])
	}
	return t.result("%.1f%% of %d requests answered%s; all nodes again %.1f s after the end of the faults", 100*t.stats["answered"], len(h.Ops), sides, t.stats["recovery_seconds"])
}

const (
	majoritySide = "answered_majority_side"
	minoritySide = "answered_minority_side"
)

// sideOf says on which side of a cut a node is, when the fault cuts the network into
// sides of which one has a majority ("n1 | n2 n3"); else "".
func sideOf(f history.Fault, node fulcrum.NodeID) string {
	sides := strings.Split(f.Value, " | ")
	if len(sides) < 2 {
		return ""
	}
	total, mine := 0, 0
	for _, side := range sides {
		nodes := strings.Fields(side)
		total += len(nodes)
		if slices.Contains(nodes, string(node)) {
			mine = len(nodes)
		}
	}
	switch {
	case mine == 0:
		return ""
	case 2*mine > total:
		return strings.TrimPrefix(majoritySide, "answered_")
	}
	return strings.TrimPrefix(minoritySide, "answered_")
}

func (t *tally) recovery(h *history.History) {
	heal, healed := h.Mark(history.PhaseHeal)
	recovered, ok := h.Mark(history.PhaseRecovered)
	switch {
	case !ok && !finished(h):
		t.unknown("the run was cut short before it was seen whether all nodes answer again")
	case !ok:
		t.add("never-recovered", "", nil, "the run has no mark %q: not all nodes answered again after everything was healed", history.PhaseRecovered)
	case !healed || recovered < heal:
		t.unknown("the run has no mark %q before %q: how long recovery took is not known", history.PhaseHeal, history.PhaseRecovered)
	default:
		t.stats["recovery_seconds"] = (recovered - heal).Seconds()
	}
}

// finished reports whether the run came to its final reads: after that nodes were given
// all the time that they get to recover.
func finished(h *history.History) bool {
	_, ok := h.Mark(history.PhaseFinal)
	return ok
}

// outage is the longest time of the main phase without a request that was answered,
// on whichever node.
func outage(h *history.History) time.Duration {
	var ends []time.Duration
	first, last := never, time.Duration(0)
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Phase != history.Main {
			continue
		}
		first, last = min(first, op.Invoke), max(last, op.Return)
		if answered(op) {
			ends = append(ends, op.Return)
		}
	}
	if first == never {
		return 0
	}
	slices.Sort(ends)
	longest, prev := time.Duration(0), first
	for _, at := range append(ends, last) {
		longest, prev = max(longest, at-prev), at
	}
	return longest
}

// Series is how much of what was asked of one node it answered, over time.
type Series struct {
	Node   fulcrum.NodeID // empty: all nodes together
	Step   time.Duration  // of each point
	Points []Point
}

// Point is one step of a Series, by when the requests were made.
type Point struct {
	Time            time.Duration // its begin
	Asked, Answered int
}

// Rate is the share answered, 0..1; ok is false when nothing was asked.
func (p Point) Rate() (rate float64, ok bool) {
	if p.Asked == 0 {
		return 0, false
	}
	return float64(p.Answered) / float64(p.Asked), true
}

// seriesPoints is about how many points a Series has, and minStep the least that one
// of them covers.
const (
	seriesPoints = 200
	minStep      = 100 * time.Millisecond
)

// Availability returns the series of all nodes together, then of each node by name.
func Availability(h *history.History) []Series {
	if len(h.Ops) == 0 {
		return nil
	}
	end := h.End()
	step := max(minStep, (end / seriesPoints).Round(minStep))
	points := func(n fulcrum.NodeID) *Series {
		s := &Series{Node: n, Step: step, Points: make([]Point, int(end/step)+1)}
		for i := range s.Points {
			s.Points[i].Time = time.Duration(i) * step
		}
		return s
	}
	all, nodes := points(""), map[fulcrum.NodeID]*Series{}
	for i := range h.Ops {
		op := &h.Ops[i]
		if nodes[op.Node] == nil {
			nodes[op.Node] = points(op.Node)
		}
		for _, s := range []*Series{all, nodes[op.Node]} {
			p := &s.Points[max(op.Invoke, 0)/step]
			p.Asked++
			if answered(op) {
				p.Answered++
			}
		}
	}
	out := []Series{*all}
	for _, n := range slices.Sorted(maps.Keys(nodes)) {
		out = append(out, *nodes[n])
	}
	return out
}
