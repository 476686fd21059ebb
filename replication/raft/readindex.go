package raft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication/raft/protocol"
)

// A replica that does not lead answers reads after it has asked the leader for a read
// index (confirm.go). One question serves all reads that had arrived here when it
// left, and the leader begins a round for it after it has come in: so the round began
// after those reads. The question carries a nonce, and its answer repeats it.
//
// The question says, too, which term its sender is in: what a voter would answer in the
// round, said after the reads had arrived. Where the sender and the leader are a majority
// of the voters, that is the whole round, and the leader answers at once (vouched). So
// in a group of three a read on a follower costs one message there and one back.
//
// The replica needs the commit index, too, to know that it may apply what its log
// holds. The leader's next message would tell, but an idle leader does not hurry; so
// the answer carries it, with its term, as a heartbeat does.

// askPatience is how long a question to the leader may take. It is longer than a slow
// link and a round need, and short enough for the read to be tried elsewhere.
func (t Tuning) askPatience() time.Duration { return min(t.RPC, t.Heartbeat/2) }

// catchUpPatience is how long a replica waits for its log to reach a read index before
// it sends the read to the leader.
const catchUpPatience = 150 * time.Millisecond

// unheard remembers a leader that did not answer a question, so that reads that come
// right behind it need not wait for it, too.
type unheard struct {
	mu    sync.Mutex
	id    fulcrum.NodeID
	until time.Time
}

const unheardFor = 200 * time.Millisecond

func (u *unheard) set(id fulcrum.NodeID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.id, u.until = id, time.Now().Add(unheardFor)
}

func (u *unheard) is(id fulcrum.NodeID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.id == id && time.Now().Before(u.until)
}

// beginQuestion asks the leader, for those that wait now. It does not block.
func (c *core) beginQuestion([]*waiter) {
	in := c.instance.Load()
	leader, self := c.leader()
	var wrong string
	switch {
	case in == nil:
		wrong = "this replica is not running"
	case self || leader == "":
		wrong = "no other replica is known to lead"
	case c.unheard.is(leader):
		wrong = "the leader did not answer just now"
	}
	if wrong != "" {
		tellAll(c.asks, confirmation{err: c.notLeader(wrong)})
		return
	}
	nonce := c.nonces.Add(1)
	at := time.Now() // before the question leaves
	in.call(leader, c.tuning.askPatience(), uvarints([]byte{msgReadIndex}, nonce, in.term()), func(b []byte, err error) {
		if mutant.On("bounded-proof-late") {
			at = time.Now() // mutant: as fresh as the answer, not as the question
		}
		r := c.answered(leader, nonce, at, b, err)
		if r.err == nil {
			c.proofs.add(r)
			c.learn(in, r)
		}
		tellAll(c.asks, r)
	})
}

// answered reads the leader's answer to a question.
func (c *core) answered(leader fulcrum.NodeID, nonce uint64, at time.Time, b []byte, err error) confirmation {
	if err != nil {
		return confirmation{err: c.unconfirmed(leader, err)}
	}
	a, err := openReadIndex(b)
	if err != nil || a.nonce != nonce {
		return confirmation{err: c.notLeader("the leader's answer cannot be read")}
	}
	r := confirmation{term: a.term, leader: leader, acks: int(a.acks), need: int(a.need), at: at, index: a.index}
	r.commit.index, r.commit.term = a.commit, a.commitTerm
	return r
}

// unconfirmed is the error of a read whose question failed. What sends it elsewhere, or
// says that the leader has too much to do, is passed on.
func (c *core) unconfirmed(leader fulcrum.NodeID, err error) error {
	var e *fulcrum.Error
	if errors.As(err, &e) {
		switch e.Code {
		case fulcrum.CodeNotLeader, fulcrum.CodeEpoch, fulcrum.CodeOverloaded:
			return e
		}
	}
	c.unheard.set(leader)
	return &fulcrum.Error{Code: fulcrum.CodeNotLeader, Node: c.env.Node, Hint: string(leader),
		Detail: fmt.Sprintf("the leader gave no read index: %v", err), Err: err}
}

// readIndexAnswer is what a leader answers.
type readIndexAnswer struct {
	nonce, term, index uint64
	commit, commitTerm uint64
	acks, need         uint64
}

func (a readIndexAnswer) encode() []byte {
	return uvarints([]byte{0}, a.nonce, a.term, a.index, a.commit, a.commitTerm, a.acks, a.need)
}

func decodeReadIndex(r *fulcrum.Reader) (readIndexAnswer, error) {
	a := readIndexAnswer{nonce: r.Uvarint(), term: r.Uvarint(), index: r.Uvarint(), commit: r.Uvarint(), commitTerm: r.Uvarint(),
		acks: r.Uvarint(), need: r.Uvarint()}
	return a, finish(r)
}

