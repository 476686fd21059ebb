package raft_test

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
)

// simWatch follows all changes of a Group, and asks another member every time. What it is told
// is the history: each command once, in order, none left out.
type simWatch struct {
	s    *sim
	dice dice
	over chan struct{} // closed when run ends

	after consistency.Mark
	place uint64 // of the command that was told last; 0: none was, since it began anew
	least uint64 // then: what it is told first is behind this one
	most  uint64 // then: and not behind this one, for what comes later is all told
}

func (w *simWatch) run() {
	defer close(w.over)
	for !w.s.calmed.Load() {
		m := w.s.members[w.dice.IntN(len(w.s.members))]
		if l := m.up(); l != nil {
			w.ask(l, w.dice.upTo(300*time.Millisecond), 1+w.dice.IntN(2000))
		}
		rest := 150 * time.Millisecond
		if w.dice.chance(6) {
			rest = 5 * time.Second // what it goes on from may be gone from whom it asks then
		}
		time.Sleep(w.dice.upTo(rest))
	}
}

// ask is one question to a member. Where that no longer keeps what it goes on from, it begins
// anew.
func (w *simWatch) ask(l *simLife, wait time.Duration, limit int) (err error) {
	s := w.s
	anew := w.after.IsZero()
	s.mu.Lock()
	least := s.record.shown
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	reply, err := l.replica.(simGroup).Changes(ctx, replication.ChangesRequest{After: w.after, Wait: wait, Limit: limit})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.over(): // nobody hears of it
		return errSimCrash
	case errors.Is(err, &fulcrum.Error{Code: fulcrum.CodeCompacted}):
		s.record.compacted++
		w.after, w.place = consistency.Mark{}, 0
		return err
	case err != nil:
		return err
	case anew:
		w.place, w.least, w.most = 0, least, uint64(len(s.record.history))
	}
	w.after = reply.Next
	for _, e := range reply.Events {
		w.take(l, e)
	}
	return nil
}

// take checks what it is told next. The caller holds the simulation's mu.
func (w *simWatch) take(l *simLife, e fulcrum.Event) {
	s := w.s
	id := binary.BigEndian.Uint64(e.Entry.Key)
	p := s.record.commands[id]
	switch {
	case p == nil || p.place == 0:
		s.failLocked("%s tells a watch of command %d, which is not in the history", l, id)
		return
	case w.place > 0 && p.place != w.place+1:
		s.failLocked("%s tells a watch of the command at place %d behind that at place %d", l, p.place, w.place)
	case w.place == 0 && (p.place <= w.least || p.place > w.most):
		s.failLocked("%s tells a watch first of the command at place %d, want one of %d to %d", l, p.place, w.least+1, w.most)
	case s.record.history[p.place].index != e.Entry.Version.Time:
		s.failLocked("%s tells a watch of version %d of command %d, which has %d", l, e.Entry.Version.Time, id, s.record.history[p.place].index)
	}
	w.place = p.place
	s.record.told++
}

// ends asks until all is told, now that nothing happens any more.
func (w *simWatch) ends() {
	s := w.s
	<-w.over
	for until := time.Now().Add(simProgressWithin); !s.hasFailed(); {
		s.mu.Lock()
		all := w.place == 0 || w.place == uint64(len(s.record.history))-1
		s.mu.Unlock()
		m := s.members[w.dice.IntN(len(s.members))]
		l := m.up()
		switch {
		case all:
			return
		case time.Now().After(until):
			s.failf("a watch is told nothing behind the command at place %d", w.place)
		case l != nil:
			_ = w.ask(l, 10*time.Millisecond, 1<<20)
		}
		time.Sleep(time.Millisecond)
	}
}
