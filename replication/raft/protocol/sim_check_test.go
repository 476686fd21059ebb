package protocol_test

import (
	"bytes"
	"fmt"
	"slices"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// written is what some log held at an index, in some term.
type written struct {
	term, before uint64 // before: the term of the entry before it
	kind         protocol.Kind
	data         []byte
}

// decided is a committed entry.
type decided struct {
	written
	in uint64 // the term of the leader that committed it
}

type ballot struct {
	term  uint64
	voter fulcrum.NodeID
}

// record is what the whole cluster has ever done.
type record struct {
	leaders   map[uint64]fulcrum.NodeID
	votes     map[ballot]fulcrum.NodeID
	written   [][]written // by index
	committed []decided   // by index; that at 0 is none
}

func newRecord() record {
	return record{leaders: map[uint64]fulcrum.NodeID{}, votes: map[ballot]fulcrum.NodeID{}, committed: make([]decided, 1)}
}

func (s *sim) failf(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
		s.tracef("FAILED: %v", s.err)
	}
}

// checkVote: a vote is given to one candidate a term, over all lives.
func (s *sim) checkVote(n *simNode, term uint64, to fulcrum.NodeID) {
	b := ballot{term, n.id}
	if old, ok := s.record.votes[b]; ok && old != to && !s.outcomes {
		s.failf("%s votes in term %d for %s, and before for %s", n.id, term, to, old)
	}
	s.record.votes[b] = to
}

func (s *sim) checkCut(n *simNode, at uint64) {
	if at < n.commit {
		s.failf("%s cuts at %d, committed is %d", n.id, at, n.commit)
	}
}

// checkAppend: log matching. Two entries of one index and term are the same, and so are
// those before them.
func (s *sim) checkAppend(n *simNode, entries []protocol.Entry) {
	if first, last := entries[0].Index, n.log.Last(); first != last+1 {
		s.failf("%s appends %d behind %d", n.id, first, last)
	}
	before, _ := n.log.Term(entries[0].Index - 1)
	for _, e := range entries {
		w := written{e.Term, before, e.Kind, e.Data}
		for uint64(len(s.record.written)) <= e.Index {
			s.record.written = append(s.record.written, nil)
		}
		known := false
		for _, o := range s.record.written[e.Index] {
			if o.term == e.Term {
				known = true
				if !same(o, w) || o.before != before {
					s.failf("%s: entry %d of term %d differs from what another log held", n.id, e.Index, e.Term)
				}
			}
		}
		if !known {
			s.record.written[e.Index] = append(s.record.written[e.Index], w)
		}
		if e.Term < before {
			s.failf("%s: entry %d of term %d is behind one of term %d", n.id, e.Index, e.Term, before)
		}
		before = e.Term
	}
}

// checkInstalled: what a log keeps behind a snapshot was written behind its last entry.
func (s *sim) checkInstalled(n *simNode) {
	snap := n.log.snap
	if n.log.Last() == snap.index {
		return
	}
	e := n.log.at(snap.index + 1)
	for _, o := range s.record.written[e.Index] {
		if o.term == e.Term && o.before != snap.term {
			s.failf("%s: entry %d is kept behind a snapshot of term %d, it was written behind term %d", n.id, e.Index, snap.term, o.before)
		}
	}
}

func same(a, b written) bool {
	return a.term == b.term && a.kind == b.kind && bytes.Equal(a.data, b.data)
}

// check looks at a replica after each of its steps.
func (s *sim) check(n *simNode) {
	if err := n.r.Broken(); err != nil {
		s.failf("%s: broken: %v", n.id, err)
	}
	now := n.r.State()
	if now.Term < n.term {
		s.failf("%s goes back from term %d to %d", n.id, n.term, now.Term)
	}
	if now.Role == protocol.Leader && (n.role != protocol.Leader || now.Term != n.term) {
		s.checkLeader(n, now.Term)
	}
	n.term, n.role = now.Term, now.Role
	if now.Role == protocol.Leader {
		s.checkProgress(n)
	}
	s.checkCommit(n)
}

