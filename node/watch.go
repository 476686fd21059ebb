package node

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

// Bounds and paces of watches. A watch pulls: it asks a replica of each shard for what
// comes next only when what came before was taken, so a slow reader holds back nobody
// and holds little; while nothing happens it sleeps at the replica.
const (
	maxWatches  = 1000            // on this node
	maxFarPulls = 2048            // waits at other nodes at a time: they must have room for requests
	pullWait    = 5 * time.Second // one wait for something to happen
	pullBytes   = 64 << 10        // of changes at a time, or one request if that is larger
	watchSign   = 5 * time.Second // an idle watch shows a sign of life so often
)

// watching counts the watches of this node.
type watching struct {
	mu    sync.Mutex
	calls int // guarded by mu
	far   int // guarded by mu: pulls that wait at another node
}

func (w *watching) enter(count *int, limit int, what string) (leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if *count >= limit {
		return nil, fulcrum.Errorf(fulcrum.CodeOverloaded, "this node has %d %s already", limit, what).WithHint("watch on another node, or one wider range in the place of many")
	}
	*count++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		*count--
	}, nil
}

func (w *watching) now() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

// Watch tells changes: see api.Backend.
func (n *Node) Watch(ctx context.Context, c api.Call, req api.Watch, emit func(api.WatchBatch) error) error {
	leave, err := n.watching.enter(&n.watching.calls, maxWatches, "watches")
	if err != nil {
		return err
	}
	defer leave()
	w, err := n.openWatch(c, req)
	if err != nil {
		return err
	}
	err = w.run(ctx, emit)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// watch is one Watch under way. Its parts pull, each for one shard; run alone tells, so
// that a token never says more than was told.
//
// Invariant: for each shard, every change in the range at or before told[shard] and
// behind where the watch began was given to emit, once, before the token that says so.
type watch struct {
	n        *Node
	call     api.Call
	told     consistency.Marks // guarded by run's goroutine
	parts    []*pull
	keyspace string
}

// pull is a watch's part on one shard.
type pull struct {
	n     *Node
	name  string // of the keyspace
	group fulcrum.GroupID
	req   replication.ChangesRequest // After: what is told already, or is on its way to run
}

// openWatch finds the shards and where each of them begins.
func (n *Node) openWatch(c api.Call, req api.Watch) (*watch, error) {
	c.Level, c.Session = consistency.L(consistency.Linearizable), "" // for the leaders that are asked for a beginning
	op := &operation{n: n, call: c, access: consistency.Read}
	st, ks, err := op.keyspace()
	if err != nil {
		return nil, err
	}
	start, end := bounds(api.Scan{Prefix: req.Prefix, Start: req.Start, End: req.End})
	if end != nil && bytes.Compare(start, end) >= 0 {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "no key is at or above %q and below %q", start, end)
	}
	marks, since, err := n.watchAfter(req.After)
	if err != nil {
		return nil, err
	}
	w := &watch{n: n, call: c, told: consistency.Marks{}, keyspace: ks.Name}
	for _, sh := range watched(st, ks, start, end) {
		if err := watchable(ks.Name, sh); err != nil {
			return nil, err
		}
		m, ok := marks[sh.Group]
		if !ok && marks != nil {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "the position says nothing of shard %d: it is of another keyspace, or of another range of keys", sh.Group).
				WithHint("go on with the keyspace and the range that the position was given for, or begin anew without one")
		}
		w.parts = append(w.parts, &pull{n: n, name: ks.Name, group: sh.Group,
			req: replication.ChangesRequest{After: m, Since: since, Start: start, End: end, Limit: pullBytes}})
	}
	return w, nil
}

// watched are the shards that may hold keys of the range.
func watched(st *catalog.State, ks *catalog.Keyspace, start, end []byte) []*catalog.Shard {
	if bytes.Equal(end, append(bytes.Clone(start), 0)) { // one key
		return []*catalog.Shard{st.ShardOf(ks, start)}
	}
	return st.ShardsOver(ks, start, end)
}

func watchable(keyspace string, sh *catalog.Shard) error {
	if sh.Mode == consistency.Raft {
		return nil
	}
	return fulcrum.Errorf(fulcrum.CodeMode, "shard %d of keyspace %s is in mode %s, which has no watch", sh.Group, keyspace, sh.Mode).
		WithHint("only mode raft tells its changes in order: fulcrum keyspace alter %s --mode raft, or scan", keyspace)
}

