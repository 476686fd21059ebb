package checker

import (
	"slices"
	"strings"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// ttlMargin is what TTL allows for versions and expiries being kept in milliseconds,
// beside the clocks being off.
const ttlMargin = 50 * time.Millisecond

// In raft mode the log's clock decides, whatever wall clocks show: a value never goes too
// soon. It may go late by what each change of leader takes: from when the old one proposed its last entry
// until the next one has applied it, which is an election of up to two seconds and the messages around it
// (lateByLog allows for one, and lateFor for one more with each further fault). Where replicas are restarted it
// may go late by what they had not put into the log. While a majority is down its clock may stand, and for how
// long that was the check does not know: it then judges only what went too soon or came back.
const (
	logClockLate  = 3 * time.Second
	logClockLost  = 30 * time.Second
	logClockStood = 1000 * time.Hour
)

// TTL judges values that expire. In raft mode see logClockLate. Elsewhere expiry goes by wall clocks: the one that stamped the
// write and the one that answers the read. Each may be off by Spec.Skew, so twice that
// is allowed, and ttlMargin.
//
//	expired-value  read later than its write's end, its time to live and the allowance
//	early-expiry   gone sooner than its write's begin and its time to live, less the allowance, with no other mutation
//	               that may have done it: where reads meet writes
//	undead         found although an earlier read had found it expired, by more than the allowance, with no newer write
//
// In raft mode, where reads are linearizable, two more are judged. undead is, without any
// allowance, between such reads alone: those of one replica, at the end of a run, promise
// no order. And a CAS that wants the key absent says by its answer what it found:
//
//	false-refusal  refused, although what stood there had to be gone
//	false-create   done, although a value had to stand there
func TTL() Check { return Check{Name: "ttl", Run: runTTL} }

// lateByLog is by how much a value may live too long where the log's clock decides.
func lateByLog(s Spec) time.Duration {
	named := func(words ...string) bool {
		return slices.ContainsFunc(s.Nemeses, func(n string) bool {
			return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(n, w) })
		})
	}
	switch {
	case named("kill-all", "kill-majority", "combined"):
		return logClockStood
	case named("kill", "restart", "disk"):
		return logClockLate + logClockLost
	}
	return logClockLate
}

// lateFor is by how much what lived between two moments may live too long, if late is what
// one change of leader allows for.
func lateFor(late time.Duration, faults []history.Fault, from, to time.Duration) time.Duration {
	n := 0
	for _, f := range faults {
		if f.Start <= to && f.End >= from {
			n++
		}
	}
	return late + time.Duration(max(0, n-1))*logClockLate
}

// ttlKey is one key of TTL.
type ttlKey struct {
	*tally
	h         *history.History
	c         contract
	s         Spec
	name      string
	faults    []history.Fault
	allow     time.Duration // later than its time, and see lateFor
	early     time.Duration // sooner than its time
	byLog     bool          // the log decides: what a linearizable read found expired, none finds later
	mutations []int32       // that may have taken effect, by Invoke
	reads     []int32       // by Invoke
	creates   []int32       // CAS that want the key absent, and were answered
	writer    map[string]int32
}

func runTTL(h *history.History, s Spec) Result {
	t := newTally("ttl")
	c, err := contractOf(s)
	if err != nil {
		t.unknown("%v", err)
	}
	if s.Skew == 0 && slices.ContainsFunc(s.Nemeses, func(n string) bool { return strings.Contains(n, "clock") }) {
		t.unknown("clocks were put off and the run does not say how far")
	}
	allow, early := ttlMargin+2*s.Skew, ttlMargin+2*s.Skew
	byLog := s.Mode == consistency.Raft && !slices.ContainsFunc(s.Modes, func(m consistency.Mode) bool { return m != consistency.Raft })
	if byLog {
		early, allow = 0, lateByLog(s)
	}
	keys := byKey(h, func(op *history.Op) bool { return op.F != history.Scan && (op.Outcome != history.Fail || refused(op)) })
	faults, writes := h.Faults(), 0
	for n, name := range keys.names {
		k := &ttlKey{tally: t, h: h, c: c, s: s, name: name, faults: faults, allow: allow, early: early, byLog: byLog, writer: map[string]int32{}}
		writes += k.collect(keys.ops(n))
		k.judge()
	}
	t.stats["expiring_writes"], t.stats["allowance_seconds"] = float64(writes), allow.Seconds()
	live, expired := t.stats["reads_live"], t.stats["reads_expired"]
	if live == 0 || expired == 0 {
		t.unknown("%d writes that expire, %.0f reads before and %.0f after: nothing to compare", writes, live, expired)
	}
	return t.result("%d writes that expire, read %.0f times before and %.0f times after, within %v", writes, live, expired, allow)
}

func (k *ttlKey) collect(ops []int32) (writes int) {
	for _, i := range ops {
		op := &k.h.Ops[i]
		if op.F == history.Read {
			if op.Outcome == history.OK {
				k.reads = append(k.reads, i)
			}
			continue
		}
		if op.F == history.CAS && op.Expect.IsZero() && op.Outcome != history.Info {
			k.creates = append(k.creates, i)
		}
		if refused(op) {
			continue
		}
		k.mutations = append(k.mutations, i)
		if op.F != history.Delete {
			k.writer[op.Value] = i
		}
		if op.TTL > 0 {
			writes++
		}
	}
	return writes
}

func (k *ttlKey) judge() {
	gone := map[int32]int32{} // write: the first read that surely found it expired
	for _, r := range k.reads {
		read := &k.h.Ops[r]
		if !read.Found {
			if w := k.last(r); w != none {
				k.missing(w, r, gone)
			}
			continue
		}
		w, ok := k.writer[read.Value]
		if !ok || k.h.Ops[w].TTL == 0 {
			continue
		}
		k.found(w, r, gone)
	}
	for _, i := range k.creates {
		if !k.strict() {
			return
		}
		k.create(i)
	}
}

