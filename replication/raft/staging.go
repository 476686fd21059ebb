package raft

import (
	"errors"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

// staging collects the snapshots that peers are sending, whole, before anybody installs
// them.
//
// It holds one transfer a peer, two at the most. mu is never held during I/O.
type staging struct {
	spool replication.Spool

	mu     sync.Mutex
	from   map[fulcrum.NodeID]*transfer
	closed bool // the replica stops: nothing is kept any more
}

type transfer struct {
	id    uint64
	data  *spooled
	busy  bool // a chunk is being written
	touch time.Time
}

const transferIdle = 30 * time.Second

// take adds a chunk; with the last one it returns the whole, which the caller closes.
func (s *staging) take(from fulcrum.NodeID, c chunk, limit int64) (*spooled, error) {
	t, err := s.begin(from, c, limit)
	if err != nil {
		return nil, err
	}
	again := min(t.data.size-int64(c.offset), int64(len(c.data))) // it has come before, or some of it
	if _, err := t.data.Write(c.data[again:]); err != nil {
		s.end(from, t)
		_ = t.data.Close()
		return nil, spoolError(err)
	}
	if closed := s.wrote(from, t, c.last); closed {
		return nil, errors.Join(fulcrum.Errorf(fulcrum.CodeUnavailable, "this replica is stopping"), t.data.Close())
	}
	if !c.last {
		return nil, nil
	}
	if t.data.sum.Sum64() != c.sum {
		size := t.data.size
		_ = t.data.Close()
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "snapshot of %d bytes arrived damaged", size)
	}
	return t.data, nil
}

// wrote ends the writing of a chunk. A transfer that is whole is the caller's from now on, and
// so is each when the replica has stopped meanwhile.
func (s *staging) wrote(from fulcrum.NodeID, t *transfer, last bool) (closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.touch, t.busy = time.Now(), false
	if (last || s.closed) && s.from[from] == t {
		delete(s.from, from)
	}
	return s.closed
}

// keep notes that the sender of a transfer is there, which it adds nothing to for now.
func (s *staging) keep(from fulcrum.NodeID, c chunk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.at(from, c)
	if err == nil {
		t.touch = time.Now()
	}
	return err
}

// begin finds, or makes, the transfer that a chunk belongs to, and marks it busy.
func (s *staging) begin(from fulcrum.NodeID, c chunk, limit int64) (*transfer, error) {
	s.mu.Lock()
	gone := s.expire(time.Now())
	t, err := s.at(from, c)
	switch {
	case err != nil:
	case t.data.size+int64(len(c.data)) > limit:
		err = fulcrum.Errorf(fulcrum.CodeTooLarge, "snapshot of more than %d bytes", limit)
		delete(s.from, from)
		gone = append(gone, t.data)
	default:
		if old := s.from[from]; old != nil && old != t {
			gone = append(gone, old.data)
		}
		s.from[from] = t
		t.touch, t.busy = time.Now(), true
	}
	s.mu.Unlock()
	closeAll(gone)
	return t, err
}

// at is the transfer that a chunk belongs to; a new one is not in from yet. The caller
// holds mu.
func (s *staging) at(from fulcrum.NodeID, c chunk) (*transfer, error) {
	t := s.from[from]
	switch {
	case s.closed:
		return nil, fulcrum.Errorf(fulcrum.CodeUnavailable, "this replica is stopping")
	case t != nil && t.busy:
		return nil, fulcrum.Errorf(fulcrum.CodeOverloaded, "the chunk before is still being written")
	case c.offset == 0 && t == nil && len(s.from) >= 2:
		return nil, fulcrum.Errorf(fulcrum.CodeOverloaded, "two snapshots are being received already")
	case c.offset == 0 && (t == nil || t.id != c.transfer):
		return &transfer{id: c.transfer, data: newSpooled(s.spool)}, nil
	case t == nil || t.id != c.transfer || t.data.size < int64(c.offset):
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "snapshot chunk at byte %d does not continue a transfer", c.offset)
	}
	return t, nil
}

func closeAll(gone []*spooled) {
	for _, d := range gone {
		_ = d.Close() // a file that cannot be removed goes at the next start
	}
}

func (s *staging) end(from fulcrum.NodeID, t *transfer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.from[from] == t {
		delete(s.from, from)
	}
}

// expire forgets transfers whose sender has gone, and returns their data. The caller
// holds mu.
func (s *staging) expire(now time.Time) (gone []*spooled) {
	for from, t := range s.from {
		if !t.busy && now.Sub(t.touch) > transferIdle {
			delete(s.from, from)
			gone = append(gone, t.data)
		}
	}
	return gone
}

func (s *staging) sweep() {
	s.mu.Lock()
	gone := s.expire(time.Now())
	s.mu.Unlock()
	closeAll(gone)
}

// clear drops everything: the replica stops.
func (s *staging) clear() {
	s.mu.Lock()
	s.closed = true
	var gone []*spooled
	for from, t := range s.from {
		if !t.busy { // else its writer finds out
			gone = append(gone, t.data)
			delete(s.from, from)
		}
	}
	s.mu.Unlock()
	closeAll(gone)
}

func spoolError(err error) error {
	if e := fulcrum.AsError(err); e.Code == fulcrum.CodeDisk {
		return e
	}
	return fulcrum.Errorf(fulcrum.CodeDisk, "keep a snapshot that is received: %w", err).WithHint("free some space on the data directory's disk")
}
