package raft

import (
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
//  2. followers are told a commit index that is durable here (transport.AppendEntries);
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
	begun   []time.Time // of the writes that are not yet durable, oldest first
	durable uint64      // while there are any: the last index that is durable
	moved   signal
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

// follow notes that from..last are being written; wait ends when it is done.
func (s *store) follow(from, last uint64, wait func() error) {
	begun := time.Now()
	s.mu.Lock()
	if len(s.unsynced.begun) == 0 {
		s.unsynced.durable = from - 1
	}
	s.unsynced.begun = append(s.unsynced.begun, begun)
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
		s.unsynced.begun = s.unsynced.begun[1:]
		if err == nil {
			s.unsynced.durable = max(s.unsynced.durable, last)
		}
		s.mu.Unlock()
		s.unsynced.moved.broadcast()
	})
}

// durableIndex is the last index up to which everything is durable here.
func (s *store) durableIndex() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsynced.begun) == 0 {
		return s.last
	}
	return s.unsynced.durable
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
