package checker

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"

	"github.com/anishathalye/porcupine"
)

func vers(n int) fulcrum.Version {
	if n == 0 {
		return fulcrum.Version{}
	}
	return fulcrum.Version{Time: uint64(n), Actor: 1}
}

// ran makes an operation on key "k" that ran from inv to ret, in milliseconds.
func ran(inv, ret int, op history.Op) history.Op {
	if op.Key == "" {
		op.Key = "k"
	}
	op.Invoke, op.Return = time.Duration(inv)*time.Millisecond, time.Duration(ret)*time.Millisecond
	return op
}

func ok(f history.F, value string, v int) history.Op {
	return history.Op{F: f, Value: value, Version: vers(v), Outcome: history.OK, Found: f != history.Read || value != ""}
}

func maybe(f history.F, value string) history.Op { return history.Op{F: f, Value: value} }

func casOp(expect int, value string, v int) history.Op {
	op := ok(history.CAS, value, v)
	op.Expect, op.Found = vers(expect), v > 0
	return op
}

// conflicting is a refused CAS as a run records it.
func conflicting(op history.Op) history.Op {
	op.Outcome, op.Code = history.Fail, fulcrum.CodeConflict
	return op
}

func expiring(op history.Op, d time.Duration) history.Op { op.TTL = d; return op }

func told(ops ...history.Op) *history.History {
	slices.SortStableFunc(ops, func(a, b history.Op) int { return int(a.Invoke - b.Invoke) })
	for i := range ops {
		ops[i].Process = i
	}
	return &history.History{Ops: ops}
}

