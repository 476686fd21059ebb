package raft_test

import (
	"fmt"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// A crash between the two steps that begin a group leaves a term without a configuration.
// Where that happened to all, nobody else could bring them one.
func TestACrashWhileAGroupBegins(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		for _, id := range threeVoters {
			log := replicationtest.NewLog()
			if err := log.SetMeta(map[string][]byte{raft.MetaHard: {1, 0}}); err != nil { // term 1, no vote
				t.Fatal(err)
			}
			e.open(id, log, threeVoters, nil)
		}
		propose(t, e.leader(), "x")
	})
}

// A replica that is storing a snapshot of its own, on a disk that takes long, is sent a newer
// one, behind which its log begins. The older one must not be stored over it.
func TestASnapshotIsNotStoredOverANewerOne(t *testing.T) {
	inEnsemble(t, raft.Tuning{TrailingEntries: 1}, func(t *testing.T, e *ensemble) {
		for _, id := range threeVoters {
			e.open(id, replicationtest.NewLog(), threeVoters, nil)
		}
		l := e.leader()
		for i := range 5 {
			propose(t, l, fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		away := fulcrum.NodeID("a")
		if e.id(l) == away {
			away = "b"
		}
		e.net.Isolate(away)
		m := e.replicas[away]
		m.log.SyncDelay(5 * time.Second)
		stored := make(chan error, 1)
		go func() {
			ctx, cancel := within(20 * time.Second)
			defer cancel()
			stored <- m.Snapshot(ctx)
		}()
		time.Sleep(time.Millisecond) // it is being stored
		m.log.SyncDelay(0)
		for i := range 20 {
			propose(t, l, fmt.Sprint("more ", i))
		}
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if err := l.Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
		e.net.Heal()
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		log := e.stop(away)
		if log.First() < 10 {
			t.Fatalf("the log begins at %d: no snapshot was installed, and this test means nothing", log.First())
		}
		m = e.open(away, log, nil, nil) // fails where the log begins behind the stored snapshot
		time.Sleep(time.Second)
		if got := len(m.list.all()); got != 25 {
			t.Errorf("%d commands after a restart, want 25", got)
		}
	})
}
