package protocol_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// replica is one of a cluster of which the test plays the others.
type replica struct {
	t    *testing.T
	r    *protocol.Raft
	log  *simLog
	now  time.Time
	sent []protocol.Send // by the last call
	slow bool            // entries become durable when the test says so
}

// members: a small letter is a voter, a capital one has no vote.
func members(names string) (c protocol.Configuration) {
	for _, n := range names {
		m := protocol.Member{ID: fulcrum.NodeID(n), Voter: n >= 'a'}
		if !m.Voter {
			m.ID = fulcrum.NodeID(n + 'a' - 'A')
		}
		c.Members = append(c.Members, m)
	}
	return c
}

// boot starts a replica with a log of entries of these terms; it is in the last one's.
func boot(t *testing.T, id fulcrum.NodeID, names string, terms ...uint64) *replica {
	p := &replica{t: t, now: time.Unix(1e9, 0), log: &simLog{batch: 100}}
	p.log.snap.conf.Configuration = members(names)
	p.log.entries = entries(1, terms...)
	if n := len(terms); n > 0 {
		p.log.hard.Term = terms[n-1]
	}
	p.log.synced(p.log.Last())
	p.restart(id)
	return p
}

func (p *replica) restart(id fulcrum.NodeID) {
	cfg := protocol.Config{ID: id, Election: election, Heartbeat: heartbeat, Calm: 2 * heartbeat, Lease: election, Retry: retry, Rand: rand.New(rand.NewPCG(1, 2))}
	p.r = protocol.New(cfg, p.log, p.log.hard, p.log.confs(p.log.Last()), p.now)
}

// entries are commands of these terms, from an index on.
func entries(first uint64, terms ...uint64) (out []protocol.Entry) {
	for i, term := range terms {
		out = append(out, protocol.Entry{Index: first + uint64(i), Term: term})
	}
	return out
}

func change(index, term uint64, names string) protocol.Entry {
	return protocol.Entry{Index: index, Term: term, Kind: protocol.Members, Data: members(names).Append(nil)}
}

// do carries out what a call left to do.
func (p *replica) do() {
	p.t.Helper()
	rd := p.r.Ready()
	if rd.Store != nil {
		p.log.store(*rd.Store)
	}
	if rd.Cut {
		p.log.cut(rd.CutAt)
	}
	p.log.entries = append(p.log.entries, rd.Append...)
	p.sent = rd.Sends
	for i := range p.sent {
		if m := p.sent[i].Append; m != nil && !p.r.Fill(p.now, p.sent[i].To, m, 1) {
			p.t.Errorf("no entries for %s", p.sent[i].To)
		}
	}
	if !p.slow {
		p.sync()
	}
	if err := p.r.Broken(); err != nil {
		p.t.Errorf("broken: %v", err)
	}
}

func (p *replica) sync() {
	p.log.synced(p.log.Last())
	p.r.Durable(p.now)
}

// tick lets time pass until the replica acts.
func (p *replica) tick() {
	p.t.Helper()
	p.now = p.r.Next()
	p.r.Tick(p.now)
	p.do()
}

func (p *replica) after(d time.Duration) {
	p.t.Helper()
	p.now = p.now.Add(d)
	p.r.Tick(p.now)
	p.do()
}

// grant gives the replica the votes that it asks for.
func (p *replica) grant() {
	p.t.Helper()
	asked := p.sent
	for _, s := range asked {
		if s.Vote != nil {
			p.r.Voted(p.now, s.To, *s.Vote, protocol.VoteReply{Term: p.r.State().Term, Granted: true})
		}
	}
	p.do()
}

// lead makes the replica the leader of the next term.
func (p *replica) lead() {
	p.t.Helper()
	for range 3 {
		if p.is(protocol.Leader) {
			return
		}
		if p.is(protocol.Follower) {
			p.tick()
		} else {
			p.grant()
		}
	}
	p.want(protocol.Leader, p.r.State().Term)
}

func (p *replica) is(role protocol.Role) bool { return p.r.State().Role == role }

func (p *replica) want(role protocol.Role, term uint64) {
	p.t.Helper()
	if s := p.r.State(); s.Role != role || s.Term != term {
		p.t.Errorf("%v of term %d, want %v of %d", s.Role, s.Term, role, term)
	}
}

func (p *replica) wantCommit(index uint64) {
	p.t.Helper()
	if got := p.r.Commit(); got != index {
		p.t.Errorf("committed is %d, want %d", got, index)
	}
}

