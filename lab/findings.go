package lab

import (
	"fmt"
	"slices"
	"strings"
)

// findings says in sentences what the figures of a report are. It computes every one
// of them from the report: what was not measured is not spoken of.
func findings(r *Report) []string {
	var out []string
	for _, k := range r.Keyspaces {
		out = append(out, availability(r, k)...)
		out = append(out, changes(r, k)...)
		out = append(out, staleness(r, k)...)
		out = append(out, losses(r, k)...)
		out = append(out, contended(k)...)
		out = append(out, agreement(k)...)
	}
	return out
}

// count of rows of one phase and side that match.
type tally struct{ operations, answered, refused, unknown, fresh, stale int }

func (r *Report) tally(match func(Row) bool) tally {
	var t tally
	for _, row := range r.Rows {
		if !match(row) {
			continue
		}
		t.operations += row.Operations
		t.answered += row.Answered
		t.refused += row.Refused
		t.unknown += row.Unknown
		if row.Fresh != nil && row.Stale != nil {
			t.fresh += *row.Fresh
			t.stale += *row.Stale
		}
	}
	return t
}

// strongest returns the level of the first row of an operation: rows are in the order
// of plans, the strong level first.
func (r *Report) strongest(keyspace, operation string) string {
	for _, row := range r.Rows {
		if row.Keyspace == keyspace && row.Operation == operation {
			return row.Level
		}
	}
	return ""
}

// availability says who answered while the network was cut: at the strong levels and,
// where others were tried, puts and gets at the weak ones.
func availability(r *Report, k Keyspace) []string {
	var out []string
	for _, about := range []struct {
		strong     bool
		operations []string
	}{{true, []string{Put, Get}}, {false, []string{Put}}, {false, []string{Get}}} {
		var levels []string
		match := func(row Row) bool {
			return row.Phase == Cut && row.Keyspace == k.Keyspace && slices.Contains(about.operations, row.Operation) &&
				about.strong == (row.Level == r.strongest(k.Keyspace, row.Operation))
		}
		side := func(name string) tally {
			return r.tally(func(row Row) bool {
				if !match(row) || row.Side != name {
					return false
				}
				if l := row.Operation + "s at " + row.Level; !slices.Contains(levels, l) {
					levels = append(levels, l)
				}
				return true
			})
		}
		minority, majority := side(Minority), side(Majority)
		if minority.operations == 0 || majority.operations == 0 {
			continue
		}
		out = append(out, fmt.Sprintf("%s (%s, %s): while cut, %s were answered %d of %d times on the majority side and %d of %d times on the minority side: %s.",
			k.Keyspace, k.Mode, plural(len(k.Replicas), "replica"), strings.Join(levels, " and "),
			majority.answered, majority.operations, minority.answered, minority.operations, verdict(minority, majority)))
	}
	return out
}

// verdict names what two tallies amount to.
func verdict(minority, majority tally) string {
	all := func(t tally) bool { return t.answered == t.operations }
	none := func(t tally) bool { return t.answered == 0 }
	switch {
	case all(minority) && all(majority):
		return "both sides were available"
	case none(minority) && all(majority):
		return "only the majority side was available"
	case all(minority) && none(majority):
		return "only the minority side was available"
	case none(minority) && none(majority):
		return "neither side was available"
	}
	return "some were answered and some were not"
}

// changes says when a side began or ceased to answer after the cut.
func changes(r *Report, k Keyspace) []string {
	var out []string
	for _, c := range r.Changes {
		if c.Keyspace != k.Keyspace || c.Flips == 0 {
			continue
		}
		what := "ceased to answer"
		if c.Last {
			what = "began to answer"
		}
		s := fmt.Sprintf("%s: %.1f s after the cut the %s side %s %ss at %s", k.Keyspace, c.At, c.Side, what, c.Operation, c.Level)
		if c.Flips > 1 {
			s += fmt.Sprintf(" for good, after %d changes", c.Flips)
		}
		if k.Leader != "" && k.LeaderSide == c.Side {
			s += fmt.Sprintf(" (%s, which led before the cut, is on that side)", k.Leader)
		}
		out = append(out, s+".")
	}
	return out
}

// staleness says how many reads while cut were stale, by side and level.
func staleness(r *Report, k Keyspace) []string {
	var parts []string
	fresh, reads := 0, 0
	for _, row := range r.Rows {
		if row.Phase != Cut || row.Keyspace != k.Keyspace || row.Stale == nil || row.Answered == 0 {
			continue
		}
		fresh, reads = fresh+*row.Fresh, reads+row.Answered
		if *row.Stale > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d at %s on the %s side", *row.Stale, row.Answered, row.Level, row.Side))
		}
	}
	switch {
	case reads == 0:
		return nil
	case len(parts) == 0:
		return []string{fmt.Sprintf("%s: while cut, none of the %d answered reads was stale.", k.Keyspace, reads)}
	}
	return []string{fmt.Sprintf("%s: while cut, %d of %d answered reads were stale: %s.", k.Keyspace, reads-fresh, reads, strings.Join(parts, ", "))}
}

// losses says which acknowledged writes were gone after healing.
func losses(r *Report, k Keyspace) []string {
	if k.Acknowledged == 0 {
		return nil
	}
	s := fmt.Sprintf("%s: after healing, %d of %s missing", k.Keyspace, k.Lost, plural(k.Acknowledged, "acknowledged write")+" to keys of their own "+be(k.Lost))
	var parts []string
	for _, row := range r.Rows {
		if row.Keyspace == k.Keyspace && row.Lost != nil && *row.Lost > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d put at %s on the %s side %s", *row.Lost, row.Answered, row.Level, row.Side, when(row.Phase)))
		}
	}
	if len(parts) > 0 {
		s += "; among them " + strings.Join(parts, ", ")
	}
	if k.Unchecked > 0 {
		s += fmt.Sprintf("; %d could not be read", k.Unchecked)
	}
	return []string{s + "."}
}

// contended says what became of the key that both sides overwrote.
func contended(k Keyspace) []string {
	s := k.Shared
	if !s.Checked || s.Newest == "" || s.WrittenBy == "" {
		return nil
	}
	if s.KeptNewest {
		return []string{fmt.Sprintf("%s: of the key that both sides overwrote, the value of the %s side stands, which was the newest acknowledged one.", k.Keyspace, s.WrittenBy)}
	}
	return []string{fmt.Sprintf("%s: of the key that both sides overwrote, the value of the %s side stands; the newest acknowledged one, of the %s side, is lost.", k.Keyspace, s.WrittenBy, s.NewestBy)}
}

// agreement says how long the nodes took to give the same answers.
func agreement(k Keyspace) []string {
	if k.Converged == nil {
		return []string{fmt.Sprintf("%s: the nodes did not give the same answers within %s of healing.", k.Keyspace, convergeAtMost)}
	}
	return []string{fmt.Sprintf("%s: all nodes gave the same answers %.2f s after healing.", k.Keyspace, *k.Converged)}
}

func when(phase string) string {
	switch phase {
	case Before:
		return "before the cut"
	case AtOnce:
		return "right after the cut"
	case Settling:
		return "by probes from the cut on"
	}
	return "while cut"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func be(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
