package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
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

// lent opens the engine's file of a closed store for a loan.
func lent(t *testing.T, path string) *loan {
	v, err := verifyBolt(path)
	must(t, err, v.whole())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	l, err := v.loan(f)
	must(t, err)
	return l
}

// TestALoanLeavesTheFileAsItWas: all of it but the older meta page, which then says what the
// newer one says.
func TestALoanLeavesTheFileAsItWas(t *testing.T) {
	o := gaps(t)
	path := filepath.Join(o.Dir, stateFile)
	for range 3 {
		before, err := os.ReadFile(path)
		must(t, err)
		v, err := verifyBolt(path)
		must(t, err, v.whole())
		db, err := v.openBolt(path)
		must(t, err)
		checkFree(t, db)
		must(t, db.View(func(tx *bbolt.Tx) error { // the check would not miss a free page that is not in the list
			free := 0
			for n := range int(v.high) {
				p, err := tx.Page(n)
				must(t, err)
				if p.Type == "free" {
					free++
				}
			}
			if met := len(v.taken); free < 50 || 2+met+free != int(v.high) {
				t.Errorf("%d pages are free, %d in use, of %d", free, met, v.high)
			}
			return nil
		}), db.Close())
		after, err := os.ReadFile(path)
		must(t, err)
		again, err := verifyBolt(path)
		must(t, err, again.whole())
		if len(after) != len(before) || !bytes.Equal(after[2*v.pageSize:], before[2*v.pageSize:]) {
			t.Errorf("something but a meta page was changed, or %d bytes are %d", len(before), len(after))
		}
		tx := u64(v.newest[48:]) + 1
		if u64(again.newest[48:]) != tx || u64(again.newest[32:]) != boltNoList || !slices.Equal(again.used, v.used) || again.high != v.high {
			t.Errorf("transaction %d with a list at %d: want %d without one", u64(again.newest[48:]), u64(again.newest[32:]), tx)
		}
		if n := 1 - int(tx%2); !bytes.Equal(after[n*v.pageSize:][:v.pageSize], before[n*v.pageSize:][:v.pageSize]) {
			t.Error("the newer meta page was changed")
		}
	}
}

// TestFreePagesAreUsedAgain after opens: the file does not grow by what is free.
func TestFreePagesAreUsedAgain(t *testing.T) {
	o := gaps(t)
	path := filepath.Join(o.Dir, stateFile)
	v, err := verifyBolt(path)
	must(t, err)
	for range 5 {
		s := open(t, o)
		checkFree(t, s.bolt)
		st := mustState(t, s, 1, "")
		must(t, st.Apply(st.Applied()+1, []fulcrum.Entry{entry("one more", "value", 3)}, nil), st.Flush(t.Context()))
		checkFree(t, s.bolt)
		must(t, s.Close())
	}
	end, err := verifyBolt(path)
	must(t, err, end.whole())
	if end.high != v.high {
		t.Errorf("five opens made %d pages of %d", end.high, v.high)
	}
}

// TestAListThatWasLeftIsNotBelieved ends the process while a list is lent, and has the power
// cut tear or drop what was not synced of it.
func TestAListThatWasLeftIsNotBelieved(t *testing.T) {
	for what, left := range map[string]func(l *loan) error{
		"as it was": func(*loan) error { return nil },
		"cut off":   func(l *loan) error { return l.file.Truncate(l.size) },
		"zeroes":    func(l *loan) error { return l.fill(0) },
		"garbage":   func(l *loan) error { return l.fill(0xa5) },
		"pages that are in use": func(l *loan) error {
			for i, n := range l.v.taken[:min(len(l.v.taken), len(l.list)/8-2)] {
				copy(l.list[boltHeader+8*i:], []byte{byte(n), byte(n >> 8), 0, 0, 0, 0, 0, 0})
			}
			_, err := l.file.WriteAt(l.list, l.offset())
			return err
		},
	} {
		o := gaps(t)
		path := filepath.Join(o.Dir, stateFile)
		for range 2 { // the second is lent while the first is still there
			l := lent(t, path)
			must(t, l.give(), left(l))
		}
		for life := range 3 {
			s, err := Open(o)
			if err != nil {
				t.Errorf("%s: %v", what, err)
				break
			}
			checkFree(t, s.bolt)
			st := mustState(t, s, 1, "")
			if st.Keys() != 20_000+life {
				t.Errorf("%s: %d keys in life %d", what, st.Keys(), life)
			}
			must(t, st.Apply(st.Applied()+1, []fulcrum.Entry{{Key: key(20_000 + life), Value: make([]byte, 20_000), Version: fulcrum.Version{Time: 3}}}, nil), st.Flush(t.Context()))
			checkFree(t, s.bolt)
			must(t, s.Close())
		}
	}
}

func (l *loan) fill(b byte) error {
	_, err := l.file.WriteAt(bytes.Repeat([]byte{b}, len(l.list)), l.offset())
	return err
}

// TestADamagedLoanIsNoticed: one bit of the list is not what was written when bbolt reads it.
func TestADamagedLoanIsNoticed(t *testing.T) {
	l := lent(t, filepath.Join(gaps(t).Dir, stateFile))
	must(t, l.give(), l.check())
	for _, at := range []int{8, 10, boltHeader, boltHeader + 8*20 + 1, len(l.list) - 1} {
		_, err := l.file.WriteAt([]byte{l.list[at] ^ 1}, l.offset()+int64(at))
		must(t, err)
		if err := l.check(); !errors.Is(err, errSum) {
			t.Errorf("byte %d of the list is another one: %v", at, err)
		}
		_, err = l.file.WriteAt(l.list[at:at+1], l.offset()+int64(at))
		must(t, err, l.check())
	}
	must(t, l.takeBack())
	if l.check() == nil {
		t.Error("a list that is not there is what was written")
	}
}

// TestALongFreeList has more numbers than a page's count can say: the file has a hole.
func TestALongFreeList(t *testing.T) {
	path := filepath.Join(manySmall(t, 100).Dir, stateFile)
	v, err := verifyBolt(path)
	must(t, err)
	for _, pages := range []uint64{boltManyFree - 200, boltManyFree + 200} {
		must(t, os.Truncate(path, int64(pages)*int64(v.pageSize)+100)) // an odd end, too
		l := lent(t, path)
		binary.NativeEndian.PutUint64(l.v.newest[40:], pages)
		must(t, l.point(boltNoList))
		v, err = verifyBolt(path)
		must(t, err, v.whole())
		db, err := v.openBolt(path)
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
		if v.high != pages {
			t.Errorf("%d pages of %d", v.high, pages)
		}
	}
}
