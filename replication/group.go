// Package replication is the contract that every mode keeps: what a Group of
// replicas of one shard must do, and what it may ask of the node that it runs on.
// raft, quorum and leaderfollower keep it; replicationtest is the suite that
// each of them passes.
//
// Start reading at Group.
package replication

import (
	"context"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// Group is this node's replica of one shard in one mode and one epoch. Its
// methods may be called from any goroutine while Run is running.
//
// Errors are *fulcrum.Error. CodeNotLeader (Hint: the leader, if known) and
// CodeEpoch mean "definitely not done, ask elsewhere or again"; the coordinator
// retries those inside the request's deadline. CodeUnknown means that the write
// may take effect later. Everything else is definite.
type Group interface {
	// Write applies the writes and returns once all are as durable as the level
	// promises. A write whose evaluation fails has its Result.Err set and changes
	// nothing; the others go on, unless the request is Atomic.
	Write(ctx context.Context, req WriteRequest) (WriteReply, error)

	// Read returns what stands at the keys, or at the first of them where that comes to
	// more than MaxRead, at the level; it keeps the promise or fails, and never answers
	// with less.
	Read(ctx context.Context, req ReadRequest) (ReadReply, error)

	// Scan returns live entries in key order, at the level.
	Scan(ctx context.Context, req ScanRequest) (ScanReply, error)

	// Handle answers a message that a replica of the same group and epoch sent
	// through Peers.
	Handle(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error)

	// Run owns every goroutine of the group. It returns nil when ctx ends, and an
	// error only when the group cannot go on (a bad disk).
	Run(ctx context.Context) error

	// Fence makes the group refuse every later write with CodeEpoch, for good, and
	// returns where it ended. Where one replica orders the writes it goes through
	// the log: only the leader takes it (others answer CodeNotLeader), and it
	// returns once the fence itself is committed. In quorum mode every replica is
	// fenced by itself: afterwards it takes no write and answers no read of this
	// epoch. Fence is idempotent and survives a restart.
	Fence(ctx context.Context) (Position, error)

	// Settle returns once this fenced replica holds everything up to fence, and,
	// in quorum mode, everything that any of with holds; then its State is equal
	// to that of every other replica that settled with the same set.
	Settle(ctx context.Context, fence Position, with []fulcrum.NodeID) error

	// Leftovers returns what this replica alone may hold of a closed epoch: writes
	// that may have been acknowledged at a weak level and that the replicas that
	// settled without it have never seen. The node hands them over to the next
	// epoch as OpMerge writes. It is called after Run has ended.
	Leftovers(yield func(fulcrum.Entry) error) error

	// Status is cheap and never blocks.
	Status() Status

	// HandOver asks a leader to give its place to another replica; it returns when
	// that happened or ctx ended. Not being the leader is success.
	HandOver(ctx context.Context) error
}

// Position is a place in a group's history: of a log (Term, Index), or in quorum
// mode of time (Index is the Time of a fulcrum.Version).
type Position struct {
	Term, Index uint64
}

// WriteRequest asks for writes to one shard. When Atomic, either all of them are
// applied or none is, and one whose condition fails stops all; only a mode that
// orders writes takes Atomic requests of more than one write, and writes that are
// not Blind (others answer CodeMode).
//
// If and Else make it a transaction: where a condition in If does not hold, Else runs
// in the place of Writes. ID makes a request that comes again take effect once: it is
// answered with the first one's results. A mode that cannot give either answers CodeMode.
//
// Divisible says that the writes have nothing to do with each other but their order: where
// all of them come to too much at once (see Bounds) a group does the first of them, one at
// the least, and its reply has results of these alone. Any other request is done or refused
// as a whole.
type WriteRequest struct {
	Writes    []fulcrum.Write
	Atomic    bool
	Divisible bool
	Level     consistency.Level
	If        []fulcrum.Compare
	Else      []fulcrum.Write
	ID        fulcrum.RequestID
}

// ReadRequest asks for keys of one shard. Min is the floor that the session token
// sets: only an answer that includes every write up to it will do (zero: any).
//
// Witness, if not empty, is another replica with a vote, which the coordinator asks for
// its term from the moment of the request on. Then the leader may answer without a word
// of anybody else: with one of Acks fewer than Needed, in the term of its Position. Such
// an answer counts once the witness has said that term.
type ReadRequest struct {
	Keys    [][]byte
	Level   consistency.Level
	Min     Position
	Witness fulcrum.NodeID
}

// WriteReply is what a Write left behind. Results has one element a write of the
// branch that ran; where they are fewer, the request was Divisible, and the writes behind
// them are definitely not done.
type WriteReply struct {
	Results []fulcrum.Result
	Else    bool // a condition did not hold: Else ran
	Outcome Outcome
}

// ReadReply has one element a key, or fewer, but one at the least, where the entries come to
// more than MaxRead: they are those of the first keys. An absent key has the zero Version, or is a
// tombstone or expired: test with Entry.Live.
type ReadReply struct {
	Entries []fulcrum.Entry
	Outcome Outcome
}

// ScanRequest asks for the live entries with Start <= key < End (nil: no end), at
// most Limit of them (0: 1,000).
type ScanRequest struct {
	Start, End []byte
	Limit      int
	KeysOnly   bool
	Level      consistency.Level
	Min        Position
}

// ScanReply holds entries in key order; More says that the limit cut it off, or MaxRead: then
// there is one entry at the least.
type ScanReply struct {
	Entries []fulcrum.Entry
	More    bool
	Outcome Outcome
}

// Outcome is a group's part of the receipt.
type Outcome struct {
	Given     consistency.Level
	Leader    fulcrum.NodeID
	Acks      int // replicas that answered in time to count
	Needed    int
	Position  Position      // session floor: a read at or above it sees this
	Staleness time.Duration // negative: not known
	// ClockBound is how much the clock of another replica may gain on the leader's
	// during the lease that the answer rests on; 0: it rests on no clock.
	ClockBound time.Duration
	Hinted     int
	Repaired   int
	// Clock is what the shard's own clock (Unix milliseconds, more or less) showed at
	// the answer: the group has decided by it which entries are live, and their ExpireAt
	// is on it. 0: there is none; wall clocks decide.
	Clock int64
}

// Status is what a replica knows of its group.
type Status struct {
	Leader     fulcrum.NodeID // empty: none known, or leaderless
	IsLeader   bool
	Term       uint64
	LastIndex  uint64 // of the log
	Applied    uint64 // visible to reads here
	Committed  uint64 // known to be durable on a majority
	Fenced     bool
	CatchingUp bool          // must not answer yet: it is receiving the shard
	Behind     uint64        // entries that this replica lacks, as far as it knows
	BehindFor  time.Duration // for how long it has been behind; 0: it is not
	Hints      int           // writes kept for replicas that are away
	Keys       int           // live or not, roughly
	Bytes      int64         // keys and values, roughly
	Peers      []PeerStatus  // a leader's view of the others
}

// PeerStatus is how far another replica is, seen from a leader.
type PeerStatus struct {
	Node   fulcrum.NodeID
	Match  uint64
	Behind uint64
	Silent time.Duration // since it last answered
}
