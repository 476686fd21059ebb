package protocol

import (
	"slices"
	"time"

	"fulcrum"
	"fulcrum/mutant"
)

// progress is what a leader knows of another replica.
//
// Invariant: the replica holds the leader's log durably up to match; 0 <= match < next.
// At most one append is under way: what is written meanwhile goes with the next one
// (measured: more of them at a time win nothing, and batches get smaller).
type progress struct {
	match, next uint64
	flying      bool   // an append is under way
	sent        uint64 // the entry before those of the newest append
	snapshot    bool   // it is being sent a snapshot
	untaken     int    // snapshots in a row that it has not taken
	failures    int
	left        time.Time     // when the append under way was sent
	patience    time.Duration // how long it may take while heartbeats are answered
	retry       time.Time     // an append under way is lost, or may be tried again; zero: nothing waits
	heard       time.Time     // its last answer in this term
	another     time.Time     // no snapshot before that
}

// Retries after failures wait for so long, and twice as long each time.
const (
	firstRetry   = 50 * time.Millisecond
	lastRetry    = 400 * time.Millisecond
	lastSnapshot = 10 * time.Second // of a snapshot, which is all that the leader holds
)

// Progress is how far a leader knows another replica to be.
func (r *Raft) Progress(id fulcrum.NodeID) (match uint64, heard time.Time) {
	if p := r.peers[id]; p != nil {
		return p.match, p.heard
	}
	return 0, time.Time{}
}

// lead makes a candidate the leader of its term.
func (r *Raft) lead(now time.Time) {
	r.role, r.leader, r.votes = Leader, r.cfg.ID, nil
	r.peers = map[fulcrum.NodeID]*progress{}
	r.meet(now)
	r.first = r.last() + 1
	r.append(now, Noop, nil)
	r.beaten, r.beat, r.calmed = now, r.nextBeat(now), false
}

// meet makes the peers those of the configuration in force. A new one has not failed to
// answer yet: it counts as heard.
func (r *Raft) meet(now time.Time) {
	for id := range r.peers {
		if !r.conf.current.Has(id) {
			delete(r.peers, id)
		}
	}
	for _, m := range r.conf.current.Members {
		if m.ID != r.cfg.ID && r.peers[m.ID] == nil {
			r.peers[m.ID] = &progress{next: r.last() + 1, heard: now}
		}
	}
}

// nextBeat is the same for all groups of a node, which then wake up together. now keeps
// its monotonic reading.
func (r *Raft) nextBeat(now time.Time) time.Time {
	return now.Add(fulcrum.UntilBeat(now, r.cfg.Heartbeat))
}

// append puts an entry into a leader's log and sends it.
func (r *Raft) append(now time.Time, kind Kind, data []byte) uint64 {
	e := Entry{Index: r.last() + 1, Term: r.hard.Term, Kind: kind, Data: data}
	if kind == Members {
		r.configureFrom([]Entry{e})
		r.meet(now)
	}
	r.ready.Append = append(r.ready.Append, e)
	r.stir(now)
	r.replicate(now)
	return e.Index
}

// Propose puts a command into the log.
func (r *Raft) Propose(now time.Time, data []byte) (index, term uint64, err error) {
	if r.role != Leader {
		return 0, 0, ErrNotLeader
	}
	return r.append(now, Command, data), r.hard.Term, nil
}

// Configure puts a configuration into the log that differs from the one in force by one
// server. ErrBusy: not yet.
func (r *Raft) Configure(now time.Time, c Configuration) (index, term uint64, err error) {
	switch {
	case r.role != Leader:
		return 0, 0, ErrNotLeader
	case r.conf.index > r.commit || r.commit < r.first:
		return 0, 0, ErrBusy
	}
	return r.append(now, Members, c.Append(nil)), r.hard.Term, nil
}

func (r *Raft) tickLeader(now time.Time) {
	if !r.heardMajority(now) {
		r.follow(now, r.hard.Term, "")
		return
	}
	if !now.Before(r.beat) {
		r.Beat()
		r.beaten, r.beat, r.calmed = now, r.nextBeat(now), false
		r.calm() // where there is nobody to answer
	}
	for _, p := range r.peers {
		if !p.retry.IsZero() && !now.Before(p.retry) {
			if p.flying {
				p.failures++
			}
			p.flying, p.retry = false, time.Time{}
		}
	}
	r.replicate(now)
}

