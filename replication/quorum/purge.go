package quorum

import (
	"bytes"
	"context"
	"time"

	"fulcrum"
	"fulcrum/mutant"
)

// Purger is what a State may offer beyond replication.State: Purge removes keys
// altogether and moves the applied position to index, in one step, as Apply does.
// Where State has none, tombstones stay for ever: correct, but they take space.
type Purger interface {
	Purge(keys [][]byte, index uint64) error
}

// maxPurge is how many tombstones one round removes.
const maxPurge = 1024

// purgeRound removes tombstones older than the grace time that every replica has.
//
// A tombstone may go only when no replica holds an older version of its key, or
// that one would come back from the dead. So the first replica of the group, which
// alone decides, takes its list first, then compares with every other one; only if
// all of them are equal to it, tombstones included, all are told to drop that list.
// A replica that misses the word keeps its tombstones, and hands them back with the
// next round; a tombstone more does no harm.
func (g *Group) purgeRound(ctx context.Context) {
	if _, ok := g.env.State.(Purger); !ok || g.env.Node != first(g.env.Replicas) || g.catchingUp.Load() || g.fenced.Load() {
		return
	}
	grace, early := g.opt.TombstoneGrace, mutant.On("tombstones-early")
	if early {
		grace = 0 // mutant: at once, and without asking who lacks them
	}
	list := g.purgeable(grace)
	if len(list) == 0 {
		return
	}
	for _, p := range g.peers {
		if p == nil || early {
			continue
		}
		r := round{g: g, p: p}
		if r.run(ctx) != nil || !r.equal || r.flags != 0 {
			return
		}
	}
	msg := appendPairs([]byte{kindPurge}, list)
	for _, p := range g.peers {
		if p != nil {
			cctx, cancel := context.WithTimeout(ctx, g.opt.GiveUp)
			_, err := g.call(cctx, p, msg)
			cancel()
			if err != nil {
				g.env.Logger.Debug("purge", "group", g.env.Group, "at", p.id, "err", err)
			}
		}
	}
	it := &item{purge: list}
	if g.submitWait(ctx, it) == nil {
		_ = g.wait(ctx, it) // a bad disk ends Run; else the next round tries again
	}
}

func first(ids []fulcrum.NodeID) fulcrum.NodeID {
	least := ids[0]
	for _, id := range ids {
		least = min(least, id)
	}
	return least
}

// purgeable lists tombstones, and entries expired, for longer than grace.
func (g *Group) purgeable(grace time.Duration) (list []pair) {
	before := g.env.Now().Add(-grace)
	err := g.env.State.Scan(nil, nil, func(e fulcrum.Entry) bool {
		gone := e.Tombstone || (e.ExpireAt != 0 && time.UnixMilli(e.ExpireAt).Before(before))
		if gone && e.Version.Wall().Before(before) {
			list = append(list, pair{bytes.Clone(e.Key), e.Version})
		}
		return len(list) < maxPurge
	})
	if err != nil {
		return nil
	}
	return list
}

func (g *Group) handlePurge(ctx context.Context, body []byte) ([]byte, error) {
	r := fulcrum.NewReader(body)
	list := readPairs(r)
	if err := r.Err(); err != nil || len(list) == 0 {
		return nil, g.malformed(fulcrum.ErrShort)
	}
	if _, ok := g.env.State.(Purger); !ok {
		return nil, g.errorf(fulcrum.CodeInvalid, "this replica's state cannot purge")
	}
	for i := range list {
		list[i].key = bytes.Clone(list[i].key)
	}
	it := &item{purge: list}
	if err := g.submit(it); err != nil {
		return nil, err
	}
	return nil, g.wait(ctx, it)
}

// writePurge logs and applies a purge. Only the store loop calls it. A key that was
// written since is left alone.
func (g *Group) writePurge(it *item) error {
	if g.fenced.Load() {
		return nil
	}
	var es []fulcrum.Entry
	for _, p := range it.purge {
		es = append(es, fulcrum.Entry{Key: p.key, Version: p.version, Tombstone: true})
	}
	index := g.env.Log.Last() + 1
	if err := g.env.Log.Append(index, [][]byte{appendRecord(nil, recordPurge, es)}); err != nil {
		return diskErr("append to the log", err)
	}
	g.lastIndex.Store(index)
	return g.applyPurge(index, es)
}

func (g *Group) applyPurge(index uint64, es []fulcrum.Entry) error {
	purger, ok := g.env.State.(Purger)
	if !ok {
		return g.env.State.Apply(index, nil, nil)
	}
	var keys [][]byte
	for _, e := range es {
		cur, err := g.env.State.Get(e.Key)
		if err != nil {
			return diskErr("get", err)
		}
		if cur.Version != e.Version {
			continue
		}
		keys = append(keys, e.Key)
		b, key := bucketOf(e.Key)
		g.mu.Lock()
		g.digest[b] ^= digestOf(key, cur)
		g.mu.Unlock()
	}
	if err := purger.Purge(keys, index); err != nil {
		return diskErr("purge", err)
	}
	return nil
}
