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
// A CAS whose condition does not hold is no error: Reply.Applied is false.
type Client interface {
	Do(ctx context.Context, rq Request) (Reply, error)
}

// Request is one operation to be done.
type Request struct {
	Keyspace string
	Node     fulcrum.NodeID
	F        history.F
	Level    consistency.Level
	Session  consistency.Token // sent along when not empty
	Key      string            // Scan: the prefix; Txn: what all its keys begin with
	Value    string
	Expect   fulcrum.Version // CAS; zero: the key must be absent
	TTL      time.Duration   // Write
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
