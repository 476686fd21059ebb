package raft

import (
	"context"
	"fmt"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication/raft/protocol"
)

func unavailable(node fulcrum.NodeID, format string, args ...any) *fulcrum.Error {
	e := fulcrum.Errorf(fulcrum.CodeUnavailable, format, args...)
	e.Node = node
	return e
}

// take answers one message of a peer without waiting, now or later, if it is of the
// kinds that leaders send all the time; else it returns false, and handle is to be called.
func (c *core) take(from fulcrum.NodeID, msg []byte, answer func([]byte, error)) (taken bool) {
	in := c.instance.Load()
	if in == nil || c.silent() || len(msg) == 0 {
		return false
	}
	switch msg[0] {
	case msgAppend:
		in.takeAppend(from, fulcrum.NewReader(msg[1:]), answer)
	case msgPart:
		in.takePart(from, fulcrum.NewReader(msg[1:]), answer)
	case msgBeat:
		in.takeBeat(from, fulcrum.NewReader(msg[1:]), answer)
	case msgHello:
		in.takeHello(from, answer)
	case msgConfirm:
		answer(c.answerConfirm(in, from, fulcrum.NewReader(msg[1:])))
	case msgReadIndex:
		c.takeReadIndex(from, fulcrum.NewReader(msg[1:]), answer)
	default:
		return false
	}
	return true
}

func (in *instance) takeAppend(from fulcrum.NodeID, r *fulcrum.Reader, answer func([]byte, error)) {
	came := time.Now()
	m, err := decodeAppend(r)
	if err != nil {
		answer(nil, fulcrum.AsError(err))
		return
	}
	in.core.peers.leaderAt(from, max(m.Commit, m.Last()))
	in.core.succeeded(in, from, m.Term)
	var reply protocol.Reply
	taken := in.post(event{
		run:  func(r *protocol.Raft, now time.Time) { reply = r.Append(now, from, m) },
		done: func() { in.reply(reply, came, answer) },
	})
	if !taken {
		answer(nil, unavailable(in.core.env.Node, "too much waits for the log"))
	}
}

func (in *instance) takeBeat(from fulcrum.NodeID, r *fulcrum.Reader, answer func([]byte, error)) {
	came := time.Now()
	m, err := decodeBeat(r)
	if err != nil {
		answer(nil, fulcrum.AsError(err))
		return
	}
	in.beaten(from, m, came, answer)
}

// beaten takes in a leader's heartbeat.
func (in *instance) beaten(from fulcrum.NodeID, m protocol.Heartbeat, came time.Time, answer func([]byte, error)) {
	in.core.peers.leaderAt(from, m.Commit)
	in.core.succeeded(in, from, m.Term)
	var reply protocol.Reply
	taken := in.post(event{
		run:  func(r *protocol.Raft, now time.Time) { reply = r.Heartbeat(now, from, m) },
		done: func() { in.answer(reply, came, answer) },
	})
	if !taken {
		answer(nil, unavailable(in.core.env.Node, "too much waits for the log"))
	}
}

// takeHello answers a member that has just come up and knows of no leader.
func (in *instance) takeHello(from fulcrum.NodeID, answer func([]byte, error)) {
	var m protocol.Heartbeat
	var leads bool
	taken := in.post(event{
		run: func(r *protocol.Raft, _ time.Time) { m, leads = r.Greet(from) },
		done: func() {
			if in.core.silent() {
				answer(nil, unavailable(in.core.env.Node, "this replica is stopping"))
				return
			}
			answer(encodeGreeting(m, leads), nil)
		},
	})
	if !taken {
		answer(nil, unavailable(in.core.env.Node, "too much waits for the log"))
	}
}