// heardMajority reports whether voters enough for a majority answered within a lease.
func (r *Raft) heardMajority(now time.Time) bool {
	heard := 0
	for _, id := range r.conf.current.Voters() {
		if p := r.peers[id]; id == r.cfg.ID || p != nil && now.Sub(p.heard) <= r.cfg.Lease {
			heard++
		}
	}
	return heard >= r.conf.current.quorum()
}

// Beat sends a heartbeat to everybody, now.
func (r *Raft) Beat() {
	if r.role != Leader {
		return
	}
	term, _ := r.termOf(r.commit)
	r.told = r.commit
	for _, m := range r.conf.current.Members { // in this order, for a run to be repeatable
		if m.ID != r.cfg.ID {
			r.send(Send{To: m.ID, Beat: &Heartbeat{Term: r.hard.Term, Commit: r.commit, CommitTerm: term}})
		}
	}
}

// Greet returns the heartbeat that a member would get now; ok is false if this replica does not
// lead. It is one more, and changes nothing.
func (r *Raft) Greet(to fulcrum.NodeID) (m Heartbeat, ok bool) {
	if r.role != Leader || !r.conf.current.Has(to) {
		return m, false
	}
	term, _ := r.termOf(r.commit)
	return Heartbeat{Term: r.hard.Term, Commit: r.commit, CommitTerm: term}, true
}

// replicate sends everybody what it lacks, one append at a time. The entries that Ready
// holds are read by whoever sends: they are in the log by then.
func (r *Raft) replicate(now time.Time) {
	last := r.last()
	for _, m := range r.conf.current.Members {
		id, p := m.ID, r.peers[m.ID]
		if p == nil || p.flying || p.snapshot || p.next > last || now.Before(p.retry) {
			continue
		}
		prevTerm, ok := r.termOf(p.next - 1)
		if !ok || p.next < r.log.First() {
			if !r.takesSnapshot(now, p) {
				p.failures = max(p.failures, 1) // its next answer comes here again, see Beaten
				continue
			}
			p.snapshot, p.retry = true, time.Time{}
			r.send(Send{To: id, Snapshot: true})
			continue
		}
		p.flying, p.sent, p.left, p.retry = true, p.next-1, now, now.Add(r.cfg.Retry)
		r.send(Send{To: id, Append: &Append{Term: r.hard.Term, Prev: p.next - 1, PrevTerm: prevTerm, Commit: r.commit}})
	}
}

// takesSnapshot reports whether a replica is there to take a snapshot, which costs the leader a
// walk over all that it holds: it has answered lately, and has not just refused several.
func (r *Raft) takesSnapshot(now time.Time, p *progress) bool {
	return now.Sub(p.heard) <= r.cfg.Election && !now.Before(p.another)
}

// Fill completes an append of Ready with its entries, as many as fit into so many bytes
// but at least one, after those of Ready are in the log; false: they are gone, and a later tick finds out what the peer needs, or the term
// that m speaks for is over, and the log need not be what m goes on from.
func (r *Raft) Fill(now time.Time, to fulcrum.NodeID, m *Append, bytes int) bool {
	entries, ok := r.log.Entries(m.Prev+1, bytes)
	if !ok || r.role != Leader || m.Term != r.hard.Term {
		r.Lost(now, to, m.Term)
		return false
	}
	m.Entries = entries
	return true
}

// Appended takes in the answer to an append.
func (r *Raft) Appended(now time.Time, from fulcrum.NodeID, m Append, reply Reply) {
	p := r.answered(now, from, m.Term, reply.Term)
	if p == nil {
		return
	}
	if !p.flying || m.Prev == p.sent { // else the answer to the one under way is still to come
		p.flying, p.failures, p.retry, p.patience = false, 0, time.Time{}, 0
	}
	if reply.OK {
		p.match = max(p.match, m.Last())
		p.next = max(p.next, p.match+1)
		r.advance(now)
	} else if m.Prev == p.next-1 { // else it answers an append that is known to be behind
		p.next = max(1, min(reply.Last+1, m.Prev))
		p.match = min(p.match, p.next-1) // late, or it lost what it held; to count less is safe
	}
	if r.role == Leader {
		r.replicate(now)
	}
}

