package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// state is a group's keys and values. It keeps replication.State.
//
// What it holds is live over frozen over the bucket of gen in the engine's file.
// One committer at a time (Store.token) freezes, writes and drops.
type state struct {
	s   *Store
	key stateKey

	mu      sync.RWMutex // protects what follows; never held during I/O or a wait
	live    *overlay
	frozen  *overlay // being committed; nil when none is
	applied uint64
	extra   map[string][]byte // replaced, never modified
	pieces  pieces            // extras that are stored one by one
	dirty   bool              // applied or extra moved since the last freeze
	base    standing          // in the file; its extra is not used
	home    home              // the bucket of base.gen
	target  standing          // what the commit under way will leave
	turns   uint64            // how often frozen, gen or everything was replaced
	going   bool              // DropState is at it: the bucket may be gone
	dropped bool
}

var _ replication.State = (*state)(nil)

func newState(s *Store, key stateKey, m standing) *state {
	return &state{s: s, key: key, live: newOverlay(), applied: m.applied, extra: m.extra, pieces: newPieces(m.pieces), base: m, home: key.home(m.gen)}
}

// home is the bucket of one generation: its name, and the sum of that, with which
// the sums of its entries begin.
type home struct {
	name []byte
	seed uint32
}

func (k stateKey) home(gen uint64) home {
	name := k.bucket(gen)
	return home{name, sum(0, name, nil)}
}

// State returns a part of a group's state: "" is its data, "hints" what it owes
// to others. It is empty, at position 0, if it was never written.
//
// An Entry applied that is nothing but a key removes what stands there.
func (s *Store) State(g fulcrum.GroupID, part string) (replication.State, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	if len(part) > 64 {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "state of group %d: part %q is too long", g, part)
	}
	key := stateKey{g, part}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.states[key]
	if st == nil {
		s.gen++
		st = newState(s, key, standing{gen: s.gen})
		s.states[key] = st
	}
	return st, nil
}

// Get returns the entry at key; the zero Entry if there is none.
func (st *state) Get(key []byte) (fulcrum.Entry, error) {
	var e [1]fulcrum.Entry
	_, err := st.get([][]byte{key}, e[:], math.MaxInt)
	return e[0], err
}

// GetFirst is Get of the keys up to the one with which the entries have more than most bytes.
func (st *state) GetFirst(keys [][]byte, most int) ([]fulcrum.Entry, error) {
	entries := make([]fulcrum.Entry, len(keys))
	n, err := st.get(keys, entries, most)
	if err != nil {
		return nil, err
	}
	return replication.First(entries[:n], most), nil
}

// get finds what is not in the overlays in one transaction of the engine. It reads no more
// than most bytes and one entry from there, and says how many of the keys it has answered.
func (st *state) get(keys [][]byte, into []fulcrum.Entry, most int) (n int, err error) {
	var few [16]int
	for {
		st.mu.RLock()
		absent := few[:0]
		for i, key := range keys {
			e, ok := st.live.get(key)
			if !ok {
				e, ok = st.frozen.get(key)
			}
			switch {
			case !ok:
				absent = append(absent, i)
			case removal(e):
				into[i] = fulcrum.Entry{}
			default:
				into[i] = e
			}
		}
		at, turns, dropped := st.home, st.turns, st.dropped
		st.mu.RUnlock()
		if dropped {
			return 0, errDropped
		}
		if len(absent) == 0 {
			return len(keys), nil
		}
		n, found, err := st.load(at, keys, absent, into, most)
		if err != nil || found {
			return n, err
		}
		// No bucket: the state was never committed, or an Install took its place.
		st.mu.RLock()
		same, lost := st.turns == turns, st.hasLost()
		st.mu.RUnlock()
		switch {
		case same && lost:
			return 0, st.damaged(keys[absent[0]], errLostBucket)
		case same:
			return len(keys), nil
		}
	}
}

// hasLost reports whether a bucket that is not found should be there. The caller holds mu.
func (st *state) hasLost() bool { return st.base.keys > 0 && !st.going }

var errLostBucket = fmt.Errorf("its bucket: %w", errGap)

