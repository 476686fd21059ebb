package raft_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// slowInstall is a State that takes long to be replaced.
type slowInstall struct {
	replication.State
	takes time.Duration
}

func (s slowInstall) Install(index uint64, extra map[string][]byte, fill func(put func(fulcrum.Entry) error) error) error {
	time.Sleep(s.takes)
	return s.State.Install(index, extra, fill)
}

// However long a replica takes to install a snapshot, that one is enough: its leader does not
// send others meanwhile, of which none would be in time either.
func TestAnInstallThatTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tuning := raft.Tuning{TrailingEntries: 2, SnapshotEntries: 16, SnapshotEvery: time.Second}
		c := replicationtest.NewCluster(t, 3, opener(tuning), replicationtest.Options{
			Edit: func(env *replication.Env) { env.State = slowInstall{env.State, 7 * time.Minute} },
		})
		defer c.Close()
		var mu sync.Mutex
		transfers := map[uint64]bool{}
		mustPut(t, c, leader(t, c), "large", strings.Repeat("v", 100<<10))
		l, away := leaveBehind(t, c)
		c.Net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) (v replicationtest.Verdict) {
			if id := raft.TransferOf(msg); id > 0 {
				mu.Lock()
				defer mu.Unlock()
				transfers[id] = true
			}
			return v
		})
		c.Net.Heal()
		for i := range 8 * 60 {
			mustPut(t, c, l, fmt.Sprint("meanwhile", i), "v")
			time.Sleep(time.Second)
		}
		reaches(t, c, away, 5*time.Second)
		c.Net.OnCall(nil)
		if len(transfers) != 1 {
			t.Errorf("%d snapshots were sent, want one", len(transfers))
		}
		equal(t, c)
	})
}
