package raft

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"fulcrum"
	"fulcrum/replication"
)

// requestSum tells requests with one id apart.
type requestSum [16]byte

// sumOf covers all of req but its id, the moments at which values expire, and what the
// answer is to hold: a client that tries again with the same time to live asks for a later
// moment, and a node of another build may need other values.
func sumOf(req replication.WriteRequest) requestSum {
	req.ID = ""
	req.Writes, req.Else = plain(req.Writes), plain(req.Else)
	whole := sha256.Sum256(encodeRequest(req))
	return requestSum(whole[:16])
}

func plain(ws []fulcrum.Write) []fulcrum.Write {
	for i := range ws {
		if ws[i].ExpireAt == 0 && !ws[i].NoValue && !ws[i].NoOld {
			continue
		}
		out := append([]fulcrum.Write(nil), ws...)
		for i := range out {
			out[i].ExpireAt = min(out[i].ExpireAt, 1)
			out[i].NoValue, out[i].NoOld = false, false
		}
		return out
	}
	return ws
}

// keptValue is the longest value that is remembered with a request's results.
const keptValue = 16 << 10

// How an entry of a result is remembered. Its key is the write's.
const (
	entryNone byte = iota // the zero Entry
	entryLike             // the value is the write's own; an old one: all is as in the new one
	entryFull
	entryCut // without its value, which is too long
)

// The flags of a remembered result, besides the kinds of its entries. Records of builds
// that had no lengths have neither of the last two.
const (
	outcomeApplied   byte = 1 << 0
	outcomeErr       byte = 1 << 1
	outcomeLength    byte = 1 << 6 // the value was not asked for: its length
	outcomeOldLength byte = 1 << 7
)

// encodeOutcome is an answer of evaluate without what the request says already.
func encodeOutcome(req replication.WriteRequest, answer any) []byte {
	writes, results, orElse := branch(req, answer)
	b := []byte{boolByte(orElse)}
	for i, res := range results {
		w := writes[i]
		kind, old := kindOf(res.Entry), kindOf(res.Old)
		if res.Applied && (w.Op == fulcrum.OpPut || w.Op == fulcrum.OpMerge) {
			kind = entryLike
		}
		if old != entryNone && !res.Applied && len(res.Old.Value) == len(res.Entry.Value) {
			old = entryLike // what stood there stands there still
		}
		flags := kind<<2 | old<<4
		if res.Applied {
			flags |= outcomeApplied
		}
		if res.Err != nil {
			flags |= outcomeErr
		}
		if kind == entryFull && res.Length != len(res.Entry.Value) {
			flags |= outcomeLength
		}
		if res.OldLength != len(res.Old.Value) {
			flags |= outcomeOldLength
		}
		b = appendKept(append(b, flags), kind, res.Entry)
		if old != entryLike {
			b = appendKept(b, old, res.Old)
		}
		if flags&outcomeLength != 0 {
			b = binary.AppendUvarint(b, uint64(res.Length))
		}
		if flags&outcomeOldLength != 0 {
			b = binary.AppendUvarint(b, uint64(res.OldLength))
		}
		if res.Err != nil {
			b = fulcrum.AppendBytes(b, fulcrum.AppendError(nil, res.Err))
		}
	}
	return b
}

func branch(req replication.WriteRequest, answer any) ([]fulcrum.Write, []fulcrum.Result, bool) {
	if results, ok := answer.(elseRan); ok {
		return req.Else, results, true
	}
	results, _ := answer.([]fulcrum.Result)
	return req.Writes, results, false
}

func kindOf(e fulcrum.Entry) byte {
	switch {
	case len(e.Key) == 0 && e.Version.IsZero():
		return entryNone
	case len(e.Value) > keptValue:
		return entryCut
	}
	return entryFull
}

func appendKept(b []byte, kind byte, e fulcrum.Entry) []byte {
	if kind == entryNone {
		return b
	}
	e.Key = nil
	if kind != entryFull {
		e.Value = nil
	}
	return fulcrum.AppendEntry(b, e)
}

// again is the answer to a request that has been answered before: the same. A value
// that was too long to be remembered is taken from the State where it still stands
// there. Where it does not, what stood there before a write is told without its value,
// and a request whose answer is the value gets an error that says what is the matter.
func (b *pending) again(req replication.WriteRequest, rec idRecord, e entry) (any, error) {
	out, err := decodeOutcome(req, rec.outcome)
	if err != nil {
		return fulcrum.Errorf(fulcrum.CodeInternal, "what is remembered of request id %q: %w", string(req.ID), err), nil
	}
	for _, at := range out.cut {
		now, err := b.get(at.Key)
		if err != nil {
			return nil, err
		}
		if now.Version != at.Version {
			e := fulcrum.Errorf(fulcrum.CodeConflict, "request id %q was answered before, with the value of version %s of %q, which is gone", string(req.ID), at.Version, at.Key).
				WithHint("it has taken effect once and will not again; read the key")
			e.Maybe = true // nobody may call it "not done"
			return e, nil
		}
		at.Value = now.Value
	}
	for i := range out.results {
		res := &out.results[i]
		if res.Length < 0 {
			res.Length = len(res.Entry.Value)
		}
		if res.OldLength < 0 {
			res.OldLength = len(res.Old.Value)
		}
		*res = out.writes[i].Trim(*res)
	}
	if !b.room(e, replication.CostOf(out.writes, out.results).Answer) {
		return deferred{}, nil
	}
	if out.orElse {
		return elseRan(out.results), nil
	}
	return out.results, nil
}

type outcome struct {
	writes  []fulcrum.Write  // of the branch that ran
	results []fulcrum.Result // a length below 0 is that of the value
	orElse  bool
	cut     []*fulcrum.Entry // of results: those without their value
}

func decodeOutcome(req replication.WriteRequest, b []byte) (out outcome, err error) {
	r := fulcrum.NewReader(b)
	out.orElse = r.Byte() == 1
	writes := req.Writes
	if out.orElse {
		writes = req.Else
	}
	out.writes, out.results = writes, make([]fulcrum.Result, len(writes))
	for i, w := range writes {
		res := &out.results[i]
		flags := r.Byte()
		res.Applied, res.Length, res.OldLength = flags&outcomeApplied != 0, -1, -1
		kind, old := flags>>2&3, flags>>4&3
		if res.Entry, err = readKept(r, kind, w); err != nil {
			return out, err
		}
		switch kind {
		case entryLike:
			res.Entry.Value = w.Value
		case entryCut:
			out.cut = append(out.cut, &res.Entry)
		}
		if old == entryLike {
			res.Old = res.Entry
			if kind == entryCut {
				out.cut = append(out.cut, &res.Old)
			}
		} else if res.Old, err = readKept(r, old, w); err != nil {
			return out, err
		}
		if flags&outcomeLength != 0 {
			res.Length = int(r.Uvarint())
		}
		if flags&outcomeOldLength != 0 {
			res.OldLength = int(r.Uvarint())
		}
		if flags&outcomeErr != 0 {
			res.Err = fulcrum.DecodeError(r.Bytes())
		}
	}
	if err := finish(r); err != nil {
		return out, fmt.Errorf("results: %w", err)
	}
	return out, nil
}

func readKept(r *fulcrum.Reader, kind byte, w fulcrum.Write) (fulcrum.Entry, error) {
	if kind == entryNone {
		return fulcrum.Entry{}, r.Err()
	}
	e, rest, err := fulcrum.DecodeEntry(r.Rest())
	if err != nil {
		return e, err
	}
	*r = *fulcrum.NewReader(rest)
	e.Key = w.Key
	return e, nil
}
