package leaderfollower

import (
	"context"
	"time"

	"fulcrum"
)

// mark says: once index is applied, this replica is as fresh as the leader was at
// the time at, on this replica's clock.
type mark struct {
	index uint64
	at    time.Time
}

const maxMarks = 64

// applyLoop moves committed records into the State.
func (g *Group) applyLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.applyKick:
		}
		for more := true; more; {
			if g.stateGate.enter(ctx) != nil {
				return nil
			}
			var err error
			more, err = g.applySome()
			g.stateGate.leave()
			if err != nil {
				return err
			}
		}
	}
}

// applySome applies some committed records in one step. The caller holds
// stateGate. Only committed records come here, and those are never truncated.
func (g *Group) applySome() (more bool, err error) {
	g.mu.Lock()
	from := g.applied + 1
	to := min(g.commit, g.applied+batchRecords)
	note := g.note
	g.mu.Unlock()
	if from > to {
		return false, nil
	}
	records, err := g.someRecords(from, to, recordBytes)
	if err != nil {
		return false, g.diskError(err)
	}
	to = from + uint64(len(records)) - 1 // fewer where they are large
	var entries []fulcrum.Entry
	for i, r := range records {
		entries = append(entries, r.entries...)
		for _, e := range r.entries {
			note.newest = later(note.newest, e.Version)
		}
		note.term = r.term
		if r.kind == kindFence && note.fence == 0 {
			note.fence, note.fenceTerm = from+uint64(i), r.term
		}
	}
	note.epoch = g.env.Epoch
	if err := g.env.State.Apply(to, entries, map[string][]byte{noteKey: note.encode()}); err != nil {
		return false, g.diskError(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tookEffect(from, to, note, records)
	return g.commit > g.applied, nil
}

// tookEffect follows an Apply of from..to: from here on the State shows those
// records, and the overlay no longer has to. The caller holds mu.
func (g *Group) tookEffect(from, to uint64, note stateNote, records []record) {
	g.applied, g.note = to, note
	for i, r := range records {
		delete(g.weakAcks, from+uint64(i))
		if g.overlay == nil {
			continue
		}
		g.unapplied -= int64(len(r.raw))
		for _, e := range r.entries {
			if d, ok := g.overlay[string(e.Key)]; ok && d.index <= to {
				delete(g.overlay, string(e.Key))
			}
		}
	}
	g.freshen()
	g.hist.trim(g.applied, cacheBytes)
	if g.applied >= g.hist.base+2*g.opt.KeepTail+g.opt.KeepTail/4 {
		kick(g.leadKick) // direct cuts the log
	}
	g.progress()
}

// freshen turns the marks that are reached into freshness. The caller holds mu.
func (g *Group) freshen() {
	n := 0
	for n < len(g.marks) && g.marks[n].index <= g.applied {
		if g.marks[n].at.After(g.fresh) {
			g.fresh = g.marks[n].at
		}
		n++
	}
	g.marks = g.marks[n:]
}

// addMark notes a proof that came with a message. When too many wait the newest is
// dropped: the oldest is the first to be reached. The caller holds mu.
func (g *Group) addMark(index uint64, at time.Time) {
	if n := len(g.marks); n > 0 && g.marks[n-1].index == index {
		g.marks[n-1].at = at
	} else if n < maxMarks {
		g.marks = append(g.marks, mark{index, at})
	}
	g.freshen()
}
