package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"fulcrum"
)

// The engine's file has one bucket for each generation of each state, named by
// group, part and generation, which holds its entries; and the bucket "states",
// which says for each state which generation counts, its applied position, its
// extras, its size and the sum of its entries' sums, and holds extras that are pieces
// one by one (pieces.go); the sum of its values' sums is its sequence number. An entry is its CRC-32C and then fulcrum.AppendEntry
// without the key; the sum covers the bucket's name and the key too, so a page
// that came back in the wrong place is seen.
var statesBucket = []byte("states")

// stateKey names one state.
type stateKey struct {
	group fulcrum.GroupID
	part  string
}

func (k stateKey) bytes() []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(k.group)), k.part...)
}

func (k stateKey) bucket(gen uint64) []byte {
	b := append([]byte{'e'}, k.bytes()...)
	return binary.BigEndian.AppendUint64(b, gen)
}

// standing is what the engine knows of a state beside its entries.
type standing struct {
	gen     uint64
	applied uint64
	tally   // of its entries
	extra   map[string][]byte
	pieces  map[string][]byte // stored beside it; only at open and in an Install
}

func (m standing) encode(key []byte) []byte {
	var b []byte
	for _, n := range []uint64{m.gen, m.applied, uint64(m.keys), uint64(m.bytes), uint64(len(m.extra))} {
		b = binary.AppendUvarint(b, n)
	}
	for name, value := range m.extra {
		b = fulcrum.AppendBytes(b, []byte(name))
		b = fulcrum.AppendBytes(b, value)
	}
	b = binary.AppendUvarint(b, m.sums|tallyKnown)
	return sealed(key, b)
}

func decodeStanding(key, stored []byte) (standing, error) {
	b, ok := unseal(key, stored)
	if !ok {
		return standing{}, errSum
	}
	r := fulcrum.NewReader(b)
	m := standing{gen: r.Uvarint(), applied: r.Uvarint(), tally: tally{keys: int(r.Uvarint()), bytes: int64(r.Uvarint())}, extra: map[string][]byte{}}
	for n := r.Uvarint(); n > 0 && r.Err() == nil; n-- {
		name := r.String()
		m.extra[name] = append([]byte{}, r.Bytes()...)
	}
	if len(r.Rest()) > 0 {
		m.sums = r.Uvarint()
	}
	return m, r.Err()
}

// readStanding reads an element of the bucket of standings.
func readStanding(k, stored []byte) (stateKey, standing, error) {
	m, err := decodeStanding(k, stored)
	if err == nil && len(k) < 8 {
		err = fulcrum.ErrShort
	}
	if err != nil {
		return stateKey{}, standing{}, fmt.Errorf("where state %x stands: %w", k, err)
	}
	return stateKey{fulcrum.GroupID(binary.BigEndian.Uint64(k)), string(k[8:])}, m, nil
}

// mapped bytes are addresses that the engine's file may grow into. To map it anew bbolt waits for
// all who read, such as the patrol or whoever copies a snapshot, which takes as long as the file
// is large; and everybody else waits meanwhile, readers too. Addresses cost nothing until they
// are used: 64 GiB where there are so many, else mappedLeast.
const (
	mappedLeast = 256 << 20 // where a process may not have so many (RLIMIT_AS)
	mapped      = mappedLeast << (8 * (bits.UintSize / 64))
)

func openBoltFile(path string) (*bbolt.DB, error) {
	db, err := openBoltMapped(path, mapped)
	if errors.Is(err, syscall.ENOMEM) {
		return openBoltMapped(path, mappedLeast)
	}
	return db, err
}

func openBoltMapped(path string, size int) (db *bbolt.DB, err error) {
	err = guard(func() error {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:         time.Second,
			FreelistType:    bbolt.FreelistMapType,
			NoFreelistSync:  true,
			InitialMmapSize: size,
			NoStatistics:    true,
		})
		return err
	})
	return db, err
}

// createBolt makes the engine's file. It gets its name only once it is
// whole: a power cut during bbolt's first write would leave one that never opens
// again (etcd#16596).
func createBolt(path string) error {
	tmp := path + ".new"
	if err := createBoltAt(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// createBoltAt makes an empty file of the engine, in the place of one that was not
// finished.
func createBoltAt(tmp string) error {
	if err := removeIfThere(tmp); err != nil {
		return err
	}
	db, err := openBoltFile(tmp)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(statesBucket)
		return err
	})
	return errors.Join(err, db.Sync(), db.Close())
}

