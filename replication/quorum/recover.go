package quorum

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

// recover brings memory to where the disk is: flags, the hints of this epoch, the
// log behind State, and the digests.
func (g *Group) recover() error {
	fenced, err := g.env.Log.Meta(metaFenced)
	if err != nil {
		return err
	}
	caught, err := g.env.Log.Meta(metaCaught)
	if err != nil {
		return err
	}
	g.fenced.Store(len(fenced) > 0)
	g.catchingUp.Store(!g.env.Based && len(caught) == 0 && len(g.env.Replicas) > 1)
	g.opened = time.Now()
	if err := g.openHints(); err != nil {
		return err
	}
	if err := g.replay(); err != nil {
		return err
	}
	g.lastIndex.Store(g.env.Log.Last())
	if err := g.countAll(); err != nil {
		return err
	}
	return g.raiseClock()
}

// openHints empties Hints when they are another epoch's: what those promised is
// in State, and State was settled or is handed over. Otherwise it loads them.
func (g *Group) openHints() error {
	epoch := binary.AppendUvarint(nil, uint64(g.env.Epoch))
	was, err := g.env.Hints.Extra(extraEpoch)
	if err != nil {
		return err
	}
	if string(was) != string(epoch) {
		at := max(g.env.Log.First(), 1) - 1
		return g.env.Hints.Install(at, map[string][]byte{extraEpoch: epoch}, func(func(fulcrum.Entry) error) error { return nil })
	}
	return g.env.Hints.Scan(nil, nil, func(e fulcrum.Entry) bool {
		g.loadHint(e)
		return true
	})
}

// replay applies the log's records behind the applied positions. Where the log
// ends before a state (it was not synced, by the keyspace's choice, and a crash
// took its tail) that state is the newer: the log starts again behind it.
func (g *Group) replay() error {
	log, state, hints := g.env.Log, g.env.State, g.env.Hints
	if state.Applied()+1 < log.First() {
		return fmt.Errorf("the log begins at %d, but the state ends at %d", log.First(), state.Applied())
	}
	from, last := max(min(state.Applied(), hints.Applied())+1, log.First()), log.Last()
	if last > 0 && from <= last {
		err := log.Range(from, last, func(index uint64, record []byte) error {
			kind, es, err := decodeRecord(record)
			if err != nil {
				return fmt.Errorf("log record %d: %w", index, err)
			}
			return g.replayOne(index, kind, es)
		})
		if err != nil {
			return err
		}
	}
	at := max(state.Applied(), hints.Applied())
	if at <= last {
		return nil
	}
	if err := state.Rebase(at, nil); err != nil {
		return err
	}
	epoch := binary.AppendUvarint(nil, uint64(g.env.Epoch))
	if err := hints.Rebase(at, map[string][]byte{extraEpoch: epoch}); err != nil {
		return err
	}
	return log.Reset(at)
}

// replayOne is what commit did with one record. Entries are merged by version, so
// that a State which is a little ahead of its position is not set back.
func (g *Group) replayOne(index uint64, kind byte, es []fulcrum.Entry) error {
	if kind == recordHints {
		for _, e := range es {
			g.loadHint(e)
		}
		if index <= g.env.Hints.Applied() {
			return nil
		}
		return g.env.Hints.Apply(index, es, nil)
	}
	if index <= g.env.State.Applied() {
		return nil
	}
	if kind == recordPurge {
		return g.applyPurge(index, es)
	}
	kept := es[:0]
	for _, e := range es {
		old, err := g.env.State.Get(e.Key)
		if err != nil {
			return err
		}
		if old.Version.Less(e.Version) {
			kept = append(kept, e)
		}
	}
	return g.env.State.Apply(index, kept, nil)
}

// countAll computes digests and the newest version with one pass over State.
func (g *Group) countAll() error {
	g.digest = [buckets]uint64{} // replaying a purge has touched it
	err := g.env.State.Scan(nil, nil, func(e fulcrum.Entry) bool {
		g.count(fulcrum.Entry{}, e)
		return true
	})
	return err
}

// raiseClock shows the clock what it must stamp above: what stands here, and the
// floor that the last epoch left. One too far ahead of the wall clock is refused;
// the floor counts all the same, where the clock can be raised.
func (g *Group) raiseClock() error {
	text, err := g.env.State.Extra(replication.FloorKey)
	if err != nil {
		return err
	}
	if len(text) > 0 {
		floor, err := fulcrum.ParseVersion(string(text))
		if err != nil {
			return err
		}
		if r, ok := g.env.Clock.(interface{ Raise(fulcrum.Version) }); ok {
			r.Raise(floor)
		} else if err := g.env.Clock.Observe(floor); err != nil {
			g.env.Logger.Warn("the last epoch ended ahead of the clock", "group", g.env.Group, "floor", floor.String(), "err", err)
		}
	}
	if g.newest.IsZero() {
		return nil
	}
	if err := g.env.Clock.Observe(g.newest); err != nil {
		g.env.Logger.Warn("this replica holds a version ahead of the clock", "group", g.env.Group, "version", g.newest.String(), "err", err)
	}
	return nil
}

// hintKey is where Hints keeps the mark that peer lacks key. Node names hold no
// zero byte and user keys are not empty: the empty key marks "everything".
func hintKey(peer fulcrum.NodeID, key string) []byte {
	return []byte(string(peer) + "\x00" + key)
}

func (g *Group) loadHint(e fulcrum.Entry) {
	id, key, _ := strings.Cut(string(e.Key), "\x00")
	p := g.peerOf(fulcrum.NodeID(id))
	if p == nil {
		return
	}
	_, had := p.hints[key]
	switch {
	case e.Tombstone && had:
		delete(p.hints, key)
		g.hints--
	case !e.Tombstone:
		p.hints[key] = e.Version
		if !had {
			g.hints++
		}
	}
	if e.Tombstone {
		g.hintTombs++
	}
}
