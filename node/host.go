package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/mutant"
	"fulcrum/node/catalog"
	"fulcrum/node/storage"
	"fulcrum/replication"
	"fulcrum/replication/leaderfollower"
	"fulcrum/replication/quorum"
	"fulcrum/replication/raft"
)

// host runs the groups that the catalog says this node has replicas of, each in
// the epoch that the catalog is at.
//
// Invariant: of one group at most one epoch runs here, and the record beside the
// State names it. A replica enters epoch e+1 as based only if it settled epoch e
// (the catalog's word, given after the State was flushed) and its State has not
// changed since: a fenced group takes no write. That holds for learners, too
// (catalog/learners.go): what one has it keeps to the end of the epoch, also when it
// learns no more and runs no more.
type host struct {
	n *Node

	mu     sync.RWMutex
	groups map[fulcrum.GroupID]*hosted // guarded by mu
	busy   map[fulcrum.GroupID]bool    // guarded by mu: being opened, closed or moved to an epoch
	wake   chan struct{}

	// Guarded by mu: what replicas in mode raft remember of their changes, for watches,
	// from one epoch to the next.
	changes map[fulcrum.GroupID]*raft.Changes
	room    *raft.Room                 // theirs together
	rounds  *raft.Rounds               // of all groups in mode raft
	waits   map[fulcrum.GroupID]string // guarded by mu: what damaged replicas were last said to wait for
}

// record stands in the State's extras under recordKey and says which epoch the
// State belongs to.
type record struct {
	Keyspace uint32 // id: a group's keyspace never changes
	Epoch    fulcrum.Epoch
	Mode     consistency.Mode
	Based    bool
	Replicas []fulcrum.NodeID
}

const recordKey = "node.replica"

// freshContact is how recently the other replicas must have answered for a write to
// be stored without asking first whether enough of them are there: storing it on too
// few makes its outcome unknown, asking first makes it a refusal.
const freshContact = 50 * time.Millisecond

// syncEvery is how soon a step that failed is tried again.
const syncEvery = time.Second

func newHost(n *Node) *host {
	return &host{n: n, groups: map[fulcrum.GroupID]*hosted{}, busy: map[fulcrum.GroupID]bool{}, wake: make(chan struct{}, 1), changes: map[fulcrum.GroupID]*raft.Changes{},
		room: raft.NewRoom(raft.RoomBytes), rounds: raft.NewRounds(),
		waits: map[fulcrum.GroupID]string{}}
}

// changesOf returns what a group remembers of its changes; it is forgotten when the group
// leaves mode raft or this node.
func (h *host) changesOf(g fulcrum.GroupID, m consistency.Mode) *raft.Changes {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m != consistency.Raft {
		h.forgetChanges(g)
		return nil
	}
	if h.changes[g] == nil {
		h.changes[g] = raft.NewChanges(h.room)
	}
	return h.changes[g]
}

// forgetChanges drops what a group remembers of its changes. The caller holds mu.
func (h *host) forgetChanges(g fulcrum.GroupID) {
	if c := h.changes[g]; c != nil {
		c.Close()
		delete(h.changes, g)
	}
}

// at returns the group if it runs here at the epoch; else CodeEpoch, which tells
// the asker to look at its table again.
func (h *host) at(g fulcrum.GroupID, e fulcrum.Epoch) (*hosted, error) {
	h.mu.RLock()
	hd := h.groups[g]
	h.mu.RUnlock()
	switch {
	case hd == nil:
		return nil, h.notHere(g)
	case hd.epoch != e && !mutant.On("old-epoch-accepted"): // mutant: answers whatever epoch the message is of
		return nil, &fulcrum.Error{Code: fulcrum.CodeEpoch, Node: h.n.opt.Name, Detail: fmt.Sprintf("shard %d is at epoch %d here, not %d", g, hd.epoch, e)}
	}
	return hd, nil
}

