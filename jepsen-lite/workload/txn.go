package workload

import (
	"fmt"

	"fulcrum/jepsen-lite/history"
)

// Keys of a group of the txn workload, behind the group's own {tag}, which keeps them in
// one shard. Every transaction that can write puts its name behind the log: so the log
// is the order in which they took effect, and the checker can repeat them all.
const (
	txnLog  = "log"
	txnList = "list"
	txnReg  = "reg"
	txnSum  = "sum"

	txnGroups  = 3
	perGroup   = 120 // transactions: each read of the log returns all of it
	mostInside = 3   // operations beside those on the log
)

// txn is the workload of transactions on a few keys of one shard.
type txn struct {
	s      Setup
	groups *keys
}

func newTxn(s Setup) Work { return &txn{s, newKeys("t", txnGroups, perGroup)} }

func groupOf(name string) string { return "{" + name + "}" }

func (w *txn) Source(i int) Source {
	return &txnClient{client: newClient(w.s, i), w: w, seen: map[string]string{}}
}

func (w *txn) Final() []Request {
	var out []Request
	for _, name := range w.groups.all() {
		for _, key := range []string{txnLog, txnList, txnReg, txnSum} {
			out = append(out, Request{F: history.Read, Key: groupOf(name) + key})
		}
	}
	return out
}

type txnClient struct {
	client
	w    *txn
	seen map[string]string // what each group's register held last
}

func (c *txnClient) Next() Step {
	group := groupOf(c.w.groups.take(c.rand.IntN(c.w.groups.slots())))
	name := c.value()
	var b history.TxnBody
	switch c.draw(25, 45, 20, 10) {
	case 0:
		b.Then = c.shuffled(history.TxnOp{Kind: history.TxnGet, Key: txnLog}, c.gets())
	case 1:
		b.Then = c.writes(name)
	case 2: // compare, then write, else look
		b.If = []history.TxnOp{{Kind: history.TxnIs, Key: txnReg, Value: c.seen[group]}}
		if c.seen[group] == "" {
			b.If[0].Kind = history.TxnAbsent
		}
		b.Then = c.writes(name)
		b.Else = c.shuffled(history.TxnOp{Kind: history.TxnGet, Key: txnLog}, []history.TxnOp{{Kind: history.TxnGet, Key: txnReg}})
	case 3: // all or nothing
		b.Then = append(c.writes(name), history.TxnOp{Kind: history.TxnCreate, Key: txnReg, Value: name})
	}
	return Step{Request: Request{F: history.Txn, Node: c.node(), Key: group, Value: b.String()}}
}

// gets reads some keys.
func (c *txnClient) gets() []history.TxnOp {
	var out []history.TxnOp
	for range 1 + c.rand.IntN(mostInside) {
		out = append(out, history.TxnOp{Kind: history.TxnGet, Key: []string{txnList, txnReg, txnSum}[c.rand.IntN(3)]})
	}
	return out
}

// writes is a transaction that adds name to the log and changes or reads other keys
// around it.
func (c *txnClient) writes(name string) []history.TxnOp {
	var out []history.TxnOp
	for i := range 1 + c.rand.IntN(mostInside) {
		switch c.draw(30, 25, 20, 5, 20) {
		case 0:
			out = append(out, history.TxnOp{Kind: history.TxnAppend, Key: txnList, Value: fmt.Sprintf("%s-%d", name, i)})
		case 1:
			out = append(out, history.TxnOp{Kind: history.TxnPut, Key: txnReg, Value: fmt.Sprintf("%s-%d", name, i)})
		case 2:
			out = append(out, history.TxnOp{Kind: history.TxnIncr, Key: txnSum, Value: fmt.Sprint(1 + c.rand.IntN(9))})
		case 3:
			out = append(out, history.TxnOp{Kind: history.TxnDelete, Key: txnReg})
		case 4:
			out = append(out, c.gets()[0])
		}
	}
	if c.chance(50) {
		out = append(out, history.TxnOp{Kind: history.TxnGet, Key: txnLog})
	}
	return c.shuffled(history.TxnOp{Kind: history.TxnAppend, Key: txnLog, Value: name}, out)
}

func (c *txnClient) shuffled(first history.TxnOp, others []history.TxnOp) []history.TxnOp {
	out := append([]history.TxnOp{first}, others...)
	c.rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// Done remembers what the group's register holds, for the next comparison.
func (c *txnClient) Done(op history.Op) {
	body, err := history.ParseTxn(op.Value)
	if op.Outcome != history.OK || err != nil {
		return
	}
	if len(c.seen) > 4*txnGroups {
		clear(c.seen)
	}
	ops := body.Then
	if !op.Found {
		ops = body.Else
	}
	for i, o := range ops {
		switch {
		case o.Key != txnReg:
		case o.Kind == history.TxnGet && i < len(op.Elements):
			c.seen[op.Key] = op.Elements[i].Value
		case o.Kind == history.TxnPut, o.Kind == history.TxnCreate:
			c.seen[op.Key] = o.Value
		case o.Kind == history.TxnDelete:
			delete(c.seen, op.Key)
		}
	}
}