func TestLinearizableByHand(t *testing.T) {
	fail := history.Op{F: history.Write, Value: "f", Outcome: history.Fail}
	const r, w, d = history.Read, history.Write, history.Delete
	tests := []struct {
		name string
		h    *history.History
		want string // kind of the first anomaly, "" for valid, "?" for unknown
	}{
		{"write then read", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(r, "a", 1))), ""},
		{"a read before anything", told(ran(0, 1, ok(r, "", 0)), ran(2, 3, ok(w, "a", 1))), ""},
		{"only reads", told(ran(0, 1, ok(r, "", 0))), "?"},
		{"only writes", told(ran(0, 1, ok(w, "a", 1))), "?"},
		{"stale", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(w, "b", 2)), ran(4, 5, ok(r, "a", 1))), "stale-read"},
		{"not stale while the write runs", told(ran(0, 1, ok(w, "a", 1)), ran(2, 9, ok(w, "b", 2)), ran(4, 5, ok(r, "a", 1))), ""},
		{"reads go back", told(ran(0, 1, ok(w, "a", 1)), ran(2, 20, ok(w, "b", 2)), ran(4, 5, ok(r, "b", 2)), ran(6, 7, ok(r, "a", 1))), "stale-read"},
		{"ends that touch overlap", told(ran(0, 1, ok(w, "a", 1)), ran(2, 5, ok(w, "b", 2)), ran(5, 6, ok(r, "a", 1))), ""},
		{"future", told(ran(0, 1, ok(r, "a", 1)), ran(2, 3, ok(w, "a", 1))), "future-read"},
		{"versions against time", told(ran(0, 1, ok(w, "a", 2)), ran(2, 3, ok(w, "b", 1)), ran(4, 5, ok(r, "a", 2))), "version-order"},
		{"one version twice", told(ran(0, 1, ok(w, "a", 1)), ran(0, 1, ok(w, "b", 1)), ran(4, 5, ok(r, "a", 1))), "duplicate-version"},
		{"phantom", told(ran(0, 1, ok(w, "a", 1)), ran(4, 5, ok(r, "x", 7))), "phantom"},
		{"phantom at a known version", told(ran(0, 1, ok(w, "a", 1)), ran(4, 5, ok(r, "x", 1))), "wrong-value"},
		{"applied twice", told(ran(0, 1, ok(w, "a", 1)), ran(4, 5, ok(r, "a", 2))), "two-versions"},
		{"a failed write was read", told(ran(0, 1, ok(w, "a", 1)), ran(0, 1, fail), ran(4, 5, ok(r, "f", 2))), "aborted-read"},
		{"an unknown write was read", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(w, "b")), ran(9, 10, ok(r, "b", 2))), ""},
		{"and must stay", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(w, "b")), ran(9, 10, ok(r, "b", 2)), ran(11, 12, ok(r, "a", 1))), "stale-read"},
		{"and has one version", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(w, "b")), ran(9, 10, ok(r, "b", 2)), ran(11, 12, ok(r, "b", 3))), "two-versions"},
		{"an unknown write was read before it began", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(r, "b", 2)), ran(4, 5, maybe(w, "b"))), "future-read"},
		{"an unknown write in the past", told(ran(0, 1, ok(w, "a", 3)), ran(2, 3, maybe(w, "b")), ran(4, 5, ok(r, "b", 2))), "stale-read"},
		{"lost", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(r, "", 0))), "lost-write"},
		{"deleted", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(d, "", 2)), ran(4, 5, ok(r, "", 0)), ran(4, 5, ok(r, "", 2))), ""},
		{"a read of nothing that ends as the delete begins", told(ran(0, 1, ok(w, "a", 1)), ran(3, 5, ok(r, "", 0)), ran(5, 6, ok(d, "", 2))), ""},
		{"deleted before the last write", told(ran(0, 1, ok(d, "", 1)), ran(2, 3, ok(w, "a", 2)), ran(4, 5, ok(r, "", 0))), "lost-write"},
		{"resurrected", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(d, "", 2)), ran(4, 5, ok(r, "a", 1))), "stale-read"},
		{"an unknown delete", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(d, "")), ran(4, 5, ok(r, "a", 1)), ran(6, 7, ok(r, "", 0))), ""},
		{"an unknown delete happens once", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(d, "")), ran(4, 5, ok(r, "", 0)), ran(6, 7, ok(r, "a", 1))), "stale-read|not-linearizable|lost-write"},
		{"an unknown delete that came too late", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(r, "", 0)), ran(4, 5, maybe(d, ""))), "lost-write"},
		{"one delete for two gaps", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(d, "")), ran(4, 5, ok(r, "", 0)), ran(6, 7, ok(w, "b", 2)), ran(8, 9, ok(r, "", 0))), "not-linearizable"},
		{"two deletes for two gaps", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(d, "")), ran(2, 3, maybe(d, "")), ran(4, 5, ok(r, "", 0)), ran(6, 7, ok(w, "b", 2)), ran(8, 9, ok(r, "", 0))), ""},
		{"a tombstone of an unknown delete", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(d, "")), ran(4, 5, ok(r, "", 2)), ran(6, 7, ok(r, "", 2))), ""},
		{"a tombstone of nobody", told(ran(0, 1, ok(w, "a", 1)), ran(4, 5, ok(r, "", 2))), "phantom"},
		{"a delete without a version", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(d, "", 0)), ran(4, 5, ok(r, "", 0)), ran(6, 7, ok(w, "b", 5)), ran(8, 9, ok(r, "b", 5))), ""},
		{"a delete without a version, and no effect", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(d, "", 0)), ran(4, 5, ok(r, "a", 1))), "lost-write"},
		{"a write without a version", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(w, "b", 0)), ran(4, 5, ok(r, "b", 5))), ""},
		{"a write without a version, and no effect", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(w, "b", 0)), ran(4, 5, ok(r, "a", 1))), "lost-write"},
		{"a write without a version, under a cas that did not meet it", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(w, "b", 0)), ran(4, 5, casOp(1, "c", 2)), ran(6, 7, ok(r, "c", 2))), "lost-write"},
		{"cas", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, casOp(1, "b", 2)), ran(4, 5, ok(r, "b", 2))), ""},
		{"cas of the same twice", told(ran(0, 1, ok(w, "a", 1)), ran(2, 9, casOp(1, "b", 2)), ran(2, 9, casOp(1, "c", 3)), ran(10, 11, ok(r, "c", 3))), "lost-update"},
		{"cas over an unseen unknown write", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(w, "x")), ran(4, 5, casOp(1, "b", 2)), ran(6, 7, ok(r, "b", 2))), ""},
		{"cas over a seen one", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(w, "x")), ran(4, 9, casOp(1, "b", 3)), ran(6, 7, ok(r, "x", 2))), "lost-update"},
		{"cas of a write that nobody saw", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, maybe(w, "x")), ran(4, 9, casOp(2, "b", 3)), ran(6, 7, ok(r, "b", 3))), ""},
		{"cas of a write that came later", told(ran(0, 1, ok(w, "a", 1)), ran(12, 13, maybe(w, "x")), ran(4, 9, casOp(2, "b", 3)), ran(6, 7, ok(r, "b", 3))), "phantom"},
		{"cas of a write of nobody", told(ran(0, 1, ok(w, "a", 1)), ran(4, 9, casOp(2, "b", 3)), ran(6, 7, ok(r, "b", 3))), "lost-update"},
		{"cas of nothing", told(ran(0, 1, casOp(0, "b", 2)), ran(6, 7, ok(r, "b", 2))), ""},
		{"cas of nothing over a value", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, casOp(0, "b", 2)), ran(6, 7, ok(r, "b", 2))), "lost-update"},
		{"cas of nothing after an unknown delete", told(ran(0, 1, ok(w, "a", 1)), ran(0, 1, maybe(d, "")), ran(2, 3, casOp(0, "b", 2)), ran(6, 7, ok(r, "b", 2))), ""},
		{"cas refused", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(w, "b", 2)), ran(4, 5, casOp(1, "c", 0)), ran(6, 7, ok(r, "b", 2))), ""},
		{"cas refused for no reason", told(ran(0, 1, ok(w, "a", 1)), ran(4, 5, casOp(1, "c", 0)), ran(6, 7, ok(r, "a", 1))), "false-refusal"},
		{"cas of nothing refused for no reason", told(ran(0, 1, casOp(0, "c", 0)), ran(2, 3, ok(w, "a", 1)), ran(6, 7, ok(r, "a", 1))), "false-refusal"},
		{"cas refused for no reason, as a run records it", told(ran(0, 1, ok(w, "a", 1)), ran(4, 5, conflicting(casOp(1, "c", 0))), ran(6, 7, ok(r, "a", 1))), "false-refusal"},
		{"cas refused, as a run records it", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, ok(w, "b", 2)), ran(4, 5, conflicting(casOp(1, "c", 0))), ran(6, 7, ok(r, "b", 2))), ""},
		{"a refused cas, as a run records it, was read", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, conflicting(casOp(7, "c", 0))), ran(6, 7, ok(r, "c", 2))), "aborted-read"},
		{"a refused cas was read", told(ran(0, 1, ok(w, "a", 1)), ran(2, 3, casOp(7, "c", 0)), ran(6, 7, ok(r, "c", 2))), "aborted-read"},
		{"expired", told(ran(0, 1, expiring(ok(w, "a", 1), 10*time.Millisecond)), ran(2, 3, ok(r, "a", 1)), ran(20, 21, ok(r, "", 0)), ran(22, 23, ok(r, "", 1))), ""},
		{"expired too early", told(ran(0, 1, expiring(ok(w, "a", 1), 10*time.Millisecond)), ran(2, 3, ok(r, "", 0))), "lost-write"},
		{"back after expiry", told(ran(0, 1, expiring(ok(w, "a", 1), 10*time.Millisecond)), ran(20, 21, ok(r, "", 1)), ran(22, 23, ok(r, "a", 1))), "stale-read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := Linearizable().Run(tt.h, Spec{})
			got := ""
			if res.Verdict == Unknown {
				got = "?"
			}
			if len(res.Anomalies) > 0 {
				got = res.Anomalies[0].Kind
			}
			if got != tt.want && !(got != "" && slices.Contains(strings.Split(tt.want, "|"), got)) {
				t.Errorf("got %q, want %q: %+v", got, tt.want, res)
			}
			if (res.Verdict == Invalid) != (res.Found > 0) {
				t.Errorf("verdict %v with %d found", res.Verdict, res.Found)
			}
		})
	}
}

