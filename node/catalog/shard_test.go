package catalog

import (
	"errors"
	"slices"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
)

// story applies commands one after another to a catalog of n1, n2, n3 and n4 with a
// raft keyspace "k" of two shards, 1 and 2, each with three replicas.
type story struct {
	t     *testing.T
	m     *Machine
	index uint64
}

func newStory(t *testing.T) *story {
	s := &story{t: t, m: NewMachine()}
	for _, name := range []string{"n1", "n2", "n3", "n4"} {
		s.do(Command{Register: &Node{Name: fulcrum.NodeID(name), PeerAddr: name + ":1", Incarnation: "x"}})
	}
	settings, err := Check(fulcrum.KeyspaceSpec{Name: "k", Shards: 2, Replicas: 3}, 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.do(Command{CreateKeyspace: &CreateKeyspace{Spec: settings}})
	return s
}

// try applies a command and returns its error.
func (s *story) try(c Command) error {
	s.index++
	c.At = start
	err, _ := s.m.Apply(s.index, encode(s.t, c)).(error)
	return err
}

func (s *story) do(c Command) {
	s.t.Helper()
	if err := s.try(c); err != nil {
		s.t.Fatal(err)
	}
}

func (s *story) refuse(c Command, want error) {
	s.t.Helper()
	if err := s.try(c); !errors.Is(err, want) {
		s.t.Errorf("got %v, want %v", err, want)
	}
}

func (s *story) ks() *Keyspace      { return s.m.State().Keyspaces["k"] }
func (s *story) shard(i int) *Shard { return s.ks().Shards[i] }
func (s *story) at(i int) ShardAt   { return ShardAt{s.shard(i).Group, s.shard(i).Epoch} }
func (s *story) wipe(id fulcrum.NodeID) {
	s.do(Command{Register: &Node{Name: id, PeerAddr: string(id) + ":1", Incarnation: "y"}})
}
func (s *story) to(m consistency.Mode) {
	s.do(Command{AlterKeyspace: &AlterKeyspace{Name: "k", Mode: &m}})
}
func (s *story) abort() error {
	return s.try(Command{AlterKeyspace: &AlterKeyspace{Name: "k", Abort: true}})
}
func (s *story) reconcile(i int) { a := s.at(i); s.do(Command{Reconcile: &a}) }
func (s *story) begin(i int, r ...fulcrum.NodeID) {
	if r == nil {
		r = s.shard(i).Replicas
	}
	s.do(Command{StartChange: &StartChange{ShardAt: s.at(i), Mode: s.ks().Target, Replicas: r}})
}
func (s *story) finish(i int) {
	s.do(Command{FinishChange: &FinishChange{ShardAt: s.at(i), Attempt: s.shard(i).Attempt, Settled: s.shard(i).Replicas}})
}
func (s *story) whole(i int) { s.begin(i); s.reconcile(i); s.finish(i) }

func (s *story) want(state string, mode, target consistency.Mode, done int) {
	s.t.Helper()
	ks := s.ks()
	if ks.Switch == nil || ks.Switch.State != state || ks.Mode != mode || ks.Target != target || ks.Switch.Done != done {
		s.t.Errorf("mode %s, target %s, switch %+v; want %s, %s, %s with %d shards done", ks.Mode, ks.Target, ks.Switch, mode, target, state, done)
	}
}

func TestASwitchIsDoneWithItsLastShard(t *testing.T) {
	s := newStory(t)
	s.to(consistency.Quorum)
	s.want("running", consistency.Raft, consistency.Quorum, 0)
	m := consistency.LeaderFollower
	s.refuse(Command{AlterKeyspace: &AlterKeyspace{Name: "k", Mode: &m}}, fulcrum.ErrConflict)
	s.whole(0)
	s.want("running", consistency.Raft, consistency.Quorum, 1)
	s.whole(1)
	s.want("done", consistency.Quorum, consistency.Quorum, 2)
	if _, err := consistency.Lookup(consistency.Quorum, consistency.Read, s.ks().ReadLevel); err != nil {
		t.Errorf("the default of the mode before stays although the new one has no such level: %v", err)
	}
	if s.ks().Switch.Finished.IsZero() {
		t.Error("it has no time of its end")
	}
}

func TestWhatAnAbortDoes(t *testing.T) {
	t.Run("before any shard is fenced it is over at once", func(t *testing.T) {
		s := newStory(t)
		s.to(consistency.Quorum)
		if err := s.abort(); err != nil {
			t.Fatal(err)
		}
		s.want("aborted", consistency.Raft, consistency.Raft, 2)
		if s.ks().Switch.Finished.IsZero() {
			t.Error("it has no time of its end")
		}
	})
	t.Run("a shard that is fenced goes on to a new epoch of the old mode", func(t *testing.T) {
		s := newStory(t)
		s.to(consistency.Quorum)
		s.begin(0)
		if err := s.abort(); err != nil {
			t.Fatal(err)
		}
		s.want("aborting", consistency.Raft, consistency.Raft, 1)
		s.reconcile(0)
		s.finish(0)
		s.want("aborted", consistency.Raft, consistency.Raft, 2)
		if sh := s.shard(0); sh.Mode != consistency.Raft || sh.Epoch != 2 {
			t.Errorf("the shard is in mode %s at epoch %d", sh.Mode, sh.Epoch)
		}
	})
	t.Run("even while it is reconciling", func(t *testing.T) {
		s := newStory(t)
		s.to(consistency.LeaderFollower)
		s.begin(0)
		s.reconcile(0)
		if err := s.abort(); err != nil {
			t.Fatal(err)
		}
		s.finish(0)
		s.want("aborted", consistency.Raft, consistency.Raft, 2)
	})
	t.Run("it is refused once a shard runs in the new mode", func(t *testing.T) {
		s := newStory(t)
		s.to(consistency.Quorum)
		s.whole(0)
		if err := s.abort(); !errors.Is(err, fulcrum.ErrConflict) {
			t.Errorf("got %v", err)
		}
		s.want("running", consistency.Raft, consistency.Quorum, 1)
	})
	t.Run("there must be a switch", func(t *testing.T) {
		if err := newStory(t).abort(); !errors.Is(err, fulcrum.ErrConflict) {
			t.Errorf("got %v", err)
		}
	})
}

func TestALostDiskNoLongerCountsAsSettled(t *testing.T) {
	s := newStory(t)
	s.begin(0)
	s.reconcile(0)
	r := s.shard(0).Replicas
	s.wipe(r[0])
	s.refuse(Command{FinishChange: &FinishChange{ShardAt: s.at(0), Attempt: s.shard(0).Attempt, Settled: r[:2]}}, fulcrum.ErrConflict)
	s.finish(0)
	if got := s.shard(0).Based; slices.Contains(got, r[0]) || len(got) != 2 {
		t.Errorf("%v are the basis; %s lost its disk after it settled", got, r[0])
	}
	if len(s.shard(0).Wiped) != 0 {
		t.Error("the loss belongs to the epoch before")
	}
}

func TestReplicasThatAShardCannotChangeTo(t *testing.T) {
	s := newStory(t)
	r := s.shard(0).Replicas
	free := fulcrum.NodeID("")
	for _, id := range s.m.State().NodeNames() {
		if !slices.Contains(r, id) {
			free = id
		}
	}
	change := func(ids ...fulcrum.NodeID) Command {
		return Command{StartChange: &StartChange{ShardAt: s.at(0), Replicas: ids}}
	}
	s.refuse(change(), fulcrum.ErrInvalid)
	s.refuse(change(r[0], r[0]), fulcrum.ErrInvalid)
	s.refuse(change(r[0], "stranger"), fulcrum.ErrConflict)
	s.do(Command{RemoveNode: &RemoveNode{Node: free}})
	s.refuse(change(r[0], free), fulcrum.ErrConflict)
	s.do(Command{RemoveNode: &RemoveNode{Node: r[1]}})
	s.do(change(r[0], r[1])) // who has it may keep it until it is moved
}

func TestANodeIsForgottenOnlyWhenNothingNeedsIt(t *testing.T) {
	s := newStory(t)
	var r []fulcrum.NodeID
	for i := range 2 { // both shards on n1, n2, n3
		s.begin(i, "n1", "n2", "n3")
		s.reconcile(i)
		if err := s.try(Command{FinishChange: &FinishChange{ShardAt: s.at(i), Attempt: s.shard(i).Attempt, Settled: s.shard(i).Replicas}}); err != nil {
			t.Fatal(err)
		}
		r = s.shard(i).Replicas
	}
	forget := func(id fulcrum.NodeID) Command { return Command{RemoveNode: &RemoveNode{Node: id, Forget: true}} }
	s.refuse(forget(r[0]), fulcrum.ErrConflict)
	s.begin(0, "n1", "n2", "n4")
	s.refuse(forget("n4"), fulcrum.ErrConflict) // the change under way moves a replica there
	s.reconcile(0)
	s.finish(0)
	s.refuse(forget("n3"), fulcrum.ErrConflict) // it holds the other shard
	s.begin(1, "n1", "n2", "n4")
	s.reconcile(1)
	s.finish(1)
	s.do(forget("n3"))
	s.refuse(forget("n3"), fulcrum.ErrNotFound)
}

func TestOnlyARisingTermMakesALeader(t *testing.T) {
	s := newStory(t)
	s.to(consistency.LeaderFollower)
	s.begin(0)
	s.reconcile(0)
	r := s.shard(0).Replicas
	s.do(Command{FinishChange: &FinishChange{ShardAt: s.at(0), Attempt: s.shard(0).Attempt, Settled: r, Leader: r[0], LeaderEpoch: 1}})
	if sh := s.shard(0); sh.Leader != r[0] || sh.Term != FirstTerm {
		t.Fatalf("the epoch began with leader %q of term %d", sh.Leader, sh.Term)
	}
	lead := func(id fulcrum.NodeID, term, epoch uint64) Command {
		return Command{SetLeader: &SetLeader{ShardAt: s.at(0), Leader: id, Term: term, LeaderEpoch: epoch}}
	}
	s.refuse(lead(r[1], FirstTerm, 1), fulcrum.ErrConflict)
	s.refuse(lead("stranger", FirstTerm+1, 1), fulcrum.ErrConflict)
	s.do(Command{Bump: &Bump{Node: r[1], From: 1}})
	s.refuse(Command{Bump: &Bump{Node: r[1], From: 1}}, fulcrum.ErrConflict)
	s.refuse(lead(r[1], FirstTerm+1, 1), fulcrum.ErrConflict) // its lease of that liveness epoch is void
	s.do(lead(r[1], FirstTerm+1, 2))
	old := s.at(0)
	s.begin(0)
	s.reconcile(0)
	s.finish(0)
	s.refuse(Command{SetLeader: &SetLeader{ShardAt: old, Leader: r[2], Term: 99, LeaderEpoch: 1}}, fulcrum.ErrConflict)
	s.refuse(Command{StartChange: &StartChange{ShardAt: old, Replicas: r}}, fulcrum.ErrConflict)
	s.refuse(Command{Reconcile: &old}, fulcrum.ErrConflict)
}

// A set that an overtaken attempt settled may have grown unequal since: it begins no
// epoch.
func TestOvertakenAttemptFinishesNothing(t *testing.T) {
	s := newStory(t)
	s.begin(0)
	s.reconcile(0)
	first := Command{FinishChange: &FinishChange{ShardAt: s.at(0), Attempt: s.shard(0).Attempt, Settled: s.shard(0).Replicas}}
	s.reconcile(0)
	s.refuse(first, fulcrum.ErrConflict)
	s.finish(0)
}
