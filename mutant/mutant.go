// Package mutant breaks the program on purpose, so that jepsen-lite can prove that it
// would notice. Each mutant is one place in the code that asks On(name) and then does
// the wrong thing. A normal build has none of them: On is the constant false there, and
// the compiler drops what stands behind it. Build with -tags mutants, and choose one
// with Set or, for a node's process, with the environment variable FULCRUM_MUTANT.
//
// List is the one source of what there is; `make mutants` runs each against what must
// kill it.
package mutant

import "time"

// Mutant is one way in which the program can be broken, and what should notice.
type Mutant struct {
	Name    string
	Breaks  string // what it does wrong, in one sentence
	Harness bool   // it breaks the test harness, not the store

	// The run that should find it: a keyspace of Mode, with writes and reads at the
	// levels Write and Read, under Workload, while Nemesis (some, with commas between
	// them) is at work. All are empty where no run can see it, or none does in a few
	// minutes; a comment in List says why. What is 0 has the run's own default.
	Mode        string
	Write, Read string
	Workload    string
	Nemesis     string
	Nodes       int
	Replicas    int
	Shards      int
	Busy        time.Duration // how long faults last on average

	// Test is a Go test that fails with it, as "package TestName". It is the proof where
	// there is no run, or the run had no luck.
	Test string
}
