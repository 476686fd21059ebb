package raft_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// pictured is a State that counts the pictures that were taken of it: each is a whole shard
// that is read, and written to the disk again.
type pictured struct {
	replication.State
	taken *atomic.Int64
}

func (p pictured) View() (replication.View, error) {
	p.taken.Add(1)
	return p.State.View()
}

// A replica that is away for long, and needs a snapshot, costs the leader nothing: a snapshot
// is made for one that is there to take it.
func TestNoSnapshotIsMadeForOneThatIsAway(t *testing.T) {
	for _, how := range []string{"cut off", "down"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var taken atomic.Int64
				c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{TrailingEntries: 2}), replicationtest.Options{
					Edit: func(env *replication.Env) { env.State = pictured{env.State, &taken} },
				})
				defer c.Close()
				mustPut(t, c, leader(t, c), "large", strings.Repeat("v", 100<<10))
				l, away := leaveBehind(t, c)
				if how == "down" {
					c.Stop(away)
				}
				time.Sleep(30 * time.Second)
				before := taken.Load()
				for i := range 60 {
					mustPut(t, c, l, fmt.Sprint("later", i), "v")
					time.Sleep(time.Second)
				}
				if n := taken.Load() - before; n > 0 {
					t.Errorf("%d snapshots were made in a minute for a replica that answers nothing", n)
				}
				if how == "down" {
					c.Restart(away)
				}
				c.Net.Heal()
				reaches(t, c, away, 5*time.Second)
				equal(t, c)
				if n := taken.Load() - before; n != 1 {
					t.Errorf("%d snapshots were made for a replica that came back, want one", n)
				}
			})
		})
	}
}

// A learner that is taken out and back in while a snapshot is on its way to it gets that one: two
// at once would end each other, again and again.
func TestALearnerThatIsTakenBackIn(t *testing.T) {
	cluster(t, 3, raft.Tuning{TrailingEntries: 1}, func(t *testing.T, c *replicationtest.Cluster) {
		l := leader(t, c)
		for i := range 120 {
			mustPut(t, c, l, fmt.Sprint("old", i), strings.Repeat("v", 30_000))
		}
		snapshot(t, c, l)
		id := c.Learner()
		narrow(c, id, 200<<10)
		learn(t, c, l, id)
		time.Sleep(5 * time.Second)
		learn(t, c, l)
		learn(t, c, l, id)
		reaches(t, c, id, time.Minute)
		narrow(c, id, 0)
		equal(t, c)
	})
}
