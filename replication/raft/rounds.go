package raft

import (
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/mutant"
)

// Rounds lets the groups of a node begin together what each of them does in rounds, so
// that what they say to the same node leaves, arrives and is answered together, and those
// who wait are woken together: with many groups a round holds few requests, and it is
// frames, system calls and wake-ups that cost. What is said is each group's own, and no
// group waits for another's answer: see line.
//
// Nobody owns a goroutine here. A round is begun by whoever enters, by whoever ends the one
// before, or by a timer; so beginning one must not block.
type Rounds struct {
	mu    sync.Mutex // protects all lines and queues; never held during a call
	lines map[lineKey]*line
}

// NewRounds returns what all groups of a node share.
func NewRounds() *Rounds { return &Rounds{lines: map[lineKey]*line{}} }

// lineKey names what begins together.
type lineKey struct {
	kind lineKind
	to   fulcrum.NodeID // of questions: the leader
}

type lineKind byte

const (
	confirmations lineKind = iota // rounds of leaders here
	questions                     // to leaders elsewhere
	entries                       // of leaders here
)

// most is the longest that anybody waits for company.
func (k lineKind) most() time.Duration {
	if k == entries {
		return entryPace
	}
	return roundPace
}

// line is the rounds that begin together, in waves. A wave is due as soon as all those wait
// who were in the line when a round of it ended last (see pace), or when the first of them
// has waited for as long as is worth it: while others are under way until they are answered,
// so that waves that have come apart find together again, and then for those who
// are answered and come back. A group whose round is not over by then is late: nobody waits
// for it any more. So one that hangs holds up the others once, for a bounded time. Who
// comes alone does not wait.
type line struct {
	rounds *Rounds
	most   time.Duration

	ready   []rider // that something waits for, and none of whose rounds is under way
	waiting int     // requests, in those
	running []rider // whose rounds are under way, but for those that are late
	present int     // requests that wait, or are in a round, or away; not those of who is late
	away    int     // that were answered since the last wave began, and may come back
	pace    pace
	timer   *time.Timer
	armed   bool // the timer
	ripe    bool // the timer has rung
	turn    bool // somebody begins rounds
}

// rider is a queue of whatever kind.
type rider interface {
	take()       // under mu: what waits is what the next round serves
	begin()      // without mu
	isLate() int // under mu: how many it has, who count no more
}

// at returns a line. It needs mu.
func (r *Rounds) at(key lineKey) *line {
	l := r.lines[key]
	if l == nil {
		l = &line{rounds: r, most: key.kind.most()}
		l.timer = time.AfterFunc(time.Hour, l.ring)
		l.timer.Stop()
		r.lines[key] = l
	}
	return l
}

func (l *line) ring() {
	l.rounds.mu.Lock()
	if l.armed { // else a wave has begun meanwhile
		l.armed, l.ripe = false, true
		for _, q := range l.running {
			l.present -= q.isLate()
		}
		l.running = nil
	}
	l.rounds.mu.Unlock()
	l.run()
}

// run begins waves as long as one is due. Whoever has the turn sees what others add
// meanwhile, so rounds that end at once are no recursion.
func (l *line) run() {
	mu := &l.rounds.mu
	mu.Lock()
	defer mu.Unlock()
	if l.turn {
		return
	}
	l.turn = true
	for l.due() {
		wave := l.ready
		l.ready = nil
		l.running = append(l.running, wave...)
		l.present -= l.away
		l.away, l.waiting, l.ripe = 0, 0, false
		for _, q := range wave {
			q.take()
		}
		mu.Unlock()
		for _, q := range wave {
			q.begin()
		}
		mu.Lock()
	}
	l.turn = false
}

// due reports whether a wave is to begin. It needs mu.
func (l *line) due() bool {
	if len(l.ready) == 0 {
		return false
	}
	p := l.pace.wait()
	if l.waiting >= p.requests || l.ripe {
		if l.armed {
			l.armed = false
			l.timer.Stop()
		}
		return true
	}
	if !l.armed {
		l.armed = true
		l.timer.Reset(l.patience(p))
	}
	return false
}

// patience is how long those who wait now wait for others: where some are under way, for
// twice the time that a round took, as two waves that gave each other up in turns would
// never be one again.
func (l *line) patience(p pace) time.Duration {
	if len(l.running) > 0 {
		return 4 * p.most
	}
	return p.most
}

// queue is what waits for the next round of one group, of one kind.
type queue[T any] struct {
	rounds *Rounds
	limit  int            // of what waits
	full   error          // for those beyond
	to     func() lineKey // where the next round belongs; it may not block
	start  func([]T)      // begins a round, which ends with ended and over

	line    *line // where it is ready, or its round is under way; nil: nothing waits
	running bool
	late    bool
	begun   time.Time // the round that is under way, of so many
	served  int
	waiting []T
	inRound []T
	closed  bool
}

