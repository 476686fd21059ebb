package nemesis

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"fulcrum"
)

// Act is what is done in a step.
type Act string

// The acts. Each is undone when its step ends.
const (
	Break     Act = "break"     // Faults are injected
	Strobe    Act = "strobe"    // Faults are injected and healed by turns, each for Every
	Kill      Act = "kill"      // Nodes crash
	Stop      Act = "stop"      // Nodes are stopped in an orderly way
	Roll      Act = "roll"      // Nodes are stopped for Every, one after another
	Pause     Act = "pause"     // Nodes stand still
	Harm      Act = "harm"      // Nodes crash, and come back after Every with Damage
	Duplicate Act = "duplicate" // packets arrive twice with Probability
	Switch    Act = "switch"    // the keyspace gets the next of Modes
	Leave     Act = "leave"     // Faults are injected, after Every the keyspace gets the next of Modes, and after Until they are healed
	Overtake  Act = "overtake"  // one of Nodes hears nothing from the leader for Every, then the leader is alone
)

// Step is one fault, from At to At+For.
type Step struct {
	At    fulcrum.Duration `json:"at"` // since Run began; those with the same At begin together
	For   fulcrum.Duration `json:"for"`
	Name  string           `json:"name"`
	Value string           `json:"value"` // what is done, for people
	Act   Act              `json:"act"`

	Nodes       []fulcrum.NodeID `json:"nodes,omitempty"`
	Leader      bool             `json:"leader,omitempty"` // the leader instead of Nodes, if one is known when the step begins
	Faults      []fulcrum.Fault  `json:"faults,omitempty"`
	Every       fulcrum.Duration `json:"every,omitempty"`
	Until       fulcrum.Duration `json:"until,omitempty"` // 0: the step's end
	Damage      Damage           `json:"damage,omitempty"`
	Probability float64          `json:"probability,omitempty"`
	Modes       []string         `json:"modes,omitempty"`
	Seed        uint64           `json:"seed,omitempty"`
}

// String is one line: when, which and what.
func (s Step) String() string {
	return fmt.Sprintf("%8s  for %-8s %-26s %s", time.Duration(s.At), time.Duration(s.For), s.Name, s.Value)
}

// Plan is what will be done. It never changes once it is made.
type Plan struct {
	Names    []string `json:"names"`
	Keyspace string   `json:"keyspace"`
	Steps    []Step   `json:"steps"` // by At
}

// String is one line a step.
func (p *Plan) String() string {
	if len(p.Steps) == 0 {
		return "nothing is broken\n"
	}
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// Span is a range of times from which one is drawn.
type Span struct{ Min, Max time.Duration }

// Options says for what a plan is made. Rand, Nodes and Duration are required.
type Options struct {
	Rand     *rand.Rand // decides everything; New takes it over
	Nodes    []fulcrum.NodeID
	Keyspace string        // whose leader and mode are meant; "": the catalog's leader
	Modes    []string      // for "switch", which goes round them; default all three
	Duration time.Duration // nothing is planned to last beyond it

	Quiet Span // between two rounds of faults; default 3 s to 10 s
	Busy  Span // how long a round lasts; default 5 s to 20 s

	// Can refuses what the cluster cannot do, as Cluster.Can does; default: it can all.
	Can func(what string) error
}

func (o *Options) defaults() error {
	if o.Rand == nil || len(o.Nodes) == 0 || o.Duration <= 0 {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "a plan needs a source of randomness, nodes and a duration")
	}
	if o.Modes == nil {
		o.Modes = []string{"raft", "quorum", "leader-follower"}
	}
	if o.Quiet == (Span{}) {
		o.Quiet = Span{3 * time.Second, 10 * time.Second}
	}
	if o.Busy == (Span{}) {
		o.Busy = Span{5 * time.Second, 20 * time.Second}
	}
	for _, s := range []Span{o.Quiet, o.Busy} {
		if s.Min < 0 || s.Max < s.Min || s.Max == 0 {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "times of faults from %v to %v: want a minimum, and a maximum that is no less", s.Min, s.Max)
		}
	}
	if o.Can == nil {
		o.Can = func(string) error { return nil }
	}
	return nil
}

