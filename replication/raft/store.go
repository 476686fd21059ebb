package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
	"fulcrum/replication"
)

// Keys of the library's stable values, and of ours, in the log's meta.
const (
	metaTerm     = "CurrentTerm"
	metaVoteTerm = "LastVoteTerm"
	metaVoteFor  = "LastVoteCand"
	metaSnapshot = "raft/snapshot"
	metaProbe    = "raft/probe"
)

// errNotFound has the text by which the library knows a missing value.
var errNotFound = errors.New("not found")

// store is the library's LogStore and StableStore over a replication.Log, with the
// newest entries in memory.
//
// Fail-stop: the library panics when a term cannot be stored or a committed entry
// cannot be read, which would take the whole process down for one bad shard. So
// the first I/O error calls fail, after which the transport lets no message in or
// out; behind that wall the store may answer anything, as a crashed replica's
// state is seen by nobody. Terms then seem stored, entries read as no-ops, and
// nothing is appended.
type store struct {
	log    replication.Log
	metric replication.Metrics
	fail   func(error)
	failed atomic.Bool
	disk   diskWatch

	// retain is what IsMonotonic answers against: whether the log goes on behind
	// the snapshot that was installed last. See SnapshotInstalled.
	retain atomic.Bool

	leading func() bool    // whether the library leads now; it is asked on its main loop
	syncs   sync.WaitGroup // writes of follow

	mu          sync.Mutex
	unsynced    unsynced // see durable.go
	first, last uint64   // the entries that there are; last < first: none
	snapIndex   uint64   // the newest snapshot, where the log may begin anew
	cache       map[uint64]*hraft.Log
	cacheFrom   uint64 // oldest index in cache
	cacheSize   int
	cacheMax    int
	bytesSince  int64 // appended since the last snapshot
	appended    int64 // ever, by this life
	holds       holds
	holdBytes   int64 // see holds
	countSince  uint64
	stable      map[string][]byte
	voteTerm    uint64 // set but not stored yet: it goes with the candidate
}

func openStore(log replication.Log, metric replication.Metrics, cacheMax int, fail func(error)) (*store, error) {
	s := &store{log: log, metric: metric, fail: fail, cache: map[uint64]*hraft.Log{}, cacheMax: cacheMax, stable: map[string][]byte{}}
	for _, k := range []string{metaTerm, metaVoteTerm, metaVoteFor} {
		v, err := log.Meta(k)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", k, err)
		}
		if v != nil {
			s.stable[k] = v
		}
	}
	s.first, s.last = max(log.First(), 1), log.Last()
	s.cacheFrom = s.last + 1
	return s, nil
}

// broken calls fail once and returns err.
func (s *store) broken(op string, err error) error {
	err = fmt.Errorf("%s: %w", op, err)
	if !s.failed.Swap(true) {
		s.fail(err)
	}
	return err
}

func (s *store) bounds() (first, last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last < s.first {
		return 0, 0
	}
	return s.first, s.last
}

// FirstIndex is 0 when there is no entry, whatever the base.
func (s *store) FirstIndex() (uint64, error) {
	first, _ := s.bounds()
	return first, nil
}

// LastIndex is 0 when there is no entry, whatever the base: the library reads the
// entry at it when it starts.
func (s *store) LastIndex() (uint64, error) {
	_, last := s.bounds()
	return last, nil
}

// GetLog reads an entry; hraft.ErrLogNotFound makes a leader send a snapshot.
func (s *store) GetLog(index uint64, out *hraft.Log) error {
	s.mu.Lock()
	l, ok := s.cache[index]
	inside := index >= s.first && index <= s.last
	s.mu.Unlock()
	switch {
	case ok:
		*out = *l
		return nil
	case s.failed.Load():
		*out = hraft.Log{Index: index, Type: hraft.LogNoop}
		return nil
	case !inside:
		return hraft.ErrLogNotFound
	}
	l, err := s.read(index)
	if err != nil {
		s.mu.Lock()
		inside = index >= s.first && index <= s.last
		s.mu.Unlock()
		if errors.Is(err, replication.ErrNoRecord) && !inside {
			return hraft.ErrLogNotFound // cut off meanwhile
		}
		_ = s.broken(fmt.Sprintf("read log entry %d", index), err)
		l = &hraft.Log{Index: index, Type: hraft.LogNoop}
	}
	*out = *l
	return nil
}