// store simulates a register: clients with random delays, unknown outcomes, and one
// fault with some probability.
type store struct {
	r      *rand.Rand
	ops    []history.Op
	states []state // all that there were; the last is now
	next   int     // version
	shape  shape
}

type state struct {
	version int
	value   string
}

type shape struct {
	clients, ops   int
	unknown        float64 // of outcomes
	deletes, cas   bool
	refusals       bool // record the CAS that were refused
	bareDeletes    bool // acknowledged without a version
	bareWrites     float64
	bareTombstones float64
	fault          string
	often          float64
}

type running struct {
	op     history.Op
	effect time.Duration // -1: over
}

// run plays it: each step of time lets the next thing happen, an invocation or an
// effect, in the order of their moments.
func (s *store) run() *history.History {
	s.states = []state{{}}
	type client struct {
		free  time.Duration
		known fulcrum.Version
		cur   *running
		id    int
	}
	cs := make([]*client, s.shape.clients)
	for i := range cs {
		cs[i] = &client{free: time.Duration(s.r.IntN(10)), id: i}
	}
	var late []*running // given up by their client
	started := 0
	for {
		var bestC *client
		var bestL *running
		best := time.Duration(math.MaxInt64)
		for _, c := range cs {
			at := c.free
			if c.cur != nil {
				at = c.cur.effect
			} else if started >= s.shape.ops {
				continue
			}
			if at < best {
				best, bestC = at, c
			}
		}
		for _, l := range late {
			if l.effect < best && l.effect >= 0 {
				best, bestL, bestC = l.effect, l, nil
			}
		}
		switch {
		case bestL != nil:
			s.apply(&bestL.op)
			bestL.effect = -1
		case bestC == nil:
			slices.SortStableFunc(s.ops, func(a, b history.Op) int { return int(a.Invoke - b.Invoke) })
			return &history.History{Ops: s.ops}
		case bestC.cur == nil:
			op := s.choose(bestC.known, started)
			op.Process, op.Invoke = bestC.id, best
			started++
			run := &running{op: op, effect: best + time.Duration(s.r.IntN(12))}
			if op.F.Mutates() && s.r.Float64() < s.shape.unknown {
				bestC.id += s.shape.clients
				bestC.free = best + 5
				op.Return = bestC.free
				s.ops = append(s.ops, op)
				if run.effect += time.Duration(s.r.IntN(60)); s.r.IntN(2) == 0 {
					late = append(late, run)
				}
				continue
			}
			bestC.cur = run
		default:
			op := &bestC.cur.op
			op.Outcome = history.OK
			s.apply(op)
			op.Return = best + time.Duration(s.r.IntN(12))
			bestC.free = op.Return + time.Duration(1+s.r.IntN(8))
			if !op.Version.IsZero() && op.Found {
				bestC.known = op.Version
			}
			if op.F == history.CAS && !op.Found {
				bestC.known = fulcrum.Version{}
			}
			if s.shape.bareDeletes && op.F == history.Delete {
				op.Version = fulcrum.Version{}
			}
			if op.F == history.Write && s.r.Float64() < s.shape.bareWrites {
				op.Version = fulcrum.Version{}
			}
			if op.F != history.CAS || op.Found || s.shape.refusals {
				s.ops = append(s.ops, *op)
			}
			bestC.cur = nil
		}
	}
}

