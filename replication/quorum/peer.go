package quorum

import (
	"context"
	"errors"
	"time"

	"fulcrum"
)

// peer is what this replica knows of another one. Group.mu guards it.
type peer struct {
	at   int // place in Env.Replicas
	id   fulcrum.NodeID
	wake chan struct{} // wakes peerLoop

	heard      time.Time // when it last answered; zero: never
	down       bool      // its last call failed, and it has not answered since
	catchingUp bool      // it must not be read from
	refusesUs  bool      // it says that our clock is too far ahead
	wantSync   bool      // compare with it soon
	hints      map[string]fulcrum.Version
	pulled     bool // since Open, all that it held was pulled
	pulledGood bool // and it was not catching up itself
}

func newPeer(at int, id fulcrum.NodeID) *peer {
	return &peer{at: at, id: id, wake: make(chan struct{}, 1), hints: map[string]fulcrum.Version{}}
}

func (g *Group) peerOf(id fulcrum.NodeID) *peer {
	for _, p := range g.peers {
		if p != nil && p.id == id {
			return p
		}
	}
	return nil
}

// hintCatchingUp is the Hint of the CodeUnavailable by which a replica that is
// catching up refuses reads: it is alive all the same. hintClock is that of the
// CodeInvalid by which a replica refuses versions of a clock too far ahead.
const (
	hintCatchingUp = "the replica is catching up: ask another"
	hintClock      = "check the clock of the node that wrote"
)

// call asks p and notes what its answer, or silence, says about it.
func (g *Group) call(ctx context.Context, p *peer, msg []byte) ([]byte, error) {
	begin := time.Now()
	reply, err := g.env.Peers.Call(ctx, p.id, msg)
	if err != nil && ctx.Err() != nil && time.Since(begin) < g.opt.ReplicaTimeout {
		return nil, err // the caller gave up early: says nothing about p
	}
	g.note(p, begin, err)
	return reply, err
}

func (g *Group) note(p *peer, begin time.Time, err error) {
	var e *fulcrum.Error
	answered := err == nil
	if errors.As(err, &e) {
		answered = e.Code != fulcrum.CodeUnavailable || e.Hint == hintCatchingUp
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case e != nil && e.Code == fulcrum.CodeOverloaded: // refused before it got there, perhaps
	case answered:
		back := p.down || p.heard.IsZero()
		p.heard, p.down = time.Now(), false
		if e != nil && (e.Hint == hintCatchingUp || e.Hint == hintClock) {
			p.catchingUp = p.catchingUp || e.Hint == hintCatchingUp
			p.refusesUs = p.refusesUs || e.Hint == hintClock
			wake(p.wake)
		}
		if back {
			p.wantSync = true
			wake(p.wake)
			wake(g.syncKick)
		}
	case p.heard.Before(begin):
		if !p.down {
			p.down = true
			wake(p.wake)
		}
	}
}

// kickSync asks for a comparison with p soon.
func (g *Group) kickSync(p *peer) {
	g.mu.Lock()
	p.wantSync = true
	g.mu.Unlock()
	wake(g.syncKick)
}

