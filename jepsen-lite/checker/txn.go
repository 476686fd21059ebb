package checker

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"fulcrum/jepsen-lite/history"
)

// txnLogKey is the key of each group to which every transaction that writes appends a
// name of its own.
const txnLogKey = "log"

// Transactions judges transactions on the keys of one group for strict serializability,
// and believes no version. The log that is read in the end is the order in which those
// that write took effect; all are repeated in that order on an empty group, and each
// answer must be the one that comes out. One that did not write stands where the log
// that it read ends.
//
// Why that is enough: such an order, in which every answer is explained, is a serial
// execution, and real time is checked on it besides. It is also the only order there
// can be: a transaction appends to the log in the step in which it takes effect.
//
//	lost-transaction      acknowledged, and not in the log
//	phantom-transaction   in the log, and nobody asked for it, or it had failed, or its other branch was answered
//	repeated-transaction  in the log twice
//	condition-ignored     done though a condition of it did not hold at its place, or not done though all did
//	wrong-answer          answered with something else than what stood there at its place
//	not-a-state           read a log that never was, or changed other keys than the log says
//	real-time             took effect before one that had been over when it began
func Transactions() Check { return Check{Name: "transactions", Run: runTransactions} }

func runTransactions(h *history.History, s Spec) Result {
	t := newTally("transactions")
	c, err := contractOf(s)
	if err != nil || !c.durable || !c.ordered {
		t.unknown("transactions are judged where nothing acknowledged is lost and one order is kept, which these levels do not promise")
		return t.result("")
	}
	groups := byKey(h, func(op *history.Op) bool { return op.F == history.Txn })
	reads := byKey(h, func(op *history.Op) bool { return op.F == history.Read })
	of := map[string][]int32{}
	for n, name := range reads.names {
		of[name] = reads.ops(n)
	}
	for n, name := range groups.names {
		g := &txnGroup{tally: t, h: h, s: s, name: name, reads: of, named: map[string]int32{}, at: map[int][]int32{}, body: map[int32]history.TxnBody{}}
		g.judge(groups.ops(n))
	}
	if len(groups.names) == 0 {
		t.unknown("no transactions")
	}
	return t.result("%.0f transactions in %d groups (%.0f that wrote, %.0f of another branch or that only read) have one order that explains every answer and respects real time",
		t.stats["placed"], len(groups.names), t.stats["wrote"], t.stats["looked"])
}

// txnGroup is one group of keys.
type txnGroup struct {
	*tally
	h     *history.History
	s     Spec
	name  string
	reads map[string][]int32 // of single keys

	body  map[int32]history.TxnBody
	named map[string]int32 // transactions by what they append to the log
	log   []string         // the order
	least int              // entries of the log up to the last acknowledged one: every final read must show them
	at    map[int][]int32  // transactions that did not write, by the length of the log they saw
}

func (g *txnGroup) judge(ops []int32) {
	for _, i := range ops {
		body, err := history.ParseTxn(g.h.Ops[i].Value)
		if err != nil {
			g.unknown("group %q: %v", g.name, err)
			return
		}
		g.body[i] = body
		if name := logged(body.Then); name != "" {
			if other, twice := g.named[name]; twice {
				g.unknown("group %q: operations %d and %d have one name: %q", g.name, other, i, name)
				return
			}
			g.named[name] = i
		}
	}
	if g.order() && g.members(ops) {
		g.repeat()
		g.realTime()
	}
}

// logged is what a branch appends to the log.
func logged(ops []history.TxnOp) string {
	for _, o := range ops {
		if o.Kind == history.TxnAppend && o.Key == txnLogKey {
			return o.Value
		}
	}
	return ""
}

