package checker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// Converge judges that, with writes stopped and the network whole, all nodes hold the
// same: for each key the last final read of each node at level one, and for each prefix
// its last final scan, byte by byte and version by version. Only that a tombstone is
// purged on one node and not yet on another is no difference. Keys whose value may have
// expired between the reads are left out.
//
//	diverged         two nodes differ in a key
//	diverged-scan    two nodes differ in a scan
//	fell-back        the nodes agree on something older than a stronger final read had shown before
//
// That stronger reads show something older than level one later does is allowed: a
// write of unknown outcome may spread in between.
func Converge() Check { return Check{Name: "converge", Run: runConverge} }

// convergeRun holds the last final answer of each node to each question.
type convergeRun struct {
	*tally
	h       *history.History
	answers map[question]map[fulcrum.NodeID]int // at level one
	strong  map[question][]int                  // at others
	nodes   map[fulcrum.NodeID]bool             // asked for anything in the final phase
	expires map[string][]int
}

// question is what a node was asked in the final phase.
type question struct {
	f   history.F
	key string
}

func runConverge(h *history.History, s Spec) Result {
	r := &convergeRun{tally: newTally("converge"), h: h, answers: map[question]map[fulcrum.NodeID]int{}, strong: map[question][]int{}, nodes: map[fulcrum.NodeID]bool{}, expires: map[string][]int{}}
	r.collect()
	compared, left := 0, 0
	for _, q := range r.questions() {
		if r.mayExpire(q, s) {
			left++
			continue
		}
		compared++
		r.compare(q, s)
	}
	r.stats["questions"], r.stats["nodes"], r.stats["left_out_expiring"] = float64(compared), float64(len(r.nodes)), float64(left)
	if compared == 0 {
		r.unknown("no final read at level one to compare")
	} else if len(r.nodes) < 2 && s.Replicas != 1 {
		r.unknown("the final reads asked %d node: nothing to compare", len(r.nodes))
	}
	return r.result("%d nodes agree on %d keys and scans", len(r.nodes), compared)
}

func (r *convergeRun) collect() {
	for i := range r.h.Ops {
		op := &r.h.Ops[i]
		if op.TTL > 0 && op.Outcome != history.Fail {
			r.expires[op.Key] = append(r.expires[op.Key], i)
		}
		if op.Phase != history.Final || op.F.Mutates() || op.F == history.Watch {
			continue
		}
		q := question{op.F, op.Key}
		if op.Level.Kind != consistency.One && op.Level.Kind != consistency.LocalOne {
			if op.Outcome == history.OK {
				r.strong[q] = append(r.strong[q], i)
			}
			continue
		}
		r.nodes[op.Node] = true
		if r.answers[q] == nil {
			r.answers[q] = map[fulcrum.NodeID]int{}
		}
		if op.Outcome == history.OK {
			r.answers[q][op.Node] = i
		}
	}
}

func (r *convergeRun) questions() []question {
	return slices.SortedFunc(maps.Keys(r.answers), func(a, b question) int {
		return cmp.Or(strings.Compare(string(a.f), string(b.f)), strings.Compare(a.key, b.key))
	})
}

// mayExpire reports whether what q asks for may have expired between its answers.
func (r *convergeRun) mayExpire(q question, s Spec) bool {
	first, last := never, time.Duration(0)
	for _, i := range r.answers[q] {
		first, last = min(first, r.h.Ops[i].Invoke), max(last, r.h.Ops[i].Return)
	}
	if q.f == history.Read {
		return r.expireWithin(r.expires[q.key], first, last, s)
	}
	for key, writes := range r.expires {
		if strings.HasPrefix(key, q.key) && r.expireWithin(writes, first, last, s) {
			return true
		}
	}
	return false
}

func (r *convergeRun) expireWithin(writes []int, first, last time.Duration, s Spec) bool {
	allow := ttlMargin + 2*s.Skew
	return slices.ContainsFunc(writes, func(w int) bool {
		op := &r.h.Ops[w]
		return op.Outcome == history.Info || op.Invoke+op.TTL-allow <= last && op.Return+op.TTL+allow >= first
	})
}

// compare holds every node's answer against the first node's, and against what stronger
// reads had shown.
func (r *convergeRun) compare(q question, s Spec) {
	answers := r.answers[q]
	for n := range r.nodes {
		if _, ok := answers[n]; !ok && s.Replicas != 1 {
			r.unknown("node %s gave no final answer for %q", n, q.key)
		}
	}
	nodes := slices.Sorted(maps.Keys(answers))
	if len(nodes) == 0 {
		return
	}
	first := answers[nodes[0]]
	for _, n := range nodes[1:] {
		if r.differ(q, first, answers[n]) {
			return
		}
	}
	now := &r.h.Ops[first]
	for _, i := range r.strong[q] {
		if was := &r.h.Ops[i]; q.f == history.Read && was.Return < now.Invoke && !now.Version.IsZero() && now.Version.Less(was.Version) {
			r.add("fell-back", q.key, []int{i, first}, "%s at level %s, after %s at level %s", say(r.h, int32(first)), now.Level, say(r.h, int32(i)), was.Level)
			return
		}
	}
}

// differ reports, once found, how two answers to one question differ.
func (r *convergeRun) differ(q question, a, b int) bool {
	x, y := &r.h.Ops[a], &r.h.Ops[b]
	if q.f == history.Scan {
		how := scansDiffer(x.Elements, y.Elements)
		if how == "" {
			return false
		}
		r.add("diverged-scan", q.key, []int{a, b}, "scans of %q at %s from %s and at %s from %s: %s", q.key, x.Level, x.Node, y.Level, y.Node, how)
		return true
	}
	if x.Found == y.Found && x.Value == y.Value && sameVersion(x.Version, y.Version, x.Found) {
		return false
	}
	r.add("diverged", q.key, []int{a, b}, "%s at level %s, and %s at level %s", say(r.h, int32(a)), x.Level, say(r.h, int32(b)), y.Level)
	return true
}

// sameVersion compares versions of two answers. Of a value both are told, or neither;
// of a tombstone either may be purged.
func sameVersion(a, b fulcrum.Version, found bool) bool {
	return a == b || !found && (a.IsZero() || b.IsZero())
}

// scansDiffer says how two scans differ; empty: they do not.
func scansDiffer(a, b []history.Element) string {
	order := func(x, y history.Element) int { return strings.Compare(x.Key, y.Key) }
	a, b = slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order)
	for i := range min(len(a), len(b)) {
		switch {
		case a[i].Key != b[i].Key:
			return fmt.Sprintf("only one holds %q", min(a[i].Key, b[i].Key))
		case a[i].Value != b[i].Value:
			return fmt.Sprintf("%q is %q and %q", a[i].Key, a[i].Value, b[i].Value)
		case a[i].Version != b[i].Version && !a[i].Version.IsZero() && !b[i].Version.IsZero():
			return fmt.Sprintf("%q has versions %s and %s", a[i].Key, a[i].Version, b[i].Version)
		}
	}
	if len(a) != len(b) {
		longer := a
		if len(b) > len(a) {
			longer = b
		}
		return fmt.Sprintf("%d and %d elements, only one holds %q", len(a), len(b), longer[min(len(a), len(b))].Key)
	}
	return ""
}
