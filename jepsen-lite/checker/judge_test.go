package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

func TestChecksFollowThePromiseTable(t *testing.T) {
	raft, quorum, leader := consistency.Raft, consistency.Quorum, consistency.LeaderFollower
	one, strict := consistency.L(consistency.One), consistency.L(consistency.Linearizable)
	bounded := consistency.Level{Kind: consistency.Bounded, Bound: time.Second}
	const always = "well-formed enough bite availability"
	tests := []struct {
		name string
		spec Spec
		want string // behind always and before converge
	}{
		{"raft by default", Spec{Workload: "register", Mode: raft}, "linearizable porcupine durable"},
		{"raft, stale reads", Spec{Workload: "register", Mode: raft, Read: one}, "durable"},
		{"raft, bounded", Spec{Workload: "staleness", Mode: raft, Read: bounded}, "bounded prefix durable"},
		{"raft, prefix", Spec{Workload: "register", Mode: raft, Read: consistency.L(consistency.Prefix)}, "prefix durable"},
		{"raft, sessions", Spec{Workload: "session", Mode: raft, Read: consistency.L(consistency.Session), Tokens: true}, "session prefix durable"},
		{"raft, sessions without tokens", Spec{Workload: "session", Mode: raft, Read: consistency.L(consistency.Session)}, "prefix durable"},
		{"quorum by default", Spec{Workload: "register", Mode: quorum, Replicas: 3}, "quorum-reads durable"},
		{"quorum, sessions need no token", Spec{Workload: "session", Mode: quorum, Read: consistency.L(consistency.Session), Replicas: 3}, "quorum-reads session durable"},
		{"quorum, ABD", Spec{Workload: "register", Mode: quorum, Write: strict, Read: strict, Replicas: 3}, "linearizable porcupine durable"},
		{"quorum, half of ABD", Spec{Workload: "register", Mode: quorum, Read: strict, Replicas: 3}, "quorum-reads durable"},
		{"quorum, one and one", Spec{Workload: "register", Mode: quorum, Write: one, Read: one, Replicas: 3}, "durable"},
		{"quorum, all and one meet", Spec{Workload: "register", Mode: quorum, Write: consistency.L(consistency.All), Read: one, Replicas: 3}, "quorum-reads durable"},
		{"quorum, two and two of five do not", Spec{Workload: "register", Mode: quorum, Write: consistency.L(consistency.Two), Read: consistency.L(consistency.Two), Replicas: 5}, "durable"},
		{"quorum, one and a lost disk", Spec{Workload: "register", Mode: quorum, Write: one, Read: one, Replicas: 3, Nemeses: []string{"wipe-one"}}, "loss"},
		{"quorum, a hint may be all", Spec{Workload: "register", Mode: quorum, Write: consistency.L(consistency.Any), Read: one, Replicas: 3}, "loss"},
		{"leader-follower by default", Spec{Workload: "register", Mode: leader}, "linearizable porcupine durable"},
		{"leader-follower, asynchronous", Spec{Workload: "register", Mode: leader, Write: one}, "prefix loss"},
		{"leader-follower, in sync", Spec{Workload: "register", Mode: leader, Write: consistency.L(consistency.All)}, "prefix loss"},
		{"leader-follower, asynchronous sessions promise nothing", Spec{Workload: "session", Mode: leader, Write: one, Read: consistency.L(consistency.Session), Tokens: true}, "prefix loss"},
		{"switched, the weakest counts", Spec{Workload: "register", Mode: raft, Modes: []consistency.Mode{raft, quorum}, Replicas: 3}, "quorum-reads durable"},
		{"switched, strict everywhere", Spec{Workload: "register", Mode: raft, Modes: []consistency.Mode{raft, quorum, leader}, Write: strict, Read: strict, Replicas: 3}, "linearizable porcupine durable"},
		{"switched, the mode of the start counts too", Spec{Workload: "register", Mode: quorum, Modes: []consistency.Mode{raft}, Replicas: 3}, "quorum-reads durable"},
		{"switched, one mode refuses the level", Spec{Workload: "register", Mode: quorum, Modes: []consistency.Mode{quorum, raft}, Read: consistency.L(consistency.QuorumOf), Replicas: 3}, "quorum-reads durable"},
		{"staleness of linearizable reads", Spec{Workload: "staleness", Mode: raft}, "linearizable porcupine bounded durable"},
		{"set", Spec{Workload: "set", Mode: raft}, "set"},
		{"durability", Spec{Workload: "durability", Mode: raft}, "set"},
		{"switch", Spec{Workload: "switch", Mode: raft, Modes: []consistency.Mode{raft, quorum}, Replicas: 3}, "quorum-reads durable set"},
		{"counter", Spec{Workload: "counter", Mode: raft}, "counter"},
		{"append", Spec{Workload: "append", Mode: raft}, "list"},
		{"ttl", Spec{Workload: "ttl", Mode: raft}, "ttl"},
		{"delete", Spec{Workload: "delete", Mode: raft, Read: one}, "durable deletes"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			want := strings.Fields(always + " " + tc.want + " converge")
			if got := names(tc.spec); !sameNames(got, want) {
				t.Errorf("checks %v, want %v", got, want)
			}
		})
	}
	if got := names(Spec{Mode: raft, Write: consistency.L(consistency.Three)}); got[len(got)-1] != "promise" {
		t.Errorf("a level that is not offered is judged by %v", got)
	}
}

