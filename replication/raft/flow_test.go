package raft

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
	"fulcrum/replication/replicationtest"
)

const testSlow = 400 * time.Millisecond

func newFlow(most int) *flow {
	f := flows{slow: testSlow, most: most}
	return f.of("b")
}

// Over a link of any rate and distance, what goes at once comes to be what the link
// carries within slow, and never takes the whole deadline again.
func TestFlowFitsTheLink(t *testing.T) {
	const deadline = 2 * time.Second
	for _, far := range []time.Duration{time.Millisecond, 250 * time.Millisecond} {
		for _, rate := range []int{20 << 10, 100 << 10, 300 << 10, 1 << 20, 10 << 20, 1 << 30} {
			f := newFlow(4 << 20)
			f.beaten(far)
			for turn := range 40 {
				size := f.bytes()
				link := time.Duration(float64(size) / float64(rate) * float64(time.Second))
				if turn > 20 && (link > testSlow || link < testSlow/8 && size < 4<<20) {
					t.Errorf("%d B/s, %v away: %d bytes go at once, and take %v", rate, far, size, link)
				}
				if far+link > deadline {
					f.missed()
				} else {
					f.took(size, far+link)
				}
			}
		}
	}
}

// A link that becomes slow is met within a few calls, one that becomes fast again too.
func TestFlowFollowsTheLink(t *testing.T) {
	f := newFlow(4 << 20)
	for range 10 {
		f.took(f.bytes(), time.Millisecond)
	}
	if f.bytes() != 4<<20 {
		t.Fatalf("%d bytes over a fast link", f.bytes())
	}
	f.missed()
	if f.bytes() > flowStart {
		t.Errorf("%d bytes after a deadline", f.bytes())
	}
	for range 9 {
		f.took(f.bytes(), time.Millisecond)
	}
	if f.anew(); f.bytes() != flowStart {
		t.Errorf("%d bytes when the peer comes back", f.bytes())
	}
	for range 20 {
		f.missed()
	}
	if f.bytes() != flowLeast {
		t.Errorf("%d bytes after many deadlines, want %d", f.bytes(), flowLeast)
	}
	for range 9 {
		f.took(f.bytes(), time.Millisecond)
	}
	if f.bytes() != 4<<20 {
		t.Errorf("%d bytes over a link that is fast again", f.bytes())
	}
}

// What is small says little of the link: it makes nothing larger, nor smaller.
func TestFlowIgnoresWhatIsSmall(t *testing.T) {
	f := newFlow(4 << 20)
	for range 20 {
		f.took(100, time.Millisecond)
		f.took(100, time.Second)
		f.beaten(time.Second)
	}
	if f.bytes() != flowStart {
		t.Errorf("%d bytes, want %d as in the beginning", f.bytes(), flowStart)
	}
}

// However an append is cut, and whatever comes twice, the whole is what was sent.
func TestPartsMakeTheWhole(t *testing.T) {
	msg := make([]byte, 1000)
	for i := range msg {
		msg[i] = byte(i * i)
	}
	var p parts
	at := func(from, to int) part {
		return part{term: 1, transfer: 7, offset: uint64(from), size: 1000, data: msg[from:to]}
	}
	for _, step := range []struct{ from, to, have int }{{0, 400, 400}, {0, 200, 400}, {300, 500, 500}, {500, 999, 999}, {400, 450, 999}} {
		have, whole, err := p.take("a", at(step.from, step.to))
		if err != nil || whole != nil || have != uint64(step.have) {
			t.Fatalf("%+v: %d have come, whole %v, %v", step, have, whole != nil, err)
		}
	}
	for range 2 { // the last part comes again, when its answer is lost
		if _, whole, err := p.take("a", at(999, 1000)); err != nil || !bytes.Equal(whole, msg) {
			t.Fatalf("%d bytes, %v", len(whole), err)
		}
	}
	refused := func(from fulcrum.NodeID, m part) {
		t.Helper()
		if _, whole, err := p.take(from, m); !errors.Is(err, &fulcrum.Error{Code: fulcrum.CodeInvalid}) || whole != nil {
			t.Errorf("%s, transfer %d at %d: %v", from, m.transfer, m.offset, err)
		}
	}
	refused("b", at(400, 500)) // another's
	newer := at(0, 10)
	newer.transfer = 8
	if have, _, err := p.take("a", newer); err != nil || have != 10 {
		t.Fatalf("a newer append: %d, %v", have, err)
	}
	refused("a", at(0, 400)) // of the one before, late
	newer.offset = 20
	refused("a", newer) // with a gap
	p.touch = time.Now().Add(-time.Hour)
	p.sweep()
	newer.offset = 10
	refused("a", newer)
}

