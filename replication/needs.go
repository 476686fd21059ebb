package replication

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"fulcrum"
)

// Peers is all that a group needs of the network. What the bytes mean is the
// group's business; the node routes them to the same group and epoch over there.
//
// An error that is a *fulcrum.Error came from the other side's Handle (or says
// CodeUnavailable, CodeOverloaded: definitely not delivered); anything else,
// the deadline included, means that the message may have been handled.
type Peers interface {
	Call(ctx context.Context, to fulcrum.NodeID, msg []byte) ([]byte, error)
}

// AsyncPeers is a Peers with calls that nobody waits for: Go begins one and returns at
// once; done is called once, with what Call would return, and must not block. The caller
// may not change msg before it returns.
type AsyncPeers interface {
	Go(to fulcrum.NodeID, msg []byte, timeout time.Duration, done func(reply []byte, err error))
}

// AsyncGroup is a Group that answers some messages without a goroutine of its own.
// HandleAsync does not block; if it returns true, answer is called once, then or later,
// from any goroutine; else the message is Handle's.
type AsyncGroup interface {
	HandleAsync(from fulcrum.NodeID, msg []byte, answer func(reply []byte, err error)) (taken bool)
}

// Log is a group's part of the node's shared log, for one epoch. Indexes are
// consecutive; they start at 1 or behind the base that Reset set.
type Log interface {
	// Append stores records durably under from, from+1 ...; it returns after the
	// sync (or before it where the keyspace chose so). From must be Last()+1.
	Append(from uint64, records [][]byte) error
	// Begin is Append that returns before the sync: the records can be read at once, and
	// done is called once when they are durable, or with the error that keeps them from
	// being so. done runs on a goroutine of the log, in the order in which records were
	// begun; it must not block and must not call the log's changing methods. If Begin
	// returns an error done is not called. What is appended or cut later is durable no
	// sooner than they are. The records are the caller's again when Begin returns.
	Begin(from uint64, records [][]byte, done func(error)) error
	// Get returns the record at index, or ErrNoRecord.
	Get(index uint64) ([]byte, error)
	// Range calls f for the records lo..hi in order; f must not keep record.
	Range(lo, hi uint64, f func(index uint64, record []byte) error) error
	// First and Last are 0 when the log is empty and has no base; with a base at b
	// and no record, First is b+1 and Last is b.
	First() uint64
	Last() uint64
	// TruncateAfter removes everything above index, durably.
	TruncateAfter(index uint64) error
	// TruncateBefore removes everything below index; it may do so lazily.
	TruncateBefore(index uint64) error
	// Reset empties the log and sets its base, durably: the next index is base+1.
	Reset(base uint64) error
	// Meta and SetMeta keep small values (term, vote ...); SetMeta is one atomic,
	// durable step. A missing key gives nil.
	Meta(key string) ([]byte, error)
	SetMeta(kv map[string][]byte) error
}

// State is a group's keys and values. Apply takes effect in memory at once and
// is made durable in the background; after a crash State stands at some applied
// position, whole, and the group replays its log from there.
type State interface {
	// Get returns the entry at key, tombstones included; the zero Entry if none.
	Get(key []byte) (fulcrum.Entry, error)
	// GetFirst is Get of each key, for less, but ends behind the first one with which the
	// entries have more than most bytes of keys and values; what is applied meanwhile may
	// be in some.
	GetFirst(keys [][]byte, most int) ([]fulcrum.Entry, error)
	// Scan calls f for entries (tombstones included) with start <= key < end in
	// order, over one consistent view, until f returns false.
	Scan(start, end []byte, f func(fulcrum.Entry) bool) error
	// Apply stores entries and moves the applied position to index, in one step. An
	// entry that is nothing but a key removes what stands there.
	// The State keeps the entries' slices: the caller must not modify them. Extra are
	// small values stored in the same step (nil: none); a nil value removes its key. An
	// extra whose key contains PieceMark may be one of many, and of some size: what the
	// others hold costs nothing when it is stored.
	Apply(index uint64, entries []fulcrum.Entry, extra map[string][]byte) error
	// Applied is the position in memory, Durable the one that a crash leaves.
	Applied() uint64
	Durable() uint64
	// Flush returns when Durable has reached what Applied was at the call.
	Flush(ctx context.Context) error
	// Extra returns a value stored by Apply or Install.
	Extra(key string) ([]byte, error)
	// View is a consistent picture to stream from, while writes go on.
	View() (View, error)
	// Install replaces everything by what fill puts, in one step that a crash
	// leaves either done or not begun, and sets the applied position and extras.
	Install(index uint64, extra map[string][]byte, fill func(put func(fulcrum.Entry) error) error) error
	// Rebase keeps the entries but sets the applied position, to any value, and
	// extras, durably: the start of a new epoch.
	Rebase(index uint64, extra map[string][]byte) error
	// Keys and Bytes are rough counts.
	Keys() int
	Bytes() int64
}

// View is a consistent picture of a State at one applied position. Close it soon:
// it holds back the reuse of pages.
type View interface {
	Index() uint64
	Extra() map[string][]byte
	Scan(start, end []byte, f func(fulcrum.Entry) bool) error
	Close() error
}

// Env is what a node gives to each of its groups.
type Env struct {
	Node     fulcrum.NodeID
	Actor    uint32 // this life of this node's disk, for Versions
	Group    fulcrum.GroupID
	Epoch    fulcrum.Epoch
	Replicas []fulcrum.NodeID // all of them, this node included unless it only learns
	Zone     func(fulcrum.NodeID) string
	Peers    Peers
	Log      Log
	State    State
	Hints    State // a second, private State of the group, for what it owes others
	Spool    Spool // for what should not be in memory; nil: it is
	Clock    Clock
	Now      func() time.Time // wall time with injected skew: data only, never pace
	Rand     *rand.Rand
	Logger   *slog.Logger
	Metrics  Metrics
	MaxValue int
	// Based says that State is this epoch's common starting point. A replica that
	// is not based starts empty and must catch up from those that are before it
	// answers anything or counts in a quorum.
	Based bool
}

// Clock stamps writes; *consistency.Clock is one.
type Clock interface {
	// Next returns a version newer than every one it returned or was shown.
	Next() fulcrum.Version
	// Observe shows it a version seen elsewhere; one too far ahead of the wall
	// clock is refused.
	Observe(v fulcrum.Version) error
}

// Metrics is where groups count what only they see. Implementations are safe for
// concurrent use; node gives each group its own, with labels set.
type Metrics interface {
	LeaderChange()
	ReadRepair(n int)
	AntiEntropyRepaired(n int)
	LostAcknowledged(n int) // writes acknowledged here and then truncated
	Commit(d time.Duration) // one durable append to the log
}

// NoMetrics counts nothing.
type NoMetrics struct{}

func (NoMetrics) LeaderChange()           {}
func (NoMetrics) ReadRepair(int)          {}
func (NoMetrics) AntiEntropyRepaired(int) {}
func (NoMetrics) LostAcknowledged(int)    {}
func (NoMetrics) Commit(time.Duration)    {}

// ErrNoRecord says that a log has no record at an index: cut off, or not written.
var ErrNoRecord = errors.New("no such log record")

// PieceMark marks the keys of extras that are pieces of something larger. See State.
const PieceMark = "#"

// FloorKey is the extra of a State that holds the newest version of the epochs
// before (fulcrum.Version's text form; absent: none). Groups that stamp writes in
// an order of their own begin above it.
const FloorKey = "floor"
