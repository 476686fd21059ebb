package raft_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/raft/protocol"
)

// A command is its id, a sum over all of it, and some bytes.
func encodeCommand(id uint64, size int) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 4, 12+size), id)
	for i := range size {
		b = append(b, byte(id)+byte(i))
	}
	binary.BigEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	return b
}

func decodeCommand(b []byte) (id uint64, err error) {
	if len(b) < 12 || binary.BigEndian.Uint32(b) != crc32.ChecksumIEEE(b[4:]) {
		return 0, errors.New("damaged command")
	}
	return binary.BigEndian.Uint64(b[4:]), nil
}

// standing is where a machine stands: it has applied the first count commands of the
// group's history, the last of which stands at index of the log (or, of a Group, has that
// version). sum is of all of them.
type standing struct{ count, index, sum uint64 }

func (at standing) then(index, id uint64) standing {
	h := fnv.New64a()
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, at.sum), index), id))
	return standing{at.count + 1, index, h.Sum64()}
}

// simMachine compares each step with the group's history. It is slow by chance, and does
// nothing for as long as it is told to.
type simMachine struct {
	life *simLife
	dice dice
	pad  int // bytes of a picture besides

	mu     sync.Mutex
	at     standing
	before standing // the command before
	until  time.Time
}

func (m *simMachine) standing() standing {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

func (m *simMachine) block(until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.until = until
}

// lag waits for as long as a step takes, or until the life is over.
func (m *simMachine) lag() {
	m.mu.Lock()
	d := time.Until(m.until)
	switch {
	case d > 0:
	case m.dice.chance(2):
		d = m.dice.upTo(400 * time.Millisecond)
	case m.dice.chance(30):
		d = m.dice.upTo(2 * time.Millisecond)
	}
	m.mu.Unlock()
	if d > 0 {
		m.life.pause(d)
	}
}

// Apply implements raft.Machine. It returns how many commands there are with this one.
func (m *simMachine) Apply(index uint64, cmd []byte) any {
	came := bytes.Clone(cmd)
	m.lag()
	if !m.life.over() && !bytes.Equal(came, cmd) {
		m.life.m.s.failf("%s applies at %d a command that changes meanwhile: %x, then %x", m.life, index, came, cmd)
	}
	return m.apply(index, index, came)
}

// apply takes one command, which stands at index of the log. Place is higher than that of
// the one before it.
func (m *simMachine) apply(index, place uint64, cmd []byte) (count uint64) {
	s := m.life.m.s
	if m.life.over() {
		return 0
	}
	id, err := decodeCommand(cmd)
	if err != nil {
		s.failf("%s applies at %d a command that is damaged: %x", m.life, index, cmd)
		return 0
	}
	m.mu.Lock()
	m.before, m.at = m.at, m.at.then(place, id)
	at := m.at
	m.mu.Unlock()
	s.applied(m.life, at, id, index)
	return at.count
}

// Snapshot implements raft.Machine.
func (m *simMachine) Snapshot() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.at
	if m.life.m.s.faults.early {
		at = m.before // broken: the position is ahead of the picture
	}
	b := make([]byte, 0, 24+m.pad)
	for _, v := range []uint64{at.count, at.index, at.sum} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, make([]byte, m.pad)...)
}

// Restore implements raft.Machine.
func (m *simMachine) Restore(b []byte) error {
	m.lag()
	if m.life.over() {
		return nil
	}
	if len(b) < 24 {
		return fmt.Errorf("picture of %d bytes", len(b))
	}
	m.restore(standing{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])})
	return nil
}

