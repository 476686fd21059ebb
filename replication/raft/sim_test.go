package raft_test

import (
	"cmp"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
)

// sim runs whole replicas, each over a log, a network and a state machine that it makes
// up, in virtual time. What these do is decided by chance from one seed, each thing by
// dice of its own. Time is exact and hardly two things happen at the same moment, so a
// seed goes mostly the same way again; what goroutines do at one moment is up to the
// scheduler, so not always (TestSimulationRepeats). Where a failure does not come back at
// once, -raft.sim.again tries the seed more often.
type sim struct {
	seed    uint64
	dice    dice
	tuning  raft.Tuning
	members []*simMember
	voters  []fulcrum.NodeID
	weights []int
	slow    []time.Duration // of each disk
	pace    time.Duration   // of clients
	pad     int
	lasts   time.Duration

	nonVoters []fulcrum.NodeID
	grouped   bool       // the replicas are a raft.Group, over a state that is durable by itself
	learner   *simMember // of a Group; nil: none
	watches   []*simWatch
	faults    simFaults
	outcomes  bool // only what goes wrong counts, not what is forbidden because it might
	logging   bool // the replicas' own messages are in the trace

	tasks    sync.WaitGroup
	calmed   atomic.Bool
	changing atomic.Bool // the configuration

	mu      sync.Mutex
	links   [simMost][simMost]simLink
	weather weather
	out     [simMost]removal
	record  simRecord
	command uint64
	err     error
	begun   time.Time
	trace   []simStep
}

const simMost = 5 // members

var (
	simSeed  = flag.Uint64("raft.sim.seed", 0, "run only this seed of the simulation, with its trace")
	simSeeds = flag.Int("raft.sim.seeds", 0, "how many seeds to run; 0: as many as take some seconds")
	simFirst = flag.Uint64("raft.sim.first", 1, "the first of them")
	simAgain = flag.Int("raft.sim.again", 1, "how often to run -raft.sim.seed, until it fails")
	simCPUs  = flag.Int("raft.sim.cpus", 1, "processors; with more than one a seed finds other interleavings each time")
)

func (s *sim) diceFor(what ...uint64) dice {
	d := dice(s.seed * 0x2545f4914f6cdd1d)
	for _, w := range what {
		d = dice(d.next() ^ w)
	}
	d.next()
	return d
}

func newInstanceSim(seed uint64, f simFaults) *sim {
	s := &sim{seed: seed, faults: f, grouped: seed%3 == 0, begun: time.Now()}
	s.dice = s.diceFor(0)
	s.record = simRecord{leaders: map[uint64]fulcrum.NodeID{}, votes: map[simBallot]fulcrum.NodeID{},
		snapshots: map[uint64]uint64{}, history: make([]historic, 1), commands: map[uint64]*proposed{}}
	d := &s.dice
	for _, o := range simOperations {
		s.weights = append(s.weights, o.weight*d.IntN(3))
	}
	s.weather = weather{near: time.Millisecond + d.upTo(10*time.Millisecond)}
	if !d.chance(20) {
		s.weather.loss, s.weather.twice, s.weather.late = d.IntN(10), d.IntN(10), d.IntN(6)
	}
	s.pace = 10*time.Millisecond + d.upTo(100*time.Millisecond)
	s.lasts = 8*time.Second + d.upTo(12*time.Second)
	if d.chance(15) {
		s.pad = 200<<10 + d.IntN(200<<10) // one chunk of a snapshot or two
	}
	s.tune()
	s.narrow()
	s.forgetful()
	for i := range simMost {
		s.slow = append(s.slow, 100*time.Microsecond+d.upTo(8*time.Millisecond))
		for j := range simMost {
			s.links[i][j].dice = s.diceFor(3, uint64(i), uint64(j))
		}
	}
	s.populate()
	return s
}

