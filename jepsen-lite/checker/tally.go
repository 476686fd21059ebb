package checker

import (
	"fmt"
	"slices"
	"time"
)

// tally gathers what one check finds, its figures, and what stands against a pass. It
// counts every anomaly and keeps the first MaxAnomalies.
type tally struct {
	check     string
	anomalies []Anomaly
	found     int
	stats     map[string]float64
	unsure    string // why the verdict cannot be valid; empty: nothing stands against it
}

func newTally(check string) *tally { return &tally{check: check, stats: map[string]float64{}} }

// add notes an anomaly that ops show.
func (t *tally) add(kind, key string, ops []int, format string, args ...any) {
	t.found++
	if len(t.anomalies) < MaxAnomalies {
		t.anomalies = append(t.anomalies, Anomaly{Kind: kind, Key: key, Ops: ops, Detail: fmt.Sprintf(format, args...)})
	}
}

// unknown notes a reason why this check proves nothing. The first one is kept.
func (t *tally) unknown(format string, args ...any) {
	if t.unsure == "" {
		t.unsure = fmt.Sprintf(format, args...)
	}
}

// seconds sets figures "NAME_p50_seconds" ... of ds, which it sorts.
func (t *tally) seconds(name string, ds []time.Duration) {
	if len(ds) == 0 {
		return
	}
	slices.Sort(ds)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.50}, {"p95", 0.95}, {"p99", 0.99}, {"max", 1}} {
		i := min(int(q.at*float64(len(ds))), len(ds)-1)
		t.stats[name+"_"+q.name+"_seconds"] = ds[i].Seconds()
	}
}

// result is the verdict: invalid when anything was found, unknown when something
// stands against a pass, else valid with that detail.
func (t *tally) result(format string, args ...any) Result {
	r := Result{Check: t.check, Verdict: Valid, Anomalies: t.anomalies, Found: t.found, Stats: t.stats}
	switch {
	case t.found > 0:
		r.Verdict = Invalid
		r.Detail = fmt.Sprintf("%d found, the first: %s: %s", t.found, t.anomalies[0].Kind, t.anomalies[0].Detail)
	case t.unsure != "":
		r.Verdict, r.Detail = Unknown, t.unsure
	default:
		r.Detail = fmt.Sprintf(format, args...)
	}
	return r
}
