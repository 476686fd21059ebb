package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

func write(invoke, ret int, value string, mods ...mod) history.Op {
	return did(invoke, ret, history.Write, "k", value, mods...)
}

func del(invoke, ret int, mods ...mod) history.Op {
	return did(invoke, ret, history.Delete, "k", "", mods...)
}

func read(invoke, ret int, value string, mods ...mod) history.Op {
	return did(invoke, ret, history.Read, "k", value, mods...)
}

func TestDurable(t *testing.T) {
	judgeRows(t, Durable(), []row{
		{"kept", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", vsn(2)), read(8, 9, "b", vsn(2), final)}, Valid, nil,
			map[string]float64{"acknowledged": 2, "lost_acknowledged_writes": 0, "lww_overwritten_acked": 0}},
		{"an unknown one came after", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), write(0, 1, "b", unsure), read(8, 9, "b", vsn(2), final)}, Valid, nil, nil},
		{"deleted", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(8, 9, "", vsn(2), final)}, Valid, nil, nil},
		{"deleted, tombstone purged", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(8, 9, "", final)}, Valid, nil, nil},
		{"perhaps deleted", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), del(0, 1, unsure), read(8, 9, "", vsn(3), final)}, Valid, nil, nil},
		{"lost", overlapped, []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", vsn(2)), read(8, 9, "a", vsn(1), final)}, Invalid, []string{"lost-write"}, map[string]float64{"lost_acknowledged_writes": 1}},
		{"lost, nothing there", overlapped, []history.Op{write(0, 1, "a", vsn(1)), read(8, 9, "", final)}, Invalid, []string{"lost-write"}, nil},
		{"lost, an older delete explains nothing", overlapped, []history.Op{del(0, 1, vsn(1)), write(2, 3, "a", vsn(2)), read(8, 9, "", vsn(1), final)}, Invalid, []string{"lost-write"}, nil},
		{"lost, an older delete and its tombstone purged", overlapped, []history.Op{del(0, 1, vsn(1)), write(2, 3, "a", vsn(2)), read(8, 9, "", final)}, Invalid, []string{"lost-write"}, nil},
		{"delete lost", overlapped, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(8, 9, "a", vsn(1), final)}, Invalid, []string{"lost-write"}, nil},
		{"without versions, lost", linearRaft, []history.Op{write(0, 1, "a"), write(2, 3, "b"), read(8, 9, "a", final)}, Invalid, []string{"lost-write"}, nil},
		{"without versions, nothing there", linearRaft, []history.Op{write(0, 1, "a"), read(8, 9, "", final)}, Invalid, []string{"lost-write"}, nil},
		{"without versions, at the same time", linearRaft, []history.Op{write(0, 3, "a"), write(2, 5, "b"), read(8, 9, "a", final)}, Valid, nil, nil},
		{"without versions, clocks order", overlapped, []history.Op{write(0, 1, "a"), write(2, 3, "b"), read(8, 9, "a", final)}, Valid, nil, nil},
		{"lost, in one moment of virtual time", overlapped, []history.Op{write(0, 1, "a", vsn(1)), read(1, 1, "", final)}, Invalid, []string{"lost-write"}, nil},
		{"acknowledged while the read ran", overlapped, []history.Op{write(0, 1, "a", vsn(1)), write(7, 9, "b", vsn(2)), read(8, 9, "a", vsn(1), final)}, Valid, nil, nil},
		{"a failed one stands", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", failed), read(8, 9, "b", vsn(2), final)}, Invalid, []string{"phantom-value"}, nil},
		{"a refused swap stands", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), did(2, 3, history.CAS, "k", "b", func(op *history.Op) { op.Found = false }), read(8, 9, "b", vsn(2), final)},
			Invalid, []string{"phantom-value"}, nil},
		{"nobody wrote it", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), read(8, 9, "x", vsn(2), final)}, Invalid, []string{"phantom-value"}, nil},
		{"a value under another version", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", vsn(2)), read(8, 9, "a", vsn(2), final)}, Invalid, []string{"wrong-value"}, nil},
		{"overwritten at once by a fast clock", overlapped, []history.Op{write(0, 1, "a", vsn(5)), write(2, 3, "b", vsn(2)), read(8, 9, "a", vsn(5), final)}, Valid, nil, map[string]float64{"lww_overwritten_acked": 1}},
		{"overwritten where a leader stamps", staleRaft, []history.Op{write(0, 1, "a", vsn(5)), write(2, 3, "b", vsn(2)), read(8, 9, "a", vsn(5), final)}, Invalid, []string{"overwritten"}, nil},
		{"no final read", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), read(8, 9, "a", vsn(1))}, Unknown, nil, nil},
		{"weak final reads, kept by one node", weakQuorum, []history.Op{write(0, 1, "a", vsn(1)), read(8, 9, "a", vsn(1), weakly("n1")), read(8, 9, "", weakly("n2"))}, Valid, nil, nil},
		{"acknowledged by one, and owed to a majority", weakQuorum, []history.Op{write(0, 1, "a", vsn(1)), read(2, 3, "", final), read(8, 9, "a", vsn(1), weakly("n1")), read(8, 9, "a", vsn(1), weakly("n2"))}, Valid, nil, nil},
		{"a majority's word is a majority's", overlapped, []history.Op{write(0, 1, "a", vsn(1)), read(2, 3, "", final), read(8, 9, "a", vsn(1), weakly("n1"))}, Invalid, []string{"lost-write"}, nil},
		{"weak final reads, lost by all nodes", weakQuorum, []history.Op{write(0, 1, "a", vsn(1)), write(0, 1, "b", vsn(2)), read(2, 3, "b", vsn(2), weakly("n1")), read(8, 9, "a", vsn(1), weakly("n1")), read(8, 9, "", weakly("n2"))},
			Invalid, []string{"lost-write"}, nil},
		{"elements are for scans", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), add(0, 1, "s/a"), read(8, 9, "a", vsn(1), final)}, Valid, nil, map[string]float64{"keys": 1}},
		{"one key left out", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), did(0, 1, history.Write, "other", "b", vsn(1)), read(8, 9, "a", vsn(1), final)}, Unknown, nil, nil},
		{"expired", linearRaft, []history.Op{write(0, 1, "a", vsn(1), lives(3)), read(8, 9, "", final)}, Unknown, nil, nil},
	})
}

