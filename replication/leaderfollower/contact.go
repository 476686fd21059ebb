package leaderfollower

import (
	"context"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// A record that a leader appends and then cannot copy has an unknown outcome. So
// before it orders a write that needs others, a leader that has not heard from enough
// of them just now asks whether they are there; if not, the write is refused, and
// definitely not done. Only a cut in the moment between leaves an unknown outcome.
// On a busy group the answers to what is shipped anyhow are recent enough.
const (
	freshContact = 50 * time.Millisecond
	contactLimit = 300 * time.Millisecond
	contactPace  = time.Millisecond
)

// contact returns nil if enough followers for level answered within freshContact, or
// answer now; also if this replica does not lead, which admitWrite tells better.
func (g *Group) contact(ctx context.Context, level consistency.Level) error {
	g.mu.Lock()
	need, err := g.needs(level)
	if level.Kind == consistency.All {
		need = g.majority
	}
	if err != nil || g.leading == 0 || 1+g.answeredSince(time.Now().Add(-freshContact)) >= need {
		g.mu.Unlock()
		return nil
	}
	for _, p := range g.peers {
		p.poked = true
		kick(p.kick)
	}
	g.mu.Unlock()

	began := time.Now()
	tick := time.NewTicker(contactPace)
	defer tick.Stop()
	for time.Since(began) < contactLimit {
		select {
		case <-ctx.Done():
			return g.refuse(fulcrum.CodeUnavailable, "the deadline passed before enough replicas answered")
		case <-tick.C:
		}
		g.mu.Lock()
		enough := g.leading == 0 || 1+g.answeredSince(began) >= need
		g.mu.Unlock()
		if enough {
			return nil
		}
	}
	g.mu.Lock()
	got := 1 + g.answeredSince(began)
	g.mu.Unlock()
	return g.refuse(fulcrum.CodeUnavailable, "%d of the %d replicas needed answer; nothing was stored", got, need).
		WithHint("heal the network, start the nodes that are down, or write at a lower level")
}

// answeredSince counts the followers that answered at or after t. The caller holds mu.
func (g *Group) answeredSince(t time.Time) (n int) {
	for _, p := range g.peers {
		if !p.answered.Before(t) {
			n++
		}
	}
	return n
}
