package raft

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
)

// Keys in the log's meta.
const (
	metaHard     = "raft/hard" // protocol.HardState
	metaSnapshot = "raft/snapshot"
	metaProbe    = "raft/probe"
	metaOld      = "CurrentTerm" // of builds over hashicorp/raft
)

// store is the protocol's log over a replication.Log, with the newest entries in memory.
//
// Fail-stop: the first I/O error calls fail, after which no message goes in or out;
// behind that wall the store may answer anything, as a crashed replica's state is seen
// by nobody.
type store struct {
	log    replication.Log
	metric replication.Metrics
	fail   func(error)
	failed atomic.Bool
	disk   diskWatch
	bounds storeBounds

	mu          sync.Mutex
	first, last uint64           // the entries that there are; last < first: none
	snap        position         // what the newest snapshot stands for
	tail        []protocol.Entry // the newest entries, up to last
	tailSize    int
	unsynced    []uint64 // see durable.go
	bytesSince  int64    // appended since the last snapshot
	countSince  uint64
	appended    int64 // ever, by this life
	holds       holds
}

// position is a place in the log.
type position struct{ index, term uint64 }

// storeBounds are what a store does not go beyond.
type storeBounds struct {
	cache   int   // bytes of entries kept in memory
	entries int   // in one message
	hold    int64 // see holds
}

func openStore(log replication.Log, metric replication.Metrics, b storeBounds, fail func(error)) *store {
	s := &store{log: log, metric: metric, fail: fail, bounds: b}
	s.first, s.last = max(log.First(), 1), log.Last()
	return s
}

// broken calls fail once and returns err.
func (s *store) broken(op string, err error) error {
	err = fmt.Errorf("%s: %w", op, err)
	if !s.failed.Swap(true) {
		s.fail(err)
	}
	return err
}

var errFailed = errors.New("the log has failed")

// First implements protocol.Log.
func (s *store) First() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// Last implements protocol.Log.
func (s *store) Last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Snapshot implements protocol.Log.
func (s *store) Snapshot() (index, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snap.index, s.snap.term
}

// Term implements protocol.Log.
func (s *store) Term(index uint64) (uint64, bool) {
	s.mu.Lock()
	switch from := s.tailFrom(); {
	case index == 0:
		s.mu.Unlock()
		return 0, true
	case index == s.snap.index:
		defer s.mu.Unlock()
		return s.snap.term, true
	case index >= from && index <= s.last:
		defer s.mu.Unlock()
		return s.tail[index-from].Term, true
	}
	s.mu.Unlock()
	e, ok := s.entry(index)
	return e.Term, ok
}

// tailFrom is the first entry in memory. The caller holds mu.
func (s *store) tailFrom() uint64 { return s.last + 1 - uint64(len(s.tail)) }

// entry reads one entry; ok is false if it is not there, or the disk has failed.
func (s *store) entry(index uint64) (e protocol.Entry, ok bool) {
	es, ok := s.read(index, 1, 0)
	if !ok {
		return e, false
	}
	return es[0], true
}

// Entries implements protocol.Log.
func (s *store) Entries(from uint64, bytes int) ([]protocol.Entry, bool) {
	return s.read(from, s.bounds.entries, bytes)
}

// read returns up to most entries from an index on, of no more than so many bytes, but at
// least one. No more than those are read from the disk, and the one that is too much.
func (s *store) read(from uint64, most, bytes int) ([]protocol.Entry, bool) {
	s.mu.Lock()
	at, last := s.tailFrom(), s.last
	if from < s.first || from > last {
		s.mu.Unlock()
		return nil, false
	}
	if from >= at {
		defer s.mu.Unlock()
		return slices.Clone(fitting(s.tail[from-at:], most, bytes)), true // drop clears what the caller is still reading
	}
	s.mu.Unlock()
	es, err := s.fromDisk(from, min(last, from+uint64(most)-1), bytes)
	if err != nil && s.First() <= from { // else it was cut off meanwhile
		_ = s.broken(fmt.Sprintf("read the log from %d", from), err)
	}
	return es, err == nil && !s.failed.Load()
}

