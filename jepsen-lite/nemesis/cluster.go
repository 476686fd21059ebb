package nemesis

import (
	"context"

	"fulcrum"
)

// Damage is what can be done to the disk of a node that does not run.
type Damage string

// The damages.
const (
	TornTail Damage = "torn-tail" // the last bytes of the newest log file are cut off or garbled: the disk lied about the last block
	BitFlip  Damage = "bit-flip"  // one bit in the middle of the log or of the engine's file
	Wipe     Damage = "wipe"      // everything is gone; the node comes back as a new one
)

// Cluster is what a nemesis acts on: simulated or real nodes. Every method returns
// within ctx. What a cluster cannot do it refuses with fulcrum.CodeInvalid, and Can
// says so beforehand.
type Cluster interface {
	Nodes() []fulcrum.NodeID
	// Can returns nil, or why this cluster cannot do that: "kill", "pause", "damage",
	// "packets" (duplicate and corrupt, below the program), "switch", "faults".
	Can(what string) error

	Inject(ctx context.Context, f fulcrum.Fault) error // on every node that runs, and on those that start later
	Heal(ctx context.Context, ids ...string) error     // without ids: everything

	Kill(ctx context.Context, nodes ...fulcrum.NodeID) error // all at the same moment; simulated: unsynced writes are lost
	Stop(ctx context.Context, nodes ...fulcrum.NodeID) error // as SIGTERM does, and waits
	Start(ctx context.Context, nodes ...fulcrum.NodeID) error
	Running() []fulcrum.NodeID
	Pause(ctx context.Context, nodes ...fulcrum.NodeID) error
	Resume(ctx context.Context, nodes ...fulcrum.NodeID) error
	Damage(ctx context.Context, node fulcrum.NodeID, what Damage, seed uint64) error

	// Leader is the leader of the keyspace's first shard (of the catalog for ""), as
	// most nodes see it; "" when none is known.
	Leader(ctx context.Context, keyspace string) fulcrum.NodeID
	// Mode is the keyspace's mode now and the one it is on its way to.
	Mode(ctx context.Context, keyspace string) (now, target string, err error)
	Switch(ctx context.Context, keyspace, mode string) error // begins it; Mode shows when it is done

	// Duplicate makes every packet and frame between two nodes arrive twice with the
	// given probability, below the program; 0 ends it.
	Duplicate(ctx context.Context, probability float64) error

	// Hits counts how often faults of a kind ("partition", "isolate", "link", "clock",
	// "disk", "pause", "kill", "duplicate", "damage", "switch") acted since the cluster was opened: the proof
	// that a nemesis bit. It never falls, also when nodes restart.
	Hits(ctx context.Context) map[string]int64
}
