package partition

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// Table cuts a keyspace's tokens into ranges. It never changes once made, so
// readers share a *Table without a lock.
//
// Invariant: starts rises strictly and starts[0] is empty, so every token falls
// in exactly one range [starts[i], starts[i+1]), and the last one has no end.
type Table struct {
	epoch  uint64
	starts [][]byte
}

// NewTable makes the table whose ranges begin at starts. It copies them.
func NewTable(epoch uint64, starts [][]byte) (*Table, error) {
	if len(starts) == 0 || len(starts[0]) != 0 {
		return nil, fmt.Errorf("partition: the first of %d ranges must begin at the empty token", len(starts))
	}
	t := &Table{epoch: epoch, starts: make([][]byte, len(starts))}
	for i, s := range starts {
		if i > 0 && bytes.Compare(starts[i-1], s) >= 0 {
			return nil, fmt.Errorf("partition: range %d begins at %q, not above %q", i, s, starts[i-1])
		}
		t.starts[i] = bytes.Clone(s)
	}
	return t, nil
}

// Epoch is the table's number; a higher one is newer.
func (t *Table) Epoch() uint64 { return t.epoch }

// Len is the number of ranges, at least 1.
func (t *Table) Len() int { return len(t.starts) }

// Find returns the index of the range that holds token.
func (t *Table) Find(token []byte) int {
	next := sort.Search(len(t.starts), func(i int) bool { return bytes.Compare(t.starts[i], token) > 0 })
	return next - 1
}

// Range returns the bounds of range i: start <= token < end; a nil end means
// none. The caller must not modify them.
func (t *Table) Range(i int) (start, end []byte) {
	if i+1 < len(t.starts) {
		end = t.starts[i+1]
	}
	return t.starts[i], end
}

// Overlap returns the first and last range that hold any token with
// start <= token < end (nil: no end). When there is no such token, last < first.
func (t *Table) Overlap(start, end []byte) (first, last int) {
	first = t.Find(start)
	if end == nil {
		return first, len(t.starts) - 1
	}
	if bytes.Compare(start, end) >= 0 {
		return first, first - 1
	}
	last = sort.Search(len(t.starts), func(i int) bool { return bytes.Compare(t.starts[i], end) >= 0 }) - 1
	return first, last
}

// FormatToken writes a token as ShardInfo shows it: quoted as Go does.
func FormatToken(token []byte) string { return strconv.Quote(string(token)) }

// ParseToken reads what FormatToken wrote, with or without the outer quotes; ""
// is the empty token.
func ParseToken(s string) ([]byte, error) {
	if !strings.HasPrefix(s, `"`) {
		s = `"` + s + `"`
	}
	token, err := strconv.Unquote(s)
	if err != nil {
		return nil, fmt.Errorf("token %s: not quoted as Go does", s)
	}
	return []byte(token), nil
}
