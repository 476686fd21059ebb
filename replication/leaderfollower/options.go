package leaderfollower

import (
	"cmp"
	"time"
)

// Options are what a leader-follower group needs beside its Env.
type Options struct {
	// Lease is this node's liveness lease: until is compared with time.Now and
	// should carry a monotonic reading; ok is false when there is none. Required.
	Lease func() (until time.Time, ok bool)
	// ClockBound is how much the clock of another node may gain on this one's during a
	// lease; receipts say so.
	ClockBound time.Duration
	// LostDir is where writes that were acknowledged here and then lost are kept,
	// as JSON lines. Empty: they are only counted.
	LostDir string
	// MaxUncommitted bounds the bytes that wait to be ordered, or are ordered and
	// not yet applied, at a leader; past it writes get CodeOverloaded. 0: 64 MiB.
	MaxUncommitted int64
	// MaxWaiting bounds the requests that wait to be ordered. 0: 8,192.
	MaxWaiting int
	// Heartbeat is how often an idle leader tells its followers so. 0: 500 ms.
	Heartbeat time.Duration
	// CallTimeout bounds one message to a follower, a snapshot's chunks apart. 0: 1 s.
	CallTimeout time.Duration
	// KeepTail is how many applied records stay in the log for followers that were
	// away for a moment. 0: 8,192.
	KeepTail uint64
}

const (
	defaultMaxUncommitted = 64 << 20
	defaultMaxWaiting     = 8192
	defaultKeepTail       = 8192

	batchRecords  = 512       // requests in one append
	batchCost     = 16 << 20  // of what the requests of one append come to; one more may be in it
	recordBytes   = 16 << 20  // of records in memory at once, but for one
	batchBytes    = 1 << 20   // in one append, and in one message to a follower
	chunkBytes    = 256 << 10 // of a snapshot
	cacheBytes    = 4 << 20   // of applied records kept in memory to ship
	inSyncSilence = 2 * time.Second
	inSyncLag     = 10_000 // records
	failingAfter  = time.Second
	sessionWait   = 100 * time.Millisecond
	handOverWait  = time.Second
	chunkTimeout  = 5 * time.Second
	finishTimeout = 30 * time.Second // the last chunk: the follower commits it all
)

func (o Options) withDefaults() Options {
	o.MaxUncommitted = cmp.Or(o.MaxUncommitted, defaultMaxUncommitted)
	o.MaxWaiting = cmp.Or(o.MaxWaiting, defaultMaxWaiting)
	o.Heartbeat = cmp.Or(o.Heartbeat, 500*time.Millisecond)
	o.CallTimeout = cmp.Or(o.CallTimeout, time.Second)
	o.KeepTail = cmp.Or(o.KeepTail, defaultKeepTail)
	return o
}
