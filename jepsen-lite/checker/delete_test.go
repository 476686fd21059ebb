package checker

import (
	"testing"

	"fulcrum/jepsen-lite/history"
)

func TestDeletes(t *testing.T) {
	judgeRows(t, Deletes(), []row{
		{"stays away", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(8, 9, "", vsn(2), weakly("n1")), read(8, 9, "", weakly("n2"))}, Valid, nil, map[string]float64{"deletes": 1, "final_reads": 2}},
		{"one node was behind at first", weakQuorum, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(8, 9, "a", vsn(1), weakly("n1")), read(10, 11, "", vsn(2), weakly("n1"))}, Valid, nil, nil},
		{"written again", linearRaft, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), write(4, 5, "b", vsn(3)), read(8, 9, "b", vsn(3), weakly("n1"))}, Valid, nil, nil},
		{"perhaps written again", linearRaft, []history.Op{del(2, 3, vsn(2)), write(0, 1, "b", unsure), read(8, 9, "b", vsn(3), weakly("n1"))}, Valid, nil, nil},
		{"perhaps deleted again", linearRaft, []history.Op{del(2, 3, vsn(2)), write(4, 5, "b", vsn(3)), del(4, 5, unsure), read(8, 9, "", weakly("n1"))}, Valid, nil, nil},
		{"resurrected on one node", staleRaft, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(8, 9, "", weakly("n1")), read(8, 9, "a", vsn(1), weakly("n2"))}, Invalid, []string{"resurrected"}, nil},
		{"an unknown one, older than the delete, resurrected", weakQuorum, []history.Op{write(0, 1, "a", unsure), del(2, 3, vsn(2)), read(8, 9, "a", vsn(1), weakly("n2"))}, Invalid, []string{"resurrected"}, nil},
		{"resurrected, without versions", linearRaft, []history.Op{write(0, 1, "a"), del(2, 3), read(8, 9, "a", weakly("n2"))}, Invalid, []string{"resurrected"}, nil},
		{"without versions, clocks order", weakQuorum, []history.Op{write(0, 1, "a"), del(2, 3), read(8, 9, "a", weakly("n2"))}, Valid, nil, map[string]float64{"counted_resurrected": 1}},
		{"without versions, at the same time", linearRaft, []history.Op{write(0, 3, "a"), del(2, 3), read(8, 9, "a", weakly("n2"))}, Valid, nil, nil},
		{"resurrected in the run", overlapped, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(4, 5, "a", vsn(1)), read(8, 9, "", weakly("n2"))}, Invalid, []string{"resurrected"}, nil},
		{"stale in the run where reads may be", weakQuorum, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(4, 5, "a", vsn(1)), read(8, 9, "", weakly("n2"))}, Valid, nil, nil},
		{"asynchronous loss of a delete is counted", asyncLF, []history.Op{write(0, 1, "a", vsn(1)), del(2, 3, vsn(2)), read(8, 9, "a", vsn(1), weakly("n2"))}, Valid, nil, map[string]float64{"counted_resurrected": 1}},
		{"a re-create lost", linearRaft, []history.Op{del(2, 3, vsn(2)), write(4, 5, "b", vsn(3)), read(8, 9, "", vsn(2), weakly("n1"))}, Invalid, []string{"lost-recreate"}, nil},
		{"a re-create lost, tombstone purged", weakQuorum, []history.Op{del(2, 3, vsn(2)), write(4, 5, "b", vsn(3)), read(8, 9, "", weakly("n1"))}, Invalid, []string{"lost-recreate"}, nil},
		{"a re-create lost, without versions", linearRaft, []history.Op{del(2, 3), write(4, 5, "b"), read(8, 9, "", weakly("n1"))}, Invalid, []string{"lost-recreate"}, nil},
		{"no delete", linearRaft, []history.Op{write(4, 5, "b", vsn(3)), read(8, 9, "b", vsn(3), final)}, Unknown, nil, nil},
		{"no final read", linearRaft, []history.Op{del(4, 5, vsn(3)), read(8, 9, "", vsn(3))}, Unknown, nil, nil},
	})
}
