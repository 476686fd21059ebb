package checker

import (
	"slices"
	"strings"

	"fulcrum/jepsen-lite/history"
)

// Bite judges the nemesis: each fault that the run claims must have been seen to act
// at least once, else the run proves nothing about it and is unknown.
func Bite() Check { return Check{Name: "bite", Run: runBite} }

func runBite(h *history.History, s Spec) Result {
	t := newTally("bite")
	for _, e := range h.Events {
		if e.F == "start" && e.Error != "" {
			t.stats["not_done"]++
			t.unknown("nemesis did not bite: %s could not be started: %s", e.Fault, e.Error)
		}
	}
	faults := h.Faults()
	for _, n := range s.Nemeses {
		if n == combined {
			biteOfCombined(t, faults)
			continue
		}
		var hits int64
		intervals, told := 0, true
		for _, f := range faults {
			if f.Name != n {
				continue
			}
			intervals++
			told = told && f.Hits >= 0
			hits += max(f.Hits, 0)
		}
		t.stats["hits_"+n], t.stats["intervals_"+n] = float64(hits), float64(intervals)
		switch {
		case hits > 0:
		case intervals == 0:
			t.unknown("nemesis did not bite: %s never started", n)
		case !told:
			t.unknown("nemesis did not bite: %s acted %d times, and nobody saw it hit anything", n, intervals)
		default:
			t.unknown("nemesis did not bite: %s acted %d times and hit nothing", n, intervals)
		}
	}
	if len(s.Nemeses) == 0 {
		return t.result("no nemesis was to act")
	}
	return t.result("%s: each was seen to act", strings.Join(slices.Sorted(slices.Values(s.Nemeses)), ", "))
}

// combined is the nemesis that draws others, whose names its faults carry. One of them
// may find nothing to act on, as a wrong clock on a node that is down; two must bite.
const combined = "combined"

func biteOfCombined(t *tally, faults []history.Fault) {
	bit := map[string]bool{}
	for _, f := range faults {
		if f.Hits > 0 {
			bit[f.Name] = true
		}
	}
	if t.stats["kinds_combined"] = float64(len(bit)); len(bit) < 2 {
		t.unknown("nemesis did not bite: of all that %s drew, %d kinds of fault were seen to act", combined, len(bit))
	}
}
