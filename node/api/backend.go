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
}

// Backend is a node as its edges see it. Errors are *fulcrum.Error. Methods may be
// called from any goroutine; each obeys ctx's deadline.
type Backend interface {
	// Write applies ws. Where they fall into several shards and Atomic is not set,
	// each shard's part succeeds or fails alone: then the failed ones have
	// Result.Err set, and the error is nil unless all failed alike.
	Write(ctx context.Context, c Call, ws []fulcrum.Write) ([]fulcrum.Result, consistency.Receipt, error)
	// Read returns one entry a key; test each with Entry.Live(Now()).
	Read(ctx context.Context, c Call, keys [][]byte) ([]fulcrum.Entry, consistency.Receipt, error)
	// Scan returns live entries in key order over all shards.
	Scan(ctx context.Context, c Call, req Scan) (Page, consistency.Receipt, error)
	// Count returns about how many keys a keyspace holds (DBSIZE).
	Count(ctx context.Context, keyspace string) (int64, error)
	// Synced returns how many replicas other than the first hold everything that
	// this node acknowledged in the keyspace before the call (WAIT); it waits for
	// want of them until ctx ends, which is no error.
	Synced(ctx context.Context, keyspace string, want int) (int, error)
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

// Page is one answer to a Scan. Next, if not nil, is the After of the next page.
type Page struct {
	Entries []fulcrum.Entry
	Next    []byte
}

// Limits are what edges check before they take in bytes.
type Limits struct {
	MaxValue int
}