func (s *store) choose(known fulcrum.Version, n int) history.Op {
	op := history.Op{Key: "k", Value: fmt.Sprint("v", n), F: history.Write}
	switch x := s.r.IntN(10); {
	case x < 5:
		op.F, op.Value = history.Read, ""
	case x < 6 && s.shape.deletes:
		op.F, op.Value = history.Delete, ""
	case x < 8 && s.shape.cas:
		op.F, op.Expect = history.CAS, known
	}
	return op
}

func (s *store) apply(op *history.Op) {
	faulty := s.r.Float64() < s.shape.often
	hit := func(f string) bool { return faulty && s.shape.fault == f }
	now := s.states[len(s.states)-1]
	if op.F == history.Read {
		switch {
		case hit("stale"):
			now = s.states[s.r.IntN(len(s.states))]
		case hit("phantom"):
			now.value += "x"
		case hit("absent"):
			now = state{}
		}
		op.Found, op.Value, op.Version = now.value != "", now.value, vers(now.version)
		if !op.Found && s.r.Float64() < s.shape.bareTombstones {
			op.Version = fulcrum.Version{}
		}
		return
	}
	if op.F == history.CAS {
		holds := op.Expect == vers(now.version) && now.value != "" || op.Expect.IsZero() && now.value == ""
		if !holds && !hit("cas") {
			op.Found = false
			return
		}
	}
	op.Found = true
	s.next++
	op.Version = vers(s.next)
	if hit("lost") {
		return
	}
	s.states = append(s.states, state{s.next, op.Value})
	if hit("back") && len(s.states) > 2 {
		s.states = append(s.states, s.states[len(s.states)-3])
	}
}