func names(s Spec) []string {
	var got []string
	for _, c := range s.Checks() {
		got = append(got, c.Name)
	}
	return got
}

// sameNames ignores the order, but that a name may stand there once only.
func sameNames(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func TestByName(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range All() {
		if seen[c.Name] {
			t.Errorf("two checks are called %q", c.Name)
		}
		seen[c.Name] = true
		if got, err := ByName(c.Name); err != nil || got.Name != c.Name {
			t.Errorf("ByName(%q) is %q, %v", c.Name, got.Name, err)
		}
	}
	for _, w := range []string{"register", "session", "staleness", "set", "counter", "append", "delete", "ttl"} {
		for _, m := range consistency.Modes {
			for _, n := range names(Spec{Workload: w, Mode: m, Replicas: 3}) {
				if !seen[n] {
					t.Errorf("workload %s in mode %s runs %q, which ByName does not know", w, m, n)
				}
			}
		}
	}
	if _, err := ByName("nothing"); err == nil || !strings.Contains(err.Error(), "linearizable") {
		t.Errorf("the error of an unknown check lists no names: %v", err)
	}
}

func TestWorst(t *testing.T) {
	for _, tc := range []struct{ a, b, want Verdict }{
		{Valid, Valid, Valid}, {Valid, Unknown, Unknown}, {Unknown, Invalid, Invalid}, {Invalid, Valid, Invalid}, {Unknown, Unknown, Unknown},
	} {
		if Worst(tc.a, tc.b) != tc.want || Worst(tc.b, tc.a) != tc.want {
			t.Errorf("the worst of %s and %s is %s, want %s", tc.a, tc.b, Worst(tc.a, tc.b), tc.want)
		}
		var v Verdict
		if text, err := tc.want.MarshalText(); err != nil || v.UnmarshalText(text) != nil || v != tc.want {
			t.Errorf("%s is read back as %s", tc.want, v)
		}
	}
}

// registerRun is what a linearizable register would leave, with a nemesis that bites
// and final reads on three nodes: a history that Judge must call valid.
func registerRun(seed uint64) *history.History {
	rng := rand.New(rand.NewPCG(seed, 1))
	var ops []history.Op
	key := func() string { return fmt.Sprintf("k%d", rng.IntN(3)) }
	value := map[string]string{}
	clock := 10
	for i := range 120 {
		k := key()
		// Operations take effect one by one, at clock, and reach a little to both sides.
		clock += 2 + rng.IntN(3)
		from, to := clock-rng.IntN(6), clock+rng.IntN(6)
		next := func(f history.F, v string) {
			value[k] = v
			ops = append(ops, did(from, to, f, k, v, vsn(uint64(i+1))))
		}
		switch n := rng.IntN(10); {
		case n < 4:
			ops = append(ops, did(from, to, history.Read, k, value[k], vsn(last(ops, k))))
		case n < 8:
			next(history.Write, fmt.Sprint("v", i))
		case n < 9:
			next(history.Delete, "")
		default:
			ops = append(ops, did(from, to, history.Write, k, fmt.Sprint("v", i), failed))
		}
	}
	value["k0"] = "last"
	ops = append(ops, did(clock+10, clock+11, history.Write, "k0", "last", vsn(1000)))
	for i, n := range []fulcrum.NodeID{"n1", "n2", "n3"} {
		for _, k := range []string{"k0", "k1", "k2"} {
			ops = append(ops, did(1000+i, 1010+i, history.Read, k, value[k], vsn(last(ops, k)), weakly(n)),
				did(1000+i, 1010+i, history.Read, k, value[k], vsn(last(ops, k)), final, on(n)))
		}
	}
	h := recorded(ops...)
	h.Events = []history.Event{mark(0, history.PhaseMain), start(20, "cut"), stop(100, "cut", 4), mark(700, history.PhaseHeal),
		mark(800, history.PhaseRecovered), mark(900, history.PhaseFinal), mark(1100, history.PhaseEnd)}
	return h
}

// last is the version of the last mutation of k.
func last(ops []history.Op, k string) uint64 {
	for _, op := range slices.Backward(ops) {
		if op.Key == k && op.F.Mutates() && op.Outcome == history.OK {
			return op.Version.Time
		}
	}
	return 0
}

func TestJudge(t *testing.T) {
	s := Spec{Workload: "delete", Mode: consistency.Raft, Replicas: 3, Nemeses: []string{"cut"}}
	newestRead := func(h *history.History) *history.Op {
		for i := range slices.Backward(h.Ops) {
			if op := &h.Ops[i]; op.F == history.Read && op.Found && op.Phase == history.Final {
				return op
			}
		}
		return nil
	}
	tests := []struct {
		name string
		harm func(h *history.History)
		want Verdict
	}{
		{"as it was", func(*history.History) {}, Valid},
		{"the nemesis did nothing", func(h *history.History) { h.Events[2].Hits = 0 }, Unknown},
		{"the final reads were left out", func(h *history.History) {
			h.Ops = slices.DeleteFunc(h.Ops, func(op history.Op) bool { return op.Phase == history.Final })
		}, Unknown},
		{"never recovered", func(h *history.History) { h.Events = slices.Delete(h.Events, 4, 5) }, Invalid},
		{"one node's value differs", func(h *history.History) { newestRead(h).Value = "x" }, Invalid},
		{"what was read was recorded as failed", func(h *history.History) {
			v := newestRead(h).Version
			for i := range h.Ops {
				if h.Ops[i].F.Mutates() && h.Ops[i].Version == v {
					h.Ops[i].Outcome = history.Fail
				}
			}
		}, Invalid},
		{"a process goes on after an unknown outcome", func(h *history.History) {
			h.Ops[0].Outcome = history.Info
			h.Ops[len(h.Ops)-1].Process = h.Ops[0].Process
		}, Unknown},
		{"everything failed", func(h *history.History) {
			for i := range h.Ops {
				h.Ops[i].Outcome = history.Fail
			}
		}, Unknown},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range uint64(5) {
				h := registerRun(seed)
				tc.harm(h)
				if j := Judge(h, s); j.Verdict != tc.want {
					t.Errorf("seed %d: %s, want %s", seed, j.Verdict, tc.want)
					for _, r := range j.Results {
						t.Logf("%s: %s: %s", r.Check, r.Verdict, r.Detail)
					}
				}
			}
		})
	}
}