func TestLoss(t *testing.T) {
	judgeRows(t, Loss(), []row{
		{"lost", asyncLF, []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", vsn(2)), write(4, 5, "c", vsn(3)), read(8, 9, "a", vsn(1), final)}, Valid, nil, map[string]float64{"lost_acknowledged_writes": 2}},
		{"kept", asyncLF, []history.Op{write(0, 1, "a", vsn(1)), read(8, 9, "a", vsn(1), final)}, Valid, nil, map[string]float64{"lost_acknowledged_writes": 0}},
		{"nobody wrote it", asyncLF, []history.Op{write(0, 1, "a", vsn(1)), read(8, 9, "x", vsn(2), final)}, Invalid, []string{"phantom-value"}, nil},
	})
}

func TestLostWrites(t *testing.T) {
	judgeRows(t, LostWrites(), []row{
		{"keys", asyncLF, []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", vsn(2)), read(8, 9, "a", vsn(1), final)}, Invalid, []string{"lost-write"}, map[string]float64{"lost_acknowledged_writes": 1}},
		{"elements", asyncLF, []history.Op{add(0, 1, "s/a"), add(0, 1, "s/b"), scan(8, 9, final, holding("s/b"))}, Invalid, []string{"lost-element"}, map[string]float64{"lost_acknowledged_writes": 1}},
		{"all kept", asyncLF, []history.Op{add(0, 1, "s/a"), scan(8, 9, final, holding("s/a")), write(0, 1, "a", vsn(1)), read(8, 9, "a", vsn(1), final)}, Valid, nil, nil},
		{"a phantom is no loss", asyncLF, []history.Op{add(0, 1, "s/a"), scan(8, 9, final, holding("s/a", "s/b"))}, Valid, nil, nil},
		{"no final read", asyncLF, []history.Op{write(0, 1, "a", vsn(1)), add(0, 1, "s/a")}, Unknown, nil, nil},
	})
}

func TestLevelsThatNoModeOffersProveNothing(t *testing.T) {
	s := Spec{Mode: consistency.Raft, Write: consistency.L(consistency.Three)}
	h := recorded(write(0, 1, "a", vsn(1)), read(2, 3, "a", vsn(1), final))
	if r := Durable().Run(h, s); r.Verdict != Unknown {
		t.Errorf("verdict %d (%s), want unknown", r.Verdict, r.Detail)
	}
}

// Three clocks that differ stamp the writes of one key, and the newest stamp stands.
// That final state passes, however many writes it overwrote; any other does not.
func TestDurableRandom(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 10))
		var ops []history.Op
		newest, older := history.Op{}, history.Op{}
		for i := range 60 {
			stamp := vsn(uint64(10*i + 100*rng.IntN(3) + 1))
			op := write(3*i, 3*i+rng.IntN(9), fmt.Sprint("v", i), stamp, func(op *history.Op) { op.Version.Actor = uint32(i) })
			if rng.IntN(5) == 0 {
				op.F, op.Value = history.Delete, ""
			}
			ops = append(ops, op)
			if newest.Version.Less(op.Version) {
				newest = op
			}
		}
		for _, op := range ops {
			if op.Version.Less(newest.Version) && op.F == history.Write {
				older = op
			}
		}
		for _, c := range []struct {
			stands history.Op
			want   Verdict
		}{{newest, Valid}, {older, Invalid}} {
			end := read(1000, 1001, c.stands.Value, final, func(op *history.Op) { op.Version = c.stands.Version })
			if r := Durable().Run(recorded(append(slices.Clone(ops), end)...), overlapped); r.Verdict != c.want {
				t.Errorf("seed %d: %s, want %s: %s", seed, r.Verdict, c.want, r.Detail)
			}
		}
	}
}
