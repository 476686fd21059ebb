package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fulcrum"
)

// act is a step being carried out. end is called once, whatever begin returned, and
// undoes all that was done.
type act interface {
	begin(ctx context.Context) (value string, err error)
	hold(ctx context.Context) error // goes on until ctx ends, or returns before
	end(ctx context.Context) (note string, err error)
	seen() int64 // what it saw of its own effect, where no Hits count it
}

func (x *executor) act(s Step) act {
	b := base{x: x, Step: s}
	switch s.Act {
	case Break, Strobe:
		return &breaking{base: b}
	case Overtake:
		return &overtaking{base: b}
	case Kill, Stop, Roll:
		return &stopping{base: b}
	case Pause:
		return &pausing{base: b}
	case Harm:
		return &harming{base: b}
	case Duplicate:
		return &duplicating{base: b}
	case Switch:
		return &switching{base: b}
	case Leave:
		return &leaving{breaking: breaking{base: b}, switching: switching{base: b}}
	}
	return &unknown{base: b}
}

// base is an act that does nothing.
type base struct {
	x *executor
	Step
}

func (b *base) hold(context.Context) error          { return nil }
func (b *base) end(context.Context) (string, error) { return "", nil }
func (b *base) seen() int64                         { return 0 }

// whom returns the nodes of a step, with the leader looked up.
func (b *base) whom(ctx context.Context) (nodes []fulcrum.NodeID, value string) {
	if !b.Leader {
		return b.Nodes, b.Value
	}
	if l := b.x.c.Leader(ctx, b.x.keyspace); l != "" {
		return []fulcrum.NodeID{l}, "leader " + string(l)
	}
	return b.Nodes, words(b.Nodes) + ", as no leader is known"
}

// unknown is a step of a plan that was made by another version.
type unknown struct{ base }

func (u *unknown) begin(context.Context) (string, error) {
	return u.Value, fulcrum.Errorf(fulcrum.CodeInvalid, "step %s: no act is named %q", u.Name, u.Act)
}

// breaking injects faults.
type breaking struct {
	base
	faults []fulcrum.Fault
}

func (b *breaking) begin(ctx context.Context) (string, error) {
	nodes, value := b.whom(ctx)
	b.faults = b.Faults
	if b.Leader {
		b.faults = []fulcrum.Fault{{ID: fmt.Sprintf("nemesis-leader-%d", time.Duration(b.At).Milliseconds()), Kind: "isolate", Node: nodes[0]}}
	}
	return value, b.inject(ctx)
}

