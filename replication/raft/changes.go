package raft

import (
	"bytes"
	"cmp"
	"context"
	"sort"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// Changes is what a replica remembers of its shard's newest changes: the events of the
// log entries that it applied, in order, in memory and bounded. Every replica keeps one,
// so any of them can tell what happened behind a position that another gave out. It is
// told to raft.Open, so that it outlives the group: a shard that goes from one epoch to
// the next on the same node goes on with the same Changes.
//
// A position is an epoch, an index of that epoch's log, and how many requests of the entry
// behind it are told as well: an entry that changes much is told in pieces. Positions order
// in this order. Invariant: the records are all changes at positions in (start, end].
//
// Why any replica may go on from any position p (no gap, no repetition, one order): within
// an epoch all replicas apply the same committed entries at the same indexes, and evaluate
// them alike (keeper), so the changes behind p are the same on all. A record is an entry or
// a piece of it, cut in the same place on all (pieces), so p never stands inside a record,
// nor inside a request. Across epochs: when epoch
// e+1 begins on a replica that is based, that replica had applied e's fence at f (Settle).
// Entries behind f change nothing (keeper.entry), so every change of e is at or before f
// and in its records; the State of e+1 begins with exactly these (host.base), at
// position 1, and no entry 1 exists. So (e, i) with i >= f and (e+1, 1) are the same
// place, what stands in order of (epoch, index) has no gap at the seam, and no change of e
// comes again in e+1, but for late writes, which are writes of e+1. A replica that is not
// based, or that was away for an epoch, begins anew at what it was brought up to (reset).
//
// What is told is committed: a replica applies nothing else. It may be told a moment
// before its writer hears that it is done.
type Changes struct {
	mu         sync.Mutex
	start, end place
	fenced     bool            // end.epoch has ended at or before end
	before     fulcrum.Version // no change at or before start is newer than this
	records    []record        // records[head:], in order
	head       int
	events     int
	size       int
	maxEvents  int
	maxSize    int

	room     *Room // what may be kept beyond that
	lent     int   // of it
	lastRead time.Time
	sweeping bool // sweep is due
	closed   bool

	moved signal // end moved, or the group that fills it stopped
}

// place is a position in a shard's history: behind the entry at index, and so many
// requests of the next one.
type place struct {
	epoch    fulcrum.Epoch
	index    uint64
	requests uint64
}

// A position has no use for the term of a Mark, which holds the requests.
func placeOf(m consistency.Mark) place { return place{m.Epoch, m.Index, m.Term} }

func (p place) mark() consistency.Mark {
	return consistency.Mark{Epoch: p.epoch, Term: p.requests, Index: p.index}
}

func (p place) before(q place) bool {
	return cmp.Or(cmp.Compare(p.epoch, q.epoch), cmp.Compare(p.index, q.index), cmp.Compare(p.requests, q.requests)) < 0
}

// record is the changes of one log entry, or of a piece of it. It never changes.
type record struct {
	at     place           // behind it
	newest fulcrum.Version // of all changes of the epoch up to here
	events []fulcrum.Event
	size   int
	lost   bool // no message could carry it
}

// NewChanges returns an empty memory, for the Options of a shard's groups. What it keeps
// for watches that read it comes from room, which the shards of a node share.
func NewChanges(room *Room) *Changes { return &Changes{room: room} }

// enter begins or goes on at p, which the State reflects; newest is the newest version
// in it. based says that the State is the epoch's common starting point.
func (c *Changes) enter(p place, newest fulcrum.Version, based, fenced bool, t Tuning) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maxEvents, c.maxSize = t.ChangeEvents, t.ChangeBytes
	switch {
	case based && c.fenced && p.index == 1 && p.epoch == c.end.epoch+1:
		c.end, c.fenced = p, fenced // the seam between two epochs: see above
	case p.epoch == c.end.epoch && !p.before(c.start) && !c.end.before(p):
		c.cut(p) // opened again: what was not durable is applied anew, and alike
		c.fenced = fenced
	default:
		c.restart(p, newest, fenced)
	}
	c.moved.broadcast()
}

// reset forgets everything: the State was replaced by one at p.
func (c *Changes) reset(p place, newest fulcrum.Version, fenced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restart(p, newest, fenced)
	c.moved.broadcast()
}

func (c *Changes) restart(p place, newest fulcrum.Version, fenced bool) {
	c.start, c.end, c.before, c.fenced = p, p, newest, fenced
	c.records, c.head, c.events, c.size = nil, 0, 0, 0
	c.giveBack(c.lent)
}

