package checker

import (
	"cmp"
	"slices"

	"fulcrum/jepsen-lite/history"
)

// Durable judges what the final reads (the strong ones, see settled) find of each key against what was
// acknowledged to it. Versions say what is newest: a read must show at the least the
// newest version acknowledged before it began, and what that version wrote. Keys with
// expiring values are left to TTL, and elements that only scans look at to Set.
//
//	lost-write     the read is older than an acknowledged write, or finds nothing and no delete explains it
//	wrong-value    the read shows another value than its version wrote
//	phantom-value  nobody wrote the value, or only a write that failed
//	overwritten    an acknowledged write has an older version than one acknowledged before it began, so it never stood:
//	               excluded where versions follow real time, else counted in lww_overwritten_acked
func Durable() Check {
	return Check{Name: "durable", Run: func(h *history.History, s Spec) Result { return runDurable("durable", h, s, true) }}
}

// Loss only counts what Durable would call lost, in lost_acknowledged_writes: for levels
// that may lose what they acknowledged. Values that nobody wrote are excluded all the
// same.
func Loss() Check {
	return Check{Name: "loss", Run: func(h *history.History, s Spec) Result { return runDurable("loss", h, s, false) }}
}

// LostWrites says invalid when anything acknowledged was lost, a key or an element of a
// set, whatever was promised: it is for runs that are to show that a level loses writes.
func LostWrites() Check { return Check{Name: "lost-writes", Run: runLostWrites} }

func runLostWrites(h *history.History, s Spec) Result {
	t := newTally("lost-writes")
	lost, judged := 0.0, false
	for _, r := range []Result{runDurable("durable", h, s, true), judgeSet(h, s, true)} {
		lost += r.Stats["lost_acknowledged_writes"]
		judged = judged || r.Verdict != Unknown
		for _, a := range r.Anomalies {
			if a.Kind == "lost-write" || a.Kind == "lost-element" {
				t.anomalies = append(t.anomalies, a)
			}
		}
	}
	t.found, t.anomalies = int(lost), t.anomalies[:min(len(t.anomalies), MaxAnomalies)]
	t.stats["lost_acknowledged_writes"] = lost
	if !judged {
		t.unknown("neither keys nor sets show what was kept: final reads or scans are missing")
	}
	return t.result("nothing that was acknowledged was lost")
}

// durableKey is one key of Durable.
type durableKey struct {
	*tally
	h       *history.History
	name    string
	kept    bool // losing is excluded, not only counted
	ordered bool
	ops     []int32
	acked   []int32 // mutations known to have taken effect, by Return
	writer  map[string]int32
	absent  absences
	lost    map[int32]bool
}

func runDurable(check string, h *history.History, s Spec, kept bool) Result {
	t := newTally(check)
	t.stats["lww_overwritten_acked"] = 0
	c, err := contractOf(s)
	if err != nil {
		t.unknown("%v", err)
	}
	keys := byKey(h, func(op *history.Op) bool { return registerLike(op.F) })
	judged, reads, acked, lost := 0, 0, 0, 0
	for n, name := range keys.names {
		k := &durableKey{tally: t, h: h, name: name, kept: kept, ordered: c.ordered, ops: keys.ops(n), writer: map[string]int32{}, lost: map[int32]bool{}}
		expires, scanned := k.collect()
		if expires || scanned || len(k.writer) == 0 && len(k.acked) == 0 {
			continue
		}
		finals := settled(h, s, k.ops)
		k.overwritten()
		acked += len(k.acked)
		if len(finals) == 0 {
			t.stats["keys_without_final_read"]++
			continue
		}
		judged, reads = judged+1, reads+len(finals)
		for _, r := range finals {
			k.judge(r)
		}
		lost += len(k.lost)
	}
	t.stats["keys"], t.stats["final_reads"] = float64(judged), float64(reads)
	t.stats["acknowledged"], t.stats["lost_acknowledged_writes"] = float64(acked), float64(lost)
	if judged == 0 {
		t.unknown("no key has both a write and a final read")
	}
	if left := t.stats["keys_without_final_read"]; left > 0 {
		t.unknown("%.0f keys were written and have no final read", left)
	}
	return t.result("%d acknowledged mutations of %d keys, %d of them lost", acked, judged, lost)
}

