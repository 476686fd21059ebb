package jepsen

import (
	"context"
	"errors"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/real"
	"fulcrum/jepsen-lite/report"
)

// On real processes every second counts: operations a second, and about how long a fault
// and the pause before it are, so that a test of half a minute has four and more.
const (
	realRate  = 200
	realQuiet = 2 * time.Second
	realBusy  = 4 * time.Second
)

// OnProcesses turns the cases of a suite into runs on real processes, on a cluster each.
// Those that need what only a simulated network can do are left out.
func OnProcesses(cases []Case) []Case {
	var out []Case
	for _, c := range cases {
		c.Test.Sim, c.Test.Torn, c.Test.Rate = false, 0, realRate
		if c.dense {
			c.Test.Time *= denseShare // shorter only because more happens in virtual time
		} else {
			c.Test.Quiet, c.Test.Busy = realQuiet, realBusy
		}
		if c.Test.Mode == consistency.LeaderFollower {
			c.Test.Busy = denseFence
		}
		filled := c.Test
		if filled.Fill() != nil {
			continue
		}
		if _, err := filled.plan(nodeNames(filled.Nodes), real.Options{}.Can); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// onProcesses runs the case on a cluster of its own and judges it.
func (c Case) onProcesses(ctx context.Context, opt SuiteOptions) CaseResult {
	began := time.Now()
	r := CaseResult{Name: c.Name(), Again: c.Test.Command(), verdict: checker.Unknown}
	o, err := Execute(ctx, c.Test, Where{Store: opt.Store, Binary: opt.Binary, Version: opt.Version, Commit: opt.Commit})
	if o != nil {
		r.OK, r.Fail, r.Info, r.Faults, r.Dir, r.verdict = o.OK, o.Fail, o.Info, o.Faults, o.Dir, o.Verdict
		kept, rerr := report.Read(o.Dir)
		if err = errors.Join(err, rerr); err == nil {
			_, err = c.verdictOf(kept.History, kept.Meta.Spec)
		}
	}
	if err != nil {
		r.Err = err.Error()
	}
	r.Seconds = time.Since(began).Seconds()
	return r
}