// New draws a plan for nemeses by name. Several take effect together in each round, as
// far as they go together (kill-one and pause-one do not), and take turns otherwise.
// Its error, CodeInvalid, says what is wrong with which name.
func New(names []string, opt Options) (*Plan, error) {
	if err := opt.defaults(); err != nil {
		return nil, err
	}
	p := &Plan{Names: slices.Clone(names), Keyspace: opt.Keyspace}
	var chosen []kind
	combined := false
	for _, name := range names {
		k, err := find(name)
		if err == nil {
			err = opt.allow(k)
		}
		switch {
		case err != nil:
			return nil, err
		case name == Combined:
			combined = true
		case name != None && !slices.ContainsFunc(chosen, func(o kind) bool { return o.Name == name }):
			chosen = append(chosen, k)
		}
	}
	var pool []kind
	if combined {
		if pool = opt.combinable(); len(pool) < 2 {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "nemesis %s: this cluster can do fewer than two of the others", Combined)
		}
	}
	if len(chosen)+len(pool) > 0 {
		p.fill(&opt, chosen, pool)
		p.lastToTheEnd(opt.Duration)
	}
	return p, nil
}

// allow reports why k cannot be done.
func (o *Options) allow(k kind) error {
	var errs []error
	for _, what := range k.Needs {
		errs = append(errs, o.Can(what))
	}
	if err := errors.Join(errs...); err != nil {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "nemesis %s: %w", k.Name, err)
	}
	if len(o.Nodes) < k.nodes {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "nemesis %s needs %d nodes and there are %d", k.Name, k.nodes, len(o.Nodes))
	}
	if k.class == modes && len(o.Modes) < 2 {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "nemesis %s needs at least two modes; the levels asked for allow only %q", k.Name, o.Modes)
	}
	return nil
}

func (o *Options) combinable() []kind {
	return slices.DeleteFunc(catalogue(), func(k kind) bool { return k.plan == nil || k.alone || o.allow(k) != nil })
}

// fill draws round after round: of chosen as many as go together, those that had to
// stand back first next time, and two of pool.
func (p *Plan) fill(opt *Options, chosen, pool []kind) {
	d := &draw{Rand: opt.Rand, nodes: opt.Nodes, modes: opt.Modes}
	at := d.between(opt.Quiet.Min, opt.Quiet.Max)
	if at+opt.Busy.Min > opt.Duration { // short runs are for trying things out: break something anyway
		at = opt.Duration / 4
	}
	for {
		var round []kind
		round, chosen = together(d, chosen)
		if pool != nil {
			round = pair(d, round, pool)
		}
		slices.SortStableFunc(round, func(a, b kind) int { return a.class.order() - b.class.order() })
		long, settle := d.between(opt.Busy.Min, opt.Busy.Max), time.Duration(0)
		var steps []Step
		for _, k := range round {
			s := Step{Name: k.Name}
			k.plan(d, &s)
			long, settle = max(long, time.Duration(s.For)), max(settle, k.settle)
			steps = append(steps, s)
		}
		left := opt.Duration - at
		if len(p.Steps) > 0 && left < long {
			return
		}
		for i := range steps {
			steps[i].At, steps[i].For = fulcrum.Duration(at), fulcrum.Duration(min(long, left))
			for j := range steps[i].Faults {
				steps[i].Faults[j].ID = fmt.Sprintf("nemesis-%d-%d", len(p.Steps)+i+1, j+1)
			}
		}
		p.Steps = append(p.Steps, steps...)
		at += max(long, time.Millisecond) + settle + d.between(opt.Quiet.Min, opt.Quiet.Max)
		if at >= opt.Duration {
			return
		}
	}
}

// lastToTheEnd makes the last round go on until the run ends: what comes then is a
// recovery, which can be measured.
func (p *Plan) lastToTheEnd(end time.Duration) {
	last := p.Steps[len(p.Steps)-1].At
	for i := range p.Steps {
		if s := &p.Steps[i]; s.At == last {
			s.For = fulcrum.Duration(max(time.Duration(s.For), end-time.Duration(last)))
		}
	}
}

// together picks those that go together, the first one surely, and returns next in
// which those that were left out come first.
func together(d *draw, queue []kind) (round, next []kind) {
	var done []kind
	for _, k := range queue {
		if !slices.ContainsFunc(round, func(o kind) bool { return !k.goesWith(o) }) {
			round, done = append(round, k), append(done, k)
		} else {
			next = append(next, k)
		}
	}
	d.Shuffle(len(done), func(i, j int) { done[i], done[j] = done[j], done[i] })
	return round, append(next, done...)
}

// pair adds two of pool to round, or fewer where no more go with it.
func pair(d *draw, round, pool []kind) []kind {
	most := len(round) + 2
	for _, i := range d.Perm(len(pool)) {
		if len(round) < most && !slices.ContainsFunc(round, func(o kind) bool { return !pool[i].goesWith(o) }) {
			round = append(round, pool[i])
		}
	}
	return round
}