// order takes the longest log that a final read shows; others must be its beginnings.
func (g *txnGroup) order() bool {
	finals := settled(g.h, g.s, g.reads[g.name+txnLogKey])
	if len(finals) == 0 {
		g.unknown("group %q: its log was not read in the end", g.name)
		return false
	}
	longest := finals[0]
	for _, i := range finals {
		if len(g.h.Ops[i].Value) > len(g.h.Ops[longest].Value) {
			longest = i
		}
	}
	for _, i := range finals {
		if !strings.HasPrefix(g.h.Ops[longest].Value, g.h.Ops[i].Value) {
			g.add("not-a-state", g.name, []int{int(i), int(longest)}, "group %q: two final reads show the logs %q and %q", g.name, g.h.Ops[i].Value, g.h.Ops[longest].Value)
			return false
		}
	}
	g.log = entriesOf(g.h.Ops[longest].Value)
	for p, name := range g.log {
		if i, asked := g.named[name]; asked && g.h.Ops[i].Outcome == history.OK {
			g.least = p + 1
		}
	}
	for _, i := range finals {
		if len(entriesOf(g.h.Ops[i].Value)) < g.least {
			g.add("lost-transaction", g.name, []int{int(g.named[g.log[g.least-1]]), int(i)}, "group %q: %s was acknowledged and is not in a log that was read in the end", g.name, say(g.h, g.named[g.log[g.least-1]]))
		}
	}
	return true
}

func entriesOf(log string) []string {
	if log == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(log, ","), ",")
}

// members holds the log against what was asked and answered, and places transactions
// that did not write. It is false when they cannot be repeated.
func (g *txnGroup) members(ops []int32) bool {
	place := map[string]int{}
	sound := true
	for p, name := range g.log {
		i, asked := g.named[name]
		first, twice := place[name]
		switch {
		case !asked:
			g.add("phantom-transaction", g.name, nil, "group %q: %q is in the log, and no transaction has that name", g.name, name)
			sound = false
		case twice:
			g.add("repeated-transaction", g.name, []int{int(i)}, "group %q: %s is in the log at %d and at %d", g.name, say(g.h, i), first+1, p+1)
			sound = false
		case g.h.Ops[i].Outcome == history.Fail:
			g.add("phantom-transaction", g.name, []int{int(i)}, "group %q: %s had failed (%s) and is in the log", g.name, say(g.h, i), g.h.Ops[i].Code)
		case g.h.Ops[i].Outcome == history.OK && !g.h.Ops[i].Found:
			g.add("phantom-transaction", g.name, []int{int(i)}, "group %q: %s was answered with its other branch and is in the log", g.name, say(g.h, i))
		}
		place[name] = p
	}
	for _, i := range ops {
		op := &g.h.Ops[i]
		if op.Outcome != history.OK {
			continue
		}
		g.stats["placed"]++
		name := logged(g.body[i].Then)
		_, there := place[name]
		switch wrote := name != "" && op.Found; {
		case wrote && !there:
			g.stats["lost_acknowledged_writes"]++
			g.add("lost-transaction", g.name, []int{int(i)}, "group %q: %s was acknowledged and is not in the log", g.name, say(g.h, i))
		case wrote:
			g.stats["wrote"]++
		default:
			g.stats["looked"]++
			g.look(i)
		}
	}
	return sound
}

// look places a transaction that did not write.
func (g *txnGroup) look(i int32) {
	for k, o := range g.branch(i) {
		if o.Kind != history.TxnGet || o.Key != txnLogKey || k >= len(g.h.Ops[i].Elements) {
			continue
		}
		saw := entriesOf(g.h.Ops[i].Elements[k].Value)
		if len(saw) > len(g.log) || !slices.Equal(saw, g.log[:len(saw)]) {
			g.add("not-a-state", g.name, []int{int(i)}, "group %q: %s read a log that never was: %q", g.name, say(g.h, i), g.h.Ops[i].Elements[k].Value)
			return
		}
		g.at[len(saw)] = append(g.at[len(saw)], i)
		return
	}
	g.unknown("group %q: %s did not read the log", g.name, say(g.h, i))
}

// branch is what an answered transaction did.
func (g *txnGroup) branch(i int32) []history.TxnOp {
	if g.h.Ops[i].Found {
		return g.body[i].Then
	}
	return g.body[i].Else
}

// txnState is what stands in a group.
type txnState map[string]string

// repeat does all transactions again, in the order of the log, and compares.
func (g *txnGroup) repeat() {
	state := txnState{}
	may := map[string]map[string]bool{} // what a final read of each key may show
	for p := 0; ; p++ {
		for _, i := range g.at[p] {
			g.compare(i, g.h.Ops[i].Found, state, maps.Clone(state))
		}
		if p >= g.least {
			note(may, state)
		}
		if p == len(g.log) {
			break
		}
		i := g.named[g.log[p]]
		before := maps.Clone(state)
		g.compare(i, true, before, state)
	}
	g.finals(may)
}

