package real

import (
	"context"
	"strconv"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/workload"
)

// txn sends a transaction over HTTP. One that an operation undid is an error of
// CodeConflict.
func (c *conn) txn(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	body, err := history.ParseTxn(rq.Value)
	if err != nil {
		return workload.Reply{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
	}
	var t client.Txn
	for _, cond := range body.If {
		if cond.Kind == history.TxnIs {
			t.If = append(t.If, client.WhenValue(rq.Key+cond.Key, "=", []byte(cond.Value)))
		} else {
			t.If = append(t.If, client.WhenAbsent(rq.Key+cond.Key))
		}
	}
	if t.Then, err = opsOf(rq.Key, body.Then); err == nil {
		t.Else, err = opsOf(rq.Key, body.Else)
	}
	if err != nil {
		return workload.Reply{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
	}
	res, err := c.w.cli.Txn(ctx, rq.Keyspace, t, options(rq)...)
	rep := workload.Reply{Found: res.Succeeded, Receipt: res.Receipt}
	for _, r := range res.Results {
		rep.Elements = append(rep.Elements, history.Element{Key: r.Key[min(len(rq.Key), len(r.Key)):], Value: string(r.Value), Version: r.Version})
	}
	return rep, err
}

func opsOf(group string, ops []history.TxnOp) ([]client.Op, error) {
	var out []client.Op
	for _, o := range ops {
		key := group + o.Key
		switch o.Kind {
		case history.TxnGet:
			out = append(out, client.OpGet(key))
		case history.TxnPut:
			out = append(out, client.OpPut(key, []byte(o.Value)))
		case history.TxnCreate:
			out = append(out, client.OpPut(key, []byte(o.Value)).IfAbsent())
		case history.TxnAppend:
			out = append(out, client.OpAppend(key, []byte(o.Value+",")))
		case history.TxnIncr:
			n, err := strconv.ParseInt(o.Value, 10, 64)
			if err != nil {
				return nil, err
			}
			out = append(out, client.OpIncr(key, n))
		case history.TxnDelete:
			out = append(out, client.OpDelete(key))
		}
	}
	return out, nil
}
