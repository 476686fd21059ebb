package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

func (op *operation) write(ctx context.Context, ws []fulcrum.Write) ([]fulcrum.Result, error) {
	st, ks, err := op.keyspace()
	if err != nil {
		return nil, err
	}
	if len(ws) == 0 {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "no writes")
	}
	if err := op.call.ID.Check(); err != nil {
		return nil, fulcrum.AsError(err)
	}
	for _, w := range ws {
		if err := w.Check(op.n.opt.MaxValue); err != nil {
			return nil, fulcrum.AsError(err)
		}
	}
	ws = mistimed(ws, op.n.Now())
	parts := split(st, ks, len(ws), func(i int) []byte { return ws[i].Key })
	if op.call.Atomic && len(parts) > 1 {
		_, err := oneShard(st, ks, keysOf(api.Txn{Then: ws}))
		return nil, err
	}
	if len(parts) == 1 {
		res, err := op.writeShard(ctx, parts[0].group, ws)
		if err != nil {
			return nil, err
		}
		if len(res) == 1 && res[0].Err != nil {
			return res, fulcrum.AsError(res[0].Err)
		}
		return res, nil
	}
	results := make([]fulcrum.Result, len(ws))
	var g errgroup.Group
	var failed []error
	var mu sync.Mutex
	for _, p := range parts {
		g.Go(func() error {
			part := make([]fulcrum.Write, len(p.at))
			for i, j := range p.at {
				part[i] = ws[j]
			}
			res, err := op.writeShard(ctx, p.group, part)
			for i, j := range p.at {
				if err != nil {
					results[j] = fulcrum.Result{Err: err}
					continue
				}
				results[j] = res[i]
			}
			if err != nil {
				mu.Lock()
				failed = append(failed, err)
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait()
	if len(failed) == len(parts) {
		return results, failed[0]
	}
	return results, nil
}

// writing is the writes of a request to one shard that are not done yet.
type writing struct {
	asked []fulcrum.Write
	ws    []fulcrum.Write // those to send: asked, or merges in their place
	late  bool            // some are
}

// some is what is sent at once of writes that have nothing to do with each other: no more
// than one request to a group may hold.
func (p *writing) some() []fulcrum.Write {
	size := 0
	for n := range p.ws {
		w := &p.ws[n]
		if size += len(w.Key) + len(w.Value) + len(w.Expect) + writeRoom; n > 0 && size > maxPartBytes {
			return p.ws[:n]
		}
	}
	return p.ws
}

// writeRoom is more than a write takes besides its key and its values; a request that is
// within maxPartBytes by this measure is one that every group takes.
const (
	writeRoom    = 64
	maxPartBytes = replication.MaxWritten - 64<<10
)

// writeShard does writes to one shard. A group may do the first of them only, when all
// come to too much at once: then the rest follows, in order. Once some are done, an error
// is that of the others alone.
func (op *operation) writeShard(ctx context.Context, g fulcrum.GroupID, ws []fulcrum.Write) ([]fulcrum.Result, error) {
	p := &writing{asked: ws, ws: ws}
	results, err := op.writePart(ctx, g, p)
	if err != nil || len(results) == len(ws) {
		return results, err
	}
	for len(p.ws) > 0 {
		more, err := op.writePart(ctx, g, p)
		if err == nil && len(more) == 0 {
			err = fulcrum.Errorf(fulcrum.CodeInternal, "no results for %d writes", len(p.ws))
		}
		if err != nil {
			more = make([]fulcrum.Result, len(p.ws))
			for i := range more {
				more[i].Err = err
			}
			return append(results, more...), nil
		}
		results = append(results, more...)
	}
	return results, nil
}

// writePart does the first of the writes in p, and takes them out of it. It brings them to
// whoever can order them, again and again while the answer is "definitely not done, ask
// elsewhere", until the deadline.
func (op *operation) writePart(ctx context.Context, g fulcrum.GroupID, p *writing) ([]fulcrum.Result, error) {
	var out replication.WriteReply
	again, divisible := false, len(p.ws) > 1 && !op.call.Atomic && op.call.ID == ""
	err := op.onShard(ctx, g, func(ctx context.Context, ref catalog.ShardRef, level consistency.Level, at fulcrum.NodeID) error {
		req := replication.WriteRequest{Writes: p.ws, Atomic: op.call.Atomic, Divisible: divisible, Level: level, ID: op.call.ID}
		if divisible {
			req.Writes = p.some()
		}
		rep, err := op.attempt(ctx, at, ref.Shard, req)
		if err == nil {
			if p.late {
				merged(p.asked, p.ws, rep.Results)
			}
			out = rep
			op.note(ref, level, rep.Outcome, rep.Results)
			return nil
		}
		if mutant.On("retry-twice") && fulcrum.AsError(err).Maybe && ctx.Err() == nil {
			again = true
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "tried again") // mutant: does again what may have been done
		}
		if errors.Is(err, fulcrum.ErrEpoch) && len(rep.Results) > 0 && ref.Shard.Mode == consistency.Quorum {
			// A fence cut it off after it was stamped: some replica may hold it, and
			// the next epoch may show it. So it goes on with the version that it has:
			// then it takes effect at most once, before anything newer.
			p.ws, p.late = mergesOf(p.ws, rep.Results), true
		}
		return err
	})
	if err != nil && op.access == consistency.Write && errors.Is(err, fulcrum.ErrUnavailable) && !p.late {
		res, hintErr := op.hintAny(ctx, g, p.ws)
		if hintErr == nil {
			p.ws = nil
			return res, nil
		}
		if e := fulcrum.AsError(hintErr); e.Maybe || e.Code == fulcrum.CodeOverloaded || e.Code == fulcrum.CodeDisk {
			return nil, hintErr // it may be queued: no longer "not done"; or no more are taken
		}
	}
	if (p.late || again) && err != nil && !fulcrum.AsError(err).Maybe {
		e := *fulcrum.AsError(err)
		e.Code, e.Maybe = fulcrum.CodeUnknown, true
		return nil, &e
	}
	if err != nil {
		return nil, err
	}
	n := len(out.Results)
	if n > len(p.ws) {
		return nil, fulcrum.Errorf(fulcrum.CodeUnknown, "%d results for %d writes", n, len(p.ws))
	}
	p.asked, p.ws = p.asked[n:], p.ws[n:]
	return out.Results, nil
}

// mistimed returns ws as they are, but for the mutants.
func mistimed(ws []fulcrum.Write, now int64) []fulcrum.Write {
	if !mutant.On("ttl-early") && !mutant.On("expiry-ignored") {
		return ws
	}
	ws = slices.Clone(ws)
	for i := range ws {
		switch {
		case ws[i].TTL > 0 && mutant.On("ttl-early"):
			ws[i].TTL = max(1, ws[i].TTL/2) // mutant: half the time
		case ws[i].TTL > 0:
			ws[i].TTL = 0 // mutant: never
		case ws[i].ExpireAt <= now:
		case mutant.On("ttl-early"):
			ws[i].ExpireAt -= (ws[i].ExpireAt - now) / 2 // mutant: half the time
		default:
			ws[i].ExpireAt = 0 // mutant: never
		}
	}
	return ws
}

// mergesOf turns blind writes into merges with the versions that they were stamped with.
// A result may come without the value, which is the write's own.
func mergesOf(ws []fulcrum.Write, stamped []fulcrum.Result) []fulcrum.Write {
	out := make([]fulcrum.Write, len(ws))
	for i, w := range ws {
		out[i] = w
		if i >= len(stamped) {
			continue
		}
		if e := stamped[i].Entry; w.Op != fulcrum.OpMerge && !e.Version.IsZero() {
			out[i] = fulcrum.Write{Op: fulcrum.OpMerge, Key: w.Key, At: e.Version, Tombstone: e.Tombstone, ExpireAt: e.ExpireAt, NoValue: w.NoValue, NoOld: w.NoOld}
			if w.Op == fulcrum.OpPut {
				out[i].Value = w.Value
			}
		}
	}
	return out
}

// merged makes the results of merges those of the writes that were asked for. One that
// lost to something newer took effect just before it, with the version that it had: who
// asked must not be told the newer one's, or a compare-and-set at that version would
// overwrite what was never seen.
func merged(asked, merges []fulcrum.Write, results []fulcrum.Result) {
	for i := range results {
		m := merges[i]
		if m.Op != fulcrum.OpMerge || asked[i].Op == fulcrum.OpMerge || results[i].Err != nil {
			continue
		}
		results[i].Applied = true
		results[i].Entry = fulcrum.Entry{Key: m.Key, Value: m.Value, Version: m.At, Tombstone: m.Tombstone, ExpireAt: m.ExpireAt}
	}
}

// hintAny keeps blind writes at the level "any" on this node's disk when no replica
// can be reached (Dynamo 2007, section 4.6: a hint counts).
func (op *operation) hintAny(ctx context.Context, g fulcrum.GroupID, ws []fulcrum.Write) ([]fulcrum.Result, error) {
	ref, ok := op.n.machine.State().Group(g)
	if !ok || ref.Shard.Mode != consistency.Quorum {
		return nil, fulcrum.ErrUnavailable
	}
	if level, err := op.levelFor(ref.Keyspace, ref.Shard); err != nil || level.Kind != consistency.Any {
		return nil, fulcrum.ErrUnavailable
	}
	results := make([]fulcrum.Result, len(ws))
	entries := make([]fulcrum.Entry, len(ws))
	for i, w := range ws {
		if !w.Blind() {
			return nil, fulcrum.ErrMode
		}
		res, err := fulcrum.Evaluate(w, fulcrum.Entry{}, op.n.clock.Next(), op.n.Now(), op.n.opt.MaxValue)
		if err != nil {
			return nil, err
		}
		results[i], entries[i] = res, res.Entry
	}
	hintCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if mutant.On("hint-dropped") {
		entries = nil // mutant: acknowledges a hint that it does not keep
	}
	if err := op.n.late.Hint(hintCtx, g, entries); err != nil {
		return nil, err
	}
	op.note(ref, consistency.L(consistency.Any), replication.Outcome{Given: consistency.L(consistency.Any), Staleness: -1, Hinted: len(ws)}, results)
	return results, nil
}
