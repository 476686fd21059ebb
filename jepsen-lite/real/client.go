package real

import (
	"context"
	"errors"
	"math"
	"strconv"
	"time"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/workload"
)

// Client is the way of one client to the nodes; one goroutine at a time may use it.
//
// Most goes over HTTP. Incr and Append go over the Redis protocol, where they are one
// step of the server: the Go client's are loops of several requests.
func (w *World) Client(int) workload.Client {
	c := &conn{w: w, redis: map[fulcrum.NodeID]*redisConn{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients = append(w.clients, c)
	return c
}

type conn struct {
	w     *World
	redis map[fulcrum.NodeID]*redisConn // only by whoever uses the client
}

// close ends the connections. Whoever uses the client must have ended.
func (c *conn) close() {
	for n, r := range c.redis {
		r.close()
		delete(c.redis, n)
	}
}

// Do sends one request to one node, once; see workload.Client. A mutation whose
// request may have left here and got no answer is an error with Maybe.
func (c *conn) Do(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	if _, ok := c.w.at[rq.Node]; !ok {
		return workload.Reply{}, fulcrum.Errorf(fulcrum.CodeNotFound, "no node %q", rq.Node).WithHint("there are %v", c.w.names)
	}
	rep, err := c.do(ctx, rq)
	if err == nil {
		return rep, nil
	}
	e := *fulcrum.AsError(err)
	switch {
	case !rq.F.Mutates():
		if e.Maybe { // what reads has no outcome to be unsure of
			e.Code, e.Maybe = fulcrum.CodeUnavailable, false
		}
	case e.Code == fulcrum.CodeInternal || e.Code == fulcrum.CodeUnknown: // a bug proves nothing
		e.Maybe = true
	}
	if e.Node == "" {
		e.Node = rq.Node
	}
	return workload.Reply{Receipt: rep.Receipt}, &e
}

func (c *conn) do(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	switch rq.F {
	case history.Read:
		return c.read(ctx, rq)
	case history.Scan:
		return c.scan(ctx, rq)
	case history.Watch:
		return c.watch(ctx, rq)
	case history.Pair:
		return c.atomic(ctx, rq, "MSETNX", rq.Key+history.PairOne, rq.Value, rq.Key+history.PairTwo, rq.Value)
	case history.Txn:
		return c.txn(ctx, rq)
	case history.Write, history.Add, history.CAS:
		return c.put(ctx, rq)
	case history.Delete:
		rc, err := c.w.cli.Delete(ctx, rq.Keyspace, rq.Key, options(rq)...)
		return workload.Reply{Applied: err == nil, Version: rc.Version, Receipt: rc}, err
	case history.Incr:
		if _, err := strconv.ParseInt(rq.Value, 10, 64); err != nil {
			return workload.Reply{}, fulcrum.Errorf(fulcrum.CodeInvalid, "incr by %q: want an integer", rq.Value)
		}
		if rq.ID != "" {
			return c.once(ctx, rq)
		}
		return c.atomic(ctx, rq, "INCRBY", rq.Key, rq.Value)
	case history.Append:
		return c.atomic(ctx, rq, "APPEND", rq.Key, rq.Value+",")
	}
	return workload.Reply{}, fulcrum.Errorf(fulcrum.CodeInvalid, "operation %q", rq.F)
}

// options sends rq to its node, once, at its level, with its token.
func options(rq workload.Request, more ...client.CallOption) []client.CallOption {
	opts := append([]client.CallOption{client.On(rq.Node), client.NoRetry(), client.Level(rq.Level)}, more...)
	if rq.Session != "" {
		opts = append(opts, client.In(client.NewSession(rq.Session)))
	}
	return opts
}

func (c *conn) read(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	item, err := c.w.cli.Get(ctx, rq.Keyspace, rq.Key, options(rq)...)
	rep := workload.Reply{Receipt: item.Receipt}
	switch {
	case err == nil:
		rep.Found, rep.Value, rep.Version = true, string(item.Value), item.Version
	case errors.Is(err, fulcrum.ErrNotFound) && item.Receipt.Keyspace != "": // a shard answered: there is a keyspace, and no key
		rep.Version = item.Receipt.Version
		return rep, nil
	}
	return rep, err
}

func (c *conn) put(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	var more []client.CallOption
	switch {
	case rq.F == history.CAS && rq.Expect.IsZero():
		more = append(more, client.IfAbsent())
	case rq.F == history.CAS:
		more = append(more, client.IfVersion(rq.Expect))
	}
	if rq.TTL > 0 {
		more = append(more, client.TTL(rq.TTL))
	}
	rc, err := c.w.cli.Put(ctx, rq.Keyspace, rq.Key, []byte(rq.Value), options(rq, more...)...)
	rep := workload.Reply{Applied: err == nil, Version: rc.Version, Receipt: rc}
	if rq.F == history.CAS && errors.Is(err, fulcrum.ErrConflict) && !client.Unknown(err) && rc.Keyspace != "" {
		return rep, nil // a shard answered that the condition does not hold
	}
	return rep, err
}

// once adds under a request id, which only HTTP carries.
func (c *conn) once(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	delta, err := strconv.ParseInt(rq.Value, 10, 64)
	if err != nil {
		return workload.Reply{}, fulcrum.Errorf(fulcrum.CodeInvalid, "incr by %q: want an integer", rq.Value)
	}
	_, rc, err := c.w.cli.Incr(ctx, rq.Keyspace, rq.Key, delta, options(rq, client.RequestID(string(rq.ID)))...)
	return workload.Reply{Applied: err == nil, Version: rc.Version, Receipt: rc}, err
}

// scan reads all pages. Each has a receipt: the reply's is the last, with the greatest
// staleness of all. A scan that finds nothing has none.
func (c *conn) scan(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	var rep workload.Reply
	var worst time.Duration
	for item, err := range c.w.cli.Scan(ctx, rq.Keyspace, client.Range{Prefix: rq.Key}, options(rq)...) {
		if err != nil {
			return rep, err
		}
		if worst = max(worst, item.Receipt.Staleness); item.Receipt.Staleness < 0 {
			worst = math.MaxInt64 // not known: nothing can be claimed for the whole
		}
		rep.Receipt = item.Receipt
		rep.Elements = append(rep.Elements, history.Element{Key: item.Key, Value: string(item.Value), Version: item.Version})
	}
	if rep.Receipt.Staleness = worst; worst == math.MaxInt64 {
		rep.Receipt.Staleness = -1
	}
	return rep, nil
}

func (c *conn) watch(ctx context.Context, rq workload.Request) (rep workload.Reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, workload.WatchFor)
	defer cancel()
	for batch, failed := range c.w.cli.Watch(ctx, rq.Keyspace, client.Watch{Prefix: rq.Key, After: rq.Value}, client.On(rq.Node), client.NoRetry()) {
		if failed != nil {
			err = failed
			break
		}
		for _, ch := range batch.Changes {
			rep.Elements = append(rep.Elements, history.Element{Key: ch.Key, Value: string(ch.Value), Version: ch.Version})
		}
		rep.Elements = append(rep.Elements, history.Element{Value: batch.Next})
		if len(rep.Elements) >= workload.WatchMost {
			break
		}
	}
	switch {
	case len(rep.Elements) > 0:
		return rep, nil
	case err == nil:
		err = fulcrum.Errorf(fulcrum.CodeUnavailable, "the watch was told nothing for %s", workload.WatchFor)
	}
	return rep, err
}

// atomic sends a command of the Redis protocol.
func (c *conn) atomic(ctx context.Context, rq workload.Request, args ...string) (workload.Reply, error) {
	r := c.redis[rq.Node]
	if r != nil && !r.alive() { // the node was restarted meanwhile: say so before anything is sent
		r.close()
		r = nil
	}
	if r == nil {
		var err error
		delete(c.redis, rq.Node)
		if r, err = dialRedis(ctx, c.w.at[rq.Node].redis); err != nil {
			return workload.Reply{}, err
		}
		c.redis[rq.Node] = r
	}
	rc, err := r.mutate(ctx, rq.Keyspace, rq.Level, rq.Session, args)
	if r.broken {
		r.close()
		delete(c.redis, rq.Node)
	}
	return workload.Reply{Applied: err == nil, Version: rc.Version, Receipt: rc}, err
}