func openReadIndex(b []byte) (readIndexAnswer, error) {
	r, err := openReply(b)
	if err != nil {
		return readIndexAnswer{}, err
	}
	return decodeReadIndex(r)
}

// takeReadIndex answers a replica's question, at once or after a round that begins now.
func (c *core) takeReadIndex(from fulcrum.NodeID, r *fulcrum.Reader, answer func([]byte, error)) {
	nonce, term := r.Uvarint(), r.Uvarint()
	if err := finish(r); err != nil {
		answer(nil, fulcrum.AsError(err))
		return
	}
	tell := func(round confirmation) {
		switch {
		case round.err != nil:
			answer(nil, round.err)
		case c.silent():
			answer(nil, unavailable(c.env.Node, "this replica is stopping"))
		default:
			answer(readIndexAnswer{nonce: nonce, term: round.term, index: round.index, commit: round.commit.index,
				commitTerm: round.commit.term, acks: uint64(round.acks), need: uint64(round.need)}.encode(), nil)
		}
	}
	if round, ok := c.vouched(from, term); ok {
		tell(round)
		return
	}
	c.roundFor(tell)
}

// vouched is the round of a question whose sender was in term when it asked, if it and
// this leader are a majority: then both have said so after the reads had arrived, which
// is all that a round asks of a majority (confirm.go). It is no proof for the leader's
// own bounded reads (proofs): the sender spoke at a time that only it knows.
func (c *core) vouched(from fulcrum.NodeID, term uint64) (r confirmation, ok bool) {
	if r, ok = c.pair(from); !ok || r.term != term {
		return r, false
	}
	r.acks++
	return r, true
}

// roundFor tells the outcome of a confirmation round that begins from now on.
func (c *core) roundFor(tell func(confirmation)) {
	if in := c.instance.Load(); mutant.On("follower-read-no-confirm") && in != nil && in.leads() {
		r := confirmation{term: in.term(), acks: 1, need: 1} // mutant: thinks that it leads, and asks nobody
		r.commit.index = in.commit.Load()
		r.index, r.commit.term = c.readIndex(r.commit.index)
		tell(r)
		return
	}
	if _, self := c.leader(); !self {
		tell(confirmation{err: c.notLeader("not the leader")})
		return
	}
	if err := c.enter(c.reads, &waiter{tell: tell}); err != nil {
		tell(confirmation{err: err})
	}
}

// learn tells the protocol what the leader has committed. It is safe as any heartbeat is:
// the leader of r.term could have sent it, since it holds that entry and has committed it.
func (c *core) learn(in *instance, r confirmation) {
	if r.commit.term > 0 && in.commit.Load() < r.commit.index {
		in.post(event{run: func(p *protocol.Raft, _ time.Time) { p.Learn(r.commit.index, r.commit.term) }})
	}
}

// has reports whether the machine reflects the log up to index, and the log is known to agree
// with the leader's as far. The machine alone is no proof: where logs have lost their ends it
// may hold what the log does not go on with (errLost), which shows when that comes here. Whether
// it has shown is looked at last: what is known to be committed moves on behind a failure, too.
func (c *core) has(index uint64) bool {
	in := c.instance.Load()
	return in != nil && in.commit.Load() >= index && in.applied.Load() >= index && c.machine.applied() >= index && !c.silent()
}

// catchUp waits a little until the machine has applied index. r is what the leader
// said, if it was asked: while the entry at its commit index is on its way here, it is
// looked for again and again.
func (c *core) catchUp(ctx context.Context, index uint64, r confirmation) error {
	if c.has(index) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		moved := c.advanced.wait()
		if c.has(index) {
			return nil
		}
		select {
		case <-moved:
		case <-again.C:
			if in := c.instance.Load(); in != nil {
				c.learn(in, r)
			}
		case <-ctx.Done():
			return c.notLeader(fmt.Sprintf("this replica is at %d, the read at %d", c.machine.applied(), index))
		}
	}
}

// proofs remembers the newest round or answer: a replica whose machine has applied
// index holds everything that was acknowledged before at. That stays true for ever,
// whoever leads meanwhile, so reads at a bounded staleness may rest on it for a while.
// at is this replica's own monotonic time, taken before the question left: no other
// clock has a part in it.
type proofs struct {
	mu    sync.Mutex
	at    time.Time
	index uint64
}

func (p *proofs) add(r confirmation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at.Before(r.at) {
		p.at, p.index = r.at, r.index
	}
}

// newest returns the newest proof; ok is false if there is none.
func (p *proofs) newest() (at time.Time, index uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.index, !p.at.IsZero()
}
