package replicationtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/tidwall/btree"

	"fulcrum"
	"fulcrum/replication"
)

// flushEvery is how many Applies a State keeps in memory before it makes them
// durable: more than one, so that a crash leaves a position behind Applied.
const flushEvery = 8

// picture is one whole position of a State. The tree in a picture that anybody
// else may hold is never written again.
type picture struct {
	tree  *btree.BTreeG[fulcrum.Entry]
	index uint64
	extra map[string][]byte
	bytes int64
}

func newTree() *btree.BTreeG[fulcrum.Entry] {
	return btree.NewBTreeG(func(a, b fulcrum.Entry) bool { return bytes.Compare(a.Key, b.Key) < 0 })
}

// State is a replication.State in memory, whose durable position lags behind the
// applied one by up to eight Applies, until Flush.
type State struct {
	mu      sync.Mutex
	now     picture
	durable picture
	pending int
	err     error
}

// NewState returns an empty State at position 0.
func NewState() *State {
	s := &State{now: picture{tree: newTree(), extra: map[string][]byte{}}}
	s.persist()
	return s
}

// persist makes the current picture the durable one. The caller holds mu.
func (s *State) persist() {
	s.durable = s.copyNow()
	s.pending = 0
}

// copyNow returns a picture that later Applies do not touch. The caller holds mu.
func (s *State) copyNow() picture {
	p := s.now
	p.tree = s.now.tree.Copy()
	p.extra = maps.Clone(s.now.extra)
	return p
}

// Crash ends the life of this handle, whose methods fail from now on, and
// returns what the next life finds: the last durable position, whole.
func (s *State) Crash() *State {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &State{now: s.durable}
	next.persist()
	s.err = errCrashed
	return next
}

// FailWith makes every later change fail with err; nil heals the disk.
func (s *State) FailWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Dump returns every entry, tombstones included, by key.
func (s *State) Dump() map[string]fulcrum.Entry {
	all := map[string]fulcrum.Entry{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.tree.Scan(func(e fulcrum.Entry) bool {
		all[string(e.Key)] = e
		return true
	})
	return all
}

// Get implements replication.State.
func (s *State) Get(key []byte) (fulcrum.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _ := s.now.tree.Get(fulcrum.Entry{Key: key})
	return e, nil
}

// GetFirst implements replication.State.
func (s *State) GetFirst(keys [][]byte, most int) ([]fulcrum.Entry, error) {
	entries := make([]fulcrum.Entry, len(keys))
	for i, key := range keys {
		entries[i], _ = s.Get(key)
	}
	return replication.First(entries, most), nil
}

func scanTree(tree *btree.BTreeG[fulcrum.Entry], start, end []byte, f func(fulcrum.Entry) bool) {
	tree.Ascend(fulcrum.Entry{Key: start}, func(e fulcrum.Entry) bool {
		if end != nil && bytes.Compare(e.Key, end) >= 0 {
			return false
		}
		return f(e)
	})
}

// Scan implements replication.State.
func (s *State) Scan(start, end []byte, f func(fulcrum.Entry) bool) error {
	s.mu.Lock()
	tree := s.now.tree.Copy()
	s.mu.Unlock()
	scanTree(tree, start, end, f)
	return nil
}

// put stores e; one that is nothing but a key removes what stands there.
func (p *picture) put(e fulcrum.Entry) {
	if e.Version.IsZero() && !e.Tombstone && len(e.Value) == 0 && e.ExpireAt == 0 {
		if old, had := p.tree.Delete(e); had {
			p.bytes -= int64(len(old.Key) + len(old.Value))
		}
		return
	}
	old, had := p.tree.Set(e)
	if had {
		p.bytes -= int64(len(old.Key) + len(old.Value))
	}
	p.bytes += int64(len(e.Key) + len(e.Value))
}

func (p *picture) setExtra(extra map[string][]byte) {
	for k, v := range extra {
		if v == nil {
			delete(p.extra, k)
			continue
		}
		p.extra[k] = bytes.Clone(v)
	}
}

// Apply implements replication.State. An index below the applied one is refused:
// no mode may go backwards.
func (s *State) Apply(index uint64, entries []fulcrum.Entry, extra map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if index < s.now.index {
		return fmt.Errorf("apply at %d to a state at %d", index, s.now.index)
	}
	for _, e := range entries {
		s.now.put(e)
	}
	s.now.setExtra(extra)
	s.now.index = index
	if s.pending++; s.pending >= flushEvery {
		s.persist()
	}
	return nil
}

// Applied implements replication.State.
func (s *State) Applied() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.index
}

// Durable implements replication.State.
func (s *State) Durable() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable.index
}

// Flush implements replication.State.
func (s *State) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.persist()
	return nil
}

// Extra implements replication.State.
func (s *State) Extra(key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.now.extra[key]), nil
}

// View implements replication.State.
func (s *State) View() (replication.View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &view{s.copyNow()}, nil
}

// Install implements replication.State.
func (s *State) Install(index uint64, extra map[string][]byte, fill func(put func(fulcrum.Entry) error) error) error {
	next := picture{tree: newTree(), index: index, extra: map[string][]byte{}}
	next.setExtra(extra)
	err := fill(func(e fulcrum.Entry) error {
		e.Key, e.Value = bytes.Clone(e.Key), bytes.Clone(e.Value)
		next.put(e)
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.now = next
	s.persist()
	return nil
}

// Rebase implements replication.State.
func (s *State) Rebase(index uint64, extra map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.now.index = index
	s.now.setExtra(extra)
	s.persist()
	return nil
}

// Keys implements replication.State.
func (s *State) Keys() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.tree.Len()
}

// Bytes implements replication.State.
func (s *State) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.bytes
}

type view struct{ picture }

func (v *view) Index() uint64            { return v.index }
func (v *view) Extra() map[string][]byte { return v.extra }
func (v *view) Close() error             { return nil }
func (v *view) Scan(start, end []byte, f func(fulcrum.Entry) bool) error {
	scanTree(v.tree, start, end, f)
	return nil
}

var (
	_ replication.State = (*State)(nil)
	_ replication.View  = (*view)(nil)
)
