package raft

import (
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// transport carries one library instance's messages over replication.Peers.
//
// SetHeartbeatHandler does nothing: with the library's heartbeat fast path a newer
// term arrives beside the main loop, and logs diverge (hashicorp/raft#695).
// Pipelining is off: it can deadlock (hashicorp/raft#611).
type transport struct {
	core     *core
	ctx      context.Context // ends all calls under way
	consumer chan hraft.RPC
	fastPath func(hraft.RPC)               // nil but for a mutant
	refusal  atomic.Pointer[fulcrum.Error] // the last answer of a replica that takes no leadership
}

var errSilenced = errors.New("this replica is stopping")

func (t *transport) Consumer() <-chan hraft.RPC     { return t.consumer }
func (t *transport) LocalAddr() hraft.ServerAddress { return hraft.ServerAddress(t.core.env.Node) }
func (t *transport) SetHeartbeatHandler(f func(hraft.RPC)) {
	if mutant.On("heartbeat-fast-path") {
		t.fastPath = f // mutant: heartbeats go past the main loop
	}
}
func (t *transport) EncodePeer(_ hraft.ServerID, a hraft.ServerAddress) []byte {
	return []byte(a)
}
func (t *transport) DecodePeer(b []byte) hraft.ServerAddress { return hraft.ServerAddress(b) }
func (t *transport) AppendEntriesPipeline(hraft.ServerID, hraft.ServerAddress) (hraft.AppendPipeline, error) {
	return nil, hraft.ErrPipelineReplicationNotSupported
}

func (t *transport) call(to hraft.ServerID, limit time.Duration, msg []byte) (*fulcrum.Reader, error) {
	return t.send(t.core.env.Peers.Call, to, limit, msg)
}

func (t *transport) send(call func(context.Context, fulcrum.NodeID, []byte) ([]byte, error), to hraft.ServerID, limit time.Duration, msg []byte) (*fulcrum.Reader, error) {
	if t.core.silent() {
		return nil, errSilenced
	}
	ctx, cancel := context.WithTimeout(t.ctx, limit)
	defer cancel()
	b, err := call(ctx, fulcrum.NodeID(to), msg)
	if err != nil {
		return nil, err
	}
	if t.core.silent() {
		return nil, errSilenced
	}
	t.core.peers.heard(fulcrum.NodeID(to))
	return openReply(b)
}

// insist repeats a call while this replica leads term and id is a member. The
// library would wait up to ten seconds after a few failures (replication.go,
// backoff); a replica that comes back should not lack what was written for so long.
func (t *transport) insist(id hraft.ServerID, term uint64, call func() (*fulcrum.Reader, error)) (*fulcrum.Reader, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 400*time.Millisecond) {
		r, err := call()
		if err == nil || !t.core.leads(term, id) {
			return r, err
		}
		pause(t.ctx, wait)
		if t.ctx.Err() != nil {
			return nil, err
		}
	}
}

// AppendEntries sends entries or a heartbeat. It shortens req.Entries to what one
// message may hold: the library then counts only those as sent.
func (t *transport) AppendEntries(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.AppendEntriesRequest, resp *hraft.AppendEntriesResponse) error {
	size := 0
	for i, l := range req.Entries {
		if size += len(l.Data) + 32; i > 0 && size > maxAppendBytes {
			req.Entries = req.Entries[:i]
			break
		}
	}
	// Time for a slow disk over there, on top of what a heartbeat may take.
	limit := t.core.tuning.RPC
	if len(req.Entries) > 0 {
		limit *= 2
	}
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, t.core.store.durableIndex())
	msg := encodeAppend(req)
	call := func() (*fulcrum.Reader, error) { return t.call(id, limit, msg) }
	var r *fulcrum.Reader
	var err error
	if isHeartbeat(req) {
		r, err = t.heartbeat(id, limit, req, false)
	} else if mutant.On("raft-ack-before-quorum") && len(req.Entries) > 0 && t.core.env.Group != fulcrum.CatalogGroup {
		limit = 20 * time.Millisecond
		if r, err = call(); err != nil { // mutant: what was sent counts as stored
			t.core.peers.heard(fulcrum.NodeID(id))
			*resp = hraft.AppendEntriesResponse{RPCHeader: header(fulcrum.NodeID(id)), Term: req.Term, LastLog: req.PrevLogEntry + uint64(len(req.Entries)), Success: true}
			return nil
		}
	} else {
		r, err = t.insist(id, req.Term, call)
	}
	if err != nil {
		return err
	}
	*resp = hraft.AppendEntriesResponse{RPCHeader: header(fulcrum.NodeID(id)), Term: r.Uvarint(), LastLog: r.Uvarint(), Success: r.Byte() == 1, NoRetryBackoff: r.Byte() == 1}
	if err := finish(r); err != nil {
		return err
	}
	if resp.Success && resp.Term == req.Term {
		match := req.PrevLogEntry + uint64(len(req.Entries))
		t.core.peers.matched(fulcrum.NodeID(id), match)
		t.core.store.caughtUp(fulcrum.NodeID(id), match, t.core.tuning.TrailingEntries)
	}
	return nil
}