// late is by how much what w wrote may still be there at a moment.
func (k *ttlKey) late(w *history.Op, at time.Duration) time.Duration {
	if !k.byLog {
		return k.allow
	}
	return lateFor(k.allow, k.faults, w.Invoke, at)
}

// strict reports whether the log decides and answers are in its order.
func (k *ttlKey) strict() bool { return k.byLog && k.c.linear }

func (k *ttlKey) found(w, r int32, gone map[int32]int32) {
	read, write := &k.h.Ops[r], &k.h.Ops[w]
	k.stats["reads_live"]++
	if write.Outcome == history.OK && read.Invoke > write.Return+write.TTL+k.late(write, read.Invoke) {
		k.add("expired-value", k.name, []int{int(w), int(r)}, "%s, %v after the end of its write with a time to live of %v", say(k.h, r), read.Invoke-write.Return, write.TTL)
		return
	}
	back := 2 * k.allow
	if k.strict() {
		if back = 0; !k.c.meets(k.s, read) {
			return
		}
	}
	if first, ok := gone[w]; ok && read.Invoke > k.h.Ops[first].Return+back {
		k.add("undead", k.name, []int{int(w), int(first), int(r)}, "%s, although %s had found it expired", say(k.h, r), say(k.h, first))
	}
}

// missing judges a read that found nothing, after w.
func (k *ttlKey) missing(w, r int32, gone map[int32]int32) {
	read, write := &k.h.Ops[r], &k.h.Ops[w]
	// The replica that answered had the write when it shows its version; where reads
	// meet writes it had it because the write was over.
	had := !write.Version.IsZero() && write.Version == read.Version
	if !had && !(k.c.durable && k.c.meets(k.s, read) && write.Outcome == history.OK && write.Return < read.Invoke) {
		return
	}
	if write.Outcome == history.OK && read.Return < write.Invoke+write.TTL-k.early {
		k.add("early-expiry", k.name, []int{int(w), int(r)}, "%s, %v after the begin of %s with a time to live of %v", say(k.h, r), read.Return-write.Invoke, say(k.h, w), write.TTL)
		return
	}
	k.stats["reads_expired"]++
	if k.strict() && !k.c.meets(k.s, read) {
		return
	}
	if _, ok := gone[w]; !ok {
		gone[w] = r
	}
}

// create judges a CAS that wants the key absent. A mutation of unknown outcome may have
// stood there, or have taken away what did.
func (k *ttlKey) create(i int32) {
	op := &k.h.Ops[i]
	before := none // the newest mutation before it, if it was done
	live := none   // one that may have stood there
	for _, m := range k.mutations {
		by := &k.h.Ops[m]
		switch {
		case m == i || by.Invoke > op.Return:
		case by.Outcome != history.OK || by.Version.IsZero():
			return
		case refused(op):
			if by.F != history.Delete && !k.goneBy(m, op.Invoke) {
				live = m
			}
		case by.Version.Less(op.Version) && (before == none || k.h.Ops[before].Version.Less(by.Version)):
			before = m
		}
	}
	k.stats["creates"]++
	switch {
	case refused(op):
		if live == none {
			k.add("false-refusal", k.name, []int{int(i)}, "%s was refused as if a value stood there, and whatever did was deleted, or had expired long before", say(k.h, i))
		}
	case before == none || k.h.Ops[before].F == history.Delete:
	default:
		if w := &k.h.Ops[before]; w.TTL == 0 || op.Return < w.Invoke+w.TTL-k.early {
			k.add("false-create", k.name, []int{int(before), int(i)}, "%s was done as if nothing stood there, and there stood what was left by %s, with a time to live of %v", say(k.h, i), say(k.h, before), w.TTL)
		}
	}
}

// goneBy reports whether what mutation m left was surely expired, or replaced, at a moment.
func (k *ttlKey) goneBy(m int32, at time.Duration) bool {
	w := &k.h.Ops[m]
	if w.TTL > 0 && w.Return+w.TTL+k.late(w, at) < at {
		return true
	}
	return slices.ContainsFunc(k.mutations, func(n int32) bool {
		o := &k.h.Ops[n]
		return o.Outcome == history.OK && o.Return < at && w.Version.Less(o.Version)
	})
}

// last is the expiring write that read r, which found nothing, must have met, when no
// other mutation can have stood over it; none if there is no such.
func (k *ttlKey) last(r int32) int32 {
	read := &k.h.Ops[r]
	w := none
	for _, m := range k.mutations {
		op := &k.h.Ops[m]
		if op.Invoke > read.Return {
			break
		}
		if !read.Version.IsZero() && op.Version == read.Version {
			if op.TTL > 0 {
				return m // the read says itself which write it was
			}
			return none
		}
		if w == none || !k.over(w, m) {
			w = m
		}
	}
	if w == none || k.h.Ops[w].TTL == 0 {
		return none
	}
	for _, m := range k.mutations {
		if op := &k.h.Ops[m]; m != w && op.Invoke <= read.Return && !k.over(w, m) {
			return none
		}
	}
	return w
}

// over reports whether write w surely stands over mutation m.
func (k *ttlKey) over(w, m int32) bool {
	x, y := &k.h.Ops[w], &k.h.Ops[m]
	switch {
	case x.Outcome != history.OK || y.Outcome != history.OK:
		return false
	case !x.Version.IsZero() && !y.Version.IsZero():
		return y.Version.Less(x.Version)
	}
	return k.c.ordered && y.Return < x.Invoke
}