func TestPartsAreBounded(t *testing.T) {
	for name, m := range map[string]part{
		"too large":      {size: fulcrum.MaxMessageBytes + 1, data: []byte("x")},
		"behind the end": {size: 3, offset: 3, data: []byte("x")},
		"empty":          {size: 3},
		"far behind":     {size: 3, offset: 1<<64 - 1, data: []byte("x")},
	} {
		if _, err := decodePart(fulcrum.NewReader(m.encode()[1:])); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// readLog counts the bytes that are read of a log.
type readLog struct {
	*replicationtest.Log
	bytes int
}

func (l *readLog) Range(lo, hi uint64, f func(index uint64, record []byte) error) error {
	return l.Log.Range(lo, hi, func(index uint64, record []byte) error {
		l.bytes += len(record)
		return f(index, record)
	})
}

// What is read for one append is bounded by the append's bytes, not by its entries: no more
// than those and the entry that is too much.
func TestWhatIsReadIsBounded(t *testing.T) {
	const entry = 100_000
	for _, cache := range []int{0, 1 << 30} {
		log := &readLog{Log: replicationtest.NewLog()}
		s, _ := newStore(t, log, cache)
		for i := range uint64(64) {
			keep(t, s, entryOf(i+1, entry))
		}
		for _, tt := range []struct{ bytes, want int }{{1, 1}, {entry, 1}, {3*entry + 1000, 3}, {1 << 30, 64}} {
			log.bytes = 0
			es, ok := s.Entries(1, tt.bytes)
			if !ok || len(es) != tt.want {
				t.Errorf("cache %d, %d bytes: %d entries, %v, want %d", cache, tt.bytes, len(es), ok, tt.want)
			}
			if most := (tt.want + 1) * (entry + 100); log.bytes > most {
				t.Errorf("cache %d, %d bytes: %d were read", cache, tt.bytes, log.bytes)
			}
		}
	}
}

// A chunk that comes again, whole or in part, is not added again.
func TestStagingTakesAChunkOnce(t *testing.T) {
	s := newStaging(nil)
	data := []byte("0123456789")
	for _, step := range []struct{ from, to int }{{0, 4}, {0, 4}, {2, 4}, {2, 6}, {0, 3}, {6, 8}} {
		if _, err := s.take("a", chunk{transfer: 1, offset: uint64(step.from), data: data[step.from:step.to]}, 1<<20); err != nil {
			t.Fatalf("%v: %v", step, err)
		}
	}
	if got := s.from["a"].data.small; string(got) != "01234567" {
		t.Errorf("received %q", got)
	}
	if _, err := s.take("a", chunk{transfer: 1, offset: 9, data: data[9:]}, 1<<20); !errors.Is(err, &fulcrum.Error{Code: fulcrum.CodeInvalid}) {
		t.Errorf("with a gap: %v", err)
	}
}

// The same entries are encoded once, but a peer that may have fewer, or more, gets its own.
func TestWhatIsEncodedServesOthers(t *testing.T) {
	m := &protocol.Append{Prev: 5}
	for _, tt := range []struct {
		e    encoded
		prev uint64
		most int
		want bool
	}{
		{encoded{}, 5, 100, false},
		{encoded{m, 100, 90, false}, 5, 100, true},
		{encoded{m, 100, 90, false}, 6, 100, false},
		{encoded{m, 100, 90, false}, 5, 95, true},
		{encoded{m, 100, 90, false}, 5, 80, false},
		{encoded{m, 100, 90, false}, 5, 200, false}, // more may fit
		{encoded{m, 100, 90, true}, 5, 200, true},
		{encoded{m, 100, 130, false}, 5, 100, true}, // one large entry
		{encoded{m, 100, 130, true}, 5, 120, false},
	} {
		if got := tt.e.serves(&protocol.Append{Prev: tt.prev}, tt.most); got != tt.want {
			t.Errorf("%+v, behind %d, %d bytes: %v", tt.e, tt.prev, tt.most, got)
		}
	}
}