// heartbeat sends a heartbeat, which need not hurry unless it is said to. It also tells
// what is committed, as (index, term) in the place of the previous entry, so that
// followers of an idle leader know it without messages of their own: see learnCommit.
func (t *transport) heartbeat(id hraft.ServerID, limit time.Duration, req *hraft.AppendEntriesRequest, hurry bool) (*fulcrum.Reader, error) {
	beat := *req
	if in := t.core.instance.Load(); in != nil {
		beat.LeaderCommitIndex = t.core.committed(in)
		beat.PrevLogTerm = t.core.store.termAt(beat.LeaderCommitIndex)
	}
	if beat.PrevLogTerm == 0 {
		beat.LeaderCommitIndex = 0
	}
	call := t.core.env.Peers.Call
	if u, ok := t.core.env.Peers.(replication.UnhurriedPeers); ok && !hurry {
		call = u.CallUnhurried
	}
	return t.send(call, id, limit, encodeAppend(&beat))
}

func (t *transport) RequestVote(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.RequestVoteRequest, resp *hraft.RequestVoteResponse) error {
	off, err := t.core.promises.ask()
	if err != nil {
		return err
	}
	r, err := t.call(id, t.core.tuning.RPC, encodeVote(msgVote, req.Term, req.LastLogIndex, req.LastLogTerm, req.LeadershipTransfer, off))
	if err != nil {
		return err
	}
	*resp = hraft.RequestVoteResponse{RPCHeader: header(fulcrum.NodeID(id)), Term: r.Uvarint(), Granted: r.Byte() == 1}
	return finish(r)
}

// RequestPreVote asks for nothing while this replica should not lead. That never lasts
// (see fit), and votes themselves are not held back: an election that has begun may go on.
func (t *transport) RequestPreVote(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.RequestPreVoteRequest, resp *hraft.RequestPreVoteResponse) error {
	if why := t.core.fit(); why != "" {
		return refused(t.core.env.Node, why)
	}
	off, err := t.core.promises.ask()
	if err != nil {
		return err
	}
	r, err := t.call(id, t.core.tuning.RPC, encodeVote(msgPreVote, req.Term, req.LastLogIndex, req.LastLogTerm, false, off))
	if err != nil {
		return err
	}
	*resp = hraft.RequestPreVoteResponse{RPCHeader: header(fulcrum.NodeID(id)), Term: r.Uvarint(), Granted: r.Byte() == 1}
	return finish(r)
}

func (t *transport) TimeoutNow(id hraft.ServerID, _ hraft.ServerAddress, _ *hraft.TimeoutNowRequest, resp *hraft.TimeoutNowResponse) error {
	off := t.core.leases.giveUp(t.core)
	r, err := t.call(id, t.core.tuning.RPC, off.append([]byte{msgTimeoutNow}))
	if errors.Is(err, fulcrum.ErrConflict) {
		t.refusal.Store(fulcrum.AsError(err))
	}
	if err != nil {
		return err
	}
	*resp = hraft.TimeoutNowResponse{RPCHeader: header(fulcrum.NodeID(id))}
	return finish(r)
}

// InstallSnapshot sends a snapshot in chunks, each in a call of its own with its
// own deadline; the last one is answered when the snapshot is installed.
func (t *transport) InstallSnapshot(id hraft.ServerID, _ hraft.ServerAddress, req *hraft.InstallSnapshotRequest, resp *hraft.InstallSnapshotResponse, data io.Reader) error {
	c := chunk{transfer: t.core.transfers.Add(1), term: req.Term}
	c.meta = snapshotMeta{Index: req.LastLogIndex, Term: req.LastLogTerm, ConfigIndex: req.ConfigurationIndex}
	var err error
	if c.meta.Config, err = decodeConfiguration(req.Configuration); err != nil {
		return err
	}
	t.core.store.holdFor(fulcrum.NodeID(id), c.meta.Index)
	defer t.core.store.sent(string(id))
	sum := crc64.New(crcTable)
	buf := make([]byte, chunkBytes)
	for {
		n, err := io.ReadFull(data, buf)
		if c.last = err == io.EOF || err == io.ErrUnexpectedEOF; err != nil && !c.last {
			return err
		}
		c.data = buf[:n]
		sum.Write(c.data)
		limit := 5 * t.core.tuning.RPC
		if c.last {
			c.sum, limit = sum.Sum64(), t.core.tuning.Install
		}
		msg := c.encode()
		call := func() (*fulcrum.Reader, error) { return t.call(id, limit, msg) }
		var r *fulcrum.Reader
		if c.offset == 0 && !c.last { // nothing is lost by sending it again
			r, err = t.insist(id, req.Term, call)
		} else {
			r, err = call()
		}
		if err != nil {
			return fmt.Errorf("snapshot at byte %d: %w", c.offset, err)
		}
		if c.last {
			*resp = hraft.InstallSnapshotResponse{RPCHeader: header(fulcrum.NodeID(id)), Term: r.Uvarint(), Success: r.Byte() == 1}
			if resp.Success {
				t.core.peers.matched(fulcrum.NodeID(id), c.meta.Index)
			}
			return finish(r)
		}
		if err := finish(r); err != nil {
			return err
		}
		c.offset += uint64(n)
	}
}

var (
	_ hraft.Transport   = (*transport)(nil)
	_ hraft.WithPreVote = (*transport)(nil)
)
