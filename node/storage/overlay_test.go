package storage

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"fulcrum"
)

// Keys are in bytes' order, whether they differ in the head beside the entry or behind it,
// or only in how many zeros they end with.
func TestAnOverlayIsInTheOrderOfItsKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.Custom(func(t *rapid.T) string {
			shared := rapid.SampledFrom([]string{"", "k", "the same 23 bytes here-", "more than twenty-four bytes alike "}).Draw(t, "shared")
			return shared + string(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 'a', 0xff}), 0, 10).Draw(t, "own"))
		})
		want := map[string]string{}
		o := newOverlay()
		for i, k := range rapid.SliceOfN(key, 1, 40).Draw(t, "keys") {
			want[k] = fmt.Sprint(i)
			o.put(fulcrum.Entry{Key: []byte(k), Value: []byte(want[k])})
		}
		var keys []string
		for k := range want {
			keys = append(keys, k)
		}
		slices.SortFunc(keys, func(a, b string) int { return cmp.Compare(a, b) })
		start := rapid.SampledFrom(keys).Draw(t, "start")
		src := o.source([]byte(start), nil)
		for _, k := range keys[slices.Index(keys, start):] {
			e, ok, err := src.next()
			if err != nil || !ok || string(e.Key) != k || string(e.Value) != want[k] {
				t.Fatalf("%q=%q, %v, %v; want %q=%q", e.Key, e.Value, ok, err, k, want[k])
			}
			if got, ok := o.get([]byte(k)); !ok || !bytes.Equal(got.Key, e.Key) {
				t.Fatalf("get %q: %q, %v", k, got.Key, ok)
			}
		}
		if e, ok, _ := src.next(); ok {
			t.Fatalf("%q behind the last key", e.Key)
		}
	})
}

// BenchmarkOverlay puts 30 of 100,000 keys at a time, as an entry of the log does, after
// the processor's caches have been used for something else. A benchmark's time an
// operation is that of 30 puts, without what comes between.
func BenchmarkOverlay(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	other := make([]byte, 16<<20)
	o := newOverlay()
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		if n%2000 == 0 {
			o = newOverlay()
		}
		from := r.IntN(len(other) / 2)
		for i := 0; i < len(other)/4; i += 64 {
			other[from+i]++
		}
		var entries [30]fulcrum.Entry
		for i := range entries {
			entries[i] = fulcrum.Entry{Key: fmt.Appendf(nil, "key:%012d", r.IntN(100_000)), Value: make([]byte, 256)}
		}
		b.StartTimer()
		for _, e := range entries {
			o.put(e)
		}
	}
}
