package consistency

import (
	"time"

	"fulcrum"
)

// Receipt is what a reply says about itself. Level is what was asked (after the
// default was filled in), Given what was really kept: never less, or the request
// failed.
type Receipt struct {
	Keyspace  string
	Mode      Mode
	Shard     fulcrum.GroupID
	Epoch     fulcrum.Epoch
	Level     Level
	Given     Level
	Node      fulcrum.NodeID  // the coordinator
	Leader    fulcrum.NodeID  // who ordered it; empty in quorum mode
	Acks      int             // replicas that answered, coordinator's own included
	Needed    int             // replicas that had to answer
	Replicas  int             // replicas that the shard has
	Version   fulcrum.Version // of the entry written or read
	Found     bool            // a live value stands at a key of the request: after a delete none does
	Durable   string          // "fsync", "interval" or "memory"
	Staleness time.Duration   // how old the answer may be at the most; negative: not known
	// ClockBound is what the answer rests on, if it rests on a lease: no other replica's
	// clock gains so much on the leader's meanwhile. 0: it rests on no clock.
	ClockBound time.Duration
	Hinted     int   // hints left for replicas that were away
	Repaired   int   // replicas brought up to date by this read
	Siblings   int   // concurrent versions seen
	Session    Token // the token to send with the next request
	Latency    time.Duration
	Unsealed   *Unsealed // in the place of Session, where the request did not ask for that; else nil
}
