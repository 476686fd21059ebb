package catalog

import (
	"slices"
	"time"

	"fulcrum"
	"fulcrum/consistency"
)

// at returns the shard if it stands at the epoch.
func (s *State) at(a ShardAt) (*Keyspace, *Shard, error) {
	ks, sh := s.shard(a.Group)
	if sh == nil {
		return nil, nil, fulcrum.Errorf(fulcrum.CodeNotFound, "no shard %d", a.Group)
	}
	if sh.Epoch != a.Epoch {
		return nil, nil, fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is at epoch %d, not %d", a.Group, sh.Epoch, a.Epoch)
	}
	return ks, sh, nil
}

func (s *State) startChange(c StartChange, at time.Time) error {
	_, sh, err := s.at(c.ShardAt)
	if err != nil {
		return err
	}
	if sh.Phase != Active {
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is %s already", c.Group, sh.Phase)
	}
	if err := s.checkReplicas(sh, c.Replicas); err != nil {
		return err
	}
	if !sh.CanLearn(c.Mode) {
		sh.Learners = nil
	}
	sh.Phase = Fencing
	sh.Next = &Next{Mode: c.Mode, Replicas: c.Replicas, Since: at, Learned: c.Learned}
	return nil
}

// checkReplicas refuses replicas that a shard cannot change to: the proposer may
// have looked at an older catalog, before a node was removed.
func (s *State) checkReplicas(sh *Shard, replicas []fulcrum.NodeID) error {
	if len(replicas) == 0 {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "shard %d cannot be left without replicas", sh.Group)
	}
	for i, id := range replicas {
		n, ok := s.Nodes[id]
		switch {
		case !ok:
			return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d cannot have a replica on %s, which is not in the cluster", sh.Group, id)
		case n.Removing && !sh.Hosts(id):
			return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d cannot get a replica on %s, which is being removed", sh.Group, id)
		case slices.Contains(replicas[:i], id):
			return fulcrum.Errorf(fulcrum.CodeInvalid, "shard %d cannot have two replicas on %s", sh.Group, id)
		}
	}
	return nil
}

func (s *State) reconcile(a ShardAt) error {
	_, sh, err := s.at(a)
	if err != nil {
		return err
	}
	if sh.Phase == Active {
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is not fenced", a.Group)
	}
	sh.Phase = Reconciling
	sh.Attempt++
	return nil
}

// finishChange makes the next epoch active.
//
// Invariant: every write that was acknowledged by a majority of the old replicas
// is in the common starting point, and no majority of the new replicas lacks that
// starting point: fewer than a majority of them have not settled. So whoever wins
// a vote, or answers a quorum read, of the new epoch has it or asks one that does.
func (s *State) finishChange(c FinishChange, at time.Time) error {
	ks, sh, err := s.at(c.ShardAt)
	if err != nil {
		return err
	}
	if sh.Phase != Reconciling {
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is %s, not reconciling", c.Group, sh.Phase)
	}
	if c.Attempt != sh.Attempt {
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is reconciled by attempt %d, not %d", c.Group, sh.Attempt, c.Attempt)
	}
	// Who lost its disk since it settled no longer holds the starting point.
	settled := slices.DeleteFunc(slices.Clone(c.Settled), func(id fulcrum.NodeID) bool {
		return slices.Contains(sh.Wiped, id) || !sh.Hosts(id) && !sh.Learns(id)
	})
	if !EnoughSettled(sh, settled) {
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d: %v settled, too few of %v for %v", c.Group, settled, sh.Replicas, sh.Next.Replicas)
	}
	sh.Epoch++
	sh.Mode, sh.Replicas, sh.Based = sh.Next.Mode, sh.After(settled), settled
	sh.Phase, sh.Next, sh.Wiped, sh.Attempt, sh.Learners = Active, nil, nil, 0, nil
	sh.forgetRebuilds()
	sh.Leader, sh.Term, sh.LeaderEpoch = "", 0, 0
	if sh.Mode == consistency.LeaderFollower && sh.Hosts(c.Leader) && slices.Contains(settled, c.Leader) && s.Nodes[c.Leader].Liveness == c.LeaderEpoch {
		sh.Leader, sh.Term, sh.LeaderEpoch = c.Leader, FirstTerm, c.LeaderEpoch
	}
	ks.progress(at)
	return nil
}

// EnoughSettled reports whether the next epoch of sh may begin with these replicas
// of the old epoch settled.
func EnoughSettled(sh *Shard, settled []fulcrum.NodeID) bool {
	old, fresh := 0, 0
	for _, id := range sh.Replicas {
		if slices.Contains(settled, id) {
			old++
		}
	}
	next := sh.After(settled)
	for _, id := range next {
		if !slices.Contains(settled, id) {
			fresh++
		}
	}
	return old >= len(sh.Replicas)/2+1 && fresh < len(next)/2+1
}

func (s *State) setLeader(c SetLeader) error {
	_, sh, err := s.at(c.ShardAt)
	if err != nil {
		return err
	}
	switch {
	case sh.Mode != consistency.LeaderFollower:
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is in mode %s", c.Group, sh.Mode)
	case c.Term <= sh.Term:
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d has term %d, %d is not above it", c.Group, sh.Term, c.Term)
	case !sh.Hosts(c.Leader):
		return fulcrum.Errorf(fulcrum.CodeConflict, "node %s has no replica of shard %d", c.Leader, c.Group)
	case s.Nodes[c.Leader].Liveness != c.LeaderEpoch:
		return fulcrum.Errorf(fulcrum.CodeConflict, "liveness epoch of %s is %d, not %d", c.Leader, s.Nodes[c.Leader].Liveness, c.LeaderEpoch)
	}
	sh.Leader, sh.Term, sh.LeaderEpoch = c.Leader, c.Term, c.LeaderEpoch
	return nil
}
