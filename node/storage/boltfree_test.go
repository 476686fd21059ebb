package storage

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"fulcrum"
)

// checkFree has bbolt check that each page is either in use or free.
func checkFree(t *testing.T, db *bbolt.DB) {
	t.Helper()
	must(t, db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	}))
}

// gaps makes a store of many pages of which every other is free, and some runs of them.
func gaps(t *testing.T) Options {
	o := manySmall(t, 20_000)
	s := open(t, o)
	st := mustState(t, s, 1, "")
	for round := range 3 {
		var entries []fulcrum.Entry
		for i := 0; i < 20_000; i += 200 + round {
			entries = append(entries, fulcrum.Entry{Key: key(i), Value: make([]byte, 300), Version: fulcrum.Version{Time: 2}})
		}
		must(t, st.Apply(st.Applied()+1, entries, nil), st.Flush(t.Context()))
	}
	must(t, s.Close())
	return o
}

func TestBboltTakesTheFreeListFromUs(t *testing.T) {
	o := gaps(t)
	path := filepath.Join(o.Dir, stateFile)
	v, err := verifyBolt(path)
	must(t, err, v.whole(), v.writeFree(path))
	db, err := openBoltFile(path)
	must(t, err)
	checkFree(t, db)
	must(t, db.Close())
	again, err := verifyBolt(path)
	must(t, err, again.whole())
	if !slices.Equal(again.used, v.used) || u64(again.newest[48:]) != u64(v.newest[48:])+1 {
		t.Errorf("the list changed what is in use, or transaction %d follows %d", u64(again.newest[48:]), u64(v.newest[48:]))
	}
	for range 3 { // the list's pages are free again after the next commit
		s := open(t, o)
		checkFree(t, s.bolt)
		st := mustState(t, s, 1, "")
		must(t, st.Apply(st.Applied()+1, []fulcrum.Entry{entry("one more", "value", 3)}, nil), st.Flush(t.Context()))
		checkFree(t, s.bolt)
		must(t, s.Close())
	}
	end, err := verifyBolt(path)
	must(t, err, end.whole())
	if end.high > v.high+3 {
		t.Errorf("three opens made %d pages of %d", end.high, v.high)
	}
}

// TestAListOnDiskIsNotBelieved leaves a list behind that a power cut has torn.
func TestAListOnDiskIsNotBelieved(t *testing.T) {
	for what, fill := range map[string]byte{"zeroes": 0, "garbage": 0xa5} {
		o := gaps(t)
		path := filepath.Join(o.Dir, stateFile)
		v, err := verifyBolt(path)
		must(t, err, v.writeFree(path))
		list, at, _ := v.freeList()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte{fill}, len(list)), int64(at)*int64(v.pageSize))
		must(t, err, f.Close())
		s, err := Open(o)
		if err != nil {
			t.Errorf("%s in the place of the list: %v", what, err)
			continue
		}
		checkFree(t, s.bolt)
		if keys := mustState(t, s, 1, "").Keys(); keys != 20_000 {
			t.Errorf("%s: %d keys", what, keys)
		}
		must(t, s.Close())
	}
}

// TestWhereTheFreeListGoes asks for a run of free pages, or the end of the file.
func TestWhereTheFreeListGoes(t *testing.T) {
	const pageSize, high = 4096, 4000
	list := func(free func(n int) bool) (b []byte, at, end uint64) {
		v := &boltFile{reader: reader{pageSize: pageSize, high: high, used: make([]uint64, high/64+1)}}
		for n := range high {
			if !free(n) {
				v.used[n/64] |= 1 << (n % 64)
			}
		}
		return v.freeList()
	}
	for _, c := range []struct {
		what             string
		free             func(n int) bool
		at, end          uint64
		ids, pagesOfList int
	}{
		{"nothing is free", func(int) bool { return false }, high, high + 1, 0, 1},
		{"one page is", func(n int) bool { return n == 77 }, 77, high, 0, 1},
		{"every other is", func(n int) bool { return n%2 == 0 }, high, high + 4, high/2 - 1, 4},
		{"and a run that is too short", func(n int) bool { return n%2 == 0 || n == 91 || n == 3999 }, high, high + 4, high/2 + 1, 4},
		{"and one that is not", func(n int) bool { return n%2 == 0 || n > 3900 }, 3900, high, high/2 - 1 + 50 - 5, 5},
		{"all are", func(n int) bool { return true }, 2, high, high - 2 - 8, 8},
	} {
		b, at, end := list(c.free)
		if at != c.at || end != c.end || int(u16(b[10:])) != c.ids || len(b) != c.pagesOfList*pageSize || int(u32(b[12:])) != c.pagesOfList-1 {
			t.Errorf("%s: %d numbers in %d bytes at %d of %d, want %+v", c.what, u16(b[10:]), len(b), at, end, c)
		}
	}
}

// TestALongFreeList has more numbers than a page's count can say: the file has a hole.
func TestALongFreeList(t *testing.T) {
	path := filepath.Join(manySmall(t, 100).Dir, stateFile)
	v, err := verifyBolt(path)
	must(t, err)
	for _, free := range []uint64{boltManyFree - 200, boltManyFree + 200} {
		v.high = free
		v.used = append(v.used, make([]uint64, int(free/64)+1-len(v.used))...)
		must(t, os.Truncate(path, int64(v.high)*int64(v.pageSize)), v.writeFree(path))
		db, err := openBoltFile(path)
		must(t, err)
		checkFree(t, db)
		must(t, db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(statesBucket)
			return b.SetSequence(b.Sequence())
		}))
		checkFree(t, db)
		must(t, db.Close())
		v, err = verifyBolt(path)
		must(t, err, v.whole())
	}
}
