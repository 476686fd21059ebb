package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

// patience is how long a coordinator looks for somebody who can order a request
// before it says that there is nobody: longer than an election, shorter than most
// clients' own limit.
const patience = 3500 * time.Millisecond

// Write coordinates writes: see api.Backend.
func (n *Node) Write(ctx context.Context, c api.Call, ws []fulcrum.Write) ([]fulcrum.Result, consistency.Receipt, error) {
	began := time.Now()
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	op := &operation{n: n, call: c, access: consistency.Write, began: began}
	results, err := op.write(ctx, ws)
	return results, op.finish("write", err), err
}

func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, fulcrum.DefaultRequestLimit)
}

// operation is one request under way; parts of it may run on several shards at
// once, and mu guards what they leave in the receipt.
type operation struct {
	n      *Node
	call   api.Call
	access consistency.Access
	began  time.Time
	token  consistency.Marks // what the request's session token says; never changes

	mu      sync.Mutex
	session consistency.Unsealed // token, and what this request has seen; guarded by mu, as what follows
	receipt consistency.Receipt
	parts   int
}

// keyspace finds the request's keyspace and opens its session token.
func (op *operation) keyspace() (*catalog.State, *catalog.Keyspace, error) {
	st := op.n.machine.State()
	ks, ok := st.Keyspaces[op.call.Keyspace]
	op.receipt = consistency.Receipt{Level: op.call.Level, Staleness: -1}
	if !ok {
		return nil, nil, catalog.NoKeyspace(op.call.Keyspace, st)
	}
	op.receipt.Keyspace, op.receipt.Node, op.receipt.Mode, op.receipt.Durable = ks.Name, op.n.opt.Name, ks.Mode, ks.Durability
	if op.call.Level == (consistency.Level{}) {
		op.receipt.Level = ks.ReadLevel
		if op.access == consistency.Write {
			op.receipt.Level = ks.WriteLevel
		}
	}
	if op.call.Session != "" {
		var err error
		if op.token, err = consistency.OpenToken(op.n.tokenKey, op.call.Session); err != nil {
			return nil, nil, err
		}
		op.session.Begin(op.token)
	}
	return st, ks, nil
}

// CheckSession refuses what is no session token of this cluster.
func (n *Node) CheckSession(t consistency.Token) error {
	_, err := consistency.OpenToken(n.tokenKey, t)
	return err
}

// levelFor is the level that a request has on a shard: what was asked, or the
// keyspace's default. While a switch is under way the default may belong to the
// other mode; then the mode's own default stands in, which is never weaker than
// what the mode can promise safely.
func (op *operation) levelFor(ks *catalog.Keyspace, sh *catalog.Shard) (consistency.Level, error) {
	l := op.call.Level
	if l == (consistency.Level{}) {
		write, read := consistency.Defaults(sh.Mode)
		def := read
		l = ks.ReadLevel
		if op.access == consistency.Write {
			l, def = ks.WriteLevel, write
		}
		if _, err := consistency.Lookup(sh.Mode, op.access, l); err != nil {
			l = def
		}
	}
	_, err := consistency.Lookup(sh.Mode, op.access, l)
	return l, err
}