func newQueue[T any](r *Rounds, limit int, full error, to func() lineKey, start func([]T)) *queue[T] {
	return &queue[T]{rounds: r, limit: limit, full: full, to: to, start: start}
}

// enter makes item wait for a round that begins from now on. It returns an error if too
// many wait, or nobody may any more.
func (q *queue[T]) enter(item T) error {
	key := q.to()
	q.rounds.mu.Lock()
	switch {
	case q.closed:
		q.rounds.mu.Unlock()
		return errStopping
	case len(q.waiting) >= q.limit:
		q.rounds.mu.Unlock()
		return q.full
	}
	q.waiting = append(q.waiting, item)
	l := q.line
	if l == nil {
		l = q.join(key)
	} else if !q.running {
		l.waiting++
	}
	switch {
	case q.late:
	case l.away > 0:
		l.away--
	default:
		l.present++
	}
	idle := !q.running // else its end will look
	q.rounds.mu.Unlock()
	if idle {
		l.run()
	}
	return nil
}

// join gets into line with what waits. It needs mu.
func (q *queue[T]) join(key lineKey) *line {
	q.line = q.rounds.at(key)
	q.line.ready = append(q.line.ready, q)
	q.line.waiting += len(q.waiting)
	return q.line
}

func (q *queue[T]) take() {
	q.inRound, q.waiting, q.running = q.waiting, nil, true
	q.begun, q.served = time.Now(), len(q.inRound)
}

func (q *queue[T]) begin() {
	q.rounds.mu.Lock()
	items := q.inRound
	q.rounds.mu.Unlock()
	q.start(items)
}

func (q *queue[T]) isLate() int {
	q.late = true
	return q.served + len(q.waiting)
}

// ended returns those whose round has ended, unless close has done so.
func (q *queue[T]) ended() []T {
	q.rounds.mu.Lock()
	defer q.rounds.mu.Unlock()
	items := q.inRound
	if mutant.On("late-joins-round") {
		items = append(slices.Clip(items), q.leave()...) // mutant: with those who came while it was under way
	}
	q.inRound = nil
	return items
}

// back lets items wait for the next round, first: the one that is under way goes without.
func (q *queue[T]) back(items []T) {
	if len(items) == 0 {
		return
	}
	q.rounds.mu.Lock()
	defer q.rounds.mu.Unlock()
	q.waiting = append(slices.Clip(items), q.waiting...)
	q.served -= len(items)
}

// drain returns those that wait, but for a round that is under way.
func (q *queue[T]) drain() []T {
	q.rounds.mu.Lock()
	defer q.rounds.mu.Unlock()
	return q.leave()
}

// leave takes what waits out. It needs mu.
func (q *queue[T]) leave() (items []T) {
	items, q.waiting = q.waiting, nil
	if l := q.line; l != nil {
		if !q.late {
			l.present -= len(items)
		}
		if !q.running {
			l.waiting -= len(items)
		}
	}
	return items
}

// over ends a round. Those in again go first in the next.
func (q *queue[T]) over(again []T) {
	key := q.to()
	q.rounds.mu.Lock()
	l := q.line
	if q.late {
		l.present += q.served + len(q.waiting)
	} else {
		l.running = slices.DeleteFunc(l.running, func(r rider) bool { return r == rider(q) })
	}
	q.line, q.running, q.late = nil, false, false
	if q.closed {
		again = nil
	}
	l.away += q.served - len(again)
	if q.waiting = append(slices.Clip(again), q.waiting...); len(q.waiting) > 0 {
		if next := q.join(key); next != l {
			l.present -= len(q.waiting)
			next.present += len(q.waiting)
		}
	}
	next := q.line
	l.pace = paceAfter(l.present, time.Since(q.begun), l.most)
	if len(l.running) == 0 && l.armed {
		l.timer.Reset(l.pace.most) // for those who are answered now
	}
	q.rounds.mu.Unlock()
	l.run()
	if next != nil && next != l {
		next.run()
	}
}

// close returns all that wait, those of the round that is under way included. Nobody may
// enter from now on.
func (q *queue[T]) close() []T {
	q.rounds.mu.Lock()
	defer q.rounds.mu.Unlock()
	q.closed = true
	items := append(q.inRound, q.leave()...)
	q.inRound = nil
	return items
}

// len is how many wait, those of a round included.
func (q *queue[T]) len() int {
	q.rounds.mu.Lock()
	defer q.rounds.mu.Unlock()
	return len(q.inRound) + len(q.waiting)
}
