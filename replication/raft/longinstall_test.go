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

// slowly is a State that takes long for each piece that is read of it, or put into it.
type slowly struct {
	replication.State
	read, put time.Duration
}

type slowView struct {
	replication.View
	takes time.Duration
}

func (s slowly) View() (replication.View, error) {
	v, err := s.State.View()
	return slowView{v, s.read}, err
}

func (v slowView) Scan(start, end []byte, f func(fulcrum.Entry) bool) error {
	time.Sleep(v.takes)
	return v.View.Scan(start, end, f)
}

func (s slowly) Install(index uint64, extra map[string][]byte, fill func(put func(fulcrum.Entry) error) error) error {
	return s.State.Install(index, extra, func(put func(fulcrum.Entry) error) error {
		return fill(func(e fulcrum.Entry) error {
			time.Sleep(s.put)
			return put(e)
		})
	})
}

// Who stops in the middle of a snapshot, at either end, does not wait for the rest of it: the
// next epoch of the shard may wait for that.
func TestStoppingInTheMiddleOfASnapshot(t *testing.T) {
	for _, tt := range []struct {
		name      string
		read, put time.Duration
		receiver  bool
	}{
		{"while it is read", time.Second, 0, false},
		{"while it is installed", 0, 100 * time.Millisecond, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{TrailingEntries: 1}), replicationtest.Options{
					Edit: func(env *replication.Env) { env.State = slowly{env.State, tt.read, tt.put} },
				})
				defer c.Close()
				l := leader(t, c)
				away := others(c, l)[0]
				c.Stop(away)
				for i := range 200 {
					mustPut(t, c, l, fmt.Sprint("old", i), strings.Repeat("v", 30_000))
				}
				snapshot(t, c, l)
				c.Restart(away)
				time.Sleep(5 * time.Second)
				if !tt.receiver {
					away = l
				} else if c.State(away).Applied() > 100 {
					t.Fatal("the install is over already")
				}
				begun := time.Now()
				c.Stop(away)
				if took := time.Since(begun); took > 3*time.Second {
					t.Errorf("stopping took %v", took)
				}
				c.Restart(away)
				time.Sleep(40 * time.Second)
				equal(t, c)
			})
		})
	}
}
