package leaderfollower

import (
	"context"
	"errors"
	"math"
	"time"

	"fulcrum"
)

// Promise is a replica's answer to a controller that wants a new leader. Compare
// (LastTerm, LastIndex) to find the longest log; LastTerm is not a catalog term
// and good for nothing else.
type Promise struct {
	LastTerm, LastIndex uint64
	Committed           uint64 // as far as this replica knows
}

// Less reports whether p's log is shorter than q's.
func (p Promise) Less(q Promise) bool {
	return p.LastTerm < q.LastTerm || (p.LastTerm == q.LastTerm && p.LastIndex < q.LastIndex)
}

// Promise makes this replica accept nothing of a term below term, durably, and
// returns how long its log is. A leader that promises a later term stops leading
// at once, so before the catalog assigns term, either the former leader has
// promised or its liveness lease has ended; and a majority of the replicas has
// promised. CodeConflict: a later term is promised already. CodeUnavailable: this
// replica has no base yet and must not count.
func (g *Group) Promise(ctx context.Context, term uint64) (Promise, error) {
	g.mu.Lock()
	if in := g.install; in != nil {
		in.cancel() // it holds the gates until its sender is done
	}
	g.mu.Unlock()
	if err := g.logGate.enter(ctx); err != nil {
		return Promise{}, g.refuse(fulcrum.CodeUnavailable, "no promise before the deadline")
	}
	defer g.logGate.leave()
	g.mu.Lock()
	err := g.usable()
	promised, catchingUp := g.promised, g.catchingUp
	g.mu.Unlock()
	switch {
	case err != nil:
		return Promise{}, err
	case catchingUp:
		return Promise{}, g.refuse(fulcrum.CodeUnavailable, "this replica is still receiving the shard")
	case promised>>lifeBits > term:
		return Promise{}, g.refuse(fulcrum.CodeConflict, "term %d is promised already", promised>>lifeBits)
	}
	if err := g.promise(firstLife(term)); err != nil {
		return Promise{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leading != 0 && g.leading < firstLife(term) {
		g.stepDown("")
	}
	return Promise{LastTerm: g.hist.lastTerm(), LastIndex: g.hist.last, Committed: g.commit}, nil
}

// promise raises promised to term (with life), durably first. The caller holds
// logGate.
func (g *Group) promise(term uint64) error {
	g.mu.Lock()
	known := g.promised
	g.mu.Unlock()
	if term <= known {
		return nil
	}
	if err := g.env.Log.SetMeta(map[string][]byte{metaPromised: putUint(term)}); err != nil {
		return g.diskError(err)
	}
	g.mu.Lock()
	g.promised = max(g.promised, term)
	g.mu.Unlock()
	return nil
}

// Lead tells the replica what the catalog says: leader leads in term. The node
// calls it at open and at each change; older terms are ignored, and so is a term
// below one that is promised. It never blocks: Run acts upon it.
func (g *Group) Lead(term uint64, leader fulcrum.NodeID) {
	g.mu.Lock()
	if term >= g.want.term {
		g.want = assignment{term, leader}
	}
	g.mu.Unlock()
	kick(g.leadKick)
}

// direct follows the catalog's assignments and cuts the log.
func (g *Group) direct(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.leadKick:
		}
		if g.logGate.enter(ctx) != nil {
			return nil
		}
		err := g.takeAssignment()
		if err == nil {
			err = g.compact()
		}
		g.logGate.leave()
		if err != nil {
			return err
		}
	}
}

// takeAssignment acts upon the newest Lead. The caller holds logGate.
func (g *Group) takeAssignment() error {
	g.mu.Lock()
	want, promised, leading, catchingUp := g.want, g.promised, g.leading, g.catchingUp
	g.mu.Unlock()
	switch {
	case want.term == 0, want.term < promised>>lifeBits:
		return nil
	case want.leader != g.env.Node:
		return g.follow(want)
	case leading>>lifeBits == want.term:
		return nil
	case catchingUp:
		g.env.Logger.Error("assigned to lead a shard that is not here yet", "group", g.env.Group, "term", want.term)
		return nil
	}
	return g.beginLead(want.term)
}

func (g *Group) follow(want assignment) error {
	if err := g.promise(firstLife(want.term)); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leading != 0 {
		g.stepDown(want.leader)
	}
	g.leader = want.leader
	g.progress()
	return nil
}

