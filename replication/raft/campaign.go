package raft

import (
	"context"
	"time"

	hraft "github.com/hashicorp/raft"

	"fulcrum"
)

// campaign makes this replica ask for an election at once when the log is at the
// epoch's starting point, instead of after a timeout that everybody waits for: the
// node names one replica for it, so that a new epoch has a leader within a round
// trip. It does what a leader that hands over does (TimeoutNow, Ongaro's thesis,
// section 3.10), which is safe at any time. The others may not have opened the epoch
// yet, so it tries again for as long as an ordinary election would have taken.
func (c *core) campaign(ctx context.Context, in *instance) {
	_, last := c.store.bounds()
	if _, based := c.snaps.current(); last > 1 || !based {
		return // without a configuration it would raise its term for nothing
	}
	end := time.Now().Add(2 * c.tuning.Election)
	for time.Now().Before(end) && ctx.Err() == nil {
		leader, _ := in.raft.LeaderWithID()
		switch {
		case leader != "":
			return
		case in.raft.State() == hraft.Follower:
			response := make(chan hraft.RPCResponse, 1)
			rpc := hraft.RPC{RespChan: response, Command: &hraft.TimeoutNowRequest{
				RPCHeader: header(c.env.Node)}}
			select {
			case in.trans.consumer <- rpc:
			case <-ctx.Done():
				return
			}
		}
		pause(ctx, campaignPause)
	}
}

const campaignPause = 60 * time.Millisecond

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
	_, err := c.confirm(ctx)
	return err
}
