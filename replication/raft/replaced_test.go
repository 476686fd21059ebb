package raft_test

import (
	"errors"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// A change of the configuration that another leader's entry has taken the place of is not
// taken for done, however late its caller looks: it would go on as if somebody had no vote
// who still has one.
func TestAChangeThatWasReplacedIsNotDone(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		for _, id := range threeVoters {
			e.open(id, replicationtest.NewLog(), threeVoters, nil)
		}
		old := e.leader()
		propose(t, old, "before")
		e.net.Isolate(e.id(old))
		index, term := old.LastPlace()
		ctx, cancel := within(10 * time.Second) // it steps down before
		defer cancel()
		if err := old.RemoveServer(ctx, e.others(old)[0]); fulcrum.AsError(err) == nil || !fulcrum.AsError(err).Maybe {
			t.Errorf("a change that the next leader may still commit: %v", err)
		}
		mine, _ := old.LastPlace()
		if mine <= index {
			t.Fatal("this shows nothing: the change is not in the log")
		}
		next := e.leader()
		for next.Applied() <= mine {
			propose(t, next, "instead")
		}
		e.net.Heal()
		for until := time.Now().Add(time.Minute); old.Applied() < next.Applied(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatal("who was cut off stays behind")
			}
		}
		ctx, cancel = within(time.Second)
		defer cancel()
		if err := old.Reached(ctx, term, mine); !errors.Is(err, fulcrum.ErrNotLeader) {
			t.Errorf("a change that was replaced: %v", err)
		}
		if len(old.Servers()) != 3 {
			t.Errorf("the servers are %v", old.Servers())
		}
	})
}