// tune makes everything small, so that limits are met often.
func (s *sim) tune() {
	d := &s.dice
	beat := 100*time.Millisecond + d.upTo(300*time.Millisecond)
	s.tuning = raft.Tuning{Heartbeat: beat, RPC: beat, Install: 5 * time.Second, SnapshotEvery: 5 * time.Millisecond,
		SnapshotEntries: 1 + uint64(d.IntN(40)), SnapshotBytes: 1 << uint(9+d.IntN(8)), TrailingEntries: 1 + uint64(d.IntN(20)),
		HoldBytes: 1 << uint(8+d.IntN(8)), MaxAppendEntries: 1 + d.IntN(8), BatchRequests: 1 + d.IntN(4), BatchBytes: 1 << uint(7+d.IntN(6)),
		Queue: 2 + d.IntN(16), Reads: 2 + d.IntN(16), CacheBytes: 1 << uint(7+d.IntN(5))}
}

// forgetful lets a Group keep few changes for watches, and tell them in small pieces.
func (s *sim) forgetful() {
	if d := s.diceFor(8); d.chance(60) {
		s.tuning.ChangeEvents, s.tuning.ChangePiece = 4+d.IntN(100), 1<<uint(7+d.IntN(6))
	}
}

// narrow makes links slow, where a large entry takes longer than a call may, and appends
// small.
func (s *sim) narrow() {
	d := s.diceFor(6)
	if d.chance(50) {
		s.tuning.MaxAppendBytes = 1 << uint(7+d.IntN(8))
	}
	if !d.chance(30) {
		return
	}
	slow, rate := d.IntN(simMost), 256<<10<<d.IntN(4)
	for i := range simMost {
		s.links[i][slow].pipe.Bytes, s.links[slow][i].pipe.Bytes = rate, rate
	}
}

func (s *sim) populate() {
	n := 3 + s.dice.IntN(3)
	first := 1 + s.dice.IntN(n)
	if s.grouped {
		first = n
		if n > 3 {
			first = n - 1 // and a learner
		}
	}
	for i := range n {
		m := &simMember{s: s, id: fulcrum.NodeID('a' + rune(i)), at: i}
		switch {
		case i < first:
			s.voters, m.first = append(s.voters, m.id), true
		case s.grouped:
			s.learner = m
		case s.dice.chance(30):
			s.nonVoters, m.first = append(s.nonVoters, m.id), true
		}
		s.members = append(s.members, m)
		m.disk = newSimDisk(s, 0, 1, picture{})
		if s.grouped {
			m.begin()
		}
	}
	for i := range 2 {
		if s.grouped {
			s.watches = append(s.watches, &simWatch{s: s, dice: s.diceFor(7, uint64(i)), over: make(chan struct{})})
		}
	}
}

func (s *sim) member(id fulcrum.NodeID) *simMember {
	if len(id) != 1 || int(id[0]-'a') >= len(s.members) {
		return nil
	}
	return s.members[id[0]-'a']
}

// run lets things happen for a while, then heals everything and waits for progress.
func (s *sim) run() error {
	for _, m := range s.members {
		m.start()
	}
	for i := range 3 {
		c := &simClient{s: s, dice: s.diceFor(4, uint64(i))}
		s.tasks.Go(c.run)
	}
	for _, w := range s.watches {
		s.tasks.Go(w.run)
	}
	for end := time.Now().Add(s.lasts); time.Now().Before(end) && !s.hasFailed(); {
		time.Sleep(s.dice.upTo(600 * time.Millisecond))
		s.reap()
		s.operate()
		s.checkQueues()
	}
	s.calm()
	s.close()
	return s.err
}

// Bounds of what a healed group may take.
const simProgressWithin = 60 * time.Second

// calm heals everything: then somebody leads and commits, and all members get there.
func (s *sim) calm() {
	s.tracef("calm")
	s.calmed.Store(true)
	s.mu.Lock()
	s.weather = weather{near: time.Millisecond}
	for i := range s.links {
		for j := range s.links[i] {
			s.links[i][j].pipe.Bytes = 0
		}
	}
	s.mu.Unlock()
	s.heal()
	for _, m := range s.members {
		m.log().mend()
		if l := m.current(); l != nil && l.disk.failed() {
			m.crash() // whoever watches over the machine restarts it
		}
		if l := m.current(); l != nil {
			l.machine.block(time.Time{})
			l.disk.stall(time.Time{})
		} else {
			m.start()
		}
	}
	for until := time.Now().Add(simProgressWithin); !s.hasFailed(); {
		if s.settled() {
			s.checkIdle()
			s.checkStates()
			return
		}
		if time.Now().After(until) {
			s.failf("no progress: %s", s.describe())
		}
		time.Sleep(100*time.Millisecond + s.dice.upTo(100*time.Millisecond))
	}
}

