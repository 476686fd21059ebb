package raft

import (
	"fmt"
	"sync/atomic"
	"time"

	"fulcrum"
)

// holds keep the log from being cut where a peer will go on that is being sent a
// snapshot: were those entries gone when it has taken the snapshot in, it would need
// another one, and so on for ever while clients write.
//
// A hold moves up as the peer gets on, and ends when the peer is no further behind than
// trailing entries reach; when it has not got on for holdIdle; or when the log has grown
// by limit meanwhile, because a peer that is slower than the writers never arrives.
type holds struct {
	any  atomic.Bool // whether there is one; spares appends the lock
	by   map[string]*hold
	next uint64
}

type hold struct {
	from    uint64 // the first entry to keep: the last one that the peer has, whose term goes with the next
	began   int64  // store.appended then
	moved   time.Time
	sending bool // a snapshot is on its way: no sign of progress is due
}

const holdIdle = 30 * time.Second

// holdOpen keeps everything from a snapshot on that is being read, until release: by then
// the transfer to a peer has a hold of its own, one a peer however often it is tried.
func (s *store) holdOpen(index uint64) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds.next++
	name := fmt.Sprint("#", s.holds.next)
	h := s.holdLocked(name, index)
	h.sending = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.holds.by, name)
	}
}

// holdFor keeps everything from a snapshot on that is sent to a peer; sent ends the
// sending, after which the peer must get on.
func (s *store) holdFor(id fulcrum.NodeID, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdLocked(string(id), index).sending = true
}

func (s *store) holdLocked(name string, from uint64) *hold {
	if s.holds.by == nil {
		s.holds.by = map[string]*hold{}
	}
	h := &hold{from: from, began: s.appended, moved: time.Now()}
	s.holds.by[name] = h
	s.holds.any.Store(true)
	return h
}

func (s *store) sent(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.holds.by[name]; h != nil {
		h.sending, h.moved = false, time.Now()
	}
}

// moving tells that a peer receives what it lacks, which is large.
func (s *store) moving(id fulcrum.NodeID) {
	if !s.holds.any.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.holds.by[string(id)]; h != nil {
		h.moved = time.Now()
	}
}

// caughtUp tells that a peer holds the log up to match.
func (s *store) caughtUp(id fulcrum.NodeID, match, trailing uint64) {
	if !s.holds.any.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holds.by[string(id)]
	if h == nil {
		return
	}
	if match > h.from {
		h.from, h.moved = match, time.Now()
	}
	if match+trailing/2 >= s.last {
		delete(s.holds.by, string(id))
	}
}

// kept returns the first entry that must stay, 0 for none. The caller holds mu.
func (s *store) kept() (first uint64) {
	for name, h := range s.holds.by {
		if !h.sending && time.Since(h.moved) > holdIdle || s.appended-h.began > s.bounds.hold {
			delete(s.holds.by, name)
			continue
		}
		if first == 0 || h.from < first {
			first = h.from
		}
	}
	s.holds.any.Store(len(s.holds.by) > 0)
	return first
}
