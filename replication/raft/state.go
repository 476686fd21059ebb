package raft

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
)

// Extras of the State, stored in the same step as the entries that they go with.
const (
	extraProgress = "raft"          // progress
	extraInstall  = "raft/snapshot" // epoch and meta of the last install
)

// progress is what the log has done besides its entries. It holds for one epoch:
// another epoch's is ignored, so that replicas with different pasts agree.
type progress struct {
	last  fulcrum.Version      // the newest version made or merged
	fence replication.Position // Index 0: open
	clock clockState           // stands still behind the fence; the next epoch goes on from it
	late  int64                // at the fence: how far the log's clock was behind its leader's wall clock; see ToWallClock
}

func (p progress) encode(e fulcrum.Epoch) []byte {
	return uvarints(nil, uint64(e), p.last.Time, uint64(p.last.Actor), p.fence.Term, p.fence.Index,
		uint64(p.clock.now), p.clock.term, p.clock.last, p.clock.foreign, uint64(p.late))
}

func decodeProgress(b []byte, e fulcrum.Epoch) (progress, error) {
	if len(b) == 0 {
		return progress{}, nil
	}
	r := fulcrum.NewReader(b)
	epoch := fulcrum.Epoch(r.Uvarint())
	p := progress{last: fulcrum.Version{Time: r.Uvarint(), Actor: uint32(r.Uvarint())}}
	p.fence = replication.Position{Term: r.Uvarint(), Index: r.Uvarint()}
	p.clock = clockState{now: int64(r.Uvarint()), term: r.Uvarint(), last: r.Uvarint(), foreign: r.Uvarint()}
	if len(r.Rest()) > 0 { // else an earlier build wrote it
		p.late = int64(r.Uvarint())
	}
	if err := finish(r); err != nil {
		return progress{}, fmt.Errorf("extra %q: %w", extraProgress, err)
	}
	switch {
	case epoch+1 == e: // all who begin with this State have settled at its fence
		return progress{clock: p.clock.inherited()}, nil
	case epoch != e:
		return progress{}, nil
	}
	return p, nil
}

// keeper is the machine of a Group: it evaluates requests over env.State.
//
// Determinism: an entry's outcome depends on the entries before it, on State and on
// the entry alone. Its stamp was taken by the leader that proposed it; where that
// is not above everything made before (a leader with a slower clock), it is raised,
// the same way everywhere. So versions rise with the index within the shard, and
// are above what stands at each key, whichever epoch that came from.
//
// replication.FloorKey is the leader's business alone: it stamps above the floor
// that its own State holds, and no replica evaluates against it, so floors that
// differ could not make replicas differ.
type keeper struct {
	core    *core
	env     replication.Env
	changes *Changes
	mu      sync.Mutex
	prog    progress
	at      uint64                               // the State's position that prog belongs to
	base    fulcrum.Version                      // the floor
	fence   atomic.Pointer[replication.Position] // non-nil: fenced
	ids     *idTable                             // of the goroutine that applies
	clock   logClock
	due     schedule
	grace   time.Duration // tombstoneGrace, but for tests: the same on every replica
}

// openKeeper opens the machine over what env.State holds; changes are filled from there.
func openKeeper(c *core, env replication.Env, changes *Changes) (*keeper, error) {
	k := &keeper{core: c, env: env, changes: changes, grace: tombstoneGrace, due: schedule{every: sweepEvery}}
	b, err := env.State.Extra(extraProgress)
	if err != nil {
		return nil, err
	}
	p, err := decodeProgress(b, env.Epoch)
	if err != nil {
		return nil, err
	}
	k.begin(p)
	if k.ids, err = openIDs(env); err != nil {
		return nil, err
	}
	if err := k.readFloor(); err != nil {
		return nil, err
	}
	changes.enter(k.place(), k.newest(), env.Based, k.fence.Load() != nil, c.tuning)
	return k, nil
}

// place is where the State stands.
func (k *keeper) place() place { return place{k.env.Epoch, k.env.State.Applied(), 0} }

// newest is at least the newest version in the State.
func (k *keeper) newest() fulcrum.Version {
	k.mu.Lock()
	defer k.mu.Unlock()
	return newer(k.prog.last, k.base)
}