func (n *Node) watchKey() []byte { return []byte("fulcrum watch " + n.opt.ClusterID) }

// watchAfter reads api.Watch.After: nil marks for "from now on".
func (n *Node) watchAfter(after string) (consistency.Marks, fulcrum.Version, error) {
	if after == "" {
		return nil, fulcrum.Version{}, nil
	}
	if v, err := fulcrum.ParseVersion(after); err == nil {
		if v.IsZero() { // Since zero would mean "from now on"
			v.Actor = 1
		}
		return nil, v, nil
	}
	marks, err := consistency.OpenToken(n.watchKey(), consistency.Token(after))
	if err != nil {
		return nil, fulcrum.Version{}, fulcrum.Errorf(fulcrum.CodeInvalid, "not a position of a watch of this cluster, nor a version").
			WithHint("send back the id of the last event as it came, or a version as a receipt shows it, or nothing to begin now")
	}
	return marks, fulcrum.Version{}, nil
}

// shardChanges is what one shard answered.
type shardChanges struct {
	group fulcrum.GroupID
	replication.ChangesReply
}

func (w *watch) run(ctx context.Context, emit func(api.WatchBatch) error) error {
	events, err := w.first(ctx)
	if err != nil {
		return err
	}
	if err := w.tell(events, emit); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	heard, failed := make(chan shardChanges), make(chan error, len(w.parts))
	for _, p := range w.parts {
		parts.Go(func() { failed <- p.run(ctx, heard) })
	}
	sign := time.NewTimer(watchSign)
	defer sign.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case c := <-heard:
			w.told[c.group] = c.Next
			if len(c.Events) == 0 {
				continue
			}
			err = w.tell(c.Events, emit)
		case <-sign.C:
			err = w.tell(nil, emit)
		}
		if err != nil {
			return err
		}
		sign.Reset(watchSign)
	}
}

func (w *watch) tell(events []fulcrum.Event, emit func(api.WatchBatch) error) error {
	if err := emit(api.WatchBatch{Events: events, Next: string(w.told.Seal(w.n.watchKey()))}); err != nil {
		return err
	}
	w.n.metrics.watchEvents.WithLabelValues(w.keyspace).Add(float64(len(events)))
	return nil
}

