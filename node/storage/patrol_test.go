package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// many applies and commits n keys, in several transactions, and returns the state.
func many(t *testing.T, s *Store, n int) *state {
	st := mustState(t, s, 1, "").(*state)
	for i, per := 0, n/4; i < 4; i++ {
		var entries []fulcrum.Entry
		for k := range per {
			entries = append(entries, entry(fmt.Sprintf("key-%05d", i*per+k), "value", uint64(i+1)))
		}
		must(t, st.Apply(uint64(i+1), entries, nil), st.Flush(t.Context()))
	}
	return st
}

// stateFileOf opens a store's engine file for changes beside the store.
func stateFileOf(t *testing.T, o Options) *os.File {
	f, err := os.OpenFile(filepath.Join(o.Dir, stateFile), os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func flip(t *testing.T, f *os.File, at int64, bit int) {
	t.Helper()
	b := make([]byte, 1)
	_, err := f.ReadAt(b, at)
	must(t, err)
	b[0] ^= 1 << bit
	_, err = f.WriteAt(b, at)
	must(t, err)
}

// TestAPatrolFindsWhatOpenWould flips bits of a running store's file, mostly where pages say what
// they hold: an inspection finds damage exactly where Open would, and none after the bit is as it was.
func TestAPatrolFindsWhatOpenWould(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	o := options(t.TempDir(), vfs.NewMem())
	s := open(t, o)
	many(t, s, 4000)
	f := stateFileOf(t, o)
	v, err := verifyBolt(f.Name())
	must(t, err, v.whole())
	noticed := 0
	for i := range 1500 {
		page := int64(v.taken[rnd.IntN(len(v.taken))]) * int64(v.pageSize)
		at, bit := page+rnd.Int64N(int64(v.pageSize)), rnd.IntN(8)
		switch i % 3 {
		case 0: // what it is, how many elements, how many pages
			at = page + rnd.Int64N(boltHeader)
		case 1: // where its first elements are, and its children
			at = page + boltHeader + rnd.Int64N(4*boltElement)
		}
		flip(t, f, at, bit)
		found, err := s.inspect(t.Context())
		must(t, err)
		want, err := verifyBolt(f.Name())
		if err == nil {
			err = want.whole()
		}
		if (found != nil) != (err != nil) {
			t.Errorf("seed %d: bit %d at %d: %v, and Open would say %v", seed, bit, at, found, err)
		}
		if found != nil {
			noticed++
		}
		flip(t, f, at, bit)
	}
	if found, err := s.inspect(t.Context()); found != nil || err != nil || s.IsSpoilt() {
		t.Errorf("seed %d: all is as it was: %v, %v", seed, found, err)
	}
	if noticed < 500 {
		t.Errorf("only %d of 1500 were noticed: is anything read?", noticed)
	}
}

// TestAPageThatHidesKeysIsFoundByThePatrol: nobody who misses one of them can know.
func TestAPageThatHidesKeysIsFoundByThePatrol(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o := options(dir, vfs.NewMem())
		s := open(t, o)
		st := many(t, s, 4000)
		f := stateFileOf(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		var ran sync.WaitGroup
		ran.Go(func() { _ = s.patrol(ctx) })
		defer ran.Wait()
		defer cancel()
		time.Sleep(3 * patrolEvery)
		if s.IsSpoilt() {
			t.Fatal("damage is found where there is none")
		}
		halve(t, f)
		lost := 0
		for i := range 4000 {
			e, err := st.Get(fmt.Appendf(nil, "key-%05d", i))
			must(t, err)
			if len(e.Key) == 0 {
				lost++
			}
		}
		if lost == 0 {
			t.Fatal("no key is hidden: this test tests nothing")
		}
		time.Sleep(patrolEvery + time.Second)
		if !s.IsSpoilt() {
			t.Errorf("%d keys are hidden, and nobody noticed", lost)
		}
	})
}

// halve clears the highest bit of the count of a leaf's elements.
func halve(t *testing.T, f *os.File) {
	v, err := verifyBolt(f.Name())
	must(t, err, v.whole())
	head := make([]byte, boltHeader)
	for _, n := range v.taken {
		at := int64(n) * int64(v.pageSize)
		_, err := f.ReadAt(head, at)
		must(t, err)
		if count := u16(head[10:]); u16(head[8:]) == boltLeaf && count >= 32 && count < 64 {
			flip(t, f, at+10, 5)
			return
		}
	}
	t.Fatal("no leaf has 32 elements and fewer than 64")
}

// TestAPatrolTakesNoWorkForDamage inspects the file again and again while states are
// committed, installed and dropped.
func TestAPatrolTakesNoWorkForDamage(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	s := open(t, o)
	var working sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for g := range 3 {
		working.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 0))
			for i := uint64(1); ctx.Err() == nil; i++ {
				if err := work(s, rnd, fulcrum.GroupID(g+1), i); err != nil {
					t.Errorf("group %d: %v", g+1, err)
					return
				}
			}
		})
	}
	for n := 0; n < 10_000 && (n < 150 || s.newestTx.Load() < 100); n++ {
		if damage, err := s.inspect(t.Context()); damage != nil || err != nil {
			t.Errorf("%v, %v", damage, err)
		}
	}
	cancel()
	working.Wait()
	if s.IsSpoilt() || s.newestTx.Load() < 100 {
		t.Errorf("spoilt: %v; only %d transactions", s.IsSpoilt(), s.newestTx.Load())
	}
}

// work commits some changes of a group's state, and at times puts another in its place, or none.
func work(s *Store, rnd *rand.Rand, g fulcrum.GroupID, i uint64) error {
	if i%20 == 0 {
		return s.DropState(g)
	}
	st, err := s.State(g, "")
	if err != nil {
		return err
	}
	var entries []fulcrum.Entry
	for range 50 {
		entries = append(entries, entry(fmt.Sprint("key", rnd.IntN(2000)), string(randomBytes(rnd, 200)), i))
	}
	if i%7 == 0 {
		return st.Install(i, nil, func(put func(fulcrum.Entry) error) (err error) {
			for _, e := range entries {
				err = errors.Join(err, put(e))
			}
			return err
		})
	}
	return errors.Join(st.Apply(i, entries, map[string][]byte{"at": {byte(i)}}), st.Flush(context.Background()))
}

// TestADamagedMetaPageIsNoStepBack: bbolt would answer from the transaction before, and the next
// commit would lose the last.
func TestADamagedMetaPageIsNoStepBack(t *testing.T) {
	for _, how := range []string{"get", "view", "commit", "patrol"} {
		t.Run(how, func(t *testing.T) {
			o := options(t.TempDir(), vfs.NewMem())
			s := open(t, o)
			st := many(t, s, 400)
			must(t, st.Apply(9, []fulcrum.Entry{entry("key-00001", "new", 9)}, nil), st.Flush(t.Context()))
			newest := int64(s.newestTx.Load()%2) * int64(s.bolt.Info().PageSize)
			flip(t, stateFileOf(t, o), newest+boltHeader+48, 3)
			var err error
			switch how {
			case "get":
				_, err = st.Get([]byte("key-00001"))
			case "view":
				_, err = st.View()
			case "commit":
				must(t, st.Apply(10, []fulcrum.Entry{entry("key-00002", "new", 10)}, nil))
				err = st.Flush(t.Context())
			case "patrol":
				err, _ = s.inspect(t.Context())
			}
			if !errors.Is(err, errMeta) || !s.isDamage(err) || !s.IsSpoilt() {
				t.Errorf("%v, spoilt: %v", err, s.IsSpoilt())
			}
		})
	}
}
