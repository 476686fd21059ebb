package raft

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"io"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
	"fulcrum/mutant"
)

func unavailable(node fulcrum.NodeID, format string, args ...any) *fulcrum.Error {
	e := fulcrum.Errorf(fulcrum.CodeUnavailable, format, args...)
	e.Node = node
	return e
}

// handle answers one message of a peer.
func (c *core) handle(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	in := c.instance.Load()
	if in == nil || c.silent() {
		return nil, unavailable(c.env.Node, "this replica is not running")
	}
	if len(msg) == 0 {
		return nil, fulcrum.AsError(fulcrum.ErrShort)
	}
	r := fulcrum.NewReader(msg[1:])
	var cmd any
	var data io.Reader
	var err error
	switch msg[0] {
	case msgConfirm:
		return c.answerConfirm(in, r)
	case msgInstall:
		var ch chunk
		if ch, err = decodeChunk(r); err != nil {
			break
		}
		var req *hraft.InstallSnapshotRequest
		if req, data, err = c.staging.take(from, ch, c.tuning.MaxSnapshotBytes); err == nil && req == nil {
			return []byte{0}, nil
		}
		cmd = req
	case msgAppend:
		var req *hraft.AppendEntriesRequest
		if req, err = decodeAppend(from, r); err == nil {
			c.peers.leaderAt(from, req)
			c.succeeded(in, from, req.Term)
			if c.installing.Load() && isHeartbeat(req) {
				return c.stillHere(in, from, req)
			}
			c.learnCommit(in, req)
			c.beginAtSnapshot(req)
		}
		cmd = req
	case msgVote:
		if mutant.On("vote-not-persisted") && c.env.Group != fulcrum.CatalogGroup {
			c.store.forget(metaVoteFor) // mutant: has not voted yet, as far as it knows
		}
		cmd, err = decodeVote(from, r)
	case msgPreVote:
		var v *hraft.RequestVoteRequest
		v, err = decodeVote(from, r)
		cmd = &hraft.RequestPreVoteRequest{RPCHeader: v.RPCHeader, Term: v.Term, LastLogIndex: v.LastLogIndex, LastLogTerm: v.LastLogTerm}
	case msgTimeoutNow:
		if why := c.probe(); why != "" {
			return nil, refused(c.env.Node, why)
		}
		cmd, err = &hraft.TimeoutNowRequest{RPCHeader: header(from)}, finish(r)
	default:
		err = fmt.Errorf("message of kind %d: %w", msg[0], fulcrum.ErrShort)
	}
	if err != nil {
		return nil, fulcrum.AsError(err)
	}
	return c.deliver(ctx, in, cmd, data)
}

// deliver hands a message to the library and waits for its answer.
func (c *core) deliver(ctx context.Context, in *instance, cmd any, data io.Reader) ([]byte, error) {
	answer := make(chan hraft.RPCResponse, 1) // the library never waits for us
	if mutant.On("heartbeat-fast-path") {
		if req, ok := cmd.(*hraft.AppendEntriesRequest); ok && isHeartbeat(req) && in.trans.fastPath != nil {
			in.trans.fastPath(hraft.RPC{Command: cmd, RespChan: answer}) // mutant: beside the main loop (hashicorp/raft#695)
			a := <-answer
			return encodeReply(a.Response, a.Error)
		}
	}
	select {
	case in.trans.consumer <- hraft.RPC{Command: cmd, Reader: data, RespChan: answer}:
	case <-in.trans.ctx.Done():
		return nil, unavailable(c.env.Node, "this replica is stopping")
	case <-ctx.Done():
		return nil, unavailable(c.env.Node, "too busy to take the message in before its deadline")
	}
	select {
	case a := <-answer:
		if c.silent() {
			// An answer given behind a failed disk must not leave.
			return nil, unavailable(c.env.Node, "this replica is stopping")
		}
		return encodeReply(a.Response, a.Error)
	case <-in.trans.ctx.Done():
	case <-ctx.Done():
	}
	return nil, fulcrum.Errorf(fulcrum.CodeUnknown, "no answer from the log before the deadline")
}

// stillHere answers a heartbeat while the library's main loop waits for a snapshot to
// be installed. It says no more than "I follow you in this term", which is true: the
// main loop stands still as a follower, so neither can change meanwhile. Without it
// a leader whose followers are all new would lose its lease to every install. It is
// not the fast path of hashicorp/raft#695: a newer term is left to the main loop.
func (c *core) stillHere(in *instance, from fulcrum.NodeID, req *hraft.AppendEntriesRequest) ([]byte, error) {
	_, leader := in.raft.LeaderWithID()
	if req.Term != in.raft.CurrentTerm() || fulcrum.NodeID(leader) != from {
		return nil, unavailable(c.env.Node, "installing a snapshot")
	}
	return encodeReply(&hraft.AppendEntriesResponse{Term: req.Term, LastLog: in.raft.LastIndex(), Success: true}, nil)
}

