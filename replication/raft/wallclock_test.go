package raft

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/replicationtest"
)

// brittleState crashes after some steps.
type brittleState struct {
	*replicationtest.State
	steps int
}

var errBrittle = errors.New("crashed")

func (s *brittleState) Apply(index uint64, entries []fulcrum.Entry, extra map[string][]byte) error {
	if s.steps--; s.steps < 0 {
		return errBrittle
	}
	return s.State.Apply(index, entries, extra)
}

// fencedState has entries with and without an expiry, at the fence of epoch 4.
func fencedState(t *testing.T, late time.Duration) *replicationtest.State {
	t.Helper()
	s := replicationtest.NewState()
	var entries []fulcrum.Entry
	for i := range 3 * wallBatch {
		e := fulcrum.Entry{Key: fmt.Appendf(nil, "k%05d", i), Value: []byte("v"), Version: fulcrum.Version{Time: uint64(i + 1), Actor: 1}}
		if i%3 > 0 {
			e.ExpireAt = int64(10_000 + i)
		}
		entries = append(entries, e)
	}
	p := progress{fence: replication.Position{Term: 2, Index: 8}, clock: clockState{now: 5, term: 2, last: 7}, late: int64(late)}
	if err := s.Apply(8, entries, map[string][]byte{extraProgress: p.encode(4)}); err != nil {
		t.Fatal(err)
	}
	return s
}

// Expiries go to wall clocks once, wherever a crash breaks that off, and nothing else changes.
func TestExpiriesGoToWallClocksOnce(t *testing.T) {
	for _, late := range []time.Duration{time.Hour, -time.Hour, wallTolerance - 1, 0} {
		before := fencedState(t, late).Dump()
		want := maps.Clone(before)
		for k, e := range want {
			if e.ExpireAt != 0 && late.Abs() >= wallTolerance {
				e.ExpireAt = max(1, e.ExpireAt+late.Milliseconds())
				want[k] = e
			}
		}
		for steps := range 4 {
			s := fencedState(t, late)
			for range 10 {
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				_, err := ToWallClock(&brittleState{s, steps}, 4)
				if err != nil && !errors.Is(err, errBrittle) {
					t.Fatal(err)
				}
				if err == nil {
					break
				}
				if steps == 0 {
					steps++
				}
				s = s.Crash() // what is not durable is lost
			}
			extra, err := ToWallClock(s, 4) // once more, before the epoch begins
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Dump(); !sameEntries(got, want) {
				t.Errorf("late by %v, %d steps at a time: the expiries are not as they should be", late, steps)
			}
			if v, there := extra[extraWall]; !there || v != nil {
				t.Errorf("the place stays: %v", extra)
			}
		}
	}
}

func sameEntries(a, b map[string]fulcrum.Entry) bool {
	return maps.EqualFunc(a, b, func(x, y fulcrum.Entry) bool {
		return x.ExpireAt == y.ExpireAt && x.Version == y.Version && string(x.Value) == string(y.Value)
	})
}

// The fence says how late the log's clock is, by the estimate that it carries.
func TestHowLateTheClockIs(t *testing.T) {
	ms := int64(time.Millisecond)
	s := clockState{now: 1000 * ms, term: 2, last: 7}
	for _, tt := range []struct {
		name string
		s    clockState
		r    clockReading
		term uint64
		want int64
	}{
		{"the estimate counts", s, clockReading{base: 7, now: 1500 * ms, wall: 9000}, 2, 7500 * ms},
		{"one that rests on what another leader's entry followed does not", s, clockReading{base: 6, now: 1500 * ms, wall: 9000}, 3, 8000 * ms},
		{"a clock may be ahead", s, clockReading{base: 7, now: 1500 * ms, wall: 1400}, 2, -100 * ms},
		{"the first entry sets the clock", clockState{}, clockReading{now: 9000 * ms, wall: 9000}, 2, 0},
		{"an entry without a clock", s, clockReading{}, 2, 0},
	} {
		if got := tt.s.late(tt.r, tt.term, 8); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
