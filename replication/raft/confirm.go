package raft

import (
	"context"
	"errors"
	"slices"
	"sync"
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
func (c *core) join(ctx context.Context, reads *queue[*waiter], lease bool, late string) (confirmation, error) {
	done := make(chan confirmation, 1)
	w := &waiter{lease: lease, tell: func(r confirmation) { done <- r }}
	if err := c.enter(reads, w); err != nil {
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
func (c *core) enter(reads *queue[*waiter], w *waiter) error {
	err := reads.enter(w)
	if errors.Is(err, errStopping) {
		return unavailable(c.env.Node, "this replica is stopping")
	}
	return err
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

// beginRound begins a round for those that wait for one now. It does not block.
func (c *core) beginRound(ws []*waiter) {
	in := c.instance.Load()
	if in == nil {
		c.endRound(confirmation{err: c.notLeader("this replica is not running")})
		return
	}
	lease := slices.ContainsFunc(ws, func(w *waiter) bool { return w.lease })
	v := in.view.Load()
	if _, self := c.leading(in); !self || v.Role != protocol.Leader {
		c.endRound(confirmation{err: c.notLeader("not the leader any more")})
		return
	}
	if in.applied.Load() >= v.first {
		c.conduct(in, v.Term, lease)
		return
	}
	ok := in.spawn(func() {
		switch err := c.barrier(in, v.Term); {
		case err == nil:
			c.conduct(in, v.Term, lease)
		case c.stopping.Load() || in.ctx.Err() != nil:
			c.endRound(confirmation{err: unavailable(c.env.Node, "this replica is stopping")})
		default:
			c.endRound(confirmation{err: c.notLeader("not the leader any more")})
		}
	})
	if !ok {
		c.endRound(confirmation{err: unavailable(c.env.Node, "this replica is stopping")})
	}
}

// endRound tells those of the round what came of it.
func (c *core) endRound(r confirmation) {
	c.leases.renewing.Store(false)
	tellAll(c.reads, r)
}

func tellAll(reads *queue[*waiter], r confirmation) {
	for _, w := range reads.ended() {
		w.tell(r)
	}
	reads.over(nil)
}

// tryAgain begins another round, a little later, for those who still wait: this one proved
// nothing either way.
func (c *core) tryAgain() {
	c.leases.renewing.Store(false)
	time.AfterFunc(roundAgain, func() { c.reads.over(stillWaiting(c.reads.ended())) })
}

const roundAgain = 10 * time.Millisecond

// conduct is a round of a leader that has passed its barrier in term.
func (c *core) conduct(in *instance, term uint64, lease bool) {
	if in.term() != term {
		c.endRound(confirmation{err: c.notLeader("not the leader any more")})
		return
	}
	// Before the commit index is read and the first question leaves: see proofs, lease.go.
	t := &tally{core: c, in: in, question: c.newQuestion(term, lease),
		r: confirmation{term: term, leader: c.env.Node, at: time.Now()}}
	t.r.commit.index = in.commit.Load()
	t.r.index, t.r.commit.term = c.readIndex(t.r.commit.index)
	v := in.view.Load()
	voters := v.conf.Voters()
	t.r.need, t.confIndex, t.promised = len(voters)/2+1, v.confIndex, t.question.lease
	t.ask(voters)
}

// tally counts the voters that say that the term is still the question's, until they are a
// majority or cannot be. An answer that comes later is heard by nobody.
type tally struct {
	core      *core
	in        *instance
	question  question
	confIndex uint64

	mu       sync.Mutex // protects what follows until it is over
	r        confirmation
	left     int           // were asked, and have not answered
	own      bool          // this replica has said its word
	promised time.Duration // the shortest promise of those counted
	over     bool
}

func (t *tally) ask(voters []fulcrum.NodeID) {
	c := t.core
	if mutant.On("non-voter-counted") {
		voters = append(t.in.others(), c.env.Node) // mutant: asks those too whose word says nothing
	}
	var others []fulcrum.NodeID
	for _, id := range voters {
		if id != c.env.Node {
			others = append(others, id)
		}
	}
	t.left = len(others)
	msg := t.question.encode()
	for _, id := range others {
		t.in.call(id, c.tuning.RPC, msg, func(b []byte, err error) {
			is, promised := c.asked(id, t.question, b, err)
			t.count(is, promised, 1)
		})
	}
	t.count(len(others) < len(voters) && t.in.term() == t.question.term && !c.silent(), t.question.lease, 0)
}

// count takes in the word of one voter, of which answered (0 or 1) were waited for.
func (t *tally) count(is bool, promised time.Duration, answered int) {
	t.mu.Lock()
	t.left -= answered
	if is && !t.over {
		t.r.acks++
		t.promised = min(t.promised, promised)
	}
	// The word of this replica comes last: before, nothing is said to be impossible.
	t.own = t.own || answered == 0
	decided := !t.over && (t.r.acks >= t.r.need || t.own && t.r.acks+t.left < t.r.need)
	t.over = t.over || decided
	t.mu.Unlock()
	if decided {
		t.decide()
	}
}

// decide ends the round. Nobody else looks at the tally any more.
func (t *tally) decide() {
	c := t.core
	switch {
	case c.silent(): // what was read from the log may be wrong
		c.endRound(confirmation{err: unavailable(c.env.Node, "this replica is stopping")})
		return
	case t.r.acks >= t.r.need:
		from := t.r.at
		if mutant.On("lease-from-answers") {
			from = time.Now() // mutant: a lease from when the promises are here, not from before they were given
		}
		c.leases.take(t.in, t.question, t.confIndex, from, t.promised)
		c.proofs.add(t.r)
		c.endRound(t.r)
		return
	}
	if _, self := c.leading(t.in); t.in.term() != t.question.term || !self {
		c.endRound(confirmation{err: c.notLeader("not the leader any more")})
		return
	}
	c.tryAgain()
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
