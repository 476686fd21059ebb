package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/workload"
	"fulcrum/mutant"
)

// keyspace is the one that every run makes for itself.
const keyspace = "jepsen"

// World is a cluster that can be used and broken: sim's, real's.
type World interface {
	nemesis.Cluster
	// Client is the way of one client to the cluster; only its goroutine uses it.
	Client(i int) workload.Client
	// Create makes a keyspace and waits until every node serves it. One of that name is
	// replaced on a cluster of our own, and an error (CodeExists) on another's.
	Create(ctx context.Context, spec fulcrum.KeyspaceSpec) error
}

// Progress is what a run tells while it goes on.
type Progress struct {
	Phase          string
	Elapsed, Total time.Duration // of the main phase
	OK, Fail, Info int64
	Fault          string // the last step of the nemesis
}

// run is one run under way.
type run struct {
	t     Test
	w     World
	began time.Time
	work  workload.Work
	rec   recorder

	processes atomic.Int64    // handed out so far
	counts    [3]atomic.Int64 // by outcome
	telling   sync.Mutex      // one call of tell at a time
	tell      func(Progress)
}

// Run makes the keyspace, lets clients and nemesis work for t.Time, mends everything,
// waits until the cluster answers again and its replicas agree, and reads it all. It
// returns what was recorded also when ctx ends or something fails; then the error says
// why, and everything that the run broke is mended nevertheless.
//
// t must have been filled (Fill).
func Run(ctx context.Context, t Test, w World, tell func(Progress)) (*history.History, *nemesis.Plan, error) {
	plan, err := t.plan(w.Nodes(), w.Can)
	if err != nil {
		return nil, nil, err
	}
	spec := fulcrum.KeyspaceSpec{Name: keyspace, Mode: t.Mode.String(), ShardBy: t.ShardBy, Shards: t.Shards, Replicas: t.Replicas,
		WriteLevel: t.Write.String(), ReadLevel: t.Read.String(), Durability: t.Durability}
	createCtx, cancel := context.WithTimeout(ctx, t.Recovery)
	defer cancel()
	if err := w.Create(createCtx, spec); err != nil {
		return nil, plan, fmt.Errorf("create the keyspace: %w", err)
	}
	wl, err := workload.Find(t.Workload)
	if err != nil {
		return nil, plan, err
	}
	if tell == nil {
		tell = func(Progress) {}
	}
	r := &run{t: t, w: w, began: time.Now(), work: wl.New(t.setup(w.Nodes())), tell: tell}
	err = r.all(ctx, plan)
	return r.rec.history(), plan, err
}

// plan draws what the nemeses of t do to a cluster; its error says which of them the
// cluster is too small for, or cannot be done to it.
func (t *Test) plan(nodes []fulcrum.NodeID, can func(string) error) (*nemesis.Plan, error) {
	return nemesis.New(t.Nemeses, nemesis.Options{Rand: rand.New(rand.NewPCG(t.Seed, nemesisStream)), Nodes: nodes, Keyspace: keyspace,
		Modes: modeNames(t), Duration: t.Time, Quiet: around(t.Quiet), Busy: around(t.Busy), Can: can})
}

// nemesisStream keeps the nemesis' randomness apart from that of the clients, whose
// streams are numbered from 1.
const nemesisStream = 1 << 63

// around is the span of times whose mean is d; of 0 it is the nemesis' own.
func around(d time.Duration) nemesis.Span { return nemesis.Span{Min: d / 2, Max: d + d/2} }

func modeNames(t *Test) (out []string) {
	for _, m := range t.Modes {
		out = append(out, m.String())
	}
	return out
}

// newProcess is a process that has done nothing yet.
func (r *run) newProcess() int { return int(r.processes.Add(1)) - 1 }

func (r *run) since() time.Duration { return time.Since(r.began) }

func (r *run) mark(phase string) {
	r.rec.event(history.Event{Time: r.since(), F: "phase", Fault: phase})
	r.progress(phase, "")
}

func (r *run) progress(phase, fault string) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.tell(Progress{Phase: phase, Elapsed: min(r.since(), r.t.Time), Total: r.t.Time, Fault: fault,
		OK: r.counts[history.OK].Load(), Fail: r.counts[history.Fail].Load(), Info: r.counts[history.Info].Load()})
}

func (r *run) all(ctx context.Context, plan *nemesis.Plan) error {
	r.mark(history.PhaseMain)
	err := r.main(ctx, plan)
	mendCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.t.Recovery)
	defer cancel()
	if err := errors.Join(err, plan.Mend(mendCtx, r.w)); err != nil {
		return err
	}
	if ctx.Err() != nil { // interrupted: what is recorded so far is judged as it is
		return ctx.Err()
	}
	if r.recovered(mendCtx, plan) {
		r.mark(history.PhaseRecovered)
	}
	r.mark(history.PhaseFinal)
	if !mutant.On("final-read-skipped") {
		r.final(ctx)
	}
	if ctx.Err() == nil { // without this mark the run was cut short
		r.mark(history.PhaseEnd)
	}
	return ctx.Err()
}

// main runs clients and nemesis for t.Time.
func (r *run) main(ctx context.Context, plan *nemesis.Plan) error {
	ctx, cancel := context.WithTimeout(ctx, r.t.Time)
	defer cancel()
	var wg sync.WaitGroup
	for i := range r.t.Concurrency {
		c := &client{r: r, id: i, process: r.newProcess(), conn: r.w.Client(i), source: r.work.Source(i), rand: rand.New(rand.NewPCG(r.t.Seed, pacingStream+uint64(i)))}
		wg.Go(func() { c.loop(ctx) })
	}
	wg.Go(func() {
		<-ctx.Done() // the last faults are undone from now on: what follows is the recovery
		r.mark(history.PhaseHeal)
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			r.progress(history.PhaseMain, "")
			pause(ctx, max(time.Second, r.t.Time/100))
		}
	})
	err := plan.Run(ctx, r.w, r.since, func(e history.Event) {
		r.rec.event(e)
		r.progress(history.PhaseMain, e.F+" "+e.Fault)
	})
	if err == nil {
		<-ctx.Done()
	} else {
		cancel()
	}
	wg.Wait()
	return err
}

// pacingStream keeps the randomness of pauses apart from that of operations.
const pacingStream = 1 << 62

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// mendEvery is how often nodes that do not answer are looked after while the cluster
// recovers: one may end late, of a disk that was damaged.
const mendEvery = 10 * time.Second

// recovered waits until every node answers a write and a read at the run's levels.
func (r *run) recovered(ctx context.Context, plan *nemesis.Plan) bool {
	looked := time.Now()
	probe := r.w.Client(r.t.Concurrency)
	for _, node := range r.w.Nodes() {
		for n := 0; ; n++ {
			ok := true
			for _, rq := range []workload.Request{{F: history.Write, Level: r.t.Write, Value: "probe"}, {F: history.Read, Level: r.t.Read}} {
				rq.Keyspace, rq.Node, rq.Key = keyspace, node, fmt.Sprintf("probe-%s-%d", node, n)
				opCtx, cancel := context.WithTimeout(ctx, r.t.OpTimeout)
				_, err := probe.Do(opCtx, rq)
				cancel()
				ok = ok && err == nil
			}
			if ok {
				break
			}
			if ctx.Err() != nil {
				return false
			}
			if time.Since(looked) > mendEvery {
				_ = plan.Mend(ctx, r.w) // what does not work shows in the node that does not answer
				looked = time.Now()
			}
			pause(ctx, 50*time.Millisecond)
		}
	}
	return true
}
