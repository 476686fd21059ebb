package raft

import (
	"slices"
	"sync"

	"fulcrum/replication/raft/protocol"
)

// buffer is memory for what is encoded only to be copied: into the log's batch, into a
// connection's frames. Entries may be large, and each would else be garbage of its size
// for every place that it is copied to.
type buffer struct{ b []byte }

// keptBuffer is how large a buffer may be to be used again. The collector takes those
// that nobody uses.
const keptBuffer = 2 << 20

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func borrow() *buffer { return buffers.Get().(*buffer) }

// giveBack ends the use of b and of all that points into it.
func (b *buffer) giveBack() {
	if cap(b.b) <= keptBuffer {
		buffers.Put(b)
	}
}

// records encodes entries into the buffer, and returns where each of them is.
func (b *buffer) records(entries []protocol.Entry) [][]byte {
	size := 0
	for i := range entries {
		size += len(entries[i].Data) + 16
	}
	b.b = slices.Grow(b.b[:0], size) // so that none moves while the next is encoded
	records := make([][]byte, len(entries))
	for i, e := range entries {
		at := len(b.b)
		b.b = appendRecord(b.b, e)
		records[i] = b.b[at:len(b.b):len(b.b)]
	}
	return records
}
