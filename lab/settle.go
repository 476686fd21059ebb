package lab

import (
	"context"
	"slices"
	"sync"
	"time"
)

// settle asks both sides at once after the cut, and probes them until neither has
// changed its answers for a while.
func (r *capRun) settle(ctx context.Context) error {
	r.step(3, "asking both sides at once, and until their answers change no more")
	cutAt := time.Now()
	probing, stop := context.WithCancel(ctx)
	defer stop()
	var watchers, asking sync.WaitGroup
	for _, p := range r.plans {
		for _, side := range []string{Minority, Majority} {
			for _, k := range []kind{{Put, p.weakWrite}, {Get, p.strongRead}} {
				w := &watch{keyspace: p.label, side: side, operation: k.operation, level: k.level.String()}
				r.watches = append(r.watches, w)
				watchers.Go(func() { r.probe(probing, cutAt, w, p, side, k) })
				asking.Go(func() {
					if k.operation == Get && side == Minority {
						r.one(ctx, AtOnce, p, side, kind{Overwrite, p.weakWrite}, 0, time.Second)
					}
					r.series(ctx, AtOnce, p, side, k, 0, opsPerRow)
				})
			}
		}
	}
	asking.Wait()
	err := r.untilCalm(ctx, cutAt)
	stop()
	watchers.Wait()
	return err
}

// probe repeats one operation until ctx ends.
func (r *capRun) probe(ctx context.Context, cutAt time.Time, w *watch, p plan, side string, k kind) {
	for i := 0; ctx.Err() == nil; i++ {
		began := time.Since(cutAt)
		o := r.one(ctx, Settling, p, side, k, i, probeTimeout)
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		w.probes = append(w.probes, probe{began: began, ended: time.Since(cutAt), answered: o == answered})
		r.mu.Unlock()
		if pause(ctx, probeEvery) != nil {
			return
		}
	}
}

func (r *capRun) untilCalm(ctx context.Context, cutAt time.Time) error {
	for {
		now := time.Since(cutAt)
		if now >= settleAtMost || now >= settleAtLeast && r.calm(now) {
			return nil
		}
		if err := pause(ctx, probeEvery); err != nil {
			return err
		}
	}
}

func (r *capRun) calm(now time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(r.watches, func(w *watch) bool { return !w.settled(now, settleCalm) })
}
