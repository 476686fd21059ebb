package jepsen

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/workload"
	"fulcrum/mutant"
)

// client is one client thread. It plays one process at a time: after an operation
// whose outcome is unknown, which may still be under way, it goes on as another.
type client struct {
	r       *run
	id      int
	process int
	conn    workload.Client
	source  workload.Source
	rand    *rand.Rand

	session int
	token   consistency.Token
}

// loop makes operations, at the run's rate, until ctx ends. The last one is waited for.
func (c *client) loop(ctx context.Context) {
	for ctx.Err() == nil {
		if c.pace(ctx); ctx.Err() != nil {
			return
		}
		step := c.source.Next()
		op := c.do(context.WithoutCancel(ctx), step, history.Main)
		c.source.Done(op)
		c.r.rec.add(op)
		if op.Outcome == history.Info {
			c.process = c.r.newProcess()
		}
		if op.Outcome != history.OK && c.r.t.Rate == 0 {
			pause(ctx, 10*time.Millisecond) // a refusal is quick: do not spin on it
		}
	}
}

// Operations of a simulated run come in bursts: in the first second of ten, six times
// as many as the rate says, and fewer in the rest. Virtual time that passes without
// anything to do costs little, and operations that meet show more.
const (
	burstEvery = 10 * time.Second
	burstFor   = time.Second
	burstRate  = 6.0
)

// pace waits so long that all clients together keep the run's rate: 0.5 to 1.5 of the
// mean, so that they are never in step, but no longer than until the next burst.
func (c *client) pace(ctx context.Context) {
	rate, most := c.r.t.Rate, time.Duration(math.MaxInt64)
	if rate == 0 {
		return
	}
	if c.r.t.Sim {
		burst := float64(burstFor) / float64(burstEvery)
		if at := c.r.since() % burstEvery; at < burstFor {
			rate *= burstRate
		} else {
			rate, most = rate*(1-burstRate*burst)/(1-burst), burstEvery-at // so that the mean is the rate
		}
	}
	mean := float64(c.r.t.Concurrency) / rate * float64(time.Second)
	pause(ctx, min(time.Duration(mean*(0.5+c.rand.Float64())), most))
}

// do makes one operation and says what came of it.
func (c *client) do(ctx context.Context, step workload.Step, phase history.Phase) history.Op {
	rq := step.Request
	rq.Keyspace = keyspace
	if rq.Level == (consistency.Level{}) {
		if rq.Level = c.r.t.Read; rq.F.Mutates() {
			rq.Level = c.r.t.Write
		}
	}
	if step.Session != c.session {
		c.session, c.token = step.Session, ""
	}
	if !c.r.t.NoTokens {
		rq.Session = c.token
	}
	op := history.Op{Process: c.process, Client: c.id, Session: step.Session, Token: rq.Session != "", Phase: phase, F: rq.F, Node: rq.Node, Level: rq.Level,
		Key: rq.Key, Value: rq.Value, Expect: rq.Expect, TTL: rq.TTL, Staleness: -1}
	op.Invoke = c.r.since()
	rep, err := c.send(ctx, rq)
	op.Return = c.r.since()
	fill(&op, rep)
	judge(&op, rep, err)
	if step.Session != 0 && rep.Receipt.Session != "" {
		c.token = rep.Receipt.Session
	}
	c.r.counts[op.Outcome].Add(1)
	return op
}

// insistMost is how often a request with an id is sent in all.
const insistMost = 4

// send sends rq once; one with an id again, and to other nodes, while nobody knows what
// became of it. A later refusal says nothing of the attempts before: only an answer ends
// the doubt.
func (c *client) send(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	rep, err := c.attempt(ctx, rq)
	nodes := c.r.w.Nodes()
	for again := 1; again < insistMost && rq.ID != "" && err != nil && fulcrum.AsError(err).Maybe && ctx.Err() == nil; again++ {
		rq.Node = nodes[(slices.Index(nodes, rq.Node)+1)%len(nodes)]
		if next, failed := c.attempt(ctx, rq); failed == nil {
			return next, nil
		}
	}
	return rep, err
}

func (c *client) attempt(ctx context.Context, rq workload.Request) (workload.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.r.t.OpTimeout)
	defer cancel()
	return c.conn.Do(ctx, rq)
}

// fill takes over what the reply says.
func fill(op *history.Op, rep workload.Reply) {
	rc := rep.Receipt
	op.Given, op.Acks, op.Mode, op.Epoch, op.Staleness = rc.Given, rc.Acks, rc.Mode, rc.Epoch, rc.Staleness
	op.Version, op.Elements = rep.Version, rep.Elements
	if op.F == history.Read {
		op.Value, op.Found = rep.Value, rep.Found
	}
	if op.F == history.Txn {
		op.Found = rep.Found
	}
	if rc.Keyspace == "" {
		op.Staleness = -1
	}
}

// judge sets the outcome. What only reads has none that could be unknown: it failed.
func judge(op *history.Op, rep workload.Reply, err error) {
	switch e := fulcrum.AsError(err); {
	case err == nil && op.F == history.CAS && !rep.Applied:
		op.Outcome, op.Code = history.Fail, fulcrum.CodeConflict
	case err == nil:
		op.Outcome = history.OK
		op.Found = op.Found || op.F == history.CAS
	case op.F.Mutates() && (e.Maybe || e.Code == fulcrum.CodeUnknown):
		op.Outcome, op.Code, op.Error = history.Info, e.Code, e.Error()
		if mutant.On("outcomes-swapped") {
			op.Outcome = history.Fail // mutant: unknown is taken for not done
		}
		if mutant.On("unknown-as-ok") {
			op.Outcome = history.OK // mutant: unknown is taken for done
		}
	default:
		op.Outcome, op.Code, op.Error = history.Fail, e.Code, e.Error()
	}
	if op.Outcome != history.OK {
		op.Version, op.Elements = fulcrum.Version{}, nil
	}
}
