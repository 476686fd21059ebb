package raft_test

import (
	"runtime"
	"testing"
)

// simFaults are ways in which what replicas stand on, what is in them, or who uses them
// can be wrong.
type simFaults struct {
	lies          bool // the log calls back before the sync
	covers        bool // a sync is taken to cover what was written while it lasted
	mute          bool // the log does not always call back
	forgetsVotes  bool // term and vote are not durable when the log says so
	early         bool // a snapshot says that it is further than it is
	clears        bool // entries that are handed to the machine are cleared when they leave memory
	reuses        bool // the network uses the buffer of a message again
	goesBack      bool // a machine takes in snapshots that are behind it
	installsAgain bool // the last chunk of a snapshot counts again when it comes again
	forgetsAll    bool // a voter comes back with an empty disk
	beginsAnew    bool // and with the group's first configuration
	believes      bool // who believes that it leads answers reads
	verifies      bool // or asks only as hashicorp/raft does
	unknownIsNot  bool // what is unknown is taken for not done
}

// The simulation finds out when something is wrong. With outcomes, it does so without the
// checks of what is only forbidden: that an entry is applied too early, or that somebody
// votes twice.
func TestSimulationCatches(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("hundreds of seeds, of what is broken on purpose")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, tt := range []struct {
		name     string
		faults   simFaults
		outcomes bool
		within   uint64 // seeds
	}{
		{"a log calls back before the sync", simFaults{lies: true}, false, 50},
		{"a log calls back before the sync, and entries are lost", simFaults{lies: true}, true, 400},
		{"a sync covers what comes too late", simFaults{covers: true}, false, 200},
		{"a log does not call back", simFaults{mute: true}, false, 50},
		{"votes are not durable", simFaults{forgetsVotes: true}, false, 500},
		{"a snapshot is further than its picture", simFaults{early: true}, false, 50},
		{"entries are cleared while they are applied", simFaults{clears: true}, false, 200},
		{"messages are overwritten", simFaults{reuses: true}, false, 50},
		{"a machine goes back to a snapshot", simFaults{installsAgain: true, goesBack: true}, false, 500},
		{"a snapshot is installed again", simFaults{installsAgain: true}, false, 500},
		{"a voter comes back with an empty disk", simFaults{forgetsAll: true}, false, 500},
		{"a voter begins anew", simFaults{beginsAnew: true}, false, 500},
		{"a deposed leader answers reads", simFaults{believes: true}, false, 200},
		{"a deposed leader answers reads after VerifyLeader", simFaults{verifies: true}, false, 500},
		{"what is unknown is taken for not done", simFaults{unknownIsNot: true}, false, 50},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := uint64(1); seed <= tt.within; seed++ {
				_, err := simulate(t, seed, tt.faults, func(s *sim) { s.outcomes = tt.outcomes })
				if err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not found in %d seeds", tt.within)
		})
	}
}
