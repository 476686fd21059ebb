package resp

import "sync/atomic"

// budget bounds what the large input buffers of all connections hold together.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take adds n bytes (or gives back, when n is negative) and reports whether that
// stays in the limit; if not, nothing changed. Giving back always succeeds.
func (b *budget) take(n int) bool {
	if used := b.used.Add(int64(n)); n > 0 && used > b.limit {
		b.used.Add(int64(-n))
		return false
	}
	return true
}
