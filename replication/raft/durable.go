package raft

import (
	"slices"

	"fulcrum/mutant"
)

// Entries are sent while they are being written (Ongaro's thesis, section 10.2.1), so
// that a commit takes one sync and one round trip, side by side, instead of one after
// the other. What rests on an entry asks Durable first: a follower's answer, and the
// leader's own vote for a commit (protocol). The machine does not: what is committed may
// be applied before this replica's own disk holds it (apply.go).

// Durable implements protocol.Log. It asks only what is still being written, so it stays
// right when the log was cut back meanwhile and goes on with other entries at the same
// indexes: a log is durable from its front, so what was written before has become
// durable before.
func (s *store) Durable() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	durable := s.last
	if mutant.On("copy-counted-early") {
		return durable // mutant: answers for what its own disk does not hold yet
	}
	for _, from := range s.unsynced {
		durable = min(durable, from-1)
	}
	return durable
}

// synced notes that what was begun at from is durable.
func (s *store) synced(from uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.Index(s.unsynced, from)
	s.unsynced = slices.Delete(s.unsynced, at, at+1)
}
