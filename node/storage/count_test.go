package storage

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/bbolt"

	"fulcrum"
)

// Few keys that are written again and again stay few, whatever waits for the engine.
func TestCountOfKeysThatAreOverwritten(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	st := mustState(t, s, 1, "")
	for i := uint64(1); i <= 3000; i++ {
		must(t, st.Apply(i, []fulcrum.Entry{entry(fmt.Sprint("k", i%12), "value", i)}, nil))
		if i == 1000 || i == 2000 {
			must(t, st.Flush(t.Context()))
		}
		if i < 12 || i%97 != 0 {
			continue
		}
		if keys, bytes, err := s.Count(1); err != nil || keys != 12 || bytes != 10*7+2*8 {
			t.Fatalf("after %d writes %d keys, %d bytes, %v; want 12, %d", i, keys, bytes, err, 10*7+2*8)
		}
	}
}

// A count of more keys than it looks up is exact where they are all new or all old, and
// close where they are mixed.
func TestCountOfManyKeys(t *testing.T) {
	const many = 20 * countSample
	for _, c := range []struct {
		name          string
		stored, first int // stored are keys 0, 1 ...; many come above first
		off           float64
	}{
		{"all new", many, many, 0},
		{"all overwritten", many, 0, 0},
		{"the second half new", many, many / 2, 0.01},
		{"nothing stored", 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, options(t.TempDir(), vfs.NewMem()))
			st := mustState(t, s, 1, "")
			apply := func(index uint64, from, n int) {
				entries := make([]fulcrum.Entry, n)
				for i := range entries {
					entries[i] = entry(fmt.Sprintf("%08d", from+i), "12", index)
				}
				must(t, st.Apply(index, entries, nil))
			}
			apply(1, 0, c.stored)
			must(t, st.Flush(t.Context()))
			apply(2, c.first, many)
			keys, bytes, err := s.Count(1)
			want := max(c.stored, c.first+many)
			if off := float64(keys-want) / float64(many); err != nil || off < -c.off || off > c.off || bytes < int64(keys)*10-10 || bytes > int64(keys)*10+10 {
				t.Fatalf("%d keys, %d bytes, %v; want %d keys, within %v of %d", keys, bytes, err, want, c.off, many)
			}
		})
	}
}

// A commit is in the file a moment before memory knows that it has ended.
func TestCountWhileACommitEnds(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	st := mustState(t, s, 1, "").(*state)
	want := func(when string, want int) {
		t.Helper()
		if keys, bytes, err := s.Count(1); err != nil || keys != want || bytes != int64(2*want) {
			t.Fatalf("%s: %d keys, %d bytes, %v; want %d keys of 2 bytes", when, keys, bytes, err, want)
		}
	}
	put := func(index uint64, keys ...string) {
		var entries []fulcrum.Entry
		for _, k := range keys {
			entries = append(entries, entry(k, "v", index))
		}
		must(t, st.Apply(index, entries, nil))
	}
	put(1, "a", "b")
	must(t, st.Flush(t.Context()))
	put(2, "b", "c", "d")
	must(t, s.token(t.Context()))
	defer s.untoken()
	st.freeze()
	put(3, "a", "d", "e")
	want("frozen", 5)
	var m standing
	must(t, s.update(func(tx *bbolt.Tx) (err error) {
		m, err = st.write(tx)
		return err
	}))
	want("in the file", 5)
	st.committed(m)
	want("known to be", 5)
	st.freeze()
	put(4, "f")
	st.thaw()
	want("after a commit that failed", 6)
}
