package raft

import (
	"slices"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
)

// A node without a replica of a shard has a linearizable read confirmed in one round trip
// where the leader and one other voter, the witness, are a majority: it asks the witness
// for its term (AskTerm), and at the same time the leader for the read (pair). The leader
// answers with its own word alone. If the witness says the leader's term, that is a round
// as in confirm.go: the leader has passed its barrier in T and notes the read index after
// the read has arrived, and a majority of voters says exactly T after the read has
// arrived. Whom the two tell does not matter to the proof; neither does who asks first.
// If the witness says another term, or nothing, the answer proves nothing and is thrown
// away.

// AskTerm asks a voter which term it is in, as a round does (answerConfirm), and tells
// done. It does not wait. The nonce must be another one for each question of a node.
func AskTerm(peers replication.AsyncPeers, voter fulcrum.NodeID, nonce uint64, timeout time.Duration, done func(term uint64, err error)) {
	peers.Go(voter, question{nonce: nonce}.encode(), timeout, func(b []byte, err error) {
		if err != nil {
			done(0, err)
			return
		}
		r, err := openReply(b)
		if err != nil {
			done(0, err)
			return
		}
		echoed, term := r.Uvarint(), r.Uvarint()
		r.Uvarint() // a promise, which was not asked for
		if err = finish(r); err == nil && echoed != nonce {
			err = fulcrum.Errorf(fulcrum.CodeInternal, "%s answers another question", voter)
		}
		done(term, err)
	})
}

// pair is this leader's part of a round in which only the word of one other voter is
// missing: if the two are a majority. The leader must have passed its barrier, and looks
// at its own term before its commit index.
func (c *core) pair(with fulcrum.NodeID) (r confirmation, ok bool) {
	in := c.instance.Load()
	if in == nil || with == "" || with == c.env.Node {
		return r, false
	}
	v := in.view.Load()
	_, self := c.leading(in)
	if !self || v.Role != protocol.Leader || in.applied.Load() < v.first {
		return r, false
	}
	voters := v.conf.Voters()
	r = confirmation{term: v.Term, leader: c.env.Node, acks: 1, need: len(voters)/2 + 1}
	if r.need > 2 || !slices.Contains(voters, with) || !slices.Contains(voters, c.env.Node) {
		return r, false
	}
	r.commit.index = in.commit.Load()
	r.index, r.commit.term = c.readIndex(r.commit.index)
	return r, true
}
