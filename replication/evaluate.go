package replication

import (
	"fulcrum"
)

// Evaluate runs the writes of one request over what get returns, each seeing what
// those before it left, and returns the entries to store beside one Result a write.
// Every stored entry but a merged one carries a version of its own: stamp, then
// stamp.Next() ...; last is the newest used. get must return the same on every
// replica, and stamp must be newer than anything stored. It changes nothing.
func Evaluate(req WriteRequest, get func(key []byte) (fulcrum.Entry, error), stamp fulcrum.Version, maxValue int) (entries []fulcrum.Entry, results []fulcrum.Result, last fulcrum.Version, err error) {
	results = make([]fulcrum.Result, len(req.Writes))
	var fresh map[string]fulcrum.Entry
	last = stamp
	for i, w := range req.Writes {
		old, ok := fresh[string(w.Key)]
		if !ok {
			if old, err = get(w.Key); err != nil {
				return nil, nil, last, err
			}
		}
		res, evalErr := fulcrum.Evaluate(w, old, last, maxValue)
		res.Err = evalErr
		results[i] = res
		if !res.Applied {
			if req.Atomic && len(req.Writes) > 1 {
				return nil, refuseAll(results, i), last, nil
			}
			continue
		}
		entries = append(entries, res.Entry)
		if len(req.Writes) > 1 {
			if fresh == nil {
				fresh = make(map[string]fulcrum.Entry, len(req.Writes))
			}
			fresh[string(w.Key)] = res.Entry
		}
		last = last.Next()
	}
	return entries, results, last, nil
}

func refuseAll(results []fulcrum.Result, culprit int) []fulcrum.Result {
	for i := range results {
		if i != culprit {
			results[i] = fulcrum.Result{}
		}
	}
	return results
}
