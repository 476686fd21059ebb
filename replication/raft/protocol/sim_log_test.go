package protocol_test

import (
	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// simSnapshot stands for all entries up to index.
type simSnapshot struct {
	index, term uint64
	conf        protocol.ConfigurationAt
}

// simLog is a replica's log, its newest snapshot and its hard state, as a write-ahead
// log keeps them: it is durable from its front. What is durable outlives a crash.
type simLog struct {
	base    uint64 // the entry before the first
	entries []protocol.Entry
	durable uint64
	snap    simSnapshot
	hard    protocol.HardState

	batch int  // entries of one message
	lies  bool // Durable says what is not so
}

func (l *simLog) First() uint64 { return l.base + 1 }
func (l *simLog) Last() uint64  { return l.base + uint64(len(l.entries)) }

func (l *simLog) Term(index uint64) (uint64, bool) {
	switch {
	case index == 0:
		return 0, true
	case index == l.snap.index:
		return l.snap.term, true
	case index <= l.base || index > l.Last():
		return 0, false
	}
	return l.at(index).Term, true
}

func (l *simLog) at(index uint64) protocol.Entry { return l.entries[index-l.base-1] }

func (l *simLog) Entries(from uint64, _ int) ([]protocol.Entry, bool) {
	if from <= l.base || from > l.Last() {
		return nil, false
	}
	n := min(uint64(l.batch), l.Last()-from+1)
	return l.entries[from-l.base-1:][:n:n], true
}

func (l *simLog) Durable() uint64 {
	if l.lies {
		return l.Last()
	}
	return max(l.durable, l.snap.index)
}

func (l *simLog) Snapshot() (index, term uint64) { return l.snap.index, l.snap.term }

// synced makes entries durable up to an index.
func (l *simLog) synced(to uint64) { l.durable = max(l.durable, min(to, l.Last())) }

// store makes a hard state durable, and with it all that was written before.
func (l *simLog) store(h protocol.HardState) {
	l.synced(l.Last())
	l.hard = h
}

// cut drops what is behind an index, durably. What was sent keeps its entries.
func (l *simLog) cut(at uint64) {
	n := at - l.base
	l.entries = l.entries[:n:n]
	l.durable = at
}

// take makes a snapshot and drops entries up to first.
func (l *simLog) take(s simSnapshot, first uint64) {
	l.snap = s
	if first > l.First() {
		l.entries = l.entries[first-l.First():]
		l.base = first - 1
		l.durable = max(l.durable, l.base)
	}
}

// install puts a snapshot into the place of the log's front, or of the whole log if it
// does not hold the snapshot's last entry.
func (l *simLog) install(s simSnapshot, keep bool) {
	if term, ok := l.Term(s.index); ok && term == s.term || keep && s.index <= l.Last() {
		l.take(s, s.index+1)
		return
	}
	l.snap, l.base, l.durable, l.entries = s, s.index, s.index, nil
}

// crash loses what is not durable.
func (l *simLog) crash() {
	if l.durable < l.snap.index {
		l.base, l.durable, l.entries = l.snap.index, l.snap.index, nil
	}
	n := l.durable - l.base
	l.entries = l.entries[:n:n]
}

// confs are the configurations of the snapshot and of entries up to an index.
func (l *simLog) confs(to uint64) []protocol.ConfigurationAt {
	out := []protocol.ConfigurationAt{l.snap.conf}
	for _, e := range l.entries {
		if e.Index <= l.snap.index || e.Index > to || e.Kind != protocol.Members {
			continue
		}
		if c, err := protocol.ReadConfiguration(fulcrum.NewReader(e.Data)); err == nil {
			out = append(out, protocol.ConfigurationAt{Configuration: c, Index: e.Index})
		}
	}
	return out
}
