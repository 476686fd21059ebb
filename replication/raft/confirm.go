package raft

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication/raft/protocol"
)

// The confirmation round makes a read linearizable (Ongaro's thesis, section 6.4,
// without its heartbeats). What hashicorp/raft does (VerifyLeader) is not enough: it
// counts non-voters, and answers to heartbeats that were sent before the read.
//
// A round belongs to the reads that had arrived when it began. The leader of term T
//  1. has passed a barrier in T, so that its commit index covers everything that was
//     committed before it was elected;
//  2. notes the last command at or below its commit index: the read index;
//  3. asks every other voter of its latest configuration, in a call that begins
//     now, which term it is in;
//  4. goes on once a majority of voters, itself included, said exactly T.
//
// Then any replica whose machine has applied the read index may answer those reads.
//
// Why that is enough: let W be a write that was acknowledged before the read
// arrived, or shown by a read that ended before, in term U. If U < T, W was committed
// when T began, and 1 and 2 cover it. If U = T, this leader had committed it, since
// it acknowledges nothing else, and followers learn of commits from it alone: 2
// covers it. U > T cannot be: the first leader of a term above T was elected by a
// majority of voters of this configuration or of one that differs from it by one
// server (configurations change one server at a time), and such majorities intersect
// ours. The voter in both had term > T, durably, from its vote on, and the vote came
// before W's acknowledgement, hence before the read, hence before the voter told us
// T: a contradiction, as terms never fall.
//
// What another replica has shown counts, not only what was acknowledged: a follower
// can apply a command before the leader's own machine does. So the leader, too, waits
// for the read index. It is never the commit index itself: no-ops and configurations
// never reach the machine.
//
// A voter may say its term unasked, with what makes the round begin (readindex.go): what
// counts is that it said so after the reads had arrived.
//
// The answer carries the question's nonce, so a late answer to an earlier round is
// never counted in this one (etcd#20418).

// waiter is one read that waits for a round.
type waiter struct {
	gone  atomic.Bool // nobody waits any more
	lease bool        // wants the round to take a lease, too
	tell  func(confirmation)
}

// confirmation is the outcome of a round, or of a question to the leader.
type confirmation struct {
	term   uint64
	leader fulcrum.NodeID
	acks   int
	need   int
	at     time.Time // when it began, by this replica's monotonic clock
	index  uint64    // the read index
	commit struct {  // the leader's commit index; its term is 0 where it is not known
		index, term uint64
	}
	err error
}

// confirm returns nil once a round that began after the call has proved that this
// replica was the leader, and its machine reflects everything committed before.
func (c *core) confirm(ctx context.Context, lease bool) (confirmation, error) {
	r, err := c.confirmRound(ctx, lease)
	if err == nil {
		err = c.reflect(ctx, r.index)
	}
	return r, err
}

// confirmRound is confirm without a look at the machine.
func (c *core) confirmRound(ctx context.Context, lease bool) (confirmation, error) {
	if _, self := c.leader(); !self {
		return confirmation{}, c.notLeader("not the leader")
	}
	return c.join(ctx, c.reads, lease, "no majority confirmed this leader before the deadline")
}

// join waits for a round that begins from now on.
func (c *core) join(ctx context.Context, queue chan *waiter, lease bool, late string) (confirmation, error) {
	done := make(chan confirmation, 1)
	w := &waiter{lease: lease, tell: func(r confirmation) { done <- r }}
	if err := c.enter(queue, w); err != nil {
		return confirmation{}, err
	}
	select {
	case r := <-done:
		return r, r.err
	case <-ctx.Done():
		w.gone.Store(true)
		return confirmation{}, unavailable(c.env.Node, "%s", late)
	}
}

// enter makes w wait for a round that begins from now on.
func (c *core) enter(queue chan *waiter, w *waiter) error {
	select {
	case queue <- w:
	default:
		return fulcrum.Errorf(fulcrum.CodeOverloaded, "%d reads are waiting already", cap(queue))
	}
	if c.stopping.Load() {
		c.close() // run may have drained the queue before we entered it
	}
	return nil
}

