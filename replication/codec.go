package replication

import (
	"encoding/binary"
	"fmt"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// The forms in which requests and replies travel between a coordinator and a
// replica's node. Decoded slices point into the message.

func appendLevel(b []byte, l consistency.Level) []byte {
	b = append(b, byte(l.Kind))
	return binary.AppendVarint(b, int64(l.Bound))
}

func readLevel(r *fulcrum.Reader) consistency.Level {
	return consistency.Level{Kind: consistency.Kind(r.Byte()), Bound: time.Duration(r.Varint())}
}

func appendPosition(b []byte, p Position) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, p.Term), p.Index)
}

func readPosition(r *fulcrum.Reader) Position {
	return Position{Term: r.Uvarint(), Index: r.Uvarint()}
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendEntryField(b []byte, e fulcrum.Entry) []byte {
	return fulcrum.AppendBytes(b, fulcrum.AppendEntry(nil, e))
}

func readEntryField(r *fulcrum.Reader) (fulcrum.Entry, error) {
	e, _, err := fulcrum.DecodeEntry(r.Bytes())
	return e, err
}

// count reads how many elements follow; each takes at least one byte, so that a
// forged count cannot make the reader allocate more than the message's own size.
func count(r *fulcrum.Reader) (int, error) {
	n := r.Uvarint()
	if n > uint64(len(r.Rest())) {
		return 0, fulcrum.ErrShort
	}
	return int(n), r.Err()
}

// The flags of a WriteRequest: what else it holds.
const (
	flagAtomic byte = 1 << iota
	flagIf
	flagElse
	flagID
	flagDivisible
	flagsEnd
)

// AppendOperations appends all of req but its level: the form in which it stands in a
// log, too. A request of nothing but writes spends one byte on what it does not hold.
func AppendOperations(b []byte, req WriteRequest) []byte {
	var flags byte
	if req.Atomic {
		flags |= flagAtomic
	}
	if len(req.If) > 0 {
		flags |= flagIf
	}
	if len(req.Else) > 0 {
		flags |= flagElse
	}
	if req.ID != "" {
		flags |= flagID
	}
	if req.Divisible {
		flags |= flagDivisible
	}
	b = appendWrites(append(b, flags), req.Writes)
	if flags&flagIf != 0 {
		b = binary.AppendUvarint(b, uint64(len(req.If)))
		for _, c := range req.If {
			b = fulcrum.AppendCompare(b, c)
		}
	}
	if flags&flagElse != 0 {
		b = appendWrites(b, req.Else)
	}
	if flags&flagID != 0 {
		b = fulcrum.AppendBytes(b, []byte(req.ID))
	}
	return b
}

// ReadOperations reads what AppendOperations wrote.
func ReadOperations(r *fulcrum.Reader) (req WriteRequest, err error) {
	flags := r.Byte()
	if flags >= flagsEnd {
		return req, fmt.Errorf("flags %#x of a request: %w", flags, fulcrum.ErrShort)
	}
	req.Atomic, req.Divisible = flags&flagAtomic != 0, flags&flagDivisible != 0
	if req.Writes, err = readWrites(r); err != nil {
		return req, err
	}
	if flags&flagIf != 0 {
		n, err := count(r)
		if err != nil {
			return req, err
		}
		for range n {
			req.If = append(req.If, fulcrum.ReadCompare(r))
			if err := r.Err(); err != nil {
				return req, err
			}
		}
	}
	if flags&flagElse != 0 {
		if req.Else, err = readWrites(r); err != nil {
			return req, err
		}
	}
	if flags&flagID != 0 {
		req.ID = fulcrum.RequestID(r.String())
	}
	return req, r.Err()
}

// appendWrites appends writes one behind the other: each says where it ends.
func appendWrites(b []byte, writes []fulcrum.Write) []byte {
	b = binary.AppendUvarint(b, uint64(len(writes)))
	for _, w := range writes {
		b = fulcrum.AppendWrite(b, w)
	}
	return b
}

func readWrites(r *fulcrum.Reader) ([]fulcrum.Write, error) {
	n, err := count(r)
	if err != nil || n == 0 {
		return nil, err
	}
	// A write takes more bytes in memory than on the wire, so room is made for few.
	writes := make([]fulcrum.Write, 0, min(n, fulcrum.MaxOpsPerBatch))
	for range n {
		w, rest, err := fulcrum.DecodeWrite(r.Rest())
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
		*r = *fulcrum.NewReader(rest)
	}
	return writes, nil
}

// RoomForWrite is about how many bytes AppendWriteRequest appends: whoever has room for
// so many need not copy large values again to make some.
func RoomForWrite(req WriteRequest) int {
	size := 32 + len(req.ID)
	for _, writes := range [][]fulcrum.Write{req.Writes, req.Else} {
		for i := range writes {
			size += len(writes[i].Key) + len(writes[i].Value) + len(writes[i].Expect) + 64
		}
	}
	for i := range req.If {
		size += len(req.If[i].Key) + len(req.If[i].Value) + 64
	}
	return size
}

// AppendWriteRequest appends req.
func AppendWriteRequest(b []byte, req WriteRequest) []byte {
	return AppendOperations(appendLevel(b, req.Level), req)
}

// ReadWriteRequest reads what AppendWriteRequest wrote.
func ReadWriteRequest(r *fulcrum.Reader) (WriteRequest, error) {
	level := readLevel(r)
	if err := r.Err(); err != nil {
		return WriteRequest{}, err
	}
	req, err := ReadOperations(r)
	req.Level = level
	return req, err
}

// AppendReadRequest appends req.
func AppendReadRequest(b []byte, req ReadRequest) []byte {
	b = appendPosition(appendLevel(b, req.Level), req.Min)
	b = fulcrum.AppendBytes(b, []byte(req.Witness))
	b = binary.AppendUvarint(b, uint64(len(req.Keys)))
	for _, k := range req.Keys {
		b = fulcrum.AppendBytes(b, k)
	}
	return b
}

// ReadReadRequest reads what AppendReadRequest wrote.
func ReadReadRequest(r *fulcrum.Reader) (req ReadRequest, err error) {
	req.Level, req.Min = readLevel(r), readPosition(r)
	req.Witness = fulcrum.NodeID(r.Bytes())
	n, err := count(r)
	if err != nil {
		return req, err
	}
	req.Keys = make([][]byte, n)
	for i := range req.Keys {
		req.Keys[i] = r.Bytes()
	}
	return req, r.Err()
}

// AppendScanRequest appends req.
func AppendScanRequest(b []byte, req ScanRequest) []byte {
	b = appendPosition(appendLevel(b, req.Level), req.Min)
	b = fulcrum.AppendBytes(fulcrum.AppendBytes(b, req.Start), req.End)
	return appendBool(binary.AppendUvarint(b, uint64(req.Limit)), req.KeysOnly)
}

// ReadScanRequest reads what AppendScanRequest wrote.
func ReadScanRequest(r *fulcrum.Reader) (req ScanRequest, err error) {
	req.Level, req.Min = readLevel(r), readPosition(r)
	req.Start, req.End = r.Bytes(), r.Bytes()
	req.Limit, req.KeysOnly = int(r.Uvarint()), r.Byte() == 1
	return req, r.Err()
}

func appendOutcome(b []byte, o Outcome) []byte {
	b = appendPosition(appendLevel(b, o.Given), o.Position)
	b = fulcrum.AppendBytes(b, []byte(o.Leader))
	b = binary.AppendUvarint(b, uint64(o.Acks))
	b = binary.AppendUvarint(b, uint64(o.Needed))
	b = binary.AppendVarint(b, int64(o.Staleness))
	b = binary.AppendUvarint(b, uint64(o.ClockBound))
	b = binary.AppendUvarint(b, uint64(o.Hinted))
	return binary.AppendVarint(binary.AppendUvarint(b, uint64(o.Repaired)), o.Clock)
}

func readOutcome(r *fulcrum.Reader) Outcome {
	return Outcome{Given: readLevel(r), Position: readPosition(r), Leader: fulcrum.NodeID(r.String()),
		Acks: int(r.Uvarint()), Needed: int(r.Uvarint()), Staleness: time.Duration(r.Varint()), ClockBound: time.Duration(r.Uvarint()),
		Hinted: int(r.Uvarint()), Repaired: int(r.Uvarint()), Clock: r.Varint()}
}

// The flags of a result: what else it holds.
const (
	resultApplied   byte = 1 << iota
	resultLength         // the value of Entry is left out: its length
	resultOldLength      // the same of Old
	resultErr
	resultEnd
)

// AppendWriteReply appends rep. A result's Err travels as fulcrum.AppendError.
func AppendWriteReply(b []byte, rep WriteReply) []byte {
	b = appendOutcome(b, rep.Outcome)
	head := uint64(len(rep.Results)) << 1
	if rep.Else {
		head |= 1
	}
	b = binary.AppendUvarint(b, head)
	for i := range rep.Results {
		b = appendResult(b, &rep.Results[i])
	}
	return b
}

func appendResult(b []byte, res *fulcrum.Result) []byte {
	var flags byte
	if res.Applied {
		flags |= resultApplied
	}
	if res.Length != len(res.Entry.Value) {
		flags |= resultLength
	}
	if res.OldLength != len(res.Old.Value) {
		flags |= resultOldLength
	}
	if res.Err != nil {
		flags |= resultErr
	}
	b = appendEntryField(append(b, flags), res.Entry)
	b = appendEntryField(b, res.Old)
	if flags&resultLength != 0 {
		b = binary.AppendUvarint(b, uint64(res.Length))
	}
	if flags&resultOldLength != 0 {
		b = binary.AppendUvarint(b, uint64(res.OldLength))
	}
	if res.Err != nil {
		b = fulcrum.AppendBytes(b, fulcrum.AppendError(nil, res.Err))
	}
	return b
}

// ReadWriteReply reads what AppendWriteReply wrote.
func ReadWriteReply(r *fulcrum.Reader) (rep WriteReply, err error) {
	rep.Outcome = readOutcome(r)
	head := r.Uvarint()
	n := head >> 1
	if n > uint64(len(r.Rest())) {
		return rep, fulcrum.ErrShort
	}
	rep.Else = head&1 == 1
	rep.Results = make([]fulcrum.Result, n)
	for i := range rep.Results {
		if err := readResult(r, &rep.Results[i]); err != nil {
			return rep, err
		}
	}
	return rep, r.Err()
}

func readResult(r *fulcrum.Reader, res *fulcrum.Result) (err error) {
	flags := r.Byte()
	if flags >= resultEnd {
		return fmt.Errorf("flags %#x of a result: %w", flags, fulcrum.ErrShort)
	}
	res.Applied = flags&resultApplied != 0
	if res.Entry, err = readEntryField(r); err != nil {
		return err
	}
	if res.Old, err = readEntryField(r); err != nil {
		return err
	}
	res.Length, res.OldLength = len(res.Entry.Value), len(res.Old.Value)
	if flags&resultLength != 0 {
		res.Length = int(r.Uvarint())
	}
	if flags&resultOldLength != 0 {
		res.OldLength = int(r.Uvarint())
	}
	if flags&resultErr != 0 {
		res.Err = fulcrum.DecodeError(r.Bytes())
	}
	return r.Err()
}

func appendEntries(b []byte, entries []fulcrum.Entry) []byte {
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for _, e := range entries {
		b = appendEntryField(b, e)
	}
	return b
}

func readEntries(r *fulcrum.Reader) ([]fulcrum.Entry, error) {
	n, err := count(r)
	if err != nil {
		return nil, err
	}
	entries := make([]fulcrum.Entry, n)
	for i := range entries {
		if entries[i], err = readEntryField(r); err != nil {
			return nil, err
		}
	}
	return entries, r.Err()
}

// AppendReadReply appends rep.
func AppendReadReply(b []byte, rep ReadReply) []byte {
	return appendEntries(appendOutcome(b, rep.Outcome), rep.Entries)
}

// ReadReadReply reads what AppendReadReply wrote.
func ReadReadReply(r *fulcrum.Reader) (rep ReadReply, err error) {
	rep.Outcome = readOutcome(r)
	rep.Entries, err = readEntries(r)
	return rep, err
}

// AppendScanReply appends rep.
func AppendScanReply(b []byte, rep ScanReply) []byte {
	return appendEntries(appendBool(appendOutcome(b, rep.Outcome), rep.More), rep.Entries)
}

// ReadScanReply reads what AppendScanReply wrote.
func ReadScanReply(r *fulcrum.Reader) (rep ScanReply, err error) {
	rep.Outcome = readOutcome(r)
	rep.More = r.Byte() == 1
	rep.Entries, err = readEntries(r)
	return rep, err
}