// beginLead starts the next life of term here. The caller holds logGate.
func (g *Group) beginLead(term uint64) error {
	g.mu.Lock()
	life := firstLife(term)
	if g.promised > life || g.led >= life {
		life = max(g.promised, g.led) + 1
	}
	from, last := g.applied, g.hist.last
	g.mu.Unlock()
	if life>>lifeBits != term {
		g.env.Logger.Error("too many lives in one term", "group", g.env.Group, "term", term)
		return nil
	}
	if err := g.env.Log.SetMeta(map[string][]byte{metaPromised: putUint(life), metaLed: putUint(life)}); err != nil {
		return g.diskError(err)
	}
	tail, err := g.records(from+1, last)
	if err != nil {
		return g.diskError(err)
	}
	g.mu.Lock()
	g.promised, g.led, g.leading, g.leader = life, life, life, g.env.Node
	g.start = last + 1
	g.overlay, g.unapplied = map[string]dirty{}, 0
	for i, r := range tail {
		g.cover(r, from+1+uint64(i))
	}
	for _, p := range g.peers {
		p.begin(last)
	}
	newest := g.newest
	g.mu.Unlock()
	if err := g.env.Clock.Observe(newest); err != nil {
		g.env.Logger.Warn("the shard holds versions ahead of the clock", "group", g.env.Group, "err", err)
	}
	g.env.Metrics.LeaderChange()
	return g.extend([]record{newRecord(kindNoop, life, g.env.Node, nil)})
}

// cover lays the entries of an ordered record over the State, unless they have
// been applied meanwhile. The caller holds mu.
func (g *Group) cover(r record, index uint64) {
	if index <= g.applied {
		return
	}
	g.unapplied += int64(len(r.raw))
	for _, e := range r.entries {
		g.overlay[string(e.Key)] = dirty{e, index}
	}
}

// stepDown ends a leadership: what waits for acknowledgement is failed as unknown
// and what is not yet ordered as not done. The State needs no repair, since
// nothing uncommitted was ever applied. The caller holds mu.
func (g *Group) stepDown(leader fulcrum.NodeID) {
	g.leading, g.leader = 0, leader
	g.overlay, g.unapplied = nil, 0
	g.draining, g.marks = time.Time{}, nil
	for _, p := range g.queue {
		p.finish(g.notLeader())
	}
	g.queue, g.queued = nil, 0
	g.progress()
}

var errEnough = errors.New("enough records")

// records returns lo..hi of the log, from memory where they are.
func (g *Group) records(lo, hi uint64) ([]record, error) {
	return g.someRecords(lo, hi, math.MaxInt)
}

// someRecords is records, but ends behind the first one with which they have more than
// most bytes.
func (g *Group) someRecords(lo, hi uint64, most int) ([]record, error) {
	var out []record
	size, whole := 0, true
	g.mu.Lock()
	for i := lo; i <= hi && size <= most; i++ {
		r, ok := g.hist.get(i)
		if whole = ok; !ok {
			break
		}
		out = append(out, r)
		size += len(r.raw)
	}
	g.mu.Unlock()
	if whole {
		return out, nil
	}
	out, size = out[:0], 0
	err := g.env.Log.Range(lo, hi, func(i uint64, raw []byte) error {
		if size > most {
			return errEnough
		}
		r, err := decodeRecord(append([]byte(nil), raw...))
		if err != nil {
			return fulcrum.Errorf(fulcrum.CodeDisk, "record %d: %w", i, err)
		}
		out = append(out, r)
		size += len(raw)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return out, err
}

// compact cuts the log behind what the State has durably, but for a tail for
// followers that were away. The caller holds logGate.
func (g *Group) compact() error {
	durable := g.env.State.Durable()
	g.mu.Lock()
	base, keep := g.hist.base, g.opt.KeepTail
	cut := min(durable, g.applied)
	if g.catchingUp || cut < base+2*keep {
		g.mu.Unlock()
		return nil
	}
	cut -= keep
	term, ok := g.hist.termAt(cut)
	g.mu.Unlock()
	if !ok {
		return nil
	}
	if err := g.env.Log.SetMeta(map[string][]byte{metaBase: putUint(cut, term)}); err != nil {
		return g.diskError(err)
	}
	if err := g.env.Log.TruncateBefore(cut + 1); err != nil {
		return g.diskError(err)
	}
	g.mu.Lock()
	g.hist.truncateBefore(cut + 1)
	g.mu.Unlock()
	return nil
}

// HandOver implements replication.Group. The catalog moves leaderships, so here it
// brings one follower level with the leader, taking no writes meanwhile and until
// the new assignment comes, one second at the most.
func (g *Group) HandOver(ctx context.Context) error {
	ctx, cancel := contextWithin(ctx, handOverWait)
	defer cancel()
	g.mu.Lock()
	term := g.leading
	if term == 0 {
		g.mu.Unlock()
		return nil
	}
	g.drain()
	g.mu.Unlock()
	err := g.await(ctx, func() (bool, error) {
		if g.leading != term || len(g.peers) == 0 {
			return true, nil
		}
		for _, p := range g.peers {
			if p.match >= g.hist.last && len(g.queue)+g.ordering == 0 {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		g.mu.Lock()
		g.draining = time.Time{}
		g.mu.Unlock()
		return g.refuse(fulcrum.CodeUnavailable, "no follower came level with %s in time", g.env.Node)
	}
	return nil
}
