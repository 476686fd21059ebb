package replication

import (
	"encoding/binary"
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

// AppendWriteRequest appends req.
func AppendWriteRequest(b []byte, req WriteRequest) []byte {
	b = appendBool(appendLevel(b, req.Level), req.Atomic)
	b = binary.AppendUvarint(b, uint64(len(req.Writes)))
	for _, w := range req.Writes {
		b = fulcrum.AppendBytes(b, fulcrum.AppendWrite(nil, w))
	}
	return b
}

// ReadWriteRequest reads what AppendWriteRequest wrote.
func ReadWriteRequest(r *fulcrum.Reader) (req WriteRequest, err error) {
	req.Level, req.Atomic = readLevel(r), r.Byte() == 1
	n, err := count(r)
	if err != nil {
		return req, err
	}
	req.Writes = make([]fulcrum.Write, n)
	for i := range req.Writes {
		if req.Writes[i], _, err = fulcrum.DecodeWrite(r.Bytes()); err != nil {
			return req, err
		}
	}
	return req, r.Err()
}

// AppendReadRequest appends req.
func AppendReadRequest(b []byte, req ReadRequest) []byte {
	b = appendPosition(appendLevel(b, req.Level), req.Min)
	b = binary.AppendUvarint(b, uint64(len(req.Keys)))
	for _, k := range req.Keys {
		b = fulcrum.AppendBytes(b, k)
	}
	return b
}

// ReadReadRequest reads what AppendReadRequest wrote.
func ReadReadRequest(r *fulcrum.Reader) (req ReadRequest, err error) {
	req.Level, req.Min = readLevel(r), readPosition(r)
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
	return binary.AppendUvarint(b, uint64(o.Repaired))
}

func readOutcome(r *fulcrum.Reader) Outcome {
	return Outcome{Given: readLevel(r), Position: readPosition(r), Leader: fulcrum.NodeID(r.String()),
		Acks: int(r.Uvarint()), Needed: int(r.Uvarint()), Staleness: time.Duration(r.Varint()), ClockBound: time.Duration(r.Uvarint()),
		Hinted: int(r.Uvarint()), Repaired: int(r.Uvarint())}
}

// AppendWriteReply appends rep. A result's Err travels as fulcrum.AppendError.
func AppendWriteReply(b []byte, rep WriteReply) []byte {
	b = appendOutcome(b, rep.Outcome)
	b = binary.AppendUvarint(b, uint64(len(rep.Results)))
	for _, res := range rep.Results {
		b = appendEntryField(appendBool(b, res.Applied), res.Entry)
		b = appendEntryField(b, res.Old)
		var errBytes []byte
		if res.Err != nil {
			errBytes = fulcrum.AppendError(nil, res.Err)
		}
		b = fulcrum.AppendBytes(b, errBytes)
	}
	return b
}

// ReadWriteReply reads what AppendWriteReply wrote.
func ReadWriteReply(r *fulcrum.Reader) (rep WriteReply, err error) {
	rep.Outcome = readOutcome(r)
	n, err := count(r)
	if err != nil {
		return rep, err
	}
	rep.Results = make([]fulcrum.Result, n)
	for i := range rep.Results {
		res := &rep.Results[i]
		res.Applied = r.Byte() == 1
		if res.Entry, err = readEntryField(r); err != nil {
			return rep, err
		}
		if res.Old, err = readEntryField(r); err != nil {
			return rep, err
		}
		if e := r.Bytes(); e != nil {
			res.Err = fulcrum.DecodeError(e)
		}
	}
	return rep, r.Err()
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