// reflect waits until the machine of a leader has applied index.
func (c *core) reflect(ctx context.Context, index uint64) error {
	for {
		moved := c.advanced.wait()
		if c.machine.applied() >= index {
			return nil
		}
		if c.stopping.Load() || c.silent() {
			return unavailable(c.env.Node, "this replica is stopping")
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return unavailable(c.env.Node, "this replica is at %d, what is committed at %d", c.machine.applied(), index)
		}
	}
}

// shareRounds runs one round after the other while reads wait in queue.
func (c *core) shareRounds(ctx context.Context, queue chan *waiter, round func(ctx context.Context, lease bool) (confirmation, bool)) {
	var waiting []*waiter
	var pace pace
	for {
		if len(waiting) == 0 {
			select {
			case w := <-queue:
				waiting = append(waiting, w)
			case <-ctx.Done():
				return
			}
		}
		waiting = company(ctx, queue, arrived(queue, waiting), pace.wait())
		begun := time.Now()
		r, again := round(ctx, slices.ContainsFunc(waiting, func(w *waiter) bool { return w.lease }))
		if again && ctx.Err() == nil {
			waiting = stillWaiting(waiting)
			continue
		}
		pace = paceAfter(len(waiting)+len(queue), time.Since(begun), roundPace)
		for _, w := range waiting {
			w.tell(r)
		}
		clear(waiting)
		waiting = waiting[:0]
	}
}

// company waits a moment for more reads, as entries do for more writes: see pace.
func company(ctx context.Context, queue chan *waiter, ws []*waiter, p pace) []*waiter {
	if len(ws) >= p.requests {
		return ws
	}
	patience := time.NewTimer(p.most)
	defer patience.Stop()
	for len(ws) < p.requests {
		select {
		case w := <-queue:
			ws = append(ws, w)
		case <-patience.C:
			return ws
		case <-ctx.Done():
			return ws
		}
	}
	return ws
}

