package raft_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// simReplica is what the simulation drives: a raft.Replica, or a raft.Group.
type simReplica interface {
	replication.AsyncGroup
	Handle(ctx context.Context, from fulcrum.NodeID, msg []byte) ([]byte, error)
	Run(ctx context.Context) error
	Leader() (fulcrum.NodeID, bool)
	HandOver(ctx context.Context) error
	Retire()
	Status() replication.Status
	Servers() []raft.Server
	Queues() raft.Queues
	VerifyLeader() error
	Propose(ctx context.Context, cmd []byte) (any, error)
	Confirm(ctx context.Context) error
	AskLeader(ctx context.Context) error
}

var (
	_ simReplica = (*raft.Replica)(nil)
	_ simReplica = simGroup{}
)

// simGroup is a Group whose commands are writes, each of a key of its own.
type simGroup struct {
	*raft.Group
	life *simLife
}

func (g simGroup) Propose(ctx context.Context, cmd []byte) (any, error) {
	id, _ := decodeCommand(cmd)
	req := replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: keyOf(id), Value: cmd, Quiet: id%2 == 0}}}
	again := 0
	if id%3 == 0 {
		req.ID, again = fulcrum.RequestID(fmt.Sprint("request ", id)), int(id%4)
	}
	s := g.life.m.s
	version, err := g.once(ctx, req, again)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	place := s.record.commands[id].place
	if place > 0 && s.record.history[place].index != version {
		s.failLocked("%s: command %d is answered as version %d, it has %d", g.life, id, version, s.record.history[place].index)
	}
	return place, nil
}

// once makes a request. One with an id it makes again, elsewhere, while the outcome is unknown
// and then so often: it takes effect once, and its answer stays the same.
func (g simGroup) once(ctx context.Context, req replication.WriteRequest, again int) (version uint64, err error) {
	s, maybe := g.life.m.s, false
	for there, tries := g, 0; ; tries++ {
		reply, err := there.Write(ctx, req)
		switch {
		case there.life.over(): // nobody hears of it
			maybe, err = true, errSimCrash
		case err == nil:
			v := reply.Results[0].Entry.Version.Time
			if again--; version > 0 && v != version {
				s.failf("%s: request %q is answered as version %d, and before as %d", there.life, req.ID, v, version)
			}
			version = v
		case version == 0 && !maybe && !fulcrum.AsError(err).Maybe:
			return 0, err
		default:
			maybe = true
		}
		if version > 0 && again < 0 || req.ID == "" {
			return version, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
			if next := s.members[(g.life.m.at+tries)%len(s.members)].up(); next != nil {
				there = next.replica.(simGroup)
			}
			continue
		case <-ctx.Done():
		}
		if version > 0 {
			return version, nil
		}
		return 0, fulcrum.Errorf(fulcrum.CodeUnknown, "%v", err)
	}
}

func keyOf(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// Confirm reads what was shown last, by the log or under a lease.
func (g simGroup) Confirm(ctx context.Context) error {
	s := g.life.m.s
	s.mu.Lock()
	shown := s.record.history[s.record.shown]
	s.mu.Unlock()
	level := consistency.L(consistency.Linearizable)
	if shown.count%3 == 0 {
		level = consistency.L(consistency.Lease)
	}
	reply, err := g.Read(ctx, replication.ReadRequest{Keys: [][]byte{keyOf(shown.id)}, Level: level})
	if err != nil || shown.count == 0 || g.life.over() {
		return err
	}
	if id, err := decodeCommand(reply.Entries[0].Value); err != nil || id != shown.id {
		s.failf("%s: a read at %v of command %d, which was shown before, is %x", g.life, level, shown.id, reply.Entries[0].Value)
	}
	return nil
}

func (g simGroup) AskLeader(ctx context.Context) error { return g.Confirm(ctx) }

// simState is a Group's state, which is slow, and of which a crash leaves an older position.
// Each of its entries is a command.
type simState struct {
	*replicationtest.State
	machine *simMachine
}

// openState shows what a crash has left.
func (l *simLife) openState() *simState {
	st := &simState{l.m.state, l.machine}
	l.machine.restore(standingOf(slices.Collect(maps.Values(st.Dump()))))
	return st
}

func byVersion(a, b fulcrum.Entry) int { return cmp.Compare(a.Version.Time, b.Version.Time) }

// standingOf is where a machine stands that holds these entries and no others.
func standingOf(all []fulcrum.Entry) (at standing) {
	slices.SortFunc(all, byVersion)
	for _, e := range all {
		at = at.then(e.Version.Time, binary.BigEndian.Uint64(e.Key))
	}
	return at
}

// Apply implements replication.State.
func (st *simState) Apply(index uint64, entries []fulcrum.Entry, extra map[string][]byte) error {
	came := slices.Clone(entries)
	for i := range came {
		came[i].Value = bytes.Clone(came[i].Value)
	}
	slices.SortFunc(came, byVersion)
	st.machine.lag()
	for _, e := range came {
		st.machine.apply(index, e.Version.Time, e.Value)
	}
	return st.State.Apply(index, entries, extra)
}

// Flush implements replication.State.
func (st *simState) Flush(ctx context.Context) error {
	st.machine.lag()
	return st.State.Flush(ctx)
}

// Install implements replication.State.
func (st *simState) Install(index uint64, extra map[string][]byte, fill func(put func(fulcrum.Entry) error) error) error {
	var all []fulcrum.Entry
	st.machine.lag()
	err := st.State.Install(index, extra, func(put func(fulcrum.Entry) error) error {
		return fill(func(e fulcrum.Entry) error {
			all = append(all, e)
			return put(e)
		})
	})
	if err == nil {
		st.machine.restore(standingOf(all))
	}
	return err
}

// checkValues: what a state has kept is still what was written.
func (st *simState) checkValues() {
	for key, e := range st.Dump() {
		if id, err := decodeCommand(e.Value); err != nil || !bytes.Equal(keyOf(id), []byte(key)) {
			st.machine.life.m.s.failf("%s: at %x stands %x", st.machine.life, key, e.Value)
		}
	}
}

// begin gives a member what all replicas of a group begin with, or a learner nothing.
func (m *simMember) begin() {
	m.state = replicationtest.NewState()
	if m == m.s.learner {
		return
	}
	m.disk.fail(errSimCrash)
	m.disk = newSimDisk(m.s, 0, 1, picture{base: 1})
	if err := m.state.Rebase(1, nil); err != nil {
		m.s.failf("%s: %v", m.id, err)
	}
}

// openGroup opens a Group in the place of a Replica.
func (l *simLife) openGroup() (simReplica, error) {
	s := l.m.s
	d := s.diceFor(2, uint64(l.m.at), uint64(l.n))
	env := l.env()
	env.Actor, env.Group, env.Epoch, env.Based = uint32(l.m.at+1), 7, 3, l.m != s.learner
	env.Replicas, env.Zone, env.MaxValue = s.voters, func(fulcrum.NodeID) string { return "z" }, fulcrum.DefaultMaxValue
	env.Clock = replicationtest.NewClock(time.Now, env.Actor)
	env.Rand = rand.New(rand.NewPCG(d.next(), d.next()))
	l.state = l.openState()
	env.State, env.Hints = l.state, replicationtest.NewState()
	g, err := raft.Open(env, raft.Options{Tuning: s.tuning, Changes: l.m.told})
	if err != nil {
		return nil, fmt.Errorf("open the group: %w", err)
	}
	return simGroup{g, l}, nil
}
