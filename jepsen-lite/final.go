package jepsen

import (
	"context"
	"slices"
	"sync"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/workload"
)

// readers is how many final reads are under way at a time on each node.
const readers = 2

// final reads everything on every node: at the run's own level, for what was promised,
// and at level one, for what each replica has. Replicas get t.Settle to agree; if they
// do not, what they said last is recorded and judged.
func (r *run) final(ctx context.Context) {
	reads := r.work.Final()
	r.rec.add(r.readAll(ctx, reads, r.t.Read)...)
	until := time.Now().Add(r.t.Settle)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		ops := r.readAll(ctx, reads, consistency.L(consistency.One))
		if agree(ops) || ctx.Err() != nil || time.Now().After(until) {
			r.rec.add(ops...)
			return
		}
		pause(ctx, wait)
	}
}

// readAll makes every read on every node. A read that fails is tried again for a while:
// the cluster has recovered, but a leader may just be moving.
func (r *run) readAll(ctx context.Context, reads []workload.Request, level consistency.Level) []history.Op {
	var mu sync.Mutex
	var out []history.Op
	var wg sync.WaitGroup
	for i, node := range r.w.Nodes() {
		for part := range readers {
			id := r.t.Concurrency + 1 + i*readers + part // behind the clients and the probe
			c := &client{r: r, id: id, process: r.newProcess(), conn: r.w.Client(id)}
			wg.Go(func() {
				for i := part; i < len(reads) && ctx.Err() == nil; i += readers {
					op := r.readOnce(ctx, c, node, reads[i], level)
					mu.Lock()
					out = append(out, op)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return out
}

func (r *run) readOnce(ctx context.Context, c *client, node fulcrum.NodeID, rq workload.Request, level consistency.Level) history.Op {
	rq.Node, rq.Level = node, level
	for try := 1; ; try++ {
		op := c.do(ctx, workload.Step{Request: rq}, history.Final)
		if op.Outcome == history.OK || try == 20 || ctx.Err() != nil {
			return op
		}
		pause(ctx, time.Duration(try)*50*time.Millisecond)
	}
}

// agree reports whether all nodes gave the same answers, as checker.Converge asks: a
// tombstone that one replica has purged already is no difference.
func agree(ops []history.Op) bool {
	first := map[string]int{}
	for i := range ops {
		op := &ops[i]
		if op.Outcome != history.OK {
			return false
		}
		if op.F == history.Watch { // cut into batches as it comes
			continue
		}
		j, seen := first[op.Key]
		if !seen || (!ops[j].Found && ops[j].Version.IsZero()) {
			first[op.Key] = i
		}
		if !seen {
			continue
		}
		o := &ops[j]
		purged := !op.Found && !o.Found && (op.Version.IsZero() || o.Version.IsZero())
		if op.Found != o.Found || op.Value != o.Value || (op.Version != o.Version && !purged) || !slices.Equal(op.Elements, o.Elements) {
			return false
		}
	}
	return true
}
