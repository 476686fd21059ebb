package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/client"
)

// How much is done, and for how long things are waited for.
const (
	opsPerRow      = 6 // a multiple of rounds
	rounds         = 2 // of overwrites and reads while cut; each side has the last word in one
	opTimeout      = 5 * time.Second
	probeTimeout   = 2 * time.Second
	probeEvery     = 200 * time.Millisecond
	liveWithin     = 15 * time.Second
	serveWithin    = 30 * time.Second // new keyspaces
	settleAtLeast  = 6 * time.Second  // twice a liveness lease
	settleCalm     = 3 * time.Second  // a lease: nobody has changed its answer for that long
	settleAtMost   = 25 * time.Second
	convergeEvery  = 50 * time.Millisecond
	convergeAtMost = time.Minute
	cleanWithin    = 30 * time.Second
	checksAtOnce   = 8
)

// sharedKey is the key that both sides overwrite and read.
const sharedKey = "shared"

// capRun is one run of the experiment.
type capRun struct {
	c     cluster
	env   *Env
	plans []plan
	rec   *recorder
	start time.Time

	names  map[string]string // keyspaces in the cluster, by label
	nodes  []fulcrum.NodeID
	sides  map[string][]fulcrum.NodeID
	report *Report

	mu      sync.Mutex // guards the probes of watches
	watches []*watch
}

// runCAP runs the experiment. Whatever happens, it ends its fault and (unless
// env.Keep) drops its keyspaces, even when ctx has ended.
func runCAP(ctx context.Context, c cluster, env *Env) (_ *Report, err error) {
	r := &capRun{c: c, env: env, plans: plans(), rec: newRecorder(), start: time.Now(), names: map[string]string{}, sides: map[string][]fulcrum.NodeID{}}
	r.report = &Report{Experiment: "cap", Started: r.start.UTC()}
	id := suffix()
	fault := "lab-cap-" + id
	cut := false
	defer func() { err = errors.Join(err, r.clean(context.WithoutCancel(ctx), fault, cut)) }()

	r.step(0, "making keyspaces")
	if err := r.prepare(ctx, id); err != nil {
		return nil, err
	}
	r.step(1, "asking both sides while the network is whole")
	if err := r.before(ctx); err != nil {
		return nil, err
	}
	if err := r.choose(ctx); err != nil { // leaders may have moved since prepare
		return nil, err
	}
	r.step(2, "cutting "+describeSides(r.sides))
	cut = true // from here on some node may have it
	if err := r.c.cut(ctx, fulcrum.Fault{ID: fault, Kind: "partition", Sides: [][]fulcrum.NodeID{r.sides[Minority], r.sides[Majority]}}); err != nil {
		return nil, fmt.Errorf("cut the network: %w", err)
	}
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	r.step(4, "asking both sides while they are apart")
	if err := r.whileCut(ctx); err != nil {
		return nil, err
	}
	r.step(5, "healing, and waiting until all nodes agree")
	if err := r.c.heal(ctx, fault); err != nil {
		return nil, fmt.Errorf("heal the network: %w", err)
	}
	cut = false
	after, err := r.converge(ctx)
	if err != nil {
		return nil, err
	}
	r.step(6, "looking for every acknowledged write")
	if err := r.check(ctx, after); err != nil {
		return nil, err
	}
	r.finish(after)
	r.step(7, "cleaning up")
	return r.report, nil
}

const steps = 8

func (r *capRun) step(n int, what string) {
	r.env.log().Info("lab cap: "+what, "step", n)
	r.env.progress(n, steps, what)
}

