package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"maps"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"fulcrum"
)

// The format of bbolt's file, as far as verifyBolt needs it, in the machine's byte
// order: two meta pages, then pages of trees. A page begins with
//
//	number 8 | flags 2 | count of elements 2 | further pages 4
//
// and goes on with its elements: position of the key (from the element on) 4, sizes
// and flags 4 each, and in a branch the number of the child 8.
const (
	boltMagic    = 0xED0CDAED
	boltHeader   = 16
	boltElement  = 16
	boltMetaSize = 56 // bytes that its sum covers
	boltBranch   = 0x01
	boltLeaf     = 0x02
	boltMeta     = 0x04
	boltBucket   = 0x01 // flag of an element: its value is a bucket
)

const (
	manyPages = 4096 // of a file are read by several readers at a time
	partsEach = 16   // at the least, of a bucket, for each of them
)

// tally is what the entries of a bucket, or the standings, come to.
type tally struct {
	keys  int
	bytes int64
	sums  uint64 // of all stored sums
}

// tallyKnown marks a sum of sums on disk; files of before have none.
const tallyKnown = 1 << 63

func storedSum(stored []byte) uint64 {
	if len(stored) < sumSize {
		return 0
	}
	return uint64(binary.BigEndian.Uint32(stored))
}

// agrees compares with what was stored, which may be unknown.
func (t tally) agrees(stored uint64) bool {
	return stored == 0 || stored == t.sums|tallyKnown
}

// boltFile walks the engine's file.
type boltFile struct {
	reader         // for all that is not spread over others
	readers int    // how many read a bucket together; 0: as many as there are cores, if the file is large
	newest  []byte // meta page that counts, from its magic number on

	buckets   map[string]tally
	standings map[string]standing // by the bucket that each has
	sequence  uint64              // of the bucket of standings: what their sums came to

	// What is damaged and can be told from the rest.
	bad     map[string]error          // buckets
	damaged map[fulcrum.GroupID]error // groups: of a bucket that counts, or of where a state stands
	lost    error                     // some element of the bucket of standings cannot be read
	short   bool                      // pages that may not be in use are missing at the end
}

// whole is nil if nothing at all is wrong with the file.
func (v *boltFile) whole() error {
	for _, err := range v.damaged {
		return err
	}
	for _, err := range v.bad {
		return err
	}
	if v.short {
		return fmt.Errorf("the end of the file is missing: %w", io.ErrUnexpectedEOF)
	}
	return v.lost
}

// verifyBolt reads the whole file of the engine, and finds whatever is in use and not
// what was written. Bbolt sums only its meta pages, and for a damaged one
// falls back to the transaction before; a damaged page may end the process, or hide
// keys. So each entry's own sum is checked, and then their number and the sum of
// sums, which says that none is missing and none is an older one. A large file is read on
// all cores. Then nobody needs to walk it again: see openBolt.
//
// It returns what each bucket comes to, and what is damaged: bbolt must not open the
// file then, see salvage. An error means that nothing can be told from it.
func verifyBolt(path string) (*boltFile, error) {
	var v *boltFile
	err := mapBolt(path, func(m *boltFile) error {
		v = m
		return m.verify()
	})
	return v, err
}

