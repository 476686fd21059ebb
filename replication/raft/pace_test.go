package raft_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// Clients that take a moment between an answer and their next request still share
// entries, all of them; one that writes alone does not wait for company.
func TestEntriesWaitForCompany(t *testing.T) {
	cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
		const clients, each = 16, 20
		a := leader(t, c)
		mustPut(t, c, a, "k", "v")
		for _, id := range c.IDs {
			c.Log(id).SyncDelay(5 * time.Millisecond)
		}
		before := c.Log(a).Last()
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 500 * time.Microsecond) // two cohorts: those before and behind an entry
				for j := range each {
					mustPut(t, c, a, fmt.Sprint(i), fmt.Sprint(j))
					time.Sleep(time.Millisecond)
				}
			})
		}
		all.Wait()
		if entries := c.Log(a).Last() - before; entries > each*3/2 {
			t.Errorf("%d clients with %d writes each took %d entries, want about %d", clients, each, entries, each)
		}

		before = c.Log(a).Last()
		begun := time.Now()
		for range each {
			mustPut(t, c, a, "k", "v")
		}
		if took := time.Since(begun) / each; took > 6*time.Millisecond || c.Log(a).Last()-before != each {
			t.Errorf("alone, a write took %v, want one sync of 5ms", took)
		}
	})
}

// A follower knows soon what is committed: when the leader falls silent it is told at
// once, and if it does not hear that, by the next heartbeat.
func TestFollowersHearWhatIsCommitted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		deaf   bool // to what is told at once: it is lost
		within time.Duration
	}{
		{"at once", false, 30 * time.Millisecond},
		{"by a heartbeat", true, 1500 * time.Millisecond}, // one that was lost, too, is given up after a second
	} {
		t.Run(tt.name, func(t *testing.T) {
			cluster(t, 3, raft.Tuning{}, func(t *testing.T, c *replicationtest.Cluster) {
				a := leader(t, c)
				mustPut(t, c, a, "k", "old")
				time.Sleep(time.Second)
				from := time.Now().Add(20 * time.Millisecond)
				c.Net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
					v.Drop = tt.deaf && raft.IsHeartbeat(msg) && time.Now().Before(from)
					return v
				})
				mustPut(t, c, a, "k", "new")
				time.Sleep(tt.within)
				for _, id := range c.IDs {
					if got, err := read(c, id, "k", consistency.L(consistency.One)); err != nil || got != "new" {
						t.Errorf("%s after the write %s shows %q, %v", tt.within, id, got, err)
					}
				}
			})
		})
	}
}
