package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fulcrum/jepsen-lite/history"
)

func app(invoke, ret int, e string, mods ...mod) history.Op {
	return did(invoke, ret, history.Append, "l", e, mods...)
}

func list(invoke, ret int, all string, mods ...mod) history.Op {
	return did(invoke, ret, history.Read, "l", all, mods...)
}

func TestLists(t *testing.T) {
	judgeRows(t, Lists(), []row{
		{"grows", linearRaft, []history.Op{list(0, 1, ""), app(2, 3, "a"), list(4, 5, "a,"), app(6, 7, "b"), list(8, 9, "a,b,", final)}, Valid, nil, nil},
		{"at the same time, either order", linearRaft, []history.Op{app(0, 5, "a"), app(1, 4, "b"), list(8, 9, "b,a,", final)}, Valid, nil, nil},
		{"unknown, done or not", linearRaft, []history.Op{app(0, 1, "a", unsure), app(0, 1, "b", unsure), app(0, 1, "c"), list(8, 9, "c,a,", final)}, Valid, nil, nil},
		{"applied twice", linearRaft, []history.Op{app(0, 1, "a"), list(8, 9, "a,a,", final)}, Invalid, []string{"duplicate-element"}, nil},
		{"applied twice, at weak reads", asyncLF, []history.Op{app(0, 1, "a"), list(2, 3, "a,a,"), list(8, 9, "a,", final)}, Invalid, []string{"duplicate-element"}, nil},
		{"nobody appended it", linearRaft, []history.Op{app(0, 1, "a"), list(8, 9, "a,x,", final)}, Invalid, []string{"phantom-element"}, nil},
		{"its append had failed", linearRaft, []history.Op{app(0, 1, "a", failed), list(8, 9, "a,", final)}, Invalid, []string{"phantom-element"}, nil},
		{"before it was appended", linearRaft, []history.Op{list(0, 1, "a,"), app(2, 3, "a"), list(8, 9, "a,", final)}, Invalid, []string{"phantom-element"}, nil},
		{"torn", linearRaft, []history.Op{app(0, 1, "ab"), list(2, 3, "a"), list(8, 9, "ab,", final)}, Invalid, []string{"corrupt-list"}, nil},
		{"two orders", staleRaft, []history.Op{app(0, 9, "a"), app(0, 9, "b"), list(10, 11, "a,"), list(12, 13, "b,a,", final)}, Invalid, []string{"incompatible-order"}, nil},
		{"a dropped branch was shown", weakReadLF, []history.Op{app(0, 9, "a", unsure), app(0, 9, "b"), list(10, 11, "a,"), list(12, 13, "b,", final)}, Valid, nil, nil},
		{"against real time", staleRaft, []history.Op{app(0, 1, "a"), app(2, 3, "b"), list(8, 9, "b,a,", final)}, Invalid, []string{"order-violation"}, nil},
		{"against real time, on branches", weakReadLF, []history.Op{app(0, 1, "a"), app(2, 3, "b"), list(8, 9, "b,a,", final)}, Invalid, []string{"order-violation"}, nil},
		{"lost", staleRaft, []history.Op{app(0, 1, "a"), app(0, 1, "b"), list(8, 9, "b,", final)}, Invalid, []string{"lost-element"}, map[string]float64{"lost_acknowledged_writes": 1}},
		{"asynchronous loss is counted", asyncLF, []history.Op{app(0, 1, "a"), app(0, 1, "b"), list(2, 3, "a,"), list(8, 9, "b,", final)}, Valid, nil, map[string]float64{"lost_acknowledged_writes": 1}},
		{"stale", linearRaft, []history.Op{app(0, 1, "a"), list(2, 3, ""), list(8, 9, "a,", final)}, Invalid, []string{"stale-list"}, nil},
		{"stale where reads may be", staleRaft, []history.Op{app(0, 1, "a"), list(2, 3, ""), list(8, 9, "a,", final)}, Valid, nil, nil},
		{"goes back", linearRaft, []history.Op{app(0, 1, "a", unsure), list(2, 3, "a,"), list(4, 5, ""), list(8, 9, "a,", final)}, Invalid, []string{"list-back"}, nil},
		{"a replica asked at the end may lag", linearRaft, []history.Op{app(0, 1, "a"), list(2, 3, "a,"), list(4, 5, "", weakly("n1")), list(8, 9, "a,", final)}, Valid, nil, nil},
		{"weak final reads, the last of them lacks it", staleRaft, []history.Op{app(0, 1, "a"), list(6, 7, "a,", weakly("n1")), list(8, 9, "", weakly("n1"))}, Invalid, []string{"lost-element"}, nil},
		{"no final read", staleRaft, []history.Op{app(0, 1, "a"), list(8, 9, "a,")}, Unknown, nil, nil},
		{"appended twice by the workload", linearRaft, []history.Op{app(0, 1, "a"), app(0, 1, "a"), list(8, 9, "a,", final)}, Unknown, nil, nil},
	})
}

// A list that is one string, its operations taking effect at a random moment each,
// passes; with one element taken out, put in twice or moved, it does not.
func TestListsRandom(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 8))
		var ops []history.Op
		var acked []string
		all, clock := "", 0
		for i := range 100 {
			clock += 3
			e := fmt.Sprint("e", i)
			from, to := clock-rng.IntN(9), clock+rng.IntN(9)
			switch rng.IntN(4) {
			case 0:
				ops = append(ops, list(from, to, all))
			case 1:
				ops = append(ops, app(from, clock, e, unsure))
				if rng.IntN(2) == 0 {
					all += e + ","
				}
			default:
				ops = append(ops, app(from, to, e))
				all += e + ","
				acked = append(acked, e)
			}
		}
		for _, harm := range []struct {
			name string
			read string
			want Verdict
		}{
			{"as it was", all, Valid},
			{"one lost", strings.Replace(all, acked[rng.IntN(len(acked))]+",", "", 1), Invalid},
			{"one twice", all + acked[rng.IntN(len(acked))] + ",", Invalid},
			{"the first one last", strings.TrimPrefix(all, acked[0]+",") + acked[0] + ",", Invalid},
		} {
			if harm.name == "the first one last" && !strings.HasPrefix(all, acked[0]+",") {
				continue
			}
			h := recorded(append(slices.Clone(ops), list(clock+20, clock+21, harm.read, final))...)
			if r := Lists().Run(h, linearRaft); r.Verdict != harm.want {
				t.Errorf("seed %d: %s: %s, want %s: %s", seed, harm.name, r.Verdict, harm.want, r.Detail)
			}
		}
	}
}
