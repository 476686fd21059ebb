package raft

import (
	"bytes"
	"fmt"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

// extraWall says how far ToWallClock got: the epoch, and the key from which on entries are
// on the log's clock still; without a key in it none is.
const extraWall = "raft/wall"

// Less than this the log's clock may differ from wall clocks for expiries to be left as they
// are: wall clocks differ, too. A large State is so spared from being rewritten.
const wallTolerance = 250 * time.Millisecond

// wallBatch is how many entries ToWallClock rewrites in one step, and wallBytes about how
// large they are together.
const (
	wallBatch = 1024
	wallBytes = 1 << 20
)

// ToWallClock puts the expiries of a State that leaves mode raft, at the fence of epoch e,
// on wall clocks, by which the other modes go. The log's clock stands still while nobody
// leads, so it may be late by hours; what has an hour to live on it would be gone at once.
//
// By how much is part of the log: the fence carries the estimate of the log's clock and the
// wall clock of the leader that proposed it. So all replicas that settle at the fence do the
// same, and versions stay what they are. Steps are atomic with the place that they got to
// (State.Apply), and the State stands at the fence: a crash repeats none. The extras that it
// returns are to be stored with the beginning of the next epoch.
func ToWallClock(state replication.State, e fulcrum.Epoch) (extra map[string][]byte, err error) {
	b, err := state.Extra(extraProgress)
	if err != nil {
		return nil, err
	}
	p, err := decodeProgress(b, e)
	if err != nil {
		return nil, err
	}
	late := p.late / int64(time.Millisecond)
	from, done, err := wallPlace(state, e)
	if err != nil || done || time.Duration(p.late).Abs() < wallTolerance {
		return map[string][]byte{extraWall: nil}, err
	}
	for !done {
		var some []fulcrum.Entry
		size := 0
		done = true
		err := state.Scan(from, nil, func(e fulcrum.Entry) bool {
			if len(some) >= wallBatch || size >= wallBytes {
				from, done = bytes.Clone(e.Key), false
				return false
			}
			if e.ExpireAt != 0 {
				e.Key, e.Value, e.ExpireAt = bytes.Clone(e.Key), bytes.Clone(e.Value), max(1, plus(e.ExpireAt, late))
				some = append(some, e)
				size += len(e.Key) + len(e.Value)
			}
			return true
		})
		if err != nil {
			return nil, err
		}
		place := uvarints(nil, uint64(e))
		if !done {
			place = fulcrum.AppendBytes(place, from)
		}
		if err := state.Apply(state.Applied(), some, map[string][]byte{extraWall: place}); err != nil {
			return nil, err
		}
	}
	return map[string][]byte{extraWall: nil}, nil
}

// wallPlace is how far ToWallClock got in an epoch.
func wallPlace(state replication.State, e fulcrum.Epoch) (from []byte, done bool, err error) {
	b, err := state.Extra(extraWall)
	if err != nil || len(b) == 0 {
		return nil, false, err
	}
	r := fulcrum.NewReader(b)
	epoch := fulcrum.Epoch(r.Uvarint())
	if done = len(r.Rest()) == 0; !done {
		from = r.Bytes()
	}
	if err := finish(r); err != nil {
		return nil, false, fmt.Errorf("extra %q: %w", extraWall, err)
	}
	if epoch != e {
		return nil, false, nil
	}
	return from, done, nil
}
