package workload

import (
	"context"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// Client is a process's way to the cluster, simulated or real. Do sends one request to
// one node, once: no retry and no other node, so that what happened is what is
// recorded. Errors are *fulcrum.Error: Maybe says that the outcome is unknown.
//
// A Watch listens for WatchFor, or until it was told enough, and is done when it was told
// anything at all: what came in whole batches counts, whatever ended it.
//
// A CAS whose condition does not hold is no error: Reply.Applied is false.
type Client interface {
	Do(ctx context.Context, rq Request) (Reply, error)
}

// How long a Watch listens, and how many changes are enough.
const (
	WatchFor  = time.Second
	WatchMost = 200
)

// Request is one operation to be done.
type Request struct {
	Keyspace string
	Node     fulcrum.NodeID
	F        history.F
	Level    consistency.Level
	Session  consistency.Token // sent along when not empty
	Key      string            // Scan: the prefix; Txn: what all its keys begin with
	Value    string            // Watch: the position
	Expect   fulcrum.Version   // CAS; zero: the key must be absent
	TTL      time.Duration     // Write, CAS; in whole milliseconds
	ID       fulcrum.RequestID // Incr: if it comes again under the same id it counts once
}

// Reply is what came back.
type Reply struct {
	Applied  bool // CAS
	Found    bool // Read; Txn: Then was done
	Value    string
	Elements []history.Element
	Version  fulcrum.Version
	Receipt  consistency.Receipt // as far as there was one, on errors too
}
