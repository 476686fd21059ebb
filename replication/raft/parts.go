package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// An append that is larger than goes to its peer at once (see flow) goes in parts, each in
// a call of its own, the next one when the last is answered. The receiver puts them
// together and takes the whole in as if it had come at once.
//
// Invariant: a part says nothing in the protocol. A follower has heard from its leader, and
// a leader from its follower, when a heartbeat or a whole append is answered, which go
// between the parts: so an election is neither put off nor called for by a large entry.

// part is a piece of an append.
type part struct {
	term     uint64
	transfer uint64 // unique for the sender, and larger than any before
	offset   uint64
	size     uint64 // of the whole
	data     []byte
}

func (p part) encode() []byte {
	b := append(make([]byte, 0, len(p.data)+64), msgPart)
	return fulcrum.AppendBytes(uvarints(b, p.term, p.transfer, p.offset, p.size), p.data)
}

func decodePart(r *fulcrum.Reader) (p part, err error) {
	p = part{term: r.Uvarint(), transfer: r.Uvarint(), offset: r.Uvarint(), size: r.Uvarint(), data: r.Bytes()}
	if err := finish(r); err != nil {
		return p, err
	}
	if n := uint64(len(p.data)); n == 0 || p.size > fulcrum.MaxMessageBytes || p.offset > p.size || n > p.size-p.offset {
		return p, fmt.Errorf("part of %d bytes at %d of %d: %w", n, p.offset, p.size, fulcrum.ErrShort)
	}
	return p, nil
}

// parts is what has come of one append, the newest one. A whole one is kept for a while:
// its last part comes again if the disk takes long, or the answer is lost.
type parts struct {
	mu       sync.Mutex
	from     fulcrum.NodeID
	transfer uint64
	whole    []byte
	touch    time.Time
}

// take adds a part. It returns how much there is, or the whole when it is there, which
// nobody may change.
func (p *parts) take(from fulcrum.NodeID, m part) (have uint64, whole []byte, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.whole == nil || from != p.from || m.transfer > p.transfer {
		if m.offset > 0 {
			return 0, nil, fulcrum.Errorf(fulcrum.CodeInvalid, "the part at byte %d does not continue an append", m.offset)
		}
		p.from, p.transfer, p.whole = from, m.transfer, make([]byte, 0, min(m.size, chunkBytes))
	}
	have = uint64(len(p.whole))
	if m.transfer < p.transfer || m.offset > have {
		return 0, nil, fulcrum.Errorf(fulcrum.CodeInvalid, "the part at byte %d does not continue an append", m.offset)
	}
	p.touch = time.Now()
	if end := m.offset + uint64(len(m.data)); end > have {
		p.whole = append(p.whole, m.data[have-m.offset:]...)
		have = end
	}
	if have < m.size {
		return have, nil, nil
	}
	return have, p.whole, nil
}

// sweep forgets what nobody goes on with.
func (p *parts) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.touch) > transferIdle {
		p.whole = nil
	}
}

func (p *parts) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole = nil
}

// takePart answers how much has come, or the append once it is whole.
func (in *instance) takePart(from fulcrum.NodeID, r *fulcrum.Reader, answer func([]byte, error)) {
	came := time.Now()
	m, err := decodePart(r)
	if err != nil {
		answer(nil, fulcrum.AsError(err))
		return
	}
	if term := in.term(); m.term < term {
		in.answer(protocol.Reply{Term: term}, came, answer)
		return
	}
	have, whole, err := in.core.parts.take(from, m)
	switch {
	case err != nil:
		answer(nil, err)
	case whole == nil:
		in.answer(protocol.Reply{Term: m.term, OK: true, Last: have}, came, answer)
	case whole[0] != msgAppend:
		answer(nil, fulcrum.AsError(fmt.Errorf("message of kind %d in parts: %w", whole[0], fulcrum.ErrShort)))
	default:
		in.takeAppend(from, fulcrum.NewReader(whole[1:]), answer)
	}
}

// sendParts sends msg, which is m, and returns the answer to the whole. A part that is
// lost is sent again, in smaller ones.
func (in *instance) sendParts(to fulcrum.NodeID, m *protocol.Append, msg []byte) (protocol.Reply, error) {
	c := in.core
	p := part{term: m.Term, transfer: c.transfers.Add(1), size: uint64(len(msg))}
	for tries := 0; ; {
		if !in.leads() || in.term() != m.Term {
			return protocol.Reply{}, errStopping
		}
		p.data = msg[p.offset:]
		p.data = p.data[:min(len(p.data), c.flows.of(to).bytes())]
		begun := time.Now()
		b, err := in.wait(to, c.appendLimit(), p.encode())
		reply, err := in.timed(to, begun, len(p.data), b, err)
		switch {
		case err != nil:
			if tries++; !in.mayPass(err, tries) {
				return protocol.Reply{}, err
			}
		case !reply.OK || reply.Last == 0: // not to a part
			return reply, nil
		case reply.Last <= p.offset || reply.Last >= p.size:
			return protocol.Reply{}, fmt.Errorf("%d bytes have come of %d, after %d: %w", reply.Last, p.size, p.offset, fulcrum.ErrShort)
		default:
			tries, p.offset = 0, reply.Last
			c.store.moving(to)
			in.post(event{run: func(r *protocol.Raft, now time.Time) { r.Moving(now, to, *m) }})
		}
	}
}

// piecesTried is how often a part or a chunk is sent before its transfer is given up: often
// enough for flow to become as small as it does.
const piecesTried = 8

// mayPass waits a moment, and reports whether a piece that was not taken is to be sent
// again: it may have been lost, or the disk over there be busy.
func (in *instance) mayPass(err error, tries int) bool {
	var e *fulcrum.Error
	if errors.As(err, &e) && e.Code != fulcrum.CodeUnavailable && e.Code != fulcrum.CodeOverloaded || tries >= piecesTried || in.core.silent() {
		return false
	}
	pause(in.ctx, firstPause)
	return in.ctx.Err() == nil
}

// timed is opened, for size bytes that left when it had begun: flow learns from it.
func (in *instance) timed(to fulcrum.NodeID, begun time.Time, size int, b []byte, err error) (protocol.Reply, error) {
	took := time.Since(begun)
	reply, thought, err := in.opened(to, b, err)
	switch f := in.core.flows.of(to); {
	case err == nil:
		f.took(size, max(0, took-thought))
	case errors.Is(err, context.DeadlineExceeded): // all of it was sent, or too much was before it
		f.missed()
	default:
		f.anew()
	}
	return reply, err
}