// load reads the keys at some places from the file, up to the one with which they have more
// than most bytes: all keys before n are answered then. Found is false when there is no bucket.
func (st *state) load(at home, keys [][]byte, places []int, into []fulcrum.Entry, most int) (n int, found bool, err error) {
	if st.s.closed.Load() {
		return 0, false, errClosed
	}
	n = len(keys)
	size := 0
	defer notify(st.s.readC)
	key := keys[places[0]]
	err = guard(func() error {
		tx, err := st.s.beginRead()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		b := tx.Bucket(at.name)
		found = b != nil
		for _, i := range places {
			into[i] = fulcrum.Entry{}
			if b == nil {
				continue
			}
			if size > most {
				n = i
				return nil
			}
			key = keys[i]
			if stored := b.Get(key); stored != nil {
				e, err := decodeEntry(at.seed, key, stored)
				if err != nil {
					return err
				}
				into[i] = copied(e) // the page goes with the transaction
				size += len(e.Key) + len(e.Value)
			} else if err := absent(b.Cursor(), at.seed, key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, false, st.damaged(key, err)
	}
	return n, found, nil
}

// absent returns an error if a key that is not found may have been there. An entry that is
// found is known by its sum, but bbolt finds its way by keys of pages that have none. Where one
// of them is not what was written, a search ends beside it, or at the edge of the wrong page: the
// two elements on either side are then out of order, or not whole.
func absent(c *bbolt.Cursor, seed uint32, key []byte) error {
	if err := rising(key, seed, func() ([]byte, []byte) { return c.Seek(key) }, c.Next, 1); err != nil {
		return err
	}
	return preceded(c, seed, key)
}

// preceded is absent for what is before a key.
func preceded(c *bbolt.Cursor, seed uint32, key []byte) error {
	first := c.Last
	if at, _ := c.Seek(key); at != nil {
		first = c.Prev
	}
	return rising(key, seed, first, c.Prev, -1)
}

// rising returns an error unless two elements are whole and each is beyond the one before, the
// first beyond key; or there are none.
func rising(key []byte, seed uint32, first, then func() (key, stored []byte), direction int) error {
	for _, move := range []func() ([]byte, []byte){first, then} {
		at, stored := move()
		if at == nil {
			return nil
		}
		if bytes.Compare(at, key) != direction || !isWhole(seed, at, stored) {
			return fmt.Errorf("key %q beside it: %w", at, errSum)
		}
		key = at
	}
	return nil
}

// copied returns e with slices of its own, in one piece.
func copied(e fulcrum.Entry) fulcrum.Entry {
	n := len(e.Key)
	b := append(append(make([]byte, 0, n+len(e.Value)), e.Key...), e.Value...)
	e.Key = b[:n:n]
	if e.Value != nil {
		e.Value = b[n:]
	}
	return e
}

// damaged is the error for an entry that cannot be read.
func (st *state) damaged(key []byte, err error) error {
	if st.s.isDamage(err) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
		defer st.s.spoil(fmt.Errorf("key %q of group %d: %w", key, st.key.group, err))
	}
	return diskError(err, "key %q of group %d in %s", key, st.key.group, st.s.bolt.Path()).WithHint("%s", rebuildHint)
}

func encodeEntry(seed uint32, e fulcrum.Entry) []byte {
	key := e.Key
	e.Key = nil
	b := make([]byte, sumSize, sumSize+len(e.Value)+32)
	b = fulcrum.AppendEntry(b, e)
	binary.BigEndian.PutUint32(b, sum(seed, key, b[sumSize:]))
	return b
}

// isWhole reports whether a stored entry is what was written under that key.
func isWhole(seed uint32, key, stored []byte) bool {
	return len(stored) >= sumSize && (binary.BigEndian.Uint32(stored) == sum(seed, key, stored[sumSize:]) ||
		mutant.On("checksum-ignored")) // mutant: serves what the disk has damaged
}

// decodeEntry's result points into key and stored.
func decodeEntry(seed uint32, key, stored []byte) (fulcrum.Entry, error) {
	if !isWhole(seed, key, stored) {
		return fulcrum.Entry{}, errSum
	}
	e, rest, err := fulcrum.DecodeEntry(stored[sumSize:])
	if err == nil && len(rest) != 0 {
		err = fulcrum.ErrShort
	}
	e.Key = key
	return e, err
}

// Apply stores entries and moves the applied position to index, in memory. When
// too much waits for the engine it first waits for, or does, a commit.
func (st *state) Apply(index uint64, entries []fulcrum.Entry, extra map[string][]byte) error {
	if err := st.s.usable(); err != nil {
		return err
	}
	if err := st.s.makeRoom(); err != nil {
		return err
	}
	for i := range entries {
		if n := len(entries[i].Key); n == 0 || n > bbolt.MaxKeySize {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "apply to group %d at %d: a key of %d bytes", st.key.group, index, n)
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.dropped {
		return errDropped
	}
	if index < st.applied {
		return fulcrum.Errorf(fulcrum.CodeInternal, "apply to group %d at %d: it stands at %d already", st.key.group, index, st.applied)
	}
	var size int64
	for _, e := range entries {
		size += st.live.put(e)
	}
	if st.s.overlayBytes.Add(size) > commitBytes {
		notify(st.s.muchC)
	}
	st.applied = index
	st.setExtra(extra)
	if !st.dirty {
		st.dirty = true
		notify(st.s.dirtyC)
	}
	return nil
}

// with returns old with the values of more; nil values remove theirs.
func with(old, more map[string][]byte) map[string][]byte {
	if len(more) == 0 {
		return old
	}
	m := make(map[string][]byte, len(old)+len(more))
	maps.Copy(m, old)
	for k, v := range more {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = slices.Clone(v)
		}
	}
	return m
}

// makeRoom waits until the overlays of all states are within their bound; who
// waits first commits, so it does not depend on Run.
func (s *Store) makeRoom() error {
	for s.overlayBytes.Load() > overlayLimit {
		if err := s.commitStates(context.Background(), nil); err != nil {
			return err
		}
	}
	return nil
}

// Applied is the position in memory.
func (st *state) Applied() uint64 {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return st.applied
}

// Durable is the position that a crash leaves.
func (st *state) Durable() uint64 {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return st.base.applied
}

// Flush returns when everything applied before the call is durable.
func (st *state) Flush(ctx context.Context) error {
	st.mu.RLock()
	dirty := st.dirty || st.frozen != nil
	st.mu.RUnlock()
	if !dirty {
		return nil
	}
	return st.s.commitStates(ctx, nil)
}

// Extra returns a copy of a value; nil when there is none.
func (st *state) Extra(key string) ([]byte, error) {
	st.mu.RLock()
	defer st.mu.RUnlock()
	if st.dropped {
		return nil, errDropped
	}
	if isPiece(key) {
		return st.pieces.get(key), nil
	}
	return slices.Clone(st.extra[key]), nil
}

// Keys counts entries, tombstones included, and each key that waits for the engine as
// new; Store.Count knows better.
func (st *state) Keys() int {
	st.mu.RLock()
	defer st.mu.RUnlock()
	n := st.base.keys
	for _, o := range []*overlay{st.live, st.frozen} {
		if o != nil {
			n += o.tree.Len()
		}
	}
	return n
}

// Bytes counts keys and values, as Keys does.
func (st *state) Bytes() int64 {
	st.mu.RLock()
	defer st.mu.RUnlock()
	n := st.base.bytes
	for _, o := range []*overlay{st.live, st.frozen} {
		if o != nil {
			n += o.held
		}
	}
	return n
}

// stored reports whether there is anything worth listing.
func (st *state) stored() bool {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return st.applied > 0 || st.dirty || st.frozen != nil || st.base.keys > 0 || len(st.extra) > 0
}

// freeze begins a commit; false when there is nothing to commit. The caller has
// the token.
func (st *state) freeze() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.dirty || st.dropped {
		return false
	}
	st.frozen, st.live = st.live, newOverlay()
	st.pieces.freeze()
	st.target = standing{gen: st.base.gen, applied: st.applied, tally: st.base.tally, extra: st.extra}
	st.dirty = false
	st.turns++
	return true
}

// thaw takes a freeze back after a failed commit: what was applied since then
// goes over what was frozen.
func (st *state) thaw() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.frozen == nil {
		return
	}
	st.live.tree.Scan(func(e item) bool {
		st.frozen.set(e)
		return true
	})
	st.frozen.bytes += st.live.bytes
	st.live, st.frozen = st.frozen, nil
	st.pieces.thaw()
	st.dirty = true
	st.turns++
}