func (h *host) all() []*hosted {
	h.mu.RLock()
	defer h.mu.RUnlock()
	out := make([]*hosted, 0, len(h.groups))
	for _, hd := range h.groups {
		out = append(out, hd)
	}
	slices.SortFunc(out, func(a, b *hosted) int { return int(a.shard) - int(b.shard) })
	return out
}

// Run keeps what runs here in step with the catalog until ctx ends, then stops
// all groups.
func (h *host) Run(ctx context.Context) error {
	var g errgroup.Group
	defer func() {
		_ = g.Wait()
		for _, hd := range h.all() {
			h.close(hd)
		}
	}()
	if err := h.sweep(); err != nil { // it costs room on the disk, and the next start tries again
		h.n.log.Warn("the disk keeps what nobody needs", "err", err)
	}
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		changed := h.n.machine.Changed()
		if h.n.registered() {
			h.sync(ctx, &g)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-h.wake:
		case <-h.n.store.Damaged():
		case <-retry.C:
			retry.Reset(fulcrum.UntilBeat(time.Now(), syncEvery))
		}
	}
}

// sync starts a step for each group that is not as the catalog wants it.
func (h *host) sync(ctx context.Context, g *errgroup.Group) {
	st := h.n.machine.State()
	h.n.metrics.begin(st)
	st.Groups(func(ref catalog.ShardRef) {
		sh := ref.Shard
		_, damaged := h.n.store.Damage(sh.Group)
		belongs := sh.Hosts(h.n.opt.Name) || sh.Learns(h.n.opt.Name)
		if hd, _ := h.at(sh.Group, sh.Epoch); hd != nil && !damaged && belongs {
			if lf, ok := hd.group.(*leaderfollower.Group); ok && sh.Term > 0 && sh.Leader != "" {
				lf.Lead(sh.Term, sh.Leader)
			}
			return
		}
		if belongs || damaged || h.holds(sh.Group) {
			h.step(ctx, g, sh.Group, func() error { return h.enter(ctx, ref) })
		}
	})
	for _, hd := range h.all() {
		if _, ok := st.Group(hd.shard); !ok {
			h.step(ctx, g, hd.shard, func() error { return h.drop(hd.shard) })
		}
	}
	for _, d := range h.n.store.Damages() {
		if _, ok := st.Group(d.Group); !ok && d.Group < st.NextGroup { // of a keyspace that was dropped, and not one that this copy does not know yet
			h.step(ctx, g, d.Group, func() error { return h.dropDamaged(ctx, d.Group) })
		}
	}
}

// holds reports whether this node runs, or has data of, a group.
func (h *host) holds(g fulcrum.GroupID) bool {
	h.mu.RLock()
	_, runs := h.groups[g]
	h.mu.RUnlock()
	if runs {
		return true
	}
	rec, err := h.record(g)
	return err == nil && rec != nil
}

// errNotYet is a step's way to say that nothing can be done before the catalog changes.
// To look again at once, as after a step that got on, would keep a processor busy.
var errNotYet = errors.New("not yet")

// step runs f for a group unless another step for it is under way.
func (h *host) step(ctx context.Context, g *errgroup.Group, id fulcrum.GroupID, f func() error) {
	h.mu.Lock()
	busy := h.busy[id]
	h.busy[id] = true
	h.mu.Unlock()
	if busy || ctx.Err() != nil {
		return
	}
	g.Go(func() error {
		err := f()
		h.mu.Lock()
		delete(h.busy, id)
		h.mu.Unlock()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, errNotYet) {
				h.n.log.Warn("a replica could not be opened; trying again", "group", id, "err", err)
			}
			return nil // the next tick tries again
		}
		select {
		case h.wake <- struct{}{}:
		default:
		}
		return nil
	})
}

