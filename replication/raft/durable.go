package raft

import (
	"slices"
	"time"

	hraft "github.com/hashicorp/raft"

	"fulcrum/mutant"
)

// A leader sends commands to its followers while its own disk still writes them
// (Ongaro's thesis, section 10.2.1), so that a commit takes one sync and one round
// trip, side by side, instead of one after the other.
//
// The library counts the leader's copy as soon as StoreLogs returns, which is now too
// early. So what it then takes for committed is held back, here, until this replica's
// own copy is durable:
//
//  1. the machine applies an entry, and so answers and reads show it, only once it is
//     durable here (awaitDurable in fsm.ApplyBatch);
//  2. followers, and reads, are told a commit index that is durable here (committed).
//
// Invariant: whatever anybody but the library's own memory takes for committed is
// durable on a majority of voters. Proof sketch: by 1 and 2 nobody acts on an index in
// whose count the leader's copy stands before that copy is durable. If the leader
// crashes first, it restarts without the entry, and the library's memory is gone. If
// it is deposed first, a later leader counts this replica's copy only together with an
// entry of its own term behind it, which this replica answers for when that one is
// synced, and a log is durable from its front (replication.Log). If its sync fails, it
// fails for good and is heard no more.
//
// Only commands are written so. A configuration entry, a no-op or a barrier is synced
// before StoreLogs returns: the library itself answers for those.
type unsynced struct {
	from  []uint64 // the first index of each write that is not known to be durable yet
	moved signal
}

// together reports whether entries may be written while they are sent.
func (s *store) together(logs []*hraft.Log) bool {
	if s.leading == nil || !s.leading() {
		return false
	}
	for _, l := range logs {
		if l.Type != hraft.LogCommand {
			return false
		}
	}
	return true
}

// follow notes that what begins at from is being written; wait ends when it is done.
func (s *store) follow(from uint64, wait func() error) {
	begun := time.Now()
	s.mu.Lock()
	s.unsynced.from = append(s.unsynced.from, from)
	s.mu.Unlock()
	end := s.disk.begin()
	s.syncs.Go(func() {
		err := wait()
		end()
		if err != nil {
			_ = s.broken("sync the log", err)
		} else {
			s.metric.Commit(time.Since(begun))
		}
		s.mu.Lock()
		at := slices.Index(s.unsynced.from, from)
		s.unsynced.from = slices.Delete(s.unsynced.from, at, at+1)
		s.mu.Unlock()
		s.unsynced.moved.broadcast()
	})
}

// durableIndex is the last index up to which everything is durable here. It asks only
// what is still being written, so it stays right when the log was cut back meanwhile
// and goes on with other entries at the same indexes.
func (s *store) durableIndex() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	durable := s.last
	for _, from := range s.unsynced.from {
		durable = min(durable, from-1)
	}
	return durable
}

// awaitDurable returns when index is durable, or the store has failed. It has no
// deadline: the caller is the machine, which must wait for its disk.
func (s *store) awaitDurable(index uint64) {
	if mutant.On("leader-copy-counted-early") {
		return // mutant: answers for what its own disk does not hold yet
	}
	for s.durableIndex() < index && !s.failed.Load() {
		moved := s.unsynced.moved.wait()
		if s.durableIndex() >= index || s.failed.Load() {
			return
		}
		<-moved
	}
}
