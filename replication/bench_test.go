package replication

import (
	"fmt"
	"testing"

	"fulcrum"
)

// A request as a pipeline of clients makes it: 16 writes of 256 bytes.
func pipelineOf(n int) WriteRequest {
	var req WriteRequest
	for i := range n {
		req.Writes = append(req.Writes, fulcrum.Write{Op: fulcrum.OpPut, Key: fmt.Appendf(nil, "key:%06d", i), Value: make([]byte, 256)})
	}
	return req
}

func BenchmarkWriteRequestCodec(b *testing.B) {
	req := pipelineOf(16)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendWriteRequest(buf[:0], req)
		if got, err := ReadWriteRequest(fulcrum.NewReader(buf)); err != nil || len(got.Writes) != 16 {
			b.Fatal(len(got.Writes), err)
		}
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkEvaluate(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("writes=%d", n), func(b *testing.B) {
			req := pipelineOf(n)
			get := func(key []byte) (fulcrum.Entry, error) { return fulcrum.Entry{}, nil }
			b.ReportAllocs()
			for b.Loop() {
				if out, err := Evaluate(req, get, fulcrum.Version{Time: 1}, 0, fulcrum.DefaultMaxValue, Bounded); err != nil || len(out.Entries) != n {
					b.Fatal(len(out.Entries), err)
				}
			}
		})
	}
}
