package checker

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

// Moments that no clock shows: before and after all operations.
const (
	never   = time.Duration(math.MaxInt64)
	atStart = time.Duration(math.MinInt64)
)

// keyed is a history's operations, grouped by key without copying them: key i has
// the operations order[start[i]:start[i+1]], indexes into History.Ops, by Invoke.
type keyed struct {
	names []string
	start []int
	order []int32
}

// byKey groups the operations that want accepts.
func byKey(h *history.History, want func(*history.Op) bool) keyed {
	var k keyed
	id := map[string]int32{}
	of := make([]int32, len(h.Ops))
	var count []int
	for i := range h.Ops {
		of[i] = -1
		if !want(&h.Ops[i]) {
			continue
		}
		n, ok := id[h.Ops[i].Key]
		if !ok {
			n = int32(len(k.names))
			id[h.Ops[i].Key] = n
			k.names = append(k.names, h.Ops[i].Key)
			count = append(count, 0)
		}
		of[i] = n
		count[n]++
	}
	k.start = make([]int, len(k.names)+1)
	for n, c := range count {
		k.start[n+1] = k.start[n] + c
	}
	k.order = make([]int32, k.start[len(k.names)])
	next := slices.Clone(k.start)
	for i, n := range of {
		if n >= 0 {
			k.order[next[n]] = int32(i)
			next[n]++
		}
	}
	return k
}

func (k keyed) ops(n int) []int32 { return k.order[k.start[n]:k.start[n+1]] }

// registerLike reports whether f treats its key as a register: one that leaves what
// it says, not something computed from what stood there.
func registerLike(f history.F) bool {
	switch f {
	case history.Read, history.Write, history.CAS, history.Delete, history.Add:
		return true
	}
	return false
}

// changed reports whether op is known to have taken effect.
func changed(op *history.Op) bool {
	return op.F.Mutates() && op.Outcome == history.OK && (op.F != history.CAS || op.Found)
}

// refused reports whether op is a CAS that was answered: the key is not as you expect it.
// A run records that as a failure of CodeConflict without an error; a request that could
// not be made has one.
func refused(op *history.Op) bool {
	if op.F != history.CAS || op.Found {
		return false
	}
	return op.Outcome == history.OK || op.Outcome == history.Fail && op.Code == fulcrum.CodeConflict && op.Error == ""
}

// show notes an anomaly whose text is: what a did, why, what b did. Texts are made
// only for those that are kept: a broken run can have a million.
func (t *tally) show(h *history.History, kind, key string, a int32, why string, b int32) {
	if len(t.anomalies) == MaxAnomalies {
		t.found++
		return
	}
	if b < 0 {
		t.add(kind, key, []int{int(a)}, "key %q: %s %s", key, say(h, a), why)
		return
	}
	t.add(kind, key, []int{int(a), int(b)}, "key %q: %s %s %s", key, say(h, a), why, say(h, b))
}

// say tells of one operation, for an anomaly's text.
func say(h *history.History, i int32) string {
	op := &h.Ops[i]
	what := fmt.Sprintf("%s of %q", op.F, op.Value)
	switch {
	case op.F == history.Delete:
		what = "delete"
	case op.F == history.Read && !op.Found:
		what = "read of nothing"
	}
	if !op.Version.IsZero() {
		what += " at version " + op.Version.String()
	}
	end := "answered " + op.Return.String()
	if op.Outcome == history.Info {
		end = "outcome unknown"
	}
	on := ""
	if op.Node != "" {
		on = " on " + string(op.Node)
	}
	return fmt.Sprintf("%s by process %d%s (asked %v, %s)", what, op.Process, on, op.Invoke, end)
}

// absences knows, of one key, what can have made it absent although something was
// written: deletes and expiries. A read that found nothing and shows no version (the
// tombstone was purged, or never was) is judged by it.
type absences struct {
	unversioned time.Duration // when the first delete of unknown version began
	versions    []fulcrum.Version
	since       []time.Duration // since[i]: when the first with a version >= versions[i] began
}

func absencesOf(h *history.History, ops []int32) absences {
	type fact struct {
		v  fulcrum.Version
		at time.Duration
	}
	a := absences{unversioned: never}
	var facts []fact
	for _, i := range ops {
		op := &h.Ops[i]
		at := op.Invoke
		switch {
		case op.Outcome == history.Fail:
			continue
		case op.F == history.Delete:
		case op.F.Mutates() && op.TTL > 0:
			at += op.TTL - ttlSlack
		default:
			continue
		}
		if op.Version.IsZero() || op.Outcome != history.OK {
			a.unversioned = min(a.unversioned, at)
		} else {
			facts = append(facts, fact{op.Version, at})
		}
	}
	slices.SortFunc(facts, func(x, y fact) int { return x.v.Compare(y.v) })
	a.versions, a.since = make([]fulcrum.Version, len(facts)), make([]time.Duration, len(facts))
	first := never
	for i := len(facts) - 1; i >= 0; i-- {
		first = min(first, facts[i].at)
		a.versions[i], a.since[i] = facts[i].v, first
	}
	return a
}

// explain reports whether the key can be absent at the time by, for one who has seen
// version floor.
func (a absences) explain(floor fulcrum.Version, by time.Duration) bool {
	if floor.IsZero() || a.unversioned <= by {
		return true
	}
	i, _ := slices.BinarySearchFunc(a.versions, floor, fulcrum.Version.Compare)
	return i < len(a.since) && a.since[i] <= by
}

// newest is the largest version with which the key can be absent at the time by:
// zero when nothing but never having been written explains it, and false when a
// delete of unknown version does.
func (a absences) newest(by time.Duration) (fulcrum.Version, bool) {
	if a.unversioned <= by {
		return fulcrum.Version{}, false
	}
	// since never falls with i, being a minimum over fewer and fewer.
	i := sort.Search(len(a.since), func(i int) bool { return a.since[i] > by })
	if i == 0 {
		return fulcrum.Version{}, true
	}
	return a.versions[i-1], true
}
