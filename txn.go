package fulcrum

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// RequestID names one request of one client: one that comes again under the same id, after
// an outcome that its client never learned, is answered with what became of the first and
// is not applied again, for as long as ids are remembered. The client chooses it, and
// never uses it for another request; the empty one asks for nothing of the kind.
type RequestID string

// MaxRequestID is the longest RequestID, in bytes.
const MaxRequestID = 128

// Check refuses an id that no mode takes.
func (id RequestID) Check() error {
	if len(id) > MaxRequestID {
		return fmt.Errorf("%w: request id of %d bytes, the limit is %d", ErrTooLarge, len(id), MaxRequestID)
	}
	return nil
}

// CompareTarget is what of a key a Compare looks at.
type CompareTarget uint8

// The targets. A key without a live value has the zero Version and an empty value.
const (
	CompareVersion CompareTarget = iota
	CompareValue
	compareTargetEnd
)

// CompareOp is how a Compare compares what stands there with its operand.
type CompareOp uint8

// The comparisons.
const (
	Equal CompareOp = iota
	NotEqual
	Less
	Greater
	compareOpEnd
)

// Compare is one condition of a transaction.
type Compare struct {
	Key     []byte
	Target  CompareTarget
	Op      CompareOp
	Version Version // CompareVersion; zero: absent
	Value   []byte  // CompareValue
}

// Holds reports whether c is met by e, the entry at its key, at the time now (Unix
// milliseconds).
func (c Compare) Holds(e Entry, now int64) bool {
	var n int
	live := e.Live(now)
	switch {
	case c.Target == CompareValue && !live:
		return c.Op == NotEqual // absent is neither equal, less nor greater
	case c.Target == CompareValue:
		n = bytes.Compare(e.Value, c.Value)
	case live:
		n = e.Version.Compare(c.Version)
	default:
		n = Version{}.Compare(c.Version)
	}
	switch c.Op {
	case Equal:
		return n == 0
	case NotEqual:
		return n != 0
	case Less:
		return n < 0
	case Greater:
		return n > 0
	}
	return false
}

// Check refuses what no mode takes.
func (c Compare) Check(maxValue int) error {
	if c.Target >= compareTargetEnd || c.Op >= compareOpEnd {
		return fmt.Errorf("comparison %d of target %d: %w", c.Op, c.Target, ErrShort)
	}
	return Write{Op: OpGet, Key: c.Key, Value: c.Value}.Check(maxValue)
}

// AppendCompare appends the binary form of c, which ReadCompare reads.
func AppendCompare(b []byte, c Compare) []byte {
	b = append(b, byte(c.Target), byte(c.Op))
	b = binary.AppendUvarint(b, c.Version.Time)
	b = binary.AppendUvarint(b, uint64(c.Version.Actor))
	return AppendBytes(AppendBytes(b, c.Key), c.Value)
}

// ReadCompare reads what AppendCompare wrote; r.Err says whether it was one.
func ReadCompare(r *Reader) Compare {
	c := Compare{Target: CompareTarget(r.Byte()), Op: CompareOp(r.Byte())}
	c.Version = Version{Time: r.Uvarint(), Actor: uint32(r.Uvarint())}
	c.Key, c.Value = r.Bytes(), r.Bytes()
	if c.Target >= compareTargetEnd || c.Op >= compareOpEnd {
		r.fail()
	}
	return c
}

// Event is one change to a key, as a watch tells it: Entry is what stands there now,
// a tombstone if it was removed. Expired says that its time ran out; nobody removed it.
type Event struct {
	Entry   Entry
	Expired bool
}
