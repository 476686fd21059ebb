package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
	"fulcrum/mutant"
)

// Bounds of what Run waits for.
const (
	beginTime = 15 * time.Second // for a fault to be set
	undoTime  = 2 * time.Minute  // for the faults of a round to be undone, also after ctx ended
	leaseOver = 6 * time.Second  // after which a dead node's lease is over
	begunTime = 3 * time.Second  // for a switch to be seen that nobody said had begun
	comesBack = 6 * time.Second  // what a started node is given to be there, or to give up
	pollTime  = 100 * time.Millisecond
	stagger   = 200 * time.Millisecond // between the beginnings of one round: a crash meets what a slow disk held up
)

// Run carries the plan out and returns when it is done or ctx ends. Until then it has
// undone whatever it did, in bounded time, and no node is down or paused because of it.
//
// Every step that begins gives two events, "start" and "stop", the latter with the hits;
// since is the run's clock. A step that failed says so in its event, and the plan goes on;
// that ctx ended while it began is no failure. The error is what could not be undone.
func (p *Plan) Run(ctx context.Context, c Cluster, since func() time.Duration, emit func(history.Event)) error {
	if mutant.On("nemesis-noop") {
		c = &idle{Cluster: c}
	}
	x := &executor{c: c, keyspace: p.Keyspace, since: since, emit: emit, damaged: map[fulcrum.NodeID]bool{}}
	began, late := since(), time.Duration(0)
	var errs []error
	for steps := p.Steps; len(steps) > 0; {
		n := 1
		for n < len(steps) && steps[n].At == steps[0].At {
			n++
		}
		at := time.Duration(steps[0].At)
		if !sleep(ctx, began+at+late-since()) {
			break
		}
		errs = append(errs, x.round(ctx, steps[:n]))
		late = max(late, since()-began-at-time.Duration(steps[0].For)) // the quiet times stay
		steps = steps[n:]
	}
	if len(x.damaged) > 0 { // what a flipped bit did may show only after its round
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		_, err := x.revive(ending)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sleep reports whether it was not ctx that ended it.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// executor is one Run.
type executor struct {
	c        Cluster
	keyspace string
	since    func() time.Duration
	emit     func(history.Event)
	damaged  map[fulcrum.NodeID]bool // those that may refuse their disk
}

// round runs the steps that begin together: they begin one by one, last together, and
// end in the opposite order.
func (x *executor) round(ctx context.Context, steps []Step) error {
	before := x.c.Hits(ctx)
	acts := make([]act, len(steps))
	for i, s := range steps {
		if i > 0 && !sleep(ctx, stagger) { // the round was late: the rest of it has no time left
			steps, acts = steps[:i], acts[:i]
			break
		}
		acts[i] = x.act(s)
		beginning, cancel := context.WithTimeout(ctx, beginTime)
		value, err := acts[i].begin(beginning)
		cancel()
		if err != nil && ctx.Err() != nil {
			value, err = join(value, "cut off by the end of the run"), nil
		}
		x.emit(history.Event{Time: x.since(), F: "start", Fault: s.Name, Value: value, Error: text(err)})
	}

	holding, cancel := context.WithTimeout(ctx, time.Duration(steps[0].For))
	defer cancel()
	var wg sync.WaitGroup
	notes, errs := make([]string, len(steps)), make([]error, len(steps))
	for i := range acts {
		wg.Go(func() { errs[i] = acts[i].hold(holding) })
	}
	wg.Wait()
	<-holding.Done()

	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var undone []error
	for i := range slices.Backward(acts) {
		note, err := acts[i].end(ending)
		notes[i], errs[i] = note, errors.Join(errs[i], err)
		undone = append(undone, err)
	}
	note, err := x.revive(ending)
	last := len(steps) - 1
	notes[last], errs[last] = join(notes[last], note), errors.Join(errs[last], err)
	after := x.c.Hits(ending)
	for i, s := range steps {
		x.emit(history.Event{Time: x.since(), F: "stop", Fault: s.Name, Value: notes[i], Hits: acts[i].seen() + hits(s, before, after), Error: text(errs[i])})
	}
	return errors.Join(append(undone, err)...)
}

// hits is how often what a step does acted between two readings: by the first kind
// that its nemesis shows in.
func hits(s Step, before, after map[string]int64) (sum int64) {
	k, err := find(s.Name)
	if err != nil || len(k.hits) == 0 {
		return 0
	}
	return after[k.hits[0]] - before[k.hits[0]]
}

// revive starts nodes that ended by themselves, as an operator would: a disk that
// fails may take its node along.
func (x *executor) revive(ctx context.Context) (note string, err error) {
	down := x.down(x.c.Nodes())
	if len(down) == 0 {
		return "", nil
	}
	note, err = x.start(ctx, down)
	return join(words(down)+" had ended and was started", note), err
}

// down returns those of nodes that do not run.
func (x *executor) down(nodes []fulcrum.NodeID) []fulcrum.NodeID {
	running := x.c.Running()
	return slices.DeleteFunc(slices.Clone(nodes), func(n fulcrum.NodeID) bool { return slices.Contains(running, n) })
}

// up returns those of nodes that run.
func (x *executor) up(nodes []fulcrum.NodeID) []fulcrum.NodeID {
	down := x.down(nodes)
	return slices.DeleteFunc(slices.Clone(nodes), func(n fulcrum.NodeID) bool { return slices.Contains(down, n) })
}

// start starts those of nodes that do not run. One that was damaged and gives up is
// wiped: that is what an operator would do with it. note says so.
func (x *executor) start(ctx context.Context, nodes []fulcrum.NodeID) (note string, err error) {
	var errs []error
	for _, n := range x.down(nodes) {
		err := x.c.Start(ctx, n)
		if x.damaged[n] && (err != nil || x.gaveUp(ctx, n)) {
			note = join(note, string(n)+" refused its damaged disk and was wiped")
			err = x.replace(ctx, n)
		}
		errs = append(errs, err)
	}
	return note, errors.Join(errs...)
}

// gaveUp watches a node that has just been started with a damaged disk.
func (x *executor) gaveUp(ctx context.Context, n fulcrum.NodeID) bool {
	for range comesBack / pollTime {
		if len(x.down([]fulcrum.NodeID{n})) > 0 {
			return true
		}
		if !sleep(ctx, pollTime) {
			return false
		}
	}
	return false
}

// replace gives a node an empty disk, once its lease is over.
func (x *executor) replace(ctx context.Context, n fulcrum.NodeID) error {
	if !sleep(ctx, leaseOver) {
		return fmt.Errorf("%s was not wiped: %w", n, ctx.Err())
	}
	if err := x.c.Damage(ctx, n, Wipe, 0); err != nil {
		return err
	}
	delete(x.damaged, n)
	return x.c.Start(ctx, n)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
