package checker

import (
	"fmt"

	"fulcrum/jepsen-lite/history"
)

// WellFormed judges the history itself: what the other checks take for granted. A
// history that breaks it proves nothing, so the verdict is unknown.
//
//   - operations are in the order of Invoke, and none returns before it began;
//   - a process has one operation at a time, and none after one of unknown outcome;
//   - outcomes and operations are among those that there are;
//   - a value is written to a key once in a run.
func WellFormed() Check { return Check{Name: "well-formed", Run: runWellFormed} }

func runWellFormed(h *history.History, _ Spec) Result {
	t := newTally("well-formed")
	type value struct{ key, value string }
	last := map[int]int{} // process: its operation before
	wrote := map[value]int{}
	bad := func(ops []int, format string, args ...any) {
		t.stats["malformed"]++
		detail := fmt.Sprintf(format, args...)
		t.unknown("malformed history: %s", detail)
		if len(t.anomalies) < MaxAnomalies {
			t.anomalies = append(t.anomalies, Anomaly{Kind: "malformed", Ops: ops, Detail: detail})
		}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Return < op.Invoke {
			bad([]int{i}, "operation %d returns at %v, before it began at %v", i, op.Return, op.Invoke)
		}
		if i > 0 && op.Invoke < h.Ops[i-1].Invoke {
			bad([]int{i - 1, i}, "operation %d began before the one in front of it", i)
		}
		if op.Outcome > history.Fail || !known(op.F) {
			bad([]int{i}, "operation %d is %q with outcome %d: there is no such thing", i, op.F, op.Outcome)
		}
		if p, ok := last[op.Process]; ok {
			switch before := &h.Ops[p]; {
			case before.Outcome == history.Info:
				bad([]int{p, i}, "process %d goes on with operation %d after operation %d, whose outcome is unknown", op.Process, i, p)
			case before.Return > op.Invoke:
				bad([]int{p, i}, "process %d has operations %d and %d at the same time", op.Process, p, i)
			}
		}
		last[op.Process] = i
		if !unique(op.F) {
			continue
		}
		v := value{op.Key, op.Value}
		if first, again := wrote[v]; again {
			bad([]int{first, i}, "operations %d and %d both write %q to %q: values must be unique", first, i, op.Value, op.Key)
		}
		wrote[v] = i
	}
	r := t.result("%d operations of %d processes", len(h.Ops), len(last))
	r.Found = int(t.stats["malformed"])
	return r
}

func known(f history.F) bool {
	switch f {
	case history.Read, history.Write, history.CAS, history.Delete, history.Add, history.Incr, history.Append, history.Scan, history.Pair, history.Watch, history.Txn:
		return true
	}
	return false
}

// unique reports whether the argument of f names the operation.
func unique(f history.F) bool {
	return f == history.Write || f == history.CAS || f == history.Add || f == history.Append || f == history.Pair
}

// enoughOps is how many acknowledged operations a run needs for its verdict to say
// anything.
const enoughOps = 10

// Enough judges that there was something to judge: a run whose clients did nothing, or
// that left out its final reads, is unknown.
func Enough() Check { return Check{Name: "enough", Run: runEnough} }

func runEnough(h *history.History, _ Spec) Result {
	t := newTally("enough")
	var ok, reads, writes, finals int
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Outcome != history.OK {
			continue
		}
		ok++
		switch {
		case changed(op):
			writes++
		case op.F.Mutates():
		case op.Phase == history.Final:
			finals++
		default:
			reads++
		}
	}
	t.stats["ok"], t.stats["ok_mutations"], t.stats["ok_reads"], t.stats["final_reads"] = float64(ok), float64(writes), float64(reads), float64(finals)
	switch {
	case ok < enoughOps:
		t.unknown("%d operations were acknowledged, at least %d are needed", ok, enoughOps)
	case writes == 0:
		t.unknown("nothing was written: no mutation was acknowledged")
	case finals == 0:
		t.unknown("no final reads")
	}
	return t.result("%d operations acknowledged: %d mutations, %d reads, %d final reads", ok, writes, reads, finals)
}
