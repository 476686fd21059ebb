package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

// Read coordinates reads: see api.Backend.
func (n *Node) Read(ctx context.Context, c api.Call, keys [][]byte) ([]fulcrum.Entry, consistency.Receipt, error) {
	began := time.Now()
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	op := &operation{n: n, call: c, access: consistency.Read, began: began}
	entries, err := op.read(ctx, keys)
	return entries, op.finish("read", err), err
}

// errLater says that a read was not done for want of time; whoever asks again, and waits,
// learns what is in the way.
var errLater = errors.New("something has to be waited for")

// read asks all shards side by side, but first and by itself those that this node answers
// at once: a goroutine for each would cost more than the answer.
func (op *operation) read(ctx context.Context, keys [][]byte) ([]fulcrum.Entry, error) {
	st, ks, err := op.keyspace()
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if len(k) == 0 || len(k) > fulcrum.MaxKeyBytes {
			return nil, fulcrum.AsError(fulcrum.Write{Op: fulcrum.OpDelete, Key: k}.Check(op.n.opt.MaxValue))
		}
	}
	parts := split(st, ks, len(keys), func(i int) []byte { return keys[i] })
	if len(parts) == 1 {
		return op.readShard(ctx, parts[0].group, keys, false)
	}
	entries := make([]fulcrum.Entry, len(keys))
	var mu sync.Mutex
	first := len(keys) // as many are answered by all
	read := func(p part, haste bool) error {
		some := make([][]byte, len(p.at))
		for i, j := range p.at {
			some[i] = keys[j]
		}
		got, err := op.readShard(ctx, p.group, some, haste)
		if err != nil {
			return err
		}
		for i, e := range got {
			entries[p.at[i]] = e
		}
		if len(got) < len(p.at) {
			mu.Lock()
			defer mu.Unlock()
			first = min(first, p.at[len(got)])
		}
		return nil
	}
	var g errgroup.Group
	for _, p := range parts {
		if read(p, true) != nil {
			g.Go(func() error { return read(p, false) })
		}
	}
	err = g.Wait()
	return entries[:first], err
}

// readShard reads keys of one shard, or if the call wants no more, the first of them; what
// haste means, tryShard says. A group answers for so many of them at a time as there is
// room for in one answer. Each answer keeps the level by itself, and for a session none is
// older than the one before.
func (op *operation) readShard(ctx context.Context, g fulcrum.GroupID, keys [][]byte, haste bool) ([]fulcrum.Entry, error) {
	var entries []fulcrum.Entry
	var seen replication.Position
	var epoch fulcrum.Epoch // of seen
	for {
		err := op.tryShard(ctx, g, haste, func(ctx context.Context, ref catalog.ShardRef, level consistency.Level, at fulcrum.NodeID) error {
			req := replication.ReadRequest{Keys: keys[len(entries):], Level: level, Min: op.floor(ref.Shard)}
			if op.call.Session != "" && epoch == ref.Shard.Epoch && req.Min.Index < seen.Index {
				req.Min = seen
			}
			rep, err := op.n.sendRead(ctx, at, ref.Shard, req)
			if err == nil && (len(rep.Entries) == 0 || len(rep.Entries) > len(req.Keys)) && len(req.Keys) > 0 {
				err = fulcrum.Errorf(fulcrum.CodeInternal, "%d entries for %d keys from %s", len(rep.Entries), len(req.Keys), at)
			}
			if err == nil {
				op.n.entriesHere(rep.Entries, rep.Outcome)
				op.noteRead(ref, level, rep)
				seen, epoch = rep.Outcome.Position, ref.Shard.Epoch
				if entries == nil {
					entries = rep.Entries
				} else {
					entries = append(entries, rep.Entries...)
				}
			}
			return err
		})
		if err != nil || op.call.First || len(entries) == len(keys) {
			return entries, err
		}
	}
}

func (op *operation) noteRead(ref catalog.ShardRef, level consistency.Level, rep replication.ReadReply) {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.noteLocked(ref, level, rep.Outcome)
	op.noteEntriesLocked(rep.Entries)
}

// noteEntries says in the receipt what stands at the keys that a request read.
func (op *operation) noteEntries(entries []fulcrum.Entry) {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.noteEntriesLocked(entries)
}

func (op *operation) noteEntriesLocked(entries []fulcrum.Entry) {
	now := op.n.Now()
	for i := range entries {
		e := &entries[i]
		if op.receipt.Version.Less(e.Version) {
			op.receipt.Version = e.Version
		}
		op.receipt.Found = op.receipt.Found || e.Live(now)
	}
}
