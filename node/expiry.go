package node

import (
	"math"
	"slices"

	"fulcrum"
	"fulcrum/replication"
)

// Answers of a group that decides by a clock of its own what is live come with that
// clock's reading (replication.Outcome.Clock). What is left of an entry's life is carried
// over to this node's wall clock, by which edges show it. Whether an entry is live is no
// longer a question of clocks then: the group has decided (fulcrum.Entry.Decided), and a
// clock that jumps between the answer and the look at it changes nothing.

// here returns e with its ExpireAt on this node's wall clock.
func (n *Node) here(e fulcrum.Entry, clock int64) fulcrum.Entry {
	if e.Version.IsZero() {
		return e
	}
	e.Decided = true
	if e.ExpireAt != 0 {
		now, left := n.Now(), max(1, e.ExpireAt-clock)
		if e.ExpireAt = math.MaxInt64; left <= math.MaxInt64-now {
			e.ExpireAt = now + left
		}
	}
	return e
}

func (n *Node) entriesHere(entries []fulcrum.Entry, o replication.Outcome) {
	if o.Clock == 0 {
		return
	}
	for i := range entries {
		entries[i] = n.here(entries[i], o.Clock)
	}
}

func (n *Node) resultsHere(results []fulcrum.Result, o replication.Outcome) {
	if o.Clock == 0 {
		return
	}
	for i := range results {
		results[i].Entry, results[i].Old = n.here(results[i].Entry, o.Clock), n.here(results[i].Old, o.Clock)
	}
}

// eventsHere is entriesHere for a watch. It tells what was, so an expiry may be over by now.
func (n *Node) eventsHere(events []fulcrum.Event, clock int64) {
	if clock == 0 {
		return
	}
	ahead := n.Now() - clock
	for i := range events {
		e := &events[i].Entry
		switch {
		case e.ExpireAt == 0:
		case ahead > 0 && e.ExpireAt > math.MaxInt64-ahead:
			e.ExpireAt = math.MaxInt64
		default:
			e.ExpireAt = max(1, e.ExpireAt+ahead)
		}
	}
}

// timed turns times to live into expiries by this node's clock.
func timed(ws []fulcrum.Write, now int64) []fulcrum.Write {
	if !slices.ContainsFunc(ws, func(w fulcrum.Write) bool { return w.TTL > 0 }) {
		return ws
	}
	ws = slices.Clone(ws)
	for i := range ws {
		ws[i] = ws[i].Timed(now)
	}
	return ws
}