// recordHead is about what a record needs besides its data.
const recordHead = 32

// readBytesAtOnce is how much is read of the log where all of it is.
const readBytesAtOnce = 4 << 20

// fitting is as many entries as are to be had at once, at least one.
func fitting(es []protocol.Entry, most, bytes int) []protocol.Entry {
	size := 0
	for i, e := range es {
		if size += len(e.Data) + recordHead; i > 0 && (size > bytes || i == most) {
			return es[:i]
		}
	}
	return es
}

func (s *store) fromDisk(lo, hi uint64, bytes int) (es []protocol.Entry, err error) {
	size := 0
	err = s.log.Range(lo, hi, func(index uint64, record []byte) error {
		if size += len(record) + recordHead; len(es) > 0 && size > bytes {
			return errEnough
		}
		e, err := readRecord(record, index)
		if err != nil {
			return err
		}
		es = append(es, e)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return es, err
}

var errEnough = errors.New("enough")

// begin appends entries; done is called once they are durable, and never if the disk
// fails. It must not block.
func (s *store) begin(entries []protocol.Entry, done func()) error {
	if s.failed.Load() {
		return errFailed
	}
	from := entries[0].Index
	buf := borrow()
	defer buf.giveBack()
	records := buf.records(entries)
	size := len(buf.b)
	synced := s.follow(from, done)
	if err := s.log.Begin(from, records, synced); err != nil {
		return s.broken(fmt.Sprintf("append log entry %d", from), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last < s.first {
		s.first = from
	}
	s.last = from + uint64(len(entries)) - 1
	s.bytesSince += int64(size)
	s.appended += int64(size)
	s.countSince += uint64(len(entries))
	for _, e := range entries {
		s.tail = append(s.tail, e)
		s.tailSize += len(e.Data) + 64
	}
	s.shrink()
	return nil
}

// shrink drops the oldest entries in memory over the limit. The caller holds mu.
func (s *store) shrink() {
	n := 0
	for ; n < len(s.tail) && s.tailSize > s.bounds.cache; n++ {
		s.tailSize -= len(s.tail[n].Data) + 64
	}
	s.drop(n)
}

// drop forgets the n oldest entries in memory. The caller holds mu, and has counted.
func (s *store) drop(n int) {
	clear(s.tail[:n])
	s.tail = s.tail[n:]
}

// cut drops the entries behind an index, durably: a deposed leader's, never committed.
func (s *store) cut(at uint64) error {
	if s.failed.Load() {
		return errFailed
	}
	end := s.disk.begin()
	err := s.log.TruncateAfter(at)
	end()
	if err != nil {
		return s.broken(fmt.Sprintf("cut the log after %d", at), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at >= s.last {
		return nil
	}
	keep := len(s.tail) - int(min(s.last-at, uint64(len(s.tail))))
	for _, e := range s.tail[keep:] {
		s.tailSize -= len(e.Data) + 64
	}
	clear(s.tail[keep:])
	s.tail, s.last = s.tail[:keep], at
	return nil
}

// compact drops the entries before an index, or fewer where somebody needs them.
func (s *store) compact(before uint64) error {
	s.mu.Lock()
	if keep := s.kept(); keep > 0 {
		before = min(before, keep)
	}
	before = min(before, s.snap.index+1, s.last+1)
	if before <= s.first || s.failed.Load() {
		s.mu.Unlock()
		return nil
	}
	n := 0
	for from := s.tailFrom(); n < len(s.tail) && from+uint64(n) < before; n++ {
		s.tailSize -= len(s.tail[n].Data) + 64
	}
	s.drop(n)
	s.first = before // before the disk, so that no reader takes a missing entry for a bad one
	s.mu.Unlock()
	if err := s.log.TruncateBefore(before); err != nil {
		return s.broken(fmt.Sprintf("cut the log before %d", before), err)
	}
	return nil
}

// reset empties the log: it begins behind a snapshot. Not when something could not be read:
// what seems to be missing may be there, and have been promised to others.
func (s *store) reset(snap position) error {
	if s.failed.Load() {
		return errFailed
	}
	s.mu.Lock()
	s.first = max(s.first, s.last+1) // before the disk: see compact
	s.mu.Unlock()
	if err := s.log.Reset(snap.index); err != nil {
		return s.broken(fmt.Sprintf("reset the log to %d", snap.index), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snap = snap
	s.first, s.last = snap.index+1, snap.index
	s.tail, s.tailSize = nil, 0
	return nil
}

// snapshotTaken notes a snapshot that stands for a prefix of this log.
func (s *store) snapshotTaken(snap position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snap = snap
	s.bytesSince, s.countSince = 0, 0
}

// grown is what was appended since the last snapshot.
func (s *store) grown() (bytes int64, entries uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytesSince, s.countSince
}

// configurations returns those in the log behind an index. They are few among many entries, of
// which a replica that comes up reads no more than the kind.
func (s *store) configurations(behind uint64) (confs []protocol.ConfigurationAt) {
	take := func(e protocol.Entry) {
		if e.Kind != protocol.Members {
			return
		}
		c, err := protocol.ReadConfiguration(fulcrum.NewReader(e.Data)) // readRecord has checked it
		if err == nil {
			confs = append(confs, protocol.ConfigurationAt{Configuration: c, Index: e.Index})
		}
	}
	s.mu.Lock()
	from, tail, last := max(behind+1, s.first), s.tailFrom(), s.last
	s.mu.Unlock()
	if from < tail && from <= last {
		err := s.log.Range(from, min(last, tail-1), func(index uint64, record []byte) error {
			if kind := recordKind(record); kind == protocol.Command || kind == protocol.Noop {
				return nil
			}
			e, err := readRecord(record, index)
			if err == nil {
				take(e)
			}
			return err
		})
		if err != nil && s.First() <= from { // else it was cut off meanwhile
			_ = s.broken(fmt.Sprintf("read the log from %d", from), err)
		}
		if err != nil {
			return confs
		}
	}
	for i := max(from, tail); i <= last; {
		es, ok := s.read(i, 1024, readBytesAtOnce)
		if !ok {
			return confs
		}
		for _, e := range es {
			take(e)
		}
		i += uint64(len(es))
	}
	return confs
}

// hard returns what setHard has stored.
func (s *store) hard() (h protocol.HardState, err error) {
	b, err := s.log.Meta(metaHard)
	if err == nil && b == nil {
		if b, err = s.log.Meta(metaOld); b != nil {
			err = errors.New("an earlier build wrote this log, which this one cannot read: begin with an empty data directory")
		}
		return h, err
	}
	if err != nil {
		return h, err
	}
	r := fulcrum.NewReader(b)
	h = protocol.HardState{Term: r.Uvarint(), Vote: fulcrum.NodeID(r.String())}
	if err := finish(r); err != nil {
		return h, fmt.Errorf("%s: %w", metaHard, err)
	}
	return h, nil
}

// setHard stores h, in one durable step: a vote is stored with its term or not at all.
func (s *store) setHard(h protocol.HardState) error {
	return s.setMeta(map[string][]byte{metaHard: fulcrum.AppendBytes(uvarints(nil, h.Term), []byte(h.Vote))})
}

func (s *store) setMeta(kv map[string][]byte) error {
	if s.failed.Load() {
		return errFailed
	}
	end := s.disk.begin()
	err := s.log.SetMeta(kv)
	end()
	if err != nil {
		return s.broken("store in the log's meta", err)
	}
	return nil
}

var _ protocol.Log = (*store)(nil)

// follow notes that what begins at from is being written. The function that it returns
// is called when that is durable, or has failed.
func (s *store) follow(from uint64, done func()) func(error) {
	begun := time.Now()
	end := s.disk.begin()
	s.mu.Lock()
	s.unsynced = append(s.unsynced, from)
	s.mu.Unlock()
	return func(err error) {
		end()
		if err != nil {
			_ = s.broken("sync the log", err)
			return
		}
		s.metric.Commit(time.Since(begun))
		s.synced(from)
		done()
	}
}
