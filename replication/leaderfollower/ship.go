package leaderfollower

import (
	"context"
	"slices"
	"time"

	"fulcrum"
)

// peer is one follower.
type peer struct {
	id   fulcrum.NodeID
	kick chan struct{}
	standing
}

// standing is what a leader knows of a follower. Group's mu guards it.
type standing struct {
	match     uint64    // holds the leader's log up to here, durably
	next      uint64    // the next record to send
	told      uint64    // the commit index that it was last told
	answered  time.Time // its last answer
	failingAt time.Time // when the calls began to fail; zero: they do not
	needState bool
	poked     bool   // somebody waits for its next answer
	echo      uint64 // its clock, and its life, from its last answer
	nonce     uint64
}

// begin forgets what an earlier leadership knew, which a follower may since have
// truncated. It counts as in sync until it has had time to answer.
func (p *peer) begin(last uint64) {
	p.standing = standing{next: last + 1, answered: time.Now()}
}

func (p *peer) failing() bool {
	return !p.failingAt.IsZero() && time.Since(p.failingAt) > failingAfter
}

// inSync says whether a write at all waits for p.
func (p *peer) inSync(last uint64) bool {
	return time.Since(p.answered) <= inSyncSilence && !p.needState && p.match+inSyncLag >= last
}

// ship keeps one follower up to date while this replica leads, with one message
// under way at a time: what is appended meanwhile forms the next.
func (g *Group) ship(ctx context.Context, p *peer) error {
	timer := time.NewTimer(g.opt.Heartbeat)
	defer timer.Stop()
	var retry time.Duration
	for {
		g.mu.Lock()
		term := g.leading
		idle := p.next > g.hist.last && p.told >= g.commit && !p.needState && !p.poked
		g.mu.Unlock()
		if term == 0 {
			timer.Stop()
			retry = 0
			select {
			case <-ctx.Done():
				return nil
			case <-p.kick:
				continue
			}
		}
		if idle || retry > 0 {
			pause := fulcrum.UntilBeat(time.Now(), g.opt.Heartbeat) // together with other groups
			if retry > 0 {
				pause = retry
			}
			timer.Reset(pause)
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			case <-wakeUnless(retry > 0, p.kick):
				continue
			}
		}
		if g.exchange(ctx, p, term) {
			retry = 0
		} else {
			retry = min(max(2*retry, 50*time.Millisecond), g.opt.Heartbeat)
		}
	}
}

// wakeUnless returns c, or while backing off a channel that never wakes.
func wakeUnless(backingOff bool, c chan struct{}) chan struct{} {
	if backingOff {
		return nil
	}
	return c
}

// exchange sends one message, or a whole snapshot, and takes in the answer.
func (g *Group) exchange(ctx context.Context, p *peer, term uint64) bool {
	m, ok, err := g.compose(p, term)
	if err != nil {
		return false
	}
	var a answer
	if ok {
		a, err = g.call(ctx, p, g.opt.CallTimeout, m.encode())
	} else {
		a, err = g.sendState(ctx, p, term)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leading != term {
		return true
	}
	if err != nil || a.verdict == outOfTerm {
		if p.failingAt.IsZero() {
			p.failingAt = time.Now()
		}
		g.progress()
		return false
	}
	p.answered, p.failingAt = time.Now(), time.Time{}
	p.echo, p.nonce = a.clock, a.nonce
	g.takeAnswer(p, m, a)
	return a.verdict != restart
}

func (g *Group) call(ctx context.Context, p *peer, limit time.Duration, msg []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	b, err := g.env.Peers.Call(ctx, p.id, msg)
	if err != nil {
		return answer{}, err
	}
	return decodeAnswer(b)
}

// compose takes what p lacks, up to a bound; ok is false when only a snapshot can
// help. The echo is read under the same lock as the end of the log: what the
// follower then measures began before everything that last covers.
func (g *Group) compose(p *peer, term uint64) (m appendMsg, ok bool, err error) {
	lease := g.leaseHolds()
	g.mu.Lock()
	p.poked = false
	prev := p.next - 1
	prevTerm, known := g.hist.termAt(prev)
	if !known || p.needState || g.leading != term {
		g.mu.Unlock()
		return m, false, nil
	}
	m = appendMsg{term: term, prevIndex: prev, prevTerm: prevTerm, commit: g.commit, last: g.hist.last}
	if lease {
		m.echo, m.nonce = p.echo, p.nonce
	}
	hi := min(g.hist.last, prev+batchRecords)
	g.mu.Unlock()
	records, err := g.someRecords(prev+1, hi, batchBytes)
	if err != nil { // compacted away meanwhile: the next round sees that
		return m, false, err
	}
	size := 0
	for i, r := range records {
		if size += len(r.raw); size > batchBytes && i > 0 {
			records = records[:i]
			break
		}
	}
	m.records = records
	return m, true, nil
}

// takeAnswer moves p by its answer to m. The caller holds mu.
func (g *Group) takeAnswer(p *peer, m appendMsg, a answer) {
	switch a.verdict {
	case accepted:
		p.needState = false
		p.match = max(p.match, min(a.at, g.hist.last))
		p.next = p.match + 1
		p.told = max(p.told, min(m.commit, p.match))
		g.advanceCommit()
	case mismatch:
		p.next = max(1, min(p.next-1, a.at+1))
	case needState:
		p.needState = true
	}
	g.progress()
}

// advanceCommit commits what a majority has, once it includes a record of this
// term (invariant 4). The caller holds mu.
func (g *Group) advanceCommit() {
	if g.leading == 0 {
		return
	}
	matches := []uint64{g.hist.last}
	for _, p := range g.peers {
		matches = append(matches, p.match)
	}
	slices.Sort(matches)
	index := matches[len(matches)-g.majority]
	if term, ok := g.hist.termAt(index); index <= g.commit || !ok || term != g.leading {
		return
	}
	g.commit = index
	kick(g.applyKick)
	for _, p := range g.peers {
		kick(p.kick)
	}
	g.progress()
}
