package raft

import (
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication/raft/protocol"
)

// A lease lets a leader answer reads without a round: for a while nobody else can be
// elected. The protocol's own lease only makes a leader step down, and its followers may
// be talked into an election; so the lease rests on promises that voters give beside the
// protocol, in their answers to a confirmation round (confirm.go).
//
// A voter that answers "my term is T" to a question of L with nonce n may add a
// promise: for D, by its monotonic clock from now on,
//  1. no vote of it leaves for anybody but L. Requests are refused before the protocol
//     sees them, and a vote that the protocol has granted meanwhile is withheld;
//  2. no request for a vote of its own leaves. It may vote for itself in private:
//     where L is a voter, too, that is no majority;
//  3. it is let off early only by a release (L, T, m) with m >= n: L's word that it
//     has given up all leases of T whose nonce is up to m. L sends it with TimeoutNow
//     when it hands over, and the heir shows it when it asks for votes.
//
// A voter that restarts may have forgotten a promise: it keeps 1 and 2 against
// everybody for D, unless it has never been in any term.
//
// L, leader of T, began a round at t0 by its monotonic clock; a majority of voters,
// itself included, said T and promised D. Claim: until t0 + D no leader of a term
// above T is elected, unless L gave the lease up or knows that its term is over.
// Proof: the first such leader, of term U, needs votes for U from a majority of
// voters of L's configuration (or one that differs by one server: then L made it, and
// the lease is void, see holds). Some v is in both majorities. If v is L, its term is
// U or above before its vote leaves, and holds sees that. Else v said T, under the
// lock that also guards its votes (promises.mu): a vote for U that left before would
// have made its term U, as a term is stored, and seen in the protocol's view, before a
// vote or a request for votes leaves. So it leaves after the promise was given, hence after t0, and by
// 1 and 2 not before D is over on v's clock, unless 3 lets v off, and then L has
// given the lease up before. Terms above U come later still.
//
// v's clock may run faster than L's: L uses the lease only until t0 + D - D/leaseDrift,
// so it is right as long as no voter's clock gains D/leaseDrift on L's within D. The
// receipt states that bound. A paused process is no danger: the lease is looked at
// after the value was read (Group.leased).
//
// Writes need no lease: L alone commits in T, and what a later leader commits comes
// after its election.
//
// A lease is taken only by rounds that somebody asked for at level lease. A group in
// which nobody does runs on no clock, and its elections wait for nothing but the
// abstention after a restart.

// leaseDrift is the part of a lease that is left unused for clocks that differ.
const leaseDrift = 5

// lease is what a round won.
type lease struct {
	in        *instance
	term      uint64
	nonce     uint64
	confIndex uint64        // where the configuration stands whose voters promised
	until     time.Time     // by this replica's monotonic clock
	length    time.Duration // from the begin of the round
	bound     time.Duration // how much a voter's clock may gain
}

// leases is a leader's side.
type leases struct {
	current  atomic.Pointer[lease]
	given    atomic.Uint64 // leases with a nonce up to here are given up, for good
	paused   atomic.Int32  // transfers under way
	renewing atomic.Bool   // a round that renews has been asked for
}

// wanted reports whether a lease may be taken now.
func (l *leases) wanted() bool { return l.paused.Load() == 0 }

// pause takes no new lease until resume is called: a voter that promised again would
// refuse the heir.
func (l *leases) pause() (resume func()) {
	l.paused.Add(1)
	return func() { l.paused.Add(-1) }
}

// take notes the lease that a round won.
func (l *leases) take(in *instance, q question, confIndex uint64, from time.Time, promised time.Duration) {
	l.renewing.Store(false)
	if q.lease == 0 || promised <= 0 {
		return
	}
	bound := promised / leaseDrift
	l.current.Store(&lease{in: in, term: q.term, nonce: q.nonce, confIndex: confIndex,
		until: from.Add(promised - bound), length: promised - bound, bound: bound})
}

// giveUp ends every lease taken so far, before it returns the release that says so. It
// is called before TimeoutNow leaves, wherever that comes from.
func (l *leases) giveUp(c *core) release {
	in := c.instance.Load()
	if in == nil {
		return release{}
	}
	off := release{holder: c.env.Node, term: in.term(), nonce: c.nonces.Load()}
	if !mutant.On("lease-past-transfer") { // mutant: lets the voters off, and goes on itself
		for given := l.given.Load(); given < off.nonce && !l.given.CompareAndSwap(given, off.nonce); {
			given = l.given.Load()
		}
	}
	return off
}

