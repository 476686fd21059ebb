package raft

import (
	"bytes"
	"context"
	"fmt"
	"io"

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
	var ticket []byte
	var err error
	switch msg[0] {
	case msgConfirm:
		return c.answerConfirm(in, from, r)
	case msgReadIndex:
		return c.answerReadIndex(ctx, r)
	case msgInstall:
		var ch chunk
		if ch, err = decodeChunk(r); err != nil {
			break
		}
		var req *hraft.InstallSnapshotRequest
		if req, ticket, err = c.staging.take(from, ch, c.tuning.MaxSnapshotBytes); err == nil && req == nil {
			return []byte{0}, nil
		}
		defer c.staging.discard(ticket) // unless an install has claimed it
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
		return c.answerVote(ctx, in, from, r)
	case msgPreVote:
		var v *hraft.RequestVoteRequest
		var off release
		if v, off, err = decodeVote(from, r); err == nil && c.promises.bind(from, off) {
			return encodeReply(&hraft.RequestPreVoteResponse{Term: in.raft.CurrentTerm()}, nil)
		}
		cmd = &hraft.RequestPreVoteRequest{RPCHeader: v.RPCHeader, Term: v.Term, LastLogIndex: v.LastLogIndex, LastLogTerm: v.LastLogTerm}
	case msgTimeoutNow:
		if why := c.probe(); why != "" {
			return nil, refused(c.env.Node, why)
		}
		if err = c.promises.timeoutNow(readRelease(r)); err == nil {
			cmd, err = &hraft.TimeoutNowRequest{RPCHeader: header(from)}, finish(r)
		}
	default:
		err = fmt.Errorf("message of kind %d: %w", msg[0], fulcrum.ErrShort)
	}
	if err != nil {
		return nil, fulcrum.AsError(err)
	}
	return c.deliver(ctx, in, cmd, bytes.NewReader(ticket))
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
