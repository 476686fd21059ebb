package fulcrum

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
)

// Op is what a Write does to its key.
type Op uint8

// The operations. Put and Delete are blind: they need nothing of what stood
// there. Merge carries a whole Entry of an earlier epoch with its own version and
// counts only where nothing newer stands. The rest read, then write.
const (
	OpPut      Op = iota + 1
	OpDelete      // leaves a tombstone
	OpMerge       // Value, ExpireAt, Tombstone and At are taken as they are; applied where Version < At
	OpAdd         // Value is a decimal int64 to add
	OpAddFloat    // Value is a decimal float to add
	OpAppend      // Value goes behind what stands there
	OpSetRange    // Value overwrites from Offset on
	OpExpire      // sets the expiry (TTL or ExpireAt; neither removes it) on a live key
	OpGet         // changes nothing and is never Applied: a read inside a transaction
	opEnd
)

// If is the condition under which a Write counts.
type If uint8

// The conditions.
const (
	IfAlways  If = iota
	IfAbsent     // no live value stands there
	IfPresent    // a live value stands there
	IfVersion    // the live value has version At
	IfValue      // the live value equals Expect
	ifEnd
)

// Write is one change to one key: what to do, and under which condition. It is
// evaluated by Evaluate, the same way on every replica and in every mode.
type Write struct {
	Op        Op
	If        If
	KeepTTL   bool // OpPut keeps the key's expiry instead of taking TTL or ExpireAt
	Tombstone bool // OpMerge only
	Quiet     bool // who asks needs no more of the Result than Applied, Err and the Entry's version
	NoValue   bool // who asks needs the Result's Entry without its value
	NoOld     bool // who asks needs the Result's Old without its value
	Key       []byte
	Value     []byte
	Expect    []byte  // IfValue
	At        Version // IfVersion, OpMerge
	Offset    int64   // OpSetRange
	ExpireAt  int64   // Unix milliseconds; 0: never
	TTL       int64   // milliseconds from when it takes effect, in the place of ExpireAt; 0: none
}

// Expiry is the ExpireAt of what w leaves when it takes effect at now (Unix
// milliseconds, on the clock that the entry's ExpireAt is to be on).
func (w Write) Expiry(now int64) int64 {
	switch {
	case w.TTL <= 0:
		return w.ExpireAt
	case w.TTL > math.MaxInt64-max(now, 0):
		return math.MaxInt64
	}
	return now + w.TTL
}

// Timed returns w with its TTL, if it has one, turned into an ExpireAt.
func (w Write) Timed(now int64) Write {
	w.ExpireAt, w.TTL = w.Expiry(now), 0
	return w
}

// Blind reports whether w needs nothing of what stands at its key, so that a mode
// without atomic read-modify-write can take it.
func (w Write) Blind() bool {
	return w.If == IfAlways && !w.KeepTTL && (w.Op == OpPut || w.Op == OpDelete || w.Op == OpMerge)
}

// MergeOf is the Write that carries e, with its own version, into a later epoch.
func MergeOf(e Entry) Write {
	return Write{Op: OpMerge, Key: e.Key, Value: e.Value, At: e.Version, Tombstone: e.Tombstone, ExpireAt: e.ExpireAt, NoValue: true, NoOld: true}
}

// Result says what became of one Write. Its lengths are those of the values, also where
// these are left out because the Write said that nobody needs them.
type Result struct {
	Applied   bool  // false: its condition did not hold, or Err is set; nothing changed
	Entry     Entry // what stands there now
	Old       Entry // what stood there before; the zero Entry when nothing live did
	Err       error // an evaluation error: this write is refused for good
	Length    int   // of Entry's value
	OldLength int   // of Old's value
}

// Trim leaves out of res, the result of w, the values (and of a Quiet write the keys) that
// nobody needs: they would travel, and be kept, for nothing.
func (w Write) Trim(res Result) Result {
	if w.NoValue || w.Quiet {
		res.Entry.Value = nil
	}
	if w.NoOld || w.Quiet {
		res.Old.Value = nil
	}
	if w.Quiet {
		res.Entry.Key, res.Old.Key = nil, nil
	}
	return res
}

// Errors of evaluation: the write is refused and changes nothing.
var (
	ErrNotInteger = errors.New("value is not an integer or out of range")
	ErrNotFloat   = errors.New("value is not a valid float")
	ErrTooLarge   = errors.New("key or value too large")
	ErrEmptyKey   = errors.New("empty key")
)