// checkLeader: one leader a term, and it holds all that was committed before.
func (s *sim) checkLeader(n *simNode, term uint64) {
	if old, ok := s.record.leaders[term]; ok && old != n.id {
		s.failf("%s and %s lead term %d", old, n.id, term)
	}
	s.record.leaders[term] = n.id
	for i, d := range s.record.committed {
		if d.in == 0 || d.in >= term || uint64(i) <= n.log.snap.index {
			continue
		}
		if t, ok := n.log.Term(uint64(i)); !ok || t != d.term {
			s.failf("%s leads term %d without entry %d, which term %d committed", n.id, term, i, d.in)
			return
		}
	}
}

// checkConf: the newest configuration in the log counts, and behind it is the one before.
func (s *sim) checkConf(n *simNode) {
	confs := n.log.confs(n.log.Last())
	want := confs[len(confs)-1]
	got, at := n.r.Configuration()
	if at != want.Index || !slices.Equal(got.Members, want.Members) {
		s.failf("%s: configuration %v at %d is in force, the log has %v at %d", n.id, got.Members, at, want.Members, want.Index)
	}
	if at <= n.r.Commit() || len(confs) < 2 {
		return
	}
	// One that another was written behind is committed, even if that was cut off again.
	back, before := n.r.CommittedConfiguration(), confs[len(confs)-2]
	if !slices.Equal(back.Members, before.Members) && !slices.Equal(back.Members, got.Members) {
		s.failf("%s: would go back to %v, the log has %v", n.id, back.Members, before.Members)
	}
}

func (s *sim) checkProgress(n *simNode) {
	for _, p := range s.nodes {
		match, next, ok := n.r.ProgressOf(p.id)
		if ok && (match >= next || next > n.log.Last()+1) {
			s.failf("%s: %s has match %d, next %d, last is %d", n.id, p.id, match, next, n.log.Last())
		}
	}
}

// checkCommit: what is committed never differs from what anybody committed, and does
// not become less within a life.
func (s *sim) checkCommit(n *simNode) {
	commit := n.r.Commit()
	if commit < n.commit {
		s.failf("%s: commit goes back from %d to %d", n.id, n.commit, commit)
	}
	if n.log.snap.index > n.commit { // also that of an earlier life
		if at := n.log.snap.index; at >= uint64(len(s.record.committed)) || s.record.committed[at].term != n.log.snap.term {
			s.failf("%s: snapshot of %d, term %d, is not what is committed", n.id, at, n.log.snap.term)
		}
	}
	for i := max(n.commit, n.log.snap.index) + 1; i <= commit && s.err == nil; i++ {
		s.checkDecided(n, i)
	}
	n.commit = commit
}

func (s *sim) checkDecided(n *simNode, i uint64) {
	if i > n.log.Last() || i <= n.log.base {
		s.failf("%s: commit covers %d, the log is [%d, %d]", n.id, i, n.log.First(), n.log.Last())
		return
	}
	e := n.log.at(i)
	w := written{term: e.Term, kind: e.Kind, data: e.Data}
	if i < uint64(len(s.record.committed)) {
		if d := s.record.committed[i]; !same(d.written, w) {
			s.failf("%s: commits %d of term %d, but that of term %d is committed", n.id, i, e.Term, d.term)
		}
		return
	}
	s.record.committed = append(s.record.committed, decided{w, n.term})
	if held, of := s.held(n, e); 2*held <= of && !s.outcomes {
		s.failf("%s: commits %d of term %d, which %d of %d voters hold durably", n.id, i, e.Term, held, of)
	}
}

// held counts the voters that hold an entry durably.
func (s *sim) held(n *simNode, e protocol.Entry) (held, of int) {
	conf, _ := n.r.Configuration()
	for _, id := range conf.Voters() {
		l := s.nodes[nodeAt(id)].log
		if term, ok := l.Term(e.Index); e.Index <= l.snap.index || ok && term == e.Term && e.Index <= l.durable {
			held++
		}
	}
	return held, len(conf.Voters())
}

// checkAll looks once more at all that is committed anywhere, and was recorded: what is
// found wrong is not.
func (s *sim) checkAll() {
	if s.err != nil {
		return
	}
	for _, n := range s.nodes {
		if !n.up {
			continue
		}
		for i := n.log.First(); i <= min(n.r.Commit(), n.log.Last()); i++ {
			if e, d := n.log.at(i), s.record.committed[i]; !same(d.written, written{term: e.Term, kind: e.Kind, data: e.Data}) {
				s.failf("%s holds %d of term %d, committed is that of term %d", n.id, i, e.Term, d.term)
			}
		}
	}
}
