package raft

import (
	"slices"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// eventOverhead is about what an event takes besides its key and value.
const eventOverhead = 96

// maxTold bounds the changes of one request that a watch can be told: they are never
// split, and travel in one message between nodes. No request may write so much.
const maxTold = 12 << 20

// pieces turns the changes of log entries into records: one an entry, as a rule. An entry
// that changes much is cut between requests, so that no record is larger than Tuning's
// ChangePiece, or than one request: what does not fit into a message could never be told.
//
// Where it is cut follows from the entry and from what its requests changed alone, so it
// is the same on all replicas.
type pieces struct {
	told []record

	events []fulcrum.Event // of the piece under way, in order, then those of the request under way
	size   int             // of the request under way, also where that is too large
	before sofar           // the piece under way, without that request
}

// sofar is what is told of an entry so far.
type sofar struct {
	events, size int
	newest       fulcrum.Version // at its end
}

// tell notes a change. When a tombstone goes itself is nobody's business.
func (b *pending) tell(e fulcrum.Event) {
	if e.Entry.Tombstone {
		e.Entry.ExpireAt = 0
	}
	if b.size += len(e.Entry.Key) + len(e.Entry.Value) + eventOverhead; b.size <= maxTold {
		b.events = append(b.events, e)
	}
}

// requestDone ends the request that is the n-th, from 0, of the entry at index.
func (b *pending) requestDone(index, n uint64) {
	if b.size == 0 {
		return
	}
	at := place{b.env.Epoch, index - 1, n}
	if b.before.events > 0 && (b.before.size+b.size > b.core.tuning.ChangePiece || b.size > maxTold) {
		// Of its own slices, or the piece would hold what the others have told as well.
		rest := slices.Clone(b.events[b.before.events:])
		b.told = append(b.told, record{at: at, newest: b.before.newest, events: slices.Clone(b.events[:b.before.events]), size: b.before.size})
		b.events, b.before = rest, sofar{}
	}
	if b.size > maxTold {
		at.requests++
		b.told = append(b.told, record{at: at, newest: b.prog.last, lost: true})
		b.events, b.size = nil, 0
		return
	}
	b.before = sofar{events: len(b.events), size: b.before.size + b.size, newest: b.prog.last}
	b.size = 0
}

// entryDone ends an entry, whose own bytes its changes may keep in memory.
func (b *pending) entryDone(l protocol.Entry) {
	if b.before.events > 0 {
		b.told = append(b.told, record{at: place{b.env.Epoch, l.Index, 0}, newest: b.prog.last, events: b.events, size: max(b.before.size, len(l.Data))})
	}
	b.events, b.before = nil, sofar{}
}
