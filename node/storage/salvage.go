package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"fulcrum"
)

// damagedFile is what becomes of an engine's file in which something was damaged, until
// every replica that it concerned is rebuilt: the last place to look if that never is. So
// one that is there already stays, and the next gets a number.
const damagedFile = stateFile + ".damaged"

// keepDamaged gives the engine's file such a name beside its own.
func (s *Store) keepDamaged(path string) error {
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	kept := filepath.Join(s.opts.Dir, damagedFile)
	for n := 2; ; n++ {
		was, err := os.Stat(kept)
		if errors.Is(err, os.ErrNotExist) {
			return os.Link(path, kept)
		}
		if err != nil || os.SameFile(was, now) { // a crash came before it was replaced
			return err
		}
		kept = fmt.Sprintf("%s.%d", filepath.Join(s.opts.Dir, damagedFile), n)
	}
}

// removeDamaged removes what keepDamaged has kept.
func (s *Store) removeDamaged() error {
	kept, err := filepath.Glob(filepath.Join(s.opts.Dir, damagedFile) + "*")
	for _, path := range kept {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// checkEngine begins to verify the engine's file, if there is one, and returns a function that
// waits for the outcome.
func (s *Store) checkEngine() (outcome func() (*boltFile, error)) {
	path := filepath.Join(s.opts.Dir, stateFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return func() (*boltFile, error) { return nil, err }
	}
	var holds *boltFile
	var err error
	done := make(chan struct{})
	go func() { // ends by itself; Open waits for it
		defer close(done)
		holds, err = verifyBolt(path)
	}()
	return func() (*boltFile, error) {
		<-done
		return holds, err
	}
}

// openEngine opens the engine's file, or, when parts of it are damaged, a copy of the
// rest. The log is open. It returns what the file holds.
//
// Bbolt must not write to a damaged file: a page that points to the wrong page makes it
// free, and then overwrite, what belongs to another state. So what is right goes into a
// new file, which takes the old one's name once it is whole and on disk. Before that the
// groups that lose something are marked in the log, durably. Invariant: a group whose
// state was left out is marked, so nobody takes the state, which is empty then, for one
// that never held anything.
func (s *Store) openEngine(checked func() (*boltFile, error), watch *stopwatch) (*boltFile, error) {
	path := filepath.Join(s.opts.Dir, stateFile)
	holds, err := checked()
	if errors.Is(err, os.ErrNotExist) {
		if err := createBolt(path); err != nil {
			return nil, diskError(err, "make %s", path)
		}
		holds, err = verifyBolt(path)
	}
	if err == nil && holds.whole() != nil {
		holds, err = s.salvage(path, holds)
	} else if err == nil && len(s.Damages()) == 0 {
		err = s.removeDamaged()
	}
	if err != nil {
		return nil, diskError(err, "read %s", path).WithHint("%s", restoreHint)
	}
	watch.lap("check")
	if s.bolt, err = holds.openBolt(path); err != nil {
		return nil, diskError(err, "open %s", path).WithHint("%s", restoreHint)
	}
	// A process that was killed may not have synced its last meta page. Until that is durable
	// nothing may be written where only the one before it says that there is something.
	if err := s.bolt.Sync(); err != nil {
		return nil, diskError(err, "sync %s", path)
	}
	watch.lap("engine")
	return holds, nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// salvage replaces the engine's file by a copy without what is damaged.
func (s *Store) salvage(path string, v *boltFile) (*boltFile, error) {
	for g, err := range v.damaged {
		if s.vital(g) {
			return nil, fmt.Errorf("the node's own data (group %d): %w", g, err)
		}
	}
	s.logger.Error("the engine's file is damaged; what is whole is copied", "file", path, "first", v.whole(), "groups", describe(v.damaged))
	for g, err := range v.damaged {
		if err := s.markDamaged(g, fmt.Errorf("%s: %w", path, err)); err != nil {
			return nil, err
		}
	}
	tmp := path + ".new"
	if err := createBoltAt(tmp); err != nil {
		return nil, err
	}
	if err := copyWhole(tmp, path, v); err != nil {
		return nil, errors.Join(fmt.Errorf("copy to %s: %w", tmp, err), os.Remove(tmp))
	}
	got, err := verifyBolt(tmp)
	if err == nil {
		err = got.whole()
	}
	if err == nil && len(got.standings) != v.kept() {
		err = fmt.Errorf("%s has %d states and should have %d", tmp, len(got.standings), v.kept())
	}
	if err != nil {
		return nil, err
	}
	if err := s.keepDamaged(path); err != nil {
		s.logger.Warn("the damaged file is not kept", "err", err) // it is of use to nobody but an operator
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, err
	}
	return got, syncDir(s.opts.Dir)
}

// keeps reports whether a bucket of the first level goes into the copy.
func (v *boltFile) keeps(name []byte) bool {
	_, counts := v.standings[string(name)]
	g, _ := groupOf(string(name))
	return counts && v.damaged[g] == nil
}

// kept is how many states go into the copy.
func (v *boltFile) kept() (n int) {
	for name := range v.standings {
		if v.keeps([]byte(name)) {
			n++
		}
	}
	return n
}

// copyWhole copies what is whole into the new file at tmp.
func copyWhole(tmp, path string, whole *boltFile) (err error) {
	db, err := openBoltFile(tmp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	c := &copier{db: db}
	err = mapBolt(path, func(v *boltFile) error {
		root, err := v.meta()
		if err != nil {
			return err
		}
		v.used = make([]uint64, v.high/64+1)
		err = v.tree(subtree{root: root}, func(e element) error {
			switch {
			case bytes.Equal(e.key, statesBucket):
				return v.entries(e, func(s element) error {
					if len(s.key) < 8 || whole.damaged[fulcrum.GroupID(binary.BigEndian.Uint64(s.key))] != nil {
						return nil
					}
					c.sums.add(0, 0, storedSum(s.value))
					return c.put(statesBucket, s)
				})
			case whole.keeps(e.key):
				return errors.Join(c.put(e.key, element{}), v.entries(e, func(s element) error { return c.put(e.key, s) }))
			}
			return nil
		})
		return errors.Join(err, c.flush()) // while what it holds is mapped
	})
	return err
}

// copier puts elements into a new file, some in each transaction.
type copier struct {
	db   *bbolt.DB
	sums tally // of the bucket of standings
	rows []row
	size int
}

type row struct {
	bucket []byte
	element
}

// put takes an element without a key for the bucket alone.
func (c *copier) put(bucket []byte, e element) error {
	c.rows = append(c.rows, row{bucket, e})
	c.size += len(e.key) + len(e.value)
	if len(c.rows) < installEntries && c.size < installBytes {
		return nil
	}
	return c.flush()
}

func (c *copier) flush() error {
	err := c.db.Update(func(tx *bbolt.Tx) error {
		for _, r := range c.rows {
			b, err := tx.CreateBucketIfNotExists(r.bucket)
			if err == nil && r.key != nil {
				b.FillPercent = 0.9 // keys come in order
				err = b.Put(r.key, r.value)
			}
			if err != nil {
				return err
			}
		}
		return tx.Bucket(statesBucket).SetSequence(c.sums.sums | tallyKnown)
	})
	c.rows, c.size = c.rows[:0], 0
	return err
}