// versioned is the exact model of what Linearizable decides: a register whose versions
// rise. A state of unknown version has a floor instead.
func versioned() porcupine.Model {
	type st struct {
		floor fulcrum.Version
		exact bool
		value string
	}
	is := func(s st, v fulcrum.Version) (st, bool) {
		if s.exact {
			return s, s.floor == v
		}
		s.exact, s.floor = true, v
		return s, true
	}
	return porcupine.Model{
		Init: func() any { return st{exact: true} },
		Step: func(s0, in, _ any) (bool, any) {
			s, op := s0.(st), in.(history.Op)
			known := op.Outcome == history.OK && !op.Version.IsZero()
			if op.F == history.Read {
				if op.Found != (s.value != "") || op.Value != s.value {
					return false, s
				}
				if op.Version.IsZero() {
					return true, s
				}
				if !s.exact && !s.floor.Less(op.Version) {
					return false, s
				}
				s, good := is(s, op.Version)
				return good, s
			}
			if op.F == history.CAS {
				if op.Expect.IsZero() && s.value != "" || !op.Expect.IsZero() && s.value == "" {
					return false, s
				}
				if !op.Expect.IsZero() {
					var good bool
					if !s.exact && !s.floor.Less(op.Expect) {
						return false, s
					}
					if s, good = is(s, op.Expect); !good {
						return false, s
					}
				}
			}
			if known {
				return s.floor.Less(op.Version), st{floor: op.Version, exact: true, value: op.Value}
			}
			return true, st{floor: s.floor, value: op.Value}
		},
	}
}

func exactly(h *history.History) porcupine.CheckResult {
	seen := map[string]bool{}
	for _, op := range h.Ops {
		if op.F == history.Read {
			seen[op.Value] = true
		}
	}
	var calls []porcupine.Operation
	for _, op := range h.Ops {
		end := int64(op.Return)
		if op.Outcome == history.Info {
			if op.F != history.Delete && !seen[op.Value] {
				continue
			}
			end = math.MaxInt64
		}
		calls = append(calls, porcupine.Operation{Input: op, Call: int64(op.Invoke), Return: end})
	}
	return porcupine.CheckOperationsTimeout(versioned(), calls, 2*time.Second)
}

