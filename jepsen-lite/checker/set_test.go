package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"fulcrum/jepsen-lite/history"
)

func add(invoke, ret int, key string, mods ...mod) history.Op {
	return did(invoke, ret, history.Add, key, "v"+key, mods...)
}

func scan(invoke, ret int, mods ...mod) history.Op {
	return did(invoke, ret, history.Scan, "s/", "", mods...)
}

func TestSet(t *testing.T) {
	judgeRows(t, Set(), []row{
		{"all kept", linearRaft, []history.Op{add(0, 1, "s/a"), scan(2, 3, holding("s/a")), add(4, 5, "s/b"), scan(6, 7, final, holding("s/a", "s/b"))},
			Valid, nil, map[string]float64{"acknowledged": 2, "lost_acknowledged_writes": 0, "scans": 2}},
		{"a scan at the same time may miss it", linearRaft, []history.Op{add(0, 5, "s/a"), scan(4, 6), scan(7, 8, final, holding("s/a"))}, Valid, nil, nil},
		{"unknown, then seen", linearRaft, []history.Op{add(0, 1, "s/a", unsure), add(0, 1, "s/b"), scan(2, 3, final, holding("s/a", "s/b"))}, Valid, nil, map[string]float64{"recovered": 1}},
		{"unknown, and never seen", linearRaft, []history.Op{add(0, 1, "s/a", unsure), add(0, 1, "s/b"), scan(2, 3, final, holding("s/b"))}, Valid, nil, map[string]float64{"recovered": 0}},
		{"lost", linearRaft, []history.Op{add(0, 1, "s/a"), scan(2, 3, final)}, Invalid, []string{"lost-element"}, map[string]float64{"lost_acknowledged_writes": 1}},
		{"lost at weak reads too", weakQuorum, []history.Op{add(0, 1, "s/a"), scan(2, 3, final), scan(2, 3, weakly("n1")), scan(2, 3, weakly("n2"))}, Invalid, []string{"lost-element"}, nil},
		{"acknowledged by one, and owed to a majority", weakQuorum, []history.Op{add(0, 1, "s/a"), scan(2, 3, final), scan(4, 5, weakly("n1"), holding("s/a")), scan(4, 5, weakly("n2"), holding("s/a"))}, Valid, nil, nil},
		{"a majority's word is a majority's", overlapped, []history.Op{add(0, 1, "s/a"), scan(2, 3, final), scan(4, 5, weakly("n1"), holding("s/a"))}, Invalid, []string{"lost-element"}, nil},
		{"lost on every node", staleRaft, []history.Op{add(0, 1, "s/a"), scan(2, 3, weakly("n1")), scan(2, 3, weakly("n2"))}, Invalid, []string{"lost-element"}, nil},
		{"absent on one node is for converge", staleRaft, []history.Op{add(0, 1, "s/a"), scan(2, 3, weakly("n1")), scan(2, 3, weakly("n2"), holding("s/a"))}, Valid, nil, map[string]float64{"missing_on_some_nodes": 1}},
		{"asynchronous loss is counted", asyncLF, []history.Op{add(0, 1, "s/a"), add(0, 1, "s/b"), scan(2, 3, final, holding("s/b"))}, Valid, nil, map[string]float64{"lost_acknowledged_writes": 1}},
		{"lost with a disk is counted", spoilt(weakQuorum, "wipe-one"), []history.Op{add(0, 1, "s/a"), scan(2, 3, final)}, Valid, nil, map[string]float64{"lost_acknowledged_writes": 1}},
		{"a majority outlives a disk", spoilt(overlapped, "wipe-one"), []history.Op{add(0, 1, "s/a"), scan(2, 3, final)}, Invalid, []string{"lost-element"}, nil},
		{"a replica asked at the end may lag", linearRaft, []history.Op{add(0, 1, "s/a"), scan(2, 3, weakly("n1")), scan(4, 5, final, holding("s/a"))}, Valid, nil, map[string]float64{"missing_on_some_nodes": 1}},
		{"lost, in one moment of virtual time", linearRaft, []history.Op{add(0, 1, "s/a"), scan(1, 1, final)}, Invalid, []string{"lost-element"}, nil},
		{"missed in one moment of the run", linearRaft, []history.Op{add(0, 1, "s/a"), scan(1, 1), scan(1, 1, final, holding("s/a"))}, Valid, nil, nil},
		{"lost in the run", linearRaft, []history.Op{add(0, 1, "s/a"), scan(2, 3), add(3, 4, "s/b"), scan(5, 6, weakly("n2"), holding("s/b"))}, Invalid, []string{"lost-element"}, nil},
		{"stale where quorums meet", overlapped, []history.Op{add(0, 1, "s/a"), scan(3, 4), scan(5, 6, final, holding("s/a"))}, Invalid, []string{"stale-element"}, nil},
		{"stale where reads may be", weakQuorum, []history.Op{add(0, 1, "s/a"), scan(3, 4), scan(5, 6, final, holding("s/a"))}, Valid, nil,
			map[string]float64{"stale_elements": 1, "stable_latency_max_seconds": 0.002}},
		{"nobody added it", linearRaft, []history.Op{add(0, 1, "s/a"), scan(3, 4, final, holding("s/a", "s/x"))}, Invalid, []string{"phantom-element"}, nil},
		{"its add had failed", linearRaft, []history.Op{add(0, 1, "s/a", failed), scan(3, 4, final, holding("s/a"))}, Invalid, []string{"phantom-element"}, nil},
		{"before it was added", linearRaft, []history.Op{scan(0, 1, holding("s/a")), add(2, 3, "s/a"), scan(4, 5, final, holding("s/a"))}, Invalid, []string{"phantom-element"}, nil},
		{"twice", linearRaft, []history.Op{add(0, 1, "s/a"), scan(3, 4, final, holding("s/a", "s/a"))}, Invalid, []string{"duplicate-element"}, nil},
		{"another value", linearRaft, []history.Op{did(0, 1, history.Add, "s/a", "other"), scan(3, 4, final, holding("s/a"))}, Invalid, []string{"wrong-value"}, nil},
		{"another set", linearRaft, []history.Op{add(0, 1, "t/a"), add(0, 1, "s/a"), scan(3, 4, final, holding("s/a"))}, Unknown, nil, map[string]float64{"never_read": 1}},
		{"scanned, but not at the end", linearRaft, []history.Op{did(0, 1, history.Add, "t/a", "vt/a"), add(0, 1, "s/a"), did(2, 3, history.Scan, "t/", "", holding("t/a")), scan(3, 4, final, holding("s/a"))}, Unknown, nil, nil},
		{"no final scan", linearRaft, []history.Op{add(0, 1, "s/a"), scan(3, 4, holding("s/a"))}, Unknown, nil, nil},
		{"nothing added", linearRaft, []history.Op{scan(3, 4, final)}, Unknown, nil, nil},
	})
}

