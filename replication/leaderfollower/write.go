package leaderfollower

import (
	"bytes"
	"context"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// pending is a request on its way: queued, then ordered, then finished.
type pending struct {
	req      replication.WriteRequest
	size     int64
	fence    bool
	ordered  bool // guarded by mu; from then on only the log decides
	finished bool // guarded by mu
	done     chan error
	term     uint64
	index    uint64
	effect   bool // index is its own record, not only the last that it saw
	results  []fulcrum.Result
	orElse   bool // a condition of the transaction did not hold
	acks     int
	needed   int
}

// finish hands the outcome to the request, once. The caller holds mu.
func (p *pending) finish(err error) {
	if !p.finished {
		p.finished = true
		p.done <- err
	}
}

// needs returns how many replicas level asks for; all is answered at the moment
// of asking. The caller holds mu.
func (g *Group) needs(level consistency.Level) (int, error) {
	switch level.Kind {
	case consistency.One:
		return 1, nil
	case consistency.Two:
		return 2, nil
	case consistency.Three:
		return 3, nil
	case consistency.QuorumOf, consistency.Default:
		return g.majority, nil
	case consistency.All:
		return max(g.majority, 1+g.inSync()), nil
	}
	return 0, g.refuse(fulcrum.CodeLevel, "leader-follower writes take the levels one, two, quorum, linearizable and all, not %s", level)
}

func (g *Group) inSync() (n int) {
	for _, p := range g.peers {
		if p.inSync(g.hist.last) {
			n++
		}
	}
	return n
}

// Write implements replication.Group.
func (g *Group) Write(ctx context.Context, req replication.WriteRequest) (replication.WriteReply, error) {
	ctx, cancel := contextWithin(ctx, 0)
	defer cancel()
	if req.ID != "" {
		return replication.WriteReply{}, g.refuse(fulcrum.CodeMode, "leader-follower mode keeps no request ids").
			WithHint("request ids are kept in raft keyspaces: use one, or send no id")
	}
	switch req.Level.Kind {
	case consistency.Default, consistency.Linearizable: // other names of quorum here, see the promise table
		req.Level = consistency.L(consistency.QuorumOf)
	}
	given := req.Level
	if mutant.On("lf-ack-before-quorum") {
		req.Level = consistency.L(consistency.One) // mutant: the leader's own log is enough
	}
	p, err := g.newPending(req)
	if err != nil {
		return replication.WriteReply{}, err
	}
	if err := g.contact(ctx, req.Level); err != nil {
		return replication.WriteReply{}, err
	}
	if err := g.submit(ctx, p); err != nil {
		return replication.WriteReply{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return replication.WriteReply{Results: p.results, Else: p.orElse, Outcome: replication.Outcome{
		Given: given, Leader: g.env.Node, Acks: p.acks, Needed: p.needed,
		Position: replication.Position{Term: p.term, Index: p.index},
	}}, nil
}

// newPending owns its bytes: the record may be ordered after the caller gave up.
func (g *Group) newPending(req replication.WriteRequest) (*pending, error) {
	if !req.Transaction() && (len(req.Writes) == 0 || len(req.Writes) > fulcrum.MaxOpsPerBatch) {
		return nil, g.refuse(fulcrum.CodeInvalid, "%d writes in one request, want 1 to %d", len(req.Writes), fulcrum.MaxOpsPerBatch)
	}
	if err := req.Check(g.env.MaxValue); err != nil {
		return nil, err
	}
	p := &pending{done: make(chan error, 1)}
	p.req = replication.WriteRequest{Atomic: req.Atomic, Divisible: req.Divisible, Level: req.Level, Writes: p.owned(req.Writes), Else: p.owned(req.Else)}
	for _, c := range req.If {
		c.Key, c.Value = bytes.Clone(c.Key), bytes.Clone(c.Value)
		p.req.If = append(p.req.If, c)
		p.size += int64(len(c.Key) + len(c.Value) + 64)
	}
	return p, nil
}

// owned copies writes and adds them to p's size.
func (p *pending) owned(writes []fulcrum.Write) []fulcrum.Write {
	if len(writes) == 0 {
		return nil
	}
	out := make([]fulcrum.Write, len(writes))
	for i, w := range writes {
		w.Key, w.Value, w.Expect = bytes.Clone(w.Key), bytes.Clone(w.Value), bytes.Clone(w.Expect)
		out[i] = w
		p.size += int64(len(w.Key) + len(w.Value) + len(w.Expect) + 64)
	}
	return out
}

// submit queues p and waits for its outcome. A request that was not yet ordered
// when ctx ended is taken back: it is definitely not done.
func (g *Group) submit(ctx context.Context, p *pending) error {
	g.mu.Lock()
	if err := g.admitWrite(p); err != nil {
		g.mu.Unlock()
		return err
	}
	g.queue = append(g.queue, p)
	g.queued += p.size
	g.mu.Unlock()
	kick(g.writeKick)
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.finished {
		return <-p.done
	}
	p.finished = true // nobody hears of it any more: it is never acknowledged
	if !p.ordered {
		for i, q := range g.queue {
			if q == p {
				g.queue = append(g.queue[:i], g.queue[i+1:]...)
				g.queued -= p.size
				break
			}
		}
		return g.refuse(fulcrum.CodeUnavailable, "the deadline passed before the write was ordered")
	}
	return g.refuse(fulcrum.CodeUnknown, "%d of %d replicas answered before the deadline", g.acksOf(p), p.needed)
}

// admitWrite refuses what cannot succeed before it is ordered. The caller holds mu.
func (g *Group) admitWrite(p *pending) error {
	if err := g.usable(); err != nil {
		return err
	}
	need, err := g.needs(p.req.Level)
	switch {
	case err != nil:
		return err
	case g.leading == 0:
		return g.notLeader()
	case !g.leaseHolds():
		return g.noLease()
	case p.fence:
		return nil
	case g.fenceAt != 0:
		return g.closed()
	case g.isDraining():
		return g.refuse(fulcrum.CodeNotLeader, "the leadership is being handed over")
	case len(g.queue) >= g.opt.MaxWaiting || g.queued+g.unapplied+p.size > g.opt.MaxUncommitted:
		return g.refuse(fulcrum.CodeOverloaded, "%d bytes wait for the followers of group %d", g.queued+g.unapplied, g.env.Group)
	}
	up := 1
	for _, peer := range g.peers {
		if !peer.failing() {
			up++
		}
	}
	if need > up {
		return g.refuse(fulcrum.CodeUnavailable, "%s needs %d replicas, %d of %d answer", p.req.Level, need, up, len(g.env.Replicas))
	}
	return nil
}

func (g *Group) drain()           { g.draining = time.Now().Add(handOverWait) }
func (g *Group) isDraining() bool { return time.Now().Before(g.draining) }

// sequence orders what is queued, in batches: what arrives while one batch is
// being synced forms the next.
func (g *Group) sequence(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.writeKick:
		}
		for more := true; more; {
			if g.logGate.enter(ctx) != nil {
				return nil
			}
			var err error
			more, err = g.orderBatch()
			g.logGate.leave()
			if err != nil {
				return err
			}
		}
	}
}

// takeBatch takes requests off the queue that may still be ordered.
func (g *Group) takeBatch() (batch []*pending, term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	lease, size, n := g.leaseHolds(), int64(0), 0
	for n < len(g.queue) && n < batchRecords && size < batchBytes {
		p := g.queue[n]
		n++
		g.queued -= p.size
		switch {
		case p.finished:
		case g.leading == 0:
			p.finish(g.notLeader())
		case !lease:
			p.finish(g.noLease())
		case p.fence:
			batch = append(batch, p)
		case g.fenceAt != 0:
			p.finish(g.closed())
		default:
			size += p.size
			batch = append(batch, p)
		}
	}
	clear(g.queue[:n])
	g.queue = g.queue[n:]
	for _, p := range batch {
		p.ordered = true
	}
	g.ordering = len(batch)
	return batch, g.leading
}

// orderBatch evaluates a batch over the State and the overlay, appends what it
// leaves behind, and lets each request wait for its level. The caller holds
// logGate, so the term cannot change in between.
func (g *Group) orderBatch() (more bool, err error) {
	batch, term := g.takeBatch()
	if len(batch) == 0 {
		return false, nil
	}
	ev := g.newEvaluation()
	var records []record
	for i, p := range batch {
		if ev.cost > batchCost { // one is over it at the most
			g.putBack(batch[i:])
			batch = batch[:i]
			break
		}
		rec, ok := ev.order(p, term)
		if ok {
			records = append(records, rec)
		}
		g.mu.Lock()
		p.term, p.effect, p.index = term, ok, ev.base+uint64(len(records))
		g.mu.Unlock()
	}
	err = g.extend(records)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ordering = 0
	for _, p := range batch {
		if err != nil {
			p.finish(g.refuse(fulcrum.CodeUnknown, "the log could not be written: %v", err))
		}
		g.watch(p)
	}
	return len(g.queue) > 0, err
}

// putBack queues requests again that were taken off, before all others.
func (g *Group) putBack(batch []*pending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range batch {
		p.ordered = false
		g.queued += p.size
	}
	g.queue = append(slices.Clone(batch), g.queue...)
	g.ordering -= len(batch)
}

// evaluation sees the State, the overlay and what its own batch has left so far.
type evaluation struct {
	g      *Group
	cost   int // of all its requests
	base   uint64
	fresh  map[string]fulcrum.Entry
	newest fulcrum.Version
	fenced bool
}

func (g *Group) newEvaluation() *evaluation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &evaluation{g: g, base: g.hist.last, fresh: map[string]fulcrum.Entry{}, newest: g.newest, fenced: g.fenceAt != 0}
}

