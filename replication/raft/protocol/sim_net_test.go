package protocol_test

import (
	"time"

	"fulcrum/replication/raft/protocol"
)

// what an event is.
type what byte

const (
	onAppend what = iota
	onBeat
	onVote
	onSnapshot
	onAppended // the answers, at who asked
	onBeaten
	onVoted
	onSnapshotSent
	onLost // what else happens at a replica
	onSync
	onInstall
)

var whatNames = [...]string{"append", "beat", "vote", "snapshot", "appended", "beaten", "voted", "snapshot sent", "lost", "sync", "install"}

// event is a message, an answer, or something that a replica waits for. It happens at
// to; life is the life of to that it belongs to, 0 if to any.
type event struct {
	at       time.Time
	seq      int
	what     what
	from, to int
	life     int
	local    bool // no message, though from another

	term, index uint64 // of a heartbeat or snapshot, and where a sync or a snapshot ends
	append      protocol.Append
	beat        protocol.Heartbeat
	vote        protocol.Vote
	snap        simSnapshot
	reply       protocol.Reply
	voted       protocol.VoteReply
	ended       *bool // a snapshot's transfer
	asker       int   // the life of the replica that waits for an answer
}

func (e *event) before(f *event) bool {
	return e.at.Before(f.at) || e.at.Equal(f.at) && e.seq < f.seq
}

// queue is a heap of events.
type queue []*event

func (q *queue) push(e *event) {
	h := append(*q, e)
	for i := len(h) - 1; i > 0 && h[i].before(h[(i-1)/2]); i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
	}
	*q = h
}

func (q *queue) pop() *event {
	h := *q
	top, n := h[0], len(h)-1
	h[0] = h[n]
	h[n] = nil
	h = h[:n]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if h[c].before(h[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*q = h
	return top
}

// in schedules an event.
func (s *sim) in(d time.Duration, e event) {
	s.seq++
	e.at, e.seq = s.now.Add(d), s.seq
	s.queue.push(&e)
}

// upTo is a random duration.
func (s *sim) upTo(d time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(d)))
}

func (s *sim) chance(percent int) bool { return s.rng.IntN(100) < percent }

// transmit sends a message or an answer: it is lost, delayed, or comes twice.
func (s *sim) transmit(e event) {
	if s.cuts[e.from][e.to] || s.chance(s.loss) {
		s.unanswered(e)
		return
	}
	s.in(s.delay(), e)
	if s.chance(s.twice) {
		s.in(s.delay(), e)
	}
}

func (s *sim) delay() time.Duration {
	if s.chance(s.slow) {
		return s.upTo(300 * time.Millisecond)
	}
	return 100*time.Microsecond + s.upTo(5*time.Millisecond)
}

// unanswered lets who asked hear, or not, that there will be no answer.
func (s *sim) unanswered(e event) {
	asker := e.from
	if e.what == onAppended {
		asker = e.to
	}
	if (e.what == onAppend || e.what == onAppended) && s.chance(50) {
		s.in(s.upTo(80*time.Millisecond), event{what: onLost, from: e.from + e.to - asker, to: asker, life: e.asker, term: e.append.Term})
	}
}

// deliver lets an event happen.
func (s *sim) deliver(e *event) {
	n := s.nodes[e.to]
	if s.now.Before(n.paused) {
		s.in(n.paused.Sub(s.now), *e)
		return
	}
	if e.what < onLost && !e.local && s.cuts[e.from][e.to] || !n.up || e.life != 0 && e.life != n.life {
		s.tracef("%s: %s from %s does not arrive", n.id, whatNames[e.what], s.nodes[e.from].id)
		if e.life == 0 || e.life == n.life {
			s.unanswered(*e)
		}
		return
	}
	if s.tracing {
		s.traceEvent(n, e)
	}
	s.happen(n, e)
}

// answer makes an answer to e. It is heard only in the life that asked.
func (s *sim) answer(e *event, w what) event {
	a := *e
	a.what, a.from, a.to, a.life = w, e.to, e.from, e.asker
	return a
}

func (s *sim) happen(n *simNode, e *event) {
	from := s.nodes[e.from].id
	switch e.what {
	case onAppend:
		a := s.answer(e, onAppended)
		a.reply = n.r.Append(s.now, from, e.append)
		s.carry(n, &a)
	case onBeat:
		a := s.answer(e, onBeaten)
		if term, ok := n.log.Term(e.beat.Commit); ok && s.faults.blindBeats {
			e.beat.CommitTerm = term
		}
		a.reply = n.r.Heartbeat(s.now, from, e.beat)
		s.carry(n, &a)
	case onVote:
		a := s.answer(e, onVoted)
		a.voted = n.r.Vote(s.now, from, e.vote)
		if s.faults.generous && !e.vote.Pre && e.vote.Term == a.voted.Term {
			a.voted.Granted = true
		}
		s.carry(n, &a)
	case onSnapshot:
		s.offered(n, e)
	case onInstall:
		s.install(n, e)
	case onAppended:
		n.r.Appended(s.now, from, e.append, e.reply)
		s.carry(n, nil)
	case onBeaten:
		n.r.Beaten(s.now, from, e.beat.Term, e.reply)
		s.carry(n, nil)
	case onVoted:
		n.r.Voted(s.now, from, e.vote, e.voted)
		s.carry(n, nil)
	case onSnapshotSent:
		if !*e.ended {
			*e.ended = true
			n.r.SnapshotSent(s.now, from, e.term, e.index, e.reply.Term)
			s.carry(n, nil)
		}
	case onLost:
		n.r.Lost(s.now, from, e.term)
		s.carry(n, nil)
	case onSync:
		n.log.synced(e.index)
		n.r.Durable(s.now)
		s.carry(n, nil)
	}
}

