package checker

import (
	"slices"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// Sessions checks the four session guarantees (Terry et al. 1994) of each session and
// key, by versions, with one anomaly kind for each:
//
//	read-your-writes     a read has a version >= that of the session's last write
//	monotonic-reads      ... and >= that of its last read
//	monotonic-writes     a write has a version > that of the session's last write
//	writes-follow-reads  ... and > that of its last read
//
// Only answered operations count. It judges whether or not tokens were sent: a run
// that drops them is to show that they matter. Across keys it says nothing, but for
// what versions of one key show.
func Sessions() Check {
	return Check{Name: consistency.CheckSession, Run: func(h *history.History, _ Spec) Result { return sessions(h, true) }}
}

// broken notes an anomaly, with a figure for its kind.
func (t *tally) broken(h *history.History, kind, key string, a int32, why string, b int32) {
	t.stats[kind]++
	t.show(h, kind, key, a, why, b)
}

// seen is what a session knows of a key.
type seen struct {
	read, write     fulcrum.Version
	readOp, writeOp int32
}

// sessions judges sessions; own says that they are to see what they wrote.
func sessions(h *history.History, own bool) Result {
	t := &sessionTally{tally: newTally(consistency.CheckSession), own: own}
	if !own {
		t.stats["own_writes_missed"] = 0
	}
	keys := byKey(h, func(op *history.Op) bool { return op.F != history.Scan })
	var reads, writes, pairs int
	known := map[int]seen{} // by session, of one key
	for k, key := range keys.names {
		clear(known)
		ops := keys.ops(k)
		gone := absencesOf(h, ops)
		for _, i := range ops {
			op := &h.Ops[i]
			if op.Session == 0 || op.Outcome != history.OK || op.F.Mutates() && !changed(op) {
				continue
			}
			s, before := known[op.Session]
			if before {
				pairs++
			}
			if op.F.Mutates() {
				writes++
				s = t.sessionWrite(h, key, i, s)
			} else {
				reads++
				s = t.sessionRead(h, key, i, s, gone)
			}
			known[op.Session] = s
		}
	}
	t.stats["reads"], t.stats["writes"], t.stats["pairs"] = float64(reads), float64(writes), float64(pairs)
	if reads == 0 || writes == 0 || pairs == 0 {
		t.unknown("%d reads and %d writes of sessions were answered, %d of them after another of the same session and key: that proves nothing", reads, writes, pairs)
	}
	return t.result("%d reads and %d writes kept to what their sessions had seen", reads, writes)
}

// sessionTally is the tally of sessions.
type sessionTally struct {
	*tally
	own bool
}

// missed notes that a read did not see what its session wrote.
func (t *sessionTally) missed(h *history.History, key string, read, write int32) {
	if !t.own {
		t.stats["own_writes_missed"]++
		return
	}
	t.broken(h, "read-your-writes", key, read, "did not see the session's own", write)
}

func (t *sessionTally) sessionRead(h *history.History, key string, i int32, s seen, gone absences) seen {
	op := &h.Ops[i]
	if op.Version.IsZero() {
		// It raises nothing: which absence it saw, nobody knows.
		if op.Found {
			return s
		}
		if !gone.explain(s.write, op.Return) {
			t.missed(h, key, i, s.writeOp)
		} else if !gone.explain(s.read, op.Return) {
			t.broken(h, "monotonic-reads", key, i, "went back behind the session's", s.readOp)
		}
		return s
	}
	if op.Version.Less(s.write) {
		t.missed(h, key, i, s.writeOp)
	}
	if op.Version.Less(s.read) {
		t.broken(h, "monotonic-reads", key, i, "went back behind the session's", s.readOp)
	} else {
		s.read, s.readOp = op.Version, i
	}
	return s
}

func (t *sessionTally) sessionWrite(h *history.History, key string, i int32, s seen) seen {
	op := &h.Ops[i]
	if op.Version.IsZero() {
		return s
	}
	if !s.write.IsZero() && !s.write.Less(op.Version) {
		t.broken(h, "monotonic-writes", key, i, "was ordered ahead of the session's earlier", s.writeOp)
	}
	if !s.read.IsZero() && !s.read.Less(op.Version) {
		t.broken(h, "writes-follow-reads", key, i, "was ordered ahead of what the session had read:", s.readOp)
	}
	if s.write.Less(op.Version) {
		s.write, s.writeOp = op.Version, i
	}
	return s
}

// QuorumReads checks what overlapping quorums give without a leader (Gifford 1979): a
// read that asks r replicas sees every write that w replicas acknowledged before it
// began, where r + w is more than there are. And reads of a majority never go back in
// real time, across all clients, since each repairs what it found before it answers.
// Versions decide, key by key.
func QuorumReads() Check {
	return Check{Name: "quorum-reads", Run: quorumReads}
}

func quorumReads(h *history.History, s Spec) Result {
	t := newTally("quorum-reads")
	if s.Replicas <= 0 {
		t.unknown("the number of replicas is not known")
		return t.result("")
	}
	keys := byKey(h, func(op *history.Op) bool { return op.F != history.Scan })
	var reads, met int
	q := quorums{h: h, t: t, replicas: s.Replicas, spec: s}
	for k, key := range keys.names {
		n, m := q.check(key, keys.ops(k))
		reads, met = reads+n, met+m
	}
	t.stats["reads"], t.stats["reads_after_write"] = float64(reads), float64(met)
	if met == 0 {
		t.unknown("no read had to meet an acknowledged write: that proves nothing")
	}
	return t.result("%d reads met the %d-replica quorums of what was acknowledged before them", met, s.Replicas)
}

// floor is the newest version that someone must not miss, and the operation that
// showed it.
type floor struct {
	v  fulcrum.Version
	op int32
}

func (f *floor) raise(v fulcrum.Version, op int32) {
	if f.v.Less(v) {
		f.v, f.op = v, op
	}
}

type quorums struct {
	h        *history.History
	t        *tally
	replicas int
	spec     Spec
}

// kind is what an operation's level asks, the keyspace's own spelt out.
func (q *quorums) kind(op *history.Op) consistency.Kind {
	switch {
	case op.Level.Kind != consistency.Default:
		return op.Level.Kind
	case op.F.Mutates():
		return q.spec.Write.Kind
	}
	return q.spec.Read.Kind
}

// asked is how many of all replicas an operation asks, 0 when that cannot be counted
// or overlaps with nothing: hints are no replicas, and the quorum of one zone meets
// only that zone.
func (q *quorums) asked(op *history.Op) int {
	kind := q.kind(op)
	switch kind {
	case consistency.Any:
		return 0
	case consistency.EachQuorum, consistency.Session:
		kind = consistency.QuorumOf
	}
	n, _ := consistency.Count(kind, q.replicas)
	return min(n, q.replicas)
}

// check sweeps one key: ops are by Invoke, and those that have returned before each
// raise the floors.
func (q *quorums) check(key string, ops []int32) (reads, met int) {
	h := q.h
	ended := slices.Clone(ops)
	slices.SortFunc(ended, func(a, b int32) int { return int(h.Ops[a].Return - h.Ops[b].Return) })
	acked := make([]floor, q.replicas+1) // [w]: writes that exactly w replicas acknowledged
	var shown floor                      // by reads of a majority
	gone := absencesOf(h, ops)
	next := 0
	for _, i := range ops {
		op := &h.Ops[i]
		for ; next < len(ended) && h.Ops[ended[next]].Return < op.Invoke; next++ {
			e := &h.Ops[ended[next]]
			switch {
			case e.Outcome != history.OK:
			case changed(e):
				acked[q.asked(e)].raise(e.Version, ended[next])
			case e.F == history.Read && q.repairs(e):
				shown.raise(e.Version, ended[next])
			}
		}
		if op.F != history.Read || op.Outcome != history.OK || op.Found && op.Version.IsZero() {
			continue
		}
		reads++
		r := q.asked(op)
		var need floor
		for w := q.replicas - r + 1; r > 0 && w <= q.replicas; w++ {
			need.raise(acked[w].v, acked[w].op)
		}
		if !need.v.IsZero() {
			met++
		}
		missed := func(f floor) bool {
			if op.Version.IsZero() {
				return !gone.explain(f.v, op.Return)
			}
			return op.Version.Less(f.v)
		}
		if missed(need) {
			q.t.show(h, "stale-quorum-read", key, i, "did not meet", need.op)
		} else if q.repairs(op) && missed(shown) {
			q.t.show(h, "quorum-read-backwards", key, i, "went back behind", shown.op)
		}
	}
	return reads, met
}

// repairs reports whether a read leaves what it found on a majority.
func (q *quorums) repairs(op *history.Op) bool { return majority(q.kind(op)) }
