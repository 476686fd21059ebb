package raft

import (
	"math"
	"sync"
	"time"

	"fulcrum"
)

// The log clock of a shard, C, says in nanoseconds how late it is, and what is live:
// an entry is live if and only if its ExpireAt is above C. It is part of what the log
// decides: it moves with log entries only, so at one index it is the same on every
// replica, and what has expired stays expired. Who has lost the leadership cannot move
// it. It begins as the wall clock of the shard's first leader, so that it looks like
// Unix time; after that no wall clock has any influence.
//
// Each entry carries its leader's estimate of C when it was proposed, and base: the
// index of the entry on which the estimate rests. A replica's estimate is
// E(t) = c + (t - at), in its monotonic clock, with c the value of C behind the entry
// at base, and at a moment not before that entry was proposed: the moment at which this
// replica applied it. An entry that this replica proposed itself, and that set C, leaves
// E as it is, for it came out of it; it is the base from then on.
//
// Rule: an entry sets C to its estimate if that is above C and if no entry of another
// term stands between base and it. Else C stays.
//
// Invariant: let p(i) be the real time at which entry i was proposed and C(i) the clock
// behind it. For i < j: C(j) - C(i) <= p(j) - p(i). So C never runs faster than time,
// and what is to live for d from C(i) on does so at least from p(i), which came after
// the write was asked for, to p(i)+d.
//
// Proof, by induction over j. If j leaves C as it is, C(j) = C(j-1), and p(j-1) < p(j):
// who proposed j had j-1 in its log. Else C(j) = c + (p(j) - at) with c = C(b), b the
// base, and at >= p(b).
//   - i <= b: C(j) - C(i) = C(b) - C(i) + p(j) - at <= p(b) - p(i) + p(j) - p(b).
//   - b < i < j: i is of j's term, hence of the same leader, and was under way when j
//     was proposed. If its estimate was j's, C(i) is not below it, and the difference is
//     at most p(j) - p(i). If it was an older one, then E changed after i was proposed,
//     with an entry of another term, at b or before it: p(i) <= at, and C(i) >= C(b), so
//     C(j) - C(i) <= p(j) - at <= p(j) - p(i).
//
// What is lost: at a change of leader, the time from the proposal of an entry to its
// being applied on the next leader; when a replica leads that was restarted since the
// last entry, the time since then until it was back (at most tellEvery, and the restart);
// when all replicas are down at once, the time until they are back. Then keys live
// longer, never shorter.
type logClock struct {
	mu   sync.Mutex
	c    int64 // 0: no entry has set the clock yet
	at   time.Time
	base uint64
	from uint64 // the base that E came with: readings on an older one are of an older E
	led  uint64 // the last term in which this replica proposed in this life
}

// clockState is what the log has decided about the clock. It is stored with the State.
type clockState struct {
	now     int64  // C, in nanoseconds
	term    uint64 // of the last entry that carried a clock
	last    uint64 // its index
	foreign uint64 // the last entry of another term than that
}

// clockReading is what an entry carries.
type clockReading struct {
	base uint64
	now  int64 // the leader's estimate of C; 0: the entry has no clock
	wall int64 // the leader's wall clock in Unix milliseconds, to place absolute expiries
}

// pass moves the clock by the entry at index of term, as the rule above says.
func (s *clockState) pass(r clockReading, term, index uint64) {
	if r.now <= 0 {
		return
	}
	if term != s.term {
		s.foreign, s.term = s.last, term
	}
	s.last = index
	if r.now > s.now && r.base >= s.foreign {
		s.now = r.now
	}
}

// late is how far the clock is behind the leader's wall clock when it proposes an entry that
// carries r, which would move it.
func (s clockState) late(r clockReading, term, index uint64) int64 {
	if s.pass(r, term, index); s.now == 0 || r.wall == 0 {
		return 0
	}
	return r.wall*int64(time.Millisecond) - s.now
}

// contradicts reports whether an entry at index of term is not one that led here: terms never
// fall along a log, so none up to the last one is of a later term.
func (s clockState) contradicts(index, term uint64) bool {
	return index < s.last && term > s.term || index == s.last && term != s.term
}

// millis is C in milliseconds: what has an ExpireAt at or below it is gone.
func (s clockState) millis() int64 { return s.now / int64(time.Millisecond) }

// nextMillis is C in milliseconds, rounded up: what is to live for a time counts from
// here, so that rounding never takes any of it away.
func (s clockState) nextMillis() int64 {
	return (s.now + int64(time.Millisecond) - 1) / int64(time.Millisecond)
}

// inherited is what the next epoch begins with: the time goes on, its log is new.
func (s clockState) inherited() clockState { return clockState{now: s.now} }

// restart bases the estimate on what the log has decided, from now on.
func (l *logClock) restart(s clockState, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c, l.at, l.base, l.from, l.led = s.now, now, s.last, s.last, 0
}

// read returns what an entry proposed at now in term carries.
func (l *logClock) read(term uint64, now, wall time.Time) clockReading {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.led = term
	if l.c == 0 {
		l.c, l.at = wall.UnixNano(), now
	}
	return clockReading{base: l.base, now: l.estimate(now), wall: wall.UnixMilli()}
}

// applied follows an entry that carried r, behind which the log's clock is s. Own says
// that this disk's node proposed it.
func (l *logClock) applied(s clockState, r clockReading, own bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own && l.led == s.term && s.now == r.now && r.base >= l.from {
		l.base = s.last
		return
	}
	l.c, l.at, l.base, l.from = s.now, now, s.last, s.last
}

// estimate is E(now). The caller holds mu.
func (l *logClock) estimate(now time.Time) int64 { return l.c + int64(now.Sub(l.at)) }

// reading implements machine.
func (k *keeper) reading(term uint64) clockReading {
	return k.clock.read(term, time.Now(), k.env.Now())
}

// millis is the estimate in milliseconds; as long as nothing has set the clock it is
// the wall clock's.
func (l *logClock) millis(now, wall time.Time) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c == 0 {
		return wall.UnixMilli()
	}
	return l.estimate(now) / int64(time.Millisecond)
}

// onLogClock returns ws with every expiry on the clock s: a relative one counts from
// s, an absolute one is as far from s as it is from wall, the leader's wall clock when
// it proposed them.
func onLogClock(ws []fulcrum.Write, s clockState, wall int64) []fulcrum.Write {
	if s.now == 0 {
		return ws // entries without a clock
	}
	var out []fulcrum.Write
	for i, w := range ws {
		timed := w.Timed(s.nextMillis())
		if w.ExpireAt != 0 && w.TTL == 0 {
			timed.ExpireAt = max(1, plus(w.ExpireAt, s.nextMillis()-wall))
		}
		if timed.ExpireAt == w.ExpireAt && w.TTL == 0 {
			continue
		}
		if out == nil {
			out = append(out, ws...)
		}
		out[i] = timed
	}
	if out == nil {
		return ws
	}
	return out
}

// plus adds, and stays at the greatest number where the sum would be above it.
func plus(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	if b < 0 && a < math.MinInt64-b {
		return math.MinInt64
	}
	return a + b
}
