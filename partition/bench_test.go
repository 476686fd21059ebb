package partition_test

import (
	"encoding/binary"
	"testing"

	"fulcrum/partition"
)

// BenchmarkRoute is what every request begins with: from the key to its range.
func BenchmarkRoute(b *testing.B) {
	starts := [][]byte{nil}
	for i := 1; i < 64; i++ {
		starts = append(starts, binary.BigEndian.AppendUint64(nil, uint64(i)<<58))
	}
	t, err := partition.NewTable(1, starts)
	if err != nil {
		b.Fatal(err)
	}
	key := []byte("bench:0000000012345")
	b.ReportAllocs()
	for b.Loop() {
		if i := t.Find(partition.Hash.Token(key)); i < 0 || i >= 64 {
			b.Fatal(i)
		}
	}
}
