package checker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// contract is what all modes of a run promise together at its levels: where the
// keyspace was switched, the weakest of them counts for the whole.
type contract struct {
	linear  bool          // reads and writes each take effect at one moment
	overlap bool          // a read meets every write acknowledged before it began; linear includes it
	session bool          // one client never sees time go back
	own     bool          // and sees what it wrote
	prefix  bool          // answers are states that the leader once had
	bounded bool          // answers are no staler than bound
	bound   time.Duration // of bounded
	ordered bool          // versions rise in real time: no two clocks stamp the writes
	durable bool          // no acknowledged write is lost
	// branches: an answer may show a write that nobody acknowledged and a failover
	// then dropped, so that two answers need not lie on one line.
	branches bool
}

// contractOf looks the run's levels up for each of its modes. It is an error when no
// mode offers them.
func contractOf(s Spec) (contract, error) {
	c := contract{linear: true, overlap: true, session: true, own: true, prefix: true, bounded: true, ordered: true, durable: true}
	known := 0
	var first error
	for _, m := range s.modes() {
		write, err := consistency.Lookup(m, consistency.Write, s.Write)
		read, err2 := consistency.Lookup(m, consistency.Read, s.Read)
		if err == nil {
			err = err2
		}
		if err != nil {
			// While the keyspace is in this mode nothing is served at these levels.
			if first == nil {
				first = err
			}
			continue
		}
		known++
		c.weaken(s, write, read)
	}
	if known == 0 {
		return contract{}, fmt.Errorf("no mode of this run offers its levels: %w", first)
	}
	return c, nil
}

// weaken takes from c what one mode does not promise.
func (c *contract) weaken(s Spec, write, read consistency.Promise) {
	linear := write.Checker == consistency.CheckLinearizable && read.Checker == consistency.CheckLinearizable
	kept := survives(s, write)
	c.linear = c.linear && linear
	c.durable = c.durable && kept
	c.ordered = c.ordered && write.Checker == consistency.CheckLinearizable

	inQuorum := write.Mode == consistency.Quorum
	majorities := linear || inQuorum && majority(write.Kind) && majority(read.Kind)
	overlaps := inQuorum && overlap(write.Kind, read.Kind, s.Replicas)
	c.overlap = c.overlap && (majorities || overlaps)
	c.own = c.own && (!inQuorum || overlaps)
	switch {
	case read.Checker == consistency.CheckBounded:
		c.bound = max(c.bound, s.Read.Bound)
		c.bounded = c.bounded && kept
	default:
		c.bounded = c.bounded && linear
	}
	// A session's own write that a failover dropped is not there to be read. Without
	// tokens only overlapping quorums keep a session together.
	c.session = c.session && (majorities || kept && s.Tokens && read.Checker == consistency.CheckSession)
	c.prefix = c.prefix && !inQuorum && read.Checker != consistency.CheckEventual
	c.branches = c.branches || write.Mode == consistency.LeaderFollower && !linear
}

// survives reports whether what a mode acknowledged at that level must be there at
// the end.
func survives(s Spec, write consistency.Promise) bool {
	switch write.Checker {
	case consistency.CheckLinearizable, consistency.CheckDurable:
		return true
	}
	if write.Mode != consistency.Quorum || write.Kind == consistency.Any {
		return false // a hint may be given up; a failover may drop what only the leader has
	}
	return !losesDisks(s.Nemeses)
}

// losesDisks reports whether a nemesis takes from a disk what fsync said it keeps.
func losesDisks(nemeses []string) bool {
	return slices.ContainsFunc(nemeses, func(n string) bool {
		return strings.Contains(n, "wipe") || strings.Contains(n, "torn") || strings.Contains(n, "flip") || strings.Contains(n, "damage")
	})
}

// majority reports whether a level of mode quorum asks a majority of all replicas,
// so that any two such requests meet.
func majority(k consistency.Kind) bool {
	switch k {
	case consistency.QuorumOf, consistency.EachQuorum, consistency.All, consistency.Session, consistency.Linearizable:
		return true
	}
	return false
}