// enter brings this node's replica to the epoch of the catalog's shard.
func (h *host) enter(ctx context.Context, ref catalog.ShardRef) error {
	sh, me := ref.Shard, h.n.opt.Name
	belongs := sh.Hosts(me) || sh.Learns(me)
	if d, damaged := h.n.store.Damage(sh.Group); damaged {
		return h.heal(ctx, ref, d)
	}
	h.mu.RLock()
	running := h.groups[sh.Group]
	h.mu.RUnlock()
	if running != nil && running.epoch > sh.Epoch {
		return errNotYet // this copy of the catalog is behind what was running; it will catch up
	}
	if slices.Contains(sh.Wiped, me) {
		return errNotYet // lost its disk within this epoch: joins the next one
	}
	if running != nil {
		h.close(running)
	}
	rec, err := h.record(sh.Group)
	if err != nil {
		return err
	}
	state, err := h.n.store.State(sh.Group, "")
	if err != nil {
		return err
	}
	next := record{Keyspace: ref.Keyspace.ID, Epoch: sh.Epoch, Mode: sh.Mode, Replicas: sh.Replicas}
	switch {
	case rec != nil && rec.Epoch > sh.Epoch:
		return errNotYet
	case rec != nil && rec.Epoch == sh.Epoch && !belongs:
		return errNotYet // it learned; what it has goes with the epoch
	case rec != nil && rec.Epoch == sh.Epoch:
		return h.run(ctx, ref, *rec)
	case rec == nil && sh.Epoch == 1 && sh.Hosts(me):
		next.Based = true
		err = h.base(sh, state, nil, next)
	case rec != nil && rec.Epoch+1 == sh.Epoch && slices.Contains(sh.Based, me),
		rec != nil && mutant.On("unsettled-replica-based"): // mutant: begins an epoch with what it has
		if !sh.Hosts(me) {
			return h.drop(sh.Group)
		}
		next.Based = true
		err = h.base(sh, state, rec, next)
	default:
		if rec != nil {
			if err := h.handOverLeftovers(ctx, ref, *rec); err != nil {
				return fmt.Errorf("leftovers of epoch %d: %w", rec.Epoch, err)
			}
		}
		if !belongs {
			return h.drop(sh.Group)
		}
		err = h.wipe(sh, state, next)
	}
	if err != nil {
		return err
	}
	if rec != nil {
		if err := h.n.store.DropLog(sh.Group, rec.Epoch); err != nil {
			return err
		}
	}
	return h.run(ctx, ref, next)
}

// base makes the State that stands here the starting point of the epoch: log
// position 1, term 1. The log comes first: without the record it counts for
// nothing, so a crash in between repeats the step. before is the record of the epoch
// before, if there was one.
func (h *host) base(sh *catalog.Shard, state replication.State, before *record, next record) error {
	leaves := map[string][]byte{} // what mode raft has no use for any more
	if before != nil && before.Mode == consistency.Raft && sh.Mode != consistency.Raft {
		var err error
		if leaves, err = raft.ToWallClock(state, before.Epoch); err != nil {
			return err
		}
	}
	log, err := h.n.store.Log(sh.Group, sh.Epoch, storage.Fsync)
	if err != nil {
		return err
	}
	if err := log.Reset(1); err != nil {
		return err
	}
	newest, err := newestVersion(state)
	if err != nil {
		return err
	}
	// What has been purged is in the State no more, but its version must not come again.
	if b, err := state.Extra(replication.FloorKey); err != nil {
		return err
	} else if len(b) > 0 {
		floor, err := fulcrum.ParseVersion(string(b))
		if err != nil {
			return fmt.Errorf("floor of group %d: %w", sh.Group, err)
		}
		if newest.Less(floor) {
			newest = floor
		}
	}
	h.n.clock.Raise(newest)
	if err := h.resetHints(sh.Group); err != nil {
		return err
	}
	extra := next.extra(newest)
	if sh.Mode != consistency.Raft {
		gone, err := raft.DropIDs(state)
		if err != nil {
			return err
		}
		maps.Copy(extra, gone)
	}
	maps.Copy(extra, leaves)
	return state.Rebase(1, extra)
}

// wipe empties the replica: it catches up from those that are based.
func (h *host) wipe(sh *catalog.Shard, state replication.State, next record) error {
	log, err := h.n.store.Log(sh.Group, sh.Epoch, storage.Fsync)
	if err != nil {
		return err
	}
	if err := log.Reset(0); err != nil {
		return err
	}
	if err := h.resetHints(sh.Group); err != nil {
		return err
	}
	return state.Install(0, next.extra(fulcrum.Version{}), func(func(fulcrum.Entry) error) error { return nil })
}

