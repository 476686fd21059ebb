package checker

import (
	"maps"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

// Watches judges what watches were told against what was written. A watch is a chain of
// operations: one without a position begins it, each other one goes on behind the last.
//
//	repeated       a change is told a second time
//	out-of-order   an older change of a key comes behind a newer one
//	gap            an acknowledged write, asked for after the watch had begun, is not told, and
//	               something newer of its key is; or no final operation, on any node, tells it,
//	               or that it has expired long ago
//	split-batch    the changes of one request are not in one batch
//	early          what was acknowledged before the watch was asked for is told
//	phantom-event  nobody wrote it, or only a request that failed, or that came later
//	early-expiry   a value is told to be gone before its time
//	wrong-event    not the key or the version that was written
//
// Gaps show, too, that a position was not true: what it claims not to have happened did.
// A watch that was told that its history is gone begins anew, and is judged up to there.
func Watches() Check { return Check{Name: "watch", Run: runWatches} }

// event is one change that was told.
type event struct {
	key, value string // value empty: it was deleted
	version    fulcrum.Version
}

// watchChain is one watch.
type watchChain struct {
	first  int // the operation that began it
	last   string
	told   telling
	finals int
	late   map[int]int // write: how many final operations did not tell it
	stays  map[int]int // write: how many final operations did not tell that it has expired
}

// telling is what was told up to some point.
type telling struct {
	newest  map[string]fulcrum.Version // by key
	events  map[event]bool
	expired map[int]bool // writes
}

func newTelling() telling {
	return telling{newest: map[string]fulcrum.Version{}, events: map[event]bool{}, expired: map[int]bool{}}
}

func (t telling) clone() telling {
	return telling{newest: maps.Clone(t.newest), events: maps.Clone(t.events), expired: maps.Clone(t.expired)}
}

type watchRun struct {
	*tally
	h       *history.History
	writes  map[string]int   // value -> Write or Pair
	deletes map[string][]int // key -> Delete
	expires map[string][]int // key -> Write with a time to live
	late    time.Duration    // by which an expiry may be: see lateFor
	faults  []history.Fault
	changes []int // acknowledged, in the order of Invoke
	chains  []*watchChain
	open    map[int]*watchChain // by client
}

func runWatches(h *history.History, s Spec) Result {
	r := &watchRun{tally: newTally("watch"), h: h, late: lateByLog(s), faults: h.Faults(),
		writes: map[string]int{}, deletes: map[string][]int{}, expires: map[string][]int{}, open: map[int]*watchChain{}}
	r.collect()
	for i := range h.Ops {
		if op := &h.Ops[i]; op.F == history.Watch && op.Phase == history.Main {
			r.follow(i, op)
		}
	}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.F == history.Watch && op.Phase == history.Final && op.Outcome == history.OK {
			r.finish(i, op)
		}
	}
	judged, ended := 0, 0
	for _, c := range r.chains {
		judged += r.gaps(c)
		if c.finals > 0 {
			ended++
		}
	}
	r.stats["watches"], r.stats["writes_judged"], r.stats["followed_to_the_end"] = float64(len(r.chains)), float64(judged), float64(ended)
	switch {
	case judged == 0:
		r.unknown("no write was acknowledged while a watch was there")
	case ended == 0:
		r.unknown("no watch was followed to the end")
	}
	return r.result("%d watches in %.0f operations were told %.0f changes: %d acknowledged ones in order, each once", len(r.chains), r.stats["watch_operations"], r.stats["events"], judged)
}

func (r *watchRun) collect() {
	for i := range r.h.Ops {
		op := &r.h.Ops[i]
		switch op.F {
		case history.Write, history.Pair:
			r.writes[op.Value] = i
			if op.TTL > 0 {
				r.expires[op.Key] = append(r.expires[op.Key], i)
			}
		case history.Delete:
			r.deletes[op.Key] = append(r.deletes[op.Key], i)
		default:
			continue
		}
		if op.Outcome == history.OK {
			r.changes = append(r.changes, i)
		}
	}
}

// follow takes one operation of a watch under way.
func (r *watchRun) follow(i int, op *history.Op) {
	if op.Outcome != history.OK {
		if op.Code == fulcrum.CodeCompacted {
			r.stats["told_that_history_is_gone"]++
		}
		return
	}
	r.stats["watch_operations"]++
	c := r.open[op.Client]
	switch {
	case op.Value == "":
		c = &watchChain{first: i, told: newTelling(), late: map[int]int{}, stays: map[int]int{}}
		r.open[op.Client], r.chains = c, append(r.chains, c)
	case c == nil || c.last != op.Value:
		r.unknown("operation %d goes on behind a position that its client was not told last", i)
		return
	}
	r.take(c, i, op, c.told)
	if n := len(op.Elements); n > 0 {
		c.last = op.Elements[n-1].Value
	}
}

