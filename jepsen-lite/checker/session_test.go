package checker

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// verdictOf is the kind of the first anomaly, "" for valid and "?" for unknown.
func verdictOf(res Result) string {
	switch {
	case len(res.Anomalies) > 0:
		return res.Anomalies[0].Kind
	case res.Verdict == Unknown:
		return "?"
	}
	return ""
}

func inSession(n int, op history.Op) history.Op { op.Session = n; return op }

func level(k consistency.Kind, op history.Op) history.Op { op.Level = consistency.L(k); return op }

func TestSessionsByHand(t *testing.T) {
	const r, w, d = history.Read, history.Write, history.Delete
	me := func(inv int, op history.Op) history.Op { return inSession(1, ran(inv, inv+1, op)) }
	you := func(inv int, op history.Op) history.Op { return inSession(2, ran(inv, inv+1, op)) }
	tests := []struct {
		name string
		h    *history.History
		want string
	}{
		{"reads its write", told(me(0, ok(w, "a", 1)), me(2, ok(r, "a", 1))), ""},
		{"reads a newer one", told(me(0, ok(w, "a", 1)), you(0, ok(w, "b", 2)), me(2, ok(r, "b", 2))), ""},
		{"misses its write", told(me(0, ok(w, "a", 2)), you(0, ok(w, "b", 1)), me(2, ok(r, "b", 1))), "read-your-writes"},
		{"another session misses it", told(me(0, ok(w, "a", 2)), you(0, ok(w, "b", 1)), you(3, ok(r, "b", 1))), ""},
		{"no session misses it", told(ran(0, 1, ok(w, "a", 2)), ran(3, 4, ok(r, "b", 1)), me(0, ok(w, "x", 3)), me(5, ok(r, "x", 3))), ""},
		{"finds nothing after its write", told(me(0, ok(w, "a", 2)), me(2, ok(r, "", 0))), "read-your-writes"},
		{"finds nothing after another's delete", told(me(0, ok(w, "a", 2)), you(0, ok(d, "", 3)), me(2, ok(r, "", 0))), ""},
		{"finds nothing after another's unknown delete", told(me(0, ok(w, "a", 2)), ran(0, 1, maybe(d, "")), me(2, ok(r, "", 0))), ""},
		{"an older delete explains nothing", told(you(0, ok(d, "", 1)), me(0, ok(w, "a", 2)), me(2, ok(r, "", 0))), "read-your-writes"},
		{"a later delete explains nothing", told(me(0, ok(w, "a", 2)), me(2, ok(r, "", 0)), you(9, ok(d, "", 3))), "read-your-writes"},
		{"its reads go back", told(me(0, ok(w, "a", 1)), you(0, ok(w, "b", 2)), me(2, ok(r, "b", 2)), me(4, ok(r, "a", 1))), "monotonic-reads"},
		{"its reads go back to nothing", told(me(0, ok(w, "z", 1)), you(0, ok(w, "b", 2)), inSession(3, ran(2, 3, ok(r, "b", 2))), inSession(3, ran(4, 5, ok(r, "", 0)))), "monotonic-reads"},
		{"its writes change places", told(me(0, ok(w, "a", 2)), me(2, ok(w, "b", 1)), me(4, ok(r, "a", 2))), "monotonic-writes"},
		{"its write goes under what it read", told(you(0, ok(w, "a", 2)), me(2, ok(r, "a", 2)), me(4, ok(w, "b", 1))), "writes-follow-reads"},
		{"a failed write binds nobody", told(me(0, history.Op{F: w, Value: "f", Version: vers(9), Outcome: history.Fail}), me(1, ok(w, "a", 1)), me(2, ok(r, "a", 1))), ""},
		{"nothing to compare", told(me(0, ok(w, "a", 1)), you(2, ok(r, "a", 1))), "?"},
	}
	for _, tt := range tests {
		if res := Sessions().Run(tt.h, Spec{}); verdictOf(res) != tt.want {
			t.Errorf("%s: got %q, want %q: %+v", tt.name, verdictOf(res), tt.want, res)
		}
	}
}