// loadStates reads where every state stands and removes the buckets that no
// state counts as its own: what an interrupted Install or DropState left.
func (s *Store) loadStates(holds *boltFile) error {
	err := guard(func() error {
		return s.updateBolt(func(tx *bbolt.Tx) error {
			owned := map[string]bool{}
			states, err := tx.CreateBucketIfNotExists(statesBucket)
			if err != nil {
				return err
			}
			err = states.ForEach(func(k, v []byte) error {
				if _, _, ok := pieceOf(k); ok {
					return nil
				}
				key, m, err := readStanding(k, v)
				if err == nil {
					m.pieces, err = readPieces(states, key)
				}
				if err != nil {
					return err
				}
				m.sums = holds.buckets[string(key.bucket(m.gen))].sums
				s.states[key] = newState(s, key, m)
				s.gen = max(s.gen, m.gen)
				owned[string(key.bucket(m.gen))] = true
				return nil
			})
			if err != nil {
				return err
			}
			if err := states.SetSequence(holds.buckets[string(statesBucket)].sums | tallyKnown); err != nil {
				return err
			}
			return removeStrays(tx, owned)
		})
	})
	if err != nil {
		return diskError(err, "read %s", s.bolt.Path()).WithHint("%s", restoreHint)
	}
	return nil
}

func removeStrays(tx *bbolt.Tx, owned map[string]bool) error {
	var stray [][]byte
	err := tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
		if string(name) != string(statesBucket) && !owned[string(name)] {
			stray = append(stray, append([]byte(nil), name...))
		}
		return nil
	})
	for _, name := range stray {
		err = errors.Join(err, tx.DeleteBucket(name))
	}
	return err
}

// token takes the right to write to the engine; give it back with untoken.
func (s *Store) token(ctx context.Context) error {
	select {
	case <-s.commitC:
	case <-s.closing:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	err := s.usable()
	if err == nil && s.IsSpoilt() {
		err = errSpoilt
	}
	if err != nil {
		s.untoken()
	}
	return err
}

func (s *Store) untoken() { s.commitC <- struct{}{} }

// update runs f in one durable transaction; the caller has the token. A real
// failure fails the store; an injected one does not, and a damaged page spoils the
// engine.
func (s *Store) update(f func(tx *bbolt.Tx) error) error {
	id := s.disk.begin()
	defer s.disk.end(id)
	if err := s.disk.fault(); err != nil {
		return err
	}
	start := time.Now()
	if err := guard(func() error { return s.updateBolt(f) }); err != nil {
		e := *diskError(noRoom(err, !refusedWrite(err)), "write to %s", s.bolt.Path())
		e.Maybe = true
		if s.isDamage(err) { // bbolt has undone it: the disk is not to blame for what it was asked to write
			s.spoil(&e)
			return &e
		}
		s.disk.fail(&e)
		return &e
	}
	s.metrics.engineCommitted(time.Since(start))
	return nil
}

// commitQuietly is the background commit; an injected fault only delays it.
func (s *Store) commitQuietly(ctx context.Context) error {
	err := s.commitStates(ctx, nil)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	if s.disk.failure() == nil {
		notify(s.dirtyC)
		return nil
	}
	return err
}

// commitStates makes durable what is applied: of one state, or of all (nil), in
// one transaction.
func (s *Store) commitStates(ctx context.Context, only *state) error {
	if err := s.token(ctx); err != nil {
		return err
	}
	defer s.untoken()
	return s.commitHolding(only)
}

// unmapEvery is how long pages that were read stay mapped at the most.
const unmapEvery = 10 * time.Second

func (s *Store) unmapRead(context.Context) error {
	unmapPages(s.bolt)
	return nil
}

// commitHolding is commitStates for whoever has the token. Large states get transactions
// of their own: bbolt keeps every page that one touches in memory until its end, and
// random keys touch nearly all; pages that one of them leaves are written by the next.
func (s *Store) commitHolding(only *state) error {
	s.mu.Lock()
	var states []*state
	for _, st := range s.states {
		if only == nil || only == st {
			states = append(states, st)
		}
	}
	s.mu.Unlock()
	for len(states) > 0 {
		var frozen []*state
		for size := int64(0); len(states) > 0 && size < partBytes; states = states[1:] {
			if st := states[0]; st.freeze() {
				frozen = append(frozen, st)
				size += st.frozen.bytes
			}
		}
		if len(frozen) == 0 {
			continue
		}
		if err := s.commitFrozen(frozen); err != nil {
			return err
		}
		unmapPages(s.bolt)
	}
	return nil
}

// partBytes of overlays, or a little more, are committed in one transaction, unless one
// state alone has more.
const partBytes = 2 << 20

// commitFrozen commits states in one transaction.
//
// Each state's overlay is frozen with the position that it reaches, stays
// readable while the transaction writes both, and is dropped only after it: at
// every moment file and overlays together hold everything applied, and the file
// alone holds, for each state, everything up to one position and nothing above.
func (s *Store) commitFrozen(frozen []*state) error {
	after := make([]standing, len(frozen))
	err := s.tighten()
	if err == nil {
		err = s.writeFrozen(frozen, after)
	}
	for i, st := range frozen {
		if err != nil {
			st.thaw()
		} else {
			st.committed(after[i])
		}
	}
	return err
}

// writeFrozen fills after with where the states stand then.
func (s *Store) writeFrozen(frozen []*state, after []standing) error {
	return s.update(func(tx *bbolt.Tx) (err error) {
		for i, st := range frozen {
			if after[i], err = st.write(tx); err != nil {
				return fmt.Errorf("state of group %d: %w", st.key.group, err)
			}
		}
		return nil
	})
}
