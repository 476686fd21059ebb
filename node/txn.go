package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

// Txn coordinates a transaction: see api.Backend. One that only reads goes through the
// log as well: so it is one moment of all its keys.
func (n *Node) Txn(ctx context.Context, c api.Call, t api.Txn) (api.TxnReply, consistency.Receipt, error) {
	began := time.Now()
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	op := &operation{n: n, call: c, access: consistency.Write, began: began}
	reply, err := op.txn(ctx, t)
	return reply, op.finish("txn", err), err
}

func (op *operation) txn(ctx context.Context, t api.Txn) (api.TxnReply, error) {
	st, ks, err := op.keyspace()
	if err != nil {
		return api.TxnReply{}, err
	}
	now := op.n.Now()
	req := replication.WriteRequest{If: t.If, Writes: mistimed(t.Then, now), Else: mistimed(t.Else, now), Atomic: t.Atomic || op.call.Atomic, ID: op.call.ID}
	if len(t.If)+len(t.Then)+len(t.Else) == 0 {
		return api.TxnReply{}, fulcrum.Errorf(fulcrum.CodeInvalid, "an empty transaction")
	}
	if most := max(len(t.If), len(t.Then), len(t.Else)); most > fulcrum.MaxOpsPerBatch {
		return api.TxnReply{}, fulcrum.Errorf(fulcrum.CodeTooLarge, "%d elements in one list of a transaction, the limit is %d", most, fulcrum.MaxOpsPerBatch)
	}
	if err := req.Check(op.n.opt.MaxValue); err != nil {
		return api.TxnReply{}, err
	}
	group, err := oneShard(st, ks, keysOf(t))
	if err != nil {
		return api.TxnReply{}, err
	}
	var out replication.WriteReply
	err = op.onShard(ctx, group, func(ctx context.Context, ref catalog.ShardRef, level consistency.Level, at fulcrum.NodeID) error {
		attempt := req
		attempt.Level = level
		rep, err := op.attempt(ctx, at, ref.Shard, attempt)
		if err == nil {
			out = rep
			op.note(ref, level, rep.Outcome, rep.Results)
		}
		return err
	})
	if err != nil {
		return api.TxnReply{}, err
	}
	return api.TxnReply{Succeeded: !out.Else, Results: out.Results}, nil
}

func keysOf(t api.Txn) [][]byte {
	keys := make([][]byte, 0, len(t.If)+len(t.Then)+len(t.Else))
	for _, c := range t.If {
		keys = append(keys, c.Key)
	}
	for _, ws := range [][]fulcrum.Write{t.Then, t.Else} {
		for _, w := range ws {
			keys = append(keys, w.Key)
		}
	}
	return keys
}

// oneShard returns the shard that all keys belong to, or an error that names the shards
// that there are, with a key of each.
func oneShard(st *catalog.State, ks *catalog.Keyspace, keys [][]byte) (fulcrum.GroupID, error) {
	of := map[fulcrum.GroupID][]byte{}
	for _, k := range keys {
		if g := st.ShardOf(ks, k).Group; of[g] == nil {
			of[g] = k
		}
	}
	groups := make([]fulcrum.GroupID, 0, len(of))
	for g := range of {
		groups = append(groups, g)
	}
	if len(groups) == 1 {
		return groups[0], nil
	}
	slices.Sort(groups)
	var where []string
	for _, g := range groups[:min(len(groups), 8)] {
		where = append(where, fmt.Sprintf("%d (%.64q)", g, of[g]))
	}
	if more := len(groups) - len(where); more > 0 {
		where = append(where, fmt.Sprintf("%d more", more))
	}
	return 0, fulcrum.Errorf(fulcrum.CodeInvalid, "%w: %s; what is done as one step must stay within one", fulcrum.ErrShards, strings.Join(where, ", ")).
		WithHint("give the keys a common {tag} in a hash-sharded keyspace")
}