// collect sorts the key's operations, and returns whether anything on it expires, and
// whether it is an element that only scans look at.
func (k *durableKey) collect() (expires, scanned bool) {
	scanned = true
	for _, i := range k.ops {
		op := &k.h.Ops[i]
		scanned = scanned && op.F == history.Add
		switch {
		case op.F == history.Read:
			continue
		case changed(op):
			k.acked = append(k.acked, i)
		case op.Outcome == history.OK:
			continue // a CAS that was not applied wrote nothing
		}
		expires = expires || op.TTL > 0
		if op.F != history.Delete {
			k.writer[op.Value] = i
		}
	}
	slices.SortStableFunc(k.acked, func(a, b int32) int { return cmp.Compare(k.h.Ops[a].Return, k.h.Ops[b].Return) })
	k.absent = absencesOf(k.h, k.ops)
	return expires, scanned
}

// overwritten finds acknowledged mutations that are older than one acknowledged before
// they began.
func (k *durableKey) overwritten() {
	later := slices.Clone(k.acked)
	slices.SortStableFunc(later, func(a, b int32) int { return cmp.Compare(k.h.Ops[a].Invoke, k.h.Ops[b].Invoke) })
	next, top := 0, none
	for _, i := range later {
		op := &k.h.Ops[i]
		for ; next < len(k.acked) && k.h.Ops[k.acked[next]].Return < op.Invoke; next++ {
			if top == none || k.h.Ops[top].Version.Less(k.h.Ops[k.acked[next]].Version) {
				top = k.acked[next]
			}
		}
		if top == none || op.Version.IsZero() || !op.Version.Less(k.h.Ops[top].Version) {
			continue
		}
		k.stats["lww_overwritten_acked"]++
		if k.kept && k.ordered {
			k.add("overwritten", k.name, []int{int(top), int(i)}, "%s has an older version than %s, which had ended before it", say(k.h, i), say(k.h, top))
		}
	}
}

// judge compares one final read with all that was acknowledged before it.
func (k *durableKey) judge(r int32) {
	op := &k.h.Ops[r]
	w, known := k.writer[op.Value]
	if op.Found {
		if !known || k.h.Ops[w].Outcome == history.Fail {
			k.add("phantom-value", k.name, []int{int(r)}, "%s, which nobody wrote or only a write that failed", say(k.h, r))
			return
		}
		if wrote := k.h.Ops[w].Version; k.h.Ops[w].Outcome == history.OK && !wrote.IsZero() && !op.Version.IsZero() && wrote != op.Version {
			k.add("wrong-value", k.name, []int{int(w), int(r)}, "%s, which was written by %s", say(k.h, r), say(k.h, w))
			return
		}
	}
	for _, a := range k.acked {
		if k.h.Ops[a].Return >= horizon(op) {
			break
		}
		if k.missed(a, r, w) {
			k.lose(a, r)
		}
	}
}

// missed reports whether read r shows that the acknowledged mutation a is gone; w
// wrote what r found.
func (k *durableKey) missed(a, r, w int32) bool {
	read, op := &k.h.Ops[r], &k.h.Ops[a]
	if !read.Found {
		return op.F != history.Delete && !k.absenceExplained(op, read)
	}
	if op.Version.IsZero() || read.Version.IsZero() {
		// By real time alone: what r found was over before a began. Where clocks order
		// the writes that proves nothing.
		by := &k.h.Ops[w]
		return k.ordered && a != w && by.Outcome == history.OK && by.Return < op.Invoke
	}
	return read.Version.Less(op.Version)
}

// absenceExplained reports whether a read that found nothing can follow op.
func (k *durableKey) absenceExplained(op, read *history.Op) bool {
	if !op.Version.IsZero() && !read.Version.IsZero() {
		// The tombstone's version says which delete it was; one of unknown outcome had
		// whatever version it had.
		return !read.Version.Less(op.Version) && k.absent.explain(op.Version, read.Return)
	}
	if !op.Version.IsZero() {
		return k.absent.explain(op.Version, read.Return)
	}
	for _, i := range k.ops {
		d := &k.h.Ops[i]
		if d.F == history.Delete && d.Outcome != history.Fail && d.Invoke <= read.Return && (d.Outcome == history.Info || d.Return >= op.Invoke || !k.ordered) {
			return true
		}
	}
	return false
}

func (k *durableKey) lose(a, r int32) {
	if k.lost[a] {
		return
	}
	k.lost[a] = true
	if k.kept {
		k.add("lost-write", k.name, []int{int(a), int(r)}, "%s is not in the %s", say(k.h, a), say(k.h, r))
	}
}
