package node

import (
	"context"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

// doubt is what a coordinator has on its mind once an attempt at a request with an id
// may have been done: it tries again with the same id and the same bytes, until somebody
// knows.
//
// That applies the request once at the most, if whoever answers knows what the first
// attempt left. Within an epoch that is the group's table of ids; from one Raft epoch to
// the next the table goes along. A switch to another mode drops it, so an attempt is only
// repeated in the epoch of the first or, step by step, in later ones that are Raft's too.
// An epoch that this node has not seen could have been of another mode.
type doubt struct {
	err   error         // the first outcome that was unknown; nil: none was
	epoch fulcrum.Epoch // the newest in which the table is known to have gone along
}

// mayRepeat reports whether err leaves the outcome unknown and the request may be sent
// again.
func (d *doubt) mayRepeat(ctx context.Context, op *operation, sh *catalog.Shard, err error) bool {
	if d.err != nil && fulcrum.AsError(err).Code == fulcrum.CodeOverloaded && ctx.Err() == nil {
		return true // not done now, but perhaps before
	}
	if op.call.ID == "" || sh.Mode != consistency.Raft || !fulcrum.AsError(err).Maybe || ctx.Err() != nil {
		return false
	}
	if d.err == nil {
		d.err, d.epoch = err, sh.Epoch
	}
	return true
}

// follows reports whether the request may be sent again in the epoch that sh is at.
func (d *doubt) follows(sh *catalog.Shard) bool {
	if d.err == nil || sh.Epoch == d.epoch {
		return true
	}
	if sh.Mode != consistency.Raft || sh.Epoch != d.epoch+1 {
		return false
	}
	d.epoch = sh.Epoch
	return true
}

// or is err, unless an attempt before it may have been done: then that is the outcome.
func (d *doubt) or(err error) error {
	if d.err == nil {
		return err
	}
	e := *fulcrum.AsError(d.err)
	e.Code, e.Maybe = fulcrum.CodeUnknown, true
	e.Hint = "send the same request with the same id again to learn what became of it"
	return &e
}

// attempt sends a request once, unless the shard's mode cannot keep what it asks for.
// With an id no replica may keep it for long: another one may know more, and asking it
// is safe.
func (op *operation) attempt(ctx context.Context, to fulcrum.NodeID, sh *catalog.Shard, req replication.WriteRequest) (replication.WriteReply, error) {
	switch {
	case req.ID != "" && sh.Mode != consistency.Raft:
		return replication.WriteReply{}, fulcrum.Errorf(fulcrum.CodeMode, "mode %s keeps no request ids", sh.Mode).
			WithHint("request ids are kept in raft keyspaces: use one, or send no id")
	case req.Transaction() && sh.Mode == consistency.Quorum:
		return replication.WriteReply{}, fulcrum.Errorf(fulcrum.CodeMode, "mode quorum has no transactions: nobody orders the writes").
			WithHint("use a keyspace in mode raft or leader-follower")
	}
	if req.ID != "" && sh.Mode == consistency.Raft {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, perReplica)
		defer cancel()
	}
	if sh.Mode != consistency.Raft { // there the log's clock decides
		now := op.n.Now()
		req.Writes, req.Else = timed(req.Writes, now), timed(req.Else, now)
	}
	rep, err := op.n.sendWrite(ctx, to, sh, req)
	op.n.resultsHere(rep.Results, rep.Outcome)
	return rep, err
}