func (h *host) resetHints(g fulcrum.GroupID) error {
	hints, err := h.n.store.State(g, "hints")
	if err != nil {
		return err
	}
	return hints.Install(0, nil, func(func(fulcrum.Entry) error) error { return nil })
}

// extra is what the State of a new epoch begins with. The floor is the newest
// version of the epochs before: writes of this epoch get newer ones, so that old
// data can never win.
func (r record) extra(floor fulcrum.Version) map[string][]byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // plain data
	}
	text, _ := floor.MarshalText()
	return map[string][]byte{recordKey: b, replication.FloorKey: text}
}

func newestVersion(state replication.State) (fulcrum.Version, error) {
	var newest fulcrum.Version
	err := state.Scan(nil, nil, func(e fulcrum.Entry) bool {
		if newest.Less(e.Version) {
			newest = e.Version
		}
		return true
	})
	return newest, err
}

func (h *host) record(g fulcrum.GroupID) (*record, error) {
	state, err := h.n.store.State(g, "")
	if err != nil {
		return nil, err
	}
	b, err := state.Extra(recordKey)
	if err != nil || b == nil {
		return nil, err
	}
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil {
		return nil, fmt.Errorf("record of group %d: %w", g, err)
	}
	return &rec, nil
}

// drop removes a replica that this node no longer has.
func (h *host) drop(g fulcrum.GroupID) error {
	h.mu.RLock()
	running := h.groups[g]
	h.mu.RUnlock()
	if running != nil {
		h.close(running)
	}
	h.mu.Lock()
	h.forgetChanges(g)
	h.mu.Unlock()
	rec, err := h.record(g)
	if err != nil || rec == nil {
		return err
	}
	// Without the record only the catalog says that the epoch is over. Were the copy on
	// disk from before, a crash now would let this node begin epoch 1 anew, with nothing.
	if err := h.n.saveCatalog(); err != nil {
		return err
	}
	return errors.Join(h.n.store.DropLog(g, rec.Epoch), h.n.store.DropState(g))
}

// run opens the group and serves it. A group whose Run fails is closed and opened
// again by a later sync.
func (h *host) run(ctx context.Context, ref catalog.ShardRef, rec record) error {
	sh := ref.Shard
	group, err := h.open(ref.Keyspace, sh, rec)
	if err != nil {
		return err
	}
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	hd := &hosted{shard: sh.Group, keyspace: ref.Keyspace.Name, epoch: rec.Epoch, mode: rec.Mode, group: group, stop: stop, done: make(chan struct{})}
	h.mu.Lock()
	h.groups[sh.Group] = hd
	h.mu.Unlock()
	go func() { // owned by hd: close waits for done
		defer close(hd.done)
		err := group.Run(runCtx)
		hd.stopped.Store(true) // before anybody may change the State: see toTheEnd
		if err != nil && runCtx.Err() == nil {
			h.n.log.Error("a replica stopped; opening it again", "group", hd.shard, "mode", hd.mode, "err", err)
			select { // a disk that fails at once must not spin
			case <-time.After(time.Second):
			case <-runCtx.Done():
			}
			h.mu.Lock()
			if h.groups[hd.shard] == hd {
				delete(h.groups, hd.shard)
			}
			h.mu.Unlock()
			select {
			case h.wake <- struct{}{}:
			default:
			}
		}
	}()
	if lf, ok := group.(*leaderfollower.Group); ok && sh.Term > 0 && sh.Leader != "" && sh.Epoch == rec.Epoch {
		lf.Lead(sh.Term, sh.Leader)
	}
	return nil
}

// close stops a group and waits until nothing of it runs.
func (h *host) close(hd *hosted) {
	h.mu.Lock()
	if h.groups[hd.shard] == hd {
		delete(h.groups, hd.shard)
	}
	h.mu.Unlock()
	hd.stop()
	<-hd.done
}