// held returns the lease that this replica holds, or nil.
func (c *core) held() *lease {
	if l := c.leases.current.Load(); l != nil && c.holds(l) {
		return l
	}
	return nil
}

// holds reports whether l is good now. What it was before, it is: each condition, once
// it fails, fails for ever.
func (c *core) holds(l *lease) bool {
	return time.Now().Before(l.until) && l.nonce > c.leases.given.Load() && c.instance.Load() == l.in && !c.silent() &&
		l.in.rules(l.term, l.confIndex)
}

// renew asks for a round when l is about to run out, so that reads need not wait for
// one. Only reads call it: a lease that nobody uses runs out.
func (l *lease) renew(c *core) {
	if time.Until(l.until) > l.length/4 || !c.leases.wanted() || !c.leases.renewing.CompareAndSwap(false, true) {
		return
	}
	w := &waiter{lease: true, tell: func(confirmation) {}}
	w.gone.Store(true) // nobody waits: it is not tried again
	if c.reads.enter(w) != nil {
		c.leases.renewing.Store(false)
	}
}

// release is a leader's word that it has given up its leases of a term up to a nonce.
type release struct {
	holder fulcrum.NodeID
	term   uint64
	nonce  uint64
}

func (r release) append(b []byte) []byte {
	return uvarints(fulcrum.AppendBytes(b, []byte(r.holder)), r.term, r.nonce)
}

func readRelease(r *fulcrum.Reader) release {
	if len(r.Rest()) == 0 {
		return release{}
	}
	return release{holder: fulcrum.NodeID(r.String()), term: r.Uvarint(), nonce: r.Uvarint()}
}

// promises is a voter's side.
type promises struct {
	node fulcrum.NodeID

	mu      sync.Mutex
	to      fulcrum.NodeID // may be voted for
	term    uint64
	nonce   uint64
	until   time.Time
	abstain time.Time // until then it may be bound by what it has forgotten
	off     release   // the last one that it was shown
}

// begin is called before this replica answers anything. inTerm says that it may have
// promised something in a former life.
func (p *promises) begin(node fulcrum.NodeID, inTerm bool, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node = node
	if inTerm {
		p.abstain = time.Now().Add(d)
	}
}

// grants is how much of what is asked this replica promises: no more than it would
// abstain for after a restart.
func (c *core) grants(asked time.Duration) time.Duration {
	if !c.promising {
		return 0
	}
	return min(asked, c.tuning.Lease)
}

// give answers a question: the term that this replica is in and, if that is the
// question's, its promise. Both are one step for votes (see bound).
func (p *promises) give(to fulcrum.NodeID, q question, d time.Duration, current func() uint64) (term uint64, promised time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term = current(); term != q.term || d <= 0 {
		return term, 0
	}
	// A promise to the leader of a lower term is void: that leader's lease was over, or
	// given up, before this one could be elected.
	if p.to != to || p.term != q.term {
		p.to, p.term, p.nonce = to, q.term, 0
	}
	p.nonce = max(p.nonce, q.nonce)
	p.until = time.Now().Add(d)
	return term, d
}

// bound reports whether no vote may leave for candidate. The caller holds mu.
func (p *promises) bound(candidate fulcrum.NodeID, off release) bool {
	now := time.Now()
	if now.Before(p.abstain) {
		return true
	}
	letOff := off.holder == p.to && off.term == p.term && off.nonce >= p.nonce
	return now.Before(p.until) && candidate != p.to && !letOff
}

// bind reports whether no vote may leave for candidate, which shows a release.
func (p *promises) bind(candidate fulcrum.NodeID, off release) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bound(candidate, off)
}

// ask returns the release to show when this replica asks for votes, or an error while
// it must not ask for any.
func (p *promises) ask() (release, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bound(p.node, p.off) {
		return release{}, errPromised
	}
	return p.off, nil
}

// timeoutNow takes in the release that comes with the order to stand for election.
func (p *promises) timeoutNow(off release) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bound(p.node, off) {
		return errPromised
	}
	p.off = off
	return nil
}

var errPromised = fulcrum.Errorf(fulcrum.CodeUnavailable, "a leader has this replica's word that it elects nobody else for a moment")

// rules reports whether this replica leads a term with the configuration that stands at
// confIndex.
func (in *instance) rules(term, confIndex uint64) bool {
	v := in.view.Load()
	return v.Role == protocol.Leader && v.Term == term && v.confIndex == confIndex
}
