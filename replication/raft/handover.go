package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// Leadership moves on purpose in two ways.
//
// handOver is the leader's own step: it stops proposing, waits until the heir holds the
// whole log, and tells it to ask for an election (Ongaro's thesis, 3.10). Nobody's write
// gets an unknown outcome: turn is free only while no entry of ours is under way, and
// what arrives meanwhile waits in the queue until the new leader is there, and is then
// sent to it. Every wait has an end: a heir that lags, or never answers, costs the
// hand-over and nothing else (compare hashicorp/raft#696).
//
// yield (stall.go) is the step of a guard beside a leader whose disk stands still.

// refused says that a replica takes no leadership now: it is retiring, or its disk
// is slow. It is a definite answer.
func refused(node fulcrum.NodeID, why string) *fulcrum.Error {
	return &fulcrum.Error{Code: fulcrum.CodeConflict, Node: node, Detail: "takes no leadership: " + why}
}

// fit returns why this replica should not lead; empty if it may.
func (c *core) fit() string {
	switch {
	case c.retiring.Load():
		return "the node is stopping"
	case c.store.disk.wary():
		return "its disk is slow"
	}
	return ""
}

// probe returns why this replica should not lead, having written a little to its log's
// disk: what a disk did a moment ago says little.
func (c *core) probe(in *instance) string {
	if why := c.fit(); why != "" {
		return why
	}
	done := make(chan error, 1)
	running := in.spawn(func() {
		defer c.store.disk.begin()()
		done <- c.env.Log.SetMeta(map[string][]byte{metaProbe: {1}})
	})
	if !running {
		return "the node is stopping"
	}
	t := time.NewTimer(c.tuning.Stall / 4)
	defer t.Stop()
	select {
	case err := <-done:
		if err != nil {
			return "its disk: " + err.Error()
		}
		return ""
	case <-t.C:
		return "its disk is slow"
	}
}

// retire makes this replica ask for no election any more, and refuse leadership that
// others hand to it. It may still be elected by a vote that is under way: then it hands
// over again.
func (c *core) retire() { c.retiring.Store(true) }

// handOver gives the leadership to a voter, the most up to date one of those that answer
// if none is named. A heir that refuses is not asked again.
func (c *core) handOver(ctx context.Context, to fulcrum.NodeID) error {
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return unavailable(c.env.Node, "an entry is under way: %v", ctx.Err())
	}
	asked := map[fulcrum.NodeID]bool{}
	var last error
	for {
		in := c.instance.Load()
		if in == nil || !in.leads() {
			return nil
		}
		id := to
		if id == "" {
			id = c.peers.heir(in.voters(), c.env.Node, c.tuning.Election, asked)
		}
		if to != "" && !slices.Contains(in.voters(), to) {
			return refused(to, "it has no vote")
		}
		if id == "" {
			if last == nil { // nobody was asked
				return unavailable(c.env.Node, "no other voter has answered lately")
			}
			return unavailable(c.env.Node, "no other voter takes the leadership: %v", last)
		}
		if last = c.transfer(ctx, in, id); last == nil || !in.leads() {
			return nil
		}
		if to != "" {
			return unavailable(c.env.Node, "%s did not take the leadership: %v", to, last)
		}
		if errors.Is(last, fulcrum.ErrConflict) {
			asked[id] = true
		}
		select {
		case <-ctx.Done():
			return unavailable(c.env.Node, "the leadership was not taken over: %v", last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// transfer gives the leadership to id. The caller has the turn.
func (c *core) transfer(ctx context.Context, in *instance, id fulcrum.NodeID) error {
	if err := c.levels(ctx, in, id); err != nil {
		return err
	}
	defer c.leases.pause()()
	if err := in.timeoutNow(id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.tuning.Election)
	defer cancel()
	for {
		elected := c.elected.wait()
		if !in.leads() {
			return nil
		}
		select {
		case <-elected:
		case <-in.ctx.Done():
			return errStopping
		case <-ctx.Done():
			return fmt.Errorf("%s was not elected: %w", id, ctx.Err())
		}
	}
}

// timeoutNow makes id ask for an election at once, with this leader's leave. Every lease
// is given up before the message leaves.
func (in *instance) timeoutNow(id fulcrum.NodeID) error {
	off := in.core.leases.giveUp(in.core)
	if in.core.silent() {
		return errStopping
	}
	b, err := in.wait(id, in.core.tuning.RPC, off.append([]byte{msgTimeoutNow}))
	if err == nil {
		_, err = openReply(b)
	}
	return err
}

// levels waits until id is known to hold the whole log.
func (c *core) levels(ctx context.Context, in *instance, id fulcrum.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, c.tuning.Election)
	defer cancel()
	for {
		last, match := c.store.Last(), c.peers.matchOf(id)
		if match >= last {
			return nil
		}
		if !in.leads() {
			return protocol.ErrNotLeader
		}
		pause(ctx, 5*time.Millisecond)
		if ctx.Err() != nil {
			return fmt.Errorf("%s is at %d of %d", id, match, last)
		}
	}
}
