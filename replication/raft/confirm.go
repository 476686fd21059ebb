package raft

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/mutant"
)

// The confirmation round makes a read of the leader's machine linearizable
// (Ongaro's thesis, section 6.4, without its heartbeats). hashicorp/raft's
// VerifyLeader is not enough: it counts non-voters, and answers to heartbeats that
// were sent before the read.
//
// A round belongs to the reads that had arrived when it began. The leader of term T
//  1. has passed a barrier in T, so its machine reflects everything that was
//     committed before it was elected;
//  2. asks every other voter of its latest configuration, in a call that begins
//     now, which term it is in;
//  3. goes on once a majority of voters, itself included, said exactly T.
//
// Why that is enough: let W be a write that was acknowledged before the read
// arrived, in term U. If U < T, W was committed when T began, and 1 covers it. If
// U = T, this leader acknowledged it, which it does after its machine applied it.
// U > T cannot be: the first leader of a term above T was elected by a majority of
// voters of this configuration or of one that differs from it by one server
// (configurations change one server at a time), and such majorities intersect ours.
// The voter in both had term > T, durably, from its vote on, and the vote came
// before W's acknowledgement, hence before the read, hence before the voter told us
// T: a contradiction, as terms never fall.
//
// The answer carries the question's nonce, so a late answer to an earlier round is
// never counted in this one (etcd#20418).

// waiter is one read that waits for a round.
type waiter struct {
	gone atomic.Bool       // nobody waits any more
	done chan confirmation // holds one
}

// confirmation is the outcome of a round.
type confirmation struct {
	term uint64
	acks int
	need int
	err  error
}

// confirm returns nil once a round that began after the call has proved that this
// replica was the leader, and its machine reflects everything committed before.
func (c *core) confirm(ctx context.Context) (confirmation, error) {
	if _, self := c.leader(); !self {
		return confirmation{}, c.notLeader("not the leader")
	}
	w := &waiter{done: make(chan confirmation, 1)}
	select {
	case c.reads <- w:
	default:
		return confirmation{}, fulcrum.Errorf(fulcrum.CodeOverloaded, "%d reads are waiting already", cap(c.reads))
	}
	if c.stopping.Load() {
		c.close()
	}
	select {
	case r := <-w.done:
		return r, r.err
	case <-ctx.Done():
		w.gone.Store(true)
		return confirmation{}, unavailable(c.env.Node, "no majority confirmed this leader before the deadline")
	}
}

// confirmLoop runs one round after the other while reads wait.
func (c *core) confirmLoop(ctx context.Context, in *instance) {
	var nonce uint64
	var waiting []*waiter
	for {
		if len(waiting) == 0 {
			select {
			case w := <-c.reads:
				waiting = append(waiting, w)
			case <-ctx.Done():
				return
			}
		}
		waiting = c.arrived(waiting)
		nonce++
		r, again := c.round(ctx, in, nonce)
		if again && ctx.Err() == nil {
			waiting = stillWaiting(waiting)
			continue
		}
		for _, w := range waiting {
			w.done <- r
		}
		clear(waiting)
		waiting = waiting[:0]
	}
}

// arrived adds the reads that came in meanwhile: the next round is for them, too.
func (c *core) arrived(ws []*waiter) []*waiter {
	for {
		select {
		case w := <-c.reads:
			ws = append(ws, w)
		default:
			return ws
		}
	}
}

func stillWaiting(ws []*waiter) []*waiter {
	kept := ws[:0]
	for _, w := range ws {
		if !w.gone.Load() {
			kept = append(kept, w)
		}
	}
	clear(ws[len(kept):])
	return kept
}

// round runs one round; again says that it proved nothing either way.
func (c *core) round(ctx context.Context, in *instance, nonce uint64) (r confirmation, again bool) {
	term := in.raft.CurrentTerm()
	if _, self := c.leading(in); !self {
		return confirmation{err: c.notLeader("not the leader any more")}, false
	}
	if err := c.barrier(in, term); err != nil || in.raft.CurrentTerm() != term {
		if ctx.Err() != nil {
			return confirmation{err: unavailable(c.env.Node, "this replica is stopping")}, false
		}
		return confirmation{err: c.notLeader("not the leader any more")}, false
	}
	voters := in.voters()
	need, got := len(voters)/2+1, 0
	if mutant.On("non-voter-counted") {
		voters = in.members() // mutant: asks those too whose word says nothing
	}
	asked := 0
	ctx, cancel := context.WithTimeout(ctx, c.tuning.RPC)
	defer cancel()
	var asks sync.WaitGroup
	answers := make(chan bool, len(voters))
	for _, id := range voters {
		if id == c.env.Node {
			continue
		}
		asked++
		asks.Go(func() { answers <- c.ask(ctx, id, nonce, term) })
	}
	if asked < len(voters) && in.raft.CurrentTerm() == term && !c.silent() {
		got++
	}
	for ; asked > 0 && got < need && got+asked >= need; asked-- {
		if <-answers {
			got++
		}
	}
	if got >= need {
		cancel()
		asks.Wait()
		return confirmation{term: term, acks: got, need: need}, false
	}
	if _, self := c.leading(in); in.raft.CurrentTerm() != term || !self {
		return confirmation{err: c.notLeader("not the leader any more")}, false
	}
	asks.Wait() // at the latest when ctx ends
	pause(ctx, 10*time.Millisecond)
	return confirmation{err: unavailable(c.env.Node, "this replica is stopping")}, true
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// ask reports whether a voter says that it is in exactly this term.
func (c *core) ask(ctx context.Context, id fulcrum.NodeID, nonce, term uint64) bool {
	b, err := c.env.Peers.Call(ctx, id, binary.AppendUvarint([]byte{msgConfirm}, nonce))
	if err != nil {
		return false
	}
	r, err := openReply(b)
	if err != nil {
		return false
	}
	echoed, current := r.Uvarint(), r.Uvarint()
	if finish(r) != nil || echoed != nonce || current != term {
		return false
	}
	c.peers.heard(id)
	return true
}