func TestQuorumReadsByHand(t *testing.T) {
	const r, w, d = history.Read, history.Write, history.Delete
	const one, two, quorum, all = consistency.One, consistency.Two, consistency.QuorumOf, consistency.All
	first := ran(0, 1, level(quorum, ok(w, "a", 1)))
	tests := []struct {
		name string
		h    *history.History
		want string
	}{
		{"meets", told(first, ran(2, 3, level(quorum, ok(r, "a", 1)))), ""},
		{"misses", told(first, ran(2, 3, level(quorum, ok(w, "b", 2))), ran(4, 5, level(quorum, ok(r, "a", 1)))), "stale-quorum-read"},
		{"misses what still runs", told(first, ran(2, 9, level(quorum, ok(w, "b", 2))), ran(4, 5, level(quorum, ok(r, "a", 1)))), ""},
		{"one misses", told(first, ran(2, 3, level(quorum, ok(w, "b", 2))), ran(4, 5, level(one, ok(r, "a", 1))), ran(6, 7, level(two, ok(r, "b", 2)))), ""},
		{"one misses what all have", told(first, ran(2, 3, level(all, ok(w, "b", 2))), ran(4, 5, level(one, ok(r, "a", 1)))), "stale-quorum-read"},
		{"all misses what one has", told(first, ran(2, 3, level(one, ok(w, "b", 2))), ran(4, 5, level(all, ok(r, "a", 1)))), "stale-quorum-read"},
		{"quorum misses what one has", told(first, ran(2, 3, level(one, ok(w, "b", 2))), ran(4, 5, level(quorum, ok(r, "a", 1)))), ""},
		{"the keyspace's own level", told(first, ran(2, 3, ok(w, "b", 2)), ran(4, 5, ok(r, "a", 1))), "stale-quorum-read"},
		{"goes back", told(first, ran(2, 20, level(quorum, ok(w, "b", 2))), ran(4, 5, level(quorum, ok(r, "b", 2))), ran(6, 7, level(quorum, ok(r, "a", 1)))), "quorum-read-backwards"},
		{"one goes back", told(first, ran(2, 20, level(quorum, ok(w, "b", 2))), ran(4, 5, level(one, ok(r, "b", 2))), ran(6, 7, level(quorum, ok(r, "a", 1)))), ""},
		{"one may go back", told(first, ran(2, 20, level(quorum, ok(w, "b", 2))), ran(4, 5, level(quorum, ok(r, "b", 2))), ran(6, 7, level(one, ok(r, "a", 1))), ran(8, 9, level(quorum, ok(r, "b", 2)))), ""},
		{"finds nothing", told(first, ran(2, 3, level(quorum, ok(r, "", 0)))), "stale-quorum-read"},
		{"finds nothing after a delete", told(first, ran(2, 3, maybe(d, "")), ran(4, 5, level(quorum, ok(r, "", 0)))), ""},
		{"nothing to meet", told(first, ran(0, 3, level(quorum, ok(r, "", 0)))), "?"},
	}
	spec := Spec{Mode: consistency.Quorum, Write: consistency.L(quorum), Read: consistency.L(quorum), Replicas: 3}
	for _, tt := range tests {
		if res := QuorumReads().Run(tt.h, spec); verdictOf(res) != tt.want {
			t.Errorf("%s: got %q, want %q: %+v", tt.name, verdictOf(res), tt.want, res)
		}
	}
}

func TestPrefixByHand(t *testing.T) {
	const r, w, d = history.Read, history.Write, history.Delete
	first, second := ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(w, "b", 2))
	tests := []struct {
		name string
		h    *history.History
		want string
	}{
		{"stale is fine", told(first, second, ran(4, 5, ok(r, "a", 1)), ran(6, 7, ok(r, "", 0))), ""},
		{"acknowledged and lost is fine", told(first, second, ran(4, 5, ok(r, "b", 2)), ran(6, 7, ok(r, "a", 1))), ""},
		{"unknown is fine", told(first, ran(2, 3, maybe(w, "u")), ran(4, 5, ok(r, "u", 7))), ""},
		{"unknown at two versions", told(first, ran(2, 3, maybe(w, "u")), ran(4, 5, ok(r, "u", 7)), ran(6, 7, ok(r, "u", 8))), "two-versions"},
		{"phantom", told(first, ran(4, 5, ok(r, "x", 7))), "phantom"},
		{"another version", told(first, second, ran(4, 5, ok(r, "a", 2))), "wrong-value"},
		{"refused and read", told(first, ran(2, 3, history.Op{F: w, Value: "f", Outcome: history.Fail}), ran(4, 5, ok(r, "f", 7))), "aborted-read"},
		{"future", told(first, ran(2, 3, ok(r, "b", 2)), ran(4, 5, ok(w, "b", 2))), "future-read"},
		{"a tombstone of nobody", told(first, ran(1, 2, ok(r, "a", 1)), ran(2, 3, ok(r, "", 2))), "phantom"},
		{"a tombstone of an unknown delete", told(first, ran(1, 2, ok(r, "a", 1)), ran(0, 3, maybe(d, "")), ran(2, 3, ok(r, "", 2))), ""},
		{"nothing found", told(first, ran(4, 5, ok(r, "", 0))), "?"},
	}
	for _, tt := range tests {
		if res := Prefix().Run(tt.h, Spec{}); verdictOf(res) != tt.want {
			t.Errorf("%s: got %q, want %q: %+v", tt.name, verdictOf(res), tt.want, res)
		}
	}
}

