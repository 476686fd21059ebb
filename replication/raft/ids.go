package raft

import (
	"encoding/binary"
	"fmt"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// IDsKept is for how long a request id is remembered, at least.
const IDsKept = 10 * time.Minute

// Bounds of what is remembered of request ids; times are milliseconds of the table's
// clock.
const (
	idStep   = 10 * 1000 // the most by which one entry moves that clock
	idJumps  = 12        // jumps of the wall clock that IDsKept allows for
	idWindow = uint64(IDsKept/time.Millisecond) + idJumps*idStep

	maxIDs       = 1 << 18
	maxIDBytes   = 16 << 20
	segmentBytes = 64 << 10 // a segment takes no more records from here on
	segmentIDs   = 1 << 10
	maxSegments  = maxIDBytes/segmentBytes + maxIDs/segmentIDs + 2
)

// Extras of the State: where the table stands, and its segments.
const (
	extraIDs      = "raft/ids"
	extraSegments = extraIDs + replication.PieceMark
)

// idTable remembers the requests that came with an id, and what became of them.
//
// It is part of the machine: it changes only when an entry is applied, by nothing but
// what stands in the entry and in the table, and it is stored in the same step as the
// entries that the request left. So it is the same on every replica at the same index,
// a crash takes both back to the same index, and a snapshot carries both.
//
// Invariant: a request with an id is evaluated only where the table has no live record
// of the id, and leaves one. So between two evaluations of one id lies a moment at
// which its record was forgotten.
//
// How long that takes. Stamps are wall time, and a leader's clock may jump. The table's
// own clock (elapsed) starts with the first record and moves with the newest stamp seen
// (newest), never back, and by at most idStep an entry. Let r be the time that a correct
// clock measures between two entries, and let the newest stamp have been moved ahead of
// correct clocks n times in between, by jumps or by leaders whose clocks differ, each
// time by however much. What the table's clock moved is the sum of the steps: those that
// follow correct clocks add up to at most r, for newest never goes back and so no
// millisecond is counted twice; the n others are at most idStep each. So a record is
// kept while r < idWindow - n*idStep: for IDsKept through n = idJumps. A clock that goes
// to and fro between the same two values counts once, for newest does not go back. All
// else (clocks that stand, no entries) only makes ids live longer.
//
// A forgotten id is never the price of room: a full table refuses requests with new ids.
//
// Segments hold records in the order in which they came. A record is added to the last
// one, and the first goes when its youngest is old; so an Apply rewrites little. Records
// that are old but still there count as forgotten.
type idTable struct {
	epoch    fulcrum.Epoch
	newest   uint64 // stamp, milliseconds
	elapsed  uint64 // milliseconds since the table began
	first    uint64 // number of segments[0]
	segments []*idSegment
	places   map[fulcrum.RequestID]idPlace
	bytes    int
	records  int

	stored  bool // an extra says where the table stands
	changed map[string]*idSegment
}

// idSegment is some records, one behind the other.
type idSegment struct {
	data    []byte
	records int
	last    uint64 // elapsed at its youngest record
}

// idPlace is where a record stands.
type idPlace struct {
	segment uint64
	offset  int
}

// idRecord is one remembered request.
type idRecord struct {
	id      fulcrum.RequestID
	sum     requestSum
	at      uint64 // elapsed
	outcome []byte
}

func newIDs(e fulcrum.Epoch) *idTable {
	return &idTable{epoch: e, places: map[fulcrum.RequestID]idPlace{}, changed: map[string]*idSegment{}}
}

func segmentName(n uint64) string { return fmt.Sprintf("%s%x", extraSegments, n) }

// openIDs reads the table of a State. A based replica goes on with the table of the
// epoch before if that was Raft's, too: replicas that settled on a fence are equal, and
// behind the fence no entry touches the table. Its epoch is noted at once, so that a
// table whose epoch is neither this one nor the one before comes from before a switch to
// another mode, and other replicas may not have it: it is dropped.
func openIDs(env replication.Env) (*idTable, error) {
	b, err := env.State.Extra(extraIDs)
	if err != nil {
		return nil, err
	}
	t, err := decodeIDs(b)
	if err != nil {
		return nil, err
	}
	from := t.epoch
	t.epoch = env.Epoch
	switch {
	case !t.stored:
		return t, nil
	case from == env.Epoch, from+1 == env.Epoch && env.Based:
		if err := t.load(env.State.Extra); err != nil {
			return nil, err
		}
		if from == env.Epoch {
			return t, nil
		}
	default:
		for range t.segments {
			t.drop()
		}
	}
	extra := map[string][]byte{}
	t.changes(extra)
	return t, env.State.Apply(env.State.Applied(), nil, extra)
}

// DropIDs returns the extras that rid a State of the ids that a Raft epoch left there:
// for an epoch of another mode, which has no use for them.
func DropIDs(state replication.State) (map[string][]byte, error) {
	b, err := state.Extra(extraIDs)
	if err != nil {
		return nil, err
	}
	t, err := decodeIDs(b)
	if err != nil {
		return nil, err
	}
	for range t.segments {
		t.drop()
	}
	extra := map[string][]byte{}
	t.changes(extra)
	return extra, nil
}

// decodeIDs reads where a table stands, without its segments' content.
func decodeIDs(b []byte) (*idTable, error) {
	t := newIDs(0)
	if len(b) == 0 {
		return t, nil
	}
	r := fulcrum.NewReader(b)
	t.epoch, t.newest, t.elapsed, t.first = fulcrum.Epoch(r.Uvarint()), r.Uvarint(), r.Uvarint(), r.Uvarint()
	n := r.Uvarint()
	if err := finish(r); err != nil {
		return nil, fmt.Errorf("extra %q: %w", extraIDs, err)
	}
	if n > maxSegments {
		return nil, fmt.Errorf("extra %q: %d segments: %w", extraIDs, n, fulcrum.ErrShort)
	}
	t.stored = true
	for range n {
		t.segments = append(t.segments, &idSegment{})
	}
	return t, nil
}

func (t *idTable) encode() []byte {
	return uvarints(nil, uint64(t.epoch), t.newest, t.elapsed, t.first, uint64(len(t.segments)))
}

// load fills the segments.
func (t *idTable) load(extra func(string) ([]byte, error)) error {
	for i, s := range t.segments {
		n := t.first + uint64(i)
		b, err := extra(segmentName(n))
		if err != nil {
			return err
		}
		s.data = b
		err = s.each(func(offset int, rec idRecord) {
			t.places[rec.id] = idPlace{n, offset}
			s.records, s.last = s.records+1, rec.at
		})
		if err == nil && s.records == 0 {
			err = fulcrum.ErrShort
		}
		if err != nil {
			return fmt.Errorf("extra %q: %w", segmentName(n), err)
		}
		t.bytes, t.records = t.bytes+len(s.data), t.records+s.records
	}
	return nil
}

func (s *idSegment) each(f func(offset int, rec idRecord)) error {
	for at := 0; at < len(s.data); {
		r := fulcrum.NewReader(s.data[at:])
		rec := readIDRecord(r)
		if err := r.Err(); err != nil {
			return err
		}
		f(at, rec)
		at = len(s.data) - len(r.Rest())
	}
	return nil
}

func readIDRecord(r *fulcrum.Reader) (rec idRecord) {
	rec.id = fulcrum.RequestID(r.String())
	for i := range rec.sum {
		rec.sum[i] = r.Byte()
	}
	rec.at, rec.outcome = r.Uvarint(), r.Bytes()
	return rec
}

// advance moves the table's clock with the stamp of an entry, and forgets what is old.
// An empty table has no clock: it costs nothing, and begins anew with its next record.
func (t *idTable) advance(stamp fulcrum.Version) {
	if len(t.segments) == 0 {
		return
	}
	if ms := stamp.Time >> 16; ms > t.newest {
		t.elapsed += min(ms-t.newest, idStep)
		t.newest = ms
	}
	for len(t.segments) > 0 && t.old(t.segments[0].last) {
		t.drop()
	}
}

func (t *idTable) old(at uint64) bool {
	if mutant.On("id-forgotten-early") {
		return t.elapsed >= at+3000 // mutant: after three seconds
	}
	return t.elapsed >= at+idWindow
}

// drop forgets the first segment.
func (t *idTable) drop() {
	n, s := t.first, t.segments[0]
	_ = s.each(func(_ int, rec idRecord) { // it was read before
		if t.places[rec.id].segment == n {
			delete(t.places, rec.id) // the id may have come again, long after
		}
	})
	t.first, t.segments = n+1, t.segments[1:]
	t.bytes, t.records = t.bytes-len(s.data), t.records-s.records
	t.changed[segmentName(n)] = nil
	if len(t.segments) == 0 {
		t.first = 0 // an empty table is like one that never was
	}
}

// find returns the live record of an id. It points into the table.
func (t *idTable) find(id fulcrum.RequestID) (idRecord, bool) {
	p, ok := t.places[id]
	if !ok {
		return idRecord{}, false
	}
	rec := readIDRecord(fulcrum.NewReader(t.segments[p.segment-t.first].data[p.offset:]))
	return rec, !t.old(rec.at)
}

func (t *idTable) full() bool { return t.bytes >= maxIDBytes || t.records >= maxIDs }

// add remembers a request of the entry with that stamp.
func (t *idTable) add(rec idRecord, stamp fulcrum.Version) {
	if len(t.segments) == 0 {
		t.newest, t.elapsed = stamp.Time>>16, 0
	}
	n := len(t.segments)
	if n == 0 || len(t.segments[n-1].data) >= segmentBytes || t.segments[n-1].records >= segmentIDs {
		t.segments = append(t.segments, &idSegment{})
		n++
	}
	s := t.segments[n-1]
	number, offset := t.first+uint64(n-1), len(s.data)
	s.data = fulcrum.AppendBytes(s.data, []byte(rec.id))
	s.data = append(s.data, rec.sum[:]...)
	s.data = binary.AppendUvarint(s.data, t.elapsed)
	s.data = fulcrum.AppendBytes(s.data, rec.outcome)
	s.records, s.last = s.records+1, t.elapsed
	t.bytes, t.records = t.bytes+len(s.data)-offset, t.records+1
	t.places[rec.id] = idPlace{number, offset}
	t.changed[segmentName(number)] = s
}

// changes adds to extra what the State must store since the last call.
func (t *idTable) changes(extra map[string][]byte) {
	for name, s := range t.changed {
		extra[name] = nil
		if s != nil {
			extra[name] = s.data
		}
	}
	clear(t.changed)
	switch {
	case len(t.segments) > 0:
		extra[extraIDs], t.stored = t.encode(), true
	case t.stored:
		extra[extraIDs], t.stored = nil, false
	}
}

// once is evaluate for a request that may have come before.
func (b *pending) once(req replication.WriteRequest, e entry) (any, error) {
	if req.ID == "" {
		return b.evaluate(req, e)
	}
	sum := sumOf(req)
	rec, known := b.ids.find(req.ID)
	switch {
	case mutant.On("id-not-checked"): // mutant: remembers, and does not look
	case known && rec.sum != sum:
		return fulcrum.Errorf(fulcrum.CodeConflict, "request id %q was used for another request", string(req.ID)).
			WithHint("an id is for one request and its repetitions: take a new one"), nil
	case known:
		return b.again(req, rec, e)
	case b.ids.full():
		return fulcrum.Errorf(fulcrum.CodeOverloaded, "%d request ids of the last minutes are remembered in this shard, and there is no room for more", b.ids.records).
			WithHint("send fewer requests with an id, or spread the keys over more shards; without an id nothing is refused"), nil
	}
	answer, err := b.evaluate(req, e)
	if err != nil {
		return nil, err
	}
	switch answer.(type) {
	case deferred, error:
		return answer, nil // nothing was done, so there is nothing to remember
	}
	b.ids.add(idRecord{id: req.ID, sum: sum, outcome: encodeOutcome(req, answer)}, e.stamp)
	return answer, nil
}
