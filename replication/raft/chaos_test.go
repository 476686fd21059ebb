package raft_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// Each key has one writer, which writes 1, 2, 3 ... So a linearizable read must
// return at least what was acknowledged before it began, at most what was asked for
// before it ended, and never less than an earlier read that had ended.
func TestLinearizableThroughFaults(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, seed) })
		})
	}
}

type register struct {
	asked, acked, seen atomic.Int64
}

func raise(a *atomic.Int64, to int64) {
	for v := a.Load(); v < to && !a.CompareAndSwap(v, to); v = a.Load() {
	}
}

func chaos(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 42))
	tuning := raft.Tuning{TrailingEntries: 16, SnapshotEntries: 64, SnapshotEvery: 2 * time.Second}
	c := replicationtest.NewCluster(t, 3+2*int(seed%2), opener(tuning), replicationtest.Options{})
	defer c.Close()
	c.Net.Latency(time.Millisecond)
	end := time.Now().Add(time.Minute)
	regs := make([]register, 4)
	var wg sync.WaitGroup
	var writes, reads, unknown atomic.Int64
	pick := func(r *rand.Rand) fulcrum.NodeID { return c.IDs[r.IntN(len(c.IDs))] }
	for k := range regs {
		reg, key := &regs[k], fmt.Sprint("key", k)
		r := rand.New(rand.NewPCG(seed, uint64(k)))
		wg.Go(func() {
			for n := int64(1); time.Now().Before(end); n++ {
				raise(&reg.asked, n)
				ctx, cancel := within(3 * time.Second)
				_, err := c.Write(ctx, pick(r), put(key, fmt.Sprint(n)))
				cancel()
				if err == nil {
					raise(&reg.acked, n)
					writes.Add(1)
				} else if fulcrum.AsError(err).Maybe {
					unknown.Add(1)
				}
				time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
			}
		})
		for i := range 2 {
			r := rand.New(rand.NewPCG(seed, uint64(100+2*k+i)))
			wg.Go(func() {
				for time.Now().Before(end) {
					atLeast := max(reg.acked.Load(), reg.seen.Load())
					ctx, cancel := within(time.Second)
					reply, err := pickAlive(c, r).Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte(key)}, Level: consistency.L(consistency.Linearizable)})
					cancel()
					if err == nil {
						reads.Add(1)
						got, _ := strconv.ParseInt(string(reply.Entries[0].Value), 10, 64)
						if got < atLeast || got > reg.asked.Load() {
							t.Errorf("%s: read %d, but %d had been read or acknowledged before it began", key, got, atLeast)
						}
						raise(&reg.seen, got)
					}
					time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
				}
			})
		}
	}
	for time.Now().Before(end) {
		time.Sleep(time.Duration(500+rnd.IntN(3000)) * time.Millisecond)
		switch rnd.IntN(6) {
		case 0:
			c.Net.Isolate(pick(rnd))
		case 1:
			c.Net.Cut(pick(rnd), pick(rnd))
		case 2:
			c.Net.CutOneWay(pick(rnd), pick(rnd))
		case 3:
			c.Restart(pick(rnd))
		case 4:
			ctx, cancel := within(time.Second)
			_ = c.Group(pick(rnd)).HandOver(ctx)
			cancel()
		default:
			c.Net.Heal()
		}
	}
	wg.Wait()
	c.Net.Heal()
	l := leader(t, c)
	mustPut(t, c, l, "last", "v")
	equal(t, c)
	for k := range regs {
		got, err := read(c, l, fmt.Sprint("key", k), consistency.L(consistency.Linearizable))
		if n, _ := strconv.ParseInt(got, 10, 64); err != nil || n < regs[k].acked.Load() {
			t.Errorf("key%d ends at %q (%v), acknowledged was %d", k, got, err, regs[k].acked.Load())
		}
	}
	if writes.Load() < 300 || reads.Load() < 300 {
		t.Errorf("only %d writes and %d reads succeeded: too few to mean anything", writes.Load(), reads.Load())
	}
	t.Logf("%d writes (%d unknown), %d reads", writes.Load(), unknown.Load(), reads.Load())
}

// pickAlive: a restart takes a group away for a moment.
func pickAlive(c *replicationtest.Cluster, r *rand.Rand) replication.Group {
	for {
		if g := c.Group(c.IDs[r.IntN(len(c.IDs))]); g != nil {
			return g
		}
		time.Sleep(time.Millisecond)
	}
}