// finish takes a final operation: on its node, each watch that ended there ends like this.
func (r *watchRun) finish(i int, op *history.Op) {
	for _, c := range r.chains {
		if c.last != op.Value || r.open[r.h.Ops[c.first].Client] != c {
			continue
		}
		c.finals++
		told := c.told.clone()
		r.take(c, i, op, told)
		for _, w := range r.missing(c, told) {
			c.late[w]++
		}
		for _, w := range r.staying(told, op.Invoke) {
			c.stays[w]++
		}
	}
}

// take judges what one operation tells, batch by batch, and adds it to what was told.
func (r *watchRun) take(c *watchChain, i int, op *history.Op, told telling) {
	if n := len(op.Elements); n == 0 || op.Elements[n-1].Key != "" {
		r.unknown("operation %d does not end with a position", i)
	}
	pairs := map[string]int{}
	for _, el := range op.Elements {
		if el.Key == "" { // the end of a batch
			for value, n := range pairs {
				if w := r.writes[value]; n != 2 {
					r.add("split-batch", r.h.Ops[w].Key, []int{w, i}, "%d of the 2 changes of %q are in one batch, told at %v by %s", n, r.h.Ops[w].Key, op.Invoke, op.Node)
				}
			}
			clear(pairs)
			continue
		}
		r.stats["events"]++
		e := event{key: el.Key, value: el.Value, version: el.Version}
		switch newest := told.newest[e.key]; {
		case told.events[e]:
			r.add("repeated", e.key, []int{i}, "%s is told again at %v by %s", e, op.Invoke, op.Node)
		case !newest.Less(e.version):
			r.add("out-of-order", e.key, []int{i}, "%s is told at %v by %s behind version %v", e, op.Invoke, op.Node, newest)
		}
		told.events[e] = true
		if told.newest[e.key].Less(e.version) {
			told.newest[e.key] = e.version
		}
		if w, ok := r.writes[e.value]; ok && r.h.Ops[w].F == history.Pair {
			pairs[e.value]++
		}
		if w, ok := r.expiry(e); ok {
			r.gone(i, op, e, w, told)
			continue
		}
		r.origin(c, i, op, e)
	}
}

// expiry finds the write that e tells the end of; false: e is nothing of the kind.
func (r *watchRun) expiry(e event) (write int, ok bool) {
	if e.value != "" {
		return 0, false
	}
	for _, w := range r.deletes[e.key] {
		if op := &r.h.Ops[w]; op.Outcome != history.Fail && (op.Version == e.version || op.Version.IsZero()) {
			return 0, false
		}
	}
	for _, w := range r.expires[e.key] { // the newest that is older than e
		if op := &r.h.Ops[w]; op.Outcome != history.Fail && op.Version.Less(e.version) && (!ok || r.h.Ops[write].Version.Less(op.Version)) {
			write, ok = w, true
		}
	}
	return write, ok
}

// gone judges that e, told by operation i, is the end of write w.
func (r *watchRun) gone(i int, op *history.Op, e event, w int, told telling) {
	by := &r.h.Ops[w]
	switch end := by.Invoke + by.TTL; {
	case told.expired[w]:
		r.add("repeated", e.key, []int{w, i}, "that %q has expired is told again at %v by %s", by.Value, op.Invoke, op.Node)
	case op.Return < end:
		r.add("early-expiry", e.key, []int{w, i}, "%s is told until %v by %s, and %q was to live until %v at the least", e, op.Return, op.Node, by.Value, end)
	}
	told.expired[w] = true
	r.stats["expiries"]++
}

// staying lists what was told to be written, is gone for long at the time now, and was not told to be.
func (r *watchRun) staying(told telling, now time.Duration) (out []int) {
	for key, writes := range r.expires {
		for _, w := range writes {
			op := &r.h.Ops[w]
			if op.Outcome == history.OK && has(told, op) && told.newest[key] == op.Version && op.Return+op.TTL+lateFor(r.late, r.faults, op.Invoke, now) < now {
				out = append(out, w)
			}
		}
	}
	return out
}

func (e event) String() string {
	if e.value == "" {
		return "the removal of " + e.key + " (" + e.version.String() + ")"
	}
	return e.key + " = " + e.value + " (" + e.version.String() + ")"
}

