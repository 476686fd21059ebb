// Package protocol is the Raft protocol of one replica (Ongaro and Ousterhout, "In
// Search of an Understandable Consensus Algorithm", 2014; Ongaro's thesis, 2014): a
// state machine that is told of messages, of time and of what has become durable, and
// says what to store, what to send and what is committed. It has no goroutine, no disk,
// no socket and no clock of its own, so every run of it can be repeated.
//
// After each call the caller takes Ready and carries it out, in this order:
//
//  1. Store, Cut and Append go to the log. Store and Cut must be durable before
//     anything below happens; entries need not be: what rests on them asks Log.Durable.
//  2. Sends leave. What comes back goes to Appended, Beaten, Voted or SnapshotSent.
//  3. The reply that the call returned leaves; one with Needs not before the log is
//     durable up to there.
//  4. What Commit covers may be applied.
//
// Invariants (the paper's figure 3), with where they are kept:
//
//   - One leader a term: a vote is stored before it leaves (Ready.Store), one a term.
//   - A leader only appends; entries go after the one that they were written behind
//     (follower.go, log matching).
//   - An entry is committed when a majority of voters hold it durably and it, or one
//     behind it, is of the leader's term (leader.go, advance). The leader counts its own
//     copy by Log.Durable, like any other: it may send an entry while it stores it
//     (thesis, 10.2.1).
//   - A leader holds all that is committed: a vote is refused to a shorter log
//     (election.go).
//
// What goes beyond the paper: a round of pre-votes before a term is raised, and voters
// that hear from a leader refuse (thesis, 9.6); configurations change by one server
// (thesis, 4.1), and only once the leader has committed an entry of its term (Ongaro's
// correction of 2015-07-10); a leader that hears of no majority steps down (thesis,
// 6.2); a heartbeat carries the term of the committed entry, and so proves to a follower
// that holds that entry what is committed; a snapshot goes to a replica that answers, and less
// often to one that answers and does not take it.
//
// Start reading at Raft; election.go, leader.go and follower.go have its three roles.
package protocol

import (
	"errors"
	"math/rand/v2"
	"time"

	"fulcrum"
)

// Kind is what an entry is for.
type Kind byte

// The kinds of entry. Their numbers stand in logs.
const (
	Command  Kind = 0 // for the state machine
	Noop     Kind = 1 // the first entry of a leader
	Members  Kind = 6 // an encoded Configuration
	LastKind      = Members
)

// Entry is one entry of the log.
type Entry struct {
	Index, Term uint64
	Kind        Kind
	Data        []byte
}

// Role is what a replica is in its term.
type Role int32

// The roles. A PreCandidate asks whether it would be elected; its term is not raised yet.
const (
	Follower Role = iota
	PreCandidate
	Candidate
	Leader
)

func (r Role) String() string {
	return [...]string{"follower", "pre-candidate", "candidate", "leader"}[r]
}

// Log is the replica's log as the protocol sees it, with what Ready asked for in it as
// soon as the caller has begun to store it. Its methods do not fail: where the disk
// does, the replica ends, and nothing that it says is heard any more.
type Log interface {
	// First is the index of the first entry, Last()+1 when there is none.
	First() uint64
	// Last is the index of the last entry; without one, the snapshot's, or 0.
	Last() uint64
	// Term is the term of an entry, or of the snapshot's last one; Term(0) is 0.
	Term(index uint64) (term uint64, ok bool)
	// Entries returns entries from an index on, at least one and as many as fit into
	// one message of so many bytes; ok is false if the first is not there (any more).
	Entries(from uint64, bytes int) (entries []Entry, ok bool)
	// Durable is the index up to which all entries that stand in the log are durable.
	Durable() uint64
	// Snapshot is the place that the newest snapshot stands for; 0 without one.
	Snapshot() (index, term uint64)
}

// Config is what does not change while a replica lives.
type Config struct {
	ID        fulcrum.NodeID
	Election  time.Duration // a follower that hears nothing for one to two of these asks for an election
	Heartbeat time.Duration // between two heartbeats of a leader
	Calm      time.Duration // between two of a leader that is calm (calm.go), less than Election and Lease; 0: as Heartbeat
	Lease     time.Duration // a leader that has heard of no majority for so long steps down
	Retry     time.Duration // an append without an answer is taken for lost after so long
	Rand      *rand.Rand
}

// HardState is what a replica must not forget.
type HardState struct {
	Term uint64
	Vote fulcrum.NodeID // in Term; empty: none yet
}

// Append carries entries to a follower.
type Append struct {
	Term           uint64
	Prev, PrevTerm uint64 // the entry before Entries
	Commit         uint64
	Entries        []Entry
}

// Last is the last entry that the message proves equal.
func (m Append) Last() uint64 { return m.Prev + uint64(len(m.Entries)) }

// Heartbeat keeps followers from asking for an election, and tells what is committed.
type Heartbeat struct {
	Term               uint64
	Commit, CommitTerm uint64
}

// Reply answers an Append or a Heartbeat.
type Reply struct {
	Term  uint64
	OK    bool
	Last  uint64 // not OK: the sender should try behind this entry, or an earlier one
	Needs uint64 // the reply must not leave before the log is durable up to here
}

// Vote asks for a vote in Term, or with Pre whether there would be one.
type Vote struct {
	Term           uint64
	Last, LastTerm uint64
	Pre            bool
	Transfer       bool // the leader wishes it: voters that hear it may vote
}

// VoteReply answers a Vote.
type VoteReply struct {
	Term    uint64
	Granted bool
}

