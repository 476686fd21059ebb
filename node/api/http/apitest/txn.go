package apitest

import (
	"bytes"
	"context"
	"fmt"
	"maps"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// answered is a request that came with an id: what it was, and what became of it.
type answered struct {
	request string
	reply   api.TxnReply
}

// Txn implements api.Backend.
func (b *Backend) Txn(_ context.Context, c api.Call, t api.Txn) (api.TxnReply, consistency.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, rc, err := b.begin(c, consistency.Write, "txn")
	if err != nil && !fulcrum.AsError(err).Maybe {
		return api.TxnReply{}, rc, err
	}
	if s.info.Mode == consistency.Quorum.String() {
		return api.TxnReply{}, rc, fulcrum.Errorf(fulcrum.CodeMode, "quorum mode has no transactions").WithHint("use mode raft or leader-follower")
	}
	for _, ws := range [][]fulcrum.Write{t.Then, t.Else} {
		for _, w := range ws {
			if err := w.Check(b.Limits().MaxValue); err != nil {
				return api.TxnReply{}, rc, fulcrum.AsError(err)
			}
		}
	}
	t.Atomic = t.Atomic || c.Atomic
	reply, idErr := b.once(s, c, t)
	if err == nil {
		err = idErr
	}
	for _, res := range reply.Results {
		if rc.Version.Less(res.Entry.Version) {
			rc.Version = res.Entry.Version
		}
	}
	return reply, rc, err
}

// once runs t, unless its id was here before. Only mode raft keeps ids, for ever here.
func (b *Backend) once(s *space, c api.Call, t api.Txn) (api.TxnReply, error) {
	if c.ID == "" {
		return b.run(s, t), nil
	}
	if s.info.Mode != consistency.Raft.String() {
		return api.TxnReply{}, fulcrum.Errorf(fulcrum.CodeMode, "mode %s keeps no request ids", s.info.Mode).WithHint("use mode raft")
	}
	if err := c.ID.Check(); err != nil {
		return api.TxnReply{}, fulcrum.AsError(err)
	}
	request := fmt.Sprintf("%v %v %v %v", t.If, timeless(t.Then), timeless(t.Else), t.Atomic)
	first, ok := s.ids[c.ID]
	switch {
	case !ok:
		first = answered{request, b.run(s, t)}
		s.ids[c.ID] = first
	case first.request != request:
		return api.TxnReply{}, fulcrum.Errorf(fulcrum.CodeConflict, "request id %q was used for another request", c.ID)
	}
	return first.reply, nil
}

// timeless is ws without the moments at which values expire: a client that tries again
// with the same time to live asks for a later one.
func timeless(ws []fulcrum.Write) []fulcrum.Write {
	out := make([]fulcrum.Write, len(ws))
	for i, w := range ws {
		w.ExpireAt = min(w.ExpireAt, 1)
		out[i] = w
	}
	return out
}

// run runs t in one step. When it is Atomic, a write that is not applied undoes all, and
// its result is the only one that says anything.
func (b *Backend) run(s *space, t api.Txn) api.TxnReply {
	entries := maps.Clone(s.entries)
	rep := api.TxnReply{Succeeded: true}
	for _, cmp := range t.If {
		rep.Succeeded = rep.Succeeded && cmp.Holds(entries[string(cmp.Key)], b.Now())
	}
	branch := t.Then
	if !rep.Succeeded {
		branch = t.Else
	}
	rep.Results = make([]fulcrum.Result, len(branch))
	var events []fulcrum.Event
	for i, w := range branch {
		res, err := fulcrum.Evaluate(w, entries[string(w.Key)], b.clock.Next(), b.Now(), b.Limits().MaxValue)
		res.Err = err
		rep.Results[i] = w.Trim(res)
		switch {
		case res.Applied:
			res.Entry.Value = bytes.Clone(res.Entry.Value)
			entries[string(w.Key)] = res.Entry
			events = append(events, fulcrum.Event{Entry: res.Entry})
		case t.Atomic && w.Op != fulcrum.OpGet:
			clear(rep.Results)
			res.Entry.Key = w.Key
			rep.Results[i] = w.Trim(res)
			return rep
		}
	}
	s.entries = entries
	b.changed(s, events)
	return rep
}