// arrived adds the reads that came in meanwhile: the next round is for them, too.
func arrived(queue chan *waiter, ws []*waiter) []*waiter {
	for {
		select {
		case w := <-queue:
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
func (c *core) round(ctx context.Context, in *instance, lease bool) (r confirmation, again bool) {
	stopped := confirmation{err: unavailable(c.env.Node, "this replica is stopping")}
	term := in.term()
	if _, self := c.leading(in); !self {
		return confirmation{err: c.notLeader("not the leader any more")}, false
	}
	if err := c.barrier(in, term); err != nil || in.term() != term {
		if ctx.Err() != nil {
			return stopped, false
		}
		return confirmation{err: c.notLeader("not the leader any more")}, false
	}
	// Before the commit index is read and the first question leaves: see proofs, lease.go.
	r = confirmation{term: term, leader: c.env.Node, at: time.Now()}
	r.commit.index = in.commit.Load()
	r.index, r.commit.term = c.readIndex(r.commit.index)
	v := in.view.Load()
	voters := v.conf.Voters()
	r.need = len(voters)/2 + 1
	asking := c.newQuestion(term, lease)
	promised := c.askVoters(ctx, in, voters, asking, &r)
	if c.silent() { // what was read from the log may be wrong
		return stopped, false
	}
	if r.acks >= r.need {
		c.leases.take(in, asking, v.confIndex, r.at, promised)
		c.proofs.add(r)
		return r, false
	}
	if _, self := c.leading(in); in.term() != term || !self {
		return confirmation{err: c.notLeader("not the leader any more")}, false
	}
	pause(ctx, 10*time.Millisecond)
	return stopped, true
}

// askVoters counts in r.acks those that say that the term is still the question's,
// until they are a majority or cannot be. promised is the shortest promise that any
// of those counted gave. An answer that comes later is heard by nobody.
func (c *core) askVoters(ctx context.Context, in *instance, voters []fulcrum.NodeID, q question, r *confirmation) (promised time.Duration) {
	type reply struct {
		is       bool
		promised time.Duration
	}
	if mutant.On("non-voter-counted") {
		voters = append(in.others(), c.env.Node) // mutant: asks those too whose word says nothing
	}
	answers := make(chan reply, len(voters)) // who answers never waits
	asked := 0
	msg := q.encode()
	for _, id := range voters {
		if id == c.env.Node {
			continue
		}
		asked++
		in.call(id, c.tuning.RPC, msg, func(b []byte, err error) {
			is, promised := c.asked(id, q, b, err)
			answers <- reply{is, promised}
		})
	}
	if asked < len(voters) && in.term() == q.term && !c.silent() {
		r.acks++
	}
	promised = q.lease
	for ; asked > 0 && r.acks < r.need && r.acks+asked >= r.need; asked-- {
		select {
		case a := <-answers:
			if a.is {
				r.acks++
				promised = min(promised, a.promised)
			}
		case <-ctx.Done():
			return 0
		}
	}
	return promised
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

// question is what a leader asks its voters: is this still your term, and, where
// lease is not 0, do you promise to elect nobody else for so long?
type question struct {
	nonce uint64
	term  uint64
	lease time.Duration
}

func (c *core) newQuestion(term uint64, lease bool) question {
	q := question{nonce: c.nonces.Add(1), term: term}
	if lease && c.leases.wanted() {
		q.lease = c.tuning.Lease
	}
	return q
}

func (q question) encode() []byte {
	return uvarints([]byte{msgConfirm}, q.nonce, q.term, uint64(q.lease/time.Microsecond))
}

func decodeQuestion(r *fulcrum.Reader) (question, error) {
	q := question{nonce: r.Uvarint(), term: r.Uvarint()}
	q.lease = time.Duration(min(r.Uvarint(), uint64(time.Hour/time.Microsecond))) * time.Microsecond
	return q, finish(r)
}

// asked reports whether a voter's answer says that it is in exactly this term, and for
// how long it promises to elect nobody else.
func (c *core) asked(id fulcrum.NodeID, q question, b []byte, err error) (is bool, promised time.Duration) {
	if err != nil {
		return false, 0
	}
	r, err := openReply(b)
	if err != nil {
		return false, 0
	}
	echoed, current := r.Uvarint(), r.Uvarint()
	promised = time.Duration(min(r.Uvarint(), uint64(q.lease/time.Microsecond))) * time.Microsecond
	if finish(r) != nil || echoed != q.nonce || current != q.term {
		return false, 0
	}
	c.peers.heard(id)
	return true, promised
}

// answerConfirm says which term this replica is in. The term is durable before the
// protocol's view shows it, so the answer holds through a crash; a promise does not
// (see lease.go).
func (c *core) answerConfirm(in *instance, from fulcrum.NodeID, r *fulcrum.Reader) ([]byte, error) {
	q, err := decodeQuestion(r)
	if err != nil {
		return nil, fulcrum.AsError(err)
	}
	term, promised := c.promises.give(from, q, c.grants(q.lease), in.term)
	if c.silent() {
		return nil, unavailable(c.env.Node, "this replica is stopping")
	}
	return uvarints([]byte{0}, q.nonce, term, uint64(promised/time.Microsecond)), nil
}

// readIndex returns the last command at or below commit, and commit's own term, 0
// where it is not known. Where the log is cut before such a command, the machine
// reflects everything below, and its own position stands in: that is safe, but a
// replica that came there by another way may not reach it before the next command.
func (c *core) readIndex(commit uint64) (index, commitTerm uint64) {
	if known := c.lastCommand.Load(); known != nil && known.commit == commit {
		return known.index, known.term
	}
	applied := c.machine.applied()
	index = applied
	for i := commit; i > 0; i-- {
		if i+searchBelow < applied {
			break
		}
		e, ok := c.store.entry(i)
		if !ok {
			index = max(i, applied)
			break
		}
		if i == commit {
			commitTerm = e.Term
		}
		if e.Kind == protocol.Command {
			index = i
			break
		}
	}
	if !c.silent() {
		c.lastCommand.Store(&command{commit: commit, term: commitTerm, index: index})
	}
	return index, commitTerm
}

// searchBelow is how far below the machine's position a command is looked for.
const searchBelow = 64

// command is what readIndex found at a commit index. It holds for good: what is
// committed does not change.
type command struct{ commit, term, index uint64 }
