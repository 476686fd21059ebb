package catalog

import (
	"errors"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

func (s *story) damaged(i int, id fulcrum.NodeID, damage string, at time.Time) error {
	s.index++
	err, _ := s.m.Apply(s.index, encode(s.t, Command{At: at, Damaged: &Damaged{ShardAt: s.at(i), Node: id, ID: damage}})).(error)
	return err
}

// settleWithout takes a shard to its next epoch with all replicas but one.
func (s *story) settleWithout(i int, id fulcrum.NodeID) {
	s.t.Helper()
	sh := s.shard(i)
	s.do(Command{StartChange: &StartChange{ShardAt: s.at(i), Mode: sh.Mode, Replicas: sh.Replicas}})
	s.reconcile(i)
	rest := slices.DeleteFunc(slices.Clone(sh.Replicas), func(r fulcrum.NodeID) bool { return r == id })
	s.do(Command{FinishChange: &FinishChange{ShardAt: s.at(i), Attempt: s.shard(i).Attempt, Settled: sh.Replicas}})
	if got := s.shard(i); got.Epoch != sh.Epoch+1 || !slices.Equal(got.Based, rest) || len(got.Wiped) > 0 {
		s.t.Errorf("epoch %d is based on %v, wiped are %v; want %v", got.Epoch, got.Based, got.Wiped, rest)
	}
}

// One replica of one shard is treated as wiped, and no second one with it.
func TestADamagedReplicaIsWipedAlone(t *testing.T) {
	s := newStory(t)
	r := s.shard(0).Replicas
	if err := s.damaged(0, r[0], "d1", start); err != nil {
		t.Fatal(err)
	}
	if sh := s.shard(0); !slices.Equal(sh.Wiped, r[:1]) || sh.Rebuilds[r[0]].ID != "d1" || sh.Rebuilds[r[0]].Epoch != sh.Epoch {
		t.Errorf("wiped are %v, rebuilds %+v", sh.Wiped, sh.Rebuilds)
	}
	if sh := s.shard(1); len(sh.Wiped) > 0 {
		t.Errorf("the other shard: wiped are %v", sh.Wiped)
	}
	if err := s.damaged(0, r[0], "d1", start.Add(time.Second)); err != nil || len(s.shard(0).Wiped) != 1 {
		t.Errorf("told twice: %v, wiped are %v", err, s.shard(0).Wiped)
	}
	if err := s.damaged(0, r[1], "d2", start); !errors.Is(err, fulcrum.ErrConflict) {
		t.Errorf("a second one at the same time: %v", err)
	}
	s.settleWithout(0, r[0])
	if err := s.damaged(0, r[1], "d2", start); err != nil {
		t.Errorf("the second one, when the first is rebuilt: %v", err)
	}
	s.settleWithout(0, r[1])
}

// Where the rest is no majority, nothing is given up.
func TestDamageWithoutAMajorityIsNotRebuilt(t *testing.T) {
	for _, n := range []int{1, 2} {
		s := newStory(t)
		settings, err := Check(fulcrum.KeyspaceSpec{Name: "few", Shards: 1, Replicas: n}, 4, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.do(Command{CreateKeyspace: &CreateKeyspace{Spec: settings}})
		sh := s.m.State().Keyspaces["few"].Shards[0]
		s.refuse(Command{Damaged: &Damaged{ShardAt: ShardAt{sh.Group, sh.Epoch}, Node: sh.Replicas[0], ID: "d1"}}, fulcrum.ErrUnavailable)
		if sh := s.m.State().Keyspaces["few"].Shards[0]; len(sh.Wiped) > 0 {
			t.Errorf("%d replicas: wiped are %v", n, sh.Wiped)
		}
	}
	s := newStory(t)
	r := s.shard(0).Replicas
	s.wipe(r[1])
	if err := s.damaged(0, r[0], "d1", start); err == nil {
		t.Error("beside a lost disk, a second replica of three was given up")
	}
	s.refuse(Command{Damaged: &Damaged{ShardAt: ShardAt{s.shard(0).Group, 9}, Node: r[0], ID: "d1"}}, fulcrum.ErrConflict)
	s.refuse(Command{Damaged: &Damaged{ShardAt: s.at(0), Node: "n9", ID: "d1"}}, fulcrum.ErrConflict)
}

// A replica that is damaged again and again is rebuilt ever less often, and anew after a day.
func TestRebuildsComeEverLessOften(t *testing.T) {
	s := newStory(t)
	id := s.shard(0).Replicas[0]
	at, pause := start, time.Minute
	for i := range 9 {
		damage := string(rune('a' + i))
		if i > 0 {
			if err := s.damaged(0, id, damage, at.Add(pause-time.Second)); !errors.Is(err, fulcrum.ErrUnavailable) {
				t.Errorf("rebuild %d, %v after the last: %v", i+1, pause-time.Second, err)
			}
			at, pause = at.Add(pause), min(2*pause, time.Hour)
		}
		if err := s.damaged(0, id, damage, at); err != nil {
			t.Fatalf("rebuild %d: %v", i+1, err)
		}
		s.settleWithout(0, id)
	}
	if n := s.shard(0).Rebuilds[id].Times; n != 9 {
		t.Errorf("rebuilt %d times, want 9", n)
	}
	if err := s.damaged(0, id, "later", at.Add(25*time.Hour)); err != nil || s.shard(0).Rebuilds[id].Times != 1 {
		t.Errorf("a day later: %v, %+v", err, s.shard(0).Rebuilds[id])
	}
}

// A leader whose data is damaged leads no more, and its node's lease stays what it is.
func TestADamagedLeaderIsReplaced(t *testing.T) {
	s := newStory(t)
	s.to(consistency.LeaderFollower)
	s.begin(0)
	s.reconcile(0)
	sh := s.shard(0)
	id := sh.Replicas[0]
	lives := s.m.State().Nodes[id].Liveness
	s.do(Command{FinishChange: &FinishChange{ShardAt: s.at(0), Attempt: sh.Attempt, Settled: sh.Replicas, Leader: id, LeaderEpoch: lives}})
	if s.shard(0).Leader != id {
		t.Fatalf("led by %q", s.shard(0).Leader)
	}
	if err := s.damaged(0, id, "d1", start); err != nil {
		t.Fatal(err)
	}
	if sh := s.shard(0); sh.Leader != "" || s.m.State().Nodes[id].Liveness != lives {
		t.Errorf("led by %q, the node's liveness epoch is %d, was %d", sh.Leader, s.m.State().Nodes[id].Liveness, lives)
	}
}
