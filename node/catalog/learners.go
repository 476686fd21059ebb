package catalog

import (
	"slices"

	"fulcrum"
	"fulcrum/consistency"
)

// SetLearners says which nodes follow the log of a shard in mode raft without a vote.
type SetLearners struct {
	ShardAt
	Learners []fulcrum.NodeID
}

// A replica that moves is filled before it counts: its new node first learns, beside the
// replicas of the epoch, and when it has caught up the change of epoch begins, in which it
// settles like them.
//
// Invariant: learners are no replicas. Majorities of the epoch are of Replicas alone; who
// learns may change at any time while the shard is active, and take its time. Only
// finishChange looks at them: a learner that settled is based, since it followed the log
// of this epoch to the fence (raft.Group.Settle), as replicas did. So a learner that lost
// its disk, or what it had of the shard, must be none before it can settle again:
// forgetLearner. What a node has learned it erases in a later epoch, or when the catalog
// has been told and takes it for no learner (host.enter, host.heal).

func (s *State) setLearners(c SetLearners) error {
	_, sh, err := s.at(c.ShardAt)
	switch {
	case err != nil:
		return err
	case sh.Phase != Active:
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is %s", c.Group, sh.Phase)
	case len(c.Learners) == 0:
		sh.Learners = nil
		return nil
	case sh.Mode != consistency.Raft:
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d is in mode %s, in which nobody learns", c.Group, sh.Mode)
	}
	if err := s.checkReplicas(sh, c.Learners); err != nil {
		return err
	}
	if i := slices.IndexFunc(c.Learners, sh.Hosts); i >= 0 {
		return fulcrum.Errorf(fulcrum.CodeConflict, "%s has a replica of shard %d", c.Learners[i], c.Group)
	}
	sh.Learners = c.Learners
	return nil
}

// forgetLearner ends the learning of a node that lost what it had learned.
func (sh *Shard) forgetLearner(id fulcrum.NodeID) {
	if sh.Learns(id) {
		sh.Learners = slices.DeleteFunc(slices.Clone(sh.Learners), func(l fulcrum.NodeID) bool { return l == id })
	}
}

// Spare is how many of replicas may fail for those of them that are well to be a majority
// still; negative: they are none.
func Spare(replicas []fulcrum.NodeID, well func(fulcrum.NodeID) bool) int {
	n := 0
	for _, id := range replicas {
		if well(id) {
			n++
		}
	}
	return n - (len(replicas)/2 + 1)
}

// After is the replicas of the next epoch of a shard that changes, if these have settled.
// They are what the change is for, but where a new one has learned, and has not settled all
// the same: it is down, too slow, or lost what it had learned. Then the shard stays where it
// is if it can spare more replicas there; its next epoch has the old ones, and the change
// begins anew.
func (sh *Shard) After(settled []fulcrum.NodeID) []fulcrum.NodeID {
	has := func(id fulcrum.NodeID) bool { return slices.Contains(settled, id) }
	unfilled := slices.ContainsFunc(sh.Next.Replicas, func(id fulcrum.NodeID) bool { return !sh.Hosts(id) && !has(id) })
	if unfilled && sh.Next.Learned && Spare(sh.Replicas, has) > Spare(sh.Next.Replicas, has) {
		return sh.Replicas
	}
	return sh.Next.Replicas
}

// CanLearn reports whether a node can learn before a change to a mode.
func (sh *Shard) CanLearn(next consistency.Mode) bool {
	return sh.Mode == consistency.Raft && next == consistency.Raft
}
