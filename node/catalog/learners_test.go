package catalog

import (
	"slices"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
)

// movingStory is the first shard, with replicas r, on its way from r[2] to fresh, which
// learns.
func movingStory(t *testing.T) (s *story, r []fulcrum.NodeID, fresh fulcrum.NodeID) {
	s = newStory(t)
	r = s.shard(0).Replicas
	for _, id := range []fulcrum.NodeID{"n1", "n2", "n3", "n4"} {
		if !slices.Contains(r, id) {
			fresh = id
		}
	}
	s.do(s.learn(fresh))
	return s, r, fresh
}

func (s *story) learn(ids ...fulcrum.NodeID) Command {
	return Command{SetLearners: &SetLearners{ShardAt: s.at(0), Learners: ids}}
}

func (s *story) move(r ...fulcrum.NodeID) {
	s.do(Command{StartChange: &StartChange{ShardAt: s.at(0), Mode: consistency.Raft, Replicas: r, Learned: true}})
	s.reconcile(0)
}

func (s *story) settled(ids ...fulcrum.NodeID) Command {
	return Command{FinishChange: &FinishChange{ShardAt: s.at(0), Attempt: s.shard(0).Attempt, Settled: ids}}
}

func TestWhoMayLearn(t *testing.T) {
	s, r, fresh := movingStory(t)
	if sh := s.shard(0); sh.Hosts(fresh) || !sh.Holds(fresh) || sh.Epoch != 1 {
		t.Errorf("a learner is no replica, and may not be forgotten: %+v", sh)
	}
	s.refuse(s.learn(r[0]), fulcrum.ErrConflict)
	s.refuse(s.learn("n9"), fulcrum.ErrConflict)
	s.do(Command{RemoveNode: &RemoveNode{Node: fresh}})
	s.refuse(Command{RemoveNode: &RemoveNode{Node: fresh, Forget: true}}, fulcrum.ErrConflict)
	s.refuse(s.learn(fresh), fulcrum.ErrConflict) // it is being removed
	s.do(s.learn())
	if n := len(s.shard(0).Learners); n > 0 {
		t.Errorf("%d learners are left", n)
	}
	s.begin(0)
	s.refuse(s.learn("n4"), fulcrum.ErrConflict)
	s.reconcile(0)
	s.finish(0)
	s.to(consistency.Quorum)
	s.whole(0)
	s.refuse(s.learn(fresh), fulcrum.ErrConflict)
}

// A learner that settled begins the next epoch with the data, and counts in no majority of
// the epoch in which it learned.
func TestALearnerThatSettledIsBased(t *testing.T) {
	s, r, fresh := movingStory(t)
	s.move(r[0], r[1], fresh)
	s.refuse(s.settled(r[0], fresh), fulcrum.ErrConflict)
	s.do(s.settled(r[0], r[1], fresh))
	if sh := s.shard(0); sh.Epoch != 2 || !slices.Equal(sh.Replicas, []fulcrum.NodeID{r[0], r[1], fresh}) || !slices.Contains(sh.Based, fresh) || len(sh.Learners) > 0 {
		t.Errorf("the shard is %+v", sh)
	}
	// And one that is down at the time is filled by the two that have settled.
	s, r, fresh = movingStory(t)
	s.move(r[0], r[1], fresh)
	s.do(s.settled(r[0], r[2], fresh))
	if sh := s.shard(0); !slices.Equal(sh.Replicas, []fulcrum.NodeID{r[0], r[1], fresh}) || slices.Contains(sh.Based, r[1]) {
		t.Errorf("the shard is %+v", sh)
	}
}

// A shard does not move to a learner that has not settled, or has lost what it settled
// with, as long as it can spare more replicas where it is.
func TestALearnerThatDidNotSettleHasNoVote(t *testing.T) {
	stays := func(t *testing.T, s *story, r []fulcrum.NodeID) {
		t.Helper()
		if sh := s.shard(0); sh.Epoch != 2 || !slices.Equal(sh.Replicas, r) || len(sh.Learners) > 0 {
			t.Errorf("the shard is %+v", sh)
		}
	}
	t.Run("it did not settle", func(t *testing.T) {
		s, r, fresh := movingStory(t)
		s.move(r[0], r[1], fresh)
		s.do(s.settled(r...))
		stays(t, s, r)
	})
	t.Run("it lost its disk", func(t *testing.T) {
		s, r, fresh := movingStory(t)
		s.move(r[0], r[1], fresh)
		s.wipe(fresh)
		s.do(s.settled(r[0], r[1], r[2], fresh))
		stays(t, s, r)
		if slices.Contains(s.shard(0).Based, fresh) {
			t.Error("it is based")
		}
	})
	t.Run("it lost what it had of the shard", func(t *testing.T) {
		s, r, fresh := movingStory(t)
		s.move(r[0], r[1], fresh)
		if err := s.damaged(0, fresh, "d1", start); err != nil {
			t.Fatal(err)
		}
		if len(s.shard(0).Wiped) > 0 {
			t.Errorf("wiped are %v", s.shard(0).Wiped)
		}
		s.do(s.settled(r[0], r[1], r[2], fresh))
		stays(t, s, r)
	})
	t.Run("a stranger settled", func(t *testing.T) {
		s, r, fresh := movingStory(t)
		s.do(s.learn())
		s.move(r[0], r[1], fresh)
		s.do(s.settled(r[0], r[1], r[2], fresh))
		stays(t, s, r)
	})
	t.Run("there is nothing to lose: the one that leaves is down, too", func(t *testing.T) {
		s, r, fresh := movingStory(t)
		s.move(r[0], r[1], fresh)
		s.do(s.settled(r[0], r[1]))
		stays(t, s, []fulcrum.NodeID{r[0], r[1], fresh})
	})
}

func TestNobodyLearnsThroughASwitch(t *testing.T) {
	s, r, fresh := movingStory(t)
	s.to(consistency.Quorum)
	s.begin(0, r[0], r[1], fresh)
	if n := len(s.shard(0).Learners); n > 0 {
		t.Errorf("%d learners", n)
	}
}
