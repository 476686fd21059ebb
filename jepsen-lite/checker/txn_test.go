package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// tx is an answered transaction on group g; answers are those of the branch done, with
// "-" for nothing.
func tx(invoke, ret int, body, answers string, mods ...mod) history.Op {
	op := did(invoke, ret, history.Txn, "g", body)
	for a := range strings.FieldsSeq(answers) {
		op.Elements = append(op.Elements, history.Element{Value: strings.TrimPrefix(a, "-")})
	}
	for _, m := range mods {
		m(&op)
	}
	return op
}

func otherBranch(op *history.Op) { op.Found = false }

// inTheEnd are the final reads of a group.
func inTheEnd(log, list, reg string, sum ...string) []history.Op {
	var out []history.Op
	for key, v := range map[string]string{"log": log, "list": list, "reg": reg, "sum": strings.Join(sum, "")} {
		out = append(out, did(90, 91, history.Read, "g"+key, v, final))
	}
	return out
}

func TestTransactionChecks(t *testing.T) {
	with := func(tail []history.Op, ops ...history.Op) []history.Op { return append(ops, tail...) }
	const cas = "is reg a1|append log b;put reg b1|get log;get reg"
	first := tx(0, 1, "|append log a;put reg a1|", "- -")
	weak := Spec{Mode: consistency.LeaderFollower, Write: consistency.L(consistency.One), Replicas: 3}
	judgeRows(t, Transactions(), []row{
		{"one after the other", linearRaft, with(inTheEnd("a,b,", "", "b1"), first, tx(2, 3, "|get reg;get log|", "a1 a,"), tx(4, 5, cas, "- -"), tx(6, 7, "|get log;get reg|", "a,b, b1")), Valid, nil,
			map[string]float64{"placed": 4, "wrote": 2, "looked": 2}},
		{"the other branch", linearRaft, with(inTheEnd("a,", "", "a1"), first, tx(2, 3, "is reg x|append log b|get log;get reg", "a, a1", otherBranch)), Valid, nil, nil},
		{"at the same time, either order", linearRaft, with(inTheEnd("b,a,", "", "a1"), tx(0, 9, "|append log a;put reg a1|", "- -"), tx(0, 9, "|append log b;put reg b1|", "- -")), Valid, nil, nil},
		{"unknown, done or not", linearRaft, with(inTheEnd("a,b,", "", "b1"), first, tx(2, 3, cas, "", unsure), tx(2, 3, "|append log c;put reg c1|", "", unsure)), Valid, nil, nil},
		{"unknown, done between the final reads", linearRaft, with(inTheEnd("a,b,", "", "a1"), first, tx(2, 3, cas, "", unsure)), Valid, nil, nil},
		{"sees itself", linearRaft, with(inTheEnd("a,", "x,y,", "", "7"), tx(0, 1, "|get list;append list x;append list y;get list;append log a;get log;incr sum 5;incr sum 2|", "- - - x,y, - a, 5 7")), Valid, nil, nil},
		{"adds twice", linearRaft, with(inTheEnd("a,", "", "", "10"), tx(0, 1, "|append log a;incr sum 5|", "- 5")), Invalid, []string{"not-a-state"}, nil},
		{"lost", linearRaft, with(inTheEnd("a,", "", "a1"), first, tx(2, 3, "|append log b|", "-")), Invalid, []string{"lost-transaction"}, map[string]float64{"lost_acknowledged_writes": 1}},
		{"one node lacks the last", linearRaft, with(inTheEnd("a,b,", "", "a1"), first, tx(2, 3, "|append log b|", "-"), did(92, 93, history.Read, "glog", "a,", final)), Invalid, []string{"lost-transaction"}, nil},
		{"applied twice", linearRaft, with(inTheEnd("a,a,", "", "a1"), first), Invalid, []string{"repeated-transaction"}, nil},
		{"had failed", linearRaft, with(inTheEnd("a,b,", "", "a1"), first, tx(2, 3, "|append log b|", "", failed)), Invalid, []string{"phantom-transaction"}, nil},
		{"nobody's", linearRaft, with(inTheEnd("a,x,", "", "a1"), first), Invalid, []string{"phantom-transaction"}, nil},
		{"both branches", linearRaft, with(inTheEnd("a,b,", "", "a1"), first, tx(2, 3, "is reg x|append log b|get log", "a,", otherBranch)), Invalid, []string{"condition-ignored", "phantom-transaction"}, nil},
		{"done though its condition did not hold", linearRaft, with(inTheEnd("a,c,b,", "", "b1"), first, tx(2, 3, "|append log c;put reg c1|", "- -"), tx(4, 5, cas, "- -")), Invalid, []string{"condition-ignored"}, nil},
		{"unknown, done though its condition did not hold", linearRaft, with(inTheEnd("a,c,b,", "", "b1"), first, tx(2, 3, "|append log c;put reg c1|", "- -"), tx(4, 5, cas, "", unsure)), Invalid, []string{"condition-ignored"}, nil},
		{"not done though its condition held", linearRaft, with(inTheEnd("a,", "", "a1"), first, tx(2, 3, cas, "a, a1", otherBranch)), Invalid, []string{"condition-ignored"}, nil},
		{"done though something stood there", linearRaft, with(inTheEnd("a,b,", "", "b1"), first, tx(2, 3, "|append log b;create reg b1|", "- -")), Invalid, []string{"condition-ignored"}, nil},
		{"undone, and half of it stays", linearRaft, with(inTheEnd("a,", "x,", "a1"), first, tx(2, 3, "|append list x;append log b;create reg b1|", "", failed)), Invalid, []string{"not-a-state"}, nil},
		{"half of it", linearRaft, with(inTheEnd("a,b,", "", "a1"), first, tx(2, 3, "|append log b;append list x|", "- -")), Invalid, []string{"not-a-state"}, nil},
		{"half of it, seen on the way", linearRaft, with(inTheEnd("a,b,c,", "x,", "a1"), first, tx(2, 3, "|append log b;append list x|", "- -"), tx(4, 5, "|get list;append log c|", "- -")), Invalid, []string{"wrong-answer"}, nil},
		{"reads in two moments", linearRaft, with(inTheEnd("a,b,", "", "b1"), first, tx(2, 9, cas, "- -"), tx(2, 9, "|get log;get reg|", "a, b1")), Invalid, []string{"wrong-answer"}, nil},
		{"stale", linearRaft, with(inTheEnd("a,b,", "", "b1"), first, tx(2, 3, cas, "- -"), tx(4, 5, "|get log;get reg|", "a, a1")), Invalid, []string{"real-time"}, nil},
		{"from the future", linearRaft, with(inTheEnd("a,b,", "", "b1"), first, tx(2, 3, "|get log|", "a,b,"), tx(4, 5, cas, "- -")), Invalid, []string{"real-time"}, nil},
		{"against real time", linearRaft, with(inTheEnd("b,a,", "", "a1"), first, tx(2, 3, "|append log b;put reg b1|", "- -")), Invalid, []string{"real-time"}, nil},
		{"goes back", linearRaft, with(inTheEnd("a,", "", "a1"), tx(0, 9, "|append log a;put reg a1|", "- -"), tx(1, 2, "|get log|", "a,"), tx(3, 4, "|get log|", "-")), Invalid, []string{"real-time"}, nil},
		{"a log that never was", linearRaft, with(inTheEnd("a,", "", "a1"), first, tx(2, 3, "|get log|", "z,")), Invalid, []string{"not-a-state"}, nil},
		{"two logs in the end", linearRaft, with(inTheEnd("a,b,", "", ""), tx(0, 9, "|append log a|", "-"), tx(0, 9, "|append log b|", "-"), did(92, 93, history.Read, "glog", "b,a,", final)), Invalid, []string{"not-a-state"}, nil},
		{"an answer too few", linearRaft, with(inTheEnd("a,", "", "a1"), tx(0, 1, "|append log a;put reg a1|", "-")), Invalid, []string{"wrong-answer"}, nil},
		{"no final read", linearRaft, []history.Op{first}, Unknown, nil, nil},
		{"no transaction", linearRaft, inTheEnd("", "", ""), Unknown, nil, nil},
		{"no text of one", linearRaft, with(inTheEnd("", "", ""), tx(0, 1, "nonsense", "")), Unknown, nil, nil},
		{"two of one name", linearRaft, with(inTheEnd("a,", "", ""), tx(0, 1, "|append log a|", "-"), tx(0, 1, "|append log a|", "", unsure)), Unknown, nil, nil},
		{"it did not read the log", linearRaft, with(inTheEnd("", "", ""), tx(0, 1, "|get reg|", "-")), Unknown, nil, nil},
		{"levels that lose", weak, with(inTheEnd("a,", "", "a1"), first), Unknown, nil, nil},
	})
}

