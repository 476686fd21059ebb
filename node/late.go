package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
	"fulcrum/replication"
)

// lateQueue keeps writes that this node owes to a shard it could not, or no
// longer, write to by itself: what a replica alone held of a closed epoch, and
// hints of the level "any" taken while no replica could be reached. They go out as
// merges, with the versions that they have, through the shard's present protocol:
// they count only where nothing newer stands, and twice is as good as once.
type lateQueue struct {
	n     *Node
	state replication.State // key: group (8 bytes), then the entry's key
	wake  chan struct{}

	mu    sync.Mutex
	index uint64 // guarded by mu: last position applied to state
	added uint64 // guarded by mu: grows with each Put
}

// lateGroup is where the queue is stored; no shard ever gets this number.
const lateGroup fulcrum.GroupID = 1 << 62

// lateEvery is how soon what could not be delivered is tried again.
const lateEvery = 2 * time.Second

// lateBatch is how many writes go out at once.
const lateBatch = fulcrum.MaxOpsPerBatch

func openLate(n *Node) (*lateQueue, error) {
	state, err := n.store.State(lateGroup, "")
	if err != nil {
		return nil, err
	}
	return &lateQueue{n: n, state: state, wake: make(chan struct{}, 1), index: state.Applied()}, nil
}

// Put stores entries durably.
func (q *lateQueue) Put(ctx context.Context, g fulcrum.GroupID, entries []fulcrum.Entry) error {
	if err := q.add(g, entries); err != nil {
		return err
	}
	if err := q.state.Flush(ctx); err != nil {
		e := *fulcrum.AsError(err)
		e.Code, e.Maybe = fulcrum.CodeUnknown, true // it may still be delivered
		return &e
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return nil
}

// add queues entries in memory. Where one of the same key waits already the newer
// stays: it was promised too, and leftovers come later than hints that outdate them.
func (q *lateQueue) add(g fulcrum.GroupID, entries []fulcrum.Entry) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	newest := make(map[string]fulcrum.Entry, len(entries))
	for _, e := range entries {
		key := append(binary.BigEndian.AppendUint64(nil, uint64(g)), e.Key...)
		old, ok := newest[string(key)]
		if !ok {
			var err error
			if old, err = q.state.Get(key); err != nil {
				return err
			}
		}
		if old.Version.Less(e.Version) {
			e.Key, e.Value = key, bytes.Clone(e.Value)
			newest[string(key)] = e
		}
	}
	stored := make([]fulcrum.Entry, 0, len(newest))
	for _, e := range newest {
		stored = append(stored, e)
	}
	q.index++
	q.added++
	return q.state.Apply(q.index, stored, nil)
}

// Run delivers what is queued until ctx ends.
func (q *lateQueue) Run(ctx context.Context) error {
	tick := time.NewTimer(lateEvery)
	defer tick.Stop()
	for {
		if q.state.Keys() > 0 {
			q.deliver(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		case <-tick.C:
			tick.Reset(fulcrum.UntilBeat(time.Now(), lateEvery))
		}
	}
}

// deliver sends everything once, and empties the queue if all of it arrived and
// nothing was added meanwhile.
func (q *lateQueue) deliver(ctx context.Context) {
	q.mu.Lock()
	added := q.added
	q.mu.Unlock()
	pending := map[fulcrum.GroupID][]fulcrum.Entry{}
	if err := q.state.Scan(nil, nil, func(e fulcrum.Entry) bool {
		if len(e.Key) > 8 {
			g := fulcrum.GroupID(binary.BigEndian.Uint64(e.Key))
			e.Key = e.Key[8:]
			pending[g] = append(pending[g], e)
		}
		return true
	}); err != nil {
		q.n.log.Error("late writes cannot be read", "err", err)
		return
	}
	for g, entries := range pending {
		if !q.deliverGroup(ctx, g, entries) {
			return // tried again at the next tick
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.added != added {
		return
	}
	if err := q.state.Install(q.index, nil, func(func(fulcrum.Entry) error) error { return nil }); err != nil {
		q.n.log.Error("late writes cannot be cleared", "err", err)
	}
}

func (q *lateQueue) deliverGroup(ctx context.Context, g fulcrum.GroupID, entries []fulcrum.Entry) bool {
	st := q.n.machine.State()
	ref, ok := st.Group(g)
	if !ok {
		// Numbers of groups only rise. Below the next one, the keyspace was dropped and
		// nobody is owed anything; else this copy of the catalog is behind.
		return g < st.NextGroup
	}
	applied := 0
	for len(entries) > 0 {
		batch := entries[:min(lateBatch, len(entries))]
		entries = entries[len(batch):]
		ws := make([]fulcrum.Write, len(batch))
		for i, e := range batch {
			ws[i] = fulcrum.MergeOf(e)
		}
		callCtx, cancel := context.WithTimeout(ctx, fulcrum.DefaultRequestLimit)
		results, _, err := q.n.Write(callCtx, api.Call{Keyspace: ref.Keyspace.Name, Level: consistency.L(consistency.QuorumOf)}, ws)
		cancel()
		if err != nil {
			q.n.log.Info("late writes are waiting", "group", g, "writes", len(batch)+len(entries), "err", err)
			return false
		}
		for _, r := range results {
			if r.Err != nil {
				return false
			}
			if r.Applied {
				applied++
			}
		}
	}
	if applied > 0 {
		q.n.log.Info("late writes of a closed epoch were handed over", "group", g, "writes", applied)
		q.n.metrics.lateWrites.WithLabelValues(ref.Keyspace.Name).Add(float64(applied))
		if _, err := q.n.propose(ctx, catalog.Command{Late: &catalog.Late{Group: g, Count: applied}}); err != nil {
			q.n.log.Warn("late writes were not noted in the catalog", "err", err)
		}
	}
	return true
}