func newer(v, w fulcrum.Version) fulcrum.Version {
	if v.Less(w) {
		return w
	}
	return v
}

func (k *keeper) readFloor() error {
	b, err := k.env.State.Extra(replication.FloorKey)
	if err != nil || len(b) == 0 {
		return err
	}
	v, err := fulcrum.ParseVersion(string(b))
	if err != nil {
		return fmt.Errorf("extra %q: %w", replication.FloorKey, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.base = v
	return nil
}

func (k *keeper) floor() fulcrum.Version {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.base
}

// begin takes up a State that was opened or installed.
func (k *keeper) begin(p progress) {
	k.clock.restart(p.clock, time.Now())
	k.set(p, k.applied())
	k.due.restart()
}

func (k *keeper) set(p progress, at uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.prog, k.at = p, at
	k.closeAt(p.fence)
}

func (k *keeper) closeAt(fence replication.Position) {
	if fence.Index > 0 {
		k.fence.Store(&fence)
	}
}

func (k *keeper) get() progress {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.prog
}

func (k *keeper) applied() uint64 { return k.env.State.Applied() }

// agrees returns an error where the State and the log are of different histories. What comes
// later apply looks at.
func (k *keeper) agrees() error {
	clock, s := k.get().clock, k.core.store
	at := min(clock.last, s.Last())
	if term, ok := s.Term(at); ok && at > 0 && clock.contradicts(at, term) {
		return fmt.Errorf("the state is at %d of term %d, the log has term %d at %d: %w", clock.last, clock.term, term, at, errLost)
	}
	return nil
}

// errFenced is what every request behind the fence gets.
func errFenced(at replication.Position) *fulcrum.Error {
	return fulcrum.Errorf(fulcrum.CodeEpoch, "this epoch ended at %d of term %d", at.Index, at.Term)
}

// apply evaluates entries and hands what they leave to the State, all in one step.
func (k *keeper) apply(logs []protocol.Entry) []any {
	results := make([]any, len(logs))
	b := pending{keeper: k, prog: k.get(), fresh: map[string]int{}}
	from := k.applied()
	var last uint64
	for i, l := range logs {
		if b.prog.clock.contradicts(l.Index, l.Term) {
			_ = k.core.store.broken(fmt.Sprintf("apply entry %d of term %d", l.Index, l.Term), fmt.Errorf("the state is at %d: %w", from, errLost))
			return make([]any, len(logs))
		}
		if l.Kind != protocol.Command || l.Index <= from {
			continue
		}
		last = l.Index
		res, err := b.entry(l)
		if err != nil { // the State cannot be read
			_ = k.core.store.broken(fmt.Sprintf("apply entry %d", l.Index), err)
			return make([]any, len(logs))
		}
		results[i] = res
		b.entryDone(l)
		if b.cost > entryCost { // enough for one step
			results = results[:i+1]
			break
		}
	}
	if last == 0 {
		return results
	}
	// A follower answers a read once State stands at the read index: it must see the
	// fence by then.
	k.closeAt(b.prog.fence)
	extra := map[string][]byte{extraProgress: b.prog.encode(k.env.Epoch)}
	if k.ids.changes(extra); mutant.On("id-not-stored") {
		extra = map[string][]byte{extraProgress: extra[extraProgress]} // mutant: ids are in memory only
	}
	if b.removed {
		extra[replication.FloorKey] = []byte(newer(b.prog.last, k.floor()).String())
	}
	if err := k.env.State.Apply(last, b.entries, extra); err != nil {
		_ = k.core.store.broken(fmt.Sprintf("apply up to entry %d", last), err)
		return make([]any, len(logs))
	}
	k.set(b.prog, last)
	k.changes.add(b.told, place{k.env.Epoch, last, 0}, b.prog.fence.Index > 0)
	k.scheduleApplied(&b)
	if k.env.Clock != nil {
		_ = k.env.Clock.Observe(b.prog.last) // too far ahead: apply raises stamps anyway
	}
	return results
}

// pending is what a batch of entries leaves, before the State has it.
type pending struct {
	*keeper
	prog    progress
	entries []fulcrum.Entry
	fresh   map[string]int // key -> its place in entries

	cost int  // of all entries so far
	used int  // of the entry under way
	full bool // it takes no more

	pieces

	removed  bool            // some key was taken out of the State
	expiring int             // keys listed by entries that expire keys
	early    []fulcrum.Entry // listed, but not due
}

func (b *pending) get(key []byte) (fulcrum.Entry, error) {
	if i, ok := b.fresh[string(key)]; ok {
		if e := b.entries[i]; !e.Version.IsZero() {
			return e, nil
		}
		return fulcrum.Entry{}, nil // removed
	}
	return b.env.State.Get(key)
}

// put stores what a write has left, and tells it.
func (b *pending) put(e fulcrum.Entry) {
	b.tell(fulcrum.Event{Entry: e})
	b.store(e)
}

// store stores e, or removes what stands at its key when it is nothing but that.
func (b *pending) store(e fulcrum.Entry) {
	if b.prog.last.Less(e.Version) {
		b.prog.last = e.Version
	}
	if i, ok := b.fresh[string(e.Key)]; ok {
		b.entries[i] = e
		return
	}
	b.fresh[string(e.Key)] = len(b.entries)
	b.entries = append(b.entries, e)
}

func (b *pending) entry(l protocol.Entry) (*entryResult, error) {
	res := &entryResult{at: l.Index, term: l.Term}
	e, err := decodeEntry(l.Data)
	switch {
	case err != nil: // the same bytes fail the same way on every replica
		res.err = &fulcrum.Error{Code: fulcrum.CodeInternal, Detail: fmt.Sprintf("entry %d: %v", l.Index, err)}
		return res, nil
	case e.kind == entryFence:
		if b.prog.fence.Index == 0 {
			b.prog.fence = replication.Position{Term: l.Term, Index: l.Index}
			b.prog.late = b.prog.clock.late(e.clock, l.Term, l.Index)
		}
		res.items = []any{b.prog.fence}
		return res, nil
	case b.prog.fence.Index > 0 && !mutant.On("switch-no-fence"): // mutant: goes on behind the fence
		res.err = errFenced(b.prog.fence)
		return res, nil
	}
	b.ids.advance(e.stamp)
	own := b.env.Clock != nil && e.stamp.Actor == b.env.Actor
	if b.prog.clock.pass(e.clock, l.Term, l.Index); e.clock.now > 0 {
		b.keeper.clock.applied(b.prog.clock, e.clock, own, time.Now())
	}
	b.used, b.full = 0, false
	for i, item := range e.items {
		if b.full {
			res.items = append(res.items, deferred{})
			continue
		}
		answer, err := b.item(item, e)
		if err != nil {
			return nil, err
		}
		res.items = append(res.items, answer)
		b.requestDone(l.Index, uint64(i))
	}
	return res, nil
}

// item is one request of e, or keys that are due.
func (b *pending) item(item []byte, e entry) (any, error) {
	if e.kind == entryExpire {
		return nil, b.expire(item, e.stamp)
	}
	req, err := decodeRequest(item)
	if err != nil {
		return error(&fulcrum.Error{Code: fulcrum.CodeInternal, Detail: err.Error()}), nil
	}
	return b.once(req, e)
}

// above returns stamp, raised where it is not newer than v. It keeps the stamp's
// actor: nobody else makes versions with it.
func above(stamp, v fulcrum.Version) fulcrum.Version {
	if stamp.Time <= v.Time && !mutant.On("stamp-not-raised") { // mutant: a leader's clock that is behind makes older versions
		stamp.Time = v.Time + 1
	}
	return stamp
}

// room reports whether the entry under way has room for a request that comes to n. It is
// the same on every replica. From the first that has none on, all are put off: they stay
// in their order.
func (b *pending) room(e entry, n int) bool {
	if e.bounded() && b.used > 0 && b.used+n > entryCost {
		b.full = true
		return false
	}
	b.used += n
	b.cost += n
	return true
}

// elseRan is the results of a request whose conditions did not hold.
type elseRan []fulcrum.Result

// evaluate returns the results of req, which stands in e, as []fulcrum.Result or elseRan,
// or an error that says why it is refused, or deferred.
func (b *pending) evaluate(req replication.WriteRequest, e entry) (any, error) {
	stamp, now := above(e.stamp, b.prog.last), b.prog.clock.millis()
	req.Writes = onLogClock(req.Writes, b.prog.clock, e.clock.wall)
	req.Else = onLogClock(req.Else, b.prog.clock, e.clock.wall)
	var bounds replication.Bounds
	if e.bounded() && (e.stamp.Actor == b.env.Actor || !mutant.On("bounds-of-proposer")) { // mutant: followers take what it refuses
		bounds = replication.Bounded
	}
	largest := e.largest(b.env.MaxValue)
	if cost, ok := b.unseen(req, stamp, largest, bounds); ok {
		if !b.room(e, cost.Sum()) {
			return deferred{}, nil
		}
		return b.putAll(req.Writes, stamp, now), nil
	}
	for _, list := range [][]fulcrum.Write{req.Writes, req.Else} {
		for _, w := range list {
			old, err := b.get(w.Key)
			if err != nil {
				return nil, err
			}
			stamp = above(stamp, old.Version)
		}
	}
	get := b.get
	if mutant.On("batch-unseen") {
		get = b.env.State.Get // mutant: without what requests just before it have left
	}
	if mutant.On("cas-refused-in-company") && len(b.entries) > 0 {
		for i := range req.Writes {
			req.Writes[i].At = fulcrum.Version{} // mutant: another version than it asks for
		}
	}
	ev, err := replication.Evaluate(req, get, stamp, now, largest, bounds)
	switch {
	case err != nil:
		return nil, err
	case ev.Refused != nil:
		return error(ev.Refused), nil
	case !b.room(e, ev.Cost.Sum()):
		return deferred{}, nil
	}
	for _, e := range ev.Entries {
		b.put(b.tombstone(e))
	}
	for i := range ev.Results {
		ev.Results[i].Entry = judged(ev.Results[i].Entry, now)
	}
	if ev.Else {
		return elseRan(ev.Results), nil
	}
	return ev.Results, nil
}

// unseen reports whether req can be evaluated without a look at what stands at its
// keys: it puts values whatever that is, nobody asks what it was, and stamp is newer
// than all that stands here. All versions of this epoch are at most prog.last, those
// from before it at most the floor. Where replicas' floors differ some look, and find
// what the others know: nothing newer than stamp. What req leaves is the same, and so is
// its cost, which must be within bounds.
func (b *pending) unseen(req replication.WriteRequest, stamp fulcrum.Version, largest int, bounds replication.Bounds) (cost replication.Cost, ok bool) {
	if req.ID != "" || req.Transaction() || stamp.Time <= b.floor().Time { // as above compares
		return cost, false
	}
	for i := range req.Writes {
		w := &req.Writes[i]
		if w.Op != fulcrum.OpPut || !w.Quiet || !w.Blind() || len(w.Value) > largest {
			return cost, false
		}
		cost.Add(w, &fulcrum.Result{Applied: true, Length: len(w.Value)})
	}
	return cost, cost.Within(bounds)
}

// putAll is evaluate for unseen writes.
func (b *pending) putAll(ws []fulcrum.Write, stamp fulcrum.Version, now int64) []fulcrum.Result {
	results := make([]fulcrum.Result, len(ws))
	for i, w := range ws {
		e := fulcrum.Entry{Key: w.Key, Value: w.Value, Version: stamp, ExpireAt: w.Expiry(now)}
		b.put(e)
		length := len(e.Value)
		e.Key, e.Value = nil, nil
		results[i] = fulcrum.Result{Applied: true, Entry: judged(e, now), Length: length}
		stamp = stamp.Next()
	}
	return results
}

// encodeRequest is a WriteRequest as it stands in an entry; its level does not matter.
func encodeRequest(req replication.WriteRequest) []byte {
	return replication.AppendOperations(make([]byte, 0, replication.RoomForWrite(req)), req)
}

func decodeRequest(b []byte) (replication.WriteRequest, error) {
	r := fulcrum.NewReader(b)
	req, err := replication.ReadOperations(r)
	if err != nil {
		return req, err
	}
	return req, finish(r)
}