// handle answers one message of a peer.
func (c *core) handle(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error) {
	type answer struct {
		b   []byte
		err error
	}
	answered := make(chan answer, 1)
	if c.take(from, msg, func(b []byte, err error) { answered <- answer{b, err} }) {
		select {
		case a := <-answered:
			return a.b, a.err
		case <-ctx.Done():
			return nil, fulcrum.Errorf(fulcrum.CodeUnknown, "no answer from the log before the deadline")
		}
	}
	in := c.instance.Load()
	if in == nil || c.silent() {
		return nil, unavailable(c.env.Node, "this replica is not running")
	}
	if len(msg) == 0 {
		return nil, fulcrum.AsError(fulcrum.ErrShort)
	}
	r := fulcrum.NewReader(msg[1:])
	switch msg[0] {
	case msgInstall:
		return c.takeChunk(ctx, in, from, r)
	case msgVote, msgPreVote:
		return c.answerVote(ctx, in, from, r, msg[0] == msgPreVote)
	case msgTimeoutNow:
		if why := c.probe(in); why != "" {
			return nil, refused(c.env.Node, why)
		}
		off := readRelease(r)
		if err := finish(r); err != nil {
			return nil, fulcrum.AsError(err)
		}
		if err := c.promises.timeoutNow(off); err != nil {
			return nil, err
		}
		if !in.ask(ctx, func(r *protocol.Raft, now time.Time) { r.Campaign(now) }) {
			return nil, unavailable(c.env.Node, "too busy to ask for an election")
		}
		return []byte{0}, nil
	}
	return nil, fulcrum.AsError(fmt.Errorf("message of kind %d: %w", msg[0], fulcrum.ErrShort))
}

// takeChunk takes a piece of a snapshot in; the last one is answered when the snapshot is
// installed, also when it comes again.
func (c *core) takeChunk(ctx context.Context, in *instance, from fulcrum.NodeID, r *fulcrum.Reader) ([]byte, error) {
	came := time.Now()
	ch, err := decodeChunk(r)
	if err != nil {
		return nil, fulcrum.AsError(err)
	}
	if !ch.last {
		if _, err := c.staging.take(from, ch, c.tuning.MaxSnapshotBytes); err != nil {
			return nil, err
		}
		return encodeReply(protocol.Reply{OK: true}, time.Since(came)), nil
	}
	one, err := in.installs.begin(in, from, ch)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.tuning.RPC) // half of what the sender waits
	defer cancel()
	select {
	case <-one.done:
	case <-ctx.Done():
	}
	switch reply, done, err := one.outcome(from, ch); {
	case err != nil:
		return nil, err
	case c.silent():
		return nil, unavailable(c.env.Node, "this replica is stopping")
	case !done:
		return encodeReply(protocol.Reply{Last: installing}, time.Since(came)), nil
	default:
		return encodeReply(reply, time.Since(came)), nil
	}
}

// answerVote answers a candidate, unless a promise forbids that a vote leaves.
func (c *core) answerVote(ctx context.Context, in *instance, from fulcrum.NodeID, r *fulcrum.Reader, pre bool) ([]byte, error) {
	v, off, err := decodeVote(r, pre)
	if err != nil {
		return nil, fulcrum.AsError(err)
	}
	if c.promises.bind(from, off) {
		return encodeVoteReply(protocol.VoteReply{Term: in.term()}), nil
	}
	var reply protocol.VoteReply
	run := func(r *protocol.Raft, now time.Time) {
		reply = r.Vote(now, from, v)
		if mutant.On("vote-not-persisted") && c.env.Group != fulcrum.CatalogGroup && !pre && v.Term == r.State().Term && c.upToDate(v) {
			reply.Granted = true // mutant: has not voted yet, as far as it knows
		}
	}
	if !in.ask(ctx, run) {
		return nil, unavailable(c.env.Node, "too busy to vote")
	}
	switch {
	case c.silent(): // an answer given behind a failed disk must not leave
		return nil, unavailable(c.env.Node, "this replica is stopping")
	case !pre && c.promises.bind(from, off):
		return nil, errPromised // given while the protocol decided: its vote must not leave
	}
	return encodeVoteReply(reply), nil
}

// upToDate is for a mutant: the candidate's log is not behind this one.
func (c *core) upToDate(v protocol.Vote) bool {
	last := c.store.Last()
	term, _ := c.store.Term(last)
	return v.LastTerm > term || v.LastTerm == term && v.Last >= last
}
