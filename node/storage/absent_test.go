package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// TestAFlippedKeyIsNoticedByWhoMissesIt flips bits of keys while a store runs, of leaves and of
// branches: no reader takes a key that is there for one that is not.
func TestAFlippedKeyIsNoticedByWhoMissesIt(t *testing.T) {
	const n = 3000
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	o := options(t.TempDir(), vfs.NewMem())
	s := open(t, o)
	st := mustState(t, s, 1, "").(*state)
	name := func(i int) string { return fmt.Sprintf("key-%05d", 2*i) } // between two there is one that is not there
	var entries []fulcrum.Entry
	for i := range n {
		entries = append(entries, entry(name(i), "value", 1))
	}
	must(t, st.Apply(1, entries, nil), st.Flush(t.Context()))
	for i := range 2 * n {
		e, err := st.Get(fmt.Appendf(nil, "key-%05d", i))
		must(t, err)
		if (len(e.Key) > 0) != (i%2 == 0) {
			t.Fatalf("key %d: %+v", i, e)
		}
	}

	path := filepath.Join(o.Dir, stateFile)
	b, err := os.ReadFile(path)
	must(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	keys, branches := keysIn(t, path, st.home.name)
	if len(keys) < n || branches < 10 {
		t.Fatalf("%d keys, %d of them in branches", len(keys), branches)
	}
	noticed := 0
	for _, at := range append(keys[len(keys)-branches:], pick(rnd, keys, 100)...) {
		at += int64(4 + rnd.IntN(5))
		_, err := f.WriteAt([]byte{b[at] ^ 1<<rnd.IntN(7)}, at)
		must(t, err)
		if why := misses(st, name, n, rnd); why == nil {
			continue // a branch may still tell all keys apart
		} else if errors.Is(why, ErrDamaged) {
			noticed++
		} else {
			t.Errorf("seed %d: flipped at %d: %v", seed, at, why)
		}
		_, err = f.WriteAt(b[at:at+1], at)
		must(t, err)
	}
	if noticed < 100 {
		t.Errorf("only %d flips were noticed", noticed)
	}
}

// misses reads all keys, and ranges, until an error or a key that is not found.
func misses(st *state, name func(int) string, n int, rnd *rand.Rand) error {
	for i := range n {
		e, err := st.Get([]byte(name(i)))
		if err == nil && string(e.Value) != "value" {
			err = fmt.Errorf("%s is not found", name(i))
		}
		if err != nil {
			return err
		}
	}
	for range 50 {
		from := rnd.IntN(n - 10)
		i := from
		err := st.Scan([]byte(name(from)), []byte(name(from+10)), func(e fulcrum.Entry) bool {
			i++
			return true
		})
		if err == nil && i != from+10 {
			err = fmt.Errorf("a scan from %s has %d keys", name(from), i-from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keysIn returns where in the file the keys of a bucket are, those of branches last.
func keysIn(t *testing.T, path string, bucket []byte) (all []int64, branches int) {
	var inBranches []int64
	must(t, mapBolt(path, func(v *boltFile) error {
		root, err := v.meta()
		must(t, err)
		v.used = make([]uint64, v.high/64+1)
		offset := func(key []byte) int64 { return int64(cap(v.b) - cap(key)) }
		var down func(subtree) error
		down = func(below subtree) error {
			inBranches = append(inBranches, offset(below.low))
			return v.visit(below, func(e element) error { all = append(all, offset(e.key)); return nil }, down)
		}
		return v.tree(subtree{root: root}, func(e element) error {
			if !slices.Equal(e.key, bucket) {
				return nil
			}
			return v.visit(subtree{root: u64(e.value)}, func(element) error { return nil }, down)
		})
	}))
	return append(all, inBranches...), len(inBranches)
}

func pick(rnd *rand.Rand, from []int64, n int) []int64 {
	got := make([]int64, n)
	for i := range got {
		got[i] = from[rnd.IntN(len(from))]
	}
	return got
}

// TestALostBucketIsNoticed: that a state has no bucket means that it has no keys, unless it had some.
func TestALostBucketIsNoticed(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	s := open(t, o)
	st := mustState(t, s, 1, "").(*state)
	must(t, st.Apply(1, []fulcrum.Entry{entry("k", "v", 1)}, nil), st.Flush(t.Context()))
	patchState(t, o.Dir, string(st.home.name), flipAt)
	for what, read := range map[string]func() error{
		"get":  func() error { _, err := st.Get([]byte("k")); return err },
		"miss": func() error { _, err := st.Get([]byte("l")); return err },
		"scan": func() error { return st.Scan(nil, nil, func(fulcrum.Entry) bool { return true }) },
	} {
		if err := read(); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !s.IsSpoilt() {
		t.Error("the store does not know that its file is damaged")
	}
}

// TestAStateThatIsDroppedIsNotLost: its bucket goes before its readers hear of it.
func TestAStateThatIsDroppedIsNotLost(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	for range 30 {
		st := mustState(t, s, 1, "")
		must(t, st.Apply(1, []fulcrum.Entry{entry("k", "v", 1)}, nil), st.Flush(t.Context()))
		ended := make(chan error, 2)
		for _, read := range []func() error{
			func() error { _, err := st.Get([]byte("l")); return err },
			func() error { return st.Scan(nil, nil, func(fulcrum.Entry) bool { return true }) },
		} {
			go func() {
				for {
					if err := read(); err != nil {
						ended <- err
						return
					}
				}
			}()
		}
		must(t, s.DropState(1))
		for range 2 {
			if err := <-ended; !errors.Is(err, errDropped) {
				t.Fatalf("read while it was dropped: %v", err)
			}
		}
	}
	if s.IsSpoilt() {
		t.Error("the store takes its file for damaged")
	}
}