// Transactions that take effect one after the other, at a random moment each while they
// are under way, pass; with one answer, the order or the end changed they do not.
func TestTransactionsRandom(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 9))
		state := txnState{}
		var ops []history.Op
		var acked []int
		for i := range 60 {
			at := 10 * (i + 1)
			name := fmt.Sprint("n", i)
			body := history.TxnBody{Then: []history.TxnOp{{Kind: history.TxnGet, Key: "log"}, {Kind: history.TxnGet, Key: "list"}, {Kind: history.TxnGet, Key: "reg"}}}
			if rng.IntN(3) > 0 {
				body.Then = append(body.Then, history.TxnOp{Kind: history.TxnAppend, Key: "log", Value: name}, history.TxnOp{Kind: history.TxnAppend, Key: "list", Value: name}, history.TxnOp{Kind: history.TxnPut, Key: "reg", Value: name})
			}
			if state["reg"] != "" && rng.IntN(3) == 0 {
				body.If, body.Else = []history.TxnOp{{Kind: history.TxnIs, Key: "reg", Value: []string{state["reg"], "x"}[rng.IntN(2)]}}, body.Then[:3]
			}
			op := did(at-rng.IntN(25), at+rng.IntN(25), history.Txn, "g", body.String())
			branch := body.Then
			if len(body.If) > 0 && body.If[0].Value != state["reg"] {
				branch, op.Found = body.Else, false
			}
			for _, o := range branch {
				v, _ := state.apply(o)
				op.Elements = append(op.Elements, history.Element{Value: v})
			}
			if rng.IntN(6) == 0 {
				unsure(&op)
				op.Elements = nil
			} else {
				acked = append(acked, len(ops))
			}
			ops = append(ops, op)
		}
		end := inTheEnd(state["log"], state["list"], state["reg"])
		for i := range end {
			end[i].Invoke, end[i].Return = end[i].Invoke*100, end[i].Return*100
		}
		check := func(what string, want Verdict, change func(ops []history.Op)) {
			all := append(slices.Clone(ops), end...)
			for i := range all {
				all[i].Elements = slices.Clone(all[i].Elements)
			}
			change(all)
			if r := Transactions().Run(recorded(all...), linearRaft); r.Verdict != want {
				t.Errorf("seed %d: %s: %s, want %s: %s", seed, what, r.Verdict, want, r.Detail)
			}
		}
		victim := acked[rng.IntN(len(acked)/4)]
		check("as it was", Valid, func([]history.Op) {})
		check("an answer changed", Invalid, func(all []history.Op) { all[victim].Elements[1+rng.IntN(2)].Value = "other" })
		check("the end lacks the last", Invalid, func(all []history.Op) {
			for i := range all {
				if all[i].Key == "glist" {
					entries := entriesOf(all[i].Value)
					all[i].Value = strings.Join(append(entries[:0:0], entries[1:]...), ",") + ","
				}
			}
		})
		check("moved behind the end", Invalid, func(all []history.Op) {
			all[victim].Invoke, all[victim].Return = all[len(ops)-1].Return*3, all[len(ops)-1].Return*3
		})
	}
}
