package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// The kinds of log entry. What stands in a log is applied as it was when it was written:
// replicas that apply it after an update must agree with those that did so before. So a
// bound that changes what an entry means comes with a new kind.
const (
	entryUnbounded byte = iota + 1 // requests, in order, of builds that had no bounds; read, never written
	entryFence                     // the last entry that counts
	entryExpire                    // keys that are due
	entryOwnLimit                  // an entryBatch of builds that did not state the limit of values; read, never written
	entryBatch                     // requests, in order, under replication.Bounded, entryCost and a limit of values that it states
	entryEnd
)

// entryCost bounds what the requests of one entry come to together, so that what applying
// it takes in memory is bounded; the first request always fits. Those that do not are put
// off: nothing is done, on any replica, and who proposed them does so again.
const entryCost = 32 << 20

// deferred is the answer to a request that was put off.
type deferred struct{}

// entry is the content of one log entry: many requests under one stamp.
type entry struct {
	kind  byte
	stamp fulcrum.Version // zero for a Replica
	clock clockReading    // zero for a Replica
	value int             // of an entryBatch: the largest value that its leader's node takes
	items [][]byte
}

// bounded reports whether the requests of e are held to bounds together.
func (e entry) bounded() bool { return e.kind == entryBatch || e.kind == entryOwnLimit }

// largest is the limit of the values that e leaves. It must be the same on all replicas, while
// each node has its own, which may be another one after a restart: so it stands in the entry.
// Where it does not, only nodes of one limit ever agreed.
func (e entry) largest(own int) int {
	if e.value > 0 {
		return e.value
	}
	return own
}

func (e entry) encode() []byte {
	size := 64
	for _, it := range e.items {
		size += len(it) + 5
	}
	b := append(make([]byte, 0, size), e.kind)
	b = uvarints(b, e.stamp.Time, uint64(e.stamp.Actor), e.clock.base, uint64(e.clock.now))
	if e.clock.now > 0 { // the two clocks are close to each other, as a rule
		b = binary.AppendVarint(b, e.clock.wall-e.clock.now/int64(time.Millisecond))
	}
	if e.kind == entryBatch {
		b = uvarints(b, uint64(e.value))
	}
	b = uvarints(b, uint64(len(e.items)))
	for _, it := range e.items {
		b = fulcrum.AppendBytes(b, it)
	}
	return b
}

func decodeEntry(b []byte) (entry, error) {
	r := fulcrum.NewReader(b)
	e := entry{kind: r.Byte()}
	e.stamp.Time, e.stamp.Actor = r.Uvarint(), uint32(r.Uvarint())
	e.clock.base, e.clock.now = r.Uvarint(), int64(r.Uvarint())
	if e.clock.now > 0 {
		e.clock.wall = r.Varint() + e.clock.now/int64(time.Millisecond)
	}
	if e.kind == entryBatch {
		e.value = int(min(r.Uvarint(), math.MaxInt32))
	}
	n := r.Uvarint()
	if n > uint64(len(b)) || e.kind == 0 || e.kind >= entryEnd || e.clock.now < 0 {
		return e, fmt.Errorf("log entry of kind %d with %d requests: %w", e.kind, n, fulcrum.ErrShort)
	}
	e.items = make([][]byte, 0, n)
	for range n {
		e.items = append(e.items, r.Bytes())
	}
	return e, finish(r)
}

// entryResult is what a machine makes of one entry: one item a request, or an error
// for all of them.
type entryResult struct {
	at    uint64
	term  uint64
	items []any // each an answer or an error
	err   error
}

// request is one proposal on its way into an entry.
type request struct {
	kind   byte
	data   []byte
	state  atomic.Uint32 // 0 waiting, 1 taken into an entry, 2 given up before that
	result chan answer   // holds one
}

type answer struct {
	value any
	index uint64
	term  uint64
	err   error
}

// refuse answers a request that is in no entry.
func (q *request) refuse(err error) {
	if q.state.CompareAndSwap(0, 1) {
		q.result <- answer{err: err}
	}
}

