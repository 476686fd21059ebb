package raft_test

import (
	"context"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
)

// simOperations are what happens to a group besides writes and reads.
var simOperations = []struct {
	weight int
	do     func(*sim)
}{
	{5, (*sim).crash},
	{2, (*sim).powerFailure},
	{2, (*sim).stop},
	{8, (*sim).restart},
	{4, (*sim).partition},
	{3, (*sim).isolate},
	{6, (*sim).heal},
	{6, (*sim).block},
	{3, (*sim).stall},
	{2, (*sim).breakDisk},
	{4, (*sim).handOver},
	{2, (*sim).campaign},
	{8, (*sim).reconfigure},
	{4, (*sim).wipe},
}

func (s *sim) operate() {
	sum := 0
	for _, w := range s.weights {
		sum += w
	}
	if sum == 0 {
		return
	}
	at := s.dice.IntN(sum)
	for i, w := range s.weights {
		if at -= w; at < 0 {
			simOperations[i].do(s)
			return
		}
	}
}

// pick returns one of the members that are as wanted, nil if none is.
func (s *sim) pick(want func(*simMember) bool) *simMember {
	from := s.dice.IntN(len(s.members))
	for i := range s.members {
		if m := s.members[(from+i)%len(s.members)]; want(m) {
			return m
		}
	}
	return nil
}

func isUp(m *simMember) bool   { return m.current() != nil && !m.current().disk.failed() }
func isDown(m *simMember) bool { return m.current() == nil }

func itLeads(m *simMember) bool {
	l := m.up()
	if l == nil {
		return false
	}
	_, self := l.replica.Leader()
	return self
}

func (s *sim) crash() {
	if m := s.pick(isUp); m != nil {
		m.crash()
	}
}

// powerFailure ends several lives at once, perhaps all, which come back soon.
func (s *sim) powerFailure() {
	for _, m := range s.members {
		if s.dice.chance(70) {
			m.crash()
		}
	}
	time.Sleep(s.dice.upTo(300 * time.Millisecond))
	for _, m := range s.members {
		if isDown(m) && s.dice.chance(80) {
			m.start()
		}
	}
}

func (s *sim) stop() {
	if m := s.pick(isUp); m != nil {
		m.stop()
	}
}

func (s *sim) restart() {
	if m := s.pick(isDown); m != nil {
		m.start()
	}
}

// partition parts the members in two, sometimes only one way.
func (s *sim) partition() {
	side, oneWay := s.dice.IntN(1<<len(s.members)), s.dice.chance(30)
	s.tracef("partition %05b, one way %v", side, oneWay)
	s.cut(func(i, j int) bool {
		a, b := side>>i&1, side>>j&1
		return a < b || a > b && !oneWay
	})
}

// isolate cuts off a leader, sometimes only one way.
func (s *sim) isolate() {
	if m := s.pick(itLeads); m != nil {
		way := s.dice.IntN(3)
		s.tracef("%s: isolated (%d)", m.id, way)
		s.cut(func(i, j int) bool { return i == m.at && way != 1 || j == m.at && way != 2 })
	}
}

func (s *sim) heal() {
	s.tracef("heal")
	s.cut(func(i, j int) bool { return false })
}

func (s *sim) cut(is func(i, j int) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.links {
		for j := range s.links[i] {
			s.links[i][j].cut = i != j && is(i, j)
		}
	}
}

// block lets a state machine do nothing for a while.
func (s *sim) block() {
	if m := s.pick(isUp); m != nil {
		d := s.dice.upTo(4 * time.Second)
		s.tracef("%s: the machine does nothing for %v", m.id, d)
		m.current().machine.block(time.Now().Add(d))
	}
}

// stall lets a disk do nothing for a while.
func (s *sim) stall() {
	if m := s.pick(isUp); m != nil {
		d := s.dice.upTo(8 * s.tuning.Heartbeat)
		s.tracef("%s: the disk stands still for %v", m.id, d)
		m.current().disk.stall(time.Now().Add(d))
	}
}

func (s *sim) breakDisk() {
	if m := s.pick(isUp); m != nil {
		s.tracef("%s: the disk fails", m.id)
		m.current().disk.fail(errSimDisk)
		if st := m.state; st != nil {
			st.FailWith(errSimDisk)
		}
	}
}

// reap notices the lives that have ended by themselves, as their disks failed.
func (s *sim) reap() {
	for _, m := range s.members {
		if l := m.current(); l != nil && l.gone() {
			m.take()
		}
	}
}

