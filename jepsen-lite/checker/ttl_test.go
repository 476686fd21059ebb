package checker

import (
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// create is a CAS that wants the key absent; conflict: it was refused.
func create(invoke, ret int, value string, mods ...mod) history.Op {
	return did(invoke, ret, history.CAS, "k", value, append([]mod{func(op *history.Op) { op.Found = true }}, mods...)...)
}

// atOne is a read of one replica alone.
func atOne(op *history.Op) { op.Level = consistency.L(consistency.One) }

func conflict(op *history.Op) {
	op.Outcome, op.Code, op.Found = history.Fail, fulcrum.CodeConflict, false
}

func TestTTL(t *testing.T) {
	linear, stale := linearRaft, staleRaft // by wall clocks
	linear.Mode, stale.Mode = consistency.LeaderFollower, consistency.LeaderFollower
	skewed := linear
	skewed.Skew = 100 * time.Millisecond
	logSkewed := linearRaft
	logSkewed.Skew = 30 * time.Second
	// Times to live of 1000 ms, with an allowance of 50.
	live, gone := read(100, 101, "a", vsn(1)), read(2000, 2001, "")
	w := write(0, 10, "a", vsn(1), lives(1000))
	judgeRows(t, TTL(), []row{
		{"live, then gone", linear, []history.Op{w, live, gone}, Valid, nil, map[string]float64{"expiring_writes": 1, "reads_live": 1, "reads_expired": 1}},
		{"within the allowance", linear, []history.Op{w, live, read(1055, 1056, "a", vsn(1)), gone}, Valid, nil, nil},
		{"read too late", linear, []history.Op{w, live, read(1061, 1062, "a", vsn(1)), gone}, Invalid, []string{"expired-value"}, nil},
		{"read too late, by clocks that may be off", skewed, []history.Op{w, live, read(1061, 1062, "a", vsn(1)), gone}, Valid, nil, nil},
		{"read far too late, by clocks that may be off", skewed, []history.Op{w, live, read(1261, 1262, "a", vsn(1)), gone}, Invalid, []string{"expired-value"}, nil},
		{"read too late at weak reads", stale, []history.Op{w, live, read(1500, 1501, "a", vsn(1)), read(2000, 2001, "", vsn(1))}, Invalid, []string{"expired-value"}, nil},
		{"gone too early", linear, []history.Op{w, live, read(940, 945, ""), gone}, Invalid, []string{"early-expiry"}, nil},
		{"gone early, within the allowance", linear, []history.Op{w, live, read(940, 951, ""), gone}, Valid, nil, nil},
		{"gone early, deleted", linear, []history.Op{w, live, del(500, 501, vsn(2)), read(940, 945, ""), gone}, Unknown, nil, nil},
		{"gone early, perhaps deleted", linear, []history.Op{w, live, del(500, 501, unsure), read(940, 945, ""), gone}, Unknown, nil, nil},
		{"missing at weak reads", stale, []history.Op{w, live, read(940, 945, ""), read(2000, 2001, "", vsn(1))}, Valid, nil, nil},
		{"gone too early at weak reads", stale, []history.Op{w, live, read(940, 945, "", vsn(1)), read(2000, 2001, "", vsn(1))}, Invalid, []string{"early-expiry"}, nil},
		{"back from the dead", linear, []history.Op{write(0, 1000, "a", unsure, lives(1000)), write(0, 1, "b", vsn(1), lives(1000)), read(3, 4, "b", vsn(1)), read(1100, 1101, "", vsn(1)), read(1300, 1301, "b", vsn(1))},
			Invalid, []string{"expired-value"}, nil},
		{"back from the dead, before its time", stale, []history.Op{write(0, 900, "a", vsn(1), lives(1000)), read(1100, 1101, "", vsn(1)), read(1300, 1301, "a", vsn(1))}, Invalid, []string{"undead"}, nil},
		{"back within the allowance", stale, []history.Op{write(0, 900, "a", vsn(1), lives(1000)), read(1100, 1101, "", vsn(1)), read(1150, 1151, "a", vsn(1))}, Valid, nil, nil},
		{"written again", linear, []history.Op{w, live, gone, write(2100, 2101, "b", vsn(2)), read(2200, 2201, "b", vsn(2))}, Valid, nil, nil},
		{"nothing seen to expire", linear, []history.Op{w, live}, Unknown, nil, nil},
		{"nothing seen to live", linear, []history.Op{w, gone}, Unknown, nil, nil},
		{"by the log, within its allowance", linearRaft, []history.Op{w, live, read(4005, 4006, "a", vsn(1)), read(4500, 4501, "")}, Valid, nil, nil},
		{"by the log, too late", linearRaft, []history.Op{w, live, read(4011, 4012, "a", vsn(1)), read(4500, 4501, "")}, Invalid, []string{"expired-value"}, nil},
		{"by the log, after all were down", spoilt(linearRaft, "kill-all"), []history.Op{w, live, read(20000, 20001, "a", vsn(1)), read(30000, 30001, "")}, Valid, nil, nil},
		{"by the log, a little too early", linearRaft, []history.Op{w, live, read(990, 999, ""), gone}, Invalid, []string{"early-expiry"}, nil},
		{"by the log, too early, though clocks were off", logSkewed, []history.Op{w, live, read(990, 999, ""), gone}, Invalid, []string{"early-expiry"}, nil},
		{"by the log, back from the dead", linearRaft, []history.Op{w, live, read(1001, 1002, "", vsn(1)), read(1010, 1011, "a", vsn(1)), gone}, Invalid, []string{"undead"}, nil},
		{"by the log, found expired, and then live on one replica", linearRaft, []history.Op{w, live, read(1001, 1002, "", vsn(1)), read(1010, 1011, "a", vsn(1), atOne), gone}, Valid, nil, nil},
		{"by the log, expired on one replica, and then live", linearRaft, []history.Op{w, live, read(1001, 1002, "", vsn(1), atOne), read(1010, 1011, "a", vsn(1)), gone}, Valid, nil, nil},
		{"created when it had expired", linearRaft, []history.Op{w, live, read(1001, 1002, ""), create(1003, 1004, "b", vsn(2)), read(2010, 2011, "b", vsn(2))}, Valid, nil, map[string]float64{"creates": 1}},
		{"created before it had expired", linearRaft, []history.Op{w, live, create(900, 990, "b", vsn(2)), read(2010, 2011, "b", vsn(2)), gone}, Invalid, []string{"false-create"}, nil},
		{"created over what never expires", linearRaft, []history.Op{w, live, gone, write(2100, 2101, "b", vsn(2)), create(2200, 2201, "c", vsn(3))}, Invalid, []string{"false-create"}, nil},
		{"created over what perhaps was deleted", linearRaft, []history.Op{w, live, gone, write(2100, 2101, "b", vsn(2)), del(2102, 2103, unsure), create(2200, 2201, "c", vsn(3))}, Valid, nil, nil},
		{"created behind a delete", linearRaft, []history.Op{w, live, gone, write(2100, 2101, "b", vsn(2)), del(2102, 2103, vsn(3)), create(2200, 2201, "c", vsn(4))}, Valid, nil, nil},
		{"not created while it lives", linearRaft, []history.Op{w, live, create(900, 990, "b", conflict), gone}, Valid, nil, map[string]float64{"creates": 1}},
		{"not created, within the allowance", linearRaft, []history.Op{w, live, create(4005, 4006, "b", conflict), read(4500, 4501, "")}, Valid, nil, nil},
		{"not created long after", linearRaft, []history.Op{w, live, create(4011, 4012, "b", conflict), read(4500, 4501, "")}, Invalid, []string{"false-refusal"}, nil},
		{"not created behind a delete", linearRaft, []history.Op{w, live, gone, del(2102, 2103, vsn(3)), create(2200, 2201, "c", conflict)}, Invalid, []string{"false-refusal"}, nil},
		{"not created beside a write that had begun", linearRaft, []history.Op{w, live, gone, write(4100, 4300, "b", vsn(2)), create(4200, 4201, "c", conflict)}, Valid, nil, nil},
		{"not created where clocks decide", linear, []history.Op{w, live, create(4011, 4012, "b", conflict), read(4500, 4501, "")}, Valid, nil, nil},
		{"clocks off by nobody knows what", spoilt(linear, "clock-bump"), []history.Op{w, live, gone}, Unknown, nil, nil},
	})
}

// Each fault in the life of a value may move the leadership, and cost the log's clock time.
func TestLateForFaults(t *testing.T) {
	fault := func(start, end int) history.Fault {
		return history.Fault{Start: time.Duration(start) * time.Second, End: time.Duration(end) * time.Second}
	}
	faults := []history.Fault{fault(0, 2), fault(4, 6), fault(8, 9)}
	for _, tc := range []struct{ from, to, changes int }{{3, 3, 1}, {3, 5, 1}, {3, 8, 2}, {1, 20, 3}, {10, 20, 1}} {
		got := lateFor(logClockLate, faults, time.Duration(tc.from)*time.Second, time.Duration(tc.to)*time.Second)
		if got != time.Duration(tc.changes)*logClockLate {
			t.Errorf("between %d s and %d s: %v, want what %d changes take", tc.from, tc.to, got, tc.changes)
		}
	}
}