// A write through a clock that is behind is lost to what its session has seen: the
// session is not broken by it, but a read that goes back is.
func TestSessionsWhereClocksOrder(t *testing.T) {
	in := func(op *history.Op) { op.Session = 1 }
	s := Spec{Workload: "session", Mode: consistency.Quorum, Read: consistency.L(consistency.Session), Replicas: 3}
	c, err := contractOf(s)
	if err != nil {
		t.Fatal(err)
	}
	judgeRows(t, sessionsIn(c), []row{
		{"overwritten at once", s, []history.Op{write(0, 1, "a", vsn(5), in), write(2, 3, "b", vsn(2), in), read(4, 5, "a", vsn(5), in)}, Valid, nil,
			map[string]float64{"lww_overwritten_in_session": 1}},
		{"a read goes back", s, []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", vsn(5), in), read(4, 5, "a", vsn(1), in)}, Invalid, []string{"read-your-writes"}, nil},
	})
}

// A write that one replica acknowledged need not be seen by a majority of the others yet;
// what a session has read it must not go back behind all the same.
func TestSessionsWhereWritesAndReadsDoNotOverlap(t *testing.T) {
	in := func(op *history.Op) { op.Session = 1 }
	s := Spec{Workload: "session", Mode: consistency.Quorum, Write: consistency.L(consistency.One), Read: consistency.L(consistency.Session), Replicas: 3, Tokens: true}
	missed := []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", vsn(5), in), read(4, 5, "a", vsn(1), in)}
	back := []history.Op{write(0, 1, "a", vsn(1)), write(2, 3, "b", vsn(5)), read(4, 5, "b", vsn(5), in), read(6, 7, "a", vsn(1), in)}
	both := func(w consistency.Kind, verdict Verdict, kinds []string, stats map[string]float64) {
		s := s
		s.Write = consistency.L(w)
		c, err := contractOf(s)
		if err != nil {
			t.Fatal(err)
		}
		judgeRows(t, sessionsIn(c), []row{
			{w.String() + " missed", s, missed, verdict, kinds, stats},
			{w.String() + " goes back", s, back, Invalid, []string{"monotonic-reads"}, nil},
		})
	}
	both(consistency.One, Valid, nil, map[string]float64{"own_writes_missed": 1})
	both(consistency.Two, Invalid, []string{"read-your-writes"}, nil) // two and a majority, of three
	both(consistency.QuorumOf, Invalid, []string{"read-your-writes"}, nil)
}
