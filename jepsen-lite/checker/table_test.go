package checker

import (
	"cmp"
	"maps"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// mod changes an operation of a table.
type mod func(*history.Op)

// did is an acknowledged operation on node n1, its times in milliseconds. A Read of ""
// found nothing.
func did(invoke, ret int, f history.F, key, value string, mods ...mod) history.Op {
	op := history.Op{F: f, Key: key, Value: value, Node: "n1", Outcome: history.OK, Found: value != "",
		Invoke: time.Duration(invoke) * time.Millisecond, Return: time.Duration(ret) * time.Millisecond}
	for _, m := range mods {
		m(&op)
	}
	return op
}

func unsure(op *history.Op) { op.Outcome, op.Version = history.Info, fulcrum.Version{} }
func failed(op *history.Op) { op.Outcome, op.Code = history.Fail, fulcrum.CodeUnavailable }

// final makes a strong final read.
func final(op *history.Op) {
	op.Phase, op.Level = history.Final, consistency.L(consistency.Linearizable)
}

// weakly makes a final read that asks one replica, on node n.
func weakly(n fulcrum.NodeID) mod {
	return func(op *history.Op) {
		op.Phase, op.Level, op.Node = history.Final, consistency.L(consistency.One), n
	}
}

// vsn gives a version; 0 is none.
func vsn(v uint64) mod {
	return func(op *history.Op) {
		if v > 0 {
			op.Version = fulcrum.Version{Time: v, Actor: 1}
		}
	}
}

func proc(p int) mod          { return func(op *history.Op) { op.Process = p } }
func on(n fulcrum.NodeID) mod { return func(op *history.Op) { op.Node = n } }
func lives(ttl int) mod {
	return func(op *history.Op) { op.TTL = time.Duration(ttl) * time.Millisecond }
}
func holding(keys ...string) mod {
	return func(op *history.Op) {
		for _, k := range keys {
			op.Elements = append(op.Elements, history.Element{Key: k, Value: "v" + k})
		}
	}
}

// recorded is a history of ops, each of a process of its own unless it says otherwise.
func recorded(ops ...history.Op) *history.History {
	h := &history.History{Ops: slices.Clone(ops)}
	for i := range h.Ops {
		if h.Ops[i].Process == 0 {
			h.Ops[i].Process = 1000 + i
		}
	}
	slices.SortStableFunc(h.Ops, func(a, b history.Op) int { return cmp.Compare(a.Invoke, b.Invoke) })
	return h
}

// The levels that tables use.
var (
	linearRaft = Spec{Mode: consistency.Raft, Replicas: 3}
	staleRaft  = Spec{Mode: consistency.Raft, Read: consistency.L(consistency.One), Replicas: 3}
	overlapped = Spec{Mode: consistency.Quorum, Replicas: 3}
	weakQuorum = Spec{Mode: consistency.Quorum, Write: consistency.L(consistency.One), Read: consistency.L(consistency.One), Replicas: 3}
	asyncLF    = Spec{Mode: consistency.LeaderFollower, Write: consistency.L(consistency.One), Read: consistency.L(consistency.One), Replicas: 3}
	weakReadLF = Spec{Mode: consistency.LeaderFollower, Read: consistency.L(consistency.Prefix), Replicas: 3}
)

// row is one history and what a check must say of it.
type row struct {
	name  string
	spec  Spec
	ops   []history.Op
	want  Verdict
	kinds []string           // of the anomalies, each once
	stats map[string]float64 // some of them
}

func judgeRows(t *testing.T, c Check, rows []row) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := c.Run(recorded(r.ops...), r.spec)
			kinds := map[string]bool{}
			for _, a := range got.Anomalies {
				kinds[a.Kind] = true
			}
			if found := slices.Sorted(maps.Keys(kinds)); got.Verdict != r.want || !slices.Equal(found, slices.Sorted(slices.Values(r.kinds))) {
				t.Errorf("verdict %d with %v, want %d with %v; %s", got.Verdict, found, r.want, r.kinds, got.Detail)
			}
			for name, want := range r.stats {
				if v, ok := got.Stats[name]; !ok || v != want {
					t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
				}
			}
		})
	}
}