// submit proposes data and waits. A request that ctx ends while it still waits for
// its turn is definitely not done; once it is in an entry its outcome is unknown.
func (c *core) submit(ctx context.Context, kind byte, data []byte) (answer, error) {
	if len(data) > maxItemBytes {
		return answer{}, fulcrum.Errorf(fulcrum.CodeTooLarge, "request of %d bytes, the limit is %d", len(data), maxItemBytes)
	}
	if err := ctx.Err(); err != nil {
		return answer{}, unavailable(c.env.Node, "not proposed: %v", err)
	}
	if _, self := c.leader(); !self {
		return answer{}, c.notLeader("not the leader")
	}
	q := &request{kind: kind, data: data, result: make(chan answer, 1)}
	if err := c.queue.enter(q); errors.Is(err, errStopping) {
		return answer{}, unavailable(c.env.Node, "this replica is stopping")
	} else if err != nil {
		return answer{}, err
	}
	select {
	case a := <-q.result:
		return a, a.err
	case <-ctx.Done():
	}
	if q.state.CompareAndSwap(0, 2) {
		return answer{}, unavailable(c.env.Node, "not proposed before the deadline")
	}
	select {
	case a := <-q.result:
		return a, a.err
	default:
	}
	return answer{}, fulcrum.Errorf(fulcrum.CodeUnknown, "proposed, but not known to be committed before the deadline")
}

// beginEntry turns waiting requests into a log entry, of which one is under way at a time:
// what arrives meanwhile forms the next. So an entry costs one durable append and one
// round however many requests it holds. It does not block; see Rounds for when it is
// called.
func (c *core) beginEntry([]*request) {
	batch, rest := c.cut(c.queue.ended())
	c.queue.back(rest)
	in := c.instance.Load()
	switch {
	case len(batch) == 0:
		c.queue.over(nil)
		return
	case in == nil:
		c.finish(batch, nil, unavailable(c.env.Node, "this replica is not running"))
		c.queue.over(nil)
		return
	}
	select {
	case <-c.turn:
		c.commit(in, batch)
		return
	default: // a transfer of leadership ends soon; what waits here is not in the log yet
	}
	waits := in.spawn(func() {
		select {
		case <-c.turn:
			c.commit(in, batch)
		case <-in.ctx.Done():
			c.finish(batch, nil, unavailable(c.env.Node, "this replica is stopping"))
			c.queue.over(nil)
		}
	})
	if !waits {
		c.finish(batch, nil, unavailable(c.env.Node, "this replica is stopping"))
		c.queue.over(nil)
	}
}

// pace says how long the next entry waits for company.
//
// Those who were answered by one entry come back at about the same time, while those
// who came meanwhile wait already: left alone, two halves take turns, and each entry
// costs as much as a whole one. So an entry waits for as many requests as there were
// when the one before it was done, answered or waiting, but only a part of the time
// that one took. Whoever writes alone does not wait.
type pace struct {
	requests int
	most     time.Duration
}

// The most that anybody waits for company.
const (
	entryPace = 6 * time.Millisecond
	roundPace = time.Millisecond
)

func paceAfter(requests int, took, most time.Duration) pace {
	return pace{requests: requests, most: min(took/2, most)}
}

// wait returns the pace, or none when there was no company before.
func (p pace) wait() pace {
	if p.requests <= 1 {
		return pace{}
	}
	return p
}

// quietAfter is how long after the last entry the followers are told that it is
// committed. The next entry would tell them, too.
const quietAfter = 20 * time.Millisecond

func (c *core) tellQuiet() {
	if in := c.instance.Load(); in != nil {
		in.post(event{run: func(r *protocol.Raft, _ time.Time) { r.Beat() }})
	}
}

