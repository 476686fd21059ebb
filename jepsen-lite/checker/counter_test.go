package checker

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"fulcrum/jepsen-lite/history"
)

func incr(invoke, ret int, by string, mods ...mod) history.Op {
	return did(invoke, ret, history.Incr, "c", by, mods...)
}

func count(invoke, ret int, n string, mods ...mod) history.Op {
	return did(invoke, ret, history.Read, "c", n, mods...)
}

func TestCounter(t *testing.T) {
	judgeRows(t, Counter(), []row{
		{"exact", linearRaft, []history.Op{count(0, 1, ""), incr(2, 3, "5"), count(4, 5, "5"), incr(6, 7, "-2"), count(8, 9, "3", final)}, Valid, nil, nil},
		{"unknown, done or not", linearRaft, []history.Op{incr(2, 3, "5", unsure), count(4, 5, "0"), count(6, 7, "5"), count(8, 9, "5", final)}, Valid, nil, nil},
		{"at the same time", linearRaft, []history.Op{incr(2, 8, "5"), count(3, 4, "5"), count(9, 10, "5", final)}, Valid, nil, nil},
		{"applied twice", linearRaft, []history.Op{incr(2, 3, "5"), count(4, 5, "10"), count(8, 9, "10", final)}, Invalid, []string{"counter-too-high"}, nil},
		{"applied twice, at weak reads", staleRaft, []history.Op{incr(2, 3, "5"), count(4, 5, "10"), count(8, 9, "5", final)}, Invalid, []string{"counter-too-high"}, nil},
		{"decrement applied twice", linearRaft, []history.Op{incr(2, 3, "-5"), count(8, 9, "-10", final)}, Invalid, []string{"counter-too-low"}, nil},
		{"decrement lost", linearRaft, []history.Op{incr(0, 1, "9"), incr(2, 3, "-5"), count(8, 9, "9", final)}, Invalid, []string{"counter-too-high"}, nil},
		{"a failed one applied", linearRaft, []history.Op{incr(0, 1, "1"), incr(2, 3, "5", failed), count(8, 9, "6", final)}, Invalid, []string{"counter-too-high"}, nil},
		{"lost", linearRaft, []history.Op{incr(2, 3, "5"), incr(2, 3, "7"), count(8, 9, "7", final)}, Invalid, []string{"counter-too-low"}, map[string]float64{"lost_acknowledged_writes": 5}},
		{"lost, at weak reads", staleRaft, []history.Op{incr(2, 3, "5"), count(4, 5, ""), count(8, 9, "", final)}, Invalid, []string{"counter-too-low"}, nil},
		{"stale where reads may be", staleRaft, []history.Op{incr(2, 3, "5"), count(4, 5, ""), count(8, 9, "5", final)}, Valid, nil, nil},
		{"stale where they may not", linearRaft, []history.Op{incr(2, 3, "5"), count(4, 5, ""), count(8, 9, "5", final)}, Invalid, []string{"counter-too-low"}, nil},
		{"a replica asked at the end may lag", linearRaft, []history.Op{incr(2, 3, "5"), count(4, 5, "5"), count(6, 7, "", weakly("n1")), count(8, 9, "5", final)}, Valid, nil, nil},
		{"asynchronous loss is counted", asyncLF, []history.Op{incr(2, 3, "5"), count(8, 9, "", final)}, Valid, nil, map[string]float64{"lost_acknowledged_writes": 5}},
		{"asynchronous and twice", asyncLF, []history.Op{incr(2, 3, "5"), count(8, 9, "10", final)}, Invalid, []string{"counter-too-high"}, nil},
		{"goes back", linearRaft, []history.Op{incr(1, 2, "5", unsure), count(4, 5, "5"), count(6, 7, "0"), count(8, 9, "5", final)}, Invalid, []string{"counter-back"}, nil},
		{"no number", linearRaft, []history.Op{incr(2, 3, "5"), count(4, 5, "x"), count(8, 9, "5", final)}, Invalid, []string{"corrupt-counter"}, nil},
		{"no final read", linearRaft, []history.Op{incr(2, 3, "5"), count(4, 5, "5")}, Unknown, nil, nil},
		{"weak final reads miss it", staleRaft, []history.Op{incr(2, 3, "5"), count(6, 7, "5", weakly("n1")), count(8, 9, "", weakly("n1"))}, Invalid, []string{"counter-too-low"}, nil},
		{"also written", linearRaft, []history.Op{incr(2, 3, "5"), did(2, 3, history.Write, "c", "1"), count(4, 5, "1", final)}, Unknown, nil, nil},
	})
}

// A counter that is one number, its operations taking effect at a random moment each,
// passes; one whose increment counts twice does not.
func TestCounterRandom(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var ops []history.Op
		n, clock := 0, 0
		for range 200 {
			by := rng.IntN(9) - 4
			clock += 3
			switch rng.IntN(4) {
			case 0:
				ops = append(ops, count(clock-rng.IntN(9), clock+rng.IntN(9), fmt.Sprint(n)))
			case 1:
				ops = append(ops, incr(clock-rng.IntN(9), clock, fmt.Sprint(by), unsure))
				n += by * rng.IntN(2)
			default:
				ops = append(ops, incr(clock-rng.IntN(9), clock+rng.IntN(9), fmt.Sprint(by)))
				n += by
			}
		}
		ops = append(ops, count(clock+20, clock+21, fmt.Sprint(n), final))
		if r := Counter().Run(recorded(ops...), linearRaft); r.Verdict != Valid {
			t.Fatalf("seed %d: a right counter is refused: %s", seed, r.Detail)
		}
		ops = append(ops, incr(clock+30, clock+31, "100000"), count(clock+40, clock+41, fmt.Sprint(n+200000), final))
		if r := Counter().Run(recorded(ops...), linearRaft); r.Verdict != Invalid {
			t.Fatalf("seed %d: an increment that counted twice passes", seed)
		}
	}
}