// TestLinearizableAgreesWithPorcupine compares the fast check with two searches on
// random histories: one that believes versions, whose verdict must be the same, and the
// one that does not, which must accept all that the fast one accepts.
func TestLinearizableAgreesWithPorcupine(t *testing.T) {
	rounds := 6000
	if testing.Short() {
		rounds = 600
	}
	faults := []string{"", "stale", "phantom", "absent", "lost", "back", "cas"}
	count := map[string]int{}
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 3))
		s := &store{r: rnd, shape: shape{
			clients: 1 + rnd.IntN(4), ops: 4 + rnd.IntN(16), unknown: []float64{0, 0.1, 0.3}[rnd.IntN(3)],
			deletes: rnd.IntN(2) == 0, cas: rnd.IntN(2) == 0, bareDeletes: rnd.IntN(4) == 0,
			bareWrites: []float64{0, 0, 0, 0.2}[rnd.IntN(4)], bareTombstones: []float64{0, 0.5, 1}[rnd.IntN(3)], fault: faults[rnd.IntN(len(faults))], often: 0.2,
		}}
		h := s.run()
		fast := Linearizable().Run(h, Spec{})
		count[fmt.Sprint("fast ", fast.Verdict)]++
		if fast.Verdict == Unknown {
			continue
		}
		count["slow"] += int(fast.Stats["keys_slow"])
		exact := exactly(h)
		if exact == porcupine.Unknown {
			count["exact unknown"]++
			continue
		}
		slow := Porcupine(Limits{Unknown: 20, Timeout: time.Second}).Run(h, Spec{})
		count[fmt.Sprint("slow ", slow.Verdict)]++
		if fast.Stats["keys_slow"] > 0 && fast.Verdict == Valid {
			exact = porcupine.Ok // decided by values alone
		}
		if (fast.Verdict == Valid) != (exact == porcupine.Ok) || fast.Verdict == Valid && slow.Verdict == Invalid || s.shape.fault == "" && fast.Verdict != Valid {
			t.Fatalf("seed %d %+v: fast %v, exact %v, by values %v\n%s\n%+v", seed, s.shape, fast.Verdict, exact, slow.Verdict, dump(h), fast.Anomalies)
		}
	}
	t.Log(count)
}

// TestRefusalsOfARealRegister holds that refused CAS of a correct register are
// accepted, by both checks, and that what the fast one rejects the slow one does.
func TestRefusalsOfARealRegister(t *testing.T) {
	for seed := range 1500 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 4))
		s := &store{r: rnd, shape: shape{clients: 1 + rnd.IntN(4), ops: 4 + rnd.IntN(16), unknown: 0.1, deletes: true, cas: true, refusals: true, bareTombstones: 0.5}}
		h := s.run()
		if fast := Linearizable().Run(h, Spec{}); fast.Verdict == Invalid {
			t.Fatalf("seed %d: %+v\n%s", seed, fast.Anomalies, dump(h))
		}
		if slow := Porcupine(Limits{Unknown: 20, Timeout: time.Second}).Run(h, Spec{}); slow.Verdict == Invalid {
			t.Fatalf("seed %d: porcupine: %+v\n%s", seed, slow.Anomalies, dump(h))
		}
	}
}

// TestDeletesWithoutVersionsArePlaced holds that the fast check itself finds places for
// what has no version, almost always: a large key could not be left to porcupine.
func TestDeletesWithoutVersionsArePlaced(t *testing.T) {
	slow, rounds := 0, 1000
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 8))
		h := (&store{r: rnd, shape: shape{clients: 6, ops: 100, unknown: 0.02, deletes: true, bareDeletes: true, bareTombstones: 1}}).run()
		res := Linearizable().Run(h, Spec{})
		if res.Verdict == Invalid {
			t.Fatalf("seed %d: %+v\n%s", seed, res.Anomalies, dump(h))
		}
		slow += int(res.Stats["keys_slow"])
	}
	t.Logf("%d of %d needed porcupine", slow, rounds)
	if slow > rounds/50 {
		t.Errorf("%d of %d histories needed porcupine", slow, rounds)
	}
}

func dump(h *history.History) string {
	var b strings.Builder
	for i, op := range h.Ops {
		fmt.Fprintf(&b, "%d: p%d %s %q found %v expect %v version %v [%d %d] outcome %d\n", i, op.Process, op.F, op.Value, op.Found, op.Expect.Time, op.Version.Time, op.Invoke, op.Return, op.Outcome)
	}
	return b.String()
}

