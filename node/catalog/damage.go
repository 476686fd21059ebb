package catalog

import (
	"maps"
	"slices"
	"time"

	"fulcrum"
)

// Damaged says that the replica of a shard on a node lost data, which the disk that it
// is on still has otherwise. The node itself says so, when the replica has stopped for
// good. ID is the damage's: a command that comes twice counts once.
type Damaged struct {
	ShardAt
	Node fulcrum.NodeID
	ID   string
}

// Rebuild is the last time that a node's replica of a shard was treated as wiped because
// of damage.
type Rebuild struct {
	ID    string
	Epoch fulcrum.Epoch // in which it was; in the next one it begins with nothing
	At    time.Time
	Times int // one after another, with less than rebuildsForgotten between them
}

// A replica that is damaged again and again is on a disk that is no good, or of a
// program that is not: it is rebuilt ever less often. The first time is at once.
const (
	rebuildPause      = time.Minute // doubled with each time
	rebuildPauseMost  = time.Hour
	rebuildsForgotten = 24 * time.Hour
)

// damaged makes one replica of a shard, and no other of that node, one that lost its
// disk within this epoch: it takes part in it no more, the controller takes the shard to
// its next epoch without it, and there it begins with nothing and is filled by the
// others.
//
// Invariant: of an epoch a majority of the replicas has neither been wiped nor been found
// damaged, unless disks were lost. So what a majority acknowledged is on one of them: the
// fence, which needs a majority, finds it, and finishChange begins no epoch without.
//
// Nothing is erased by this. The node erases what is damaged when it enters the next
// epoch, which begins only when a majority of this one has settled: by then the data is
// whole elsewhere. In this epoch the replica has promised and acknowledged things of
// which it may have forgotten some, so it must not vote in it again: it has stopped
// before it said so, and host.enter lets no wiped replica in.
func (s *State) damaged(c Damaged, at time.Time) error {
	if err := s.CheckDamaged(c, at); err != nil {
		return err
	}
	_, sh := s.shard(c.Group)
	if !sh.Hosts(c.Node) { // its node erases what it had next
		sh.forgetLearner(c.Node)
		return nil
	}
	last := sh.Rebuilds[c.Node]
	if last.ID == c.ID {
		return nil
	}
	next := Rebuild{ID: c.ID, Epoch: sh.Epoch, At: at, Times: 1}
	if at.Sub(last.At) < rebuildsForgotten {
		next.Times += last.Times
	}
	sh.Rebuilds = maps.Clone(sh.Rebuilds)
	if sh.Rebuilds == nil {
		sh.Rebuilds = map[fulcrum.NodeID]Rebuild{}
	}
	sh.Rebuilds[c.Node] = next
	if !slices.Contains(sh.Wiped, c.Node) {
		sh.Wiped = append(slices.Clone(sh.Wiped), c.Node)
	}
	// A leader's lease is the node's, and holds on for other shards: this shard alone gets
	// another leader. The one that it had answers nothing any more.
	if sh.Leader == c.Node {
		sh.Leader = ""
	}
	return nil
}

// CheckDamaged returns why the command would be refused, so that it need not be tried.
func (s *State) CheckDamaged(c Damaged, at time.Time) error {
	_, sh, err := s.at(c.ShardAt)
	if err != nil {
		return err
	}
	last, n := sh.Rebuilds[c.Node], len(sh.Replicas)
	_, known := s.Nodes[c.Node]
	switch {
	case !known:
		return fulcrum.Errorf(fulcrum.CodeConflict, "%s is not in the cluster", c.Node)
	case last.ID == c.ID, !sh.Hosts(c.Node):
		return nil
	case slices.Contains(sh.Wiped, c.Node): // its whole disk was lost within this epoch, too
	case len(sh.Wiped) > 0:
		return fulcrum.Errorf(fulcrum.CodeConflict, "shard %d: its replica on %v is rebuilt first", c.Group, sh.Wiped)
	case n-1 < n/2+1:
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "shard %d has %d replicas: without the one on %s they have no majority to rebuild it from", c.Group, n, c.Node).
			WithHint("put back a copy of the data directory of %s, or drop the keyspace", c.Node)
	}
	since := at.Sub(last.At)
	if wait := last.pause() - since; wait > 0 && since >= 0 { // below 0 some clock is wrong, and the pause is no promise
		return fulcrum.Errorf(fulcrum.CodeUnavailable, "the replica of shard %d on %s was rebuilt %d times; again %v after the last time",
			c.Group, c.Node, last.Times, last.pause()).WithHint("replace the disk of %s", c.Node)
	}
	return nil
}

// pause is how long after a rebuild the next may begin.
func (r Rebuild) pause() time.Duration {
	if r.Times == 0 {
		return 0
	}
	return min(rebuildPause<<min(r.Times-1, 10), rebuildPauseMost)
}

// forgetRebuilds drops what concerns nodes without a replica.
func (sh *Shard) forgetRebuilds() {
	rest := maps.Clone(sh.Rebuilds)
	maps.DeleteFunc(rest, func(id fulcrum.NodeID, _ Rebuild) bool { return !sh.Hosts(id) })
	sh.Rebuilds = rest
}