// meets reports whether a read of the run had to meet every write acknowledged before
// it began: final reads of single replicas had not, whatever the run's own level.
func (c contract) meets(s Spec, read *history.Op) bool {
	return c.overlap && (read.Level == s.Read || read.Level == consistency.Level{} || s.strong(read.Level))
}

// writeKind is the run's level for writes in mode quorum.
func (s Spec) writeKind() consistency.Kind {
	if s.Write.Kind == consistency.Default {
		write, _ := consistency.Defaults(consistency.Quorum)
		return write.Kind
	}
	return s.Write.Kind
}

// overlap reports whether a read in mode quorum asks a replica that any write before it did.
func overlap(write, read consistency.Kind, replicas int) bool {
	return majority(write) && majority(read) || asked(write, replicas)+asked(read, replicas) > replicas
}

// asked is how many of all replicas a level of mode quorum asks at the least; 0 where
// hints or the replicas of one zone are enough.
func asked(k consistency.Kind, replicas int) int {
	if majority(k) && k != consistency.All {
		k = consistency.QuorumOf
	}
	if k == consistency.Any {
		return 0
	}
	n, _ := consistency.Count(k, replicas)
	return n
}

// modes lists every mode of the run.
func (s Spec) modes() []consistency.Mode {
	if slices.Contains(s.Modes, s.Mode) {
		return s.Modes
	}
	return append([]consistency.Mode{s.Mode}, s.Modes...)
}

// strong reports whether a read at level l misses no write that was acknowledged at the
// run's level before it began, in whichever of the run's modes it was served. In mode
// quorum their replicas must overlap: what one replica acknowledged another may still owe
// to the others, and a majority of those need not have it yet.
func (s Spec) strong(l consistency.Level) bool {
	offered := false
	for _, m := range s.modes() {
		p, err := consistency.Lookup(m, consistency.Read, l)
		if err != nil {
			continue
		}
		offered = true
		if m == consistency.Quorum && !overlap(s.writeKind(), p.Kind, s.Replicas) {
			return false
		}
		if p.Checker != consistency.CheckLinearizable && (m != consistency.Quorum || !majority(p.Kind)) {
			return false
		}
	}
	return offered
}

// horizon is the time before which a mutation must have returned to be over when a read
// began. Final reads begin after all else has come to rest, although virtual time may
// show one moment for both.
func horizon(read *history.Op) time.Duration {
	if read.Phase == history.Final {
		return read.Invoke + 1
	}
	return read.Invoke
}

// settled picks, of one key's operations by Invoke, the final reads that say what was
// kept: the strong ones. Where a run made none, the newest of what the nodes answered
// last: what no node has any more is lost, and that they agree is for converge.
func settled(h *history.History, s Spec, ops []int32) []int32 {
	var strong []int32
	for _, i := range ops {
		if op := &h.Ops[i]; op.F == history.Read && op.Phase == history.Final && op.Outcome == history.OK && s.strong(op.Level) {
			strong = append(strong, i)
		}
	}
	if len(strong) > 0 {
		return strong
	}
	newest := none
	for _, i := range lastAnswers(h, ops) {
		if newest == none || h.Ops[newest].Version.Less(h.Ops[i].Version) {
			newest = i
		}
	}
	if newest == none {
		return nil
	}
	return []int32{newest}
}

// lastAnswers are the last final reads of a key that each node answered, by Invoke.
func lastAnswers(h *history.History, ops []int32) []int32 {
	var out []int32
	seen := map[fulcrum.NodeID]bool{}
	for _, i := range slices.Backward(ops) {
		op := &h.Ops[i]
		if op.F == history.Read && op.Phase == history.Final && op.Outcome == history.OK && !seen[op.Node] {
			seen[op.Node] = true
			out = append(out, i)
		}
	}
	slices.Reverse(out)
	return out
}