// Send is one message that is to leave: exactly one of its fields besides To is set.
type Send struct {
	To       fulcrum.NodeID
	Append   *Append
	Beat     *Heartbeat
	Vote     *Vote
	Snapshot bool // the state machine's, in Ready's term
}

// Ready is what a call left to do.
type Ready struct {
	Store  *HardState
	Cut    bool // entries behind CutAt go
	CutAt  uint64
	Append []Entry
	Sends  []Send
}

// Raft is one replica. Its methods must not be called at the same time.
type Raft struct {
	cfg  Config
	log  Log
	hard HardState

	role   Role
	leader fulcrum.NodeID
	commit uint64
	ready  Ready
	broken error

	conf  conf      // the configuration in force
	due   time.Time // a follower or candidate acts then
	votes map[fulcrum.NodeID]bool
	asked Vote // of a candidate

	peers map[fulcrum.NodeID]*progress // of a leader
	first uint64                       // a leader's first entry
	beat  time.Time                    // its next heartbeat

	beaten time.Time // the one before
	told   uint64    // the commit index in the newest one
	calmed bool      // beat is put off
}

// conf is the newest configuration in the log, which counts from when it is there, and
// the committed one before it, to go back to.
type conf struct {
	current, committed     Configuration
	index, committedAtMost uint64 // where they stand; 0: nowhere
}

// New returns a follower. hard is what was stored, confs the configuration of the
// snapshot and those in the log, oldest first, with the places where they stand.
func New(cfg Config, log Log, hard HardState, confs []ConfigurationAt, now time.Time) *Raft {
	r := &Raft{cfg: cfg, log: log, hard: hard}
	for _, c := range confs {
		r.configure(c)
	}
	r.commit, _ = log.Snapshot()
	if _, term := r.lastPlace(); term > r.hard.Term { // a log that began with a snapshot
		r.hard = HardState{Term: term}
	}
	r.rest(now)
	return r
}

// Errors of what only a leader can do. They are definite: nothing was appended.
var (
	ErrNotLeader = errors.New("not the leader")
	ErrBusy      = errors.New("another change of the configuration is under way")
)

// State is what a replica is at the moment.
type State struct {
	Term   uint64
	Role   Role
	Leader fulcrum.NodeID // empty: none known
}

// State returns what this replica is.
func (r *Raft) State() State { return State{r.hard.Term, r.role, r.leader} }

// Commit is the index up to which entries are committed, as far as this replica knows.
func (r *Raft) Commit() uint64 { return r.commit }

// Configuration returns the configuration in force, and where it stands in the log.
func (r *Raft) Configuration() (Configuration, uint64) { return r.conf.current, r.conf.index }

// FirstOfTerm is a leader's first entry: once it is committed, so is all that was before.
func (r *Raft) FirstOfTerm() uint64 { return r.first }

// Broken says why the protocol was found violated: a committed entry differs. The
// replica must end.
func (r *Raft) Broken() error { return r.broken }

// Ready takes what the calls since the last one left to do.
func (r *Raft) Ready() Ready {
	out := r.ready
	r.ready = Ready{}
	return out
}

// Next is when Tick should be called at the latest.
func (r *Raft) Next() time.Time {
	if r.role != Leader {
		return r.due
	}
	next := r.beat
	for _, p := range r.peers {
		if p.retry.Before(next) && !p.retry.IsZero() {
			next = p.retry
		}
	}
	return next
}

// Tick acts on what is due.
func (r *Raft) Tick(now time.Time) {
	if r.role == Leader {
		r.tickLeader(now)
		return
	}
	if now.Before(r.due) {
		return
	}
	r.leader = ""
	r.campaign(now, true, false)
}

// Durable is called when more of the log has become durable.
func (r *Raft) Durable(now time.Time) {
	if r.role == Leader {
		r.advance(now)
	}
}

// rest waits for somebody else to act: for one to two election timeouts.
func (r *Raft) rest(now time.Time) {
	r.due = now.Add(r.cfg.Election + time.Duration(r.cfg.Rand.Int64N(int64(r.cfg.Election))))
}

// follow makes r a follower in term, which is at least its own.
func (r *Raft) follow(now time.Time, term uint64, leader fulcrum.NodeID) {
	if r.role != Follower {
		r.role, r.peers, r.votes = Follower, nil, nil
		r.rest(now)
	}
	if term > r.hard.Term {
		r.store(HardState{Term: term})
	}
	r.leader = leader
}

func (r *Raft) store(h HardState) {
	r.hard = h
	r.ready.Store = &h
}

func (r *Raft) send(s Send) { r.ready.Sends = append(r.ready.Sends, s) }

// lastPlace is the place of the last entry.
func (r *Raft) lastPlace() (index, term uint64) {
	index = r.last()
	term, _ = r.termOf(index)
	return index, term
}

// last is the log's last entry with what Ready still holds.
func (r *Raft) last() uint64 {
	if n := len(r.ready.Append); n > 0 {
		return r.ready.Append[n-1].Index
	}
	if r.ready.Cut {
		return r.ready.CutAt
	}
	return r.log.Last()
}

// termOf is the term of an entry, in the log or in Ready.
func (r *Raft) termOf(index uint64) (uint64, bool) {
	if n := len(r.ready.Append); n > 0 && index >= r.ready.Append[0].Index {
		if index > r.ready.Append[n-1].Index {
			return 0, false
		}
		return r.ready.Append[index-r.ready.Append[0].Index].Term, true
	}
	if r.ready.Cut && index > r.ready.CutAt {
		return 0, false
	}
	return r.log.Term(index)
}
