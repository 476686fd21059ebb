package raft

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// Expiry. Whether an entry is live is decided by the log clock (see logClock), also
// when nobody removes it. When a key is due the leader proposes an entry that lists
// it: that entry moves the clock, and every replica that applies it removes what is
// due by the clock behind it. Which keys are listed decides nothing: one that is not due, or
// that was written again, stays.
//
// What an expired key leaves. A write of an earlier epoch may still come, late, as an
// OpMerge with a version older than what has expired; without a trace of that it
// would bring the key back. In a shard's first epoch no such write can exist, and the
// key is removed. In later ones it becomes a tombstone without a value. Tombstones, of
// deletes too, carry in ExpireAt when they go themselves: tombstoneGrace later.
const (
	// tombstoneGrace is how long a tombstone stands, by the log clock: longer than a
	// late write of an earlier epoch is on its way, unless its node was away for longer.
	tombstoneGrace = time.Hour
	// sweepEvery is how long tombstones that are due may wait for others, as to find
	// them the whole State is read.
	sweepEvery = tombstoneGrace / 4

	// tellEvery is how far the clock may run ahead of the log while keys are to expire:
	// what a replica that was restarted and then leads has forgotten.
	tellEvery = 10 * time.Second

	expireKeys  = 256       // in one entry
	expireBytes = 256 << 10 // of keys in one entry, unless the first alone is larger
	maxDue      = 1 << 16   // keys that a schedule holds
	scanPage    = 1024      // entries read at once while a schedule is filled
)

// dueKey is a key that may be due from at on. It may have been written since.
type dueKey struct {
	at  int64 // milliseconds of the log clock
	key []byte
}

type dueHeap []dueKey

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueKey)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = dueKey{}
	*h = old[:len(old)-1]
	return x
}

// schedule knows which keys are due next. It holds a bounded number of them.
//
// Invariant, when no scan is under way: every entry of the State that expires is in
// due, or has an ExpireAt at or above horizon; every tombstone has one at or above
// tombs. (0: there is none.) When horizon or tombs is due, the State is scanned anew.
type schedule struct {
	mu      sync.Mutex
	due     dueHeap
	horizon int64
	tombs   int64
	every   time.Duration // sweepEvery, but for tests
	scan    bool          // a scan is under way, or wanted
	next    []byte        // where it goes on
	scans   uint64        // how many were begun
	moved   signal        // something may be due earlier than it was
}

// lower makes *v at most at, where 0 is above everything.
func lower(v *int64, at int64) {
	if *v == 0 || at < *v {
		*v = at
	}
}

// offer tells of an entry that the State now holds.
func (s *schedule) offer(e fulcrum.Entry) {
	if e.ExpireAt == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	earliest := s.earliest()
	switch {
	case e.Tombstone:
		lower(&s.tombs, e.ExpireAt)
	case s.horizon != 0 && e.ExpireAt >= s.horizon:
	default:
		s.push(dueKey{at: e.ExpireAt, key: bytes.Clone(e.Key)}) // the entry may share a large buffer
	}
	if now := s.earliest(); earliest == 0 || now < earliest {
		s.moved.broadcast()
	}
}

// push adds to due, and forgets the later half when it is full. The caller holds mu.
func (s *schedule) push(d dueKey) {
	heap.Push(&s.due, d)
	if len(s.due) <= maxDue {
		return
	}
	slices.SortFunc(s.due, func(a, b dueKey) int { return cmp.Compare(a.at, b.at) })
	half := len(s.due) / 2
	lower(&s.horizon, s.due[half].at)
	clear(s.due[half:])
	s.due = s.due[:half]
}

// pending reports whether any key is to expire.
func (s *schedule) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.due) > 0 || s.horizon != 0
}

// earliest is when there is something to do; 0: never. The caller holds mu.
func (s *schedule) earliest() int64 {
	var at int64
	if len(s.due) > 0 {
		lower(&at, s.due[0].at)
	}
	if s.horizon != 0 {
		lower(&at, s.horizon)
	}
	if s.tombs != 0 {
		lower(&at, plus(s.tombs, s.every.Milliseconds()))
	}
	return at
}

// take returns keys that may be due at now, or else when to ask again (0: not before
// moved). It begins a scan when only that can tell what is due.
func (s *schedule) take(now int64) (keys []dueKey, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for size := 0; len(s.due) > 0 && s.due[0].at <= now && len(keys) < expireKeys; {
		if size += len(s.due[0].key); size > expireBytes && len(keys) > 0 {
			break
		}
		keys = append(keys, heap.Pop(&s.due).(dueKey))
	}
	if len(keys) > 0 {
		return keys, 0
	}
	next = s.earliest()
	if next != 0 && next <= now && !s.scan {
		s.begin()
	}
	return nil, next
}