// origin finds the request that made a change.
func (r *watchRun) origin(c *watchChain, i int, op *history.Op, e event) {
	w, ok := r.writes[e.value]
	if e.value == "" {
		w, ok = r.deleted(e)
	}
	if !ok {
		r.add("phantom-event", e.key, []int{i}, "%s is told at %v by %s, and nobody did that", e, op.Invoke, op.Node)
		return
	}
	by := &r.h.Ops[w]
	switch {
	case by.Outcome == history.Fail:
		r.add("phantom-event", e.key, []int{w, i}, "%s is told at %v by %s, and its request had failed: %s", e, op.Invoke, op.Node, by.Error)
	case by.Invoke > op.Return:
		r.add("phantom-event", e.key, []int{i, w}, "%s is told until %v by %s, before it was asked for at %v", e, op.Return, op.Node, by.Invoke)
	case !slices.Contains(keysOf(by), e.key), by.F == history.Write && by.Outcome == history.OK && by.Version != e.version:
		r.add("wrong-event", e.key, []int{w, i}, "%s is told at %v by %s, and %q was written with version %v", e, op.Invoke, op.Node, by.Key, by.Version)
	case by.Outcome == history.OK && by.Return < r.h.Ops[c.first].Invoke:
		r.add("early", e.key, []int{w, i}, "%s is told, and was acknowledged at %v, before the watch was asked for at %v", e, by.Return, r.h.Ops[c.first].Invoke)
	}
}

// deleted finds the Delete that left e: by its version, or else the first one that may
// have, of those with an unknown outcome if there is any.
func (r *watchRun) deleted(e event) (int, bool) {
	maybe, found := 0, false
	for _, w := range r.deletes[e.key] {
		switch op := &r.h.Ops[w]; {
		case op.Version == e.version && op.Outcome == history.OK:
			return w, true
		case op.Outcome == history.Info && (!found || r.h.Ops[maybe].Outcome == history.OK):
			maybe, found = w, true
		case op.Outcome == history.OK && op.Version.IsZero() && !found:
			maybe, found = w, true
		}
	}
	return maybe, found
}

// keysOf are the keys that a request changes.
func keysOf(op *history.Op) []string {
	if op.F == history.Pair {
		return []string{op.Key + history.PairOne, op.Key + history.PairTwo}
	}
	return []string{op.Key}
}

// missing lists acknowledged writes that c had to be told of and, as far as told goes, was not.
func (r *watchRun) missing(c *watchChain, told telling) (out []int) {
	for _, w := range r.changes {
		if op := &r.h.Ops[w]; r.expected(c, op) && !has(told, op) {
			out = append(out, w)
		}
	}
	return out
}

// expected reports whether c must tell op: it was asked for after c had begun.
func (r *watchRun) expected(c *watchChain, op *history.Op) bool {
	first := &r.h.Ops[c.first]
	return op.Invoke > first.Return && strings.HasPrefix(op.Key, first.Key) && (op.F != history.Delete || !op.Version.IsZero())
}

func has(told telling, op *history.Op) bool {
	if op.F == history.Pair { // each of its changes has a version of its own
		for _, k := range keysOf(op) {
			if told.newest[k].IsZero() {
				return false
			}
		}
		return true
	}
	return told.events[event{key: op.Key, value: op.Value, version: op.Version}]
}

// gaps finds what c should have told and did not; it returns how much it told of what it
// had to.
func (r *watchRun) gaps(c *watchChain) (judged int) {
	missing := map[int]bool{}
	for _, w := range r.missing(c, c.told) {
		missing[w] = true
		op := &r.h.Ops[w]
		newer := !c.told.newest[op.Key].IsZero() && op.Version.Less(c.told.newest[op.Key])
		switch {
		case newer, c.finals > 1 && c.late[w] == c.finals:
			r.add("gap", op.Key, []int{w, c.first}, "%s %q of version %v, acknowledged at %v, was not told by the watch that began at %v", op.F, op.Key, op.Version, op.Return, r.h.Ops[c.first].Invoke)
		case c.finals > 0 && c.late[w] == c.finals:
			r.unknown("%s %q, acknowledged at %v, was not told by the end of the run", op.F, op.Key, op.Return)
		}
	}
	for _, w := range slices.Sorted(maps.Keys(c.stays)) {
		if op := &r.h.Ops[w]; c.finals > 1 && c.stays[w] == c.finals {
			r.add("gap", op.Key, []int{w, c.first}, "that %q, written until %v to live for %v, has expired was not told by the watch that began at %v", op.Value, op.Return, op.TTL, r.h.Ops[c.first].Invoke)
		}
	}
	for _, w := range r.changes {
		if r.expected(c, &r.h.Ops[w]) && (!missing[w] || c.finals > 0) {
			judged++
		}
	}
	return judged
}
