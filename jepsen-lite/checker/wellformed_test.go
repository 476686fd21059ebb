package checker

import (
	"fmt"
	"testing"

	"fulcrum/jepsen-lite/history"
)

func TestWellFormed(t *testing.T) {
	backwards := []history.Op{write(5, 6, "b", proc(2)), write(0, 1, "a", proc(1))}
	tests := []struct {
		name string
		ops  []history.Op
		want Verdict
	}{
		{"one after the other", []history.Op{write(0, 1, "a", proc(1)), write(1, 2, "b", proc(1)), write(0, 9, "c", proc(2), unsure)}, Valid},
		{"returns before it began", []history.Op{write(5, 1, "a")}, Unknown},
		{"goes on after an unknown outcome", []history.Op{write(0, 1, "a", proc(1), unsure), write(2, 3, "b", proc(1))}, Unknown},
		{"two at the same time", []history.Op{write(0, 5, "a", proc(1)), write(2, 3, "b", proc(1))}, Unknown},
		{"a value twice", []history.Op{write(0, 1, "a"), write(2, 3, "a")}, Unknown},
		{"a delta twice", []history.Op{incr(0, 1, "1"), incr(2, 3, "1")}, Valid},
		{"no such operation", []history.Op{did(0, 1, "nonsense", "k", "a")}, Unknown},
		{"no such outcome", []history.Op{write(0, 1, "a", func(op *history.Op) { op.Outcome = 7 })}, Unknown},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := WellFormed().Run(recorded(tc.ops...), linearRaft); got.Verdict != tc.want || (tc.want == Unknown) != (got.Found > 0) {
				t.Errorf("verdict %d with %d found, want %d: %s", got.Verdict, got.Found, tc.want, got.Detail)
			}
		})
	}
	if got := WellFormed().Run(&history.History{Ops: backwards}, linearRaft); got.Verdict != Unknown {
		t.Error("operations out of order are well-formed")
	}
}

func TestEnough(t *testing.T) {
	writes := func(n int, mods ...mod) (ops []history.Op) {
		for i := range n {
			ops = append(ops, write(i, i, fmt.Sprint(i), mods...))
		}
		return ops
	}
	end := read(100, 101, "1", final)
	tests := []struct {
		name string
		ops  []history.Op
		want Verdict
	}{
		{"enough", append(writes(9), end), Valid},
		{"too few", append(writes(8), end), Unknown},
		{"all failed", append(writes(20, failed), end), Unknown},
		{"no final read", append(writes(20), read(100, 101, "1")), Unknown},
		{"nothing written", []history.Op{end, end, end, end, end, end, end, end, end, end}, Unknown},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := Enough().Run(recorded(tc.ops...), linearRaft); got.Verdict != tc.want {
				t.Errorf("verdict %d, want %d: %s", got.Verdict, tc.want, got.Detail)
			}
		})
	}
}