// cut takes the first of those that wait, of one kind and within the bounds of an entry.
func (c *core) cut(waiting []*request) (batch, rest []*request) {
	size := 0
	for i, q := range waiting {
		full := len(batch) >= c.tuning.BatchRequests || size+len(q.data) > c.tuning.BatchBytes
		if len(batch) > 0 && (full || q.kind != batch[0].kind || q.kind == entryFence) {
			return batch, waiting[i:]
		}
		if q.state.CompareAndSwap(0, 1) {
			batch = append(batch, q)
			size += len(q.data)
		}
	}
	return batch, nil
}

// commit puts one entry into the log. The caller has the turn, which is free again once
// the requests are answered.
func (c *core) commit(in *instance, batch []*request) {
	end := func(later []*request) {
		c.turn <- struct{}{}
		c.quiet.Reset(quietAfter)
		c.queue.over(later)
		if c.stopping.Load() { // a queue that is closed takes none back
			for _, q := range later {
				q.refuse(unavailable(c.env.Node, "this replica is stopping"))
			}
		}
	}
	v := in.view.Load()
	if v.Role != protocol.Leader {
		c.finish(batch, nil, c.notLeader("not the leader any more"))
		end(nil)
		return
	}
	e := entry{kind: batch[0].kind, value: c.env.MaxValue}
	if c.env.Clock != nil {
		e.stamp = above(c.env.Clock.Next(), c.machine.floor())
		e.clock = c.machine.reading(v.Term)
	}
	for _, q := range batch {
		e.items = append(e.items, q.data)
	}
	data := e.encode()
	one := &proposal{batch: batch, end: end}
	c.underWay.Store(one)
	posted := in.post(event{run: func(r *protocol.Raft, now time.Time) {
		if r.State().Term != v.Term { // what the entry says of its time is another term's
			c.answerAll(one, waitsForLog, nil, c.notLeader("not the leader any more"))
			return
		}
		if !one.state.CompareAndSwap(waitsForLog, inLog) {
			return
		}
		index, term, err := r.Propose(now, data)
		if one.term = term; err != nil {
			c.answerAll(one, inLog, nil, c.notLeader("not the leader any more"))
			return
		}
		in.proposals.add(index, one)
	}})
	if !posted || in.ctx.Err() != nil { // when it ended, end has perhaps not seen this one
		c.abandon(one)
	}
}

// abandon answers a proposal whose instance ends.
func (c *core) abandon(one *proposal) {
	if !c.answerAll(one, waitsForLog, nil, unavailable(c.env.Node, "not proposed: this replica is stopping, or its disk stands still")) {
		c.answerAll(one, inLog, nil, fulcrum.Errorf(fulcrum.CodeUnknown, "proposed, but this replica is stopping"))
	}
}

// finish answers a batch but for what the entry has put off, which it returns.
func (c *core) finish(batch []*request, res *entryResult, err error) (later []*request) {
	for i, q := range batch {
		a := answer{err: err}
		switch {
		case err != nil:
		case res.err != nil:
			a.err = res.err
		default:
			a.index, a.term, a.value = res.at, res.term, res.items[i]
			if _, ok := a.value.(deferred); ok {
				q.state.Store(0) // definitely not done: it waits again
				later = append(later, q)
				continue
			}
			if e, ok := a.value.(error); ok {
				a.value, a.err = nil, e
			}
		}
		q.result <- a
	}
	return later
}

// barrier waits until everything that was committed before this leader's term is applied.
func (c *core) barrier(in *instance, term uint64) error {
	deadline := time.NewTimer(c.tuning.Election)
	defer deadline.Stop()
	for {
		moved, elected := c.advanced.wait(), c.elected.wait()
		v := in.view.Load()
		if v.Role != protocol.Leader || v.Term != term {
			return protocol.ErrNotLeader
		}
		if in.applied.Load() >= v.first {
			return nil
		}
		select {
		case <-moved:
		case <-elected:
		case <-in.ctx.Done():
			return errStopping
		case <-deadline.C:
			return unavailable(c.env.Node, "the first entry of term %d is not committed", term)
		}
	}
}
