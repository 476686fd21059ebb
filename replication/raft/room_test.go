package raft

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication/raft/protocol"
)

// fill adds n records of 100 bytes.
func fill(c *Changes, n int) {
	for range n {
		at := place{1, c.end.index + 1, 0}
		c.add([]record{{at: at, size: 100, events: make([]fulcrum.Event, 1)}}, at, false)
	}
}

func kept(c *Changes) int { return len(c.records) - c.head }

func lent(t *testing.T, r *Room, want int64) {
	t.Helper()
	if got := 1000 - r.free.Load(); got != want {
		t.Errorf("the room has lent %d bytes, want %d", got, want)
	}
}

// What is beyond the bounds of a shard is kept while a watch reads, within the room, and
// given back: when it is read no more, by a new beginning, and at the end.
func TestRoomIsForWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := NewRoom(1000)
		open := func() *Changes {
			c := NewChanges(room)
			c.enter(place{1, 0, 0}, fulcrum.Version{}, true, false, Tuning{ChangeBytes: 200, ChangeEvents: 10})
			return c
		}
		a, b := open(), open()
		fill(a, 20)
		if kept(a) != 2 {
			t.Errorf("%d records are kept for nobody, want 2", kept(a))
		}
		lent(t, room, 0)

		watch := func(c *Changes) place {
			at := c.end
			if _, _, err := c.behind(at); err != nil {
				t.Fatal(err)
			}
			return at
		}
		at := watch(a)
		fill(a, 7)
		if rs, _, err := a.behind(at); err != nil || len(rs) != 7 {
			t.Fatalf("a watch that is 7 behind: %d, %v", len(rs), err)
		}
		lent(t, room, 500)
		fill(a, 20) // half of the room is the most for one
		lent(t, room, 500)
		if _, _, err := a.behind(at); !errors.Is(err, fulcrum.ErrCompacted) {
			t.Errorf("a watch that is too far behind: %v", err)
		}
		at = watch(b)
		fill(b, 4)
		if rs, _, err := b.behind(at); err != nil || len(rs) != 4 {
			t.Errorf("the other shard's watch is cut off by the first one's: %d, %v", len(rs), err)
		}
		lent(t, room, 700)

		b.reset(place{1, 50, 0}, fulcrum.Version{}, false)
		lent(t, room, 500)
		time.Sleep(2*readLately + time.Second)
		lent(t, room, 0)
		if kept(a) != 2 {
			t.Errorf("%d records are kept when the watches have gone, want 2", kept(a))
		}
		watch(a)
		fill(a, 7)
		lent(t, room, 500)
		a.Close()
		fill(a, 7) // of a group that has not stopped yet
		lent(t, room, 0)
	})
}

// The newest record is kept, however large and whoever watches.
func TestNewestRecordIsKept(t *testing.T) {
	c := NewChanges(NewRoom(0))
	c.enter(place{1, 0, 0}, fulcrum.Version{}, true, false, Tuning{ChangeBytes: 200, ChangeEvents: 2})
	fill(c, 3)
	at := place{1, 4, 0}
	c.add([]record{{at: at, size: 5000, events: make([]fulcrum.Event, 50)}}, at, false)
	if rs, _, err := c.behind(place{1, 3, 0}); err != nil || len(rs) != 1 {
		t.Errorf("the newest: %d records, %v", len(rs), err)
	}
	if _, _, err := c.behind(place{1, 2, 0}); !errors.Is(err, fulcrum.ErrCompacted) {
		t.Errorf("what came before: %v, want compacted", err)
	}
}

// What no message could carry is lost, and nothing else: what came before it in its entry
// and what comes behind can be told.
func TestRequestThatNoMessageCarries(t *testing.T) {
	b := pending{keeper: &keeper{core: &core{tuning: Tuning{}.withDefaults()}}}
	b.env.Epoch = 1
	value := make([]byte, 1<<20)
	request := func(n uint64, values int) {
		for range values {
			b.tell(fulcrum.Event{Entry: fulcrum.Entry{Key: []byte("k"), Value: value}})
		}
		b.requestDone(6, n)
	}
	request(0, 1)
	request(1, 13)
	request(2, 1)
	request(3, 0)
	b.entryDone(protocol.Entry{Index: 6})
	c := NewChanges(NewRoom(RoomBytes))
	c.enter(place{1, 5, 0}, fulcrum.Version{}, true, false, b.core.tuning)
	c.add(b.pieces.told, place{1, 7, 0}, false)
	if _, _, err := c.behind(place{1, 5, 1}); !errors.Is(err, fulcrum.ErrCompacted) {
		t.Errorf("behind the first request: %v, want compacted", err)
	}
	rs, upTo, err := c.behind(place{1, 5, 2})
	if err != nil || len(rs) != 1 || len(rs[0].events) != 1 || upTo != (place{1, 7, 0}) {
		t.Errorf("behind the second: %d records up to %+v, %v", len(rs), upTo, err)
	}
}
