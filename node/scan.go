package node

import (
	"bytes"
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/partition"
	"fulcrum/replication"
)

const (
	defaultScan  = 1000
	maxScan      = 10000
	maxPageBytes = 4 * replication.MaxRead // a page takes no more, but for the entry that passes it
)

// Scan coordinates a scan: see api.Backend. Each shard answers at the level by
// itself; the page as a whole is no snapshot.
func (n *Node) Scan(ctx context.Context, c api.Call, req api.Scan) (api.Page, consistency.Receipt, error) {
	began := time.Now()
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	op := &operation{n: n, call: c, access: consistency.Read, began: began}
	page, err := op.scan(ctx, req)
	return page, op.finish("scan", err), err
}

func (op *operation) scan(ctx context.Context, req api.Scan) (api.Page, error) {
	st, ks, err := op.keyspace()
	if err != nil {
		return api.Page{}, err
	}
	limit := req.Limit
	switch {
	case limit == 0:
		limit = defaultScan
	case limit < 0 || limit > maxScan:
		return api.Page{}, fulcrum.Errorf(fulcrum.CodeInvalid, "limit %d: want 1 to %d", limit, maxScan)
	}
	start, end := bounds(req)
	if end != nil && bytes.Compare(start, end) >= 0 {
		return api.Page{}, nil
	}
	shards := st.ShardsOver(ks, start, end)
	parts := make([]replication.ScanReply, len(shards))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, sh := range shards {
		g.Go(func() (err error) {
			parts[i], err = op.scanShard(gctx, sh.Group, replication.ScanRequest{Start: start, End: end, Limit: limit, KeysOnly: req.KeysOnly})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return api.Page{}, err
	}
	page := merge(parts, limit)
	op.noteEntries(page.Entries)
	return page, nil
}

// bounds turns prefix, start, end and after into one range.
func bounds(req api.Scan) (start, end []byte) {
	start, end = req.Start, req.End
	if len(req.Prefix) > 0 {
		if bytes.Compare(start, req.Prefix) < 0 {
			start = req.Prefix
		}
		if pe := partition.PrefixEnd(req.Prefix); pe != nil && (end == nil || bytes.Compare(pe, end) < 0) {
			end = pe
		}
	}
	if req.After != nil {
		if after := append(bytes.Clone(req.After), 0); bytes.Compare(start, after) < 0 {
			start = after
		}
	}
	return start, end
}

// merge orders what the shards answered. A shard that was cut off may hold more behind its
// last key, so nothing behind that may be shown yet.
func merge(parts []replication.ScanReply, limit int) api.Page {
	var all []fulcrum.Entry
	var horizon []byte
	more := false
	for _, p := range parts {
		all = append(all, p.Entries...)
		if p.More && len(p.Entries) > 0 {
			more = true
			if last := p.Entries[len(p.Entries)-1].Key; horizon == nil || bytes.Compare(last, horizon) < 0 {
				horizon = last
			}
		}
	}
	slices.SortFunc(all, func(a, b fulcrum.Entry) int { return bytes.Compare(a.Key, b.Key) })
	if horizon != nil {
		i, found := slices.BinarySearchFunc(all, horizon, func(e fulcrum.Entry, k []byte) int { return bytes.Compare(e.Key, k) })
		if found {
			i++
		}
		all = all[:i]
	}
	if most := min(limit, len(replication.First(all, maxPageBytes))); len(all) > most {
		all, more = all[:most], true
	}
	page := api.Page{Entries: all}
	if more && len(all) > 0 {
		page.Next = bytes.Clone(all[len(all)-1].Key)
	}
	return page
}

func (op *operation) scanShard(ctx context.Context, g fulcrum.GroupID, req replication.ScanRequest) (replication.ScanReply, error) {
	var out replication.ScanReply
	err := op.onShard(ctx, g, func(ctx context.Context, ref catalog.ShardRef, level consistency.Level, at fulcrum.NodeID) error {
		req.Level, req.Min = level, op.floor(ref.Shard)
		rep, err := op.n.sendScan(ctx, at, ref.Shard, req)
		if err == nil {
			out = rep
			op.n.entriesHere(rep.Entries, rep.Outcome)
			op.mu.Lock()
			op.noteLocked(ref, level, rep.Outcome)
			op.mu.Unlock()
		}
		return err
	})
	return out, err
}
