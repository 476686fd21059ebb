package sim

import (
	"context"
	"fmt"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/workload"
	"fulcrum/node/api"
)

// Client is the way of one client to the nodes: it calls their Backend, as the Redis
// and HTTP servers do, over a connection that a kill resets.
func (c *Cluster) Client(int) workload.Client { return simClient{c} }

type simClient struct{ c *Cluster }

// Do makes one request at rq.Node.
func (s simClient) Do(ctx context.Context, rq workload.Request) (rep workload.Reply, err error) {
	call := api.Call{Keyspace: rq.Keyspace, Level: rq.Level, Session: rq.Session, ID: rq.ID}
	err = s.c.Call(ctx, rq.Node, func(ctx context.Context, b api.Backend) error {
		switch rq.F {
		case history.Read:
			return read(ctx, b, call, rq, &rep)
		case history.Scan:
			return scan(ctx, b, call, rq, &rep)
		case history.Watch:
			return watch(ctx, b, rq, &rep)
		case history.Txn:
			return txn(ctx, b, call, rq, &rep)
		case history.Pair:
			call.Atomic = true
		}
		return write(ctx, b, call, rq, &rep)
	})
	if err != nil && fulcrum.AsError(err).Maybe {
		rep = workload.Reply{Receipt: rep.Receipt} // the answer did not get through
	}
	return rep, err
}

func read(ctx context.Context, b api.Backend, call api.Call, rq workload.Request, rep *workload.Reply) error {
	entries, rc, err := b.Read(ctx, call, [][]byte{[]byte(rq.Key)})
	rep.Receipt = rc
	if err != nil {
		return err
	}
	if len(entries) != 1 {
		return fulcrum.Errorf(fulcrum.CodeInternal, "%d answers for one key", len(entries))
	}
	rep.Version = entries[0].Version
	if rep.Found = entries[0].Live(b.Now()); rep.Found {
		rep.Value = string(entries[0].Value)
	}
	return nil
}

func scan(ctx context.Context, b api.Backend, call api.Call, rq workload.Request, rep *workload.Reply) error {
	req := api.Scan{Prefix: []byte(rq.Key)}
	for {
		page, rc, err := b.Scan(ctx, call, req)
		rep.Receipt = rc
		if err != nil {
			return err
		}
		for _, e := range page.Entries {
			rep.Elements = append(rep.Elements, history.Element{Key: string(e.Key), Value: string(e.Value), Version: e.Version})
		}
		if page.Next == nil {
			return nil
		}
		req.After = page.Next
	}
}

func watch(ctx context.Context, b api.Backend, rq workload.Request, rep *workload.Reply) error {
	ctx, cancel := context.WithTimeout(ctx, workload.WatchFor)
	defer cancel()
	err := b.Watch(ctx, api.Call{Keyspace: rq.Keyspace}, api.Watch{Prefix: []byte(rq.Key), After: rq.Value}, func(batch api.WatchBatch) error {
		if ctx.Err() != nil {
			return ctx.Err() // too late: the connection may be gone
		}
		for _, e := range batch.Events {
			rep.Elements = append(rep.Elements, history.Element{Key: string(e.Entry.Key), Value: string(e.Entry.Value), Version: e.Entry.Version})
		}
		rep.Elements = append(rep.Elements, history.Element{Value: batch.Next})
		if len(rep.Elements) >= workload.WatchMost {
			cancel()
		}
		return nil
	})
	switch {
	case len(rep.Elements) > 0:
		return nil
	case err == nil:
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "the watch was told nothing for %s", workload.WatchFor)
	}
	return err
}

func write(ctx context.Context, b api.Backend, call api.Call, rq workload.Request, rep *workload.Reply) error {
	var ws []fulcrum.Write
	w := fulcrum.Write{Op: fulcrum.OpPut, Key: []byte(rq.Key), Value: []byte(rq.Value)}
	switch rq.F {
	case history.Write, history.Add:
		w.TTL = rq.TTL.Milliseconds()
	case history.CAS:
		w.If, w.At, w.TTL = fulcrum.IfVersion, rq.Expect, rq.TTL.Milliseconds()
		if rq.Expect.IsZero() {
			w.If = fulcrum.IfAbsent
		}
	case history.Delete:
		w.Op, w.Value = fulcrum.OpDelete, nil
	case history.Pair:
		w.Key, w.If = append(w.Key, history.PairOne...), fulcrum.IfAbsent
		two := w
		two.Key = []byte(rq.Key + history.PairTwo)
		ws = append(ws, two)
	case history.Incr:
		w.Op = fulcrum.OpAdd
	case history.Append:
		w.Op, w.Value = fulcrum.OpAppend, append(w.Value, ',')
	default:
		return fulcrum.Errorf(fulcrum.CodeInvalid, "operation %q", rq.F)
	}
	ws = append(ws, w)
	results, rc, err := b.Write(ctx, call, ws)
	rep.Receipt = rc
	switch {
	case err != nil:
		return err
	case len(results) != len(ws):
		return fulcrum.Errorf(fulcrum.CodeUnknown, "%d results for %d writes", len(results), len(ws))
	case results[0].Err != nil:
		return results[0].Err
	}
	rep.Applied, rep.Version = results[0].Applied, results[0].Entry.Version
	return nil
}

// Create makes a keyspace, in the place of one of that name, and waits until every
// node has heard of it and is ready.
func (c *Cluster) Create(ctx context.Context, spec fulcrum.KeyspaceSpec) error {
	at := c.Running()[0]
	if _, err := c.Node(at).Keyspace(spec.Name); err == nil {
		if err := c.Node(at).DropKeyspace(ctx, spec.Name); err != nil {
			return err
		}
	}
	if _, err := c.Node(at).CreateKeyspace(ctx, spec); err != nil {
		return err
	}
	for _, name := range c.Running() {
		for {
			_, err := c.Node(name).Keyspace(spec.Name)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s has not heard of keyspace %s: %w", name, spec.Name, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return c.Ready(ctx)
}
