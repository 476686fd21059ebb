package lab

import (
	"slices"
	"time"
)

// aftermath is what reads at the strong level found in one keyspace after healing,
// and how long the nodes took to agree. A key that could not be read is missing
// from values; one that is not there has "".
type aftermath struct {
	values    map[string]string
	converged *float64
}

// rowsOf groups operations into rows: by phase, then in the order of plans, sides and
// the operations of each plan. Kinds that never ran make no row.
func rowsOf(plans []plan, ops []op, after map[string]aftermath) []Row {
	var rows []Row
	for _, phase := range []string{Before, AtOnce, Settling, Cut} {
		for _, p := range plans {
			for _, side := range []string{Minority, Majority} {
				for _, k := range p.kinds() {
					mine := filter(ops, func(o op) bool {
						return o.phase == phase && o.keyspace == p.label && o.side == side && o.operation == k.operation && o.level == k.level.String()
					})
					if len(mine) > 0 {
						rows = append(rows, rowOf(p, mine, overwrites(ops, p.label), after[p.label]))
					}
				}
			}
		}
	}
	return rows
}

func filter(ops []op, keep func(op) bool) []op {
	var out []op
	for _, o := range ops {
		if keep(o) {
			out = append(out, o)
		}
	}
	return out
}

// overwrites maps the values of a keyspace's shared key to their order.
func overwrites(ops []op, keyspace string) map[string]int {
	out := map[string]int{}
	for _, o := range ops {
		if o.keyspace == keyspace && o.operation == Overwrite {
			out[o.value] = o.order
		}
	}
	return out
}

func rowOf(p plan, ops []op, orders map[string]int, after aftermath) Row {
	r := Row{Phase: ops[0].phase, Mode: p.mode, Keyspace: p.label, Side: ops[0].side, Operation: ops[0].operation, Level: ops[0].level, Operations: len(ops)}
	var took []time.Duration
	for _, o := range ops {
		took = append(took, o.took)
		switch o.outcome {
		case answered:
			r.Answered++
		case refused:
			r.Refused++
		case unknown:
			r.Unknown++
		}
		if o.outcome != answered {
			r.Because = o.because
		}
	}
	slices.Sort(took)
	r.Median, r.Worst = milliseconds(median(took)), milliseconds(took[len(took)-1])
	switch r.Operation {
	case Get:
		fresh, stale := freshness(ops, orders)
		r.Fresh, r.Stale = &fresh, &stale
	case Put:
		f := fateOf(ops, after.values)
		r.Lost, r.Appeared, r.Unchecked = &f.lost, &f.appeared, &f.unchecked
	}
	if r.Phase != Before {
		r.Converged = after.converged
	}
	return r
}

// median of sorted, which is not empty: the middle, or the mean of the two there.
func median(sorted []time.Duration) time.Duration {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// freshness judges answered reads. A value nobody wrote, or none, has order 0.
func freshness(ops []op, orders map[string]int) (fresh, stale int) {
	for _, o := range ops {
		switch {
		case o.outcome != answered:
		case orders[o.value] >= o.newest:
			fresh++
		default:
			stale++
		}
	}
	return fresh, stale
}

// fate counts what became of puts to keys of their own.
type fate struct{ acknowledged, lost, appeared, unchecked int }

// fateOf compares puts with what was read after healing.
func fateOf(ops []op, values map[string]string) fate {
	var f fate
	for _, o := range ops {
		if o.operation != Put {
			continue
		}
		if o.outcome == answered {
			f.acknowledged++
		}
		now, checked := values[o.key]
		switch {
		case o.outcome == refused:
		case !checked:
			f.unchecked++
		case o.outcome == answered && now != o.value:
			f.lost++
		case o.outcome == unknown && now == o.value:
			f.appeared++
		}
	}
	return f
}

// sharedOf tells the story of the shared key of one keyspace.
func sharedOf(ops []op, keyspace string, after aftermath) Shared {
	var s Shared
	var newest int
	s.Value, s.Checked = after.values[sharedKey], false
	if _, ok := after.values[sharedKey]; ok {
		s.Checked = true
	}
	now := 0
	for _, o := range ops {
		if o.keyspace != keyspace || o.operation != Overwrite {
			continue
		}
		if o.value == s.Value {
			s.WrittenBy, now = o.side, o.order
		}
		if o.outcome == answered && o.order > newest {
			newest, s.Newest, s.NewestBy = o.order, o.value, o.side
		}
	}
	s.KeptNewest = s.Checked && now >= newest
	return s
}