func bounded(d time.Duration, op history.Op) history.Op {
	op.Level, op.Staleness = consistency.Level{Kind: consistency.Bounded, Bound: d}, -1
	return op
}

func TestStalenessByHand(t *testing.T) {
	const r, w, d = history.Read, history.Write, history.Delete
	const quorum = consistency.QuorumOf
	first, second := ran(0, 10, level(quorum, ok(w, "a", 1))), ran(20, 30, level(quorum, ok(w, "b", 2)))
	third := ran(40, 50, level(quorum, ok(w, "c", 3)))
	claim := func(ms int, op history.Op) history.Op {
		op.Staleness = time.Duration(ms) * time.Millisecond
		return op
	}
	tests := []struct {
		name string
		h    *history.History
		want string
		most int // measured, ms
	}{
		{"fresh", told(first, second, ran(100, 101, bounded(time.Second, ok(r, "b", 2)))), "", 0},
		{"within", told(first, second, ran(100, 101, bounded(time.Second, ok(r, "a", 1)))), "", 70},
		{"over", told(first, second, ran(100, 101, bounded(50*time.Millisecond, ok(r, "a", 1)))), "too-stale", 70},
		{"since the first that it missed", told(first, second, third, ran(100, 101, bounded(time.Second, ok(r, "a", 1)))), "", 70},
		{"versions count, not the times of writes", told(first, third, ran(60, 70, level(quorum, ok(w, "b", 2))), ran(100, 101, bounded(time.Second, ok(r, "b", 2)))), "", 50},
		{"claims too little", told(first, second, ran(100, 101, claim(50, bounded(time.Second, ok(r, "a", 1)))), ran(100, 101, claim(50, ok(r, "a", 1)))), "false-claim", 70},
		{"claims enough", told(first, second, ran(100, 101, claim(66, ok(r, "a", 1)))), "", 70},
		{"nothing found", told(first, second, ran(100, 101, bounded(50*time.Millisecond, ok(r, "", 0)))), "too-stale", 90},
		{"nothing found after a delete", told(first, ran(15, 16, level(quorum, ok(d, "", 2))), third, ran(100, 101, bounded(70*time.Millisecond, ok(r, "", 0)))), "", 50},
		{"nothing found, perhaps of an unknown delete", told(first, ran(15, 16, maybe(d, "")), ran(100, 101, bounded(time.Millisecond, ok(r, "", 0)))), "", 0},
		{"a delete that comes later explains nothing", told(first, ran(200, 201, level(quorum, ok(d, "", 2))), ran(100, 101, bounded(50*time.Millisecond, ok(r, "", 0)))), "too-stale", 90},
		{"what one replica acknowledged may be lost", told(first, ran(20, 30, level(consistency.One, ok(w, "b", 2))), ran(100, 101, bounded(time.Millisecond, ok(r, "a", 1)))), "", 0},
		{"unless it is seen later", told(first, ran(20, 30, level(consistency.One, ok(w, "b", 2))), ran(100, 101, bounded(time.Millisecond, ok(r, "a", 1))), ran(110, 111, bounded(time.Millisecond, ok(r, "b", 2)))), "too-stale", 70},
		{"not if it was seen before", told(first, ran(20, 30, level(consistency.One, ok(w, "b", 2))), ran(110, 111, bounded(time.Millisecond, ok(r, "a", 1))), ran(100, 101, bounded(time.Millisecond, ok(r, "b", 2)))), "", 0},
		{"no reads", told(first), "?", 0},
	}
	for _, tt := range tests {
		res := Staleness(0).Run(tt.h, Spec{})
		if verdictOf(res) != tt.want || res.Stats["staleness_max_seconds"] != float64(tt.most)/1000 {
			t.Errorf("%s: got %q, want %q by %dms: %+v", tt.name, verdictOf(res), tt.want, tt.most, res)
		}
	}
	h := told(first, second, ran(100, 101, claim(500, ok(r, "a", 1))))
	if res := Staleness(50*time.Millisecond).Run(h, Spec{}); verdictOf(res) != "too-stale" {
		t.Errorf("a bound for the whole run: %+v", res)
	}
}

