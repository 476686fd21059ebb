package resp

import (
	"bytes"
	"context"
	"maps"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// farShard is the shard of keys that begin with "far:"; all others are in shard 7.
const farShard = 8

func shardOf(key []byte) fulcrum.GroupID {
	if bytes.HasPrefix(key, []byte("far:")) {
		return farShard
	}
	return 7
}

// oneShard refuses keys of both shards as a coordinator does.
func oneShard(keys ...[]byte) error {
	for _, k := range keys {
		if shardOf(k) != shardOf(keys[0]) {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "%w ([7 8]): an atomic request must stay within one", fulcrum.ErrShards).WithHint("give the keys a common {tag}")
		}
	}
	return nil
}

// Txn runs t in one step under the lock. Each write has a version of its own; when t is
// Atomic, one that is not applied (and is no OpGet) undoes all.
func (f *fake) Txn(ctx context.Context, c api.Call, t api.Txn) (api.TxnReply, consistency.Receipt, error) {
	r, err := f.begin(ctx, c, consistency.Write, t.Then)
	if err == nil && r.Mode == consistency.Quorum {
		err = fulcrum.Errorf(fulcrum.CodeMode, "mode quorum has no transactions").WithHint("modes raft and leader-follower have")
	}
	var keys [][]byte
	for _, cmp := range t.If {
		keys = append(keys, cmp.Key)
	}
	for _, w := range append(t.Then[:len(t.Then):len(t.Then)], t.Else...) {
		keys = append(keys, w.Key)
	}
	switch {
	case err != nil:
	case len(t.Then)+len(t.Else) == 0:
		err = fulcrum.Errorf(fulcrum.CodeInvalid, "no operations")
	case len(t.Then) > fulcrum.MaxOpsPerBatch || len(t.If) > fulcrum.MaxOpsPerBatch:
		err = fulcrum.Errorf(fulcrum.CodeTooLarge, "%d operations", len(t.Then))
	default:
		err = oneShard(keys...)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.txns = append(f.calls, c), append(f.txns, t)
	if err != nil {
		return api.TxnReply{}, consistency.Receipt{}, err
	}
	data := maps.Clone(f.data[c.Keyspace])
	rep := api.TxnReply{Succeeded: true}
	for _, cmp := range t.If {
		rep.Succeeded = rep.Succeeded && cmp.Holds(data[string(cmp.Key)], f.now)
	}
	branch := t.Then
	if !rep.Succeeded {
		branch = t.Else
	}
	for _, w := range branch {
		f.stamp++
		r.Version = fulcrum.Version{Time: uint64(f.now)<<16 + f.stamp, Actor: 1}
		res, err := fulcrum.Evaluate(w, data[string(w.Key)], r.Version, f.now, f.Limits().MaxValue)
		res.Err = err
		rep.Results = append(rep.Results, w.Trim(res))
		switch {
		case res.Applied:
			data[string(w.Key)] = res.Entry
		case t.Atomic && w.Op != fulcrum.OpGet:
			return rep, r, nil
		}
	}
	f.data[c.Keyspace] = data
	return rep, r, nil
}
