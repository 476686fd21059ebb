package raft_test

import (
	"context"
	"sync"
	"time"

	"fulcrum"
)

// simClient is a client: it writes or reads, one thing after the other or some at once.
type simClient struct {
	s    *sim
	dice dice
	to   int // who led last, as far as it knows
}

func (c *simClient) run() {
	for !c.s.calmed.Load() {
		rest := c.s.pace
		if !c.step() {
			rest *= 4
		}
		time.Sleep(c.dice.upTo(rest))
	}
}

// step reports whether there was somebody to do what is asked for.
func (c *simClient) step() bool {
	s := c.s
	if c.dice.chance(20) {
		c.to = c.dice.IntN(len(s.members))
	}
	l := s.members[c.to].up()
	if l == nil {
		c.to = c.dice.IntN(len(s.members))
		return false
	}
	limit := 20*time.Millisecond + c.dice.upTo(2*time.Second)
	if c.dice.chance(35) {
		follower := c.dice.chance(50)
		hint, ok := s.read(l, limit, follower)
		c.follow(hint)
		return ok
	}
	var all sync.WaitGroup
	var hint int
	var ok bool
	for i := range 1 + c.dice.IntN(4)*c.dice.IntN(2) {
		size := c.dice.IntN(100)
		if c.dice.chance(5) {
			size = c.dice.IntN(4000)
		}
		all.Go(func() {
			if to, done := s.propose(l, size, limit); i == 0 {
				hint, ok = to, done
			}
		})
	}
	all.Wait()
	c.follow(hint)
	return ok
}

func (c *simClient) follow(hint int) {
	if hint >= 0 {
		c.to = hint
	}
}

// propose makes one proposal, and notes its outcome; hint is who to ask instead.
func (s *sim) propose(l *simLife, size int, limit time.Duration) (hint int, ok bool) {
	s.mu.Lock()
	s.command++
	id, p := s.command, &proposed{atLeast: s.record.shown}
	s.record.commands[id] = p
	s.traceLocked("%s: propose %d", l, id)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	v, err := l.replica.Propose(ctx, encodeCommand(id, size))
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.over() {
		s.traceLocked("%s: nobody hears of %d", l, id)
		return -1, false
	}
	s.traceLocked("%s: proposed %d: %v, %v", l, id, v, err)
	place, _ := v.(uint64)
	switch {
	case err == nil && (p.place == 0 || p.place != place):
		s.failLocked("%s acknowledges %d as command %d, but it is at place %d", l, id, place, p.place)
	case err == nil:
		p.acked = true
		s.record.acks++
		s.record.shown = max(s.record.shown, place)
	case fulcrum.AsError(err).Maybe && !s.faults.unknownIsNot:
		s.record.unknown++
	default:
		p.refused = true
		s.record.refusals++
		if p.place > 0 {
			s.failLocked("%s says that %d is not done (%v), but it stands at place %d", l, id, err, p.place)
		}
		return s.hinted(err), false
	}
	return -1, true
}

func (s *sim) hinted(err error) int {
	if err == nil {
		return -1
	}
	if m := s.member(fulcrum.NodeID(fulcrum.AsError(err).Hint)); m != nil {
		return m.at
	}
	return -1
}

// read confirms that the machine shows all that was shown before, and notes what it shows.
func (s *sim) read(l *simLife, limit time.Duration, follower bool) (hint int, ok bool) {
	s.mu.Lock()
	atLeast := s.record.shown
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := s.confirm(ctx, l, follower)
	at := l.machine.standing()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || l.over() {
		return s.hinted(err), false
	}
	s.record.reads++
	if at.count < atLeast {
		s.failLocked("a confirmed read at %s shows %d commands, but %d were shown before it began", l, at.count, atLeast)
	}
	s.record.shown = max(s.record.shown, at.count)
	return -1, true
}

func (s *sim) confirm(ctx context.Context, l *simLife, follower bool) error {
	_, self := l.replica.Leader()
	switch {
	case s.faults.believes && self: // broken: without a question
		return nil
	case s.faults.verifies && self:
		return l.replica.VerifyLeader()
	case follower && !self:
		return l.replica.AskLeader(ctx)
	}
	return l.replica.Confirm(ctx)
}