// termAt returns the term of an entry among those in memory; 0 if it is not there.
func (s *store) termAt(index uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.cache[index]; l != nil {
		return l.Term
	}
	return 0
}

func (s *store) read(index uint64) (*hraft.Log, error) {
	b, err := s.log.Get(index)
	if err != nil {
		return nil, err
	}
	r := fulcrum.NewReader(b)
	l, err := readLog(r, index)
	if err != nil {
		return nil, err
	}
	return l, finish(r)
}

// StoreLog appends one entry.
func (s *store) StoreLog(l *hraft.Log) error { return s.StoreLogs([]*hraft.Log{l}) }

// StoreLogs appends entries durably. A log that ends before the newest snapshot
// begins anew behind it; any other gap is refused.
func (s *store) StoreLogs(logs []*hraft.Log) error {
	if s.failed.Load() {
		return errors.New("the log has failed")
	}
	if len(logs) == 0 {
		return nil
	}
	from := logs[0].Index
	s.mu.Lock()
	next, snap := s.last+1, s.snapIndex
	s.mu.Unlock()
	if from != next {
		if from < next || from != snap+1 {
			return fmt.Errorf("append at %d to a log that ends at %d, with a snapshot at %d", from, next-1, snap)
		}
		if err := s.reset(snap); err != nil {
			return err
		}
	}
	records := make([][]byte, len(logs))
	size := 0
	for i, l := range logs {
		records[i] = appendLog(make([]byte, 0, len(l.Data)+24), l)
		size += len(records[i])
	}
	wait, err := s.put(logs, from, records)
	if err != nil {
		return s.broken(fmt.Sprintf("append log entry %d", from), err)
	}
	if wait != nil {
		s.follow(from, wait)
	}
	s.added(logs, size)
	return nil
}

// put appends records; a wait that is not nil ends when they are durable.
func (s *store) put(logs []*hraft.Log, from uint64, records [][]byte) (wait func() error, err error) {
	if s.together(logs) {
		return s.log.Begin(from, records)
	}
	start := time.Now()
	end := s.disk.begin()
	err = s.log.Append(from, records)
	end()
	if err == nil {
		s.metric.Commit(time.Since(start))
	}
	return nil, err
}

// added keeps what was appended in memory.
func (s *store) added(logs []*hraft.Log, size int) {
	from := logs[0].Index
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last < s.first {
		s.first = from
	}
	s.last = from + uint64(len(logs)) - 1
	s.bytesSince += int64(size)
	s.appended += int64(size)
	s.countSince += uint64(len(logs))
	for _, l := range logs {
		c := *l
		s.cache[l.Index] = &c
		s.cacheSize += len(l.Data) + 64
	}
	s.shrink()
}

// shrink drops the oldest cached entries over the limit. The caller holds mu.
// Cached entries are consecutive: cacheFrom..last.
func (s *store) shrink() {
	for s.cacheSize > s.cacheMax && s.cacheFrom <= s.last {
		if l := s.cache[s.cacheFrom]; l != nil {
			s.cacheSize -= len(l.Data) + 64
			delete(s.cache, s.cacheFrom)
		}
		s.cacheFrom++
	}
}

// uncache forgets entries lo..hi, a front or an end of the log. The caller holds mu.
func (s *store) uncache(lo, hi uint64) {
	for i := max(lo, s.cacheFrom); i <= hi; i++ {
		if l := s.cache[i]; l != nil {
			s.cacheSize -= len(l.Data) + 64
			delete(s.cache, i)
		}
	}
	if lo <= s.cacheFrom {
		s.cacheFrom = hi + 1
	}
	s.cacheFrom = min(s.cacheFrom, s.last+1)
}

