package sim

import (
	"context"
	"fmt"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/workload"
	"fulcrum/node/api"
)

// txn runs a transaction. One that an operation undid is an error of CodeConflict.
func txn(ctx context.Context, b api.Backend, call api.Call, rq workload.Request, rep *workload.Reply) error {
	body, err := history.ParseTxn(rq.Value)
	if err != nil {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "%w", err)
	}
	t := api.Txn{Atomic: true, Then: writesOf(rq.Key, body.Then), Else: writesOf(rq.Key, body.Else)}
	for _, c := range body.If {
		cmp := fulcrum.Compare{Key: []byte(rq.Key + c.Key), Op: fulcrum.Equal}
		if c.Kind == history.TxnIs {
			cmp.Target, cmp.Value = fulcrum.CompareValue, []byte(c.Value)
		}
		t.If = append(t.If, cmp)
	}
	answer, rc, err := b.Txn(ctx, call, t)
	rep.Receipt = rc
	if err != nil {
		return err
	}
	ops := body.Then
	if rep.Found = answer.Succeeded; !rep.Found {
		ops = body.Else
	}
	if len(answer.Results) != len(ops) {
		return fulcrum.Errorf(fulcrum.CodeUnknown, "%d results for %d operations", len(answer.Results), len(ops))
	}
	for i, res := range answer.Results {
		el := history.Element{Key: ops[i].Key, Version: res.Entry.Version}
		switch kind := ops[i].Kind; {
		case res.Err != nil:
			return fmt.Errorf("operation %d: %w", i, res.Err)
		case kind == history.TxnGet:
			el.Value, el.Version = string(res.Old.Value), res.Old.Version
		case !res.Applied:
			return fulcrum.Errorf(fulcrum.CodeConflict, "an operation's condition did not hold")
		case kind == history.TxnIncr:
			el.Value = string(res.Entry.Value)
		}
		rep.Elements = append(rep.Elements, el)
	}
	return nil
}

func writesOf(group string, ops []history.TxnOp) []fulcrum.Write {
	var ws []fulcrum.Write
	for _, o := range ops {
		w := fulcrum.Write{Key: []byte(group + o.Key), Value: []byte(o.Value)}
		switch o.Kind {
		case history.TxnGet:
			w.Op = fulcrum.OpGet
		case history.TxnPut:
			w.Op = fulcrum.OpPut
		case history.TxnCreate:
			w.Op, w.If = fulcrum.OpPut, fulcrum.IfAbsent
		case history.TxnAppend:
			w.Op, w.Value = fulcrum.OpAppend, append(w.Value, ',')
		case history.TxnIncr:
			w.Op = fulcrum.OpAdd
		case history.TxnDelete:
			w.Op = fulcrum.OpDelete
		}
		ws = append(ws, w)
	}
	return ws
}
