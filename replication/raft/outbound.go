package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"log/slog"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
)

// call sends msg, which is the caller's again when it returns; done hears the answer,
// once, and must not block.
func (in *instance) call(to fulcrum.NodeID, limit time.Duration, msg []byte, done func([]byte, error)) {
	if p, ok := in.core.env.Peers.(replication.AsyncPeers); ok {
		p.Go(to, msg, limit, done)
		return
	}
	msg = bytes.Clone(msg)
	begun := in.spawn(func() {
		ctx, cancel := context.WithTimeout(in.ctx, limit)
		defer cancel()
		done(in.core.env.Peers.Call(ctx, to, msg))
	})
	if !begun {
		done(nil, errStopping)
	}
}

// wait is call for those who may wait.
func (in *instance) wait(to fulcrum.NodeID, limit time.Duration, msg []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(in.ctx, limit)
	defer cancel()
	return in.core.env.Peers.Call(ctx, to, msg)
}

// sendAll sends what the protocol wants to be sent. The same entries are encoded once.
func (in *instance) sendAll(sends []protocol.Send, now time.Time) {
	var same encoded
	buf := borrow()
	defer buf.giveBack()
	for _, s := range sends {
		if in.core.silent() {
			return
		}
		switch {
		case s.Append != nil:
			bytes, moving := in.core.flows.of(s.To).room(appendAt{s.Append.Term, s.Append.Prev})
			if moving {
				continue // its end tells the protocol what it waits for
			}
			if !same.serves(s.Append, bytes) {
				if !in.raft.Fill(now, s.To, s.Append, bytes) {
					continue
				}
				buf.b = encodeAppend(buf.b, s.Append)
				same = encoded{s.Append, bytes, len(buf.b), s.Append.Last() == in.core.store.Last()}
			}
			s.Append.Entries = same.m.Entries
			in.sendAppend(s.To, s.Append, buf.b, bytes)
		case s.Beat != nil:
			in.sendBeat(s.To, s.Beat)
		case s.Vote != nil:
			in.life.Go(func() { in.askVote(s.To, *s.Vote) })
		case s.Snapshot:
			term := in.raft.State().Term
			in.life.Go(func() { in.sendSnapshot(s.To, term) })
		}
	}
}

// encoded is the append that was encoded last, with what fits into bytes; all: up to the
// end of the log.
type encoded struct {
	m           *protocol.Append
	bytes, size int
	all         bool
}

// serves reports whether m is to have the same entries when it may have so many bytes.
func (e encoded) serves(m *protocol.Append, bytes int) bool {
	return e.m != nil && e.m.Prev == m.Prev && (bytes == e.bytes || e.size <= bytes && (e.all || bytes < e.bytes))
}

// sendAppend sends m, which msg holds, whole if it fits into about so many bytes.
func (in *instance) sendAppend(to fulcrum.NodeID, m *protocol.Append, msg []byte, most int) {
	c := in.core
	begun, size := time.Now(), len(msg)
	if mutant.On("raft-ack-before-quorum") && c.env.Group != fulcrum.CatalogGroup {
		in.life.Go(func() { // mutant: what was sent counts as stored
			pause(in.ctx, 20*time.Millisecond)
			in.appended(to, m, protocol.Reply{Term: m.Term, OK: true}, nil)
		})
		in.call(to, c.appendLimit(), msg, func([]byte, error) {})
		return
	}
	if at := (appendAt{m.Term, m.Prev}); size > most+appendHead {
		if msg = bytes.Clone(msg); c.flows.of(to).move(at) {
			in.life.Go(func() {
				reply, err := in.sendParts(to, m, msg)
				c.flows.of(to).stay(at) // first: the protocol may send it again at once
				in.appended(to, m, reply, err)
			})
		}
		return
	}
	in.call(to, c.appendLimit(), msg, func(b []byte, err error) {
		reply, err := in.timed(to, begun, size, b, err)
		in.appended(to, m, reply, err)
	})
}

