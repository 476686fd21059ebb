package quorum

import (
	"context"
	"errors"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// Read asks every replica in reach and answers once enough have, with the newest
// version of each key; see replication.Group. This replica's own entries go along
// as versions, so that others send only what is newer. At quorum and above the
// replicas that answered with less are repaired first (blocking read repair):
//
// Claim: of two quorum reads, one begun after the other ended, the later never
// returns an older version of a key. Proof: the first returned version v only once
// a majority held v or newer; States never go back; the second's majority meets it in
// one replica, whose answer is v or newer, and the newest answer wins.
//
// With writes at linearizable this is the register of Attiya, Bar-Noy and Dolev
// (1995), hence linearizable reads: the write-back is skipped only when a majority
// already holds the newest version.
//
// A request with a floor (Min) is raised to a majority: no fewer replicas can show
// that they include a write. Too few answers are CodeUnavailable.
func (g *Group) Read(ctx context.Context, req replication.ReadRequest) (replication.ReadReply, error) {
	ctx, cancel := deadline(ctx)
	defer cancel()
	level, n, reach, err := g.admitRead(ctx, req.Level, req.Min)
	if err != nil {
		return replication.ReadReply{}, err
	}
	out := replication.Outcome{Given: level, Needed: n.total(), Staleness: -1, Acks: 1}
	entries := make([]fulcrum.Entry, len(req.Keys))
	if reach.has(g.topo.self) {
		if entries, err = g.env.State.GetFirst(req.Keys, replication.MaxRead); err != nil {
			return replication.ReadReply{}, g.errorf(fulcrum.CodeDisk, "get: %w", err)
		}
		if n.met(set(0).with(g.topo.self)) {
			out.Position = newestOf(entries)
			return replication.ReadReply{Entries: entries, Outcome: out}, nil
		}
	}
	held, own := make([]pair, len(entries)), make([]answer, len(entries))
	for i, e := range entries {
		held[i] = pair{req.Keys[i], e.Version}
		own[i].version = e.Version
	}
	replies, err := g.gatherReads(ctx, n, reach, held, own)
	if err != nil {
		return replication.ReadReply{}, err
	}
	for _, r := range replies { // what all have answered
		entries = entries[:min(len(entries), len(r.answers))]
	}
	for i := range replies {
		replies[i].answers = replies[i].answers[:len(entries)]
	}
	newest := mergeAnswers(entries, replies)
	out.Acks, out.Position = len(replies), newestOf(newest)
	if out.Repaired, err = g.repair(ctx, n, level, newest, replies); err != nil {
		return replication.ReadReply{}, err
	}
	if g.fenced.Load() {
		return replication.ReadReply{}, g.errFenced()
	}
	return replication.ReadReply{Entries: newest, Outcome: out}, nil
}

// admitRead returns the level that will be kept, what it needs, and whom to ask.
// This replica is among them unless it is catching up; that is decided here, once.
func (g *Group) admitRead(ctx context.Context, l consistency.Level, floor replication.Position) (consistency.Level, need, set, error) {
	if err := g.ready(ctx); err != nil {
		return l, need{}, 0, err
	}
	if g.fenced.Load() {
		return l, need{}, 0, g.errFenced()
	}
	n, err := g.topo.readNeed(l)
	if err != nil {
		return l, need{}, 0, err
	}
	l = given(l)
	if floor.Index > 0 {
		switch l.Kind {
		case consistency.One, consistency.Two, consistency.Three, consistency.LocalOne, consistency.LocalQuorum:
			l = consistency.L(consistency.Session)
			if n, err = g.topo.readNeed(l); err != nil {
				return l, need{}, 0, err
			}
		}
	}
	reach, _ := g.inReach(true, time.Time{})
	reach &= n.scope()
	if !n.met(reach) {
		return l, need{}, 0, g.errorf(fulcrum.CodeUnavailable, "%s in reach", n.shortfall(reach)).
			WithHint("heal the network or read at a lower level")
	}
	return l, n, reach, nil
}

// reading is one replica's answers, one a key.
type reading struct {
	at      int
	answers []answer
	err     error
}

// gatherReads asks every replica of reach what it holds beyond held, and returns
// once those that answered meet n; own is this replica's answer, if reach has it.
func (g *Group) gatherReads(ctx context.Context, n need, reach set, held []pair, own []answer) ([]reading, error) {
	return collect(ctx, g, n, reach, reading{at: g.topo.self, answers: own}, func(ctx context.Context, p *peer) reading {
		answers, err := g.readFrom(ctx, p, held)
		return reading{p.at, answers, err}
	})
}

func (r reading) who() (int, error) { return r.at, r.err }

// reply is what one replica said, or why it did not.
type reply interface{ who() (int, error) }

// collect asks every replica of reach at once and returns the good replies once
// they meet n. Own is this replica's, which counts if it is in reach. The calls end
// when collect returns. A read changes nothing, so its failure is always definite.
func collect[R reply](ctx context.Context, g *Group, n need, reach set, own R, ask func(context.Context, *peer) R) ([]R, error) {
	ctx, cancel := context.WithTimeout(ctx, g.opt.GiveUp)
	defer cancel()
	replies := make(chan R, len(g.peers))
	var got []R
	var good, pending set
	if reach.has(g.topo.self) {
		got, good = append(got, own), good.with(g.topo.self)
	}
	for i, p := range g.peers {
		if p != nil && reach.has(i) && g.spawn(func(run context.Context) {
			cctx, stop := joined(run, ctx)
			defer stop()
			replies <- ask(cctx, p)
		}) {
			pending = pending.with(i)
		}
	}
	var last, epoch error
	for !n.met(good) && n.met(good|pending) {
		select {
		case r := <-replies:
			at, err := r.who()
			pending = pending.without(at)
			if err != nil {
				if last = err; errors.Is(err, fulcrum.ErrEpoch) {
					epoch = err
				}
				continue
			}
			good = good.with(at)
			got = append(got, r)
		case <-ctx.Done():
			last, pending = ctx.Err(), 0
		}
	}
	if n.met(good) {
		return got, nil
	}
	if epoch != nil {
		return nil, epoch
	}
	return nil, g.errorf(fulcrum.CodeUnavailable, "%s answered: %w", n.shortfall(good), orSilent(last)).
		WithHint("heal the network or read at a lower level")
}

func orSilent(err error) error {
	if err == nil {
		return context.DeadlineExceeded
	}
	return err
}

// joined is a context of run's life that also ends with request.
func joined(run, request context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(request)
	stop := context.AfterFunc(run, cancel)
	return ctx, func() { stop(); cancel() }
}

// readFrom asks p for its versions of the keys of held, with entries where p's are
// newer. A reply may answer only the first keys; the rest is asked again, until the entries
// come to more than replication.MaxRead.
func (g *Group) readFrom(ctx context.Context, p *peer, held []pair) ([]answer, error) {
	answers := make([]answer, 0, len(held))
	size := 0
	for rest := held; len(rest) > 0 && size <= replication.MaxRead; {
		ask := rest[:min(len(rest), maxItems)]
		b, err := g.call(ctx, p, appendPairs([]byte{kindRead}, ask))
		if err != nil {
			return nil, err
		}
		as, err := decodeAnswers(b, len(ask))
		if err != nil || len(as) == 0 {
			return nil, g.errorf(fulcrum.CodeInternal, "malformed answer of %s", p.id)
		}
		for i := range as {
			size += len(as[i].entry.Key) + len(as[i].entry.Value)
		}
		answers = append(answers, as...)
		rest = rest[len(as):]
	}
	return answers, nil
}

// mergeAnswers returns the newest of own and what the replicas answered.
func mergeAnswers(own []fulcrum.Entry, replies []reading) []fulcrum.Entry {
	newest := append([]fulcrum.Entry(nil), own...)
	for _, r := range replies {
		for i, a := range r.answers {
			if a.newer && newest[i].Version.Less(a.version) {
				newest[i] = a.entry
			}
		}
	}
	return newest
}

// repair brings newest to the replicas that answered with less. At strong levels
// it returns once replicas that meet n hold all of newest, or fails; at others it
// repairs in the background. It returns how many replicas needed it.
func (g *Group) repair(ctx context.Context, n need, level consistency.Level, newest []fulcrum.Entry, replies []reading) (int, error) {
	var current, answered set
	lacking := make(map[int][]fulcrum.Entry)
	disputed := make([]bool, len(newest)) // some replica lacks it
	for _, r := range replies {
		answered = answered.with(r.at)
		var lacks []fulcrum.Entry
		for i, e := range newest {
			if r.answers[i].version.Less(e.Version) {
				lacks = append(lacks, e)
				disputed[i] = true
			}
		}
		if len(lacks) == 0 {
			current = current.with(r.at)
			continue
		}
		lacking[r.at] = lacks
	}
	repaired := len(lacking)
	if repaired == 0 || mutant.On("no-write-back") { // mutant: leaves behind those that answered with less
		return 0, nil
	}
	if strong(level) && !n.met(current) {
		g.askOthers(n, newest, disputed, answered, lacking)
	}
	g.env.Metrics.ReadRepair(repaired)
	acks := make(chan ack, len(g.peers))
	var pending set
	for at, lacks := range lacking {
		if g.spawn(func(run context.Context) { acks <- ack{at, g.repairOne(run, at, lacks)} }) {
			pending = pending.with(at)
		}
	}
	if !strong(level) {
		return repaired, nil
	}
	var epoch error // a replica was fenced meanwhile: the next epoch answers
	for !n.met(current) && n.met(current|pending) {
		select {
		case a := <-acks:
			pending = pending.without(a.at)
			switch {
			case a.err == nil:
				current = current.with(a.at)
			case errors.Is(a.err, fulcrum.ErrEpoch):
				epoch = a.err
			}
		case <-ctx.Done():
			pending = 0
		}
	}
	if !n.met(current) && epoch != nil {
		return 0, epoch
	}
	if !n.met(current) {
		return 0, g.errorf(fulcrum.CodeUnavailable, "replicas differ, and only %s could be brought up to date", n.shortfall(current)).
			WithHint("retry, or read at a lower level")
	}
	return repaired, nil
}

// askOthers adds to lacking the replicas in reach that have not answered, with what
// others dispute: their word that they hold it counts as well, should one of those
// that answered fall away now.
func (g *Group) askOthers(n need, newest []fulcrum.Entry, disputed []bool, answered set, lacking map[int][]fulcrum.Entry) {
	var entries []fulcrum.Entry
	for i, e := range newest {
		if disputed[i] {
			entries = append(entries, e)
		}
	}
	reach, _ := g.inReach(false, time.Time{})
	reach &= n.scope() &^ answered
	for at := range g.env.Replicas {
		if reach.has(at) && at != g.topo.self {
			lacking[at] = entries
		}
	}
}

func (g *Group) repairOne(ctx context.Context, at int, lacks []fulcrum.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, g.opt.GiveUp)
	defer cancel()
	if p := g.peers[at]; p != nil {
		return g.sendStore(ctx, p, flagRelay, lacks)
	}
	_, err := g.store(ctx, lacks, false)
	return err
}