// settled makes a proposal, and reports whether all members have applied it, and agree on
// who they are.
func (s *sim) settled() bool {
	m := s.pick(itLeads)
	if m == nil || m.up() == nil {
		return false
	}
	l := m.up()
	before := s.acks()
	s.propose(l, 1, 5*time.Second)
	if s.acks() == before {
		return false
	}
	goal := l.machine.standing().count
	for range 100 {
		reached := true
		for _, v := range l.replica.Servers() {
			there := s.member(v.Node).up()
			reached = reached && there != nil && there.machine.standing().count >= goal && sameServers(there, l)
		}
		if reached {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

func sameServers(a, b *simLife) bool {
	byNode := func(x, y raft.Server) int { return cmp.Compare(x.Node, y.Node) }
	as, bs := a.replica.Servers(), b.replica.Servers()
	slices.SortFunc(as, byNode)
	slices.SortFunc(bs, byNode)
	return slices.Equal(as, bs)
}

func (s *sim) acks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.acks
}

// checkQueues: whatever waits is bounded.
func (s *sim) checkQueues() {
	for _, m := range s.members {
		l := m.up()
		if l == nil {
			continue
		}
		q := l.replica.Queues()
		largest := max(s.tuning.BatchBytes, 5000) + 200
		if q.Events > 1000 || q.Proposals > s.tuning.Queue || q.Unsynced > 1000 || q.Holds > 3*simMost || q.Cached > q.CacheLimit+largest {
			s.failf("%s: too much waits: %+v", l, q)
		}
	}
}

// checkIdle: when nothing happens, nothing waits. An election or a cut of the log may still
// be under way.
func (s *sim) checkIdle() {
	var waits string
	for range 100 {
		time.Sleep(s.tuning.RPC)
		if waits = s.whatWaits(); waits == "" {
			return
		}
	}
	s.failf("something still waits: %s", waits)
}

func (s *sim) whatWaits() (what string) {
	for _, m := range s.members {
		if l := m.up(); l != nil {
			if q := l.replica.Queues(); q.Events+q.Proposals+q.Requests+q.Reads+q.Unsynced > 0 {
				what += fmt.Sprintf("%s: %+v ", l, q)
			}
		}
	}
	return what
}

func (s *sim) checkStates() {
	for _, w := range s.watches {
		w.ends()
	}
	for _, m := range s.members {
		if l := m.up(); l != nil && l.state != nil {
			l.state.checkValues()
		}
	}
}

// close ends everything, so that no goroutine is left.
func (s *sim) close() {
	s.calmed.Store(true)
	for _, m := range s.members {
		if s.hasFailed() {
			m.crash()
		} else {
			m.stop()
		}
	}
	s.tasks.Wait()
	for _, m := range s.members {
		m.log().fail(errSimCrash)
	}
	time.Sleep(time.Minute) // until the last message is gone
}

func (s *sim) hasFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

func (s *sim) failf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(format, args...)
}

func (s *sim) failLocked(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
		s.traceLocked("FAILED: %v", s.err)
	}
}

func (s *sim) tracef(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.traceLocked(format, args...)
}

// traceLocked notes a step. The caller holds mu.
func (s *sim) traceLocked(format string, args ...any) {
	s.trace = append(s.trace, simStep{time.Since(s.begun), format, args})
}

// simStep is put into words only if somebody asks: most seeds succeed.
type simStep struct {
	at     time.Duration
	format string
	args   []any
}

// tail is the last steps.
func (s *sim) tail(most int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, step := range s.trace[max(0, len(s.trace)-most):] {
		fmt.Fprintf(&b, "%11.3fms %s\n", float64(step.at.Nanoseconds())/1e6, fmt.Sprintf(step.format, step.args...))
	}
	return b.String()
}