// cut forgets what stands behind p.
func (c *Changes) cut(p place) {
	for n := len(c.records); n > c.head && p.before(c.records[n-1].at); n-- {
		c.events -= len(c.records[n-1].events)
		c.size -= c.records[n-1].size
		c.records[n-1] = record{}
		c.records = c.records[:n-1]
	}
	c.end = p
}

// add appends the records of entries that were just applied, up to end.
func (c *Changes) add(rs []record, end place, fenced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rs {
		if r.lost {
			newest := c.before
			if newest.Less(r.newest) {
				newest = r.newest
			}
			c.restart(r.at, newest, false)
			continue
		}
		c.records = append(c.records, r)
		c.events += len(r.events)
		c.size += r.size
	}
	c.end, c.fenced = end, fenced
	c.trim()
	c.moved.broadcast()
}

// drop forgets the oldest record. The caller holds mu.
func (c *Changes) drop() {
	r := c.records[c.head]
	c.records[c.head] = record{}
	c.head++
	c.events -= len(r.events)
	c.size -= r.size
	c.start = r.at
	if c.before.Less(r.newest) {
		c.before = r.newest
	}
}

// readAtOnce is how many records are taken out under the lock.
const readAtOnce = 128

// behind returns records behind p, the oldest first, and up to where they are all.
func (c *Changes) behind(p place) ([]record, place, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastRead = time.Now()
	if p.before(c.start) && !mutant.On("watch-skips-gap") { // mutant: goes on with the oldest that there is
		return nil, p, fulcrum.Errorf(fulcrum.CodeCompacted, "what changed behind position %d of epoch %d is no longer kept; the oldest kept is behind %d of epoch %d",
			p.index, p.epoch, c.start.index, c.start.epoch)
	}
	all := c.records[c.head:]
	from := sort.Search(len(all), func(i int) bool { return p.before(all[i].at) })
	some := all[from:min(len(all), from+readAtOnce)]
	upTo := c.end
	if from+len(some) < len(all) {
		upTo = some[len(some)-1].at
	}
	if upTo.before(p) {
		upTo = p // this replica is behind: what it has yet to apply up to p was told already
	}
	return append([]record(nil), some...), upTo, nil
}

// since returns the position right before the first change that is newer than v.
func (c *Changes) since(v fulcrum.Version) (place, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.Less(c.before) && !mutant.On("watch-skips-gap") {
		return place{}, fulcrum.Errorf(fulcrum.CodeCompacted, "changes newer than version %v are no longer all kept: those up to %v may be missing", v, c.before)
	}
	at := c.start
	for _, r := range c.records[c.head:] {
		for _, e := range r.events {
			if v.Less(e.Entry.Version) {
				return at, nil
			}
		}
		at = r.at
	}
	return c.end, nil
}

// reached reports whether everything up to p is here.
func (c *Changes) reached(p place) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.end.before(p)
}

var _ replication.Watcher = (*Group)(nil)

const defaultChangesLimit = 1 << 20

// watchPace is how long a watch of few keys rests after the shard woke it for others'
// changes: with many watches on a busy shard, waking them all for each entry would cost
// more than the entry.
const watchPace = 5 * time.Millisecond

// Changes implements replication.Watcher.
func (g *Group) Changes(ctx context.Context, req replication.ChangesRequest) (replication.ChangesReply, error) {
	rep, err := g.changesOf(ctx, req)
	rep.Clock = g.keeper.estimate()
	return rep, err
}

func (g *Group) changesOf(ctx context.Context, req replication.ChangesRequest) (replication.ChangesReply, error) {
	if g.catchingUp() {
		return replication.ChangesReply{}, g.core.notLeader("this replica has yet to receive the shard")
	}
	if req.After.Epoch > g.env.Epoch {
		return replication.ChangesReply{}, fulcrum.Errorf(fulcrum.CodeEpoch, "position of epoch %d, this replica is at %d", req.After.Epoch, g.env.Epoch)
	}
	g.changes.attend()
	from, told, err := g.watchFrom(ctx, req)
	if err != nil || told {
		return replication.ChangesReply{Next: from.mark()}, err
	}
	if mutant.On("watch-replays") && from.index > 1 && g.changes.reached(place{from.epoch, from.index + 1, 0}) {
		from = place{from.epoch, from.index - 1, 0} // mutant: with what is new, the change before it is told once more
		req.Limit = 0                               // in one go, or it would never get on
	}
	f := follow{group: g, req: req, at: from, filter: req.Since}
	if f.req.Limit <= 0 {
		f.req.Limit = defaultChangesLimit
	}
	return f.run(ctx)
}