// spoilt is s with a nemesis that acts.
func spoilt(s Spec, nemeses ...string) Spec {
	s.Nemeses = nemeses
	return s
}

// A set on one machine passes. Its scans taken as those of one replica, a little
// behind, are only stale where reads may be.
func TestSetRandom(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 9))
		var ops, late []history.Op
		var all []string
		clock := 0
		for i := range 100 {
			clock += 3
			from, to := clock-rng.IntN(9), clock+rng.IntN(9)
			switch rng.IntN(4) {
			case 0:
				ops = append(ops, scan(from, to, holding(all...)))
				late = append(late, scan(from+100, to+100, holding(all...)))
			case 1:
				op := add(from, clock, fmt.Sprint("s/", i), unsure)
				ops, late = append(ops, op), append(late, op)
				if rng.IntN(2) == 0 {
					all = append(all, op.Key)
				}
			default:
				op := add(from, to, fmt.Sprint("s/", i))
				ops, late, all = append(ops, op), append(late, op), append(all, op.Key)
			}
		}
		end := scan(clock+200, clock+201, final, holding(all...))
		cases := []struct {
			name string
			spec Spec
			ops  []history.Op
			want Verdict
		}{
			{"as it was", linearRaft, slices.Concat(ops, []history.Op{end}), Valid},
			{"behind", linearRaft, slices.Concat(late, []history.Op{end}), Invalid},
			{"behind, where reads may be", staleRaft, slices.Concat(late, []history.Op{end}), Valid},
			{"the last scan is empty", staleRaft, slices.Concat(late, []history.Op{scan(clock+200, clock+201, final)}), Invalid},
		}
		for _, c := range cases {
			if r := Set().Run(recorded(c.ops...), c.spec); r.Verdict != c.want {
				t.Errorf("seed %d: %s: %s, want %s: %s", seed, c.name, r.Verdict, c.want, r.Detail)
			}
		}
	}
}
