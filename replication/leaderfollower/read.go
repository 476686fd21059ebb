package leaderfollower

import (
	"bytes"
	"context"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
)

// admission is the leave to answer a read, and what must still hold afterwards.
type admission struct {
	level   consistency.Level
	overlay bool   // answer with what is ordered and not yet committed
	term    uint64 // the leadership that it rests on; 0: none
	lease   bool   // the lease must hold until the answer is complete
}

// admitRead waits until the level's promise can be kept here, or says who may keep it.
func (g *Group) admitRead(ctx context.Context, level consistency.Level, floor replication.Position) (admission, error) {
	if level.Kind == consistency.Default {
		level = consistency.L(consistency.Linearizable)
	}
	g.mu.Lock()
	err := g.usable()
	if err == nil && g.catchingUp {
		err = g.notLeader()
	}
	leading := g.leading
	g.mu.Unlock()
	if err != nil {
		return admission{}, err
	}
	a := admission{level: level}
	switch level.Kind {
	case consistency.One, consistency.LocalOne:
		a.overlay, a.term = leading != 0, leading
		return a, nil
	case consistency.Prefix:
		return a, nil
	case consistency.Session:
		return g.admitSession(ctx, a, floor)
	case consistency.Bounded:
		if leading == 0 {
			return a, g.provenFresh(level.Bound)
		}
		return g.admitLeader(ctx, a, true)
	case consistency.Lease:
		return g.admitLeader(ctx, a, false)
	case consistency.Linearizable:
		return g.admitLeader(ctx, a, true)
	}
	return a, g.refuse(fulcrum.CodeLevel, "leader-follower reads take the levels one, local_one, prefix, session, bounded:DURATION, lease and linearizable, not %s", level)
}

// provenFresh says whether everything that the leader had ordered bound ago is
// applied here. The proof is measured on this node's clock alone: fresh is when
// this replica sent an answer, which the leader had received before it noted the
// end of its log, which is applied by now.
func (g *Group) provenFresh(bound time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fenceAt != 0 {
		return g.closed()
	}
	if g.fresh.IsZero() || time.Since(g.fresh) > bound {
		return g.notLeader()
	}
	return nil
}

func (g *Group) closed() error {
	return g.refuse(fulcrum.CodeEpoch, "epoch %d of group %d is closed", g.env.Epoch, g.env.Group)
}

// admitLeader waits until what the leader had ordered (all), or committed, when the
// read arrived is applied, so that nothing of the answer is ever taken back.
func (g *Group) admitLeader(ctx context.Context, a admission, all bool) (admission, error) {
	g.mu.Lock()
	a.term, a.lease = g.leading, true
	target := max(g.commit, g.start)
	if all {
		target = g.hist.last
	}
	err := g.stillLeads(a)
	g.mu.Unlock()
	if err != nil {
		return a, err
	}
	err = g.await(ctx, func() (bool, error) {
		if err := g.stillLeads(a); err != nil {
			return false, err
		}
		return g.applied >= target, nil
	})
	if err != nil && ctx.Err() != nil {
		return a, g.refuse(fulcrum.CodeUnavailable, "earlier writes are not yet on a majority").
			WithHint("too few followers answer; a read at level one or prefix can be answered")
	}
	return a, err
}

// stillLeads checks what a leader's answer rests on. The caller holds mu.
func (g *Group) stillLeads(a admission) error {
	switch {
	case g.broken != nil || g.stopped:
		return g.usable()
	case g.leading == 0 || g.leading != a.term:
		return g.notLeader()
	case g.fenceAt != 0:
		return g.closed()
	case a.lease && !g.leaseHolds():
		return g.noLease()
	}
	return nil
}