// Beaten takes in the answer to a heartbeat: the replica is there. An append that it has
// not answered for a while was lost, or its disk is slow; so it is sent again, after twice
// as long each time.
func (r *Raft) Beaten(now time.Time, from fulcrum.NodeID, term uint64, reply Reply) {
	p := r.answered(now, from, term, reply.Term)
	if p == nil {
		return
	}
	r.calm()
	p.patience = max(p.patience, 2*r.cfg.Heartbeat)
	switch {
	case p.flying && now.Sub(p.left) >= p.patience:
		p.flying, p.patience = false, 2*p.patience
	case p.flying || p.failures == 0:
		return
	}
	p.failures, p.retry = 0, time.Time{}
	r.replicate(now)
}

// Moving is called when a part of an append has arrived that goes in several messages: it
// is not lost. That is no answer, and does not count as one: whether the replica is there,
// and follows, is only in answers to heartbeats and to whole appends.
func (r *Raft) Moving(now time.Time, to fulcrum.NodeID, m Append) {
	if p := r.peers[to]; p != nil && r.role == Leader && m.Term == r.hard.Term && p.flying && m.Prev == p.sent {
		p.left, p.retry = now, now.Add(r.cfg.Retry)
	}
}

// answered notes an answer to what was sent in term; nil: it does not matter any more.
func (r *Raft) answered(now time.Time, from fulcrum.NodeID, term, current uint64) *progress {
	if current > r.hard.Term {
		r.follow(now, current, "")
		return nil
	}
	p := r.peers[from]
	if r.role != Leader || term != r.hard.Term || p == nil {
		return nil
	}
	p.heard = now
	return p
}

// Lost is called when an append got no answer. It is sent again after a while.
func (r *Raft) Lost(now time.Time, to fulcrum.NodeID, term uint64) {
	if p := r.peers[to]; p != nil && r.role == Leader && term == r.hard.Term && p.flying {
		p.flying = false
		p.retry = now.Add(min(lastRetry, firstRetry<<min(p.failures, 8)))
		p.failures++
	}
}

// SnapshotSent is called when the transfer of a snapshot that was asked for in term has
// ended: index is where it stood, 0 if it failed.
func (r *Raft) SnapshotSent(now time.Time, to fulcrum.NodeID, term, index, current uint64) {
	p := r.peers[to]
	if current > r.hard.Term {
		r.follow(now, current, "")
		return
	}
	if p == nil || r.role != Leader || term != r.hard.Term {
		return
	}
	p.snapshot = false
	if index == 0 {
		p.retry = now.Add(min(lastRetry, firstRetry<<min(p.failures, 8)))
		p.failures++
		if p.untaken > 0 { // one may have been away, and gets the next as soon as it is back
			p.another = now.Add(min(lastSnapshot, firstRetry<<min(p.untaken, 8)))
		}
		p.untaken++
		return
	}
	p.heard, p.failures, p.untaken, p.retry = now, 0, 0, time.Time{}
	p.match = max(p.match, index)
	p.next = p.match + 1
	r.advance(now)
	if r.role == Leader {
		r.replicate(now)
	}
}

// advance commits what a majority of voters hold durably, once it ends with an entry of
// this term (paper, 5.4.2): an older entry on a majority may still be replaced.
func (r *Raft) advance(now time.Time) {
	voters := r.conf.current.Voters()
	held := make([]uint64, 0, len(voters))
	for _, id := range voters {
		if id == r.cfg.ID {
			held = append(held, min(r.log.Durable(), r.log.Last()))
		} else if p := r.peers[id]; p != nil {
			held = append(held, p.match)
		} else {
			held = append(held, 0)
		}
	}
	if len(held) == 0 {
		return
	}
	slices.Sort(held)
	index := held[len(held)-r.conf.current.quorum()]
	if index <= r.commit {
		return
	}
	if term, ok := r.termOf(index); (!ok || term != r.hard.Term) && !mutant.On("commit-by-counting") {
		return
	}
	r.committed(index)
	if r.conf.index <= index && !r.conf.current.Voter(r.cfg.ID) {
		r.follow(now, r.hard.Term, "") // it has led until it was out (thesis, 4.2.2)
	}
}
