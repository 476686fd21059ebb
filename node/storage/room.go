package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"fulcrum"
)

// ErrNoRoom is in the chain of the failure of a store whose disk had no room for a write.
// What was acknowledged is safe, as no sync has failed; the store can be opened again.
var ErrNoRoom = errors.New("the disk is full")

// Room is how much of a disk is free.
type Room struct{ Free, Total uint64 }

// Below this much free space the node takes no writes of clients. What is left is for
// what it cannot refuse: terms and votes, the catalog, entries of shards that others lead,
// commits of the engine, and a start, each of which would fail the store on a full disk.
const (
	reserveShare = 1000 // one part of so many of the disk
	reserveLeast = 64 << 20
	reserveMost  = 1 << 30 // a share of a large disk would be more than it takes
	startNeeds   = 32 << 20
	roomEvery    = time.Second
)

// reserve is how much is to be free. When it was not, a quarter more must be, so that a
// node at the mark does not waver.
func (r Room) reserve(low bool) uint64 {
	n := min(max(r.Total/reserveShare, reserveLeast), reserveMost)
	if low {
		n += n / 4
	}
	return n
}

// room watches the free space of the data directory's disk.
type room struct {
	look func() (Room, error) // nil: it is not watched
	dir  string

	mu  sync.Mutex
	low error // why no write is taken; nil: they are
}

// roomOf asks the file system of a directory.
func roomOf(dir string) func() (Room, error) {
	return func() (Room, error) {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			return Room{}, err
		}
		return Room{Free: st.Bavail * uint64(st.Bsize), Total: st.Blocks * uint64(st.Bsize)}, nil
	}
}

// check looks once, and returns whether that changed anything. What cannot be found out
// changes nothing.
func (r *room) check() (changed bool, now error) {
	if r.look == nil {
		return false, nil
	}
	is, err := r.look()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		return false, r.low
	}
	was := r.low
	switch need := is.reserve(was != nil); {
	case is.Free >= need:
		r.low = nil
	default:
		r.low = fulcrum.Errorf(fulcrum.CodeDisk, "the disk of %s has %d MiB free of %d MiB: below %d MiB this node takes no writes", r.dir, is.Free>>20, is.Total>>20, need>>20).
			WithHint("free some space on it: the node goes on by itself")
	}
	return (was != nil) != (r.low != nil), r.low
}

// toStart returns an error if there may not be enough for a start, which writes what stands
// in the log's last files into tables. Pebble would try that again and again, without a
// pause, until there is.
func (r *room) toStart() error {
	if r.look == nil {
		return nil
	}
	if is, err := r.look(); err == nil && is.Free < startNeeds {
		return diskError(syscall.ENOSPC, "the disk of %s has %d MiB free, and a start may take %d MiB", r.dir, is.Free>>20, startNeeds>>20)
	}
	return nil
}

// spare returns an error where what can come again, like a snapshot, must not take more: it
// looks now, as that may be written faster than room is looked at.
func (r *room) spare() error {
	if r.look == nil {
		return nil
	}
	is, err := r.look()
	if err != nil || is.Free >= is.reserve(true) {
		return nil
	}
	return fulcrum.Errorf(fulcrum.CodeDisk, "the disk of %s has %d MiB free of %d MiB: below %d MiB this node takes no snapshots", r.dir, is.Free>>20, is.Total>>20, is.reserve(true)>>20).
		WithHint("free some space on it: a snapshot needs as much as its shard, twice where it is installed, and then comes again by itself")
}

func (r *room) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.low
}

// Room returns nil, or why this node should take no write from a client: there is so
// little room on its disk that what is left is kept for what cannot be refused.
func (s *Store) Room() error { return s.room.err() }

// mindRoom looks at the free space until ctx ends.
func (s *Store) mindRoom(ctx context.Context) error {
	if s.room.look == nil {
		return nil
	}
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for {
		s.lookAtRoom()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Store) lookAtRoom() {
	switch changed, low := s.room.check(); {
	case !changed:
	case low != nil:
		s.logger.Error("the disk is almost full: no writes are taken", "err", low)
	default:
		s.logger.Info("there is room on the disk again: writes are taken")
	}
}

// noRoom adds ErrNoRoom to the failure of a write that was refused for lack of room, and
// to no other. A sync that fails is something else, whatever it says: the system may have
// dropped what it could not write, and then shows it all the same until it is read from
// the disk (fsyncgate). What was written stays, and is written again or found torn.
func noRoom(err error, synced bool) error {
	if synced || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoRoom, err)
}

// refusedWrite reports whether err is of a call that writes, as the system's errors tell,
// where it is not known otherwise what failed.
func refusedWrite(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p) && (p.Op == "write" || p.Op == "truncate" || p.Op == "open")
}
