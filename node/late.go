package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
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
	most  int // how many writes may wait for a further hint to be taken

	mu    sync.Mutex
	index uint64 // guarded by mu: last position applied to state
	added uint64 // guarded by mu: grows with each Put
}

// lateGroup is where the queue is stored; no shard ever gets this number.
const lateGroup fulcrum.GroupID = 1 << 62

// lateEvery is how soon what could not be delivered is tried again.
const lateEvery = 2 * time.Second

// lateBatch is how many writes go out at once, and lateBytes about how large they are
// together.
const (
	lateBatch = fulcrum.MaxOpsPerBatch
	lateBytes = 4 << 20
)

// mostHints is lateQueue.most, as for the hints of one group of mode quorum. What a replica
// hands over of a closed epoch was acknowledged, and is always taken.
const mostHints = 100_000

func openLate(n *Node) (*lateQueue, error) {
	state, err := n.store.State(lateGroup, "")
	if err != nil {
		return nil, err
	}
	return &lateQueue{n: n, state: state, wake: make(chan struct{}, 1), most: mostHints, index: state.Applied()}, nil
}

// Hint is Put of writes that may be refused: past the bound, and when the disk is about full.
func (q *lateQueue) Hint(ctx context.Context, g fulcrum.GroupID, entries []fulcrum.Entry) error {
	if waiting := q.state.Keys(); waiting+len(entries) > q.most {
		return fulcrum.Errorf(fulcrum.CodeOverloaded, "%d writes wait on %s for replicas that cannot be reached, %d may", waiting, q.n.opt.Name, q.most).
			WithHint("bring the shard's replicas back: fulcrum status shows nodes and faults")
	}
	if err := q.n.store.Room(); err != nil {
		return err
	}
	return q.Put(ctx, g, entries)
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
		key := lateKey(g, e.Key)
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

// deliver sends what is queued once, some at a time, and takes out what arrived. What waits
// for one shard holds up no other's.
func (q *lateQueue) deliver(ctx context.Context) {
	q.mu.Lock()
	added := q.added
	q.mu.Unlock()
	for next := fulcrum.GroupID(0); ctx.Err() == nil; next++ {
		some, err := q.some(lateKey(next, nil), nil)
		if err != nil {
			q.n.log.Error("late writes cannot be read", "err", err)
			return
		}
		if len(some) == 0 {
			break
		}
		next = groupOf(some[0].Key)
		if err := q.deliverGroup(ctx, next); err != nil {
			q.n.log.Info("late writes are waiting", "group", next, "err", err)
		}
	}
	if err := q.clear(added); err != nil {
		q.n.log.Error("late writes cannot be cleared", "err", err)
	}
}

// lateKey is where an entry of a group is queued.
func lateKey(g fulcrum.GroupID, key []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(key)), uint64(g)), key...)
}

func groupOf(queued []byte) fulcrum.GroupID {
	return fulcrum.GroupID(binary.BigEndian.Uint64(queued))
}

// some returns the first entries of a range of the queue: as many as go out at once.
func (q *lateQueue) some(start, end []byte) (entries []fulcrum.Entry, err error) {
	size := 0
	err = q.state.Scan(start, end, func(e fulcrum.Entry) bool {
		entries = append(entries, e)
		size += len(e.Key) + len(e.Value)
		return len(entries) < lateBatch && size < lateBytes
	})
	return entries, err
}

// clear empties a queue with nothing in it, to which nothing was added since: what was
// taken out of it leaves traces.
func (q *lateQueue) clear(added uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if left, err := q.some(nil, nil); err != nil || len(left) > 0 || q.added != added {
		return err
	}
	return q.state.Install(q.index, nil, func(func(fulcrum.Entry) error) error { return nil })
}

// deliverGroup sends what one shard is owed, and stops at the first batch that does not
// arrive. A shard keeps its number and its keys for as long as it lives, while its
// keyspace's name may go to another keyspace: so it is the number that counts.
func (q *lateQueue) deliverGroup(ctx context.Context, g fulcrum.GroupID) error {
	st := q.n.machine.State()
	ref, known := st.Group(g)
	if !known && g >= st.NextGroup {
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "the catalog's copy here does not know the shard yet")
	}
	applied := 0
	defer func() {
		if applied > 0 {
			q.note(ctx, ref, applied)
		}
	}()
	for start := lateKey(g, nil); ; {
		some, err := q.some(start, lateKey(g+1, nil))
		if err != nil || len(some) == 0 {
			return err
		}
		start = append(bytes.Clone(some[len(some)-1].Key), 0)
		var results []fulcrum.Result
		if known { // else its keyspace was dropped, as numbers only rise, and nobody is owed anything
			if results, err = q.send(ctx, ref, some); err != nil {
				return err
			}
		}
		arrived := some[:0]
		for i, e := range some {
			switch {
			case !known:
			case results[i].Err != nil:
				err = results[i].Err
				continue
			case results[i].Applied:
				applied++
			}
			arrived = append(arrived, e)
		}
		if err := errors.Join(err, q.take(arrived)); err != nil {
			return err
		}
	}
}

// send gives entries to their shard.
func (q *lateQueue) send(ctx context.Context, ref catalog.ShardRef, queued []fulcrum.Entry) ([]fulcrum.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, fulcrum.DefaultRequestLimit)
	defer cancel()
	ws := make([]fulcrum.Write, len(queued))
	for i, e := range queued {
		e.Key = e.Key[8:]
		ws[i] = fulcrum.MergeOf(e)
	}
	op := &operation{n: q.n, call: api.Call{Keyspace: ref.Keyspace.Name, Level: consistency.L(consistency.QuorumOf)}, access: consistency.Write, began: time.Now()}
	_, _, err := op.keyspace()
	var results []fulcrum.Result
	if err == nil {
		results, err = op.writeShard(ctx, ref.Shard.Group, ws)
	}
	op.finish("write", err)
	return results, err
}

// take takes entries out of the queue where they still stand.
func (q *lateQueue) take(queued []fulcrum.Entry) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var gone []fulcrum.Entry
	for _, e := range queued {
		now, err := q.state.Get(e.Key)
		if err != nil {
			return err
		}
		if now.Version == e.Version {
			gone = append(gone, fulcrum.Entry{Key: e.Key})
		}
	}
	if len(gone) == 0 {
		return nil
	}
	q.index++
	return q.state.Apply(q.index, gone, nil)
}

// note counts writes that a shard took.
func (q *lateQueue) note(ctx context.Context, ref catalog.ShardRef, applied int) {
	q.n.log.Info("late writes of a closed epoch were handed over", "group", ref.Shard.Group, "writes", applied)
	q.n.metrics.lateWrites.WithLabelValues(ref.Keyspace.Name).Add(float64(applied))
	if _, err := q.n.propose(ctx, catalog.Command{Late: &catalog.Late{Group: ref.Shard.Group, Count: applied}}); err != nil {
		q.n.log.Warn("late writes were not noted in the catalog", "err", err)
	}
}
