package storage

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"fulcrum"
)

// One transaction of an Install holds at most this much.
const (
	installEntries = 1000
	installBytes   = 4 << 20
)

// Install fills a new generation in several transactions, none of which is open
// while fill runs (it may wait for the network), and makes it the one that counts
// in the last. A crash before that leaves the old generation, and a bucket that
// the next Open removes.
func (st *state) Install(index uint64, extra map[string][]byte, fill func(put func(fulcrum.Entry) error) error) error {
	st.s.mu.Lock()
	st.s.gen++
	gen := st.s.gen
	st.s.mu.Unlock()
	plain, pieces := split(extra)
	in := &installer{st: st, home: st.key.home(gen), m: standing{gen: gen, applied: index, extra: with(nil, plain), pieces: with(nil, pieces)}}
	err := fill(in.put)
	if err == nil {
		err = in.finish()
	}
	if err != nil {
		return errors.Join(err, st.s.removeBuckets(in.name))
	}
	return nil
}

type installer struct {
	home
	st    *state
	m     standing
	batch []fulcrum.Entry
	size  int
}

func (in *installer) put(e fulcrum.Entry) error {
	if n := len(e.Key); n == 0 || n > bbolt.MaxKeySize {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "install in group %d: a key of %d bytes", in.st.key.group, n)
	}
	// Copied: the caller may read the next entry into the same buffer.
	e.Key, e.Value = slices.Clone(e.Key), slices.Clone(e.Value)
	in.batch = append(in.batch, e)
	in.size += len(e.Key) + len(e.Value)
	if len(in.batch) < installEntries && in.size < installBytes {
		return nil
	}
	if err := in.st.s.token(context.Background()); err != nil {
		return err
	}
	defer in.st.s.untoken()
	// A batch that fills the disk would fail the store. There may be room inside of the engine's
	// file, but bbolt says so only with its statistics, which readers would wait for.
	if err := in.st.s.room.spare(); err != nil {
		return err
	}
	return in.st.s.update(in.write)
}

// write stores the batch, and begins the next.
func (in *installer) write(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists(in.name)
	if err != nil {
		return err
	}
	// In key order, because bbolt then touches each page once; stable, because of
	// equal keys the last one put counts.
	slices.SortStableFunc(in.batch, func(a, b fulcrum.Entry) int { return bytes.Compare(a.Key, b.Key) })
	for _, e := range in.batch {
		if err := putEntry(b, in.seed, e, &in.m.tally); err != nil {
			return err
		}
	}
	in.batch, in.size = in.batch[:0], 0
	return nil
}

// finish writes the rest and makes the new generation the one that counts, on
// disk and then in memory; then it removes the old one.
func (in *installer) finish() error {
	st := in.st
	if err := st.s.token(context.Background()); err != nil {
		return err
	}
	defer st.s.untoken()
	if st.isDropped() {
		return errDropped
	}
	err := st.s.update(func(tx *bbolt.Tx) error {
		return errors.Join(in.write(tx), removePieces(tx, st.key), putPieces(tx, st.key, in.m.pieces), putStanding(tx, st.key, in.m))
	})
	if err != nil {
		return err
	}
	old := st.replace(in.m)
	if err := st.s.update(func(tx *bbolt.Tx) error { return deleteBuckets(tx, old) }); err != nil {
		// The install is done; what is left of the old one goes at the next Open.
		st.s.logger.Warn("could not remove the replaced state", "group", st.key.group, "err", err)
	}
	return nil
}

// replace puts everything in memory where m stands and returns the bucket that
// counted before.
func (st *state) replace(m standing) (old []byte) {
	st.mu.Lock()
	defer st.mu.Unlock()
	old, st.home = st.home.name, st.key.home(m.gen)
	st.s.overlayBytes.Add(-st.live.bytes)
	st.live = newOverlay()
	st.applied, st.extra, st.base, st.dirty = m.applied, m.extra, m, false
	st.pieces, st.base.pieces = newPieces(m.pieces), nil
	st.turns++
	return old
}

func (st *state) isDropped() bool {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return st.dropped
}

// Rebase commits the entries under a new position. Extras are added to those that
// are there, as Apply does; a nil value removes one.
func (st *state) Rebase(index uint64, extra map[string][]byte) error {
	if err := st.s.token(context.Background()); err != nil {
		return err
	}
	defer st.s.untoken()
	st.mu.Lock()
	if st.dropped {
		st.mu.Unlock()
		return errDropped
	}
	applied, was, kept := st.applied, st.extra, st.pieces.copy()
	st.applied, st.dirty = index, true
	st.setExtra(extra)
	st.mu.Unlock()
	err := st.s.commitHolding(st)
	if err != nil { // not durable: it stands where it stood
		st.mu.Lock()
		st.applied, st.extra = applied, was
		st.pieces.revert(kept, extra)
		st.mu.Unlock()
	}
	return err
}

// DropState removes all parts of a group's state, durably. Whoever still holds
// one gets CodeEpoch; a later State begins an empty one.
func (s *Store) DropState(g fulcrum.GroupID) error {
	if err := s.token(context.Background()); err != nil {
		return err
	}
	defer s.untoken()
	s.mu.Lock()
	states := maps.Clone(s.states)
	s.mu.Unlock()
	maps.DeleteFunc(states, func(k stateKey, _ *state) bool { return k.group != g })
	if len(states) == 0 {
		return nil
	}
	setGoing := func(going bool) {
		for _, st := range states {
			st.mu.Lock()
			st.going = going
			st.mu.Unlock()
		}
	}
	setGoing(true)
	err := s.update(func(tx *bbolt.Tx) error {
		for k, st := range states {
			st.mu.RLock()
			name := st.home.name
			st.mu.RUnlock()
			if err := errors.Join(deleteBuckets(tx, name), removePieces(tx, k), setStanding(tx, k.bytes(), nil)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		setGoing(false)
		return err
	}
	for _, st := range states {
		st.replace(standing{extra: map[string][]byte{}})
		st.mu.Lock()
		st.dropped = true
		st.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, st := range states {
		if s.states[k] == st {
			delete(s.states, k)
		}
	}
	return nil
}

func (s *Store) removeBuckets(names ...[]byte) error {
	if err := s.token(context.Background()); err != nil {
		return err
	}
	defer s.untoken()
	return s.update(func(tx *bbolt.Tx) error { return deleteBuckets(tx, names...) })
}

func deleteBuckets(tx *bbolt.Tx, names ...[]byte) error {
	for _, name := range names {
		if tx.Bucket(name) == nil {
			continue
		}
		if err := tx.DeleteBucket(name); err != nil {
			return err
		}
	}
	return nil
}
