package leaderfollower

import (
	"context"
	"slices"
	"time"

	"fulcrum"
)

// Handle implements replication.Group: the follower's side of ship.go.
func (g *Group) Handle(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	if from == g.env.Node || !slices.Contains(g.env.Replicas, from) {
		return nil, g.refuse(fulcrum.CodeInvalid, "%s is no other replica of group %d", from, g.env.Group)
	}
	ctx, cancel := contextWithin(ctx, 0)
	defer cancel()
	r := fulcrum.NewReader(msg)
	var a answer
	switch kind := r.Byte(); kind {
	case msgAppend:
		m, err := decodeAppend(r)
		if err != nil {
			return nil, g.refuse(fulcrum.CodeInvalid, "append from %s: %w", from, err)
		}
		if a, err = g.takeAppend(ctx, from, m); err != nil {
			return nil, err
		}
	case msgChunk:
		m, err := decodeChunk(r)
		if err != nil {
			return nil, g.refuse(fulcrum.CodeInvalid, "snapshot from %s: %w", from, err)
		}
		if a, err = g.takeChunk(ctx, from, m); err != nil {
			return nil, err
		}
	default:
		return nil, g.refuse(fulcrum.CodeInvalid, "message of kind %d from %s", kind, from)
	}
	g.mu.Lock()
	a.promised = g.promised
	g.mu.Unlock()
	a.nonce, a.clock = g.nonce, max(1, uint64(time.Since(g.started)))
	return a.encode(), nil
}

// takeAppend follows a leader's message. It answers accepted only for what is
// durable here and equal to the leader's log (invariants 1 and 3).
func (g *Group) takeAppend(ctx context.Context, from fulcrum.NodeID, m appendMsg) (answer, error) {
	if err := g.logGate.enter(ctx); err != nil {
		return answer{}, g.refuse(fulcrum.CodeUnavailable, "the log is busy")
	}
	defer g.logGate.leave()
	if ok, err := g.acceptTerm(from, m.term); err != nil || !ok {
		return answer{verdict: outOfTerm}, err
	}
	g.mu.Lock()
	g.leaderLast = m.last
	if g.catchingUp {
		g.mu.Unlock()
		return answer{verdict: needState}, nil
	}
	if a, ok := g.matchPrev(m); !ok {
		g.mu.Unlock()
		return a, nil
	}
	g.mu.Unlock()
	if err := g.store(m); err != nil {
		return answer{}, err
	}
	match := m.prevIndex + uint64(len(m.records))
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := min(m.commit, match); c > g.commit {
		g.commit = c
		kick(g.applyKick)
	}
	if m.nonce == g.nonce && m.echo > 0 {
		g.addMark(m.last, g.started.Add(time.Duration(m.echo)))
	}
	g.progress()
	return answer{verdict: accepted, at: match}, nil
}

// acceptTerm says whether a message of term may be followed, and follows its
// sender. The caller holds logGate.
func (g *Group) acceptTerm(from fulcrum.NodeID, term uint64) (bool, error) {
	g.mu.Lock()
	err := g.usable()
	refused := term < g.promised || (term == g.promised && g.leading == term)
	g.mu.Unlock()
	if err != nil || refused {
		return false, err
	}
	if err := g.promise(term); err != nil {
		return false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leading != 0 {
		g.stepDown(from)
	}
	g.leader = from
	return true, nil
}

// matchPrev says whether m follows something that stands here; if not, where the
// leader should try next. What is committed here the leader has too, so a message
// that begins below the base needs only its later part. The caller holds mu.
func (g *Group) matchPrev(m appendMsg) (answer, bool) {
	if m.prevIndex <= g.commit {
		return answer{}, true
	}
	term, ok := g.hist.termAt(m.prevIndex)
	switch {
	case !ok:
		return answer{verdict: mismatch, at: g.hist.last}, false
	case term != m.prevTerm:
		return answer{verdict: mismatch, at: max(g.commit, g.hist.runStart(m.prevIndex)-1)}, false
	}
	return answer{}, true
}

// store makes the log equal to the leader's up to m's last record. The caller
// holds logGate.
func (g *Group) store(m appendMsg) error {
	index, records := m.prevIndex+1, m.records
	g.mu.Lock()
	for len(records) > 0 && index <= g.hist.last {
		term, ok := g.hist.termAt(index)
		if index > g.commit && (!ok || term != records[0].term) {
			break
		}
		index, records = index+1, records[1:]
	}
	last, commit := g.hist.last, g.commit
	g.mu.Unlock()
	if len(records) == 0 {
		return nil
	}
	if index <= commit || index > last+1 {
		return g.refuse(fulcrum.CodeInternal, "record %d arrives at a log that ends at %d, committed up to %d", index, last, commit)
	}
	if index <= last {
		if err := g.truncate(index); err != nil {
			return err
		}
	}
	raws := make([][]byte, len(records))
	for i, r := range records {
		raws[i] = r.raw
	}
	begin := time.Now()
	if err := g.env.Log.Append(index, raws); err != nil {
		return g.diskError(err)
	}
	g.env.Metrics.Commit(time.Since(begin))
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, r := range records {
		g.hist.append(r)
		g.seen(r, index+uint64(i))
	}
	return nil
}

// truncate removes the tail from index on, which a later term has superseded,
// after keeping what this replica had acknowledged of it. The caller holds logGate.
func (g *Group) truncate(index uint64) error {
	g.mu.Lock()
	last := g.hist.last
	g.mu.Unlock()
	tail, err := g.records(index, last)
	if err != nil {
		return g.diskError(err)
	}
	if err := g.keepLost(g.lostOf(index, tail)); err != nil {
		return g.diskError(err)
	}
	if err := g.env.Log.TruncateAfter(index - 1); err != nil {
		return g.diskError(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hist.truncateAfter(index - 1)
	g.openLast = min(g.openLast, index-1)
	if g.fenceAt >= index {
		g.fenceAt, g.fenceTerm = 0, 0
	}
	for i := range tail {
		delete(g.weakAcks, index+uint64(i))
	}
	return nil
}