func (b *breaking) inject(ctx context.Context) error {
	for _, f := range b.faults {
		if err := b.x.c.Inject(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (b *breaking) heal(ctx context.Context) error {
	var ids []string
	for _, f := range b.faults {
		ids = append(ids, f.ID)
	}
	return b.x.c.Heal(ctx, ids...)
}

func (b *breaking) hold(ctx context.Context) error {
	if b.Act != Strobe {
		return nil
	}
	for on := true; sleep(ctx, time.Duration(b.Every)); on = !on {
		change := b.heal
		if !on {
			change = b.inject
		}
		if err := change(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

func (b *breaking) end(ctx context.Context) (string, error) { return "", b.heal(ctx) }

// overtaking lets one replica fall behind the leader and then cuts the leader off: who
// leads next must not be the one that lacks what the others have.
type overtaking struct {
	base
	leader fulcrum.NodeID
}

func (o *overtaking) lag() string {
	return fmt.Sprintf("nemesis-lag-%d", time.Duration(o.At).Milliseconds())
}
func (o *overtaking) cut() string {
	return fmt.Sprintf("nemesis-overtaken-%d", time.Duration(o.At).Milliseconds())
}

func (o *overtaking) begin(ctx context.Context) (string, error) {
	o.leader = o.x.c.Leader(ctx, o.x.keyspace)
	laggard := o.Nodes[0]
	switch {
	case o.leader == "":
		o.leader, laggard = o.Nodes[0], o.Nodes[1] // no leader is known: any node may be one soon
	case o.leader == laggard:
		laggard = o.Nodes[1]
	}
	return fmt.Sprintf("leader %s, once %s has lagged for %v", o.leader, laggard, time.Duration(o.Every)),
		o.x.c.Inject(ctx, fulcrum.Fault{ID: o.lag(), Kind: "link", From: o.leader, To: laggard, OneWay: true, Drop: true})
}

func (o *overtaking) hold(ctx context.Context) error {
	if !sleep(ctx, time.Duration(o.Every)) {
		return nil
	}
	// First the cut, or the replica would catch up in between.
	if err := o.x.c.Inject(ctx, fulcrum.Fault{ID: o.cut(), Kind: "isolate", Node: o.leader}); err != nil {
		return err
	}
	return o.x.c.Heal(ctx, o.lag())
}

func (o *overtaking) end(ctx context.Context) (string, error) {
	return "", o.x.c.Heal(ctx, o.lag(), o.cut())
}

// crash kills nodes. One that was killed may run for a moment longer, and end starts only what does
// not run: so a crash that was begun is not given up half way when the run ends.
func (x *executor) crash(ctx context.Context, nodes []fulcrum.NodeID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	return x.c.Kill(ctx, x.up(nodes)...)
}

// stopping ends nodes, by a crash or in an orderly way, and starts them again.
type stopping struct {
	base
	nodes []fulcrum.NodeID
	saw   int64 // orderly stops; crashes are in Hits
}

func (s *stopping) begin(ctx context.Context) (value string, err error) {
	s.nodes, value = s.whom(ctx)
	switch s.Act {
	case Kill:
		err = s.x.crash(ctx, s.nodes)
	case Stop:
		err = s.stop(ctx, s.nodes)
	}
	return value, err
}

// stop is crash in an orderly way.
func (s *stopping) stop(ctx context.Context, nodes []fulcrum.NodeID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	nodes = s.x.up(nodes)
	err := s.x.c.Stop(ctx, nodes...)
	if len(s.x.up(nodes)) == 0 {
		err = nil // they ended, if not in an orderly way: a bad disk may see to that
	}
	s.saw += int64(len(s.x.down(nodes)))
	return err
}

func (s *stopping) hold(ctx context.Context) error {
	if s.Act != Roll {
		return nil
	}
	for _, n := range s.nodes {
		node := []fulcrum.NodeID{n}
		if err := s.stop(ctx, node); err != nil {
			return err
		}
		if !sleep(ctx, time.Duration(s.Every)) {
			return nil
		}
		if _, err := s.x.start(ctx, node); err != nil || !sleep(ctx, comesBack) {
			return err
		}
	}
	return nil
}

func (s *stopping) end(ctx context.Context) (string, error) { return s.x.start(ctx, s.nodes) }
func (s *stopping) seen() int64                             { return s.saw }

// pausing makes nodes stand still.
type pausing struct {
	base
	nodes []fulcrum.NodeID
}

func (p *pausing) begin(ctx context.Context) (value string, err error) {
	p.nodes, value = p.whom(ctx)
	p.nodes = p.x.up(p.nodes)
	return value, p.x.c.Pause(ctx, p.nodes...)
}

func (p *pausing) end(ctx context.Context) (string, error) {
	return "", p.x.c.Resume(ctx, p.x.up(p.nodes)...)
}

// harming crashes nodes, damages their disks and starts them.
type harming struct{ base }

func (h *harming) begin(ctx context.Context) (string, error) {
	return h.Value, h.x.crash(ctx, h.Nodes)
}

func (h *harming) hold(ctx context.Context) error {
	if !sleep(ctx, time.Duration(h.Every)) {
		return nil
	}
	var errs []error
	for _, n := range h.x.down(h.Nodes) {
		if h.Damage == BitFlip {
			h.x.damaged[n] = true
		}
		errs = append(errs, h.x.c.Damage(ctx, n, h.Damage, h.Seed))
	}
	return errors.Join(errs...)
}

// end comes when the node has been down for the whole step: what a disk lost shows
// best after the others went on without it.
func (h *harming) end(ctx context.Context) (string, error) { return h.x.start(ctx, h.Nodes) }

// duplicating makes packets arrive twice.
type duplicating struct{ base }

func (d *duplicating) begin(ctx context.Context) (string, error) {
	return d.Value, d.x.c.Duplicate(ctx, d.Probability)
}

func (d *duplicating) end(ctx context.Context) (string, error) { return "", d.x.c.Duplicate(ctx, 0) }

// switching changes the keyspace's mode. It is not undone: a mode is no fault.
type switching struct {
	base
	to      string
	unheard bool // nobody said that it has begun, and it may
}

func (s *switching) begin(ctx context.Context) (string, error) {
	now, target, err := s.x.c.Mode(ctx, s.x.keyspace)
	if err != nil {
		return s.Value, err
	}
	if now != target {
		return s.Value, fulcrum.Errorf(fulcrum.CodeConflict, "keyspace %s is still on its way from %s to %s", s.x.keyspace, now, target)
	}
	to := s.Modes[(slices.Index(s.Modes, now)+1)%len(s.Modes)] // a mode that is not listed goes to the first
	err = s.x.c.Switch(ctx, s.x.keyspace, to)
	if s.unheard = err != nil && (errors.Is(err, context.DeadlineExceeded) || fulcrum.AsError(err).Maybe); err == nil || s.unheard {
		s.to = to
	}
	return now + " to " + to, err
}

// end waits until the switch is done, also one that was asked for in vain as it seemed. It
// is the last of its round to end: the other faults may hold it up.
func (s *switching) end(ctx context.Context) (string, error) {
	if s.to == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, undoTime/2)
	defer cancel()
	for began := time.Now(); ; {
		now, target, err := s.x.c.Mode(ctx, s.x.keyspace)
		switch {
		case err == nil && now == s.to:
			return "done", nil
		case err == nil && target != s.to && s.unheard && time.Since(began) > begunTime:
			return "", nil
		}
		if !sleep(ctx, pollTime) {
			return "", fmt.Errorf("the switch to %s is not done: it is %s, on its way to %s: %w", s.to, now, target, errors.Join(err, ctx.Err()))
		}
	}
}

// leaving switches the mode while some replica is behind.
type leaving struct {
	breaking
	switching
	to string // which modes it went from and to
}

func (l *leaving) begin(ctx context.Context) (string, error) { return l.breaking.begin(ctx) }

func (l *leaving) hold(ctx context.Context) error {
	if !sleep(ctx, time.Duration(l.breaking.Every)) {
		return nil
	}
	to, err := l.switching.begin(ctx)
	if l.to = to; err != nil || l.breaking.Until == 0 {
		return err
	}
	if !sleep(ctx, time.Duration(l.breaking.Until-l.breaking.Every)) {
		return nil
	}
	return l.heal(ctx)
}

func (l *leaving) end(ctx context.Context) (string, error) {
	err := l.heal(ctx)
	note, err2 := l.switching.end(ctx)
	return join(l.to, note), errors.Join(err, err2)
}

func (l *leaving) seen() int64 { return 0 }
