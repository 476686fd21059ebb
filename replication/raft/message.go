package raft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
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
)

// Bounds of what a message may hold.
const (
	maxItemBytes   = 8 << 20   // one request
	maxAppendBytes = 4 << 20   // entries in one message, unless the first alone is larger
	chunkBytes     = 256 << 10 // one piece of a snapshot
	maxServers     = 1024
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

func header(from fulcrum.NodeID) hraft.RPCHeader {
	return hraft.RPCHeader{ProtocolVersion: hraft.ProtocolVersionMax, ID: []byte(from), Addr: []byte(from)}
}

// appendLog appends l without its index: the form of a log record, too.
func appendLog(b []byte, l *hraft.Log) []byte {
	b = append(b, byte(l.Type))
	b = binary.AppendUvarint(b, l.Term)
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.AppendVarint(b, at)
	return fulcrum.AppendBytes(b, l.Data)
}

// readLog takes a log entry off r. It refuses what would make the library panic:
// an unknown type, or a configuration that cannot be decoded.
func readLog(r *fulcrum.Reader, index uint64) (*hraft.Log, error) {
	l := &hraft.Log{Index: index, Type: hraft.LogType(r.Byte()), Term: r.Uvarint()}
	if at := r.Varint(); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	l.Data = r.Bytes()
	if err := r.Err(); err != nil {
		return nil, err
	}
	switch l.Type {
	case hraft.LogCommand, hraft.LogNoop, hraft.LogBarrier:
	case hraft.LogConfiguration:
		if _, err := decodeConfiguration(l.Data); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("log entry %d of type %d: %w", index, l.Type, fulcrum.ErrShort)
	}
	return l, nil
}

// decodeConfiguration is the library's decoder without its panic.
func decodeConfiguration(b []byte) (c hraft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("configuration: %w", fulcrum.ErrShort)
		}
	}()
	return hraft.DecodeConfiguration(b), nil
}

func encodeAppend(req *hraft.AppendEntriesRequest) []byte {
	size := 64
	for _, l := range req.Entries {
		size += len(l.Data) + 32
	}
	b := append(make([]byte, 0, size), msgAppend)
	b = uvarints(b, req.Term, req.PrevLogEntry, req.PrevLogTerm, req.LeaderCommitIndex, uint64(len(req.Entries)))
	if len(req.Entries) > 0 {
		b = uvarints(b, req.Entries[0].Index)
	}
	for _, l := range req.Entries {
		b = appendLog(b, l)
	}
	return b
}

func decodeAppend(from fulcrum.NodeID, r *fulcrum.Reader) (*hraft.AppendEntriesRequest, error) {
	req := &hraft.AppendEntriesRequest{RPCHeader: header(from)}
	req.Term, req.PrevLogEntry, req.PrevLogTerm, req.LeaderCommitIndex = r.Uvarint(), r.Uvarint(), r.Uvarint(), r.Uvarint()
	n := r.Uvarint()
	if n > 1024 {
		return nil, fmt.Errorf("%d entries in one message: %w", n, fulcrum.ErrShort)
	}
	var first uint64
	if n > 0 {
		if first = r.Uvarint(); first == 0 || first != req.PrevLogEntry+1 {
			return nil, fmt.Errorf("entries from %d behind %d: %w", first, req.PrevLogEntry, fulcrum.ErrShort)
		}
	}
	for i := range n {
		l, err := readLog(r, first+i)
		if err != nil {
			return nil, err
		}
		req.Entries = append(req.Entries, l)
	}
	return req, finish(r)
}

// encodeVote writes a request for a vote, or for one before the vote, and what lets
// the voter off its promise (see lease.go).
func encodeVote(kind byte, term, lastIndex, lastTerm uint64, transfer bool, off release) []byte {
	b := uvarints([]byte{kind}, term, lastIndex, lastTerm)
	return off.append(append(b, boolByte(transfer)))
}

func decodeVote(from fulcrum.NodeID, r *fulcrum.Reader) (*hraft.RequestVoteRequest, release, error) {
	req := &hraft.RequestVoteRequest{RPCHeader: header(from)}
	req.Term, req.LastLogIndex, req.LastLogTerm = r.Uvarint(), r.Uvarint(), r.Uvarint()
	req.LeadershipTransfer = r.Byte() == 1
	off := readRelease(r)
	return req, off, finish(r)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// encodeReply writes an answer of the library's, or its refusal.
func encodeReply(resp any, err error) ([]byte, error) {
	if err != nil {
		return append([]byte{1}, err.Error()...), nil
	}
	b := []byte{0}
	switch m := resp.(type) {
	case *hraft.AppendEntriesResponse:
		b = uvarints(b, m.Term, m.LastLog)
		return append(b, boolByte(m.Success), boolByte(m.NoRetryBackoff)), nil
	case *hraft.RequestVoteResponse:
		return append(uvarints(b, m.Term), boolByte(m.Granted)), nil
	case *hraft.RequestPreVoteResponse:
		return append(uvarints(b, m.Term), boolByte(m.Granted)), nil
	case *hraft.InstallSnapshotResponse:
		return append(uvarints(b, m.Term), boolByte(m.Success)), nil
	case *hraft.TimeoutNowResponse:
		return b, nil
	}
	return nil, fmt.Errorf("no encoding for %T", resp)
}

// openReply returns the fields of an answer, or the refusal as an error.
func openReply(b []byte) (*fulcrum.Reader, error) {
	switch {
	case len(b) > 0 && b[0] == 0:
		return fulcrum.NewReader(b[1:]), nil
	case len(b) > 0 && b[0] == 1:
		return nil, errors.New(string(b[1:]))
	}
	return nil, fulcrum.ErrShort
}

// snapshotMeta says which prefix of the log a snapshot stands for. Its binary form
// is stored beside the data and sent with the last chunk.
type snapshotMeta struct {
	Index, Term uint64
	Config      hraft.Configuration
	ConfigIndex uint64
}

func (m snapshotMeta) append(b []byte) []byte {
	b = uvarints(b, m.Index, m.Term, m.ConfigIndex, uint64(len(m.Config.Servers)))
	for _, s := range m.Config.Servers {
		b = append(b, byte(s.Suffrage))
		b = fulcrum.AppendBytes(b, []byte(s.ID))
	}
	return b
}

func readMeta(r *fulcrum.Reader) (snapshotMeta, error) {
	m := snapshotMeta{Index: r.Uvarint(), Term: r.Uvarint(), ConfigIndex: r.Uvarint()}
	n := r.Uvarint()
	if n > maxServers || m.Index == 0 || m.Term == 0 {
		return m, fmt.Errorf("snapshot at %d of term %d with %d servers: %w", m.Index, m.Term, n, fulcrum.ErrShort)
	}
	for range n {
		suffrage := hraft.ServerSuffrage(r.Byte())
		id := r.String()
		if r.Err() != nil || suffrage > hraft.Nonvoter || id == "" {
			return m, fmt.Errorf("server of a snapshot: %w", fulcrum.ErrShort)
		}
		m.Config.Servers = append(m.Config.Servers, server(fulcrum.NodeID(id), suffrage))
	}
	return m, r.Err()
}

// server names a member; a node's name is its address, too.
func server(id fulcrum.NodeID, s hraft.ServerSuffrage) hraft.Server {
	return hraft.Server{Suffrage: s, ID: hraft.ServerID(id), Address: hraft.ServerAddress(id)}
}

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