func (ev *evaluation) get(key []byte) (fulcrum.Entry, error) {
	if e, ok := ev.fresh[string(key)]; ok {
		return e, nil
	}
	return ev.g.visible(key)
}

// visible returns what the leader's log leaves at key.
func (g *Group) visible(key []byte) (fulcrum.Entry, error) {
	g.mu.Lock()
	d, ok := g.overlay[string(key)]
	g.mu.Unlock()
	if ok {
		return d.entry, nil
	}
	return g.env.State.Get(key)
}

// order evaluates p; ok says that it leaves a record. A request behind a fence in
// the same batch leaves nothing and fails in watch.
func (ev *evaluation) order(p *pending, term uint64) (rec record, ok bool) {
	g := ev.g
	if p.fence {
		first := !ev.fenced
		ev.fenced = true
		return newRecord(kindFence, term, g.env.Node, nil), first
	}
	if ev.fenced {
		g.mu.Lock()
		p.finish(g.closed())
		g.mu.Unlock()
		return record{}, false
	}
	stamp := g.env.Clock.Next()
	if !ev.newest.Less(stamp) {
		stamp = fulcrum.Version{Time: ev.newest.Time + 1, Actor: g.env.Actor}
	}
	left, err := replication.Evaluate(p.req, ev.get, stamp, stamp.Wall().UnixMilli(), g.env.MaxValue, replication.Bounded)
	switch {
	case err != nil:
		err = g.refuse(fulcrum.CodeDisk, "read before write: %v", err)
	case left.Refused != nil:
		err = left.Refused
	}
	if err != nil {
		g.mu.Lock()
		p.finish(err)
		g.mu.Unlock()
		return record{}, false
	}
	ev.cost += left.Cost.Sum()
	p.results, p.orElse = left.Results, left.Else
	if len(left.Entries) == 0 {
		return record{}, false
	}
	ev.newest = later(ev.newest, left.Last)
	rec = newRecord(kindWrite, term, g.env.Node, left.Entries)
	for _, e := range rec.entries {
		ev.fresh[string(e.Key)] = e
		ev.newest = later(ev.newest, e.Version)
	}
	return rec, true
}

