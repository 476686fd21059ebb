package quorum

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fulcrum"
	"fulcrum/mutant"
)

// item is one piece of work for the store loop, which alone writes the log and
// the states. done gets one answer.
type item struct {
	entries []fulcrum.Entry
	marks   []mark
	settle  bool   // counts although the replica is fenced
	fence   bool   // closes the epoch
	purge   []pair // tombstones to remove for good
	stored  int    // entries that were newer than what stood; set before done
	bytes   int64
	done    chan error
}

// A batch ends at these bounds; its record lists are cut at maxPartBytes.
const (
	maxBatchItems = 1024
	maxBatchBytes = 8 << 20
)

// submit hands it to the store loop; CodeOverloaded when the queue is full.
func (g *Group) submit(it *item) error {
	g.weigh(it)
	if g.queueBytes.Add(it.bytes) > g.opt.MaxQueueBytes && it.bytes < g.queueBytes.Load() {
		g.queueBytes.Add(-it.bytes)
		return g.errorf(fulcrum.CodeOverloaded, "%d bytes wait for the log", g.queueBytes.Load()).WithHint("slow down and retry")
	}
	select {
	case g.queue <- it:
		return nil
	default:
		g.queueBytes.Add(-it.bytes)
		return g.errorf(fulcrum.CodeOverloaded, "%d stores wait for the log", g.opt.MaxQueue).WithHint("slow down and retry")
	}
}

// submitWait is submit for work in the background, which waits for a place.
func (g *Group) submitWait(ctx context.Context, it *item) error {
	g.weigh(it)
	g.queueBytes.Add(it.bytes)
	select {
	case g.queue <- it:
		return nil
	case <-ctx.Done():
	case <-g.stopped:
	}
	g.queueBytes.Add(-it.bytes)
	return g.errorf(fulcrum.CodeUnavailable, "the store did not take it in time")
}

func (g *Group) weigh(it *item) {
	it.done = make(chan error, 1)
	for _, e := range it.entries {
		it.bytes += int64(entryBytes(e))
	}
	for _, m := range it.marks {
		it.bytes += int64(len(m.key)) + 32
	}
}

// wait returns what became of a submitted item. When ctx or Run ends first, the
// outcome is unknown.
func (g *Group) wait(ctx context.Context, it *item) error {
	select {
	case err := <-it.done:
		return err
	case <-ctx.Done():
		return g.errorf(fulcrum.CodeUnknown, "the store did not answer in time: %w", ctx.Err())
	case <-g.stopped:
		select {
		case err := <-it.done:
			return err
		default:
			return g.errorf(fulcrum.CodeUnknown, "the replica stopped")
		}
	}
}

// store makes entries durable here, where they are newer than what stands.
func (g *Group) store(ctx context.Context, entries []fulcrum.Entry, settle bool) (stored int, err error) {
	for _, list := range parts(entries) {
		it := &item{entries: list, settle: settle}
		if err := g.submitWait(ctx, it); err != nil {
			return stored, err
		}
		if err := g.wait(ctx, it); err != nil {
			return stored, err
		}
		stored += it.stored
	}
	return stored, nil
}

// storeLoop takes what has gathered while the last sync was under way, makes it
// durable with one append, applies it, and answers. It fails only with the disk.
func (g *Group) storeLoop(ctx context.Context) error {
	batch := make([]*item, 0, maxBatchItems)
	for {
		batch = batch[:0]
		select {
		case <-ctx.Done():
			return nil
		case it := <-g.queue:
			batch = append(batch, it)
		}
		batch, special := g.gather(batch)
		err := g.commit(batch)
		if err == nil && special != nil {
			err = g.commitSpecial(special)
		}
		if err == nil {
			err = g.forgetHints()
		}
		if err != nil {
			return g.errorf(fulcrum.CodeDisk, "group %d cannot store: %w", g.env.Group, err)
		}
		g.truncate(false)
	}
}

// gather adds what waits to batch. A fence or a purge ends it, and comes after it.
func (g *Group) gather(batch []*item) ([]*item, *item) {
	size := int64(0)
	for {
		last := batch[len(batch)-1]
		g.queueBytes.Add(-last.bytes)
		if last.fence || last.purge != nil {
			return batch[:len(batch)-1], last
		}
		if size += last.bytes; size >= maxBatchBytes || len(batch) == maxBatchItems {
			return batch, nil
		}
		select {
		case it := <-g.queue:
			batch = append(batch, it)
		default:
			return batch, nil
		}
	}
}

// change is what one batch does to State and Hints.
type change struct {
	keys    []string // in the order of first appearance
	fresh   map[string]fulcrum.Entry
	old     map[string]fulcrum.Entry
	hints   []fulcrum.Entry
	entries []fulcrum.Entry
}

// commit stores a batch. An error is the disk's: every item of the batch has been
// answered with it, and the loop must end.
func (g *Group) commit(batch []*item) error {
	if len(batch) == 0 {
		return nil
	}
	fenced := g.fenced.Load()
	ch := change{fresh: map[string]fulcrum.Entry{}, old: map[string]fulcrum.Entry{}}
	refused := make([]error, len(batch))
	for i, it := range batch {
		if fenced && !it.settle {
			refused[i] = g.errFenced()
			continue
		}
		if err := g.take(&ch, it); err != nil {
			return g.failAll(batch, err)
		}
		for _, m := range it.marks {
			ch.hints = append(ch.hints, g.markHint(m)...)
		}
	}
	for _, k := range ch.keys {
		ch.entries = append(ch.entries, ch.fresh[k])
	}
	if err := g.write(ch); err != nil {
		return g.failAll(batch, err)
	}
	for i, it := range batch {
		it.done <- refused[i]
	}
	return nil
}