// DeleteRange cuts the log at its front (behind a snapshot) or at its end (entries
// of a deposed leader, never committed).
func (s *store) DeleteRange(lo, hi uint64) error {
	if s.failed.Load() {
		return errors.New("the log has failed")
	}
	s.mu.Lock()
	first, last := s.first, s.last
	s.mu.Unlock()
	lo, hi = max(lo, first), min(hi, last)
	if lo == first && hi < last { // the front
		s.mu.Lock()
		if keep := s.kept(); keep > 0 {
			hi = min(hi, keep-1)
		}
		s.mu.Unlock()
	}
	switch {
	case lo > hi:
		return nil
	case hi == last:
		end := s.disk.begin()
		err := s.log.TruncateAfter(lo - 1)
		end()
		if err != nil {
			return s.broken(fmt.Sprintf("cut the log after %d", lo-1), err)
		}
		s.mu.Lock()
		s.last = lo - 1
		s.uncache(lo, hi)
		s.mu.Unlock()
	case lo == first:
		s.mu.Lock()
		s.first = hi + 1 // first, so that no reader takes the missing entry for a bad disk
		s.uncache(lo, hi)
		s.mu.Unlock()
		if err := s.log.TruncateBefore(hi + 1); err != nil {
			return s.broken(fmt.Sprintf("cut the log before %d", hi+1), err)
		}
	default:
		return fmt.Errorf("delete %d..%d from the middle of a log %d..%d", lo, hi, first, last)
	}
	return nil
}

func (s *store) reset(base uint64) error {
	if err := s.log.Reset(base); err != nil {
		return s.broken(fmt.Sprintf("reset the log to %d", base), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first, s.last = base+1, base
	clear(s.cache)
	s.cacheSize, s.cacheFrom = 0, base+1
	return nil
}

// IsMonotonic makes the library drop the whole log after it has installed a
// snapshot, unless the log goes on behind it: then what follows has been counted
// towards commits and must stay (Raft paper, section 7, rule 6).
func (s *store) IsMonotonic() bool { return !s.retain.Load() }

// matches reports whether the log holds the entry (index, term), or begins behind it.
func (s *store) matches(m snapshotMeta, old snapshotMeta) bool {
	if m.Index == old.Index && m.Term == old.Term {
		return true
	}
	first, last := s.bounds()
	if first == 0 || m.Index < first || m.Index > last {
		return false
	}
	var l hraft.Log
	return s.GetLog(m.Index, &l) == nil && !s.failed.Load() && l.Term == m.Term
}

// snapshotTaken tells the store where its log may be cut or begin anew.
func (s *store) snapshotTaken(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapIndex = index
	s.bytesSince, s.countSince = 0, 0
}

// grown is what was appended since the last snapshot.
func (s *store) grown() (bytes int64, entries uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytesSince, s.countSince
}

// Set stores a value. The candidate of a vote takes the vote's term with it in one
// durable step: a vote is stored whole or not at all.
func (s *store) Set(key, val []byte) error {
	kv := map[string][]byte{string(key): val}
	if string(key) == metaVoteFor {
		s.mu.Lock()
		kv[metaVoteTerm] = binary.BigEndian.AppendUint64(nil, s.voteTerm)
		s.mu.Unlock()
	}
	return s.setMeta(kv)
}

func (s *store) setMeta(kv map[string][]byte) error {
	if s.failed.Load() {
		return errors.New("the log has failed")
	}
	end := s.disk.begin()
	err := s.log.SetMeta(kv)
	end()
	if err != nil {
		return s.broken("store term or vote", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range kv {
		s.stable[k] = v
	}
	return nil
}

// forget drops a stored value from memory; only a mutant does.
func (s *store) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stable, key)
}

// Get returns a stored value.
func (s *store) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.stable[string(key)]
	if !ok {
		return nil, errNotFound
	}
	return v, nil
}

// SetUint64 stores a number. It fails only by fail-stop: the library would panic.
func (s *store) SetUint64(key []byte, val uint64) error {
	if string(key) == metaVoteTerm {
		s.mu.Lock()
		s.voteTerm = val
		s.mu.Unlock()
		return nil
	}
	b := binary.BigEndian.AppendUint64(nil, val)
	if old, err := s.Get(key); err == nil && string(old) == string(b) {
		return nil
	}
	_ = s.setMeta(map[string][]byte{string(key): b})
	return nil
}

// GetUint64 returns a stored number.
func (s *store) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("value of %s has %d bytes, want 8", key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

var (
	_ hraft.LogStore          = (*store)(nil)
	_ hraft.StableStore       = (*store)(nil)
	_ hraft.MonotonicLogStore = (*store)(nil)
)