// admitSession waits a moment for the floor, then sends the reader to the leader.
// The leader's overlay counts: a session sees its own writes at level one.
func (g *Group) admitSession(ctx context.Context, a admission, floor replication.Position) (admission, error) {
	short, cancel := contextWithin(ctx, sessionWait)
	defer cancel()
	err := g.await(short, func() (bool, error) {
		if err := g.usable(); err != nil {
			return false, err
		}
		if g.applied >= floor.Index {
			return true, nil
		}
		if g.leading != 0 && g.hist.last >= floor.Index && g.hist.lastTerm() >= floor.Term {
			a.overlay, a.term = true, g.leading
			return true, nil
		}
		return false, nil
	})
	if err == nil || short.Err() == nil {
		return a, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leading != 0 {
		return a, g.refuse(fulcrum.CodeUnavailable, "the session has seen position %d.%d, this log ends at %d.%d",
			floor.Term, floor.Index, g.hist.lastTerm(), g.hist.last)
	}
	return a, g.notLeader()
}

// confirm checks after the read what the admission rested on, and describes the
// answer. The position is taken after the read: it covers everything that the
// answer may show.
func (g *Group) confirm(a admission) (replication.Outcome, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a.lease {
		if err := g.stillLeads(a); err != nil {
			return replication.Outcome{}, err
		}
	} else if a.term != 0 && a.term != g.leading {
		return replication.Outcome{}, g.notLeader()
	}
	index := g.applied
	if a.overlay {
		index = g.hist.last
	}
	term, _ := g.hist.termAt(index)
	out := replication.Outcome{Given: a.level, Leader: g.leader, Acks: 1, Needed: 1, Staleness: -1,
		Position: replication.Position{Term: term, Index: index}}
	switch {
	case a.lease:
		out.Staleness, out.ClockBound = 0, g.opt.ClockBound
	case g.leading == 0 && !g.fresh.IsZero():
		out.Staleness = time.Since(g.fresh)
	}
	if a.level.Kind == consistency.Bounded && out.Staleness > a.level.Bound {
		return replication.Outcome{}, g.notLeader()
	}
	return out, nil
}

// Read implements replication.Group.
func (g *Group) Read(ctx context.Context, req replication.ReadRequest) (replication.ReadReply, error) {
	ctx, cancel := contextWithin(ctx, 0)
	defer cancel()
	a, err := g.admitRead(ctx, req.Level, req.Min)
	if err != nil {
		return replication.ReadReply{}, err
	}
	get := g.env.State.Get
	if a.overlay {
		get = g.visible
	}
	reply := replication.ReadReply{Entries: make([]fulcrum.Entry, 0, len(req.Keys))}
	size := 0
	for _, key := range req.Keys {
		if size > replication.MaxRead {
			break
		}
		e, err := get(key)
		if err != nil {
			return replication.ReadReply{}, g.refuse(fulcrum.CodeDisk, "read: %w", err)
		}
		reply.Entries = append(reply.Entries, e)
		size += len(e.Key) + len(e.Value)
	}
	if reply.Outcome, err = g.confirm(a); err != nil {
		return replication.ReadReply{}, err
	}
	return reply, nil
}

// Scan implements replication.Group.
func (g *Group) Scan(ctx context.Context, req replication.ScanRequest) (replication.ScanReply, error) {
	ctx, cancel := contextWithin(ctx, 0)
	defer cancel()
	a, err := g.admitRead(ctx, req.Level, req.Min)
	if err != nil {
		return replication.ScanReply{}, err
	}
	var over []fulcrum.Entry
	if a.overlay {
		over = g.overlaid(req.Start, req.End)
	}
	page, now := replication.PageOf(req), g.env.Now().UnixMilli()
	take := func(e fulcrum.Entry) bool { return !e.Live(now) || page.Take(e) }
	if err := g.merged(req.Start, req.End, over, take); err != nil {
		return replication.ScanReply{}, g.refuse(fulcrum.CodeDisk, "scan: %w", err)
	}
	reply := replication.ScanReply{Entries: page.Entries, More: page.More}
	if reply.Outcome, err = g.confirm(a); err != nil {
		return replication.ScanReply{}, err
	}
	return reply, nil
}

// overlaid returns the overlay's entries of a range, in order.
func (g *Group) overlaid(start, end []byte) (over []fulcrum.Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.overlay {
		if bytes.Compare(d.entry.Key, start) >= 0 && (end == nil || bytes.Compare(d.entry.Key, end) < 0) {
			over = append(over, d.entry)
		}
	}
	slices.SortFunc(over, func(x, y fulcrum.Entry) int { return bytes.Compare(x.Key, y.Key) })
	return over
}

// merged scans the State with over, sorted, laid on it. Records that were applied
// after over was taken are in the State already; the newer entry counts.
func (g *Group) merged(start, end []byte, over []fulcrum.Entry, take func(fulcrum.Entry) bool) error {
	going := true
	err := g.env.State.Scan(start, end, func(e fulcrum.Entry) bool {
		for len(over) > 0 && bytes.Compare(over[0].Key, e.Key) < 0 {
			if going = take(over[0]); !going {
				return false
			}
			over = over[1:]
		}
		if len(over) > 0 && bytes.Equal(over[0].Key, e.Key) {
			if e.Version.Less(over[0].Version) {
				e = over[0]
			}
			over = over[1:]
		}
		going = take(e)
		return going
	})
	for ; err == nil && going && len(over) > 0; over = over[1:] {
		going = take(over[0])
	}
	return err
}
