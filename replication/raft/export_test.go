package raft

import (
	"context"
	"time"

	"fulcrum"
)

// VerifyLeader is hashicorp/raft's check, which the tests show to be unsafe.
func (g *Group) VerifyLeader() error { return g.core.verify() }

// VerifyLeader is hashicorp/raft's check, which the tests show to be unsafe.
func (r *Replica) VerifyLeader() error { return r.core.verify() }

func (c *core) verify() error {
	return c.verifyLeader(context.Background(), c.instance.Load())
}

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

// Transfer makes another replica ask for an election with this one's leave, without what
// handOver waits for.
func (g *Group) Transfer(to fulcrum.NodeID) error { return g.core.instance.Load().timeoutNow(to) }

// Configured reports whether the replica knows a configuration.
func (g *Group) Configured() bool {
	return len(g.core.instance.Load().view.Load().conf.Members) > 0
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
	MsgBeat       = msgBeat
	MsgHello      = msgHello
	MsgPart       = msgPart
)

// IsFirstChunk reports whether msg begins the transfer of a snapshot.
func IsFirstChunk(msg []byte) bool {
	if len(msg) == 0 || msg[0] != msgInstall {
		return false
	}
	c, err := decodeChunk(fulcrum.NewReader(msg[1:]))
	return err == nil && c.offset == 0
}

// TransferOf tells which transfer of a snapshot msg belongs to; 0: none.
func TransferOf(msg []byte) uint64 {
	if len(msg) == 0 || msg[0] != msgInstall {
		return 0
	}
	c, err := decodeChunk(fulcrum.NewReader(msg[1:]))
	if err != nil {
		return 0
	}
	return c.transfer
}

// IsHeartbeat reports whether msg is a heartbeat.
func IsHeartbeat(msg []byte) bool { return len(msg) > 0 && msg[0] == msgBeat }

// TimeoutNow is the message that makes a voter ask for an election at once.
func TimeoutNow() []byte { return []byte{msgTimeoutNow} }

// Question is what a replica in a term asks its leader before a linearizable read.
func Question(nonce, term uint64) []byte { return uvarints([]byte{msgReadIndex}, nonce, term) }

// Term is the term that the replica is in.
func (g *Group) Term() uint64 { return g.core.instance.Load().term() }

// LastPlace is where the log ends.
func (r *Replica) LastPlace() (index, term uint64) {
	index = r.core.store.Last()
	term, _ = r.core.store.Term(index)
	return index, term
}

// Reached waits for an entry as a change of the configuration does.
func (r *Replica) Reached(ctx context.Context, term, index uint64) error {
	return r.core.reached(ctx, r.core.instance.Load(), term, index)
}
