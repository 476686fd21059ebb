package replication

import (
	"fulcrum"
	"fulcrum/mutant"
)

// Evaluation is what a request leaves: the entries to store, one Result for each write
// of the branch that ran, and the newest version used.
type Evaluation struct {
	Entries []fulcrum.Entry
	Results []fulcrum.Result
	Else    bool // a condition of If did not hold: Else ran
	Last    fulcrum.Version
	Cost    Cost
	Refused *fulcrum.Error // the request is over a bound: nothing else is set, and nothing is to be stored
}

// Evaluate runs one request over what get returns. If every condition in If holds for
// what stands there at now, which decides what has expired, Writes run, else Else; each write sees
// what those before it left. Every stored entry but a merged one carries a version of
// its own: stamp, then stamp.Next() ... get must return the same on every replica, and
// stamp must be newer than anything stored. It changes nothing.
//
// When Atomic, a write that fails or whose own condition does not hold undoes the whole
// branch: then only its Result says anything, and has its key. An OpGet cannot fail.
//
// A request that comes to more than bounds allow is Refused as a whole. One that is
// Divisible ends before the write that would, the first excepted: the writes behind
// Results are not evaluated.
func Evaluate(req WriteRequest, get func(key []byte) (fulcrum.Entry, error), stamp fulcrum.Version, now int64, maxValue int, bounds Bounds) (Evaluation, error) {
	out := Evaluation{Last: stamp}
	writes := req.Writes
	if len(req.If) > 0 {
		holds, err := hold(req.If, get, now)
		if err != nil {
			return out, err
		}
		if !holds {
			writes, out.Else = req.Else, true
		}
	}
	out.Results = make([]fulcrum.Result, len(writes))
	var fresh map[string]fulcrum.Entry
	for i, w := range writes {
		old, ok := fresh[string(w.Key)]
		if !ok {
			var err error
			if old, err = get(w.Key); err != nil {
				return Evaluation{Last: stamp}, err
			}
		}
		res, evalErr := fulcrum.Evaluate(w, old, out.Last, now, maxValue)
		res.Err = evalErr
		out.Results[i] = w.Trim(res)
		if !res.Applied && req.Atomic && len(writes) > 1 && w.Op != fulcrum.OpGet {
			refuseAll(out.Results, i, w.Key)
			out.Results[i] = w.Trim(out.Results[i])
			out.Entries, out.Cost = nil, CostOf(writes, out.Results)
			return out, nil
		}
		cost := out.Cost
		if cost.Add(&w, &out.Results[i]); !cost.Within(bounds) {
			switch {
			case !req.Divisible:
				return Evaluation{Last: stamp, Refused: cost.refuse(bounds)}, nil
			case i > 0:
				out.Results = out.Results[:i]
				return out, nil
			}
		}
		out.Cost = cost
		if !res.Applied {
			continue
		}
		out.Entries = append(out.Entries, res.Entry)
		if len(writes) > 1 {
			if fresh == nil {
				fresh = make(map[string]fulcrum.Entry, len(writes))
			}
			fresh[string(w.Key)] = res.Entry
		}
		out.Last = out.Last.Next()
	}
	return out, nil
}

// hold reports whether all conditions hold. An unreadable entry is an error even where
// an earlier condition has failed already: replicas must not differ by what they skip.
func hold(conditions []fulcrum.Compare, get func(key []byte) (fulcrum.Entry, error), now int64) (bool, error) {
	all := true
	for _, c := range conditions {
		e, err := get(c.Key)
		if err != nil {
			return false, err
		}
		all = all && c.Holds(e, now)
	}
	return all || mutant.On("txn-compare-ignored"), nil // mutant: Then runs whatever stands there
}

// refuseAll leaves the culprit's result alone, which has the key also where nothing stands
// there: so it is known again.
func refuseAll(results []fulcrum.Result, culprit int, key []byte) {
	results[culprit].Entry.Key = key
	for i := range results {
		if i != culprit {
			results[i] = fulcrum.Result{}
		}
	}
}

// Transaction reports whether req is more than writes.
func (req WriteRequest) Transaction() bool { return len(req.If) > 0 || len(req.Else) > 0 }

// Check refuses what no group takes, whatever stands at the keys. Each of the three
// lists of a transaction may hold fulcrum.MaxOpsPerBatch elements, and may be empty.
func (req WriteRequest) Check(maxValue int) error {
	if len(req.Writes) == 0 && !req.Transaction() {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "no writes")
	}
	if most := max(len(req.If), len(req.Writes), len(req.Else)); req.Transaction() && most > fulcrum.MaxOpsPerBatch {
		return fulcrum.Errorf(fulcrum.CodeTooLarge, "%d elements in one list of a transaction, the limit is %d", most, fulcrum.MaxOpsPerBatch)
	}
	if err := req.ID.Check(); err != nil {
		return fulcrum.AsError(err)
	}
	for _, c := range req.If {
		if err := c.Check(maxValue); err != nil {
			return fulcrum.AsError(err)
		}
	}
	for _, list := range [][]fulcrum.Write{req.Writes, req.Else} {
		for _, w := range list {
			if err := w.Check(maxValue); err != nil {
				return fulcrum.AsError(err)
			}
		}
	}
	return nil
}