// take adds to ch those entries of it that are newer than what stands. Only this
// loop changes State, so what stands cannot move before the batch is applied.
func (g *Group) take(ch *change, it *item) error {
	for _, e := range it.entries {
		cur, ok := ch.fresh[string(e.Key)]
		if !ok {
			var err error
			if cur, err = g.env.State.Get(e.Key); err != nil {
				return diskErr("get", err)
			}
		}
		if !cur.Version.Less(e.Version) || mutant.On("lww-oldest") && !cur.Version.IsZero() { // mutant: the first writer wins
			continue
		}
		k := string(e.Key)
		if !ok {
			ch.keys = append(ch.keys, k)
			ch.old[k] = cur
		}
		ch.fresh[k] = e
		it.stored++
	}
	return nil
}

func (g *Group) failAll(batch []*item, err error) error {
	e := g.errorf(fulcrum.CodeDisk, "store: %w", err).WithHint("look at this node's disk; the other replicas go on")
	e.Maybe = true
	for _, it := range batch {
		it.done <- e
	}
	return err
}

// write appends ch to the log and applies it. Nothing new: nothing to write.
func (g *Group) write(ch change) error {
	if len(ch.entries) == 0 && len(ch.hints) == 0 {
		return nil
	}
	var records [][]byte
	for _, list := range parts(ch.entries) {
		records = append(records, appendRecord(nil, recordEntries, list))
	}
	for _, list := range parts(ch.hints) {
		records = append(records, appendRecord(nil, recordHints, list))
	}
	begin := time.Now()
	from := g.env.Log.Last() + 1
	if err := g.env.Log.Append(from, records); err != nil {
		return diskErr("append to the log", err)
	}
	g.env.Metrics.Commit(time.Since(begin))
	last := from + uint64(len(records)) - 1
	g.lastIndex.Store(last)
	if err := g.env.State.Apply(last, ch.entries, nil); err != nil {
		return diskErr("apply", err)
	}
	if len(ch.hints) > 0 {
		if err := g.env.Hints.Apply(last, ch.hints, nil); err != nil {
			return diskErr("apply hints", err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range ch.keys {
		g.count(ch.old[k], ch.fresh[k])
	}
	return nil
}

// count moves digests and newest from old to e. The caller holds mu.
func (g *Group) count(old, e fulcrum.Entry) {
	b, key := bucketOf(e.Key)
	if !old.Version.IsZero() {
		g.digest[b] ^= digestOf(key, old)
	}
	g.digest[b] ^= digestOf(key, e)
	if g.newest.Less(e.Version) {
		g.newest = e.Version
	}
}

// commitSpecial carries out a fence or a purge.
func (g *Group) commitSpecial(it *item) error {
	var err error
	if it.fence {
		if err = g.env.Log.SetMeta(map[string][]byte{metaFenced: {1}}); err == nil {
			g.fenced.Store(true)
		}
	} else {
		err = g.writePurge(it)
	}
	if err != nil {
		return g.failAll([]*item{it}, err)
	}
	it.done <- nil
	return nil
}

// truncate cuts the log behind what a crash leaves of State and Hints. Hints is
// not touched by most batches: its position is moved along first.
func (g *Group) truncate(now bool) {
	durable, first := g.env.State.Durable(), g.env.Log.First()
	if durable < first || (!now && durable-first < g.opt.TruncateRecords) {
		return
	}
	if g.env.Hints.Durable() < durable {
		if last := g.lastIndex.Load(); g.env.Hints.Applied() < last {
			if err := g.env.Hints.Apply(last, nil, nil); err != nil {
				g.env.Logger.Warn("moving the hints' position", "group", g.env.Group, "err", err)
			}
		}
		durable = min(durable, g.env.Hints.Durable())
	}
	if durable < first {
		return
	}
	if err := g.env.Log.TruncateBefore(durable + 1); err != nil {
		g.env.Logger.Warn("cutting the log", "group", g.env.Group, "err", err)
	}
}

// Kinds of log record. Each holds a list of entries: of State, of Hints, or the
// tombstones to purge.
const (
	recordEntries byte = iota + 1
	recordHints
	recordPurge
)

// Keys of Log.Meta, and of Hints.Extra.
const (
	metaFenced  = "quorum.fenced"
	metaCaught  = "quorum.caught-up"
	extraEpoch  = "quorum.epoch"
	recoverStep = 256 // records replayed into State at a time
)

func appendRecord(b []byte, kind byte, es []fulcrum.Entry) []byte {
	size := 16
	for _, e := range es {
		size += entryBytes(e)
	}
	if b == nil {
		b = make([]byte, 0, size)
	}
	return appendEntries(append(b, kind), es)
}

func decodeRecord(b []byte) (kind byte, es []fulcrum.Entry, err error) {
	if len(b) == 0 {
		return 0, nil, errors.New("empty log record")
	}
	es, _, err = decodeEntries(b[1:])
	if err == nil && (b[0] < recordEntries || b[0] > recordPurge) {
		err = fmt.Errorf("log record of kind %d", b[0])
	}
	return b[0], es, err
}