// appended tells the protocol what became of an append.
func (in *instance) appended(to fulcrum.NodeID, m *protocol.Append, reply protocol.Reply, err error) {
	c := in.core
	if err != nil {
		in.post(event{run: func(r *protocol.Raft, now time.Time) { r.Lost(now, to, m.Term) }})
		return
	}
	if reply.OK && reply.Term == m.Term {
		c.peers.matched(to, m.Last())
		c.store.caughtUp(to, m.Last(), c.tuning.TrailingEntries)
	}
	in.post(event{run: func(r *protocol.Raft, now time.Time) { r.Appended(now, to, *m, reply) }})
}

// appendLimit leaves time for a slow disk over there. What a call carries fits into it, see
// flow.
func (c *core) appendLimit() time.Duration { return 2 * c.tuning.RPC }

func (in *instance) sendBeat(to fulcrum.NodeID, m *protocol.Heartbeat) {
	begun := time.Now()
	in.call(to, in.core.tuning.RPC, encodeBeat(*m), func(b []byte, err error) {
		if reply, thought, err := in.opened(to, b, err); err == nil {
			in.core.flows.of(to).beaten(time.Since(begun) - thought)
			in.post(event{run: func(r *protocol.Raft, now time.Time) { r.Beaten(now, to, m.Term, reply) }})
		}
	})
}

// greet asks all others, once, who leads: a replica that comes up would hear it only by the
// next heartbeat. The leader's answer is that heartbeat, sooner, and is taken in as one is:
// so it claims, and proves, what any heartbeat does, however late it comes.
func (in *instance) greet() {
	c := in.core
	for _, id := range in.others() {
		in.call(id, c.tuning.RPC, []byte{msgHello}, func(b []byte, err error) {
			if err != nil || c.silent() {
				return
			}
			if m, leads, err := decodeGreeting(b); err == nil && leads {
				in.beaten(id, m, time.Now(), func([]byte, error) {})
			}
		})
	}
}

// opened reads an answer of a peer, which is heard by it.
func (in *instance) opened(from fulcrum.NodeID, b []byte, err error) (m protocol.Reply, thought time.Duration, _ error) {
	if err != nil {
		return m, 0, err
	}
	if in.core.silent() {
		return m, 0, errStopping
	}
	in.core.peers.heard(from)
	return decodeReply(b)
}

// askVote asks for a vote, or whether there would be one. It asks for nothing while a
// promise forbids it, nor whether it would be elected while this replica should not
// lead; that never lasts (see fit), and an election that has begun may go on.
func (in *instance) askVote(to fulcrum.NodeID, v protocol.Vote) {
	c := in.core
	if v.Pre && c.fit() != "" {
		return
	}
	off, err := c.promises.ask()
	if err != nil || c.silent() {
		return
	}
	b, err := in.wait(to, c.tuning.RPC, encodeVote(v, off))
	if err != nil || c.silent() {
		return
	}
	c.peers.heard(to)
	reply, err := decodeVoteReply(b)
	if err != nil {
		return
	}
	in.post(event{run: func(r *protocol.Raft, now time.Time) { r.Voted(now, to, v, reply) }})
}

// sendSnapshot brings a peer up that needs what the log does not hold any more.
func (in *instance) sendSnapshot(to fulcrum.NodeID, term uint64) {
	index, current, err := in.transfer(to, term)
	if err != nil {
		level := slog.LevelDebug
		if fulcrum.AsError(err).Code == fulcrum.CodeDisk { // here or there: somebody has to do something
			level = slog.LevelWarn
		}
		in.core.env.Logger.Log(in.ctx, level, "a snapshot was not taken in", "peer", to, "error", err)
	} else if index > 0 {
		in.core.peers.matched(to, index)
	}
	in.post(event{run: func(r *protocol.Raft, now time.Time) { r.SnapshotSent(now, to, term, index, current) }})
}

