package lab

import (
	"time"

	"fulcrum"
)

// Report is what one run of an experiment measured. Its JSON names are stable; fields
// are only ever added. Null stands for what was not measured.
type Report struct {
	Experiment string     `json:"experiment"`
	Started    time.Time  `json:"started"`
	Seconds    float64    `json:"seconds"` // the whole run
	Sides      []Side     `json:"sides"`
	Keyspaces  []Keyspace `json:"keyspaces"`
	Rows       []Row      `json:"rows"`
	Changes    []Change   `json:"changes"`
	Findings   []string   `json:"findings"` // said of the figures above, and of nothing else
}

// The sides of the cut.
const (
	Minority = "minority"
	Majority = "majority"
)

// Side is one part of the cut network.
type Side struct {
	Name  string           `json:"name"` // minority or majority
	Nodes []fulcrum.NodeID `json:"nodes"`
}

// Keyspace is one of the experiment's keyspaces, and what became of its writes.
type Keyspace struct {
	Keyspace string           `json:"keyspace"` // cp, ap, lf or ca, as in rows
	Name     string           `json:"name"`     // in the cluster
	Mode     string           `json:"mode"`
	Replicas []fulcrum.NodeID `json:"replicas"`
	// Leader is who led just before the cut, and LeaderSide where; in a keyspace with
	// one replica that replica; empty in mode quorum.
	Leader     fulcrum.NodeID `json:"leader,omitempty"`
	LeaderSide string         `json:"leader_side,omitempty"`

	// Of all writes to keys of their own in the whole run: how many were
	// acknowledged, how many of those a read at the strong level does not find after
	// healing, and how many could not be read.
	Acknowledged int `json:"acknowledged"`
	Lost         int `json:"lost_after_healing"`
	Unchecked    int `json:"unchecked"`

	// Converged is how long after healing all nodes first gave the same answers at
	// the weak read level; null: they did not within the time allowed.
	Converged *float64 `json:"converged_seconds"`

	Shared Shared `json:"shared_key"`
}

// Shared is the fate of the key that both sides overwrote.
type Shared struct {
	Value      string `json:"value"`                // after healing
	WrittenBy  string `json:"written_by,omitempty"` // the side that wrote it
	Newest     string `json:"newest_acknowledged"`  // the last write that was acknowledged, in real time
	NewestBy   string `json:"newest_by,omitempty"`  // the side that acknowledged it
	KeptNewest bool   `json:"kept_newest"`          // the value after healing is that write or a later one
	Checked    bool   `json:"checked"`              // it could be read
}

// The phases of a run.
const (
	Before   = "before"   // the network is whole
	AtOnce   = "at-once"  // in the first seconds after the cut
	Settling = "settling" // probes from the cut on, until nobody's answers changed any more
	Cut      = "cut"      // after that
)

// The operations.
const (
	Put       = "put"       // of a new key each time
	Overwrite = "overwrite" // of the one key that both sides write
	Get       = "get"       // of that same key
)

// Row is what some operations of one kind on one side came to.
type Row struct {
	Phase     string `json:"phase"`
	Mode      string `json:"mode"`
	Keyspace  string `json:"keyspace"`
	Side      string `json:"side"`
	Operation string `json:"operation"`
	Level     string `json:"level"`

	Operations int `json:"operations"`
	Answered   int `json:"answered"`
	Refused    int `json:"refused"` // definitely not done; for reads: not answered
	Unknown    int `json:"unknown"` // writes only: may have been done or not
	// Because is the reason of the last refusal or unknown outcome.
	Because string `json:"because,omitempty"`

	// Latency of all of them, whatever came of them, in milliseconds.
	Median float64 `json:"latency_median_ms"`
	Worst  float64 `json:"latency_worst_ms"`

	// Reads that were answered: Fresh returned the newest write that either side had
	// acknowledged before the read began, or a later one; Stale did not.
	Fresh *int `json:"fresh"`
	Stale *int `json:"stale"`

	// Puts: Lost of those answered are not there after healing; Appeared of the
	// unknown ones are; Unchecked could not be read.
	Lost      *int `json:"lost_after_healing"`
	Appeared  *int `json:"unknown_but_there"`
	Unchecked *int `json:"unchecked"`

	// Converged is that of the keyspace; null before the cut.
	Converged *float64 `json:"converged_seconds"`
}

// Change is how one side's answers changed after the cut, as probes every few tenths
// of a second saw it.
type Change struct {
	Keyspace  string `json:"keyspace"`
	Side      string `json:"side"`
	Operation string `json:"operation"`
	Level     string `json:"level"`
	Probes    int    `json:"probes"`
	First     bool   `json:"first_answered"` // what came of the first probe
	Last      bool   `json:"last_answered"`  // and of the last
	Flips     int    `json:"flips"`          // how often it changed
	// At is since when, after the cut, all outcomes were as the last: the end of the
	// first of those probes if it was answered, else its beginning.
	At float64 `json:"since_seconds"`
}
