package raft_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// simMember is a machine that runs a replica, one life after the other.
type simMember struct {
	s     *sim
	id    fulcrum.NodeID
	at    int
	lives int
	wipes int
	dead  bool // the last life ended with its machine
	first bool // it has the group's first configuration

	mu    sync.Mutex
	disk  *simDisk               // of this life, or of the last one
	state *replicationtest.State // of a Group
	told  *raft.Changes          // what watches are told: it outlives a life that a machine outlives
	life  *simLife               // nil: down
}

// simLife is one life of a member: from a start to a crash, or until it is stopped.
type simLife struct {
	m       *simMember
	n       int
	disk    *simDisk
	machine *simMachine
	ctx     context.Context // ends when it is to stop
	cancel  context.CancelFunc
	dead    chan struct{} // closed by a crash: nobody hears of it any more
	ended   chan struct{} // closed when all of it is gone
	replica simReplica
	state   *simState // of a Group

	mu   sync.Mutex
	runs bool // replica is there, and listens
}

func (l *simLife) String() string { return fmt.Sprintf("%s.%d", l.m.id, l.n) }

func (l *simLife) over() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// gone reports whether nothing is left of it.
func (l *simLife) gone() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// pause waits, or until a crash.
func (l *simLife) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.dead:
	}
}

func (l *simLife) running() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runs
}

func (l *simLife) listen(yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs = yes
}

// up returns the life that listens, or nil.
func (m *simMember) up() *simLife {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life == nil || !m.life.running() {
		return nil
	}
	return m.life
}

func (m *simMember) current() *simLife {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

func (m *simMember) log() *simDisk {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk
}

// start begins a life on what the disk holds.
func (m *simMember) start() {
	s := m.s
	m.lives++
	s.record.lives++
	l := &simLife{m: m, n: m.lives, dead: make(chan struct{}), ended: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	d := s.diceFor(1, uint64(m.at), uint64(l.n))
	l.machine = &simMachine{life: l, dice: d, pad: s.pad}
	m.mu.Lock()
	m.disk = newSimDisk(s, d+1, s.slow[m.at], m.disk.fail(errSimCrash))
	if s.grouped {
		m.state = m.state.Crash()
	}
	if !s.calmed.Load() && m.disk.chance(10) {
		m.disk.spoil()
	}
	l.disk, m.life = m.disk, l
	m.mu.Unlock()
	s.tracef("%s: starts, its log is [%d, %d], the snapshot at %d", l, l.disk.First(), l.disk.Last(), l.disk.covered())
	go l.run()
}

func (d *simDisk) covered() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now.covered()
}

func (l *simLife) env() replication.Env {
	d := l.m.s.diceFor(2, uint64(l.m.at), uint64(l.n))
	env := replication.Env{Node: l.m.id, Peers: simPeers{l}, Log: l.disk, Now: time.Now, Rand: rand.New(rand.NewPCG(d.next(), d.next())),
		Logger: slog.New(slog.DiscardHandler), Metrics: simMetrics{life: l}}
	if l.m.s.logging {
		env.Logger = slog.New(slog.NewTextHandler(simTracer{l}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return env
}

func (l *simLife) run() {
	defer close(l.ended)
	defer l.disk.life.Wait()
	defer l.disk.fail(errSimCrash)
	defer l.cancel()
	open := l.openReplica
	if l.m.s.grouped {
		open = l.openGroup
	}
	r, err := open()
	if err != nil {
		l.hasEnded("open", err)
		return
	}
	l.replica = r
	l.listen(true)
	err = r.Run(l.ctx)
	l.listen(false)
	l.hasEnded("run", err)
}

func (l *simLife) openReplica() (simReplica, error) {
	s := l.m.s
	opt := raft.ReplicaOptions{Env: l.env(), Machine: l.machine, Tuning: s.tuning}
	if l.m.first {
		opt.Voters, opt.NonVoters = s.voters, s.nonVoters
	}
	r, err := raft.OpenReplica(opt)
	if err != nil {
		return nil, err
	}
	if f := s.faults; f.clears || f.goesBack {
		r.Break(f.clears, f.goesBack)
	}
	return r, nil
}

// hasEnded: a replica ends when it is told to, or when its disk has failed.
func (l *simLife) hasEnded(what string, err error) {
	s := l.m.s
	told := l.ctx.Err() != nil
	s.tracef("%s: %s ends (told: %v): %v", l, what, told, err)
	if !told && !l.over() && !l.disk.failed() {
		s.failf("%s: %s ends by itself: %v", l, what, err)
	}
	if told && err != nil && !l.over() && !l.disk.failed() {
		s.failf("%s: %s fails: %v", l, what, err)
	}
}

// crash ends a life at once: what is not durable may be lost, and what it still does
// matters to nobody.
func (m *simMember) crash() {
	l := m.take()
	if l == nil {
		return
	}
	close(l.dead)
	m.mu.Lock()
	m.dead = true
	m.mu.Unlock()
	l.disk.fail(errSimCrash)
	if m.state != nil {
		m.state.FailWith(errSimCrash)
	}
	l.cancel()
	m.s.tracef("%s: crash", l)
	m.s.endsSoon(l)
}

// stop ends a life in order; it is over when stop returns.
func (m *simMember) stop() {
	l := m.current()
	if l == nil {
		return
	}
	if l.running() {
		l.replica.Retire()
	}
	l.cancel()
	select {
	case <-l.ended:
	case <-time.After(endsWithin):
		m.s.failf("%s does not end", l)
	}
	m.s.tracef("%s: stopped", l)
	m.take()
}

func (m *simMember) take() *simLife {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.life
	m.life = nil
	return l
}

// endsWithin is how long it may take until a replica that was told to end has: a step of
// its disk may be under way.
const endsWithin = 2 * time.Minute

// endsSoon checks that l ends.
func (s *sim) endsSoon(l *simLife) {
	s.tasks.Go(func() {
		select {
		case <-l.ended:
		case <-time.After(endsWithin):
			s.failf("%s does not end", l)
		}
	})
}

// wipe gives a member that is down, and out of the group, an empty disk.
func (m *simMember) wipe() {
	m.wipes++
	m.first = m.first && m.s.faults.beginsAnew
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disk = newSimDisk(m.s, 0, 1, picture{})
	m.disk.fail(errSimCrash)
	m.s.tracef("%s: wiped", m.id)
}

// simMetrics holds a log's goroutine up for a moment between a sync and whoever waits
// for it.
type simMetrics struct {
	replication.NoMetrics
	life *simLife
}

func (m simMetrics) Commit(time.Duration) { m.life.disk.moment() }

func (m simMetrics) LeaderChange() { m.life.m.s.tracef("%s: leads", m.life) }

type simTracer struct{ life *simLife }

func (t simTracer) Write(b []byte) (int, error) {
	line := string(b)
	if i := strings.Index(line, "level="); i >= 0 {
		line = line[i:]
	}
	t.life.m.s.tracef("%s: %s", t.life, strings.TrimSpace(line))
	return len(b), nil
}