// offered takes a snapshot in, now or after a while.
func (s *sim) offered(n *simNode, e *event) {
	reply, ok := n.r.Offer(s.now, s.nodes[e.from].id, e.term)
	a := s.answer(e, onSnapshotSent)
	a.reply = reply
	if !ok {
		a.index = 0
		s.carry(n, &a)
		return
	}
	s.carry(n, nil)
	i := a
	i.what, i.to, i.life = onInstall, e.to, n.life
	i.from = e.from
	if s.chance(70) {
		s.install(n, &i)
		return
	}
	s.in(s.upTo(60*time.Millisecond)+s.syncDelay(), i)
}

// install puts a snapshot into force, unless it is behind what is committed here: then
// the answer waits until the log proves it.
func (s *sim) install(n *simNode, e *event) {
	a := s.answer(e, onSnapshotSent)
	a.index = e.snap.index
	if e.snap.index > n.r.Commit() {
		n.log.install(e.snap, s.faults.keeps)
		s.checkInstalled(n)
		n.r.Installed(e.snap.conf, n.log.confs(n.log.Last())[1:])
		s.checkConf(n)
	} else {
		a.reply.Needs = e.snap.index
	}
	s.carry(n, &a)
}

// carry does what Ready asks for, in its order.
func (s *sim) carry(n *simNode, answer *event) {
	rd := n.r.Ready()
	s.events++
	if rd.Store != nil && !s.faults.forgets {
		n.log.store(*rd.Store)
	}
	if rd.Cut {
		s.checkCut(n, rd.CutAt)
		n.log.cut(rd.CutAt)
	}
	if len(rd.Append) > 0 {
		s.checkAppend(n, rd.Append)
		n.log.entries = append(n.log.entries, rd.Append...)
		s.in(s.syncDelay(), event{what: onSync, from: n.at, to: n.at, life: n.life, index: n.log.Last()})
	}
	if rd.Cut || len(rd.Append) > 0 {
		s.checkConf(n)
	}
	for i := range rd.Sends {
		s.leave(n, rd.Sends[i])
	}
	if answer != nil {
		n.waiting = append(n.waiting, answer)
	}
	s.answers(n)
	s.check(n)
}

func (s *sim) syncDelay() time.Duration {
	if s.chance(s.slow) {
		return s.upTo(400 * time.Millisecond)
	}
	return s.upTo(4 * time.Millisecond)
}

// answers lets go what rests on nothing that is not durable.
func (s *sim) answers(n *simNode) {
	keep := n.waiting[:0]
	for _, a := range n.waiting {
		if a.reply.Needs > n.log.Durable() && !s.faults.eager {
			keep = append(keep, a)
			continue
		}
		if a.what == onVoted && a.voted.Granted && !a.vote.Pre {
			s.checkVote(n, a.voted.Term, s.nodes[a.to].id)
		}
		s.transmit(*a)
	}
	n.waiting = keep
}

// leave sends one message of Ready.
func (s *sim) leave(n *simNode, m protocol.Send) {
	e := event{from: n.at, to: nodeAt(m.To), asker: n.life, term: n.r.State().Term}
	switch {
	case m.Append != nil:
		e.what, e.append = onAppend, *m.Append
		if !n.r.Fill(s.now, m.To, &e.append, 1) {
			s.failf("%s: entries behind %d are gone while the append leaves", n.id, e.append.Prev)
			return
		}
	case m.Beat != nil:
		e.what, e.beat = onBeat, *m.Beat
	case m.Vote != nil:
		e.what, e.vote = onVote, *m.Vote
		if !m.Vote.Pre {
			s.checkVote(n, m.Vote.Term, n.id)
		}
	case m.Snapshot:
		if n.log.snap.index == 0 {
			s.failf("%s: a snapshot is to be sent, but there is none", n.id)
		}
		e.what, e.snap, e.index, e.ended = onSnapshot, n.log.snap, 0, new(bool)
		s.in(200*time.Millisecond, event{what: onSnapshotSent, from: e.to, to: n.at, life: n.life, term: e.term, ended: e.ended, local: true})
	}
	s.transmit(e)
}