// watchFrom is where a watch begins; told says that this is all that was asked.
func (g *Group) watchFrom(ctx context.Context, req replication.ChangesRequest) (from place, told bool, err error) {
	if req.After.IsZero() {
		// This replica then reflects everything acknowledged before now.
		if _, err := g.confirmed(ctx, false, ""); err != nil && !mutant.On("watch-begins-stale") { // mutant: begins where this replica is
			return place{}, false, err
		}
		from = g.keeper.place()
		if req.Since.IsZero() {
			return from, true, nil
		}
		req.After = from.mark()
	}
	if req.Since.IsZero() {
		return placeOf(req.After), false, nil
	}
	for !g.changes.reached(placeOf(req.After)) {
		moved := g.changes.moved.wait()
		if g.changes.reached(placeOf(req.After)) {
			break
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return place{}, false, g.core.notLeader("this replica is behind")
		}
		if g.core.stopping.Load() {
			return place{}, false, unavailable(g.env.Node, "this replica is stopping")
		}
	}
	if err := g.made(req.Since); err != nil {
		return place{}, false, err
	}
	from, err = g.changes.since(req.Since)
	return from, false, err
}

// made refuses a version of the future. Of a shard that has made none so new "newer than
// that" asks for nothing yet, and what it makes next would be older: to tell that were
// wrong, and to keep quiet until then would help nobody, as such a version is a mistake.
// A little ahead may be the version of another shard, whose leader's clock is.
func (g *Group) made(v fulcrum.Version) error {
	ahead := v.Wall().Sub(g.env.Now())
	if ahead <= consistency.DefaultMaxAhead || !g.keeper.newest().Less(v) {
		return nil
	}
	return fulcrum.Errorf(fulcrum.CodeInvalid, "version %s is of the future: it is %v ahead of this node's clock, and nothing here is so new", v, ahead.Round(time.Millisecond)).
		WithHint("give a version as a receipt or a watch of this cluster shows it, or a position")
}

// follow is one call of Changes under way.
type follow struct {
	group  *Group
	req    replication.ChangesRequest
	at     place           // everything up to here is in events, or not in the range
	filter fulcrum.Version // until the first newer one; zero: none
	events []fulcrum.Event
	size   int
}

func (f *follow) reply() replication.ChangesReply {
	return replication.ChangesReply{Events: f.events, Next: f.at.mark()}
}

func (f *follow) run(ctx context.Context) (replication.ChangesReply, error) {
	c := f.group.changes
	timer := time.NewTimer(f.req.Wait)
	defer timer.Stop()
	for woken := false; ; woken = true {
		moved := c.moved.wait()
		if err := f.read(c); err != nil {
			return replication.ChangesReply{}, err
		}
		switch {
		case len(f.events) > 0 || f.req.Wait <= 0:
			return f.reply(), nil
		case f.group.core.stopping.Load():
			return f.stopped()
		case woken:
			pause(ctx, watchPace)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return f.reply(), nil
		case <-timer.C:
			return f.idle()
		}
	}
}

// read takes what is there, up to the limit.
func (f *follow) read(c *Changes) error {
	for {
		rs, upTo, err := c.behind(f.at)
		if err != nil {
			return err
		}
		if !f.take(rs) {
			return nil
		}
		f.at = upTo
		if len(rs) < readAtOnce {
			return nil
		}
	}
}

// take adds records, each whole, until the limit is reached: then it returns false.
func (f *follow) take(rs []record) bool {
	for _, r := range rs {
		if f.size >= f.req.Limit {
			return false
		}
		for _, e := range r.events {
			if !f.filter.IsZero() && !f.filter.Less(e.Entry.Version) {
				continue
			}
			f.filter = fulcrum.Version{}
			if bytes.Compare(e.Entry.Key, f.req.Start) < 0 || f.req.End != nil && bytes.Compare(e.Entry.Key, f.req.End) >= 0 {
				continue
			}
			f.events = append(f.events, e)
			f.size += len(e.Entry.Key) + len(e.Entry.Value) + eventOverhead
		}
		f.at = r.at
	}
	return true
}

// stopped ends a call whose group stops: what it knows is told, and where to go on.
func (f *follow) stopped() (replication.ChangesReply, error) {
	if placeOf(f.req.After).before(f.at) {
		return f.reply(), nil
	}
	return replication.ChangesReply{}, unavailable(f.group.env.Node, "this replica is stopping")
}

// idle ends a call in which nothing happened. A replica that follows nobody would not
// have heard of what happened: then somebody else must be asked.
func (f *follow) idle() (replication.ChangesReply, error) {
	if leader, _ := f.group.core.leader(); leader == "" {
		return replication.ChangesReply{}, f.group.core.notLeader("this replica follows no leader: it hears of no changes")
	}
	return f.reply(), nil
}
