package raft

import (
	"context"
	"time"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
)

// VerifyLeader is the library's own check, which the tests show to be unsafe.
func (g *Group) VerifyLeader() error { return g.core.instance.Load().raft.VerifyLeader().Error() }

// VerifyLeader is the library's own check, which the tests show to be unsafe.
func (r *Replica) VerifyLeader() error { return r.core.instance.Load().raft.VerifyLeader().Error() }

// Snapshot cuts the log now.
func (g *Group) Snapshot(ctx context.Context) error {
	return g.core.snapshot(ctx, g.core.instance.Load())
}

// Snapshot cuts the log now.
func (r *Replica) Snapshot(ctx context.Context) error {
	return r.core.snapshot(ctx, r.core.instance.Load())
}

// ShortenGrace lets tombstones go after d. Call it before Run.
func (g *Group) ShortenGrace(d time.Duration) { g.keeper.grace, g.keeper.due.every = d, d/4 }

// Renew replaces the library's instance.
func (g *Group) Renew() { g.core.renew("a test asks for it") }

// Transfer is the library's own transfer of leadership, without what handOver waits for.
func (g *Group) Transfer(to fulcrum.NodeID) error {
	return g.core.instance.Load().raft.LeadershipTransferToServer(hraft.ServerID(to), hraft.ServerAddress(to)).Error()
}

// Instance tells one life of the library from another.
func (g *Group) Instance() any { return g.core.instance.Load() }

// Pipeline asks the transport for a pipeline.
func (g *Group) Pipeline(to fulcrum.NodeID) error {
	_, err := g.core.instance.Load().trans.AppendEntriesPipeline(hraft.ServerID(to), hraft.ServerAddress(to))
	return err
}

// Configured reports whether the replica knows a configuration.
func (g *Group) Configured() bool {
	return len(g.core.instance.Load().raft.GetConfiguration().Configuration().Servers) > 0
}

// AskLeader does what a replica that does not lead does for a linearizable read.
func (r *Replica) AskLeader(ctx context.Context) error {
	got, err := r.core.join(ctx, r.core.asks, false, "late")
	if err == nil {
		err = r.core.catchUp(ctx, got.index, got)
	}
	return err
}

// Kinds of message, for hooks.
const (
	MsgAppend     = msgAppend
	MsgVote       = msgVote
	MsgPreVote    = msgPreVote
	MsgTimeoutNow = msgTimeoutNow
	MsgInstall    = msgInstall
	MsgConfirm    = msgConfirm
	MsgReadIndex  = msgReadIndex
)

// IsFirstChunk reports whether msg begins the transfer of a snapshot.
func IsFirstChunk(msg []byte) bool {
	if len(msg) == 0 || msg[0] != msgInstall {
		return false
	}
	c, err := decodeChunk(fulcrum.NewReader(msg[1:]))
	return err == nil && c.offset == 0
}

// IsHeartbeat reports whether msg is an append without entries that proves nothing.
func IsHeartbeat(from fulcrum.NodeID, msg []byte) bool {
	if len(msg) == 0 || msg[0] != msgAppend {
		return false
	}
	req, err := decodeAppend(from, fulcrum.NewReader(msg[1:]))
	return err == nil && isHeartbeat(req)
}

// TimeoutNow is the message that makes a voter ask for an election at once.
func TimeoutNow() []byte { return []byte{msgTimeoutNow} }