func (p *replica) wantLog(terms ...uint64) {
	p.t.Helper()
	var got []uint64
	for _, e := range p.log.entries {
		got = append(got, e.Term)
	}
	if !slices.Equal(got, terms) {
		p.t.Errorf("the log's terms are %v, want %v", got, terms)
	}
}

func (p *replica) propose() {
	p.t.Helper()
	if _, _, err := p.r.Propose(p.now, nil); err != nil {
		p.t.Error(err)
	}
	p.do()
}

func (p *replica) append(from fulcrum.NodeID, m protocol.Append) protocol.Reply {
	p.t.Helper()
	reply := p.r.Append(p.now, from, m)
	p.do()
	return reply
}

func (p *replica) beat(from fulcrum.NodeID, m protocol.Heartbeat) protocol.Reply {
	p.t.Helper()
	reply := p.r.Heartbeat(p.now, from, m)
	p.do()
	return reply
}

// to is the append that the last call sent to id, nil if it sent none.
func (p *replica) to(id fulcrum.NodeID) *protocol.Append {
	for _, s := range p.sent {
		if s.To == id && s.Append != nil {
			return s.Append
		}
	}
	return nil
}

// wantSent is an append to id with n entries behind prev.
func (p *replica) wantSent(id fulcrum.NodeID, prev uint64, n int) *protocol.Append {
	p.t.Helper()
	m := p.to(id)
	if m == nil || m.Prev != prev || len(m.Entries) != n {
		p.t.Fatalf("%s is sent %+v, want %d entries behind %d", id, m, n, prev)
	}
	return m
}

func (p *replica) wantNothing(id fulcrum.NodeID) {
	p.t.Helper()
	if m := p.to(id); m != nil {
		p.t.Errorf("%s is sent %+v, want nothing", id, m)
	}
}

// taken answers an append.
func (p *replica) taken(from fulcrum.NodeID, m *protocol.Append) {
	p.t.Helper()
	if m == nil {
		p.t.Fatalf("%s was sent nothing", from)
	}
	p.r.Appended(p.now, from, *m, protocol.Reply{Term: m.Term, OK: true, Needs: m.Last()})
	p.do()
}

func (p *replica) refused(from fulcrum.NodeID, m protocol.Append, last uint64) {
	p.t.Helper()
	p.r.Appended(p.now, from, m, protocol.Reply{Term: m.Term, Last: last})
	p.do()
}

func (p *replica) beaten(ids ...fulcrum.NodeID) {
	p.t.Helper()
	term := p.r.State().Term
	for _, id := range ids {
		p.r.Beaten(p.now, id, term, protocol.Reply{Term: term, OK: true})
	}
	p.do()
}

// all answers what the last call sent, and what follows from that.
func (p *replica) all(ids ...fulcrum.NodeID) {
	p.t.Helper()
	sent := slices.Clone(p.sent)
	for _, s := range sent {
		if s.Append != nil && slices.Contains(ids, s.To) {
			p.taken(s.To, s.Append)
		}
	}
}

// first is what the leader's first append to id was.
func (p *replica) first(id fulcrum.NodeID) *protocol.Append {
	at, term := p.r.FirstOfTerm()-1, uint64(0)
	term, _ = p.log.Term(at)
	return &protocol.Append{Term: p.r.State().Term, Prev: at, PrevTerm: term, Entries: p.log.entries[at:]}
}

// pass lets time pass in which c answers, and keeps all that was sent.
func (p *replica) pass(d time.Duration) {
	p.t.Helper()
	var sent []protocol.Send
	for until := p.now.Add(d); p.now.Before(until); sent = append(sent, p.sent...) {
		p.r.Beaten(p.now, "c", p.r.State().Term, protocol.Reply{Term: p.r.State().Term, OK: true})
		if p.now = p.r.Next(); p.now.After(until) {
			p.now = until
		}
		p.r.Tick(p.now)
		p.do()
	}
	p.sent = sent
}

// wantSnapshot is n snapshots to id by the last call.
func (p *replica) wantSnapshot(id fulcrum.NodeID, n int) {
	p.t.Helper()
	got := 0
	for _, s := range p.sent {
		if s.To == id && s.Snapshot {
			got++
		}
	}
	if got != n {
		p.t.Errorf("%s is sent %d snapshots, want %d", id, got, n)
	}
}
