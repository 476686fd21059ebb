package lab

import (
	"context"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// converge measures for each keyspace how long after healing all nodes first gave
// the same answers.
func (r *capRun) converge(ctx context.Context) (map[string]aftermath, error) {
	healed := time.Now()
	var mu sync.Mutex
	after := map[string]aftermath{}
	var wg sync.WaitGroup
	for _, p := range r.plans {
		wg.Go(func() {
			took := r.agree(ctx, p, healed)
			mu.Lock()
			defer mu.Unlock()
			after[p.label] = aftermath{values: map[string]string{}, converged: took}
		})
	}
	wg.Wait()
	return after, ctx.Err()
}

// agree polls until every node answers a scan at the weak level, and all the same;
// nil when that takes too long.
func (r *capRun) agree(ctx context.Context, p plan, since time.Time) *float64 {
	ctx, cancel := context.WithTimeout(ctx, convergeAtMost)
	defer cancel()
	for {
		if r.same(ctx, p) {
			took := seconds(time.Since(since))
			return &took
		}
		if pause(ctx, convergeEvery) != nil {
			return nil
		}
	}
}

func (r *capRun) same(ctx context.Context, p plan) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	views := make([]map[string]string, len(r.nodes))
	errs := make([]error, len(r.nodes))
	var wg sync.WaitGroup
	for i, n := range r.nodes {
		wg.Go(func() { views[i], errs[i] = r.c.scan(ctx, n, r.names[p.label], p.weakRead) })
	}
	wg.Wait()
	for i := range views {
		if errs[i] != nil || !maps.Equal(views[i], views[0]) {
			return false
		}
	}
	return true
}

// check reads every key that was written, at the strong level, by whichever node
// answers. What cannot be read stays out of after's values.
func (r *capRun) check(ctx context.Context, after map[string]aftermath) error {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(checksAtOnce)
	for _, p := range r.plans {
		keys := map[string]bool{sharedKey: true}
		for _, o := range r.rec.all() {
			if o.keyspace == p.label && o.operation != Get && o.outcome != refused {
				keys[o.key] = true
			}
		}
		for key := range keys {
			g.Go(func() error {
				value, err := r.get(ctx, "", p, key, kind{Get, p.strongRead}, 2*opTimeout)
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					after[p.label].values[key] = value
				}
				return ctx.Err()
			})
		}
	}
	return g.Wait()
}
