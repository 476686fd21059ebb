package raft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// The first byte of every message between replicas says what it is.
const (
	msgAppend byte = iota + 1
	msgVote
	msgPreVote
	msgTimeoutNow
	msgInstall
	msgConfirm
	msgReadIndex
	msgBeat
	msgHello
	msgPart
)

// Bounds of what a message may hold.
const (
	maxItemBytes = 8 << 20   // one request
	chunkBytes   = 256 << 10 // one piece of a snapshot
)

var errTrailing = fmt.Errorf("bytes behind the end: %w", fulcrum.ErrShort)

// finish checks that r was well-formed and is used up.
func finish(r *fulcrum.Reader) error {
	if err := r.Err(); err != nil {
		return err
	}
	if len(r.Rest()) > 0 {
		return errTrailing
	}
	return nil
}

func uvarints(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// appendRecord appends e without its index: the form of a log record, too.
func appendRecord(b []byte, e protocol.Entry) []byte {
	b = binary.AppendUvarint(append(b, byte(e.Kind)), e.Term)
	return fulcrum.AppendBytes(b, e.Data)
}

// recordKind is the kind of a log record; of one without a byte, none that there is.
func recordKind(record []byte) protocol.Kind {
	if len(record) == 0 {
		return protocol.LastKind + 1
	}
	return protocol.Kind(record[0])
}

// takeRecord takes an entry off r. It refuses what the protocol could not read.
func takeRecord(r *fulcrum.Reader, index uint64) (protocol.Entry, error) {
	e := protocol.Entry{Index: index, Kind: protocol.Kind(r.Byte()), Term: r.Uvarint()}
	e.Data = r.Bytes()
	if err := r.Err(); err != nil {
		return e, err
	}
	switch e.Kind {
	case protocol.Command, protocol.Noop:
	case protocol.Members:
		if _, err := protocol.ReadConfiguration(fulcrum.NewReader(e.Data)); err != nil {
			return e, err
		}
	default:
		return e, fmt.Errorf("log entry %d of kind %d: %w", index, e.Kind, fulcrum.ErrShort)
	}
	return e, nil
}

// readRecord reads a log record, of which it keeps nothing.
func readRecord(record []byte, index uint64) (protocol.Entry, error) {
	r := fulcrum.NewReader(bytes.Clone(record))
	e, err := takeRecord(r, index)
	if err != nil {
		return e, err
	}
	return e, finish(r)
}

// appendHead is more than a message with entries needs besides these.
const appendHead = 64

// encodeAppend writes m into b, whose bytes and room it may use, or into a larger one.
func encodeAppend(b []byte, m *protocol.Append) []byte {
	size := appendHead
	for _, e := range m.Entries {
		size += len(e.Data) + 16
	}
	b = append(slices.Grow(b[:0], size), msgAppend)
	b = uvarints(b, m.Term, m.Prev, m.PrevTerm, m.Commit, uint64(len(m.Entries)))
	for _, e := range m.Entries {
		b = appendRecord(b, e)
	}
	return b
}

// maxEntries bounds the entries of one message.
const maxEntries = 1024

func decodeAppend(r *fulcrum.Reader) (m protocol.Append, err error) {
	m = protocol.Append{Term: r.Uvarint(), Prev: r.Uvarint(), PrevTerm: r.Uvarint(), Commit: r.Uvarint()}
	n := r.Uvarint()
	if n > maxEntries {
		return m, fmt.Errorf("%d entries in one message: %w", n, fulcrum.ErrShort)
	}
	m.Entries = make([]protocol.Entry, 0, min(n, uint64(len(r.Rest()))))
	for i := range n {
		e, err := takeRecord(r, m.Prev+1+i)
		if err != nil {
			return m, err
		}
		m.Entries = append(m.Entries, e)
	}
	return m, finish(r)
}

func encodeBeat(m protocol.Heartbeat) []byte {
	return uvarints([]byte{msgBeat}, m.Term, m.Commit, m.CommitTerm)
}

func decodeBeat(r *fulcrum.Reader) (protocol.Heartbeat, error) {
	m := protocol.Heartbeat{Term: r.Uvarint(), Commit: r.Uvarint(), CommitTerm: r.Uvarint()}
	return m, finish(r)
}

// An answer to a hello carries a heartbeat, or nothing.
func encodeGreeting(m protocol.Heartbeat, leads bool) []byte {
	if !leads {
		return []byte{0}
	}
	return append([]byte{0}, encodeBeat(m)...)
}

func decodeGreeting(b []byte) (m protocol.Heartbeat, leads bool, err error) {
	r, err := openReply(b)
	if err != nil || len(r.Rest()) == 0 {
		return m, false, err
	}
	if r.Byte() != msgBeat {
		return m, false, fulcrum.ErrShort
	}
	m, err = decodeBeat(r)
	return m, err == nil, err
}

// encodeReply writes an answer, and for how long it was thought about, the disk included:
// the rest of what the caller has waited is the link's (see flow).
func encodeReply(m protocol.Reply, thought time.Duration) []byte {
	return append(uvarints([]byte{0}, m.Term, m.Last, uint64(max(0, thought))), boolByte(m.OK))
}

func decodeReply(b []byte) (m protocol.Reply, thought time.Duration, err error) {
	r, err := openReply(b)
	if err != nil {
		return m, 0, err
	}
	m = protocol.Reply{Term: r.Uvarint(), Last: r.Uvarint()}
	thought = time.Duration(min(r.Uvarint(), math.MaxInt64))
	m.OK = r.Byte() == 1
	return m, thought, finish(r)
}

// encodeVote writes a request for a vote, and what lets the voter off its promise (see
// lease.go).
func encodeVote(v protocol.Vote, off release) []byte {
	b := uvarints([]byte{msgVote}, v.Term, v.Last, v.LastTerm)
	if v.Pre {
		b[0] = msgPreVote
	}
	return off.append(append(b, boolByte(v.Transfer)))
}

func decodeVote(r *fulcrum.Reader, pre bool) (protocol.Vote, release, error) {
	v := protocol.Vote{Term: r.Uvarint(), Last: r.Uvarint(), LastTerm: r.Uvarint(), Pre: pre, Transfer: r.Byte() == 1}
	off := readRelease(r)
	return v, off, finish(r)
}

func encodeVoteReply(m protocol.VoteReply) []byte {
	return append(uvarints([]byte{0}, m.Term), boolByte(m.Granted))
}

func decodeVoteReply(b []byte) (protocol.VoteReply, error) {
	r, err := openReply(b)
	if err != nil {
		return protocol.VoteReply{}, err
	}
	m := protocol.VoteReply{Term: r.Uvarint(), Granted: r.Byte() == 1}
	return m, finish(r)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// openReply returns the fields of an answer.
func openReply(b []byte) (*fulcrum.Reader, error) {
	if len(b) > 0 && b[0] == 0 {
		return fulcrum.NewReader(b[1:]), nil
	}
	return nil, fulcrum.ErrShort
}

// snapshotMeta says which prefix of the log a snapshot stands for. Its binary form
// is stored beside the data and sent with the last chunk.
type snapshotMeta struct {
	Index, Term uint64
	Config      protocol.ConfigurationAt
}

func (m snapshotMeta) append(b []byte) []byte {
	return m.Config.Append(uvarints(b, m.Index, m.Term, m.Config.Index))
}

func readMeta(r *fulcrum.Reader) (m snapshotMeta, err error) {
	m.Index, m.Term, m.Config.Index = r.Uvarint(), r.Uvarint(), r.Uvarint()
	if m.Index == 0 || m.Term == 0 {
		return m, fmt.Errorf("snapshot at %d of term %d: %w", m.Index, m.Term, fulcrum.ErrShort)
	}
	m.Config.Configuration, err = protocol.ReadConfiguration(r)
	return m, err
}

func (m snapshotMeta) at() position { return position{m.Index, m.Term} }

// chunk is one piece of a snapshot on its way to a replica. The last one, which may
// be empty, carries what the install needs.
type chunk struct {
	transfer uint64 // unique for the sender
	offset   uint64
	data     []byte
	last     bool
	term     uint64 // of the leader; with last
	sum      uint64 // CRC-64 of the whole; with last
	meta     snapshotMeta
}

func (c chunk) encode() []byte {
	b := append(make([]byte, 0, len(c.data)+64), msgInstall)
	b = uvarints(b, c.transfer, c.offset)
	b = fulcrum.AppendBytes(b, c.data)
	b = append(b, boolByte(c.last))
	if c.last {
		b = uvarints(b, c.term, c.sum)
		b = c.meta.append(b)
	}
	return b
}

func decodeChunk(r *fulcrum.Reader) (c chunk, err error) {
	c.transfer, c.offset, c.data = r.Uvarint(), r.Uvarint(), r.Bytes()
	if len(c.data) > chunkBytes {
		return c, fmt.Errorf("chunk of %d bytes: %w", len(c.data), fulcrum.ErrShort)
	}
	if c.last = r.Byte() == 1; c.last {
		c.term, c.sum = r.Uvarint(), r.Uvarint()
		if c.meta, err = readMeta(r); err != nil {
			return c, err
		}
	}
	return c, finish(r)
}
