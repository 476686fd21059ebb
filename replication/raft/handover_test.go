package raft_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

func inBubble(t *testing.T, f func(*testing.T)) { synctest.Test(t, f) }

// A planned change of leader gives nobody's write an unknown outcome, with five
// replicas as well, where the heir and the leader alone are no majority.
func TestHandOverUnderLoadFailsNoWrite(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			cluster(t, n, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
				leader(t, c)
				for _, id := range c.IDs {
					c.Log(id).SyncDelay(3 * time.Millisecond)
				}
				c.Net.Latency(2 * time.Millisecond)
				stop := make(chan struct{})
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						for j := 0; ; j++ {
							select {
							case <-stop:
								return
							default:
							}
							ctx, cancel := within(2 * time.Second)
							if _, err := c.Write(ctx, c.IDs[i%n], put(fmt.Sprint(i, j), "v")); err != nil {
								t.Errorf("write: %v", err)
							}
							cancel()
						}
					})
				}
				moved := 0
				for range 20 {
					l := leader(t, c)
					ctx, cancel := within(5 * time.Second)
					if err := c.Group(l).HandOver(ctx); err != nil {
						t.Errorf("hand over: %v", err)
					}
					cancel()
					time.Sleep(100 * time.Millisecond)
					if leader(t, c) != l {
						moved++
					}
				}
				close(stop)
				wg.Wait()
				if moved < 20 {
					t.Errorf("the leader moved %d times of 20", moved)
				}
				equal(t, c)
			})
		})
	}
}

// A replica that retires gives its place away and takes none.
func TestRetiredReplicaTakesNoLeadership(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		g := c.Group(l).(*raft.Group)
		g.Retire()
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if err := g.HandOver(ctx); err != nil {
			t.Fatal(err)
		}
		n := leader(t, c)
		if n == l {
			t.Fatal("it still leads")
		}
		if err := c.Group(n).(*raft.Group).HandOverTo(ctx, l); err == nil {
			t.Error("it took the leadership")
		}
		c.Stop(n) // one of the two that are left must lead, and it is not the retired one
		rest := others(c, n)
		if m := leader(t, c, rest...); m == l {
			t.Error("it was elected")
		}
	})
}

// A leader that hears from nobody says so.
func TestNobodyIsThereToHandOverTo(t *testing.T) {
	cluster(t, 1, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		time.Sleep(time.Second) // no entry is under way
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		err := c.Group(l).HandOver(ctx)
		if !errors.Is(err, fulcrum.ErrUnavailable) || !strings.Contains(err.Error(), "no other voter has answered lately") {
			t.Errorf("hand over: %v", err)
		}
	})
}

// When everybody retires, nobody waits for an heir.
func TestNobodyIsLeftToHandOverTo(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		mustPut(t, c, l, "k", "v")
		time.Sleep(time.Second)
		for _, id := range c.IDs {
			c.Group(id).(*raft.Group).Retire()
		}
		ctx, cancel := within(time.Minute)
		defer cancel()
		if err := c.Group(l).HandOver(ctx); !errors.Is(err, fulcrum.ErrUnavailable) || ctx.Err() != nil {
			t.Errorf("hand over: %v, want a refusal before the deadline", err)
		}
		mustPut(t, c, l, "k", "w") // it goes on leading
	})
}
