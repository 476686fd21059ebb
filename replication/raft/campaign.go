package raft

import (
	"context"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// campaign makes this replica ask for an election at once when the log is at the
// epoch's starting point, instead of after a timeout that everybody waits for: the
// node names one replica for it, so that a new epoch has a leader within a round
// trip. It does what a leader that hands over does (TimeoutNow, Ongaro's thesis,
// section 3.10), which is safe at any time. First it waits until a majority has the
// epoch open: a candidate that asks too early waits a whole election timeout.
func (c *core) campaign(ctx context.Context, in *instance) {
	if _, based := c.snaps.current(); c.store.Last() > 1 || !based {
		return // without a configuration it would raise its term for nothing
	}
	end := time.Now().Add(2 * c.tuning.Election)
	for time.Now().Before(end) && ctx.Err() == nil {
		v := in.view.Load()
		voters := v.conf.Voters()
		switch {
		case v.Leader != "":
			return
		case v.Role == protocol.Follower && len(voters) > 0 && c.majorityOpen(ctx, voters):
			if !in.ask(ctx, func(r *protocol.Raft, now time.Time) { r.Campaign(now) }) {
				return
			}
		}
		pause(ctx, campaignPause)
	}
}

const (
	campaignPause = 10 * time.Millisecond
	probeLimit    = 200 * time.Millisecond
)

// majorityOpen reports whether a majority of voters, this one included, answers in
// this group and epoch. It asks for their term, which changes nothing.
func (c *core) majorityOpen(ctx context.Context, voters []fulcrum.NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	answers := make(chan bool, len(voters))
	var asks sync.WaitGroup
	defer asks.Wait()
	defer cancel()
	asked, open := 0, 1
	for _, id := range voters {
		if id == c.env.Node {
			continue
		}
		asked++
		asks.Go(func() {
			_, err := c.env.Peers.Call(ctx, id, question{}.encode())
			answers <- err == nil
		})
	}
	for ; asked > 0 && open <= len(voters)/2; asked-- {
		if <-answers {
			open++
		}
	}
	return open > len(voters)/2
}

// heardMajority reports whether enough of voters to make a majority with this
// replica have answered it within d.
func (p *peerTable) heardMajority(voters []fulcrum.NodeID, self fulcrum.NodeID, d time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	heard := 1
	for _, id := range voters {
		if e := p.seen[id]; id != self && e != nil && time.Since(e.heard) < d {
			heard++
		}
	}
	return heard > len(voters)/2
}

// freshContact is how recently a majority must have answered for a write to go into
// the log without asking first. An entry that a cut-off leader appends has an unknown
// outcome for ever; asking first makes that a definite refusal in all but a moment
// after the cut, at the price of a round trip on an idle group.
const freshContact = 50 * time.Millisecond

// contact returns nil if a majority answered just now, or does when asked.
func (c *core) contact(ctx context.Context, voters []fulcrum.NodeID) error {
	if c.peers.heardMajority(voters, c.env.Node, freshContact) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.tuning.LeaderLease)
	defer cancel()
	_, err := c.confirmRound(ctx, false)
	return err
}