// open makes the group of a replica whose State stands at rec.
func (h *host) open(ks *catalog.Keyspace, sh *catalog.Shard, rec record) (replication.Group, error) {
	n := h.n
	durability, err := storage.ParseDurability(ks.Durability)
	if err != nil {
		return nil, err
	}
	log, err := n.store.Log(sh.Group, rec.Epoch, durability)
	if err != nil {
		return nil, err
	}
	stored, err := n.store.State(sh.Group, "")
	if err != nil {
		return nil, err
	}
	state, err := keepRecord(stored)
	if err != nil {
		return nil, err
	}
	hints, err := n.store.State(sh.Group, "hints")
	if err != nil {
		return nil, err
	}
	env := replication.Env{
		Node: n.opt.Name, Actor: n.actorNow(), Group: sh.Group, Epoch: rec.Epoch, Replicas: rec.Replicas, Zone: n.zone,
		Peers: groupPeers{n, sh.Group, rec.Epoch}, Log: log, State: state, Hints: hints, Spool: n.store.Spool(), Clock: n.clock, Now: n.wall, Rand: newRand(),
		Logger:  n.log.With("keyspace", ks.Name, "group", uint64(sh.Group), "epoch", uint64(rec.Epoch)),
		Metrics: n.metrics.group(ks.Name, rec.Mode), MaxValue: n.opt.MaxValue, Based: rec.Based,
	}
	changes := h.changesOf(sh.Group, rec.Mode)
	switch rec.Mode {
	case consistency.Raft:
		return raft.Open(env, raft.Options{Campaign: rec.Based && firstBased(sh) == n.opt.Name, Changes: changes, Rounds: h.rounds})
	case consistency.Quorum:
		return quorum.Open(env, quorum.Options{FreshFor: freshContact})
	case consistency.LeaderFollower:
		group, epoch := sh.Group, rec.Epoch
		return leaderfollower.Open(env, leaderfollower.Options{
			Lease:      func() (time.Time, bool) { return n.leaseFor(group, epoch) },
			ClockBound: takeoverTime - leaseTime,
			LostDir:    filepath.Join(n.opt.Dir, "lost"),
		})
	}
	return nil, fmt.Errorf("mode %v is not known to this version", rec.Mode)
}

// firstBased is the replica that should ask to lead a new epoch: placement orders
// replicas differently for each shard, so leaders are spread.
func firstBased(sh *catalog.Shard) fulcrum.NodeID {
	for _, id := range sh.Replicas {
		if slices.Contains(sh.Based, id) {
			return id
		}
	}
	return ""
}

// recordedState is the State that a group sees: when the group replaces all of it by
// a snapshot, the node's record stays. Without it, a replica that restarts after it
// caught up would be taken for one that lost its disk.
type recordedState struct {
	replication.State
	record []byte
}

func keepRecord(s replication.State) (replication.State, error) {
	rec, err := s.Extra(recordKey)
	return recordedState{s, rec}, err
}

var _ quorum.Purger = recordedState{}

// Purge implements quorum.Purger: storage removes a key whose entry is applied empty.
func (s recordedState) Purge(keys [][]byte, index uint64) error {
	gone := make([]fulcrum.Entry, len(keys))
	for i, k := range keys {
		gone[i].Key = k
	}
	return s.State.Apply(index, gone, nil)
}

// Install implements replication.State.
func (s recordedState) Install(index uint64, extra map[string][]byte, fill func(put func(fulcrum.Entry) error) error) error {
	return s.State.Install(index, s.with(extra), fill)
}

// Rebase implements replication.State.
func (s recordedState) Rebase(index uint64, extra map[string][]byte) error {
	return s.State.Rebase(index, s.with(extra))
}

func (s recordedState) with(extra map[string][]byte) map[string][]byte {
	out := map[string][]byte{recordKey: s.record}
	maps.Copy(out, extra)
	return out
}

func (n *Node) zone(id fulcrum.NodeID) string { return n.machine.State().Nodes[id].Zone }