func (s *sim) describe() string {
	var b strings.Builder
	for _, m := range s.members {
		l := m.up()
		if l == nil {
			fmt.Fprintf(&b, "\n%s: down", m.id)
			continue
		}
		st := l.replica.Status()
		fmt.Fprintf(&b, "\n%s: term %d, leader %s, log [%d, %d], commit %d, applied %d, %d commands, %v, %+v", l, st.Term, st.Leader, l.disk.First(),
			l.disk.Last(), st.Committed, st.Applied, l.machine.standing().count, l.replica.Servers(), l.replica.Queues())
	}
	return b.String()
}

// simulate runs a seed in a bubble of its own.
func simulate(t *testing.T, seed uint64, f simFaults, edit func(*sim)) (s *sim, err error) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil { // goroutines that are left, or that wait for each other
			err = fmt.Errorf("seed %d: %v", seed, p)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		s = newInstanceSim(seed, f)
		if edit != nil {
			edit(s)
		}
		err = s.run()
	})
	return s, err
}

// Whatever happens to replicas, their disks and the network, they agree on what is
// applied, nothing that was acknowledged is lost, nothing else is done, and reads are
// linearizable; when things are calm again they go on.
func TestSimulation(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(*simCPUs))
	if *simSeed != 0 {
		for range *simAgain {
			s, err := simulate(t, *simSeed, simFaults{}, func(s *sim) { s.logging = true })
			if err != nil || *simAgain == 1 {
				t.Logf("trace of seed %d:\n%s", *simSeed, s.tail(1<<30))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	seeds := *simSeeds
	if seeds == 0 {
		seeds = 150
		if testing.Short() || raceEnabled {
			seeds = 30
		}
	}
	var sum simRecord
	var virtual time.Duration
	failures := 0
	begun := time.Now()
	for seed := *simFirst; seed < *simFirst+uint64(seeds); seed++ {
		s, err := simulate(t, seed, simFaults{}, nil)
		if err != nil {
			t.Errorf("seed %d (-raft.sim.seed=%d shows all of it): %v\n%s", seed, seed, err, s.tail(80))
			if failures++; failures == 5 {
				return
			}
		}
		sum.acks, sum.refusals, sum.unknown = sum.acks+s.record.acks, sum.refusals+s.record.refusals, sum.unknown+s.record.unknown
		sum.reads, sum.restores, sum.lives = sum.reads+s.record.reads, sum.restores+s.record.restores, sum.lives+s.record.lives
		sum.parts, sum.told, sum.compacted = sum.parts+s.record.parts, sum.told+s.record.told, sum.compacted+s.record.compacted
		virtual += s.lasts
	}
	t.Logf("%d seeds, %v in %v: %d writes (%d refused, %d unknown), %d reads, %d lives, %d restores, %d parts of appends, %d changes told, %d times begun anew", seeds, virtual.Round(time.Second),
		time.Since(begun).Round(time.Millisecond), sum.acks, sum.refusals, sum.unknown, sum.reads, sum.lives, sum.restores, sum.parts, sum.told, sum.compacted)
	if sum.acks < 20*seeds || sum.reads < 5*seeds || sum.restores < seeds || sum.parts < seeds || sum.told < 5*seeds || sum.compacted < seeds/10 {
		t.Errorf("too little happens for this to mean anything")
	}
}

// A seed goes the same way again, so that a failure can be looked at. Now and then the
// scheduler has it otherwise, but not as a rule.
func TestSimulationRepeats(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has goroutines run in any order")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	same := 0
	for seed := uint64(1); seed <= 6; seed++ {
		var ends [2]string
		for i := range ends {
			s, err := simulate(t, seed, simFaults{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			last := s.record.history[len(s.record.history)-1]
			ends[i] = fmt.Sprint(last.standing, s.record.reads, s.record.refusals, len(s.trace))
		}
		if ends[0] == ends[1] {
			same++
		}
	}
	t.Logf("%d of 6 seeds went the same way", same)
	if same == 0 {
		t.Error("no seed goes the same way again")
	}
}