// million makes a valid history: 20 processes, 1000 keys, half reads.
func million(n int) *history.History {
	rnd := rand.New(rand.NewPCG(1, 2))
	type cur struct {
		version int
		value   string
	}
	keys := make([]cur, 1000)
	names := make([]string, len(keys))
	for i := range names {
		names[i] = fmt.Sprint("key-", i)
	}
	h := &history.History{Ops: make([]history.Op, 0, n)}
	for i := range n {
		effect := time.Duration(i+1000) * time.Microsecond
		k := rnd.IntN(len(keys))
		op := history.Op{Process: i % 20, F: history.Read, Key: names[k], Outcome: history.OK, Node: "n1",
			Invoke: effect - time.Duration(rnd.IntN(10000)), Return: effect + time.Duration(rnd.IntN(10000))}
		switch x := rnd.IntN(20); {
		case x == 0:
			op.F, keys[k] = history.Delete, cur{i + 1, ""}
		case x < 4 && keys[k].value != "":
			op.F, op.Found, op.Expect = history.CAS, true, vers(keys[k].version)
			keys[k] = cur{i + 1, fmt.Sprint(i)}
		case x < 10:
			op.F, keys[k] = history.Write, cur{i + 1, fmt.Sprint(i)}
		}
		op.Value, op.Version = keys[k].value, vers(keys[k].version)
		if op.F == history.Read {
			if op.Found = op.Value != ""; !op.Found {
				op.Version = fulcrum.Version{}
			}
		}
		h.Ops = append(h.Ops, op)
	}
	slices.SortStableFunc(h.Ops, func(a, b history.Op) int { return int(a.Invoke - b.Invoke) })
	return h
}

// benchMillion runs a check over a million operations: it is to take less than 10 s
// and, with the history, less than 1 GiB.
func benchMillion(b *testing.B, c Check, h *history.History) {
	b.ReportAllocs()
	for b.Loop() {
		if res := c.Run(h, Spec{Replicas: 3}); res.Verdict == Invalid || c.Name == "linearizable" && res.Verdict != Valid {
			b.Fatalf("%+v", res)
		}
	}
}

func BenchmarkMillion(b *testing.B) {
	h := million(1_000_000)
	for i := range h.Ops {
		h.Ops[i].Session = h.Ops[i].Process + 1
	}
	for _, c := range []Check{Linearizable(), Sessions(), QuorumReads(), Prefix(), Staleness(0)} {
		b.Run(c.Name, func(b *testing.B) { benchMillion(b, c, h) })
	}
	for i := range h.Ops {
		if h.Ops[i].F == history.Delete {
			h.Ops[i].Version = fulcrum.Version{}
		}
		if h.Ops[i].F == history.Write && i%50 == 0 {
			h.Ops[i].Outcome = history.Info
		}
	}
	b.Run("linearizable-bare-deletes", func(b *testing.B) { benchMillion(b, Linearizable(), h) })
	for i := range h.Ops {
		if h.Ops[i].Version.IsZero() && h.Ops[i].F == history.Read {
			h.Ops[i].Outcome = history.Info
		}
		h.Ops[i].Key = "k"
	}
	b.Run("linearizable-one-key", func(b *testing.B) { benchMillion(b, Linearizable(), million1(h)) })
}

// million1 makes of a history one of a single register: operation by operation, in the
// order of their Invoke.
func million1(h *history.History) *history.History {
	out := &history.History{Ops: slices.Clone(h.Ops)}
	last := 0
	for i := range out.Ops {
		op := &out.Ops[i]
		op.Outcome, op.Found, op.Return = history.OK, true, op.Invoke+time.Duration(1)
		if op.F = history.Read; i%2 == 0 {
			op.F, last = history.Write, i+1
		}
		op.Value, op.Version = fmt.Sprint(last), vers(last)
	}
	return out
}