func (op *operation) write(ctx context.Context, ws []fulcrum.Write) ([]fulcrum.Result, error) {
	st, ks, err := op.keyspace()
	if err != nil {
		return nil, err
	}
	if len(ws) == 0 {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "no writes")
	}
	if err := op.call.ID.Check(); err != nil {
		return nil, fulcrum.AsError(err)
	}
	for _, w := range ws {
		if err := w.Check(op.n.opt.MaxValue); err != nil {
			return nil, fulcrum.AsError(err)
		}
	}
	ws = mistimed(ws, op.n.Now())
	parts := split(st, ks, len(ws), func(i int) []byte { return ws[i].Key })
	if op.call.Atomic && len(parts) > 1 {
		_, err := oneShard(st, ks, keysOf(api.Txn{Then: ws}))
		return nil, err
	}
	if len(parts) == 1 {
		res, err := op.writeShard(ctx, parts[0].group, ws)
		if err != nil {
			return nil, err
		}
		if len(res) == 1 && res[0].Err != nil {
			return res, fulcrum.AsError(res[0].Err)
		}
		return res, nil
	}
	results := make([]fulcrum.Result, len(ws))
	var g errgroup.Group
	var failed []error
	var mu sync.Mutex
	for _, p := range parts {
		g.Go(func() error {
			part := make([]fulcrum.Write, len(p.at))
			for i, j := range p.at {
				part[i] = ws[j]
			}
			res, err := op.writeShard(ctx, p.group, part)
			for i, j := range p.at {
				if err != nil {
					results[j] = fulcrum.Result{Err: err}
					continue
				}
				results[j] = res[i]
			}
			if err != nil {
				mu.Lock()
				failed = append(failed, err)
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait()
	if len(failed) == len(parts) {
		return results, failed[0]
	}
	return results, nil
}

// writing is the writes of a request to one shard that are not done yet.
type writing struct {
	asked []fulcrum.Write
	ws    []fulcrum.Write // those to send: asked, or merges in their place
	late  bool            // some are
}

// some is what is sent at once of writes that have nothing to do with each other: no more
// than one request to a group may hold.
func (p *writing) some() []fulcrum.Write {
	size := 0
	for n := range p.ws {
		w := &p.ws[n]
		if size += len(w.Key) + len(w.Value) + len(w.Expect) + writeRoom; n > 0 && size > maxPartBytes {
			return p.ws[:n]
		}
	}
	return p.ws
}

// writeRoom is more than a write takes besides its key and its values; a request that is
// within maxPartBytes by this measure is one that every group takes.
const (
	writeRoom    = 64
	maxPartBytes = replication.MaxWritten - 64<<10
)

// writeShard does writes to one shard. A group may do the first of them only, when all
// come to too much at once: then the rest follows, in order. Once some are done, an error
// is that of the others alone.
func (op *operation) writeShard(ctx context.Context, g fulcrum.GroupID, ws []fulcrum.Write) ([]fulcrum.Result, error) {
	p := &writing{asked: ws, ws: ws}
	results, err := op.writePart(ctx, g, p)
	if err != nil || len(results) == len(ws) {
		return results, err
	}
	for len(p.ws) > 0 {
		more, err := op.writePart(ctx, g, p)
		if err == nil && len(more) == 0 {
			err = fulcrum.Errorf(fulcrum.CodeInternal, "no results for %d writes", len(p.ws))
		}
		if err != nil {
			more = make([]fulcrum.Result, len(p.ws))
			for i := range more {
				more[i].Err = err
			}
			return append(results, more...), nil
		}
		results = append(results, more...)
	}
	return results, nil
}

// writePart does the first of the writes in p, and takes them out of it. It brings them to
// whoever can order them, again and again while the answer is "definitely not done, ask
// elsewhere", until the deadline.
func (op *operation) writePart(ctx context.Context, g fulcrum.GroupID, p *writing) ([]fulcrum.Result, error) {
	var out replication.WriteReply
	again, divisible := false, len(p.ws) > 1 && !op.call.Atomic && op.call.ID == ""
	err := op.onShard(ctx, g, func(ctx context.Context, ref catalog.ShardRef, level consistency.Level, at fulcrum.NodeID) error {
		req := replication.WriteRequest{Writes: p.ws, Atomic: op.call.Atomic, Divisible: divisible, Level: level, ID: op.call.ID}
		if divisible {
			req.Writes = p.some()
		}
		rep, err := op.attempt(ctx, at, ref.Shard, req)
		if err == nil {
			if p.late {
				merged(p.asked, p.ws, rep.Results)
			}
			out = rep
			op.note(ref, level, rep.Outcome, rep.Results)
			return nil
		}
		if mutant.On("retry-twice") && fulcrum.AsError(err).Maybe && ctx.Err() == nil {
			again = true
			return fulcrum.Errorf(fulcrum.CodeUnavailable, "tried again") // mutant: does again what may have been done
		}
		if errors.Is(err, fulcrum.ErrEpoch) && len(rep.Results) > 0 && ref.Shard.Mode == consistency.Quorum {
			// A fence cut it off after it was stamped: some replica may hold it, and
			// the next epoch may show it. So it goes on with the version that it has:
			// then it takes effect at most once, before anything newer.
			p.ws, p.late = mergesOf(p.ws, rep.Results), true
		}
		return err
	})
	if err != nil && op.access == consistency.Write && errors.Is(err, fulcrum.ErrUnavailable) && !p.late {
		res, hintErr := op.hintAny(ctx, g, p.ws)
		if hintErr == nil {
			p.ws = nil
			return res, nil
		}
		if fulcrum.AsError(hintErr).Maybe {
			return nil, hintErr // it may be queued: no longer "not done"
		}
	}
	if (p.late || again) && err != nil && !fulcrum.AsError(err).Maybe {
		e := *fulcrum.AsError(err)
		e.Code, e.Maybe = fulcrum.CodeUnknown, true
		return nil, &e
	}
	if err != nil {
		return nil, err
	}
	n := len(out.Results)
	if n > len(p.ws) {
		return nil, fulcrum.Errorf(fulcrum.CodeUnknown, "%d results for %d writes", n, len(p.ws))
	}
	p.asked, p.ws = p.asked[n:], p.ws[n:]
	return out.Results, nil
}

// mistimed returns ws as they are, but for the mutants.
func mistimed(ws []fulcrum.Write, now int64) []fulcrum.Write {
	if !mutant.On("ttl-early") && !mutant.On("expiry-ignored") {
		return ws
	}
	ws = slices.Clone(ws)
	for i := range ws {
		switch {
		case ws[i].TTL > 0 && mutant.On("ttl-early"):
			ws[i].TTL = max(1, ws[i].TTL/2) // mutant: half the time
		case ws[i].TTL > 0:
			ws[i].TTL = 0 // mutant: never
		case ws[i].ExpireAt <= now:
		case mutant.On("ttl-early"):
			ws[i].ExpireAt -= (ws[i].ExpireAt - now) / 2 // mutant: half the time
		default:
			ws[i].ExpireAt = 0 // mutant: never
		}
	}
	return ws
}

// mergesOf turns blind writes into merges with the versions that they were stamped with.
// A result may come without the value, which is the write's own.
func mergesOf(ws []fulcrum.Write, stamped []fulcrum.Result) []fulcrum.Write {
	out := make([]fulcrum.Write, len(ws))
	for i, w := range ws {
		out[i] = w
		if i >= len(stamped) {
			continue
		}
		if e := stamped[i].Entry; w.Op != fulcrum.OpMerge && !e.Version.IsZero() {
			out[i] = fulcrum.Write{Op: fulcrum.OpMerge, Key: w.Key, At: e.Version, Tombstone: e.Tombstone, ExpireAt: e.ExpireAt, NoValue: w.NoValue, NoOld: w.NoOld}
			if w.Op == fulcrum.OpPut {
				out[i].Value = w.Value
			}
		}
	}
	return out
}

// merged makes the results of merges those of the writes that were asked for. One that
// lost to something newer took effect just before it, with the version that it had: who
// asked must not be told the newer one's, or a compare-and-set at that version would
// overwrite what was never seen.
func merged(asked, merges []fulcrum.Write, results []fulcrum.Result) {
	for i := range results {
		m := merges[i]
		if m.Op != fulcrum.OpMerge || asked[i].Op == fulcrum.OpMerge || results[i].Err != nil {
			continue
		}
		results[i].Applied = true
		results[i].Entry = fulcrum.Entry{Key: m.Key, Value: m.Value, Version: m.At, Tombstone: m.Tombstone, ExpireAt: m.ExpireAt}
	}
}

// hintAny keeps blind writes at the level "any" on this node's disk when no replica
// can be reached (Dynamo 2007, section 4.6: a hint counts).
func (op *operation) hintAny(ctx context.Context, g fulcrum.GroupID, ws []fulcrum.Write) ([]fulcrum.Result, error) {
	ref, ok := op.n.machine.State().Group(g)
	if !ok || ref.Shard.Mode != consistency.Quorum {
		return nil, fulcrum.ErrUnavailable
	}
	if level, err := op.levelFor(ref.Keyspace, ref.Shard); err != nil || level.Kind != consistency.Any {
		return nil, fulcrum.ErrUnavailable
	}
	results := make([]fulcrum.Result, len(ws))
	entries := make([]fulcrum.Entry, len(ws))
	for i, w := range ws {
		if !w.Blind() {
			return nil, fulcrum.ErrMode
		}
		res, err := fulcrum.Evaluate(w, fulcrum.Entry{}, op.n.clock.Next(), op.n.Now(), op.n.opt.MaxValue)
		if err != nil {
			return nil, err
		}
		results[i], entries[i] = res, res.Entry
	}
	hintCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if mutant.On("hint-dropped") {
		entries = nil // mutant: acknowledges a hint that it does not keep
	}
	if err := op.n.late.Put(hintCtx, g, entries); err != nil {
		return nil, err
	}
	op.note(ref, consistency.L(consistency.Any), replication.Outcome{Given: consistency.L(consistency.Any), Staleness: -1, Hinted: len(ws)}, results)
	return results, nil
}

// floor is what the session token demands of a shard. A mark of an earlier epoch is
// met by every replica of this one: all of it is in the starting point.
func (op *operation) floor(sh *catalog.Shard) replication.Position {
	if mutant.On("token-ignored") {
		return replication.Position{} // mutant: any answer will do
	}
	if m, ok := op.token[sh.Group]; ok && m.Epoch == sh.Epoch {
		return replication.Position{Term: m.Term, Index: m.Index}
	}
	return replication.Position{}
}

// part is what of a request belongs to one shard, by its places in the request.
type part struct {
	group fulcrum.GroupID
	at    []int // nil: all of them
}

// split finds the parts of a request for n keys.
func split(st *catalog.State, ks *catalog.Keyspace, n int, key func(int) []byte) []part {
	switch n {
	case 0:
		return nil
	case 1:
		return []part{{group: st.ShardOf(ks, key(0)).Group}}
	}
	var parts []part
	of, sizes := make([]int, n), []int(nil)
	for i := range of {
		g := st.ShardOf(ks, key(i)).Group
		p := slices.IndexFunc(parts, func(p part) bool { return p.group == g })
		if p < 0 {
			p = len(parts)
			parts, sizes = append(parts, part{group: g}), append(sizes, 0)
		}
		of[i] = p
		sizes[p]++
	}
	if len(parts) == 1 {
		return parts
	}
	places := make([]int, n)
	for p, size := range sizes {
		parts[p].at, places = places[:0:size], places[size:]
	}
	for i, p := range of {
		parts[p].at = append(parts[p].at, i)
	}
	return parts
}

// tryAt does a request at one replica of a shard.
type tryAt func(context.Context, catalog.ShardRef, consistency.Level, fulcrum.NodeID) error

// onShard calls f with a replica to ask, and calls it again with another one, or at
// the next epoch, while its error says that the request is definitely not done.
func (op *operation) onShard(ctx context.Context, g fulcrum.GroupID, f tryAt) error {
	return op.tryShard(ctx, g, false, f)
}

// tryShard is onShard. In haste it tries only a replica of this node that answers at once,
// and that once; errLater says that the request is not done, and nothing was waited for.
func (op *operation) tryShard(ctx context.Context, g fulcrum.GroupID, haste bool, f tryAt) error {
	route := route{n: op.n, group: g}
	giveUp := time.Now().Add(patience)
	var last error
	var unsure doubt
	for attempt := 0; ; attempt++ {
		var changed <-chan struct{}
		if attempt > 0 { // most need no second one, which is soon enough to begin to listen
			changed = op.n.machine.Changed()
		}
		ref, ok := op.n.machine.State().Group(g)
		if !ok {
			return unsure.or(catalog.NoKeyspace(op.call.Keyspace, op.n.machine.State()))
		}
		if !unsure.follows(ref.Shard) {
			return unsure.or(last)
		}
		fenced := ref.Shard.Phase != catalog.Active && !mutant.On("switch-no-fence") // mutant: does not wait for the next epoch
		if m, ok := op.token[g]; ok && m.Epoch > ref.Shard.Epoch {
			fenced = true // the token has seen an epoch that this node has not
		}
		if !fenced {
			level, err := op.levelFor(ref.Keyspace, ref.Shard)
			if err != nil {
				return unsure.or(err)
			}
			to, wait := route.next(ref.Shard, op.access, level, last)
			if haste && (to != op.n.opt.Name || len(op.token) > 0 || !atOnce(ref.Shard, op.access, level)) {
				return errLater
			}
			if to != "" {
				if last = f(ctx, ref, level, to); last == nil {
					if op.access == consistency.Write {
						op.n.hints.set(g, to, ref.Shard.Mode)
					}
					return nil
				}
				if haste {
					return errLater
				}
				if !retriable(last) && !unsure.mayRepeat(ctx, op, ref.Shard, last) {
					return op.outcome(unsure.or(last))
				}
				if errors.Is(last, fulcrum.ErrUnavailable) && unsure.err == nil {
					if few := op.n.tooFew(ctx, ref.Shard, needed(ref.Shard, op.access, level), op.access); few != nil {
						return few
					}
				}
				if !wait {
					continue
				}
			}
		} else {
			if haste {
				return errLater
			}
			last = fulcrum.Errorf(fulcrum.CodeUnavailable, "shard %d is being switched to another epoch", g)
			giveUp = time.Now().Add(patience) // the deadline alone bounds the wait for a switch
		}
		if time.Now().After(giveUp) && unsure.err == nil {
			return op.refusal(g, last)
		}
		select {
		case <-ctx.Done():
			return unsure.or(op.refusal(g, last))
		case <-changed:
		case <-time.After(backoff(attempt)):
		}
	}
}

func backoff(attempt int) time.Duration {
	return min(time.Duration(attempt+1)*5*time.Millisecond, 50*time.Millisecond)
}

// needed is how many replicas must be in reach for a request to have any chance: a
// majority where one of them orders, as many as the level counts where none does.
func needed(sh *catalog.Shard, a consistency.Access, l consistency.Level) int {
	majority := len(sh.Replicas)/2 + 1
	if sh.Mode != consistency.Quorum {
		if local(sh, a, l) && !(sh.Mode == consistency.Raft && l.Kind == consistency.Bounded) {
			return 1 // a Raft replica that cannot prove how stale it is asks the leader, which asks a majority
		}
		return majority
	}
	if n, ok := consistency.Count(l.Kind, len(sh.Replicas)); ok {
		return n
	}
	if l.Kind == consistency.LocalOne || l.Kind == consistency.LocalQuorum {
		return 1 // within one zone: the replicas know better
	}
	return majority
}

// outcome classifies an error that ends a request. A read has no outcome to be
// unsure of: whatever went wrong, it changed nothing.
func (op *operation) outcome(err error) error {
	e := fulcrum.AsError(err)
	if mutant.On("timeout-as-failure") && op.access == consistency.Write && e.Maybe {
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "no answer in time") // mutant: what may have been done is called not done
	}
	if op.access == consistency.Read && e.Maybe {
		return &fulcrum.Error{Code: fulcrum.CodeUnavailable, Node: op.n.opt.Name, Detail: "no answer in time", Hint: "try again, or read at a weaker level", Err: err}
	}
	return e
}

// refusal is the definite "not done" after nobody could be found to do it.
func (op *operation) refusal(g fulcrum.GroupID, last error) error {
	e := &fulcrum.Error{Code: fulcrum.CodeUnavailable, Node: op.n.opt.Name, Detail: "nobody who can answer at this level was found in time",
		Hint: "are others down, or cut off from this node, be it in one direction? fulcrum status shows nodes and faults; a weaker level may answer"}
	if le := fulcrum.AsError(last); le != nil {
		switch le.Code {
		case fulcrum.CodeUnavailable:
			e.Detail = le.Detail
			if le.Hint != "" {
				e.Hint = le.Hint
			}
		case fulcrum.CodeNotLeader:
			e.Detail = "the shard has no leader that a majority of its replicas follows"
		}
	}
	return e
}

// note adds a shard's part to the receipt of a write.
func (op *operation) note(ref catalog.ShardRef, level consistency.Level, o replication.Outcome, results []fulcrum.Result) {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.noteLocked(ref, level, o)
	now := op.n.Now()
	for i := range results {
		e := &results[i].Entry
		if op.receipt.Version.Less(e.Version) {
			op.receipt.Version = e.Version
		}
		op.receipt.Found = op.receipt.Found || e.Live(now)
	}
}

// noteLocked takes the weakest of all parts where a receipt has one field for all.
func (op *operation) noteLocked(ref catalog.ShardRef, level consistency.Level, o replication.Outcome) {
	r := &op.receipt
	sh := ref.Shard
	if op.access == consistency.Read && o.Leader != "" {
		op.n.hints.set(sh.Group, o.Leader, sh.Mode)
	}
	op.parts++
	r.Mode, r.Level = sh.Mode, level
	if op.parts == 1 {
		r.Shard, r.Epoch, r.Given, r.Leader, r.Acks, r.Needed, r.Staleness = sh.Group, sh.Epoch, o.Given, o.Leader, o.Acks, o.Needed, o.Staleness
	} else {
		if r.Shard != sh.Group || r.Leader != o.Leader { // else it is one more part of the same
			r.Leader = ""
		}
		r.Acks, r.Needed = min(r.Acks, o.Acks), max(r.Needed, o.Needed)
		if o.Staleness < 0 || (r.Staleness >= 0 && o.Staleness > r.Staleness) {
			r.Staleness = o.Staleness
		}
	}
	r.Replicas = len(sh.Replicas)
	r.ClockBound = max(r.ClockBound, o.ClockBound)
	r.Hinted += o.Hinted
	r.Repaired += o.Repaired
	op.session.Advance(sh.Group, consistency.Mark{Epoch: sh.Epoch, Term: o.Position.Term, Index: o.Position.Index})
}

// finish completes the receipt and counts the request.
func (op *operation) finish(what string, err error) consistency.Receipt {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.receipt.Latency = time.Since(op.began)
	if !op.session.IsEmpty() {
		u := op.session
		u.Key = op.n.tokenKey
		if op.call.Untracked {
			op.receipt.Unsealed = &u
		} else {
			op.receipt.Session = u.Token()
		}
	}
	op.n.metrics.request(&op.receipt, what, err)
	return op.receipt
}