// TestStalenessIsTheMinimum compares the tree with the definition, on random histories
// of a store that answers with old states.
func TestStalenessIsTheMinimum(t *testing.T) {
	stale := 0
	for seed := range 300 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 5))
		h := (&store{r: rnd, shape: shape{clients: 4, ops: 60, unknown: 0.1, fault: "stale", often: 0.5}}).run()
		for i := range h.Ops {
			h.Ops[i].Level = consistency.L([]consistency.Kind{consistency.One, consistency.QuorumOf}[rnd.IntN(2)])
		}
		for _, x := range StalenessOf(h) {
			rd, want := h.Ops[x.op], time.Duration(0)
			for _, w := range h.Ops {
				if !changed(&w) || !rd.Version.Less(w.Version) || w.Return >= rd.Invoke {
					continue
				}
				counts := w.Level.Kind == consistency.QuorumOf
				for _, o := range h.Ops {
					counts = counts || o.F == history.Read && o.Version == w.Version && o.Return >= rd.Invoke
				}
				if counts {
					want = max(want, rd.Invoke-w.Return)
				}
			}
			if x.Staleness != want {
				t.Fatalf("seed %d: read %d is stale by %v, want %v\n%s", seed, x.op, x.Staleness, want, dump(h))
			}
			if want > 0 {
				stale++
			}
		}
	}
	if stale < 1000 {
		t.Errorf("only %d stale reads: the test shows little", stale)
	}
}

// TestWeakerChecksAcceptARegister holds that what a linearizable register answers
// breaks no weaker promise.
func TestWeakerChecksAcceptARegister(t *testing.T) {
	spec := Spec{Mode: consistency.Quorum, Write: consistency.L(consistency.QuorumOf), Read: consistency.L(consistency.QuorumOf), Replicas: 3}
	for seed := range 1000 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 6))
		h := (&store{r: rnd, shape: shape{clients: 1 + rnd.IntN(4), ops: 30, unknown: 0.2, deletes: true, cas: true, refusals: true,
			bareDeletes: rnd.IntN(2) == 0, bareTombstones: 0.5}}).run()
		for i := range h.Ops {
			h.Ops[i].Session = h.Ops[i].Process + 1
		}
		for _, c := range []Check{Sessions(), QuorumReads(), Prefix(), Staleness(time.Nanosecond)} {
			if res := c.Run(h, spec); res.Verdict == Invalid {
				t.Fatalf("seed %d: %s: %+v\n%s", seed, c.Name, res.Anomalies, dump(h))
			}
		}
	}
}

func TestLinearHTML(t *testing.T) {
	h := told(ran(0, 1, ok(history.Write, "a", 1)), ran(2, 3, ok(history.Write, "b", 2)), ran(4, 5, ok(history.Read, "a", 1)))
	page, err := LinearHTML(h, "k")
	if err != nil || !strings.Contains(string(page), "<html") || !strings.Contains(string(page), "write b") {
		t.Errorf("%v: %.200s", err, page)
	}
	if _, err := LinearHTML(h, "other"); err == nil {
		t.Error("a page for a key that the history does not have")
	}
	long := (&store{r: rand.New(rand.NewPCG(1, 7)), shape: shape{clients: 3, ops: 3000, cas: true, deletes: true}}).run()
	for i := range long.Ops {
		if op := &long.Ops[i]; i > 2000 && op.F == history.Read && op.Found {
			op.Value = "nonsense"
			break
		}
	}
	page, err = LinearHTML(long, "k")
	if err != nil || !strings.Contains(string(page), "read nonsense") {
		t.Errorf("the anomaly of a long history is not shown: %v", err)
	}
}

func TestPorcupineKnowsItsLimits(t *testing.T) {
	h := told(ran(0, 1, ok(history.Write, "a", 1)), ran(2, 3, ok(history.Read, "a", 1)))
	if res := Porcupine(Limits{}).Run(h, Spec{}); res.Verdict != Valid {
		t.Errorf("%+v", res)
	}
	if res := Porcupine(Limits{Ops: 1}).Run(h, Spec{}); res.Verdict != Unknown || res.Stats["keys_unknown"] != 1 {
		t.Errorf("over the limit of operations: %+v", res)
	}
	for i := range 6 {
		h.Ops = append(h.Ops, ran(4, 5, maybe(history.Delete, "")))
		h.Ops[len(h.Ops)-1].Process = 10 + i
	}
	if res := Porcupine(Limits{}).Run(h, Spec{}); res.Verdict != Unknown {
		t.Errorf("over the limit of unknowns: %+v", res)
	}
}