// first asks every shard once, without waiting for anything to happen: what cannot be
// told any more is said before anything is told. A version that is of the future for all
// shards is refused; where one of them made it, the others begin now.
func (w *watch) first(ctx context.Context) ([]fulcrum.Event, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	heard := make([]replication.ChangesReply, len(w.parts))
	future := make([]error, len(w.parts))
	for i, p := range w.parts {
		g.Go(func() (err error) {
			if p.req.After.IsZero() {
				if p.req.After, err = w.begin(ctx, p.group); err != nil {
					return err
				}
			}
			heard[i], err = p.next(ctx)
			if !p.req.Since.IsZero() && errors.Is(err, fulcrum.ErrInvalid) {
				future[i], p.req.Since = err, fulcrum.Version{}
				heard[i], err = p.next(ctx)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if !slices.Contains(future, nil) {
		return nil, future[0]
	}
	var events []fulcrum.Event
	for i, p := range w.parts {
		events = append(events, heard[i].Events...)
		w.told[p.group] = heard[i].Next
		p.req.Wait = pullWait
	}
	return events, nil
}

// begin asks a shard's leader for the position behind everything acknowledged so far.
func (w *watch) begin(ctx context.Context, g fulcrum.GroupID) (consistency.Mark, error) {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	var at consistency.Mark
	op := &operation{n: w.n, call: w.call, access: consistency.Read}
	err := op.onShard(ctx, g, func(ctx context.Context, ref catalog.ShardRef, _ consistency.Level, to fulcrum.NodeID) error {
		if err := watchable(w.keyspace, ref.Shard); err != nil {
			return err
		}
		rep, err := w.n.sendChanges(ctx, to, ref.Shard, replication.ChangesRequest{})
		at = rep.Next
		return err
	})
	return at, err
}

// run pulls until ctx ends or there is no going on.
func (p *pull) run(ctx context.Context, heard chan<- shardChanges) error {
	for {
		rep, err := p.next(ctx)
		if err != nil {
			return err
		}
		select {
		case heard <- shardChanges{p.group, rep}:
		case <-ctx.Done():
			return nil
		}
	}
}

// next returns what comes next, from whichever replica has it, and moves on. Replicas
// come, go and restart meanwhile: it asks again and again until one answers, for as long
// as a request would wait. What one replica no longer keeps another may: only when none
// has it, among those that can be asked, is it gone.
func (p *pull) next(ctx context.Context) (replication.ChangesReply, error) {
	var failing time.Time
	for attempt := 0; ; attempt++ {
		changed := p.n.machine.Changed()
		ref, ok := p.n.machine.State().Group(p.group)
		if !ok {
			return replication.ChangesReply{}, catalog.NoKeyspace(p.name, p.n.machine.State())
		}
		if err := watchable(p.name, ref.Shard); err != nil {
			return replication.ChangesReply{}, err
		}
		rep, gone, err := p.ask(ctx, ref.Shard)
		if err == nil {
			p.req.After, p.req.Since = rep.Next, fulcrum.Version{}
			return rep, nil
		}
		if failing.IsZero() {
			failing = time.Now()
		}
		// While the shard changes its epoch nobody may be there; that ends by itself.
		patient := time.Since(failing) < patience || ref.Shard.Phase != catalog.Active
		switch {
		case ctx.Err() != nil:
			return replication.ChangesReply{}, ctx.Err()
		case gone == len(ref.Shard.Replicas), gone > 0 && !patient:
			return replication.ChangesReply{}, compacted(err)
		case gone == 0 && !passing(err):
			return replication.ChangesReply{}, err
		case !patient:
			return replication.ChangesReply{}, p.lost(err)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(backoff(attempt)):
		}
	}
}

// ask asks the replicas in turn; gone is how many no longer keep it, and then err says so.
func (p *pull) ask(ctx context.Context, sh *catalog.Shard) (rep replication.ChangesReply, gone int, err error) {
	var forgotten error
	for _, id := range p.n.candidates(sh, consistency.Read, consistency.L(consistency.One)) {
		rep, err = p.n.sendChanges(ctx, id, sh, p.req)
		e := fulcrum.AsError(err)
		switch {
		case e == nil:
			p.n.eventsHere(rep.Events, rep.Clock)
			return rep, 0, nil
		case e.Code == fulcrum.CodeCompacted:
			forgotten = e
			gone++
		case !passing(err) || ctx.Err() != nil:
			return rep, 0, err
		}
	}
	if forgotten != nil {
		err = forgotten
	}
	return rep, gone, err
}

// passing reports whether asking again, or another replica, may help.
func passing(err error) bool { return retriable(err) || errors.Is(err, fulcrum.ErrOverloaded) }

// lost is how a watch ends that this node cannot go on with.
func (p *pull) lost(err error) error {
	e := *fulcrum.AsError(err)
	if e.Code != fulcrum.CodeOverloaded {
		e.Code = fulcrum.CodeUnavailable
	}
	e.Hint = "nothing is missed: go on from the last position, on another node if this one is cut off"
	return &e
}

func compacted(err error) error {
	return fulcrum.AsError(err).WithHint("changes came faster than they were read, or the watch was away for too long, or replicas restarted: begin a new watch, then read the keys anew, then go on with what the watch tells")
}

func (n *Node) sendChanges(ctx context.Context, to fulcrum.NodeID, sh *catalog.Shard, req replication.ChangesRequest) (replication.ChangesReply, error) {
	if to == n.opt.Name {
		h, err := n.host.at(sh.Group, sh.Epoch)
		if err != nil {
			return replication.ChangesReply{}, err
		}
		return h.changes(ctx, n, req)
	}
	leave, err := n.watching.enter(&n.watching.far, maxFarPulls, "shards watched at other nodes")
	if err != nil {
		return replication.ChangesReply{}, err
	}
	defer leave()
	if err := n.reach(ctx, to); err != nil {
		return replication.ChangesReply{}, err
	}
	callCtx, cancel := context.WithTimeout(ctx, req.Wait+perReplica)
	defer cancel()
	answer, err := n.peers.Call(callCtx, to, chData, replication.AppendChangesRequest(appendShard([]byte{dataChanges}, sh.Group, sh.Epoch), req))
	if e := fulcrum.AsError(err); e != nil && e.Maybe {
		return replication.ChangesReply{}, fulcrum.Errorf(fulcrum.CodeUnavailable, "%s did not answer in time", to)
	}
	if err != nil {
		return replication.ChangesReply{}, err
	}
	rep, err := replication.ReadChangesReply(fulcrum.NewReader(answer))
	return rep, unreadable(to, err)
}
