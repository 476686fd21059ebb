package raft

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Tuning sets pace and bounds. The zero value of a field means its default.
type Tuning struct {
	Heartbeat   time.Duration // without word from a leader for so long, a follower asks for an election; default 1s
	Election    time.Duration // how long a candidate tries; at least Heartbeat; default 1s
	LeaderLease time.Duration // a leader that hears of no majority for so long steps down; at most Heartbeat; default 800ms: three heartbeats, and a little
	Lease       time.Duration // what a leader asks its voters to promise for reads at level lease, and how long a restarted voter abstains; at most Election; default Election/2
	RPC         time.Duration // how long one message to a peer may take; default Election
	Stall       time.Duration // a leader whose disk takes longer for one step gives its place away; default Heartbeat

	SnapshotEvery    time.Duration // how often to look whether the log can be cut; default 30s
	SnapshotEntries  uint64        // cut the log after so many entries; default 8192
	SnapshotBytes    int64         // or after so many bytes of entries; default 64 MiB
	TrailingEntries  uint64        // entries kept behind a cut for replicas that are a little behind; default 4096
	MaxSnapshotBytes int64         // the largest shard that a replica takes in from a peer; default 64 GiB
	HoldBytes        int64         // how far the log may grow for a peer that is catching up; default 8 times SnapshotBytes
	Install          time.Duration // how long a replica that has received a snapshot may not say that it installs it; default 2m

	MaxAppendEntries int // entries in one message; default 64
	MaxAppendBytes   int // and their bytes, less over a link that is slow (see flow); an entry that is larger goes in parts; default 4 MiB, at most 8 MiB
	BatchRequests    int // requests in one log entry; default 1024
	BatchBytes       int // bytes in one log entry, unless one request is larger; default 1 MiB
	Queue            int // requests waiting for the next entry; more are refused; default 8192
	Reads            int // reads waiting for the next confirmation round; more are refused; default 16384
	CacheBytes       int // newest log entries kept in memory; default 2 MiB
	ChangeEvents     int // newest changes kept in memory for watches; default 32,768
	ChangeBytes      int // and their bytes, about; default 3 MiB, at most 8 MiB
	ChangePiece      int // a log entry that changes more is told in pieces of about so many bytes, never less than a request; the same on all replicas; default 1 MiB
}

// maxChangeBytes bounds what a shard keeps for watches that are away.
const maxChangeBytes = 8 << 20

// maxAppendBytes lets an append, with its head, fit into one message between nodes.
const maxAppendBytes = 8 << 20

func (t Tuning) withDefaults() Tuning {
	t.Heartbeat = cmp.Or(t.Heartbeat, time.Second)
	t.Election = cmp.Or(t.Election, t.Heartbeat)
	t.LeaderLease = cmp.Or(t.LeaderLease, t.Heartbeat*4/5)
	t.Lease = cmp.Or(t.Lease, t.Election/2)
	t.RPC = cmp.Or(t.RPC, t.Election)
	t.Stall = cmp.Or(t.Stall, t.Heartbeat)
	t.SnapshotEvery = cmp.Or(t.SnapshotEvery, 30*time.Second)
	t.SnapshotEntries = cmp.Or(t.SnapshotEntries, 8192)
	t.SnapshotBytes = cmp.Or(t.SnapshotBytes, 64<<20)
	t.TrailingEntries = cmp.Or(t.TrailingEntries, 4096)
	t.MaxSnapshotBytes = cmp.Or(t.MaxSnapshotBytes, 64<<30)
	t.HoldBytes = cmp.Or(t.HoldBytes, 8*t.SnapshotBytes)
	t.Install = cmp.Or(t.Install, 2*time.Minute)
	t.MaxAppendEntries = cmp.Or(t.MaxAppendEntries, 64)
	t.MaxAppendBytes = cmp.Or(t.MaxAppendBytes, 4<<20)
	t.BatchRequests = cmp.Or(t.BatchRequests, 1024)
	t.BatchBytes = cmp.Or(t.BatchBytes, 1<<20)
	t.Queue = cmp.Or(t.Queue, 8192)
	t.Reads = cmp.Or(t.Reads, 16384)
	t.CacheBytes = cmp.Or(t.CacheBytes, 2<<20)
	t.ChangeEvents = cmp.Or(t.ChangeEvents, 32768)
	t.ChangeBytes = cmp.Or(t.ChangeBytes, 3<<20)
	t.ChangePiece = cmp.Or(t.ChangePiece, 1<<20)
	return t
}

// Validate reports everything wrong at once, with the values it saw.
func (t Tuning) Validate() error {
	t = t.withDefaults()
	var errs []error
	if t.Heartbeat < 10*time.Millisecond || t.Election < t.Heartbeat || t.LeaderLease > t.Heartbeat || t.LeaderLease < 5*time.Millisecond {
		errs = append(errs, fmt.Errorf("heartbeat %s, election %s, leader lease %s: want 5ms <= lease <= heartbeat <= election and heartbeat >= 10ms", t.Heartbeat, t.Election, t.LeaderLease))
	}
	if t.Lease < time.Millisecond || t.Lease > t.Election {
		errs = append(errs, fmt.Errorf("lease %s: want 1ms <= lease <= election (%s): a longer one delays a failover", t.Lease, t.Election))
	}
	if t.RPC < time.Millisecond || t.Stall < time.Millisecond || t.SnapshotEvery < 5*time.Millisecond || t.Install < time.Millisecond {
		errs = append(errs, fmt.Errorf("rpc %s, stall %s, snapshot every %s, install %s: too short", t.RPC, t.Stall, t.SnapshotEvery, t.Install))
	}
	if t.MaxAppendEntries < 1 || t.MaxAppendEntries > 1024 {
		errs = append(errs, fmt.Errorf("max append entries %d: want 1..1024", t.MaxAppendEntries))
	}
	if t.MaxAppendBytes < 1 || t.MaxAppendBytes > maxAppendBytes {
		errs = append(errs, fmt.Errorf("max append bytes %d: want 1..%d", t.MaxAppendBytes, maxAppendBytes))
	}
	if t.BatchRequests < 1 || t.BatchBytes < 1 || t.BatchBytes > maxItemBytes || t.Queue < 1 || t.Reads < 1 || t.CacheBytes < 0 {
		errs = append(errs, fmt.Errorf("batch %d requests, %d bytes, queue %d, reads %d, cache %d: out of bounds", t.BatchRequests, t.BatchBytes, t.Queue, t.Reads, t.CacheBytes))
	}
	if t.ChangeEvents < 1 || t.ChangeBytes < 1 || t.ChangeBytes > maxChangeBytes || t.ChangePiece < 1 || t.ChangePiece > maxChangeBytes {
		errs = append(errs, fmt.Errorf("changes kept: %d, %d bytes, in pieces of %d: want at least one, and at most %d bytes", t.ChangeEvents, t.ChangeBytes, t.ChangePiece, maxChangeBytes))
	}
	return errors.Join(errs...)
}
