package consistency

import (
	"errors"
	"sync"
	"testing"
	"time"

	"fulcrum"

	"pgregory.net/rapid"
)

func TestClockFollowsTheWall(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	c := NewClock(func() time.Time { return now }, 7, 0)
	v := c.Next()
	if v.Wall() != now || v.Actor != 7 {
		t.Fatalf("first version %v is at %v, want %v by 7", v, v.Wall(), now)
	}
	now = now.Add(time.Minute)
	if v := c.Next(); v.Wall() != now {
		t.Fatalf("a minute later it is at %v, want %v", v.Wall(), now)
	}
}

func TestClockCarriesWhenTheCounterOverflows(t *testing.T) {
	now := time.UnixMilli(1000)
	c := NewClock(func() time.Time { return now }, 1, 0)
	last := c.Next()
	for range 1 << 17 {
		v := c.Next()
		if !last.Less(v) {
			t.Fatalf("%v after %v", v, last)
		}
		last = v
	}
	if last.Wall().UnixMilli() != 1002 {
		t.Fatalf("2^17 versions in one millisecond end at %d, want 1002", last.Wall().UnixMilli())
	}
}

func TestClockRefusesAFarFuture(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	c := NewClock(func() time.Time { return now }, 1, time.Second)
	at := func(d time.Duration) fulcrum.Version {
		return fulcrum.Version{Time: uint64(now.Add(d).UnixMilli()) << 16, Actor: 2}
	}
	if err := c.Observe(at(time.Second)); err != nil {
		t.Fatalf("at the bound: %v", err)
	}
	if v := c.Next(); !at(time.Second).Less(v) {
		t.Fatalf("%v is not above what was observed", v)
	}
	far := at(time.Second + time.Millisecond)
	if err := c.Observe(far); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Fatalf("beyond the bound: %v", err)
	}
	if v := c.Next(); !v.Less(far) {
		t.Fatalf("a refused version moved the clock to %v", v)
	}
	c.Raise(far)
	if v := c.Next(); !far.Less(v) {
		t.Fatalf("%v is not above the floor %v", v, far)
	}
	if err := c.Observe(far); err != nil {
		t.Fatalf("what the clock has passed is accepted: %v", err)
	}
}

func TestClockAlwaysRises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wall := rapid.Int64Range(-10, 1<<48+10)
		ms := wall.Draw(t, "start")
		c := NewClock(func() time.Time { return time.UnixMilli(ms) }, 3, time.Hour)
		var floor fulcrum.Version
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0: // the wall jumps anywhere
				ms = max(-10, ms+rapid.Int64Range(-100_000, 100_000).Draw(t, "jump"))
			case 1:
				v := fulcrum.Version{Time: rapid.Uint64Range(0, 1<<62).Draw(t, "seen"), Actor: 9}
				if c.Observe(v) == nil && floor.Time < v.Time {
					floor = v
				}
			case 2:
				v := fulcrum.Version{Time: floor.Time + rapid.Uint64Range(0, 1<<40).Draw(t, "raise"), Actor: 9}
				c.Raise(v)
				floor = v
			case 3:
				v := c.Next()
				if v.Time <= floor.Time {
					t.Fatalf("%v is not above %v", v, floor)
				}
				floor = v
			}
		}
	})
}

func TestClockNeverRepeatsUnderConcurrency(t *testing.T) {
	c := NewClock(func() time.Time { return time.UnixMilli(5) }, 1, 0)
	const workers, each = 8, 2000
	got := make([][]fulcrum.Version, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				got[w] = append(got[w], c.Next())
			}
		})
	}
	wg.Wait()
	seen := make(map[uint64]bool)
	for _, vs := range got {
		for i, v := range vs {
			if seen[v.Time] || (i > 0 && !vs[i-1].Less(v)) {
				t.Fatalf("%v came twice or out of order", v)
			}
			seen[v.Time] = true
		}
	}
}

func anyEntry() *rapid.Generator[fulcrum.Entry] {
	return rapid.Custom(func(t *rapid.T) fulcrum.Entry {
		return fulcrum.Entry{
			Key:       []byte("k"),
			Value:     rapid.SliceOfN(rapid.ByteRange('a', 'b'), 0, 2).Draw(t, "value"),
			Version:   fulcrum.Version{Time: rapid.Uint64Range(0, 3).Draw(t, "time"), Actor: rapid.Uint32Range(0, 2).Draw(t, "actor")},
			Tombstone: rapid.Bool().Draw(t, "tombstone"),
			ExpireAt:  rapid.Int64Range(0, 1).Draw(t, "expire"),
		}
	})
}

func TestLWWIsASemilattice(t *testing.T) {
	same := func(a, b fulcrum.Entry) bool { return lwwCompare(a, b) == 0 }
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyEntry().Draw(t, "a"), anyEntry().Draw(t, "b"), anyEntry().Draw(t, "c")
		if !same(LWW(a, a), a) {
			t.Fatal("not idempotent")
		}
		if !same(LWW(a, b), LWW(b, a)) {
			t.Fatal("not commutative")
		}
		if !same(LWW(LWW(a, b), c), LWW(a, LWW(b, c))) {
			t.Fatal("not associative")
		}
		if w := LWW(a, b); w.Version.Less(a.Version) || w.Version.Less(b.Version) {
			t.Fatal("the older one won")
		}
	})
}