func (s *sim) handOver() {
	m := s.pick(itLeads)
	if m == nil {
		return
	}
	s.tracef("%s: is to hand over", m.id)
	l, limit := m.up(), s.dice.upTo(2*time.Second)
	if l == nil {
		return
	}
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, limit)
		defer cancel()
		err := l.replica.HandOver(ctx)
		s.tracef("%s: handed over: %v", l, err)
	})
}

// campaign tells a member to ask for an election, as a leader would that has gone since.
func (s *sim) campaign() {
	from, to := s.pick(isUp), s.pick(isUp)
	if from == nil || to == nil || from.up() == nil {
		return
	}
	s.tracef("%s: is told to campaign", to.id)
	simPeers{from.up()}.Go(to.id, raft.TimeoutNow(), s.tuning.RPC, func([]byte, error) {})
}

// reconfigure adds, promotes, demotes or removes one member, one at a time. A Group has a
// learner at the most.
func (s *sim) reconfigure() {
	if s.grouped {
		s.learn()
		return
	}
	leader := s.pick(itLeads)
	if leader == nil || s.changing.Load() {
		return
	}
	l := leader.up()
	if l == nil {
		return
	}
	m := s.members[s.dice.IntN(len(s.members))]
	at := slices.IndexFunc(l.replica.Servers(), func(v raft.Server) bool { return v.Node == m.id })
	voters := 0
	for _, v := range l.replica.Servers() {
		if v.Voter {
			voters++
		}
	}
	change, what := (*raft.Replica).AddNonvoter, "added"
	switch {
	case at < 0:
	case !l.replica.Servers()[at].Voter && s.dice.chance(80):
		change, what = (*raft.Replica).AddVoter, "promoted"
	case voters <= 2 && s.dice.chance(80):
		return
	case s.dice.chance(50):
		change, what = (*raft.Replica).RemoveServer, "removed"
	default:
		what = "demoted"
	}
	s.change(l, m, what, change)
}

func (s *sim) change(l *simLife, m *simMember, what string, change func(*raft.Replica, context.Context, fulcrum.NodeID) error) {
	s.changing.Store(true)
	s.setOut(m, time.Time{})
	s.tracef("%s: %s is to be %s", l, m.id, what)
	s.tasks.Go(func() {
		defer s.changing.Store(false)
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		err := change(l.replica.(*raft.Replica), ctx, m.id)
		s.tracef("%s: %s is %s: %v", l, m.id, what, err)
		if err == nil && what == "removed" {
			s.setOut(m, time.Now())
		}
	})
}

// removal is when a member is known to have been removed, and how long the history was.
type removal struct {
	at      time.Time
	history int
}

func (s *sim) setOut(m *simMember, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out[m.at] = removal{at, len(s.record.history)}
}

// learn has the leader of a Group let a member learn, or let go of it.
func (s *sim) learn() {
	m := s.pick(itLeads)
	if m == nil || s.learner == nil || m.up() == nil || s.changing.Swap(true) {
		return
	}
	l, learners := m.up(), []fulcrum.NodeID{}
	if s.dice.chance(70) {
		learners = append(learners, s.learner.id)
	}
	s.tracef("%s: is to have %v learn", l, learners)
	s.tasks.Go(func() {
		defer s.changing.Store(false)
		ctx, cancel := context.WithTimeout(l.ctx, 3*time.Second)
		defer cancel()
		got, err := l.replica.(simGroup).Learn(ctx, learners)
		s.tracef("%s: has %v learn: %v, %v", l, learners, got, err)
	})
}

// wipe gives an empty disk to a member that was removed, or to a learner.
func (s *sim) wipe() {
	if m := s.pick(s.mayBeWiped); m != nil && !s.changing.Load() {
		m.crash()
		s.setOut(m, time.Time{})
		m.wipe()
		if s.grouped {
			m.begin()
		}
		m.start()
	}
}

// mayBeWiped: no answer that m gave is under way any more, and everybody holds a command
// behind the removal, so that m is no voter for anybody. One who has been away since could
// be elected by two or three who were wiped, and bring back what is long overruled.
func (s *sim) mayBeWiped(m *simMember) bool {
	if s.faults.forgetsAll || s.faults.beginsAnew {
		return !s.grouped
	}
	if s.grouped {
		return m == s.learner // at any time: nothing that it says counts
	}
	s.mu.Lock()
	out, ok := s.out[m.at], false
	var behind historic
	if ok = !out.at.IsZero() && time.Since(out.at) > 4*s.tuning.RPC && len(s.record.history) > out.history; ok {
		behind = s.record.history[out.history]
	}
	s.mu.Unlock()
	for _, o := range s.members {
		ok = ok && (o == m || o.log().empty() || o.log().holds(behind.index, behind.record))
	}
	return ok
}
