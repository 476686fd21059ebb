package leaderfollower

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
)

// tally bounds a counter: at least acked, at most begun increments have counted.
type tally struct {
	mu           sync.Mutex
	begun, acked int
}

func (c *tally) get() (acked, begun int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked, c.begun
}

// increment adds 1 at quorum through any node. What is definitely not done leaves
// the upper bound alone.
func (c *tally) increment(t *testing.T, w *world, at fulcrum.NodeID) {
	req := replication.WriteRequest{Level: consistency.L(consistency.QuorumOf),
		Writes: []fulcrum.Write{{Op: fulcrum.OpAdd, Key: []byte("n"), Value: []byte("1")}}}
	c.mu.Lock()
	c.begun++
	c.mu.Unlock()
	_, err := w.Write(within(t, 2*time.Second), at, req)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.acked++
	case !errors.Is(err, fulcrum.ErrUnknown):
		c.begun--
	}
}

// check reads the counter linearizably through any node. The upper bound is the
// increments begun by the end of the read; those taken back cannot lower it below
// what truly counted.
func (c *tally) check(t *testing.T, w *world, at fulcrum.NodeID, d time.Duration) bool {
	acked, _ := c.get()
	r, err := w.Read(within(t, d), at, get("n", strong))
	if err != nil {
		return false
	}
	_, begun := c.get()
	n, _ := strconv.Atoi(string(r.Entries[0].Value))
	if n < acked || n > begun {
		t.Errorf("the counter reads %d; %d increments were acknowledged before and %d begun", n, acked, begun)
	}
	return true
}

// TestCounterThroughFaults isolates, cuts, crashes and pauses leases at random: no
// acknowledged increment is lost, none counts twice, and no linearizable read is
// stale.
func TestCounterThroughFaults(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, 3, Options{KeepTail: 16}, false, func(t *testing.T, w *world) {
				var c tally
				var clients sync.WaitGroup
				end := time.Now().Add(3 * time.Minute)
				for i := range 3 {
					rnd := rand.New(rand.NewPCG(seed, uint64(i)))
					clients.Go(func() {
						for time.Now().Before(end) {
							at := w.IDs[rnd.IntN(3)]
							if rnd.IntN(2) == 0 {
								c.increment(t, w, at)
							} else {
								c.check(t, w, at, time.Second)
							}
							time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
						}
					})
				}
				nemesis(w, rand.New(rand.NewPCG(seed, 99)), end)
				clients.Wait()
				w.Net.Heal()
				if !c.check(t, w, "n1", 30*time.Second) {
					t.Error("no read succeeded after healing")
				}
				if acked, _ := c.get(); acked < 100 {
					t.Errorf("only %d increments were acknowledged", acked)
				}
			})
		})
	}
}

func nemesis(w *world, rnd *rand.Rand, end time.Time) {
	for time.Now().Before(end) {
		id, other := w.IDs[rnd.IntN(3)], w.IDs[rnd.IntN(3)]
		switch rnd.IntN(5) {
		case 0:
			w.Net.Isolate(id)
		case 1:
			w.Net.Isolate(w.who())
		case 2:
			w.Net.CutOneWay(id, other)
		case 3:
			w.Restart(id)
		case 4:
			w.Net.Latency(time.Duration(rnd.IntN(50)) * time.Millisecond)
		}
		time.Sleep(time.Duration(rnd.IntN(6000)) * time.Millisecond)
		w.Net.Heal()
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
	}
}

func BenchmarkQuorumWrites(b *testing.B) {
	w := newWorld(b, 3, Options{}, true)
	defer w.Close()
	for w.Group("n1").Status().Committed < 2 {
		time.Sleep(time.Millisecond)
	}
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := b.Context()
		for pb.Next() {
			if _, err := w.Group("n1").Write(ctx, put("k", "0123456789012345678901234567890123456789", consistency.QuorumOf)); err != nil {
				b.Error(err)
			}
		}
	})
}