// beginAtSnapshot lets entries attach to a snapshot whose own log entry is gone.
//
// The library looks for the previous entry in the log alone, so a replica whose log
// begins behind a snapshot at S and conflicts with its leader from S+1 on would ask
// for entry S for ever. The check is made here instead: the snapshot (S, term) is a
// committed prefix, so entries that follow (S, term) follow it, and the library may
// take them without a check of its own (previous entry 0).
//
// It also bounds the commit index by the last entry that this message proves equal
// (Raft paper, figure 2, AppendEntries rule 5); the library bounds it by the end of
// its own log, which may be another leader's.
func (c *core) beginAtSnapshot(req *hraft.AppendEntriesRequest) {
	if isHeartbeat(req) {
		req.LeaderCommitIndex = 0 // it proves nothing
		return
	}
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, req.PrevLogEntry+uint64(len(req.Entries)))
	if m, ok := c.snaps.current(); ok && req.PrevLogEntry == m.Index && req.PrevLogTerm == m.Term {
		req.PrevLogEntry, req.PrevLogTerm = 0, 0
	}
}

func isHeartbeat(req *hraft.AppendEntriesRequest) bool {
	return req.PrevLogEntry == 0 && len(req.Entries) == 0
}

// learnCommit makes a heartbeat that tells of a committed entry (index, term) which
// this replica holds too, but does not know to be committed, an append of nothing
// behind that entry: the message that a leader would send anyway, later. The library
// checks the entry again, on its main loop.
//
// It is as good as that message: a committed entry stays what it is in every later
// term, so whoever sent this, whenever, was right; and a log that holds it agrees with
// the sender's up to there (Raft paper, section 5.3, log matching).
func (c *core) learnCommit(in *instance, req *hraft.AppendEntriesRequest) {
	if !isHeartbeat(req) {
		return
	}
	index, term := req.LeaderCommitIndex, req.PrevLogTerm
	req.LeaderCommitIndex, req.PrevLogTerm = 0, 0
	if index > in.raft.CommitIndex() && term > 0 && c.store.termAt(index) == term {
		req.PrevLogEntry, req.PrevLogTerm, req.LeaderCommitIndex = index, term, index
	}
}

// staging collects the snapshots that peers are sending, whole, before the library
// sees them: its main loop would stand still for the transfer and miss heartbeats.
// It holds one transfer a peer, two at the most.
type staging struct {
	mu   sync.Mutex
	from map[fulcrum.NodeID]*transfer
}

type transfer struct {
	id    uint64
	parts [][]byte
	size  uint64
	touch time.Time
}

const transferIdle = 30 * time.Second

// take adds a chunk; with the last one it returns the library's request and data.
func (s *staging) take(from fulcrum.NodeID, c chunk, limit int64) (*hraft.InstallSnapshotRequest, io.Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(time.Now())
	t := s.from[from]
	if c.offset == 0 {
		if t == nil && len(s.from) >= 2 {
			return nil, nil, fulcrum.Errorf(fulcrum.CodeOverloaded, "two snapshots are being received already")
		}
		t = &transfer{id: c.transfer}
		s.from[from] = t
	}
	if t == nil || t.id != c.transfer || t.size != c.offset {
		return nil, nil, fulcrum.Errorf(fulcrum.CodeInvalid, "snapshot chunk at byte %d does not continue a transfer", c.offset)
	}
	if t.size+uint64(len(c.data)) > uint64(limit) {
		delete(s.from, from)
		return nil, nil, fulcrum.Errorf(fulcrum.CodeTooLarge, "snapshot of more than %d bytes", limit)
	}
	t.touch = time.Now()
	if len(c.data) > 0 {
		t.parts = append(t.parts, c.data)
		t.size += uint64(len(c.data))
	}
	if !c.last {
		return nil, nil, nil
	}
	delete(s.from, from)
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	for _, p := range t.parts {
		sum.Write(p)
	}
	if sum.Sum64() != c.sum {
		return nil, nil, fulcrum.Errorf(fulcrum.CodeInvalid, "snapshot of %d bytes arrived damaged", t.size)
	}
	req := &hraft.InstallSnapshotRequest{RPCHeader: header(from), SnapshotVersion: 1, Term: c.term, Leader: []byte(from),
		LastLogIndex: c.meta.Index, LastLogTerm: c.meta.Term, Size: int64(t.size),
		Configuration: hraft.EncodeConfiguration(c.meta.Config), ConfigurationIndex: c.meta.ConfigIndex}
	return req, &parts{rest: t.parts}, nil
}

// expire drops transfers whose sender has gone. The caller holds mu.
func (s *staging) expire(now time.Time) {
	for from, t := range s.from {
		if now.Sub(t.touch) > transferIdle {
			delete(s.from, from)
		}
	}
}

func (s *staging) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(time.Now())
}

// answerConfirm says which term this replica is in. The term is durable before the
// library lets it be seen, so the answer holds through a crash.
func (c *core) answerConfirm(in *instance, r *fulcrum.Reader) ([]byte, error) {
	nonce := r.Uvarint()
	if err := finish(r); err != nil {
		return nil, fulcrum.AsError(err)
	}
	b := binary.AppendUvarint([]byte{0}, nonce)
	b = binary.AppendUvarint(b, in.raft.CurrentTerm())
	if c.silent() {
		return nil, unavailable(c.env.Node, "this replica is stopping")
	}
	return b, nil
}
