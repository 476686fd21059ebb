package protocol_test

import "testing"

// The simulation finds out when the protocol is carried out wrongly. With outcomes, it
// does so without the checks of what is only forbidden: that an entry counts as
// committed too early, or that somebody votes twice.
func TestSimulationCatches(t *testing.T) {
	for _, tt := range []struct {
		name     string
		faults   faults
		outcomes bool
		within   uint64 // seeds
	}{
		{"what is not durable counts", faults{lies: true}, false, 200},
		{"what is not durable counts, and is lost", faults{lies: true}, true, 2000},
		{"the hard state is forgotten", faults{forgets: true}, false, 200},
		{"the hard state is forgotten, and two lead", faults{forgets: true}, true, 2000},
		{"replies leave too early", faults{eager: true}, false, 200},
		{"replies leave too early, and entries are lost", faults{eager: true}, true, 2000},
		{"everybody gets a vote", faults{generous: true}, false, 200},
		{"everybody gets a vote, and two lead", faults{generous: true}, true, 2000},
		{"a heartbeat proves what it does not", faults{blindBeats: true}, false, 2000},
		{"a snapshot keeps entries of another log", faults{keeps: true}, false, 2000},
		{"a configuration changes by several servers", faults{leaps: true}, false, 2000},
		{"a restart forgets configurations", faults{unconfed: true}, false, 2000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := uint64(1); seed <= tt.within; seed++ {
				s := newSim(seed, tt.faults)
				s.outcomes = tt.outcomes
				if err := s.run(*perSeed); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not found in %d seeds", tt.within)
		})
	}
}
