// Package checker judges histories. A check reads a history and answers valid,
// invalid or unknown, with what it found; unknown is never a pass. All is pure: no
// goroutine but inside porcupine, no I/O.
//
// Start reading at Judge: it picks the checks that a run must pass from the promise
// table. Each check has a file of its own; linearizable.go is the fast one that goes
// by versions, and porcupine.go the slow one that believes nothing.
package checker

import (
	"time"

	"fulcrum/consistency"
	"fulcrum/jepsen-lite/history"
)

// Verdict is three-valued.
type Verdict uint8

// The verdicts. Unknown is the zero value on purpose: what nobody decided is no pass.
const (
	Unknown Verdict = iota
	Valid
	Invalid
)

// Anomaly is one thing that a promise excludes, found in a history.
type Anomaly struct {
	Kind   string `json:"kind"` // "stale-read", "lost-write", "phantom" ...
	Key    string `json:"key,omitempty"`
	Detail string `json:"detail"`        // one sentence for people, with values, versions and times
	Ops    []int  `json:"ops,omitempty"` // indexes into History.Ops that show it
}

// Result is what one check says.
type Result struct {
	Check     string             `json:"check"` // its name
	Verdict   Verdict            `json:"verdict"`
	Detail    string             `json:"detail"`              // one sentence: why
	Anomalies []Anomaly          `json:"anomalies,omitempty"` // the first MaxAnomalies
	Found     int                `json:"found"`               // how many there were
	Stats     map[string]float64 `json:"stats,omitempty"`     // figures, under stable names: "staleness_p99_seconds" ...
}

// MaxAnomalies is how many of one check are kept.
const MaxAnomalies = 16

// Spec is what a run claimed: Judge derives the checks from it.
type Spec struct {
	Workload    string
	Mode        consistency.Mode   // of the keyspace at the start
	Modes       []consistency.Mode // all that it was switched to, Mode included
	Write, Read consistency.Level
	Replicas    int
	Tokens      bool     // sessions sent their tokens
	Nemeses     []string // that were to act: each must have bitten

	Skew time.Duration // how far from the others a clock was put at the most, by a nemesis
}

// Judgement is all results and the worst of their verdicts.
type Judgement struct {
	Verdict Verdict
	Results []Result
}

// Check is one check.
type Check struct {
	Name string
	Run  func(h *history.History, s Spec) Result
}