// Evaluate computes what w leaves at its key: a pure function, so that every
// replica that evaluates w over the same old Entry with the same stamp agrees.
// stamp must be newer than old.Version; now (Unix milliseconds, or whatever clock
// the entries' ExpireAt is on) decides what has expired.
// The Entry is to be stored only if Applied. The error is one of the evaluation
// errors above and means: not applied.
func Evaluate(w Write, old Entry, stamp Version, now int64, maxValue int) (Result, error) {
	res, err := evaluate(w, old, stamp, now, maxValue)
	res.Length, res.OldLength = len(res.Entry.Value), len(res.Old.Value)
	return res, err
}

func evaluate(w Write, old Entry, stamp Version, now int64, maxValue int) (Result, error) {
	live := old.Live(now)
	res := Result{Entry: old}
	if live {
		res.Old = old
	}
	if w.Op == OpMerge {
		if !old.Version.Less(w.At) {
			return res, nil
		}
		res.Applied = true
		res.Entry = Entry{Key: w.Key, Value: w.Value, Version: w.At, Tombstone: w.Tombstone, ExpireAt: w.ExpireAt}
		return res, nil
	}
	if w.Op == OpGet || !w.holds(old, live) {
		return res, nil
	}
	e := Entry{Key: w.Key, Version: stamp, ExpireAt: w.Expiry(now)}
	if live && (w.KeepTTL || (w.Op != OpPut && w.Op != OpExpire)) {
		e.ExpireAt = old.ExpireAt
	}
	var base []byte
	if live {
		base = old.Value
	}
	var err error
	switch w.Op {
	case OpPut:
		e.Value = w.Value
	case OpDelete:
		e.Tombstone, e.ExpireAt = true, 0
	case OpAdd:
		e.Value, err = addInt(base, w.Value, live)
	case OpAddFloat:
		e.Value, err = addFloat(base, w.Value, live)
	case OpAppend:
		e.Value = append(bytes.Clone(base), w.Value...)
	case OpSetRange:
		e.Value, err = setRange(base, w.Value, w.Offset, maxValue)
	case OpExpire:
		if !live {
			return res, nil
		}
		e.Value = base
	default:
		return res, fmt.Errorf("operation %d: %w", w.Op, ErrShort)
	}
	if err != nil {
		return res, err
	}
	if len(e.Value) > maxValue {
		return res, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(e.Value), maxValue)
	}
	res.Applied, res.Entry = true, e
	return res, nil
}

func (w Write) holds(old Entry, live bool) bool {
	switch w.If {
	case IfAlways:
		return true
	case IfAbsent:
		return !live
	case IfPresent:
		return live
	case IfVersion:
		return live && old.Version == w.At
	case IfValue:
		return live && bytes.Equal(old.Value, w.Expect)
	}
	return false
}

func addInt(base, delta []byte, live bool) ([]byte, error) {
	var n int64
	var err error
	if live {
		// As in Redis, what does not look as it would be written is not a number: 01, +1, -0.
		if n, err = strconv.ParseInt(string(base), 10, 64); err != nil || strconv.FormatInt(n, 10) != string(base) {
			return nil, ErrNotInteger
		}
	}
	d, err := strconv.ParseInt(string(delta), 10, 64)
	if err != nil {
		return nil, ErrNotInteger
	}
	if (d > 0 && n > math.MaxInt64-d) || (d < 0 && n < math.MinInt64-d) {
		return nil, fmt.Errorf("increment or decrement would overflow: %w", ErrNotInteger)
	}
	return strconv.AppendInt(nil, n+d, 10), nil
}

// addFloat adds in 17 digits of decimal precision as Redis does with long
// doubles, so that 10.5 + 0.1 is 10.6.
func addFloat(base, delta []byte, live bool) ([]byte, error) {
	// The length and the exponent are held to what a long double has room for: the
	// decimal form of 1e-1000000 alone would take a replica minutes to print.
	const maxText, minExponent, maxExponent = 5 << 10, -16445, 16384
	parse := func(b []byte) (*big.Float, error) {
		if len(b) > maxText {
			return nil, ErrNotFloat
		}
		f, _, err := big.ParseFloat(string(b), 10, 64, big.ToNearestEven)
		if err != nil || f.IsInf() {
			return nil, ErrNotFloat
		}
		if exp := f.MantExp(nil); exp < minExponent || exp > maxExponent {
			return nil, ErrNotFloat
		}
		return f, nil
	}
	sum := new(big.Float).SetPrec(64)
	if live {
		f, err := parse(base)
		if err != nil {
			return nil, err
		}
		sum = f
	}
	d, err := parse(delta)
	if err != nil {
		return nil, err
	}
	sum.Add(sum, d)
	if f64, _ := sum.Float64(); math.IsInf(f64, 0) {
		return nil, fmt.Errorf("increment would produce NaN or Infinity: %w", ErrNotFloat)
	}
	text := sum.Text('f', 17)
	text = trimZeros(text)
	return []byte(text), nil
}

