package leaderfollower

import (
	"encoding/binary"
	"fmt"

	"fulcrum"
)

type recordKind uint8

const (
	kindWrite recordKind = iota + 1 // entries that one request left behind
	kindNoop                        // the start of a leadership
	kindFence                       // nothing counts behind it
)

// record is one place in the log. It carries the entries that a request left
// behind, not the request: the leader has evaluated it, followers only store.
type record struct {
	kind    recordKind
	term    uint64 // with its life
	leader  fulcrum.NodeID
	entries []fulcrum.Entry // point into raw
	raw     []byte
}

// newRecord encodes a record and returns it with entries that share no memory
// with those given.
func newRecord(kind recordKind, term uint64, leader fulcrum.NodeID, entries []fulcrum.Entry) record {
	raw := binary.AppendUvarint([]byte{byte(kind)}, term)
	raw = fulcrum.AppendBytes(raw, []byte(leader))
	raw = binary.AppendUvarint(raw, uint64(len(entries)))
	for _, e := range entries {
		raw = fulcrum.AppendEntry(raw, e)
	}
	r, err := decodeRecord(raw)
	if err != nil {
		panic("leaderfollower: a record does not decode: " + err.Error())
	}
	return r
}

// decodeRecord reads a record; its entries point into raw.
func decodeRecord(raw []byte) (record, error) {
	r := fulcrum.NewReader(raw)
	rec := record{kind: recordKind(r.Byte()), term: r.Uvarint(), leader: fulcrum.NodeID(r.String()), raw: raw}
	n := r.Uvarint()
	rest := r.Rest()
	if err := r.Err(); err != nil {
		return record{}, err
	}
	if rec.kind < kindWrite || rec.kind > kindFence || n > fulcrum.MaxOpsPerBatch || (n > 0) != (rec.kind == kindWrite) {
		return record{}, fmt.Errorf("log record of kind %d with %d entries: %w", rec.kind, n, fulcrum.ErrShort)
	}
	for range n {
		var e fulcrum.Entry
		var err error
		if e, rest, err = fulcrum.DecodeEntry(rest); err != nil {
			return record{}, err
		}
		rec.entries = append(rec.entries, e)
	}
	if len(rest) != 0 {
		return record{}, fmt.Errorf("log record with %d bytes behind it: %w", len(rest), fulcrum.ErrShort)
	}
	return rec, nil
}