// extend appends records of the term led here, durably, and makes them known. The
// caller holds logGate. Followers are sent only what is durable here.
func (g *Group) extend(records []record) error {
	if len(records) == 0 {
		return nil
	}
	raws := make([][]byte, len(records))
	for i, r := range records {
		raws[i] = r.raw
	}
	g.mu.Lock()
	from := g.hist.last + 1
	g.mu.Unlock()
	begin := time.Now()
	if err := g.env.Log.Append(from, raws); err != nil {
		return g.diskError(err)
	}
	g.env.Metrics.Commit(time.Since(begin))
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, r := range records {
		g.hist.append(r)
		g.seen(r, from+uint64(i))
		g.cover(r, from+uint64(i))
	}
	g.leaderLast = g.hist.last
	g.advanceCommit()
	for _, p := range g.peers {
		kick(p.kick)
	}
	return nil
}

// watch lets p finish once its level is reached, or can no longer be. The caller
// holds mu.
func (g *Group) watch(p *pending) {
	if p.finished {
		return
	}
	p.needed, _ = g.needs(p.req.Level)
	g.wait(func() (bool, error) {
		if p.finished {
			return true, nil
		}
		done, err := g.reached(p)
		if done || err != nil {
			p.finish(err)
			return true, nil
		}
		return false, nil
	})
}

func (g *Group) acksOf(p *pending) int {
	n := 1
	for _, peer := range g.peers {
		if peer.match >= p.index {
			n++
		}
	}
	return n
}

// reached says whether p has the copies that its level promises. What is committed
// survives whoever leads; what is not may only be acknowledged while the lease
// holds, or a new leader could have answered without it. The caller holds mu.
func (g *Group) reached(p *pending) (bool, error) {
	if g.leading != p.term {
		if !p.effect {
			return false, g.refuse(fulcrum.CodeUnavailable, "the leader changed; the conditions had not held")
		}
		return false, g.refuse(fulcrum.CodeUnknown, "the leader changed before %d replicas answered", p.needed)
	}
	p.acks = g.acksOf(p)
	committed := g.commit >= p.index
	enough := p.acks >= p.needed
	switch p.req.Level.Kind {
	case consistency.QuorumOf, consistency.Default:
		enough = committed
	case consistency.All:
		p.needed = max(g.majority, 1+g.inSync())
		enough = committed && g.allInSyncHave(p.index)
	}
	if !enough {
		return false, nil
	}
	if !committed {
		if !g.leaseHolds() {
			return false, g.refuse(fulcrum.CodeUnknown, "the leader's liveness lease ran out while %d replicas had the write", p.acks)
		}
		if p.effect {
			g.weakAcks[p.index] = struct{}{}
		}
	}
	return true, nil
}

func (g *Group) allInSyncHave(index uint64) bool {
	for _, p := range g.peers {
		if p.match < index && p.inSync(g.hist.last) {
			return false
		}
	}
	return true
}

// contextWithin bounds ctx by d, or where d is 0 and it has no deadline, by the
// default of a request.
func contextWithin(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		if _, ok := ctx.Deadline(); ok {
			return ctx, func() {}
		}
		d = fulcrum.DefaultRequestLimit
	}
	return context.WithTimeout(ctx, d)
}
