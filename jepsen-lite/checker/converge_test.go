package checker

import (
	"testing"

	"fulcrum/jepsen-lite/history"
)

func TestConverge(t *testing.T) {
	one := weakQuorum
	one.Replicas = 1
	judgeRows(t, Converge(), []row{
		{"all the same", weakQuorum, []history.Op{read(0, 1, "a", vsn(1), weakly("n1")), read(0, 1, "a", vsn(1), weakly("n2")), read(2, 3, "a", vsn(1), final)}, Valid, nil, map[string]float64{"nodes": 2}},
		{"earlier answers do not count", weakQuorum, []history.Op{read(0, 1, "", weakly("n1")), read(2, 3, "a", vsn(1), weakly("n1")), read(0, 1, "a", vsn(1), weakly("n2"))}, Valid, nil, nil},
		{"values differ", weakQuorum, []history.Op{read(0, 1, "a", vsn(1), weakly("n1")), read(0, 1, "b", vsn(1), weakly("n2"))}, Invalid, []string{"diverged"}, nil},
		{"versions differ", weakQuorum, []history.Op{read(0, 1, "a", vsn(1), weakly("n1")), read(0, 1, "a", vsn(2), weakly("n2"))}, Invalid, []string{"diverged"}, nil},
		{"one has nothing", weakQuorum, []history.Op{read(0, 1, "a", vsn(1), weakly("n1")), read(0, 1, "", weakly("n2"))}, Invalid, []string{"diverged"}, nil},
		{"tombstones differ", weakQuorum, []history.Op{read(0, 1, "", vsn(1), weakly("n1")), read(0, 1, "", vsn(2), weakly("n2"))}, Invalid, []string{"diverged"}, nil},
		{"one tombstone purged", weakQuorum, []history.Op{read(0, 1, "", vsn(1), weakly("n1")), read(0, 1, "", weakly("n2"))}, Valid, nil, nil},
		{"less than was shown before", weakQuorum, []history.Op{read(0, 1, "b", vsn(2), final), read(2, 3, "a", vsn(1), weakly("n1")), read(2, 3, "a", vsn(1), weakly("n2"))}, Invalid, []string{"fell-back"}, nil},
		{"more than was shown before", weakQuorum, []history.Op{read(0, 1, "a", vsn(1), final), read(2, 3, "b", vsn(2), weakly("n1")), read(2, 3, "b", vsn(2), weakly("n2"))}, Valid, nil, nil},
		{"strong reads only", weakQuorum, []history.Op{read(0, 1, "a", vsn(1), final), read(0, 1, "a", vsn(1), final, on("n2"))}, Unknown, nil, nil},
		{"a scan of fewer", weakQuorum, []history.Op{scan(0, 1, weakly("n1"), holding("s/a")), scan(0, 1, weakly("n2"), holding("s/a", "s/b"))}, Invalid, []string{"diverged-scan"}, nil},
		{"a scan of another value", weakQuorum, []history.Op{scan(0, 1, weakly("n1"), holding("s/a")), scan(0, 1, weakly("n2"), func(op *history.Op) { op.Elements = []history.Element{{Key: "s/a", Value: "x"}} })},
			Invalid, []string{"diverged-scan"}, nil},
		{"scans agree", weakQuorum, []history.Op{scan(0, 1, weakly("n1"), holding("s/a", "s/b")), scan(0, 1, weakly("n2"), holding("s/b", "s/a"))}, Valid, nil, nil},
		{"scans differ", weakQuorum, []history.Op{scan(0, 1, weakly("n1"), holding("s/a", "s/b")), scan(0, 1, weakly("n2"), holding("s/b"))}, Invalid, []string{"diverged-scan"}, nil},
		{"one node did not answer", weakQuorum, []history.Op{read(0, 1, "a", vsn(1), weakly("n1")), read(0, 1, "a", vsn(1), weakly("n2")), read(0, 1, "", weakly("n3"), failed)}, Unknown, nil, nil},
		{"one node only", weakQuorum, []history.Op{read(0, 1, "a", vsn(1), weakly("n1"))}, Unknown, nil, nil},
		{"one replica", one, []history.Op{read(0, 1, "a", vsn(1), weakly("n1"))}, Valid, nil, nil},
		{"no final read", weakQuorum, []history.Op{read(0, 1, "a", vsn(1))}, Unknown, nil, nil},
		{"expiring between the reads", weakQuorum, []history.Op{write(0, 1, "a", vsn(1), lives(1000)), read(999, 1000, "a", vsn(1), weakly("n1")), read(1001, 1002, "", weakly("n2")),
			scan(0, 1, weakly("n1")), scan(0, 1, weakly("n2"))}, Valid, nil, map[string]float64{"left_out_expiring": 1}},
		{"long expired on one", weakQuorum, []history.Op{write(0, 1, "a", vsn(1), lives(1000)), read(5000, 5001, "a", vsn(1), weakly("n1")), read(5001, 5002, "", weakly("n2"))}, Invalid, []string{"diverged"}, nil},
	})
}
