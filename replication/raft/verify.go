package raft

import (
	"context"
	"time"

	"fulcrum/replication/raft/protocol"
)

// verifyLeader is what hashicorp/raft's VerifyLeader does (v1.8.0, replication.go): a
// leader is taken for one when as many as a majority of voters answer heartbeats from now on. It
// counts those without a vote, and answers to heartbeats that were sent before. Only a
// mutant and tests call it: they show that a deposed leader passes, and reads old values.
func (c *core) verifyLeader(ctx context.Context, in *instance) error {
	ctx, cancel := context.WithTimeout(ctx, c.tuning.Election)
	defer cancel()
	begun := time.Now()
	voters := in.voters()
	in.post(event{run: func(r *protocol.Raft, _ time.Time) { r.Beat() }})
	for {
		if c.peers.heardSince(begun)+1 > len(voters)/2 {
			return nil
		}
		if !in.leads() {
			return c.notLeader("not the leader")
		}
		pause(ctx, time.Millisecond)
		if ctx.Err() != nil {
			return c.notLeader("no majority answered")
		}
	}
}

// heardSince counts those who answered since then.
func (p *peerTable) heardSince(at time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.seen {
		if !e.heard.Before(at) {
			n++
		}
	}
	return n
}
