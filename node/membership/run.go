package membership

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"fulcrum"

	"golang.org/x/sync/errgroup"
)

// Run looks for missing peers, pings silent members, spreads changed metadata
// and calls OnChange, until ctx ends or Close is called. It returns nil. A rejoin
// under way then may go on for memberlist's stream timeout (10 s), or until
// Close, which waits for it.
func (m *Membership) Run(ctx context.Context) error {
	select {
	case <-m.closing:
		return nil
	default:
	}
	m.running.Add(1)
	defer m.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer cancel() // Close ends the other loop too
		select {
		case <-m.closing:
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error { m.notify(ctx); return nil })
	g.Go(func() error { m.tend(ctx); return nil })
	return g.Wait()
}

// notify calls OnChange, once for changes that are close together.
func (m *Membership) notify(ctx context.Context) {
	for {
		select {
		case <-m.view.changed:
		case <-ctx.Done():
			return
		}
		if !pause(ctx, coalesceDelay) {
			return
		}
		select { // what changed during the pause is in Members too
		case <-m.view.changed:
		default:
		}
		if m.o.OnChange != nil {
			m.o.OnChange(m.Members())
		}
	}
}

// tend does once a tick whatever is due. Calls that wait for the network run in
// attempts of their own, at most one for each member and kind.
func (m *Membership) tend(ctx context.Context) {
	rejoins, pings := newAttempts(&m.running), newAttempts(&m.running)
	for {
		now := time.Now()
		for _, id := range m.view.missing(m.o.Peers()) {
			rejoins.start(id, now, jittered(rejoinEvery), func() { m.rejoin(id) })
		}
		for _, id := range m.view.quiet(now) {
			pings.start(id, now, tickEvery/2, func() { m.ping(id) })
		}
		if m.refreshMeta() {
			m.list.UpdateNode(leaveTimeout) // a timeout only means that it is still spreading
		}
		m.view.forget(now)
		if !pause(ctx, fulcrum.UntilBeat(time.Now(), tickEvery)) {
			return
		}
	}
}

// jittered spreads d by a quarter both ways, so that nodes cut off together do
// not come back in step.
func jittered(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2)
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// rejoin exchanges the whole state with a peer that memberlist gave up, or never
// met. What the two think of each other and of third nodes is settled by that:
// whoever is called dead by the other refutes it with a higher incarnation.
func (m *Membership) rejoin(id fulcrum.NodeID) {
	addr, ok := m.view.locate(id)
	if !ok {
		return
	}
	m.stats.rejoins.Inc()
	if _, err := m.list.Join([]string{string(id) + "/" + standIn(addr).String()}); err != nil {
		m.o.Logger.Debug("gossip: peer is still missing", "peer", id, "addr", addr, "err", err)
	}
}

// ping asks a silent member for a sign of life; the transport notes the answer.
func (m *Membership) ping(id fulcrum.NodeID) {
	if addr, ok := m.view.locate(id); ok {
		m.list.Ping(string(id), standIn(addr))
	}
}

// refreshMeta reads Options.Meta and reports whether it changed.
func (m *Membership) refreshMeta() bool {
	if m.o.Meta == nil {
		return false
	}
	meta := m.o.Meta()
	changed, fits := m.view.setMeta(meta)
	if !fits {
		m.o.Logger.Warn("gossip: metadata is too large, the old one stands", "bytes", len(meta), "limit", MetaLimit(m.o.Advertise))
	}
	return changed
}

// attempts runs one call for each member at a time, and maxAttempts in all.
// Only the goroutine that made it may use it; owner waits for the calls.
type attempts struct {
	owner *sync.WaitGroup
	done  chan fulcrum.NodeID // capacity maxAttempts: an attempt never waits to say it ended
	busy  map[fulcrum.NodeID]bool
	next  map[fulcrum.NodeID]time.Time // not before
}

func newAttempts(owner *sync.WaitGroup) *attempts {
	return &attempts{
		owner: owner,
		done:  make(chan fulcrum.NodeID, maxAttempts),
		busy:  map[fulcrum.NodeID]bool{},
		next:  map[fulcrum.NodeID]time.Time{},
	}
}

// start runs call unless one is under way for id, the last began less than its
// spacing ago, or too many are running.
func (a *attempts) start(id fulcrum.NodeID, now time.Time, spacing time.Duration, call func()) {
	for len(a.done) > 0 {
		delete(a.busy, <-a.done)
	}
	if a.busy[id] || len(a.busy) >= maxAttempts || now.Before(a.next[id]) {
		return
	}
	if len(a.next) >= 2*maxMembers { // peers come and go; forgetting a spacing only tries early
		clear(a.next)
	}
	a.busy[id], a.next[id] = true, now.Add(spacing)
	a.owner.Go(func() {
		call()
		a.done <- id
	})
}
