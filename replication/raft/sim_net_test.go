package raft_test

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// dice decides by chance, the same way for the same seed: one for each thing that asks,
// so that it does not matter in which order different things do.
type dice uint64

func (d *dice) next() uint64 { // splitmix64 (Steele, Lea, Flood 2014)
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (d *dice) IntN(n int) int { return int(d.next() % uint64(n)) }

func (d *dice) chance(percent int) bool { return d.IntN(100) < percent }

func (d *dice) upTo(t time.Duration) time.Duration {
	if t <= 0 {
		return 0
	}
	return time.Duration(d.next() % uint64(t))
}

// simLink is one direction between two members.
type simLink struct {
	dice dice
	cut  bool
	pipe replicationtest.Pipe
}

// weather is what messages meet with, in percent.
type weather struct {
	loss, twice, late int
	near              time.Duration // how long a message takes, as a rule
}

// fate is what becomes of one message.
type fate struct {
	lost, twice bool
	after       time.Duration
}

// fateOf draws for a message of size bytes on its way; lost also where the link is cut.
func (s *sim) fateOf(from, to, size int) (f fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, w := &s.links[from][to], s.weather
	f.lost = l.dice.chance(w.loss) || l.cut
	f.twice = l.dice.chance(w.twice)
	f.after = l.dice.upTo(w.near) + 1
	if l.dice.chance(w.late) {
		f.after = l.dice.upTo(2 * s.tuning.RPC)
	}
	f.after += l.pipe.Transit(size)
	return f
}

func (s *sim) isCut(from, to int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[from][to].cut
}

// simPeers is what one life of a member calls the others through.
type simPeers struct{ life *simLife }

// simCall is a call under way; its done is called once.
type simCall struct {
	over  atomic.Bool
	timer *time.Timer
	done  func([]byte, error)
}

func (c *simCall) finish(b []byte, err error) {
	c.timer.Stop()
	c.end(b, err)
}

// end is finish that leaves the timer alone, which calls it perhaps before it is set.
func (c *simCall) end(b []byte, err error) {
	if !c.over.Swap(true) {
		c.done(b, err)
	}
}

// Go implements replication.AsyncPeers.
func (p simPeers) Go(to fulcrum.NodeID, msg []byte, timeout time.Duration, done func([]byte, error)) {
	l, s := p.life, p.life.m.s
	target := s.member(to)
	if target == nil || l.over() {
		done(nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "no way to %s", to)) // before this returns
		return
	}
	s.checkSent(l, msg)
	c := &simCall{done: done}
	c.timer = time.AfterFunc(timeout, func() { c.end(nil, fmt.Errorf("no answer: %w", context.DeadlineExceeded)) })
	f := s.fateOf(l.m.at, target.at, len(msg))
	if f.lost {
		return
	}
	first, again := bytes.Clone(msg), bytes.Clone(msg) // msg is the caller's
	time.AfterFunc(f.after, func() { s.arrive(c, l, target, first, timeout) })
	if f.twice {
		time.AfterFunc(2*f.after, func() { s.arrive(c, l, target, again, timeout) })
	}
}

// arrive hands a message to whoever lives there.
func (s *sim) arrive(c *simCall, from *simLife, to *simMember, msg []byte, limit time.Duration) {
	there := to.up()
	switch {
	case s.isCut(from.m.at, to.at):
		return
	case there == nil:
		if !s.fateOf(to.at, from.m.at, 0).lost { // else nobody is there to say so
			c.finish(nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "%s is down", to.id))
		}
		return
	}
	answer := func(b []byte, err error) { s.answered(c, there, from, msg, b, err) }
	if s.faults.reuses {
		time.AfterFunc(50*time.Millisecond, func() { clear(msg) }) // broken: whoever takes a message owns it
	}
	if s.faults.installsAgain && raft.TransferOf(msg) != 0 {
		if r, ok := there.replica.(*raft.Replica); ok {
			time.AfterFunc(3*time.Second, func() { r.InstallAgain(msg) })
		}
	}
	if there.replica.HandleAsync(from.m.id, msg, answer) {
		return
	}
	ctx, cancel := context.WithTimeout(there.ctx, limit)
	defer cancel()
	answer(there.replica.Handle(ctx, from.m.id, msg))
}

// answered sends an answer back.
func (s *sim) answered(c *simCall, there, back *simLife, msg, b []byte, err error) {
	if there.over() {
		return
	}
	s.checkAnswered(there, back, msg, b, err)
	f := s.fateOf(there.m.at, back.m.at, len(b))
	if f.lost {
		return
	}
	if err != nil { // only what the wire carries gets across
		err = fulcrum.DecodeError(fulcrum.AppendError(nil, err))
	}
	owned := bytes.Clone(b)
	time.AfterFunc(f.after, func() {
		if !s.isCut(there.m.at, back.m.at) {
			c.finish(owned, err)
		}
	})
}

// Call implements replication.Peers.
func (p simPeers) Call(ctx context.Context, to fulcrum.NodeID, msg []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "not sent: %v", err)
	}
	limit := time.Minute
	if at, ok := ctx.Deadline(); ok {
		limit = time.Until(at)
	}
	type answer struct {
		b   []byte
		err error
	}
	got := make(chan answer, 1)
	p.Go(to, msg, limit, func(b []byte, err error) { got <- answer{b, err} })
	select {
	case a := <-got:
		return a.b, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
}

var (
	_ replication.Peers      = simPeers{}
	_ replication.AsyncPeers = simPeers{}
	_ replication.AsyncGroup = (*raft.Replica)(nil)
)

// checkSent looks at what leaves a member: who says that it leads a term, does so alone,
// and a candidate votes for itself.
func (s *sim) checkSent(l *simLife, msg []byte) {
	if len(msg) > 0 && msg[0] == raft.MsgPart {
		s.mu.Lock()
		s.record.parts++
		s.mu.Unlock()
	}
	if term := raft.LedTerm(msg); term > 0 {
		s.mu.Lock()
		old := s.record.leaders[term]
		s.record.leaders[term] = l.m.id
		s.mu.Unlock()
		if old != "" && old != l.m.id {
			s.failf("%s and %s lead term %d", old, l.m.id, term)
		}
	}
	if term := raft.AskedVote(msg); term > 0 {
		s.checkVote(l, term, l.m.id)
	}
}

func (s *sim) checkAnswered(there, back *simLife, msg, b []byte, err error) {
	if err == nil {
		s.checkSent(there, raft.Greeting(msg, b))
	}
	if asked := raft.AskedVote(msg); asked > 0 && err == nil {
		if term, yes := raft.Granted(b); yes {
			s.checkVote(there, term, back.m.id)
		}
	}
}

// checkVote: a vote goes to one candidate a term, over all lives of a disk.
func (s *sim) checkVote(l *simLife, term uint64, to fulcrum.NodeID) {
	s.mu.Lock()
	b := simBallot{term, l.m.id, l.m.wipes}
	old := s.record.votes[b]
	s.record.votes[b] = to
	s.mu.Unlock()
	if old != "" && old != to && !s.outcomes {
		s.failf("%s votes in term %d for %s, and before for %s", l.m.id, term, to, old)
	}
}
