package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// manySmall makes a closed store whose group 1 has n small entries, and groups 2 and 3 a few
// of them.
func manySmall(t testing.TB, n int) Options {
	o := options(t.TempDir(), vfs.NewMem())
	s := open(t, o)
	for g, some := range map[fulcrum.GroupID]int{1: n, 2: n / 50, 3: 10} {
		var entries []fulcrum.Entry
		for i := range some {
			entries = append(entries, fulcrum.Entry{Key: key(i), Value: binary.BigEndian.AppendUint64(nil, uint64(i)), Version: fulcrum.Version{Time: 1}})
		}
		for i, part := range slices.Collect(slices.Chunk(entries, 50_000)) {
			st := mustState(t, s, g, "")
			must(t, st.Apply(uint64(i+1), part, nil), st.Flush(t.Context()))
		}
	}
	must(t, s.Close())
	return o
}

// verifyWith is verifyBolt with that many readers.
func verifyWith(path string, readers int) (v *boltFile, err error) {
	err = mapBolt(path, func(m *boltFile) error {
		v, m.readers = m, readers
		return m.verify()
	})
	return v, err
}

// TestReadersFindWhatOneFinds damages every part of a file, a bit or a whole page at a time.
func TestReadersFindWhatOneFinds(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(manySmall(t, 60_000).Dir, stateFile)
	whole, err := verifyWith(path, 1)
	must(t, err, whole.whole())
	b, err := os.ReadFile(path)
	must(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	compare := func(what string) (damage bool) {
		one, err1 := verifyWith(path, 1)
		for _, readers := range []int{2, 3} {
			all, err := verifyWith(path, readers)
			switch {
			case (err == nil) != (err1 == nil):
				t.Fatalf("%s: %d readers say %v, one says %v", what, readers, err, err1)
			case err != nil:
			case !sameKeys(one.bad, all.bad) || !sameKeys(one.damaged, all.damaged) || !slices.Equal(one.used, all.used):
				t.Fatalf("%s: %d readers say %v, one says %v", what, readers, all.whole(), one.whole())
			case one.whole() == nil && !maps.Equal(one.buckets, all.buckets):
				t.Fatalf("%s: %d readers found %v, one %v", what, readers, all.buckets, one.buckets)
			}
		}
		return err1 != nil || one.whole() != nil
	}
	if compare("whole") {
		t.Fatal("a whole file is taken for damaged")
	}
	parts, noticed := 90, 0
	for part := range parts {
		n := len(whole.taken)
		at := int(whole.taken[part*n/parts+rnd.IntN(n/parts)]) * whole.pageSize
		what := fmt.Sprintf("page at %d with another's contents", at)
		if part%3 > 0 {
			from := at + rnd.IntN(whole.pageSize)
			what = fmt.Sprintf("bit flipped at %d", from)
			_, err = f.WriteAt([]byte{b[from] ^ 1<<rnd.IntN(8)}, int64(from))
		} else {
			other := int(whole.taken[rnd.IntN(n)]) * whole.pageSize
			page := bytes.Clone(b[other : other+whole.pageSize])
			copy(page, b[at:at+8]) // but the number is right
			_, err = f.WriteAt(page, int64(at))
		}
		must(t, err)
		if compare(what) {
			noticed++
		}
		_, err = f.WriteAt(b[at:at+whole.pageSize], int64(at))
		must(t, err)
	}
	if noticed < parts/2 {
		t.Errorf("only %d of %d damages were noticed", noticed, parts)
	}
}

func sameKeys[K comparable, A, B any](a map[K]A, b map[K]B) bool {
	return len(a) == len(b) && maps.EqualFunc(a, b, func(A, B) bool { return true })
}

// TestReadersMeetAFault has some pages not come back from the disk at all.
func TestReadersMeetAFault(t *testing.T) {
	path := filepath.Join(manySmall(t, 60_000).Dir, stateFile)
	whole, err := verifyWith(path, 1)
	must(t, err, whole.whole())
	large := fulcrum.GroupID(1)
	for _, readers := range []int{1, 4} {
		v, err := func() (v *boltFile, err error) {
			err = mapBolt(path, func(m *boltFile) error {
				v, m.readers = m, readers
				for _, n := range whole.taken[300:303] { // leaves of the large bucket, which comes first
					must(t, syscall.Mprotect(m.b[int(n)*whole.pageSize:][:whole.pageSize], syscall.PROT_NONE))
				}
				return m.verify()
			})
			return v, err
		}()
		if err != nil || len(v.damaged) != 1 || v.damaged[large] == nil || len(v.bad) != 1 {
			t.Errorf("%d readers: %v, damaged %v", readers, err, v.damaged)
		}
	}
}

func TestAllCoresArePutBack(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	n, putBack := allCores()
	m, putBackToo := allCores()
	if n < 1 || n != m || runtime.GOMAXPROCS(0) != n {
		t.Errorf("%d and %d cores, and the runtime has %d", n, m, runtime.GOMAXPROCS(0))
	}
	putBack()
	if got := runtime.GOMAXPROCS(0); got != n {
		t.Errorf("%d cores while they are wanted still, want %d", got, n)
	}
	putBackToo()
	if got := runtime.GOMAXPROCS(0); got != 1 {
		t.Errorf("%d cores afterwards, want 1", got)
	}
	runtime.GOMAXPROCS(64) // more than there are: it stays
	n, putBack = allCores()
	putBack()
	if got := runtime.GOMAXPROCS(0); n < 64 || got != 64 {
		t.Errorf("%d cores, then %d, want 64", n, got)
	}
}

// BenchmarkVerify reads a file from the system's cache, as Open does.
func BenchmarkVerify(b *testing.B) {
	const n = 300_000
	path := filepath.Join(manySmall(b, n).Dir, stateFile)
	st, err := os.Stat(path)
	must(b, err)
	_, putBack := allCores()
	defer putBack()
	for _, readers := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			b.SetBytes(st.Size())
			b.ReportAllocs()
			for range b.N {
				v, err := verifyWith(path, readers)
				must(b, err, v.whole())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*(n+n/50)), "ns/entry")
		})
	}
}
