package raft

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fulcrum"
)

// clockNode is a replica as far as its clock goes.
type clockNode struct {
	state   clockState
	est     logClock
	applied int // entries of the log
}

type clockEntry struct {
	reading  clockReading
	term     uint64
	by       int
	proposed time.Duration // real time
	c        int64         // the clock behind it
}

// However leaders change, replicas lag or restart and wall clocks jump, the clock of
// the log never runs faster than time, and all replicas agree on it.
func TestLogClockIsNeverFasterThanTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := make([]*clockNode, 3)
		start := time.Unix(1_000_000, 0)
		for i := range nodes {
			nodes[i] = &clockNode{}
			nodes[i].est.restart(clockState{}, start)
		}
		var log []clockEntry
		var at time.Duration
		term, leader := uint64(1), 0
		apply := func(r, upTo int) {
			n := nodes[r]
			for ; n.applied < upTo; n.applied++ {
				e := &log[n.applied]
				n.state.pass(e.reading, e.term, uint64(n.applied+2))
				n.est.applied(n.state, e.reading, e.by == r, start.Add(at))
				switch {
				case e.c == 0:
					e.c = n.state.now
				case e.c != n.state.now:
					t.Fatalf("entry %d: the clock is %d on one replica and %d on node %d", n.applied, e.c, n.state.now, r)
				}
			}
		}
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			r := rapid.IntRange(0, 2).Draw(t, "node")
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0:
				at += time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "time"))
			case 1: // r leads now, whatever it has applied
				if r != leader {
					leader, term = r, term+1
				}
			case 2: // back from a restart, with what it had applied
				nodes[r].est.restart(nodes[r].state, start.Add(at))
				if r == leader {
					term++
				}
			case 3:
				apply(r, rapid.IntRange(nodes[r].applied, len(log)).Draw(t, "up to"))
			default:
				wall := start.Add(at + time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "skew")))
				reading := nodes[leader].est.read(term, start.Add(at), wall)
				log = append(log, clockEntry{reading: reading, term: term, by: leader, proposed: at})
				if rapid.Bool().Draw(t, "applied at once") {
					at += time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "commit"))
					apply(leader, len(log))
				}
			}
		}
		at += time.Second
		for r := range nodes {
			apply(r, len(log))
		}
		for j := range log {
			for i := range j {
				if got, most := time.Duration(log[j].c-log[i].c), log[j].proposed-log[i].proposed; got > most {
					t.Fatalf("between entries %d and %d the clock moved by %v in %v", i, j, got, most)
				}
			}
		}
	})
}

// A leader that goes on loses nothing, and one that takes over loses only what it
// took the last entry to reach it.
func TestLogClockKeepsUpWithTime(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	var a, b clockNode
	a.est.restart(clockState{}, start)
	b.est.restart(clockState{}, start)
	index := uint64(1)
	step := func(leader, other *clockNode, term uint64, proposed, here, there time.Duration) int64 {
		index++
		r := leader.est.read(term, start.Add(proposed), start.Add(proposed))
		leader.state.pass(r, term, index)
		leader.est.applied(leader.state, r, true, start.Add(here))
		other.state.pass(r, term, index)
		other.est.applied(other.state, r, false, start.Add(there))
		return leader.state.now - start.UnixNano()
	}
	const s = time.Second
	for _, tc := range []struct {
		what string
		got  int64
		want time.Duration
	}{
		{"the first entry", step(&a, &b, 1, 0, s, 2*s), 0},
		{"the next, proposed when that was applied", step(&a, &b, 1, s, 2*s, 3*s), s},
		{"after a rest", step(&a, &b, 1, 60*s, 61*s, 62*s), 60 * s},
		{"by the next leader, which learned of the last 2s after it was proposed", step(&b, &a, 2, 70*s, 71*s, 71*s), 68 * s},
		{"by that one again", step(&b, &a, 2, 80*s, 81*s, 81*s), 78 * s},
	} {
		if time.Duration(tc.got) != tc.want {
			t.Errorf("%s: the clock is at %v, want %v", tc.what, time.Duration(tc.got), tc.want)
		}
	}
}

func TestExpiriesArePlacedOnTheLogClock(t *testing.T) {
	s := clockState{now: 5_000_000_000_000_001} // 5,000,000 s and a nanosecond
	key := []byte("k")
	for _, tc := range []struct {
		name string
		w    fulcrum.Write
		want int64
	}{
		{"never", fulcrum.Write{Op: fulcrum.OpPut, Key: key}, 0},
		{"a time to live, rounded up", fulcrum.Write{Op: fulcrum.OpPut, Key: key, TTL: 1000}, 5_000_001_001},
		{"for ever, nearly", fulcrum.Write{Op: fulcrum.OpPut, Key: key, TTL: math.MaxInt64}, math.MaxInt64},
		{"10s from the leader's wall clock", fulcrum.Write{Op: fulcrum.OpPut, Key: key, ExpireAt: 7_000_010_000}, 5_000_010_001},
		{"long ago", fulcrum.Write{Op: fulcrum.OpPut, Key: key, ExpireAt: 1}, 1},
		{"at the end of time", fulcrum.Write{Op: fulcrum.OpPut, Key: key, ExpireAt: math.MaxInt64}, math.MaxInt64 - 1_999_999_999},
	} {
		ws := []fulcrum.Write{{Op: fulcrum.OpDelete, Key: key}, tc.w}
		got := onLogClock(ws, s, 7_000_000_000)
		if got[1].ExpireAt != tc.want || got[1].TTL != 0 || got[0].ExpireAt != 0 {
			t.Errorf("%s: %+v, want %d", tc.name, got[1], tc.want)
		}
		if ws[1].ExpireAt != tc.w.ExpireAt || ws[1].TTL != tc.w.TTL {
			t.Errorf("%s: what was given has changed", tc.name)
		}
	}
}