// mapBolt calls f with the file mapped into memory.
func mapBolt(path string, f func(v *boltFile) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	v := &boltFile{buckets: map[string]tally{}, standings: map[string]standing{}, bad: map[string]error{}, damaged: map[fulcrum.GroupID]error{}}
	if st.Size() > 0 {
		v.b, err = syscall.Mmap(int(file.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	}
	if err != nil {
		return err
	}
	if err = guard(func() error { return f(v) }); err != nil {
		err = v.place(err)
	}
	if v.b != nil {
		err = errors.Join(err, syscall.Munmap(v.b))
	}
	v.b = nil
	return err
}

func (v *boltFile) verify() error {
	root, err := v.meta()
	if err != nil {
		return err
	}
	return v.verifyFrom(root)
}

// verifyFrom is verify from a root on: pages from v.high on are not in use.
func (v *boltFile) verifyFrom(root uint64) error {
	v.used = make([]uint64, v.high/64+1)
	if v.readers == 0 && v.high >= manyPages {
		n, putBack := allCores()
		defer putBack()
		v.readers = n
	}
	if err := v.tree(subtree{root: root}, v.bucket); err != nil {
		return err
	}
	states, ok := v.buckets[string(statesBucket)]
	if !ok || !states.agrees(v.sequence) {
		return errors.New("where a state stands is missing")
	}
	for name, m := range v.standings {
		if err := v.agree(name, m); err != nil {
			g, _ := groupOf(name)
			v.damaged[g] = err
		}
	}
	if v.lost != nil {
		v.orphans()
	}
	return nil
}

// agree compares a state's bucket with where the state stands.
func (v *boltFile) agree(name string, m standing) error {
	has, ok := v.buckets[name]
	switch {
	case v.bad[name] != nil:
		return v.bad[name]
	case !ok: // each is made in the transaction that first says where its state stands
		return fmt.Errorf("state %x: its bucket is missing", name)
	case !has.agrees(m.sums) || m.sums != 0 && has.keys != m.keys:
		return fmt.Errorf("state %x has %d keys, and they are not the %d that it should have", name, has.keys, m.keys)
	}
	return nil
}

// orphans adds the groups with a bucket of a state of which it is not known where it
// stands: the element that said so may be the one that cannot be read. (Otherwise such
// a bucket is what an interrupted Install left.)
func (v *boltFile) orphans() {
	stateOf := func(bucket string) string { return bucket[1 : len(bucket)-8] } // group and part
	stands := map[string]bool{}
	for name := range v.standings {
		stands[stateOf(name)] = true
	}
	for _, names := range []iter.Seq[string]{maps.Keys(v.buckets), maps.Keys(v.bad)} {
		for name := range names {
			if g, ok := groupOf(name); ok && !stands[stateOf(name)] {
				v.damaged[g] = v.lost
			}
		}
	}
}

// groupOf is the group of a state's bucket; false for another name.
func groupOf(name string) (fulcrum.GroupID, bool) {
	if len(name) < 17 {
		return 0, false
	}
	return fulcrum.GroupID(binary.BigEndian.Uint64([]byte(name[1:9]))), true
}

// meta checks both meta pages, of which the newer counts. A meta is written in one
// sector: it is never torn.
func (v *boltFile) meta() (root uint64, err error) {
	var newest uint64
	for n := range 2 {
		v.at = uint64(n)
		at := int(n)*v.pageSize + boltHeader
		if len(v.b) < at+boltMetaSize+8 {
			return 0, fmt.Errorf("meta page %d: %w", n, io.ErrUnexpectedEOF)
		}
		b := v.b[at:]
		h := fnv.New64a()
		_, _ = h.Write(b[:boltMetaSize])
		if u32(b) != boltMagic || u64(b[boltMetaSize:]) != h.Sum64() {
			return 0, fmt.Errorf("meta page %d: %w", n, errSum)
		}
		v.pageSize = int(u32(b[8:]))
		if v.pageSize < 1<<10 || v.pageSize > 64<<10 || bits.OnesCount(uint(v.pageSize)) != 1 {
			return 0, fmt.Errorf("meta page %d: a page size of %d", n, v.pageSize)
		}
		if tx := u64(b[48:]); tx >= newest {
			newest, root = tx, u64(b[16:])
			v.reach(u64(b[40:]))
			v.newest = bytes.Clone(b[:boltMetaSize])
		}
	}
	return root, nil
}

// reach notes from which page on none is in use.
func (v *boltFile) reach(high uint64) {
	v.high, v.short = high, high > uint64(len(v.b)/v.pageSize)
}

// bucket reads a bucket of the first level: there are no others. One that is damaged
// gives the pages back that it was met with: they may be another's.
func (v *boltFile) bucket(e element) error {
	before := len(v.taken)
	err := guard(func() error { return v.read(e) })
	if err == nil || bytes.Equal(e.key, statesBucket) {
		return err
	}
	v.bad[string(e.key)] = v.place(fmt.Errorf("bucket %x: %w", e.key, err))
	for _, n := range v.taken[before:] {
		v.used[n/64] &^= 1 << (n % 64)
	}
	v.taken = v.taken[:before]
	return nil
}

func (v *boltFile) read(e element) (err error) {
	var t tally
	switch states := bytes.Equal(e.key, statesBucket); {
	case e.flags != boltBucket || len(e.value) < 16 || !states && (len(e.key) < 17 || e.key[0] != 'e'):
		return fmt.Errorf("%q is no bucket of the engine", e.key)
	case states:
		t, err = v.readStandings(e)
	case v.readers > 1 && u64(e.value) != 0:
		t, err = v.spread(e)
	default:
		err = v.entries(e, t.adder(e.key))
	}
	v.buckets[string(e.key)] = t
	return err
}

// adder returns a function that adds an entry of a state's bucket to t, if it is what was written.
func (t *tally) adder(bucket []byte) func(element) error {
	seed := sum(0, bucket, nil)
	return func(e element) error {
		if e.flags != 0 {
			return errFlags(e)
		}
		if !isWhole(seed, e.key, e.value) {
			return fmt.Errorf("key %q: %w", e.key, errSum)
		}
		t.add(1, 0, storedSum(e.value))
		return nil
	}
}

func errFlags(e element) error { return fmt.Errorf("key %q: flags %#x", e.key, e.flags) }

// spread reads a state's bucket with several readers: the first levels of its tree, until there
// are partsEach subtrees for each reader, and then those, whoever is free the next. Readers of
// parts of one page would mostly wait for each other. A bucket that has no such level is small.
func (v *boltFile) spread(bucket element) (tally, error) {
	var all tally
	add := all.adder(bucket.key)
	parts := []subtree{{root: u64(bucket.value)}}
	for len(parts) > 0 && len(parts) < partsEach*v.readers {
		var below []subtree
		for _, t := range parts {
			err := v.visit(t, add, func(t subtree) error {
				below = append(below, t)
				return nil
			})
			if err != nil {
				return all, err
			}
		}
		parts = below
	}
	if len(parts) == 0 {
		return all, nil
	}
	type share struct {
		reader
		tally
		err error
	}
	shares := make([]share, v.readers)
	var next atomic.Int64
	var running sync.WaitGroup
	for i := range shares {
		running.Go(func() {
			r, t := v.reader, tally{}
			r.taken = nil
			add := t.adder(bucket.key)
			err := guard(func() (err error) {
				for n := next.Add(1); err == nil && int(n) <= len(parts); n = next.Add(1) {
					err = r.tree(parts[n-1], add)
				}
				return err
			})
			shares[i] = share{r, t, err}
			from := len(v.b) / len(shares) * i / v.pageSize * v.pageSize
			unmapFile(v.b[from : len(v.b)/len(shares)*(i+1)]) // or one would, of all, at the end
		})
	}
	running.Wait()
	var err error
	for _, s := range shares {
		all.add(s.keys, 0, s.sums)
		v.taken = append(v.taken, s.taken...)
		if err == nil && s.err != nil {
			err, v.at = s.err, s.at
		}
	}
	return all, err
}

func (v *boltFile) readStandings(bucket element) (t tally, err error) {
	v.sequence = u64(bucket.value[8:])
	var before []byte // the last key that was right
	err = v.entries(bucket, func(e element) error {
		if e.flags != 0 {
			return errFlags(e)
		}
		if err := v.stands(e); err != nil {
			v.lose(err, before, e.key)
		} else {
			before = e.key
		}
		t.add(1, 0, storedSum(e.value))
		return nil
	})
	return t, err
}

// stands reads an element of the bucket of standings.
func (v *boltFile) stands(e element) error {
	if _, _, piece := pieceOf(e.key); piece {
		if _, ok := unseal(e.key, e.value); !ok {
			return fmt.Errorf("piece %q: %w", e.key, errSum)
		}
		return nil
	}
	key, m, err := readStanding(e.key, e.value)
	if err == nil {
		v.standings[string(key.bucket(m.gen))] = m
	}
	return err
}

// lose notes that an element of the bucket of standings is not what was written. That it
// is the newest is known all the same, by the sum of sums; but if it is its key that was
// damaged, it may be another group's. Keys still rise, so it is a piece of the group of the
// last key before it that is right, or it said where a state stands, and that state has
// no other element that does: see orphans.
func (v *boltFile) lose(err error, before, key []byte) {
	v.lost = v.place(err)
	for _, k := range [][]byte{before, key} {
		if len(k) >= 8 {
			v.damaged[fulcrum.GroupID(binary.BigEndian.Uint64(k))] = v.lost
		}
	}
}

func (t *tally) add(keys int, size int64, sums uint64) {
	t.keys += keys
	t.bytes += size
	t.sums = (t.sums + sums) &^ tallyKnown
}
