// Package api is the seam between a node and the protocols that its users speak
// (resp, http): each of those turns bytes into calls on Backend and back, and
// knows nothing else of the node.
package api

import (
	"context"

	"fulcrum"
	"fulcrum/consistency"
)

// Call is what every request to a keyspace carries. The zero Level asks for the
// keyspace's default, the empty Session for no session guarantee.
type Call struct {
	Keyspace string
	Level    consistency.Level
	Session  consistency.Token
	Atomic   bool // writes: all or none; only within one shard, in a mode that can
	// ID makes a write or a transaction that comes again take effect once; only a mode
	// that keeps ids takes it (others answer CodeMode).
	ID fulcrum.RequestID
	// First says of a read that where the values come to much, those of the first keys will
	// do: so whoever reads very many keys takes little memory at a time.
	First bool
	// Untracked spares the signing of the receipt's session token: Receipt.Unsealed makes
	// it for whoever wants it after all.
	Untracked bool
}

// Backend is a node as its edges see it. Errors are *fulcrum.Error. Methods may be
// called from any goroutine; each obeys ctx's deadline.
type Backend interface {
	// Write applies ws. Where they fall into several shards and Atomic is not set,
	// each shard's part succeeds or fails alone: then the failed ones have
	// Result.Err set, and the error is nil unless all failed alike.
	Write(ctx context.Context, c Call, ws []fulcrum.Write) ([]fulcrum.Result, consistency.Receipt, error)
	// Read returns one entry a key, or, if First is set, at least one and perhaps fewer, of
	// the first keys; test each with Entry.Live(Now()).
	Read(ctx context.Context, c Call, keys [][]byte) ([]fulcrum.Entry, consistency.Receipt, error)
	// Txn runs t as one step of one shard.
	Txn(ctx context.Context, c Call, t Txn) (TxnReply, consistency.Receipt, error)
	// Watch calls emit with the changes to a range of keys, in order, until ctx ends
	// (nil), emit fails, or the stream must end: CodeCompacted when changes behind
	// req.After are no longer kept, or emit was too slow for them to be. The first
	// batch comes at once, and is empty unless there is something behind req.After.
	Watch(ctx context.Context, c Call, req Watch, emit func(WatchBatch) error) error
	// Scan returns live entries in key order over all shards.
	Scan(ctx context.Context, c Call, req Scan) (Page, consistency.Receipt, error)
	// Count returns about how many keys a keyspace holds (DBSIZE).
	Count(ctx context.Context, keyspace string) (int64, error)
	// Synced returns how many replicas other than the first hold everything that
	// this node acknowledged in the keyspace before the call (WAIT); it waits for
	// want of them until ctx ends, which is no error.
	Synced(ctx context.Context, keyspace string, want int) (int, error)
	// CheckSession refuses, with CodeInvalid, what is no session token of this cluster.
	CheckSession(t consistency.Token) error
	// Now is the node's clock in Unix milliseconds, for expiry.
	Now() int64

	Keyspaces() []fulcrum.KeyspaceInfo
	Keyspace(name string) (fulcrum.KeyspaceInfo, error)   // with ShardList
	KeyspaceByID(id uint32) (fulcrum.KeyspaceInfo, error) // without ShardList; cheap
	CreateKeyspace(ctx context.Context, spec fulcrum.KeyspaceSpec) (fulcrum.KeyspaceInfo, error)
	AlterKeyspace(ctx context.Context, name string, patch fulcrum.KeyspacePatch) (fulcrum.KeyspaceInfo, error)
	DropKeyspace(ctx context.Context, name string) error

	Cluster() fulcrum.ClusterInfo
	Shards() []fulcrum.ShardInfo
	RemoveNode(ctx context.Context, name fulcrum.NodeID) error // moves its replicas away, then forgets it

	Faults() []fulcrum.Fault
	AddFault(f fulcrum.Fault) error
	HealFaults(ids []string) error // nil: all

	Live() []fulcrum.Health
	Ready() []fulcrum.Health
	Limits() Limits
}

// Scan asks for live entries with Start <= key < End (nil: no end), after After if
// given, at most Limit (0: 1,000).
type Scan struct {
	Prefix, Start, End, After []byte
	Limit                     int
	KeysOnly                  bool
}

// Txn is a transaction on one shard (as etcd's): if every condition in If holds the
// writes of Then run in order, each seeing those before it, else those of Else. A
// write may be an OpGet. When Atomic, one that fails or whose own condition does not
// hold undoes all (HTTP); otherwise the others stand (EXEC of Redis).
type Txn struct {
	If         []fulcrum.Compare
	Then, Else []fulcrum.Write
	Atomic     bool
}

// TxnReply has one result for each write of the branch that ran.
type TxnReply struct {
	Succeeded bool // Then ran
	Results   []fulcrum.Result
}

// Watch asks for the changes to keys with Start <= key < End (nil: no end) that begin
// with Prefix, behind After: the Next of a batch, or a version in its text form, or
// empty: from now on.
type Watch struct {
	Prefix, Start, End []byte
	After              string
}

// WatchBatch is what happened next. All changes of one request are in one batch. A
// watch that goes on behind Next misses nothing and repeats nothing; an empty batch is
// a sign of life, and says that nothing happened up to Next.
type WatchBatch struct {
	Events []fulcrum.Event
	Next   string
}

// Page is one answer to a Scan. Next, if not nil, is the After of the next page.
type Page struct {
	Entries []fulcrum.Entry
	Next    []byte
}

// Limits are what edges check before they take in bytes.
type Limits struct {
	MaxValue int
}
