package protocol_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// sim runs replicas over a network and disks that it makes up, all by chance and all
// from one seed. Every step of a replica is checked (sim_check_test.go).
type sim struct {
	rng    *rand.Rand
	now    time.Time
	nodes  []*simNode
	queue  queue
	seq    int
	events int

	cuts              [5][5]bool // from, to
	loss, twice, slow int        // percent
	weights           []int      // of the operations

	faults   faults
	outcomes bool // only what goes wrong counts, not what is forbidden because it might
	record   record
	err      error
	command  uint64
	goal     protocol.Entry // what is to be committed in the calm
	tracing  bool
	trace    []string
}

// faults are ways to carry the protocol out wrongly.
type faults struct {
	lies       bool // Durable covers what a crash loses
	forgets    bool // the hard state is not stored
	eager      bool // replies do not wait for Needs
	generous   bool // every candidate gets a vote
	blindBeats bool // a heartbeat's commit is taken for that of the entry at hand
	keeps      bool // a snapshot leaves entries that it does not agree with
	leaps      bool // a configuration changes by more than one server
	unconfed   bool // a restart forgets the configurations in the log
}

type simNode struct {
	id   fulcrum.NodeID
	at   int
	log  *simLog
	r    *protocol.Raft
	up   bool
	life int

	paused  time.Time // nothing happens at it until then
	waiting []*event  // answers for the log to become durable
	role    protocol.Role
	term    uint64
	commit  uint64
}

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run only this seed, with its trace")
	simSeeds = flag.Int("sim.seeds", 4000, "how many seeds to run")
	perSeed  = flag.Int("sim.events", 500, "events of each seed, before the calm")
)

const (
	election  = 100 * time.Millisecond
	heartbeat = 40 * time.Millisecond
	retry     = 60 * time.Millisecond
)

func nodeAt(id fulcrum.NodeID) int { return int(id[0] - 'a') }

func newSim(seed uint64, f faults) *sim {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_000_000_000, 0), record: newRecord(), faults: f}
	quiet := s.chance(20)
	if !quiet {
		s.loss, s.twice, s.slow = s.rng.IntN(15), s.rng.IntN(10), s.rng.IntN(15)
	}
	for _, o := range operations {
		s.weights = append(s.weights, o.weight*s.rng.IntN(3))
	}
	var conf protocol.Configuration
	members := 1 + s.rng.IntN(5)
	for i := range 5 {
		id := fulcrum.NodeID('a' + rune(i))
		if i < members {
			conf.Members = append(conf.Members, protocol.Member{ID: id, Voter: i == 0 || s.chance(80)})
		}
		l := &simLog{batch: 1 + s.rng.IntN(4), lies: f.lies}
		s.nodes = append(s.nodes, &simNode{id: id, at: i, log: l})
	}
	for _, n := range s.nodes {
		if n.at < members {
			n.log.snap.conf.Configuration = conf
		}
		s.start(n)
	}
	return s
}

// start begins a life of a replica.
func (s *sim) start(n *simNode) {
	n.life++
	n.up, n.waiting, n.role, n.commit = true, nil, protocol.Follower, 0
	cfg := protocol.Config{ID: n.id, Election: election, Heartbeat: heartbeat, Calm: 2 * heartbeat, Lease: election, Retry: retry,
		Rand: rand.New(rand.NewPCG(s.rng.Uint64(), 2))}
	confs := n.log.confs(n.log.Last())
	if s.faults.unconfed {
		confs = confs[:1]
	}
	if s.faults.forgets {
		n.term = 0
	}
	n.r = protocol.New(cfg, n.log, n.log.hard, confs, s.now)
	s.check(n)
}

// run makes n events happen, then lets everything heal and waits for progress.
func (s *sim) run(n int) error {
	for s.events < n && s.err == nil {
		if s.chance(15) {
			s.operate()
		} else {
			s.next()
		}
	}
	s.calm()
	s.checkAll()
	return s.err
}

// next lets happen what is due next: an event, or a tick.
func (s *sim) next() {
	var first *simNode
	var at time.Time
	for _, n := range s.nodes {
		if n.up {
			due := n.r.Next()
			if due.Before(n.paused) {
				due = n.paused
			}
			if first == nil || due.Before(at) {
				first, at = n, due
			}
		}
	}
	if len(s.queue) > 0 && (first == nil || !at.Before(s.queue[0].at)) {
		e := s.queue.pop()
		s.now = e.at
		s.deliver(e)
		return
	}
	if first == nil {
		s.restart()
		return
	}
	if at.After(s.now) {
		s.now = at
	}
	s.tracef("%s: tick", first.id)
	first.r.Tick(s.now)
	s.carry(first, nil)
	if !first.r.Next().After(s.now) {
		s.failf("%s: a tick leaves something due at once", first.id)
	}
}

// Bounds of what a healed cluster may take.
const (
	progressWithin = 5 * time.Second
	staysFor       = time.Second
)

