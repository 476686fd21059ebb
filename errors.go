package fulcrum

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Code is a stable, lower-case word for one decision that a caller can take. It
// is the "code" of HTTP problems and travels between nodes.
type Code string

// The codes.
const (
	CodeUnavailable Code = "unavailable" // too few replicas, or no leader: definitely not done
	CodeUnknown     Code = "unknown"     // the outcome is unknown; never assume either way
	CodeLevel       Code = "level"       // the mode does not offer this level
	CodeMode        Code = "mode"        // the mode cannot do this operation (atomic read-modify-write)
	CodeOverloaded  Code = "overloaded"  // a bounded queue is full: not done, slow down
	CodeTooLarge    Code = "too-large"   // key, value or message over a limit
	CodeInvalid     Code = "invalid"     // the request makes no sense, or its operands do not
	CodeNotFound    Code = "not-found"   // no such keyspace, node, key ...
	CodeExists      Code = "exists"      // the name is taken
	CodeConflict    Code = "conflict"    // a condition failed, or another change is under way
	CodeEpoch       Code = "epoch"       // the sender's table is old (or ahead); look again and retry
	CodeNotLeader   Code = "not-leader"  // ask Hint's node instead; not done
	CodeFaults      Code = "faults-off"  // the node was started without --allow-faults
	CodeCompacted   Code = "compacted"   // the changes asked for are no longer kept: read anew, and watch from there
	CodeDisk        Code = "disk"        // the disk failed or is full
	CodeInternal    Code = "internal"    // a bug
)

// Error is what every part of fulcrum returns across a seam: a code to decide
// by, where it happened, and what the person on call should do next.
//
// errors.Is(err, &Error{Code: c}) and the sentinels below match by Code.
type Error struct {
	Code   Code
	Op     string // "put", "get", "join"; may be empty
	Node   NodeID // the node that gave up; may be empty
	Maybe  bool   // the write may still take effect; do not assume either way
	Detail string // what went wrong, with the values seen
	Hint   string // the next step; for CodeNotLeader the leader's NodeID or empty
	Err    error  // cause, not sent over the network
}

// Sentinels to test with errors.Is.
var (
	ErrUnavailable = &Error{Code: CodeUnavailable}
	ErrUnknown     = &Error{Code: CodeUnknown, Maybe: true}
	ErrLevel       = &Error{Code: CodeLevel}
	ErrMode        = &Error{Code: CodeMode}
	ErrOverloaded  = &Error{Code: CodeOverloaded}
	ErrInvalid     = &Error{Code: CodeInvalid}
	ErrNotFound    = &Error{Code: CodeNotFound}
	ErrExists      = &Error{Code: CodeExists}
	ErrConflict    = &Error{Code: CodeConflict}
	ErrEpoch       = &Error{Code: CodeEpoch}
	ErrNotLeader   = &Error{Code: CodeNotLeader}
	ErrFaultsOff   = &Error{Code: CodeFaults}
	ErrCompacted   = &Error{Code: CodeCompacted}
	ErrDisk        = &Error{Code: CodeDisk}
)

// ErrShards is the cause of a CodeInvalid: the keys of a request that one shard must
// answer belong to several. The Redis protocol has a word of its own for it.
var ErrShards = errors.New("the keys belong to several shards")

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Node != "" {
		if e.Op != "" {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "on %s", e.Node)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	switch {
	case e.Detail != "":
		b.WriteString(e.Detail)
	default:
		b.WriteString(string(e.Code))
	}
	if e.Err != nil {
		if cause := e.Err.Error(); cause != "" {
			b.WriteString(": " + cause)
		}
	}
	if e.Hint != "" && e.Code != CodeNotLeader {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches any *Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf makes an Error of code c; format may use %w.
func Errorf(c Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: c, Maybe: c == CodeUnknown, Detail: err.Error(), Err: quiet{errors.Unwrap(err)}.orNil()}
}

// WithHint returns a copy of e that tells the operator what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// quiet keeps a cause for errors.Is without printing it a second time.
type quiet struct{ err error }

func (q quiet) orNil() error {
	if q.err == nil {
		return nil
	}
	return q
}
func (q quiet) Error() string { return "" }
func (q quiet) Unwrap() error { return q.err }

// AsError turns any error into an *Error. A context that ended and everything
// nobody classified count as unknown: they may have taken effect.
func AsError(err error) *Error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, ErrTooLarge):
		return &Error{Code: CodeTooLarge, Detail: err.Error(), Err: quiet{err}}
	case errors.Is(err, ErrNotInteger), errors.Is(err, ErrNotFloat), errors.Is(err, ErrEmptyKey), errors.Is(err, ErrShort):
		return &Error{Code: CodeInvalid, Detail: err.Error(), Err: quiet{err}}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &Error{Code: CodeUnknown, Maybe: true, Detail: "no answer before the deadline", Err: quiet{err}}
	}
	return &Error{Code: CodeUnknown, Maybe: true, Detail: err.Error(), Err: quiet{err}}
}

// AppendError appends the binary form of err, for DecodeError.
func AppendError(b []byte, err error) []byte {
	e := AsError(err)
	var maybe byte
	if e.Maybe {
		maybe = 1
	}
	detail := e.Detail
	if detail == "" && e.Err != nil {
		detail = e.Err.Error()
	}
	b = append(b, maybe)
	for _, s := range []string{string(e.Code), e.Op, string(e.Node), detail, e.Hint} {
		b = AppendBytes(b, []byte(s))
	}
	return b
}

// DecodeError reads what AppendError wrote; bytes that are no error give ErrShort.
func DecodeError(b []byte) error {
	r := Reader{b: b}
	e := &Error{Maybe: r.Byte() == 1, Code: Code(r.String()), Op: r.String(), Node: NodeID(r.String()), Detail: r.String(), Hint: r.String()}
	if r.Err() != nil {
		return r.Err()
	}
	switch e.Detail { // evaluation errors keep their identity across nodes
	case ErrNotInteger.Error():
		e.Err = quiet{ErrNotInteger}
	case ErrNotFloat.Error():
		e.Err = quiet{ErrNotFloat}
	}
	return e
}