// transfer sends a snapshot in chunks that fit the link (see flow), each in a call of its
// own with its own deadline; the last one, which is small, is answered when it is installed. index is where it stands, 0 if it was
// not taken, current the peer's term.
func (in *instance) transfer(to fulcrum.NodeID, term uint64) (index, current uint64, err error) {
	c := in.core
	end, ok := c.snaps.begin(to)
	if !ok {
		return 0, 0, errors.New("another one is on its way there")
	}
	defer end()
	wanted := func() bool { return in.leads() && in.term() == term && in.ctx.Err() == nil }
	m, data, err := c.snaps.open(wanted)
	if err != nil {
		return 0, 0, err
	}
	defer data.Close()
	c.store.holdFor(to, m.Index)
	defer c.store.sent(string(to))
	ch := chunk{transfer: c.transfers.Add(1), term: term, meta: m}
	sum := crc64.New(crcTable)
	buf := make([]byte, chunkBytes)
	for {
		n, err := io.ReadFull(data, buf)
		all := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !all {
			return 0, 0, err
		}
		sum.Write(buf[:n])
		if ch.data = buf[:n]; !all || n > flowLeast {
			if err := in.sendChunks(to, &ch); err != nil {
				return 0, 0, fmt.Errorf("at byte %d: %w", ch.offset, err)
			}
		}
		if !all {
			continue
		}
		ch.last, ch.sum = true, sum.Sum64()
		reply, err := in.sendLastChunk(to, ch)
		switch {
		case err != nil:
			return 0, 0, fmt.Errorf("at the end: %w", err)
		case reply.OK:
			return m.Index, reply.Term, nil
		}
		return 0, reply.Term, nil
	}
}

// sendChunks sends what ch holds, in as many chunks as the link asks for, and moves ch
// behind it. One that is lost is sent again, in smaller ones.
func (in *instance) sendChunks(to fulcrum.NodeID, ch *chunk) error {
	c := in.core
	one := *ch
	for rest, tries := ch.data, 0; len(rest) > 0; {
		if !in.leads() || in.term() != ch.term {
			return errStopping
		}
		one.data = rest[:min(len(rest), c.flows.of(to).bytes())]
		begun := time.Now()
		b, err := in.wait(to, c.appendLimit(), one.encode())
		if _, err = in.timed(to, begun, len(one.data), b, err); err != nil {
			if tries++; !in.mayPass(err, tries) {
				return err
			}
			continue
		}
		rest, tries = rest[len(one.data):], 0
		one.offset += uint64(len(one.data))
	}
	ch.offset, ch.data = one.offset, nil
	return nil
}

// sendLastChunk sends the last chunk, again and again while it is being installed, or its
// answer may have been lost, as long as this replica leads. An install takes as long as it does:
// another snapshot would take no less, and wait for it.
func (in *instance) sendLastChunk(to fulcrum.NodeID, ch chunk) (protocol.Reply, error) {
	c := in.core
	end := time.Now().Add(c.tuning.Install)
	msg := ch.encode()
	for {
		if !in.leads() || in.term() != ch.term || c.silent() {
			return protocol.Reply{}, errStopping
		}
		b, err := in.wait(to, 2*c.tuning.RPC, msg)
		if err == nil {
			reply, _, err := in.opened(to, b, nil)
			if err != nil || reply.OK || reply.Last != installing {
				return reply, err
			}
			end = time.Now().Add(c.tuning.Install)
			continue
		}
		var e *fulcrum.Error
		if refused := errors.As(err, &e) && e.Code != fulcrum.CodeUnavailable; refused || time.Now().After(end) {
			return protocol.Reply{}, err
		}
		pause(in.ctx, firstPause)
		if in.ctx.Err() != nil {
			return protocol.Reply{}, errStopping
		}
	}
}

const firstPause = 50 * time.Millisecond
