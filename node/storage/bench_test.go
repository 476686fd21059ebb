package storage

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"fulcrum"
)

func BenchmarkAppend(b *testing.B) {
	for _, groups := range []int{1, 64} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			s := open(b, options(b.TempDir(), nil))
			record := make([]byte, 300)
			b.ResetTimer()
			var wg sync.WaitGroup
			for g := range groups {
				l := mustLog(b, s, fulcrum.GroupID(g), 1, Fsync)
				wg.Go(func() {
					for i := 1; i <= b.N/groups+1; i++ {
						if err := l.Append(uint64(i), [][]byte{record}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkBegin has each group wait for its callback before it begins again.
func BenchmarkBegin(b *testing.B) {
	for _, groups := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			s := open(b, options(b.TempDir(), nil))
			go s.Run(b.Context())
			record := make([]byte, 300)
			b.ResetTimer()
			var wg sync.WaitGroup
			for g := range groups {
				l := mustLog(b, s, fulcrum.GroupID(g), 1, Fsync)
				wg.Go(func() {
					for i := 1; i <= b.N/groups+1; i++ {
						if err := beginAndWait(l, uint64(i), [][]byte{record}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(s.syncs.Load())/float64(b.N), "syncs/op")
		})
	}
}

func key(i int) []byte { return binary.BigEndian.AppendUint64([]byte("key"), uint64(i)) }

func BenchmarkStateGet(b *testing.B) {
	const keys = 100_000
	for _, flushed := range []bool{true, false} {
		b.Run(fmt.Sprintf("committed=%v", flushed), func(b *testing.B) {
			s := open(b, options(b.TempDir(), nil))
			st := mustState(b, s, 1, "")
			value := make([]byte, 256)
			for i := range keys {
				must(b, st.Apply(uint64(i), []fulcrum.Entry{{Key: key(i), Value: value, Version: fulcrum.Version{Time: 1}}}, nil))
			}
			if flushed {
				must(b, st.Flush(b.Context()))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if e, err := st.Get(key(i * 7919 % keys)); err != nil || e.Key == nil {
					b.Fatal(e, err)
				}
			}
		})
	}
}

// BenchmarkApply includes the commits to the engine that its writes cause.
func BenchmarkApply(b *testing.B) {
	s := open(b, options(b.TempDir(), nil))
	st := mustState(b, s, 1, "")
	value := make([]byte, 256)
	b.ReportAllocs()
	for i := range b.N {
		e := fulcrum.Entry{Key: key(i * 7919 % 100_000), Value: value, Version: fulcrum.Version{Time: uint64(i + 1)}}
		must(b, st.Apply(uint64(i), []fulcrum.Entry{e}, nil))
	}
	must(b, st.Flush(b.Context()))
}

func BenchmarkScan(b *testing.B) {
	s := open(b, options(b.TempDir(), nil))
	st := mustState(b, s, 1, "")
	for i := range 100_000 {
		must(b, st.Apply(uint64(i), []fulcrum.Entry{{Key: key(i), Value: make([]byte, 256), Version: fulcrum.Version{Time: 1}}}, nil))
	}
	must(b, st.Flush(b.Context()))
	b.ResetTimer()
	for range b.N {
		n := 0
		must(b, st.Scan(nil, nil, func(fulcrum.Entry) bool { n++; return true }))
		if n != 100_000 {
			b.Fatal(n)
		}
	}
}