// write puts the frozen overlay and its position into the file and returns where
// the state then stands.
func (st *state) write(tx *bbolt.Tx) (standing, error) {
	st.mu.RLock()
	frozen, m, at, changed := st.frozen, st.target, st.home, st.pieces.frozen
	st.mu.RUnlock()
	b, err := tx.CreateBucketIfNotExists(at.name)
	if err != nil {
		return m, err
	}
	it := frozen.tree.Iter()
	for ok, n := it.First(), 0; ok; ok, n = it.Next(), n+1 {
		if err := putEntry(b, at.seed, *it.Item().Entry, &m.tally); err != nil {
			return m, err
		}
		if n%yieldEvery == 0 {
			runtime.Gosched() // clients wait for what else this processor has to do
		}
	}
	if err := putPieces(tx, st.key, changed); err != nil {
		return m, err
	}
	return m, putStanding(tx, st.key, m)
}

// putEntry stores or removes an entry and adds to t what that changes.
func putEntry(b *bbolt.Bucket, seed uint32, e fulcrum.Entry, t *tally) error {
	if old := b.Get(e.Key); old != nil {
		was, _ := decodeEntry(seed, e.Key, old) // a damaged one is healed by this write
		t.add(-1, -int64(len(e.Key)+len(was.Value)), -storedSum(old))
	}
	if removal(e) {
		return b.Delete(e.Key)
	}
	stored := encodeEntry(seed, e)
	t.add(1, int64(len(e.Key)+len(e.Value)), storedSum(stored))
	return b.Put(e.Key, stored)
}

func putStanding(tx *bbolt.Tx, key stateKey, m standing) error {
	k := key.bytes()
	return setStanding(tx, k, m.encode(k))
}

// setStanding stores where a state stands, or a piece, or removes that (nil), and keeps
// the sum of all sums.
func setStanding(tx *bbolt.Tx, k, stored []byte) error {
	b := tx.Bucket(statesBucket)
	t := tally{sums: b.Sequence()}
	t.add(0, 0, storedSum(stored)-storedSum(b.Get(k)))
	if err := b.SetSequence(t.sums | tallyKnown); err != nil {
		return err
	}
	if stored == nil {
		return b.Delete(k)
	}
	return b.Put(k, stored)
}

// committed ends a commit.
func (st *state) committed(m standing) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.s.overlayBytes.Add(-st.frozen.bytes)
	st.frozen = nil
	st.base = m
	st.turns++
}