// begin starts a scan, which finds what stands in the State by now; what is applied
// later is offered. The caller holds mu.
func (s *schedule) begin() {
	s.due, s.horizon, s.tombs, s.scan, s.next = nil, 0, 0, true, nil
	s.scans++
}

// restart forgets everything: another State has taken the place of the one it knew.
func (s *schedule) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	s.moved.broadcast()
}

// page reads on in st, and reports whether there was anything to read. Tombstones that are due
// at now are taken like keys that are.
func (s *schedule) page(st replication.State, now int64) (read bool, err error) {
	s.mu.Lock()
	wanted, from, scan := s.scan, s.next, s.scans
	s.mu.Unlock()
	if !wanted {
		return false, nil
	}
	var timed []fulcrum.Entry
	var last []byte
	n := 0
	err = st.Scan(from, nil, func(e fulcrum.Entry) bool {
		last, n = e.Key, n+1
		if e.ExpireAt != 0 {
			timed = append(timed, fulcrum.Entry{Key: bytes.Clone(e.Key), ExpireAt: e.ExpireAt, Tombstone: e.Tombstone && e.ExpireAt > now})
		}
		return n < scanPage
	})
	if err != nil {
		return false, err
	}
	for _, e := range timed {
		s.offer(e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scans != scan {
		return true, nil // begun anew meanwhile, of another State perhaps
	}
	s.scan = n == scanPage
	s.next = append(bytes.Clone(last), 0)
	return true, nil
}

// trim lets go of keys that are due at now by the schedule but not by the State: a
// follower's schedule would hold for ever what its leader has removed.
func (s *schedule) trim(st replication.State, now int64, limit int) {
	var kept []dueKey
	for range limit {
		s.mu.Lock()
		if len(s.due) == 0 || s.due[0].at > now {
			s.mu.Unlock()
			break
		}
		d := heap.Pop(&s.due).(dueKey)
		s.mu.Unlock()
		if e, err := st.Get(d.key); err != nil || e.ExpireAt == d.at {
			kept = append(kept, d)
		}
	}
	s.putBack(kept)
}

func (s *schedule) putBack(keys []dueKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range keys {
		s.push(d)
	}
}

// expireLoop proposes what is due while this replica leads. Without keys that expire
// it only waits.
func (k *keeper) expireLoop(ctx context.Context, in *instance) {
	var told uint64 // the last term in which this replica, as leader, told the time
	idle := time.NewTimer(0)
	defer idle.Stop()
	for ctx.Err() == nil {
		moved, elected := k.due.moved.wait(), k.core.elected.wait()
		idle.Stop()
		if in.leads() && k.fence.Load() == nil {
			if term := in.term(); term != told && k.due.pending() {
				told = term
				if k.core.barrier(in, term) == nil {
					k.tellTime(ctx)
				}
			}
			busy, wait := k.expireDue(ctx)
			if busy {
				continue
			}
			if wait > 0 {
				idle.Reset(wait)
			}
		}
		read, err := k.fillDue()
		if err != nil {
			k.env.Logger.Warn("keys that expire could not be read; trying again", "err", err)
			pause(ctx, time.Second)
			continue
		}
		if read {
			continue
		}
		select {
		case <-ctx.Done():
		case <-moved:
		case <-elected:
		case <-idle.C:
		}
	}
}

// fillDue reads on in the State, if it is to be scanned and somebody leads. Until then
// nobody can propose what is due, and a replica that comes up has more urgent things to do:
// a State that holds much takes seconds to scan.
func (k *keeper) fillDue() (read bool, err error) {
	if leader, _ := k.core.leader(); leader == "" {
		return false, nil
	}
	return k.due.page(k.env.State, k.estimate())
}

// tellTime brings the clock into the log: when this replica has begun to lead, and when
// nothing else does so for long. Else, were the replicas restarted one after the other
// while nobody writes, all that has passed since the last entry would be forgotten.
func (k *keeper) tellTime(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fulcrum.DefaultRequestLimit)
	defer cancel()
	if _, err := k.core.submit(ctx, entryExpire, nil); err != nil {
		k.env.Logger.Debug("the clock was not brought into the log", "err", err)
		pause(ctx, 20*time.Millisecond)
	}
}

// expireDue proposes what is due now, and reports whether there was anything. If not
// it says how long to wait; 0: until the schedule moves.
func (k *keeper) expireDue(ctx context.Context) (busy bool, wait time.Duration) {
	now := k.estimate()
	keys, next := k.due.take(now)
	if len(keys) == 0 && k.due.pending() {
		s, _ := k.published()
		tell := s.millis() + tellEvery.Milliseconds()
		if now >= tell {
			k.tellTime(ctx)
			return true, 0
		}
		lower(&next, tell)
	}
	if len(keys) == 0 {
		return false, time.Duration(min(max(0, next-now), time.Hour.Milliseconds())) * time.Millisecond
	}
	var data []byte
	for _, d := range keys {
		// Written again since? Then the schedule has been told.
		if e, err := k.env.State.Get(d.key); err != nil || e.ExpireAt == d.at {
			data = fulcrum.AppendBytes(data, d.key)
		}
	}
	if len(data) == 0 {
		return true, 0
	}
	ctx, cancel := context.WithTimeout(ctx, fulcrum.DefaultRequestLimit)
	defer cancel()
	if _, err := k.core.submit(ctx, entryExpire, data); err != nil {
		k.due.putBack(keys)
		pause(ctx, 20*time.Millisecond)
	}
	return true, 0
}

// estimate is what this replica takes the log clock to be, in milliseconds.
func (k *keeper) estimate() int64 { return k.clock.millis(time.Now(), k.env.Now()) }

// expire removes the listed keys that are due by the clock.
func (b *pending) expire(item []byte, stamp fulcrum.Version) error {
	r := fulcrum.NewReader(item)
	for ; len(r.Rest()) > 0; b.expiring++ {
		key := r.Bytes()
		if r.Err() != nil || len(key) == 0 {
			return nil // the same bytes on every replica
		}
		e, err := b.get(key)
		if err != nil {
			return err
		}
		switch {
		case e.ExpireAt == 0:
		case e.ExpireAt > b.prog.clock.millis() && !mutant.On("expiry-unchecked"): // mutant: takes what is listed, due or not
			b.early = append(b.early, e)
		case e.Tombstone:
			b.remove(key)
		default:
			stamp = above(above(stamp, b.prog.last), e.Version)
			t := b.tombstone(fulcrum.Entry{Key: key, Version: stamp, Tombstone: true})
			if !mutant.On("expiry-untold") { // mutant: nobody hears of it
				b.tell(fulcrum.Event{Entry: t, Expired: true})
			}
			if mutant.On("expiry-told-twice") {
				b.tell(fulcrum.Event{Entry: t, Expired: true}) // mutant: once more
			}
			b.store(t)
			if b.env.Epoch == 1 {
				b.remove(key)
			}
		}
	}
	return nil
}

// remove takes key out of the State. Its version must not come again in a later epoch,
// so it stays as the floor of that, unless it is below the floor already: where nothing was
// written in this epoch yet the newest version that it made is below all that stand here.
func (b *pending) remove(key []byte) {
	b.store(fulcrum.Entry{Key: key})
	b.removed = true
}

// tombstone returns e; a tombstone says in ExpireAt when it may go.
func (b *pending) tombstone(e fulcrum.Entry) fulcrum.Entry {
	if e.Tombstone && b.prog.clock.now != 0 {
		e.ExpireAt = b.prog.clock.nextMillis() + b.grace.Milliseconds()
	}
	return e
}

// scheduleApplied tells the schedule what the State has taken in.
func (k *keeper) scheduleApplied(b *pending) {
	for _, e := range b.entries {
		k.due.offer(e)
	}
	for _, e := range b.early {
		k.due.offer(e)
	}
	if b.expiring > 0 {
		k.due.trim(k.env.State, b.prog.clock.millis(), 2*b.expiring+16)
	}
}

// judged is e as it leaves the group: what the clock says is gone is a tombstone with
// nothing but its version.
func judged(e fulcrum.Entry, now int64) fulcrum.Entry {
	if e.Version.IsZero() || e.Live(now) {
		return e
	}
	return fulcrum.Entry{Key: e.Key, Version: e.Version, Tombstone: true}
}

// readClock is the log clock, in milliseconds, by which a read at level that was
// admitted now judges what it finds. It is taken before the entries are: one that it
// calls live was so then, or was written since.
//
// Which clock: the one behind an entry at or above everything applied now. The State
// moves a moment before the clock does, so it may have to wait for that.
func (g *Group) readClock(ctx context.Context, level consistency.Level) (int64, error) {
	k := g.keeper
	if mutant.On("expiry-by-wall-clock") {
		return g.env.Now().UnixMilli(), nil // mutant: each replica goes by its own clock
	}
	if level.Kind == consistency.One || level.Kind == consistency.LocalOne {
		// It promises no order with other reads, and the log may be far behind here. The
		// estimate is no less sure that the time is over.
		return k.estimate(), nil
	}
	for want := g.env.State.Applied(); ; {
		moved := k.core.advanced.wait()
		s, at := k.published()
		if at >= want {
			if s.now == 0 {
				return g.env.Now().UnixMilli(), nil // nothing was written in this epoch
			}
			return s.millis(), nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, unavailable(g.env.Node, "the state is at %d, its clock at %d", want, at)
		}
	}
}

func (k *keeper) published() (clockState, uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.prog.clock, k.at
}