func suffix() string {
	var b [3]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func describeSides(sides map[string][]fulcrum.NodeID) string {
	text := func(ns []fulcrum.NodeID) string {
		var s []string
		for _, n := range ns {
			s = append(s, string(n))
		}
		return strings.Join(s, ",")
	}
	return text(sides[Minority]) + " from " + text(sides[Majority])
}

// prepare looks the cluster over, makes the keyspaces, waits until every node
// answers in each, and chooses the sides.
func (r *capRun) prepare(ctx context.Context, id string) error {
	info, err := r.allLive(ctx)
	if err != nil {
		return err
	}
	for _, n := range info.Nodes {
		r.nodes = append(r.nodes, n.Name)
	}
	slices.Sort(r.nodes)
	switch {
	case len(r.nodes) < 3:
		_, _, err := chooseSides(r.nodes, nil, nil)
		return err
	case !info.FaultsAllowed:
		return fulcrum.Errorf(fulcrum.CodeFaults, "node %s does not let faults be injected", info.Node).WithHint("start the nodes with --allow-faults")
	case len(info.Faults) > 0:
		return fulcrum.Errorf(fulcrum.CodeConflict, "fault %s is active: the experiment needs a whole network to begin with", info.Faults[0].ID).WithHint("end it with fulcrum fault heal")
	}
	for _, p := range r.plans {
		name := "lab-cap-" + p.label + "-" + id
		r.names[p.label] = name // before it is there: clean drops it even if the answer got lost
		if err := r.c.create(ctx, p.spec(name, len(r.nodes))); err != nil {
			return fmt.Errorf("make keyspace %s: %w", name, err)
		}
	}
	if err := r.serving(ctx); err != nil {
		return err
	}
	return r.choose(ctx)
}

// allLive waits until every node is live: one that just started is not at once.
func (r *capRun) allLive(ctx context.Context) (fulcrum.ClusterInfo, error) {
	deadline := time.Now().Add(liveWithin)
	for {
		info, err := r.c.info(ctx)
		if err != nil {
			return info, err
		}
		dead := slices.IndexFunc(info.Nodes, func(n fulcrum.NodeInfo) bool { return !n.Live })
		if dead < 0 {
			return info, nil
		}
		if time.Now().After(deadline) {
			return info, fulcrum.Errorf(fulcrum.CodeUnavailable, "node %s is not live: the experiment needs every node, to tell the cut from other troubles", info.Nodes[dead].Name)
		}
		if err := pause(ctx, probeEvery); err != nil {
			return info, err
		}
	}
}

// serving returns once every node answers reads at the strong level in every keyspace.
func (r *capRun) serving(ctx context.Context) error {
	deadline := time.Now().Add(serveWithin)
	for _, p := range r.plans {
		for _, n := range r.nodes {
			for {
				_, err := r.get(ctx, n, p, sharedKey, kind{Get, p.strongRead}, probeTimeout)
				if err == nil {
					break
				}
				if time.Now().After(deadline) {
					return fmt.Errorf("keyspace %s does not answer on %s after %s: %w", r.names[p.label], n, serveWithin, err)
				}
				if err := pause(ctx, probeEvery/2); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *capRun) get(ctx context.Context, at fulcrum.NodeID, p plan, key string, k kind, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return r.c.get(ctx, at, r.names[p.label], key, k.level)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// choose looks up who leads and cuts the nodes such that the leaders of lf and, where
// there is room, of cp are on the smaller side: what is lost when a leader is cut off
// can only be seen when it is.
func (r *capRun) choose(ctx context.Context) error {
	r.report.Keyspaces = nil
	leaders := map[string]fulcrum.NodeID{}
	var sets [][]fulcrum.NodeID
	for _, p := range r.plans {
		info, err := r.c.describe(ctx, r.names[p.label])
		if err != nil {
			return err
		}
		k := Keyspace{Keyspace: p.label, Name: info.Name, Mode: info.Mode}
		for _, sh := range info.ShardList {
			for _, rep := range sh.Replicas {
				k.Replicas = append(k.Replicas, rep.Node)
			}
			k.Leader = sh.Leader
		}
		slices.Sort(k.Replicas)
		if p.single && len(k.Replicas) == 1 {
			k.Leader = k.Replicas[0]
		}
		if !p.single {
			sets = append(sets, k.Replicas)
		}
		leaders[p.label] = k.Leader
		r.report.Keyspaces = append(r.report.Keyspaces, k)
	}
	minority, majority, err := chooseSides(r.nodes, []fulcrum.NodeID{leaders["lf"], leaders["cp"]}, sets)
	if err != nil {
		return err
	}
	if first := len(r.sides) == 0; !first && !slices.Equal(minority, r.sides[Minority]) {
		// A leader moved meanwhile. The sides stay as the rows before the cut have
		// them; LeaderSide says where the leaders are.
		minority, majority = r.sides[Minority], r.sides[Majority]
	}
	r.sides[Minority], r.sides[Majority] = minority, majority
	r.report.Sides = []Side{{Minority, minority}, {Majority, majority}}
	for i := range r.report.Keyspaces {
		k := &r.report.Keyspaces[i]
		for side, nodes := range r.sides {
			if k.Leader != "" && slices.Contains(nodes, k.Leader) {
				k.LeaderSide = side
			}
		}
	}
	return nil
}

// one carries out operation i of a kind on a side, through the side's nodes in turn,
// and records it. An operation that was cut short by the end of ctx is not recorded:
// it says nothing of the store.
func (r *capRun) one(ctx context.Context, phase string, p plan, side string, k kind, i int, limit time.Duration) outcome {
	o := op{phase: phase, keyspace: p.label, side: side, operation: k.operation, level: k.level.String(), key: sharedKey}
	at := r.sides[side][i%len(r.sides[side])]
	keyspace := r.names[p.label]
	opCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	var err error
	switch k.operation {
	case Put:
		o.key = fmt.Sprintf("%s-%s-%s-%s-%d", phase, side, k.operation, o.level, i)
		o.value = "value of " + o.key
		err = r.c.put(opCtx, at, keyspace, o.key, o.value, k.level)
	case Overwrite:
		o.order = r.rec.nextOrder(p.label)
		o.value = fmt.Sprintf("%d from the %s", o.order, side)
		err = r.c.put(opCtx, at, keyspace, o.key, o.value, k.level)
	case Get:
		o.newest = r.rec.newest(p.label)
		o.value, err = r.c.get(opCtx, at, keyspace, o.key, k.level)
	}
	if ctx.Err() != nil {
		return unknown
	}
	o.began, o.took = began.Sub(r.start), time.Since(began)
	o.outcome, o.because = judge(k.operation, err)
	r.rec.add(o)
	return o.outcome
}

// judge sorts an error. A read that fails was refused, whyever: it changes nothing.
func judge(operation string, err error) (outcome, string) {
	switch {
	case err == nil:
		return answered, ""
	case operation != Get && client.Unknown(err):
		return unknown, err.Error()
	}
	return refused, err.Error()
}

// series carries out n operations of a kind, numbered from first: one after the other
// while they are answered, so that each has the nodes to itself, but all others at the
// same time once one is not, since each may take its whole time.
func (r *capRun) series(ctx context.Context, phase string, p plan, side string, k kind, first, n int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := first; i < first+n && ctx.Err() == nil; i++ {
		if r.one(ctx, phase, p, side, k, i, opTimeout) == answered {
			continue
		}
		for j := i + 1; j < first+n; j++ {
			wg.Go(func() { r.one(ctx, phase, p, side, k, j, opTimeout) })
		}
		return
	}
}

// before asks each side while the network is whole, one operation at a time.
func (r *capRun) before(ctx context.Context) error {
	for _, p := range r.plans {
		for _, side := range []string{Majority, Minority} { // so that reads have something to find
			r.one(ctx, Before, p, side, kind{Overwrite, p.weakWrite}, 0, opTimeout)
		}
		for _, side := range []string{Minority, Majority} {
			r.series(ctx, Before, p, side, kind{Put, p.strongWrite}, 0, opsPerRow)
			r.series(ctx, Before, p, side, kind{Get, p.strongRead}, 0, opsPerRow)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// whileCut asks both sides of the cut, all keyspaces at the same time: puts beside
// rounds in which both sides overwrite the shared key, one after the other, and then
// both read it.
func (r *capRun) whileCut(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, p := range r.plans {
		wg.Go(func() {
			var puts sync.WaitGroup
			defer puts.Wait()
			for _, side := range []string{Minority, Majority} {
				puts.Go(func() {
					for _, k := range p.kinds() {
						if k.operation == Put {
							r.series(ctx, Cut, p, side, k, 0, opsPerRow)
						}
					}
				})
			}
			for round := range rounds {
				r.round(ctx, p, round)
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (r *capRun) round(ctx context.Context, p plan, round int) {
	order := []string{Majority, Minority}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	for _, side := range order {
		if ctx.Err() == nil {
			r.one(ctx, Cut, p, side, kind{Overwrite, p.weakWrite}, round, opTimeout)
		}
	}
	const reads = opsPerRow / rounds
	var wg sync.WaitGroup
	for _, side := range order {
		for _, k := range []kind{{Get, p.strongRead}, {Get, p.weakRead}} {
			wg.Go(func() { r.series(ctx, Cut, p, side, k, round*reads, reads) })
		}
	}
	wg.Wait()
}

// finish fills the report from what was recorded.
func (r *capRun) finish(after map[string]aftermath) {
	ops := r.rec.all()
	r.report.Rows = rowsOf(r.plans, ops, after)
	for i := range r.report.Keyspaces {
		k := &r.report.Keyspaces[i]
		a := after[k.Keyspace]
		f := fateOf(filter(ops, func(o op) bool { return o.keyspace == k.Keyspace }), a.values)
		k.Acknowledged, k.Lost, k.Unchecked = f.acknowledged, f.lost, f.unchecked
		k.Converged = a.converged
		k.Shared = sharedOf(ops, k.Keyspace, a)
	}
	for _, w := range r.watches {
		if len(w.probes) > 0 {
			r.report.Changes = append(r.report.Changes, w.change())
		}
	}
	r.report.Seconds = seconds(time.Since(r.start))
	r.report.Findings = findings(r.report)
}

// clean ends the fault, if it may be there, and drops the keyspaces. It goes on after
// errors and returns them all.
func (r *capRun) clean(ctx context.Context, fault string, cut bool) error {
	ctx, cancel := context.WithTimeout(ctx, cleanWithin)
	defer cancel()
	var errs []error
	if cut {
		if err := r.c.heal(ctx, fault); err != nil {
			errs = append(errs, fmt.Errorf("the fault %s may still be active: %w", fault, err))
		}
	}
	for _, name := range r.names {
		if r.env.Keep {
			break
		}
		if err := r.dropped(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("keyspace %s is left behind: %w", name, err))
		}
	}
	r.env.progress(steps, steps, "")
	return errors.Join(errs...)
}

// dropped drops a keyspace, again and again until ctx ends: right after healing the
// catalog may have no leader yet.
func (r *capRun) dropped(ctx context.Context, name string) error {
	for {
		err := r.c.drop(ctx, name)
		if err == nil || errors.Is(err, fulcrum.ErrNotFound) {
			return nil
		}
		if pause(ctx, 5*probeEvery) != nil {
			return err
		}
	}
}