// restore makes the machine stand somewhere else in the history, and not behind.
func (m *simMachine) restore(at standing) {
	s := m.life.m.s
	m.mu.Lock()
	was := m.at
	m.at, m.before = at, at
	m.mu.Unlock()
	s.tracef("%s: restores %d commands, the last at %d", m.life, at.count, at.index)
	if at.count < was.count {
		s.failf("%s goes back from %d commands to %d", m.life, was.count, at.count)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.restores++
	if n := uint64(len(s.record.history)); at.count >= n || s.record.history[at.count].standing != at {
		s.failLocked("%s restores %+v, which is not in the history of %d commands", m.life, at, n-1)
	}
}

// historic is a command of the group's history.
type historic struct {
	standing
	id     uint64
	record []byte // of the log
}

// proposed is what is known of a command.
type proposed struct {
	refused bool   // answered: definitely not done
	acked   bool   // answered: done
	place   uint64 // in the history; 0: it is not there
	atLeast uint64 // what had been acknowledged or read when it was proposed
}

// simRecord is what the whole group has ever done.
type simRecord struct {
	leaders   map[uint64]fulcrum.NodeID
	votes     map[simBallot]fulcrum.NodeID
	history   []historic // that at 0 is none
	commands  map[uint64]*proposed
	snapshots map[uint64]uint64 // where one was taken -> where its configuration stands
	shown     uint64            // commands that were acknowledged, or seen by a read

	acks, refusals, unknown, reads, restores, lives, parts int
	told, compacted                                        int // of watches
}

type simBallot struct {
	term  uint64
	voter fulcrum.NodeID
	disk  int
}

// applied notes that a machine has applied a command: the next of the history, or the
// first time that anybody does.
func (s *sim) applied(l *simLife, at standing, id, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.count >= uint64(len(s.record.history)) {
		s.mu.Unlock()
		held := s.majorityHolds(l, index)
		s.mu.Lock()
		if !held && !s.outcomes {
			s.failLocked("%s applies %d, which no majority of disks holds", l, index)
		}
	}
	if at.count < uint64(len(s.record.history)) {
		if h := s.record.history[at.count]; h.standing != at {
			s.failLocked("%s applies %d at %d as command %d of the history, which is %d at %d", l, id, at.index, at.count, h.id, h.index)
		}
		return
	}
	p := s.record.commands[id]
	switch {
	case p == nil:
		s.failLocked("%s applies at %d command %d, which nobody has proposed", l, at.index, id)
		return
	case p.refused:
		s.failLocked("%s applies at %d command %d, which was answered as not done", l, at.index, id)
	case p.place > 0:
		s.failLocked("%s applies at %d command %d, which stands at place %d already", l, at.index, id, p.place)
	case at.count <= p.atLeast:
		s.failLocked("command %d is at place %d, but %d were acknowledged before it was proposed", id, at.count, p.atLeast)
	}
	p.place = at.count
	s.record.history = append(s.record.history, historic{at, id, l.disk.record(index)})
	s.traceLocked("%s: applies %d at %d, command %d", l, id, at.index, at.count)
}

// majorityHolds reports whether a majority of voters hold the entry at index durably, as
// l has it: those of the configuration in force there, or of a later one in some log.
func (s *sim) majorityHolds(l *simLife, index uint64) bool {
	record := l.disk.record(index)
	for _, at := range s.members {
		confs := at.log().configurations(index)
		if s.grouped {
			confs = []protocol.Configuration{s.everybody()}
		}
		for _, conf := range confs {
			voters := conf.Voters()
			held := 0
			for _, id := range voters {
				if m := s.member(id); m != nil && m.log().holds(index, record) {
					held++
				}
			}
			if 2*held > len(voters) {
				return true
			}
		}
	}
	return false
}

func (s *sim) everybody() (c protocol.Configuration) {
	for _, id := range s.voters {
		c = c.With(protocol.Member{ID: id, Voter: true})
	}
	return c
}

// configurations are the newest one at or before an index, and those behind it.
func (d *simDisk) configurations(index uint64) (confs []protocol.Configuration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, c, ok := raft.SnapshotPlace(d.now.meta[raft.MetaSnapshot]); ok {
		confs = append(confs, c.Configuration)
	}
	for i, r := range d.now.records {
		at := d.now.base + uint64(i) + 1
		c, ok := raft.RecordConfig(r, at)
		if !ok {
			continue
		}
		if at <= index {
			confs = confs[:0]
		}
		confs = append(confs, c)
	}
	return confs
}

// checkSnapshot: a snapshot has the newest configuration that it covers. Where two say
// different things of the same place, one is wrong.
func (s *sim) checkSnapshot(b []byte) {
	index, conf, ok := raft.SnapshotPlace(b)
	if !ok {
		s.failf("a snapshot's place cannot be read: %x", b)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, at := range s.record.snapshots {
		if at < conf.Index && conf.Index <= i || conf.Index < at && at <= index {
			s.failLocked("a snapshot at %d has the configuration at %d, another one at %d that at %d", index, conf.Index, i, at)
		}
	}
	s.record.snapshots[index] = conf.Index
}
