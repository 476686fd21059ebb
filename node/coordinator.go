package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

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
	if op.parts == 1 {
		r.Mode, r.Level, r.Given = sh.Mode, level, o.Given
		r.Shard, r.Epoch, r.Leader, r.Acks, r.Needed, r.Staleness = sh.Group, sh.Epoch, o.Leader, o.Acks, o.Needed, o.Staleness
	} else {
		if sh.Mode != r.Mode && op.promise(sh.Mode, o.Given).Weaker(op.promise(r.Mode, r.Given)) { // as during a switch
			r.Mode, r.Level, r.Given = sh.Mode, level, o.Given
		}
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
	op.session.Advance(sh.Group, op.markLocked(sh, o.Position))
}

// promise is what a level is worth in a mode.
func (op *operation) promise(m consistency.Mode, given consistency.Level) consistency.Promise {
	p, _ := consistency.Lookup(m, op.access, given) // what was given is offered
	return p
}

// markLocked is how much of a shard the session has seen behind an answer at a position. In
// mode raft everything applied is committed, so the index says it; the term is that of who
// answered, and may be ahead of the leader's where a replica asked for an election that came to
// nothing. Such a replica's answer must not hide what the leader orders next.
func (op *operation) markLocked(sh *catalog.Shard, at replication.Position) consistency.Mark {
	m := consistency.Mark{Epoch: sh.Epoch, Term: at.Term, Index: at.Index}
	if sh.Mode == consistency.Raft {
		return m.Join(op.session.Mark(sh.Group))
	}
	return m
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