func trimZeros(s string) string {
	if !bytes.ContainsRune([]byte(s), '.') {
		return s
	}
	for s[len(s)-1] == '0' {
		s = s[:len(s)-1]
	}
	if s[len(s)-1] == '.' {
		s = s[:len(s)-1]
	}
	if s == "-0" {
		return "0"
	}
	return s
}

func setRange(base, value []byte, offset int64, maxValue int) ([]byte, error) {
	if offset < 0 || offset > int64(maxValue)-int64(len(value)) {
		return nil, fmt.Errorf("%w: offset %d, the limit is %d bytes", ErrTooLarge, offset, maxValue)
	}
	out := make([]byte, max(len(base), int(offset)+len(value)))
	copy(out, base)
	copy(out[offset:], value)
	return out, nil
}

// Check refuses what no mode takes, whatever stands at the key.
func (w Write) Check(maxValue int) error {
	switch {
	case len(w.Key) == 0:
		return ErrEmptyKey
	case len(w.Key) > MaxKeyBytes:
		return fmt.Errorf("%w: key of %d bytes, the limit is %d", ErrTooLarge, len(w.Key), MaxKeyBytes)
	case len(w.Value) > maxValue && w.Op != OpMerge: // what a merge carries was taken once already, perhaps under another limit
		return fmt.Errorf("%w: value of %d bytes, the limit is %d", ErrTooLarge, len(w.Value), maxValue)
	case w.TTL < 0 || (w.TTL > 0 && (w.ExpireAt != 0 || w.Op == OpMerge)):
		return fmt.Errorf("time to live of %d ms with an expiry at %d: %w", w.TTL, w.ExpireAt, ErrShort)
	case w.Op == 0 || w.Op >= opEnd || w.If >= ifEnd:
		return fmt.Errorf("operation %d under condition %d: %w", w.Op, w.If, ErrShort)
	}
	return nil
}

// AppendWrite appends the binary form of w, which DecodeWrite reads.
func AppendWrite(b []byte, w Write) []byte {
	var flags byte
	if w.KeepTTL {
		flags |= 1
	}
	if w.Tombstone {
		flags |= 2
	}
	if w.Quiet {
		flags |= 8
	}
	if w.NoValue {
		flags |= 16
	}
	if w.NoOld {
		flags |= 32
	}
	expiry := w.ExpireAt
	if w.TTL > 0 { // at most one of the two is set: they share a field
		flags |= 4
		expiry = w.TTL
	}
	b = append(b, byte(w.Op), byte(w.If), flags)
	b = binary.AppendVarint(b, expiry)
	b = AppendBytes(b, w.Key)
	b = AppendBytes(b, w.Value)
	if w.If == IfValue {
		b = AppendBytes(b, w.Expect)
	}
	if w.If == IfVersion || w.Op == OpMerge {
		b = binary.AppendUvarint(b, w.At.Time)
		b = binary.AppendUvarint(b, uint64(w.At.Actor))
	}
	if w.Op == OpSetRange {
		b = binary.AppendVarint(b, w.Offset)
	}
	return b
}

// DecodeWrite reads a Write and returns the rest of b. Its slices point into b.
func DecodeWrite(b []byte) (Write, []byte, error) {
	r := Reader{b: b}
	var w Write
	w.Op, w.If = Op(r.Byte()), If(r.Byte())
	flags := r.Byte()
	w.KeepTTL, w.Tombstone, w.Quiet = flags&1 != 0, flags&2 != 0, flags&8 != 0
	w.NoValue, w.NoOld = flags&16 != 0, flags&32 != 0
	if expiry := r.Varint(); flags&4 != 0 {
		w.TTL = expiry
	} else {
		w.ExpireAt = expiry
	}
	w.Key, w.Value = r.Bytes(), r.Bytes()
	if w.If == IfValue {
		w.Expect = r.Bytes()
	}
	if w.If == IfVersion || w.Op == OpMerge {
		w.At.Time = r.Uvarint()
		w.At.Actor = uint32(r.Uvarint())
	}
	if w.Op == OpSetRange {
		w.Offset = r.Varint()
	}
	if w.Op == 0 || w.Op >= opEnd || w.If >= ifEnd {
		r.fail()
	}
	return w, r.b, r.Err()
}
