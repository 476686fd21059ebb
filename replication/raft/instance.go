package raft

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// instance is the protocol at work, from the beginning of Run to its end.
//
// What happens to it are events: messages, answers, proposals, time, entries that became
// durable. They are handled one at a time, in order, by whoever posts one while nobody
// handles any: so an append is taken in by the goroutine that read it, and its answer
// leaves from the one that waited for the disk; a switch of goroutines costs more than
// most events. Those goroutines serve others, too, so they must not wait: an event that
// waits for the disk is turned over to the instance's own worker, and those behind it
// wait there.
type instance struct {
	core *core
	ctx  context.Context // ends the calls under way
	cut  context.CancelFunc
	life sync.WaitGroup // goroutines that end with ctx

	box      box
	turnOver chan func() // to the worker, from whoever has the turn
	timer    *time.Timer
	armed    atomic.Int64 // when it rings, from begun on
	begun    time.Time

	// Of whoever handles events:
	raft    *protocol.Raft
	waiting []waitingReply // for the log to be durable, in order

	view    atomic.Pointer[view]
	commit  atomic.Uint64
	applied atomic.Uint64 // the last entry that was handled, of whatever kind

	proposals proposals
	moved     chan struct{} // there is something to apply
	jobs      chan func()   // for the goroutine that applies
	installs  installs

	confApplied uint64 // of the goroutine that applies: the last configuration that it passed
}

// view is what everybody may know of the protocol. A term is in it once it is durable,
// and before anything that was said in it has left.
type view struct {
	protocol.State
	first     uint64 // of a leader: its first entry
	conf      protocol.Configuration
	confIndex uint64
}

// event is something that happens to the protocol. done is called when what run left to
// do is carried out; it must not block.
type event struct {
	slow bool // run may wait for the disk
	run  func(r *protocol.Raft, now time.Time)
	done func()
}

type box struct {
	sync.Mutex
	events []event
	busy   bool // somebody handles events
	closed bool
	idle   chan struct{} // closed when nobody does any more, after closed
}

// maxEvents bounds what waits while the disk stands still. What is dropped is as good as
// lost on the network.
const maxEvents = 8192

type waitingReply struct {
	needs  uint64
	reply  protocol.Reply
	came   time.Time // what it answers
	answer func([]byte, error)
}

// post hands an event in; false: too many wait, or the instance has ended.
func (in *instance) post(e event) bool {
	in.box.Lock()
	if in.box.closed || len(in.box.events) >= maxEvents {
		in.box.Unlock()
		return false
	}
	in.box.events = append(in.box.events, e)
	if in.box.busy {
		in.box.Unlock()
		return true
	}
	in.box.busy = true
	in.box.Unlock()
	in.work(false)
	return true
}

// spawn starts a goroutine that ends with ctx; false: the instance has ended.
func (in *instance) spawn(f func()) bool {
	in.box.Lock()
	defer in.box.Unlock()
	if !in.box.closed { // so serve has not returned yet, and life is not done
		in.life.Go(f)
	}
	return !in.box.closed
}

// ask hands an event in and waits until it is carried out; false: it may be later, or
// never.
func (in *instance) ask(ctx context.Context, run func(r *protocol.Raft, now time.Time)) bool {
	done := make(chan struct{})
	if !in.post(event{run: run, done: func() { close(done) }}) {
		return false
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
	case <-in.ctx.Done():
	}
	return false
}

// work handles events until there is none. The caller has set busy. patient: it may wait
// for the disk.
func (in *instance) work(patient bool) {
	for {
		e, ok := in.next()
		switch {
		case !ok:
			return
		case !patient && e.slow:
			in.turnOver <- func() { in.handle(e); in.work(true) } // has room: there is one turn
			return
		case patient:
			in.handle(e)
			continue
		}
		now := time.Now()
		e.run(in.raft, now)
		ready := in.raft.Ready()
		if in.waits(ready) {
			in.turnOver <- func() { in.finish(e, ready, now); in.work(true) }
			return
		}
		in.finish(e, ready, now)
	}
}

func (in *instance) handle(e event) {
	now := time.Now()
	e.run(in.raft, now)
	in.finish(e, in.raft.Ready(), now)
}

func (in *instance) finish(e event, ready protocol.Ready, now time.Time) {
	in.carryOut(ready, now)
	if e.done != nil {
		e.done()
	}
}

// next takes an event, or ends the turn.
func (in *instance) next() (e event, ok bool) {
	in.box.Lock()
	defer in.box.Unlock()
	if len(in.box.events) > 0 {
		e = in.box.events[0]
		in.box.events[0] = event{}
		in.box.events = in.box.events[1:]
		return e, true
	}
	in.box.events = nil
	in.box.busy = false
	if in.box.closed {
		close(in.box.idle)
	}
	return e, false
}

// waits reports whether carrying ready out may wait for the disk. Beginning to write does
// not, but where a write takes long already.
func (in *instance) waits(ready protocol.Ready) bool {
	return ready.Store != nil || ready.Cut || len(ready.Append) > 0 && in.core.store.disk.underWay() > writePatience
}

const writePatience = 20 * time.Millisecond

