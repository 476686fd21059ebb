package checker

import (
	"cmp"
	"maps"
	"slices"
	"sort"
	"strconv"
	"time"

	"fulcrum/jepsen-lite/history"
)

// Counter judges each read of a counter against what can have been added to it.
// An increment is certain for a read that began after it was acknowledged, and
// possible for a read that ended after it began (unless it failed).
//
//	counter-too-high  above the certain decrements and the possible increments: one was applied twice, or a failed one was applied
//	counter-too-low   below the certain increments and the possible decrements: one was lost, or the read is stale
//	counter-back      where reads are linearizable and nothing decrements, less than an earlier read
//	corrupt-counter   no decimal number
//
// Where reads may be stale nothing is certain, but for the final
// reads that say what was kept (see settled). Where the write level may lose what it acknowledged nothing is certain at all,
// and lost_acknowledged_writes is what the final reads miss.
func Counter() Check { return Check{Name: "counter", Run: runCounter} }

// sums holds running totals of increments and of decrements, by time.
type sums struct {
	times    []time.Duration
	up, down []int64 // of the first n entries
}

type delta struct {
	at time.Duration
	by int64
}

func newSums(ds []delta) sums {
	slices.SortFunc(ds, func(a, b delta) int { return cmp.Compare(a.at, b.at) })
	s := sums{up: make([]int64, 1, len(ds)+1), down: make([]int64, 1, len(ds)+1)}
	for i, d := range ds {
		s.times = append(s.times, d.at)
		s.up = append(s.up, s.up[i]+max(d.by, 0))
		s.down = append(s.down, s.down[i]+min(d.by, 0))
	}
	return s
}

// before returns the totals of what lies before t.
func (s sums) before(t time.Duration) (up, down int64) {
	n := sort.Search(len(s.times), func(i int) bool { return s.times[i] >= t })
	return s.up[n], s.down[n]
}

// counterKey is what one counter saw.
type counterKey struct {
	certain, possible []delta // at Return and at Invoke
	reads             []int
	ops               []int32 // reads too
	sinks             bool    // something decrements it
	other             bool    // something else writes it: no bounds
}

func runCounter(h *history.History, s Spec) Result {
	t := newTally("counter")
	c, err := contractOf(s)
	if err != nil {
		t.unknown("%v", err)
	}
	keys := counterKeys(h, t)
	reads, incrs := 0, 0
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		k := keys[key]
		if k.other {
			t.unknown("counter %q was also written to: its bounds are not known", key)
			continue
		}
		reads, incrs = reads+len(k.reads), incrs+len(k.possible)
		k.judge(h, s, c, t, key)
	}
	t.stats["counters"], t.stats["increments"], t.stats["reads"] = float64(len(keys)), float64(incrs), float64(reads)
	if reads == 0 || incrs == 0 {
		t.unknown("%d increments and %d reads: nothing to compare", incrs, reads)
	}
	if t.stats["final_reads"] == 0 {
		t.unknown("no final read: nothing says what was kept")
	}
	return t.result("%d reads of %d counters lie within their bounds", reads, len(keys))
}

func counterKeys(h *history.History, t *tally) map[string]*counterKey {
	keys := map[string]*counterKey{}
	at := func(key string) *counterKey {
		k := keys[key]
		if k == nil {
			k = &counterKey{}
			keys[key] = k
		}
		return k
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		switch {
		case op.Outcome == history.Fail || op.F == history.Scan:
		case op.F == history.Read:
			if op.Outcome == history.OK {
				k := at(op.Key)
				k.reads, k.ops = append(k.reads, i), append(k.ops, int32(i))
			}
		case op.F != history.Incr:
			at(op.Key).other = true
		default:
			k := at(op.Key)
			by, err := strconv.ParseInt(op.Value, 10, 64)
			if err != nil {
				t.unknown("op %d adds %q, which is no number", i, op.Value)
				continue
			}
			k.sinks = k.sinks || by < 0
			k.possible = append(k.possible, delta{op.Invoke, by})
			if op.Outcome == history.OK {
				k.certain = append(k.certain, delta{op.Return, by})
			}
		}
	}
	return keys
}

func (k *counterKey) judge(h *history.History, s Spec, c contract, t *tally, key string) {
	certain, possible := newSums(k.certain), newSums(k.possible)
	values := make(map[int]int64, len(k.reads))
	finals := settled(h, s, k.ops)
	t.stats["final_reads"] += float64(len(finals))
	var missing int64
	for _, i := range k.reads {
		op := &h.Ops[i]
		n, ok := counterValue(op)
		if !ok {
			t.add("corrupt-counter", key, []int{i}, "%q reads %q at %v from %s", key, op.Value, op.Invoke, op.Node)
			continue
		}
		values[i] = n
		sureUp, sureDown := certain.before(horizon(op))
		mayUp, mayDown := possible.before(op.Return + 1)
		final := slices.Contains(finals, int32(i))
		if final {
			missing = max(missing, sureUp+mayDown-n)
		}
		if !c.durable || !c.meets(s, op) && !final {
			sureUp, sureDown = 0, 0
		}
		if low := sureUp + mayDown; n < low {
			t.add("counter-too-low", key, []int{i}, "%q reads %d at %v from %s; what was acknowledged before makes it %d at the least", key, n, op.Invoke, op.Node, low)
		}
		if high := mayUp + sureDown; n > high {
			t.add("counter-too-high", key, []int{i}, "%q reads %d at %v from %s; all that was ever tried makes it %d at the most", key, n, op.Invoke, op.Node, high)
		}
	}
	t.stats["lost_acknowledged_writes"] += float64(missing)
	if c.linear && !k.sinks {
		k.rises(h, s, c, t, key, values)
	}
}

// rises finds reads that see less than one that had ended before they began.
func (k *counterKey) rises(h *history.History, s Spec, c contract, t *tally, key string, values map[int]int64) {
	var reads []int
	for _, i := range k.reads {
		if _, ok := values[i]; ok && c.meets(s, &h.Ops[i]) {
			reads = append(reads, i)
		}
	}
	later := slices.Clone(reads)
	slices.SortStableFunc(reads, func(a, b int) int { return cmp.Compare(h.Ops[a].Return, h.Ops[b].Return) })
	slices.SortStableFunc(later, func(a, b int) int { return cmp.Compare(h.Ops[a].Invoke, h.Ops[b].Invoke) })
	top, next := -1, 0
	for _, i := range later {
		for ; next < len(reads) && h.Ops[reads[next]].Return < h.Ops[i].Invoke; next++ {
			if top < 0 || values[reads[next]] > values[top] {
				top = reads[next]
			}
		}
		if top >= 0 && values[i] < values[top] {
			t.add("counter-back", key, []int{top, i}, "%q reads %d at %v from %s, after a read of %d had ended at %v",
				key, values[i], h.Ops[i].Invoke, h.Ops[i].Node, values[top], h.Ops[top].Return)
		}
	}
}

func counterValue(op *history.Op) (int64, bool) {
	if !op.Found {
		return 0, true
	}
	n, err := strconv.ParseInt(op.Value, 10, 64)
	return n, err == nil
}