func note(may map[string]map[string]bool, state txnState) {
	for _, key := range []string{"list", "reg", "sum"} { // an absent one counts as empty
		if may[key] == nil {
			may[key] = map[string]bool{}
		}
		may[key][state[key]] = true
	}
}

// compare does a branch of i, its first one if took, on state, which is changed, and
// holds the answer against what comes out; before is the state that its conditions were
// asked of.
func (g *txnGroup) compare(i int32, took bool, before, state txnState) {
	op, ops := &g.h.Ops[i], g.body[i].Else
	if took {
		ops = g.body[i].Then
	}
	known := op.Outcome == history.OK && op.Found == took
	holds := !slices.ContainsFunc(g.body[i].If, func(c history.TxnOp) bool { return before[c.Key] != c.Value })
	if took != holds {
		g.add("condition-ignored", g.name, []int{int(i)}, "group %q: %s: its conditions held: %v; its first branch was done: %v; there stood %v", g.name, say(g.h, i), holds, took, before)
	}
	if known && len(op.Elements) != len(ops) {
		g.add("wrong-answer", g.name, []int{int(i)}, "group %q: %s was answered with %d results for %d operations", g.name, say(g.h, i), len(op.Elements), len(ops))
		known = false
	}
	for k, o := range ops {
		want, ok := state.apply(o)
		if !ok {
			g.add("condition-ignored", g.name, []int{int(i)}, "group %q: %s: %s of %q was done and %q stood there", g.name, say(g.h, i), o.Kind, o.Key, state[o.Key])
		}
		if known && op.Elements[k].Value != want {
			g.add("wrong-answer", g.name, []int{int(i)}, "group %q: %s answered %q to its %s of %q; at its place in the order there stood %q", g.name, say(g.h, i), op.Elements[k].Value, o.Kind, o.Key, want)
		}
	}
}

// apply does one operation and returns its answer; false: it should have undone all.
func (s txnState) apply(o history.TxnOp) (answer string, ok bool) {
	switch o.Kind {
	case history.TxnGet:
		return s[o.Key], true
	case history.TxnCreate:
		ok = s[o.Key] == ""
		s[o.Key] = o.Value
		return "", ok
	case history.TxnPut:
		s[o.Key] = o.Value
	case history.TxnAppend:
		s[o.Key] += o.Value + ","
	case history.TxnDelete:
		delete(s, o.Key)
	case history.TxnIncr:
		a, _ := strconv.ParseInt(s[o.Key], 10, 64)
		b, _ := strconv.ParseInt(o.Value, 10, 64)
		s[o.Key] = strconv.FormatInt(a+b, 10)
		return s[o.Key], true
	}
	return "", true
}

// finals holds the final reads of the other keys against what may stand there.
func (g *txnGroup) finals(may map[string]map[string]bool) {
	for _, key := range slices.Sorted(maps.Keys(may)) {
		for _, i := range settled(g.h, g.s, g.reads[g.name+key]) {
			if value := g.h.Ops[i].Value; !may[key][value] {
				g.add("not-a-state", g.name, []int{int(i)}, "group %q: %s: %q is not what the transactions of the log leave there", g.name, say(g.h, i), value)
			}
		}
	}
}

// realTime finds transactions that stand in front of one that was over before they
// began. Those that did not write and saw the same log have no order among each other.
func (g *txnGroup) realTime() {
	youngest := none // of all in front, the one that began last
	began := func(i int32) time.Duration { return g.h.Ops[i].Invoke }
	check := func(i int32) {
		if op := &g.h.Ops[i]; youngest != none && op.Outcome == history.OK && op.Return < began(youngest) {
			g.add("real-time", g.name, []int{int(i), int(youngest)}, "group %q: %s was over before %s began, and took effect behind it", g.name, say(g.h, i), say(g.h, youngest))
		}
	}
	pass := func(i int32) {
		if youngest == none || began(i) > began(youngest) {
			youngest = i
		}
	}
	for p := 0; p <= len(g.log); p++ {
		for _, i := range g.at[p] {
			check(i)
		}
		for _, i := range g.at[p] {
			pass(i)
		}
		if p < len(g.log) {
			i := g.named[g.log[p]]
			check(i)
			pass(i)
		}
	}
}