// calm heals everything: then somebody leads, commits, and stays leader.
func (s *sim) calm() {
	s.tracef("calm")
	s.loss, s.twice, s.slow, s.cuts = 0, 0, 0, [5][5]bool{}
	for _, n := range s.nodes {
		n.paused, n.log.batch = time.Time{}, 100
		if !n.up {
			s.start(n)
		}
	}
	until := s.now.Add(progressWithin)
	for s.err == nil && !s.settled() {
		if s.now.After(until) {
			s.failf("no progress: %s", s.describe())
			return
		}
		s.next()
	}
	l, term := s.leader(), uint64(0)
	if l != nil {
		term = l.term
	}
	for until = s.now.Add(staysFor); s.err == nil && s.now.Before(until); s.next() {
		if s.leader() != l || l.term != term {
			s.failf("%s loses the leadership of term %d in a calm", l.id, term)
		}
	}
}

// leader is the one of the highest term.
func (s *sim) leader() (l *simNode) {
	for _, n := range s.nodes {
		if n.up && n.role == protocol.Leader && (l == nil || n.term > l.term) {
			l = n
		}
	}
	return l
}

// settled reports whether there is a leader whose members all have committed a proposal
// of the calm.
func (s *sim) settled() bool {
	l := s.leader()
	if l == nil {
		return false
	}
	if s.goal.Term != l.term {
		s.goal.Index, s.goal.Term, _ = l.r.Propose(s.now, []byte("calm"))
		s.carry(l, nil)
		return false
	}
	conf, _ := l.r.Configuration()
	for _, m := range conf.Members {
		if s.nodes[nodeAt(m.ID)].commit < s.goal.Index {
			return false
		}
	}
	return conf.Voter(l.id)
}

func (s *sim) tracef(format string, args ...any) {
	if s.tracing {
		s.trace = append(s.trace, fmt.Sprintf("%9.1fms ", float64(s.now.UnixMicro()%1e9)/1e3)+fmt.Sprintf(format, args...))
	}
}

func (s *sim) traceEvent(n *simNode, e *event) {
	what := ""
	switch e.what {
	case onAppend:
		what = fmt.Sprintf("term %d, %d entries behind %d/%d, commit %d", e.append.Term, len(e.append.Entries), e.append.Prev, e.append.PrevTerm, e.append.Commit)
	case onAppended:
		what = fmt.Sprintf("behind %d: %+v", e.append.Prev, e.reply)
	case onBeat:
		what = fmt.Sprintf("%+v", e.beat)
	case onVote:
		what = fmt.Sprintf("%+v", e.vote)
	case onVoted:
		what = fmt.Sprintf("%+v for %+v", e.voted, e.vote)
	case onSnapshot, onInstall:
		what = fmt.Sprintf("%+v", e.snap)
	default:
		what = fmt.Sprintf("%d, %+v", e.index, e.reply)
	}
	s.tracef("%s: %s from %s: %s", n.id, whatNames[e.what], s.nodes[e.from].id, what)
}

func (s *sim) describe() string {
	var b strings.Builder
	for _, n := range s.nodes {
		conf, at := n.r.Configuration()
		fmt.Fprintf(&b, "\n%s: %v of term %d, log [%d, %d], durable %d, commit %d, %v at %d", n.id, n.role, n.term,
			n.log.First(), n.log.Last(), n.log.Durable(), n.commit, conf.Members, at)
	}
	return b.String()
}

// Whatever happens, replicas agree on what is committed; and when things are calm again
// they go on.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		s := newSim(*simSeed, faults{})
		s.tracing = true
		err := s.run(*perSeed)
		t.Logf("trace of seed %d:\n%s", *simSeed, strings.Join(s.trace, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	seeds := *simSeeds
	if testing.Short() {
		seeds = min(seeds, 500)
	}
	var sum struct{ events, committed, terms, confs int }
	begun := time.Now()
	for seed := uint64(1); seed <= uint64(seeds); seed++ {
		s := newSim(seed, faults{})
		if err := s.run(*perSeed); err != nil {
			t.Errorf("seed %d (-sim.seed shows all of it): %v\n%s", seed, err, tail(seed, faults{}))
			return
		}
		sum.events += s.events
		sum.committed += len(s.record.committed) - 1
		sum.terms += len(s.record.leaders)
		for _, d := range s.record.committed {
			if d.kind == protocol.Members {
				sum.confs++
			}
		}
	}
	t.Logf("%d seeds, %d events (%.0f a second), %d entries committed, %d configurations, %d leaders", seeds, sum.events,
		float64(sum.events)/time.Since(begun).Seconds(), sum.committed, sum.confs, sum.terms)
}

// tail runs a seed again, for the end of its trace.
func tail(seed uint64, f faults) string {
	s := newSim(seed, f)
	s.tracing = true
	s.run(*perSeed)
	return strings.Join(s.trace[max(0, len(s.trace)-60):], "\n")
}
