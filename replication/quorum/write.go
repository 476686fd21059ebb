package quorum

import (
	"context"
	"errors"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// Write stamps the writes, sends them to every replica at once and waits for as
// many as the level needs; see replication.Group.
//
// Only Blind writes are taken, and Atomic only of one: replicas do not agree on
// what stood before, so a condition would be decided differently by each.
//
// Outcomes. Before anything is stored, enough replicas must have answered
// lately (confirm): else CodeUnavailable, definite. Afterwards what was stored stays:
// too few acknowledgements are CodeUnknown. Where replicas answered that the epoch
// is closed it is CodeEpoch, and then, if anything was sent, WriteReply.Results hold
// the stamped entries beside the error, without values that the writes say nobody needs:
// the caller must send exactly those again in the next epoch, as fulcrum.MergeOf(Entry),
// or answer "unknown". Merging twice changes nothing, so the write takes effect once.
//
// Result.Old is what this replica knew, which may be stale.
func (g *Group) Write(ctx context.Context, req replication.WriteRequest) (replication.WriteReply, error) {
	ctx, cancel := deadline(ctx)
	defer cancel()
	n, err := g.admit(ctx, req)
	if err != nil {
		return replication.WriteReply{}, err
	}
	if err := g.confirm(ctx, n); err != nil {
		return replication.WriteReply{}, err
	}
	var floors []fulcrum.Version
	if req.Level.Kind == consistency.Linearizable {
		if floors, err = g.learn(ctx, n, req.Writes); err != nil {
			return replication.WriteReply{}, err
		}
	}
	entries, results, flags, err := g.stamp(req, floors)
	if err != nil {
		return replication.WriteReply{}, err
	}
	reply := replication.WriteReply{Results: results, Outcome: replication.Outcome{
		Given: given(req.Level), Needed: n.total(), Staleness: -1, Position: newestOf(entries)}}
	acks, hinted, err := g.replicate(ctx, n, flags, entries)
	reply.Outcome.Acks, reply.Outcome.Hinted = acks.len(), hinted
	if err != nil {
		if errors.Is(err, fulcrum.ErrEpoch) {
			for i, w := range req.Writes[:len(results)] {
				if w.Op == fulcrum.OpMerge {
					results[i].Entry = mergeEntry(w)
				}
			}
			return replication.WriteReply{Results: results}, err
		}
		return replication.WriteReply{}, err
	}
	return reply, nil
}

// admit refuses what this mode does not do, before anything happens.
func (g *Group) admit(ctx context.Context, req replication.WriteRequest) (need, error) {
	if err := g.ready(ctx); err != nil {
		return need{}, err
	}
	if g.fenced.Load() {
		return need{}, g.errFenced()
	}
	const other = "use a keyspace in mode raft or leader-follower"
	switch {
	case req.ID != "":
		return need{}, g.errorf(fulcrum.CodeMode, "quorum mode keeps no request ids").
			WithHint("request ids are kept in raft keyspaces: use one, or send no id")
	case req.Transaction():
		return need{}, g.errorf(fulcrum.CodeMode, "quorum mode has no transactions: nobody orders the writes").WithHint(other)
	}
	if req.Atomic && len(req.Writes) > 1 {
		return need{}, g.errorf(fulcrum.CodeMode, "quorum mode cannot apply %d writes as one", len(req.Writes)).WithHint(other)
	}
	if len(req.Writes) == 0 {
		return need{}, g.errorf(fulcrum.CodeInvalid, "no writes")
	}
	for _, w := range req.Writes {
		if err := w.Check(g.env.MaxValue); err != nil {
			e := *fulcrum.AsError(err)
			e.Node = g.env.Node
			return need{}, &e
		}
		if !w.Blind() {
			return need{}, g.errorf(fulcrum.CodeMode, "quorum mode cannot read and write a key in one step").WithHint(other)
		}
	}
	n, err := g.topo.writeNeed(req.Level)
	if err != nil {
		return need{}, err
	}
	return n, nil
}

// stamp gives every write its version and returns the entries to store, beside one
// result a write; fewer where the request is Divisible and its answer would be over
// replication.MaxAnswer. What it writes is no more than the request holds. floors, if not nil, are versions to stay above, one a write.
// Flags is flagRelay when a version is not this clock's own: then how far ahead it
// is says nothing about this node, and replicas take it as it is.
func (g *Group) stamp(req replication.WriteRequest, floors []fulcrum.Version) (entries []fulcrum.Entry, results []fulcrum.Result, flags byte, err error) {
	writes := req.Writes
	bounds := replication.Bounds{Answer: replication.MaxAnswer}
	var cost replication.Cost
	results = make([]fulcrum.Result, len(writes))
	entries = make([]fulcrum.Entry, 0, len(writes))
	last := make(map[string]fulcrum.Entry)
	for i, w := range writes {
		old, ok := last[string(w.Key)]
		if !ok {
			var err error
			if old, err = g.env.State.Get(w.Key); err != nil {
				return nil, nil, 0, g.errorf(fulcrum.CodeDisk, "get: %w", err)
			}
		}
		stamp, foreign := w.At, true
		if w.Op != fulcrum.OpMerge {
			floor := old.Version
			if floors != nil && floor.Less(floors[i]) {
				floor = floors[i]
			}
			stamp, foreign = g.stampAbove(w.Key, floor)
		}
		if foreign {
			flags = flagRelay
		}
		res, err := fulcrum.Evaluate(w, old, stamp, stamp.Wall().UnixMilli(), g.env.MaxValue)
		if err != nil { // admit has checked it: a blind write cannot fail
			return nil, nil, 0, g.errorf(fulcrum.CodeInternal, "evaluate: %w", err)
		}
		e := res.Entry
		res = w.Trim(res)
		if cost.Add(&w, &res); req.Divisible && i > 0 && !cost.Within(bounds) {
			return entries, results[:i], flags, nil
		}
		if !res.Applied { // a merge older than what stands here, perhaps not elsewhere
			e = mergeEntry(w)
		} else if len(writes) > 1 {
			last[string(w.Key)] = e
		}
		entries, results[i] = append(entries, e), res
	}
	return entries, results, flags, nil
}

// mergeEntry is the entry that an OpMerge carries.
func mergeEntry(w fulcrum.Write) fulcrum.Entry {
	return fulcrum.Entry{Key: w.Key, Value: w.Value, Version: w.At, Tombstone: w.Tombstone, ExpireAt: w.ExpireAt}
}

// maxForced is how many keys with a version ahead of the clock are remembered.
const maxForced = 4096

// stampAbove returns a version for key that is newer than floor. Normally that is
// the clock's next. Where floor is so far ahead that the clock refuses it, it is the
// version above floor, with this node's actor (forced): later writes at level linearizable, and
// those of replicas that have seen it, stay above it in turn.
//
// Such a version is remembered until the clock has passed it, so that this actor
// never makes one twice for a key; a restart forgets it, hence the random gap. When
// there are too many to remember, the newest stands for all.
func (g *Group) stampAbove(key []byte, floor fulcrum.Version) (v fulcrum.Version, forced bool) {
	if mutant.On("wall-clock") { // mutant: what the wall clock says, whatever was seen before
		g.mu.Lock()
		defer g.mu.Unlock()
		return fulcrum.Version{Time: uint64(max(g.env.Now().UnixMilli(), 0))<<16 | g.env.Rand.Uint64N(1<<16), Actor: g.env.Actor}, false
	}
	if !floor.IsZero() {
		_ = g.env.Clock.Observe(floor) // refused: handled below
	}
	v = g.env.Clock.Next()
	g.mu.Lock()
	defer g.mu.Unlock()
	if floor.Less(v) && len(g.forced) == 0 && g.forcedAll.Less(v) {
		return v, false // the usual case
	}
	if was := g.forced[string(key)]; floor.Less(was) {
		floor = was
	}
	if floor.Less(g.forcedAll) && v.Less(floor) {
		floor = g.forcedAll
	}
	if floor.Less(v) {
		delete(g.forced, string(key))
		return v, false
	}
	if len(g.forced) >= maxForced {
		for _, was := range g.forced {
			if g.forcedAll.Less(was) {
				g.forcedAll = was
			}
		}
		clear(g.forced)
		if floor.Less(g.forcedAll) {
			floor = g.forcedAll
		}
	}
	v = fulcrum.Version{Time: floor.Time + 1 + uint64(g.env.Rand.IntN(64)), Actor: g.env.Actor}
	g.forced[string(key)] = v
	return v, true
}

// learn is the first phase of a linearizable write (Attiya, Bar-Noy and Dolev
// 1995, for many writers): the newest version that a majority holds of each key.
//
// Any write or read that ended before this one began left its version on a
// majority, which meets this one: the version chosen above is newer than all
// of them, whatever the clocks say.
func (g *Group) learn(ctx context.Context, n need, writes []fulcrum.Write) ([]fulcrum.Version, error) {
	newest := fulcrum.Version{Time: 1<<64 - 1, Actor: 1<<32 - 1} // nothing is newer: send no values
	held := make([]pair, len(writes))
	for i, w := range writes {
		held[i] = pair{w.Key, newest}
	}
	own := make([]answer, len(writes))
	reach, _ := g.inReach(true, time.Time{})
	if reach.has(g.topo.self) {
		for i, w := range writes {
			e, err := g.env.State.Get(w.Key)
			if err != nil {
				return nil, g.errorf(fulcrum.CodeDisk, "get: %w", err)
			}
			own[i].version = e.Version
		}
	}
	replies, err := g.gatherReads(ctx, n, reach, held, own)
	if err != nil {
		return nil, err
	}
	floors := make([]fulcrum.Version, len(writes))
	for _, r := range replies {
		for i, a := range r.answers {
			if floors[i].Less(a.version) {
				floors[i] = a.version
			}
		}
	}
	return floors, nil
}

// ack is one replica's word on a store.
type ack struct {
	at  int
	err error
}

// replicate stores entries on every replica and returns once n is met. Replicas
// that are down get a hint in the same log record; one that is slow or fails gets
// it then. Those calls go on after replicate has returned.
func (g *Group) replicate(ctx context.Context, n need, flags byte, entries []fulcrum.Entry) (acked set, hinted int, err error) {
	own := &item{entries: entries}
	reach, _ := g.inReach(false, time.Time{})
	for _, p := range g.peers {
		if p != nil && !reach.has(p.at) {
			hinted++
			for _, e := range entries {
				own.marks = append(own.marks, mark{peer: p.at, key: string(e.Key), version: e.Version})
			}
		}
	}
	if err := g.submit(own); err != nil {
		return 0, 0, err // nothing was sent: definite
	}
	acks := make(chan ack, len(g.peers))
	pending := set(0).with(g.topo.self)
	self := g.topo.self
	if !g.spawn(func(run context.Context) { acks <- ack{self, g.wait(run, own)} }) {
		return 0, 0, g.errorf(fulcrum.CodeUnknown, "the replica is stopping")
	}
	msgs := storeMessages(flags, entries)
	for _, p := range g.peers {
		if p != nil && reach.has(p.at) && g.spawn(func(run context.Context) { acks <- ack{p.at, g.push(run, p, msgs, entries)} }) {
			pending = pending.with(p.at)
		}
	}
	acked, err = g.await(ctx, n, pending, acks)
	return acked, hinted, err
}

// await collects acks until n is met, or cannot be any more.
func (g *Group) await(ctx context.Context, n need, pending set, acks <-chan ack) (acked set, err error) {
	var epoch, other error
	for !n.met(acked) {
		if !n.met(acked | pending) {
			break
		}
		select {
		case a := <-acks:
			pending = pending.without(a.at)
			switch {
			case a.err == nil:
				acked = acked.with(a.at)
			case errors.Is(a.err, fulcrum.ErrEpoch):
				epoch = a.err
			default:
				other = a.err
			}
		case <-ctx.Done():
			pending = 0
			other = ctx.Err()
		}
	}
	if n.met(acked) {
		return acked, nil
	}
	if epoch != nil {
		return acked, epoch
	}
	return acked, g.errorf(fulcrum.CodeUnknown, "%s stored it in time; it may take effect later: %w", n.shortfall(acked), orSilent(other)).
		WithHint("read the key, or write it again")
}

// push sends the store messages to p. After ReplicaTimeout without an answer, or
// at an error, p is owed a hint.
func (g *Group) push(ctx context.Context, p *peer, msgs [][]byte, entries []fulcrum.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, g.opt.GiveUp)
	defer cancel()
	begin := time.Now()
	slow := time.AfterFunc(g.opt.ReplicaTimeout, func() {
		g.owe(p, entries)
		g.note(p, begin, context.DeadlineExceeded)
	})
	for _, msg := range msgs {
		if _, err := g.call(ctx, p, msg); err != nil {
			if slow.Stop() {
				g.owe(p, entries)
			}
			return err
		}
	}
	slow.Stop()
	return nil
}

// sendStore brings entries to p and waits for its word.
func (g *Group) sendStore(ctx context.Context, p *peer, flags byte, entries []fulcrum.Entry) error {
	for _, msg := range storeMessages(flags, entries) {
		if _, err := g.call(ctx, p, msg); err != nil {
			return err
		}
	}
	return nil
}

// given is what the receipt names: the default is quorum.
func given(l consistency.Level) consistency.Level {
	if l.Kind == consistency.Default {
		return consistency.L(consistency.QuorumOf)
	}
	return l
}

func newestOf(entries []fulcrum.Entry) (p replication.Position) {
	for _, e := range entries {
		p.Index = max(p.Index, e.Version.Time)
	}
	return p
}