// carryOut does what the protocol left to do, in the order that it asks for.
func (in *instance) carryOut(ready protocol.Ready, now time.Time) {
	c := in.core
	if ready.Store != nil && c.store.setHard(*ready.Store) != nil {
		return // it has failed, and is heard no more
	}
	if ready.Cut && !in.cutBack(ready.CutAt) {
		return
	}
	if len(ready.Append) > 0 && c.store.begin(ready.Append, in.durable) != nil {
		return
	}
	if err := in.raft.Broken(); err != nil {
		_ = c.store.broken("raft", err)
		return
	}
	// Before anybody is told, and before this replica leads no more: who waits for an entry
	// must see that it is committed.
	if commit := in.raft.Commit(); commit > in.commit.Load() {
		in.commit.Store(commit)
		in.tellApplier()
	}
	in.publish()
	in.sendAll(ready.Sends, now)
	in.arm()
}

// cutBack drops what is behind at from the log; false: the replica must end. What is applied
// was committed, and is never cut off, unless logs have lost what they had called durable.
func (in *instance) cutBack(at uint64) bool {
	if applied := in.applied.Load(); at < applied {
		_ = in.core.store.broken(fmt.Sprintf("cut the log behind %d", at), fmt.Errorf("%d is applied: %w", applied, errLost))
		return false
	}
	in.dropReplies(at)
	return in.core.store.cut(at) == nil
}

// errLost is for a machine that holds what the group's logs do not: a majority of them lost their
// ends, as they may where a keyspace's durability is not fsync.
var errLost = errors.New("the log has lost entries that this replica's state holds; the replica must be rebuilt from the others")

// publish lets everybody see what the protocol is now.
func (in *instance) publish() {
	old := in.view.Load()
	state := in.raft.State()
	conf, at := in.raft.Configuration()
	if old.State == state && old.confIndex == at && slices.Equal(old.conf.Members, conf.Members) {
		return
	}
	in.view.Store(&view{State: state, first: in.raft.FirstOfTerm(), conf: conf, confIndex: at})
	if old.Role == protocol.Leader && (state.Role != protocol.Leader || state.Term != old.Term) {
		in.proposals.lose(in.core)
	}
	if old.State != state {
		in.core.announce(in)
	}
}

// arm sees to it that time is told when the protocol wants to know. A timer that rings
// too soon costs a wake-up, so it is put off; but not for every message.
func (in *instance) arm() {
	at := int64(in.raft.Next().Sub(in.begun))
	if armed := in.armed.Load(); at < armed || at-armed > int64(in.core.tuning.Heartbeat/beatsIn) {
		in.armed.Store(at)
		in.timer.Reset(time.Duration(at) - time.Since(in.begun))
	}
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// serve does what may wait, and tells the time, until ctx ends.
func (in *instance) serve(ctx context.Context) {
	defer in.timer.Stop()
	for {
		select {
		case f := <-in.turnOver:
			f()
		case <-in.timer.C:
			in.armed.Store(math.MaxInt64) // whoever handles events arms it again, the latest with this one
			in.post(event{run: func(r *protocol.Raft, now time.Time) { r.Tick(now) }})
		case <-ctx.Done():
			in.shut()
			return
		}
	}
}

// shut ends the taking in of events, once those that there are have been handled.
func (in *instance) shut() {
	in.box.Lock()
	in.box.closed = true
	busy := in.box.busy
	in.box.Unlock()
	for busy {
		select {
		case f := <-in.turnOver:
			f()
		case <-in.box.idle:
			busy = false
		}
	}
	in.dropReplies(0)
	in.proposals.lose(in.core)
}

// durable is called by the log when entries have become durable.
func (in *instance) durable() {
	in.post(event{run: func(r *protocol.Raft, now time.Time) { r.Durable(now) }, done: in.flushReplies})
}

// reply answers an append once what it rests on is durable.
func (in *instance) reply(m protocol.Reply, came time.Time, answer func([]byte, error)) {
	if m.Needs > in.core.store.Durable() {
		in.waiting = append(in.waiting, waitingReply{m.Needs, m, came, answer})
		return
	}
	in.answer(m, came, answer)
}

func (in *instance) answer(m protocol.Reply, came time.Time, answer func([]byte, error)) {
	if in.core.silent() {
		answer(nil, unavailable(in.core.env.Node, "this replica is stopping"))
		return
	}
	answer(encodeReply(m, time.Since(came)), nil)
}

func (in *instance) flushReplies() {
	durable := in.core.store.Durable()
	kept := in.waiting[:0]
	for _, w := range in.waiting {
		if w.needs <= durable {
			in.answer(w.reply, w.came, w.answer)
		} else {
			kept = append(kept, w)
		}
	}
	clear(in.waiting[len(kept):])
	in.waiting = kept
}

// dropReplies refuses those that rest on entries behind at, which are going.
func (in *instance) dropReplies(at uint64) {
	kept := in.waiting[:0]
	for _, w := range in.waiting {
		if w.needs <= at {
			kept = append(kept, w)
			continue
		}
		w.answer(nil, unavailable(in.core.env.Node, "the entries were replaced"))
	}
	clear(in.waiting[len(kept):])
	in.waiting = kept
}

func (in *instance) term() uint64 { return in.view.Load().Term }

func (in *instance) leads() bool { return in.view.Load().Role == protocol.Leader }

// voters returns the voting members of the latest configuration.
func (in *instance) voters() []fulcrum.NodeID { return in.view.Load().conf.Voters() }

// others returns all members of the latest configuration but this one.
func (in *instance) others() []fulcrum.NodeID {
	var ids []fulcrum.NodeID
	for _, m := range in.view.Load().conf.Members {
		if m.ID != in.core.env.Node {
			ids = append(ids, m.ID)
		}
	}
	return ids
}