// peerLoop pings p while it is down and delivers what it is owed when it answers.
// It sleeps while there is neither.
func (g *Group) peerLoop(ctx context.Context, p *peer) error {
	for ctx.Err() == nil {
		g.mu.Lock()
		ask := p.down || p.catchingUp || p.refusesUs
		_, all := p.hints[""]
		owed := len(p.hints) > 1 || len(p.hints) == 1 && !all
		g.mu.Unlock()
		switch {
		case ask && !g.ping(ctx, p):
			g.rest(ctx, p)
		case owed:
			if g.deliver(ctx, p) {
				continue
			}
			g.rest(ctx, p)
		case ask:
			g.rest(ctx, p) // alive, but catching up or at odds with our clock
		default:
			select {
			case <-p.wake:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// rest waits before p is tried again: less long when p itself calls meanwhile, but
// long enough that a link open in one direction only is not flooded.
func (g *Group) rest(ctx context.Context, p *peer) {
	pause(ctx, g.opt.ProbeEvery/8, nil)
	pause(ctx, g.opt.ProbeEvery*7/8, p.wake)
}

// ping asks p whether it is there, showing it our clock; true if it answered.
func (g *Group) ping(ctx context.Context, p *peer) bool {
	ctx, cancel := context.WithTimeout(ctx, g.opt.ReplicaTimeout)
	defer cancel()
	now := fulcrum.Version{Time: uint64(max(g.env.Now().UnixMilli(), 0)) << 16, Actor: g.env.Actor}
	reply, err := g.call(ctx, p, appendVersion([]byte{kindPing}, now))
	var e *fulcrum.Error
	if errors.As(err, &e) && e.Hint == hintClock {
		return true
	}
	if err != nil || len(reply) != 1 {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p.catchingUp = reply[0]&flagCatchingUp != 0
	p.refusesUs = false
	return true
}

// inReach returns the replicas believed to answer: this one, and those whose last
// call did not fail. For reads those that are catching up do not count; for writes
// those that refuse our clock do not. Fresh are those heard from since a moment.
func (g *Group) inReach(read bool, since time.Time) (reach, fresh set) {
	if !read || !g.catchingUp.Load() {
		reach = reach.with(g.topo.self)
	}
	fresh = reach
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, p := range g.peers {
		if p == nil || p.down || (read && p.catchingUp) || (!read && p.refusesUs) {
			continue
		}
		reach = reach.with(i)
		if !p.heard.Before(since) {
			fresh = fresh.with(i)
		}
	}
	return reach, fresh
}

// confirm makes sure, before anything is stored, that enough replicas to write are
// there, so that a refusal is definite. Those not heard from for a while are pinged.
func (g *Group) confirm(ctx context.Context, n need) error {
	if refusing := g.refusing(); refusing != 0 && g.scarce(n) {
		g.pingSome(ctx, n, n.scope()&refusing, 0) // their clocks may have been set since
	}
	since := time.Now().Add(-g.opt.FreshFor) // one moment for both looks: what was fresh before the pings still is
	reach, fresh := g.inReach(false, since)
	if n.met(fresh) {
		return nil
	}
	if n.met(reach) {
		g.pingSome(ctx, n, n.scope()&reach&^fresh, fresh)
		if _, reach = g.inReach(false, since); n.met(reach) {
			return nil
		}
	}
	return g.tooFew(n, reach)
}

// refusing returns the replicas that are there, and refused our clock.
func (g *Group) refusing() (who set) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, p := range g.peers {
		if p != nil && p.refusesUs && !p.down {
			who = who.with(i)
		}
	}
	return who
}

// scarce reports whether one replica more that refuses would leave too few.
func (g *Group) scarce(n need) bool {
	reach, _ := g.inReach(false, time.Time{})
	for i := range g.peers {
		if reach.has(i) && i != g.topo.self && !n.met(reach.without(i)) {
			return true
		}
	}
	return false
}

// pingSome pings the replicas of who at once, until fresh and those that answered
// meet n, or all have answered or timed out.
func (g *Group) pingSome(ctx context.Context, n need, who, fresh set) {
	answers := make(chan int, len(g.peers))
	waiting := 0
	for i, p := range g.peers {
		if who.has(i) && g.spawn(func(run context.Context) {
			if !g.ping(run, p) {
				answers <- -1
				return
			}
			answers <- i
		}) {
			waiting++
		}
	}
	for ; waiting > 0 && !n.met(fresh); waiting-- {
		select {
		case i := <-answers:
			if i >= 0 {
				fresh = fresh.with(i)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (g *Group) tooFew(n need, reach set) error {
	g.mu.Lock()
	var refuse []fulcrum.NodeID
	for _, p := range g.peers {
		if p != nil && p.refusesUs {
			refuse = append(refuse, p.id)
		}
	}
	g.mu.Unlock()
	if len(refuse) > 0 {
		return g.errorf(fulcrum.CodeUnavailable, "%s would take it: the clock of this node is too far ahead for %v; nothing was stored", n.shortfall(reach), refuse).
			WithHint(hintClock)
	}
	return g.errorf(fulcrum.CodeUnavailable, "%s in reach; nothing was stored", n.shortfall(reach)).
		WithHint("heal the network or use a lower level")
}
