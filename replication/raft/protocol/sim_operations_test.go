package protocol_test

import (
	"encoding/binary"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// operations are what happens to a cluster besides messages and time.
var operations = []struct {
	weight int
	do     func(*sim)
}{
	{20, (*sim).proposeSome},
	{3, (*sim).crash},
	{5, (*sim).restart},
	{2, (*sim).partition},
	{4, (*sim).heal},
	{6, (*sim).compact},
	{2, (*sim).handOver},
	{6, (*sim).configure},
	{2, (*sim).isolate},
	{2, (*sim).pause},
}

func (s *sim) operate() {
	sum := 1
	for _, w := range s.weights {
		sum += w
	}
	at := s.rng.IntN(sum)
	for i, w := range s.weights {
		if at -= w; at < 0 {
			operations[i].do(s)
			return
		}
	}
	s.next()
}

// pick returns one of the replicas that run and are as wanted, nil if none is.
func (s *sim) pick(want func(*simNode) bool) *simNode {
	from := s.rng.IntN(len(s.nodes))
	for i := range s.nodes {
		if n := s.nodes[(from+i)%len(s.nodes)]; n.up && want(n) {
			return n
		}
	}
	return nil
}

func anyone(*simNode) bool  { return true }
func leads(n *simNode) bool { return n.role == protocol.Leader }

func (s *sim) proposeSome() {
	n := s.pick(leads)
	if n == nil {
		return
	}
	for range 1 + s.rng.IntN(3) {
		s.command++
		s.tracef("%s: propose %d", n.id, s.command)
		n.r.Propose(s.now, binary.BigEndian.AppendUint64(nil, s.command))
		if s.chance(50) { // else the next one goes with it
			s.carry(n, nil)
		}
	}
	s.carry(n, nil)
}

// crash ends a life; or several, as a power failure does.
func (s *sim) crash() {
	for range 1 + s.rng.IntN(2)*s.rng.IntN(3) {
		if n := s.pick(anyone); n != nil {
			n.up = false
			n.log.crash()
			s.tracef("%s: crash, the log ends at %d", n.id, n.log.Last())
		}
	}
}

func (s *sim) restart() {
	for _, n := range s.nodes {
		if !n.up {
			s.tracef("%s: restart", n.id)
			s.start(n)
			return
		}
	}
}

// partition parts the replicas in two, sometimes only one way.
func (s *sim) partition() {
	side, oneWay := s.rng.IntN(1<<len(s.nodes)), s.chance(30)
	for i := range s.nodes {
		for j := range s.nodes {
			a, b := side>>i&1, side>>j&1
			s.cuts[i][j] = a < b || a > b && !oneWay
		}
	}
	s.tracef("partition %05b, one way %v", side, oneWay)
}

// isolate cuts off a leader, sometimes only one way.
func (s *sim) isolate() {
	n := s.pick(leads)
	if n == nil {
		return
	}
	way := s.rng.IntN(3)
	for i := range s.nodes {
		if i != n.at {
			s.cuts[n.at][i], s.cuts[i][n.at] = way != 1, way != 2
		}
	}
	s.tracef("%s: isolated (%d)", n.id, way)
}

func (s *sim) heal() {
	s.cuts = [5][5]bool{}
	s.tracef("heal")
}

// pause lets a replica do nothing for a while, as a busy machine does.
func (s *sim) pause() {
	if n := s.pick(anyone); n != nil {
		n.paused = s.now.Add(s.upTo(3 * election))
		s.tracef("%s: paused until %v", n.id, n.paused)
	}
}

// compact takes a snapshot of something committed, and drops entries that it covers.
func (s *sim) compact() {
	n := s.pick(func(n *simNode) bool { return n.commit > n.log.snap.index })
	if n == nil {
		return
	}
	at := n.log.snap.index + 1 + s.rng.Uint64N(n.commit-n.log.snap.index)
	term, _ := n.log.Term(at)
	confs := n.log.confs(at)
	first := at + 1 - s.rng.Uint64N(min(3, at+1-n.log.base))
	n.log.take(simSnapshot{at, term, confs[len(confs)-1]}, first)
	s.tracef("%s: snapshot of %d, the log begins at %d", n.id, at, n.log.First())
}

func (s *sim) handOver() {
	if n := s.pick(anyone); n != nil {
		s.tracef("%s: campaign", n.id)
		n.r.Campaign(s.now)
		s.carry(n, nil)
	}
}

// configure adds, promotes, demotes or removes one server.
func (s *sim) configure() {
	n := s.pick(leads)
	if n == nil {
		return
	}
	c, _ := n.r.Configuration()
	next := s.changed(c)
	if s.faults.leaps {
		next = s.changed(s.changed(next))
	}
	if len(next.Voters()) == 0 {
		return
	}
	_, _, err := n.r.Configure(s.now, next)
	s.tracef("%s: configure %v: %v", n.id, next.Members, err)
	s.carry(n, nil)
}

func (s *sim) changed(c protocol.Configuration) protocol.Configuration {
	id := fulcrum.NodeID('a' + rune(s.rng.IntN(len(s.nodes))))
	switch {
	case !c.Has(id):
		return c.With(protocol.Member{ID: id, Voter: s.chance(30)})
	case s.chance(40):
		return c.Without(id)
	}
	return c.With(protocol.Member{ID: id, Voter: !c.Voter(id)})
}
