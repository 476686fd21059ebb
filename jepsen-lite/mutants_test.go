package jepsen

import (
	"testing"

	"fulcrum/mutant"
)

// A run that cannot be made kills nothing, and nobody notices but who runs all mutants.
func TestEveryMutantHasARunThatCanBeMade(t *testing.T) {
	runs := 0
	for _, m := range mutant.List() {
		if m.Workload == "" {
			continue
		}
		runs++
		run, err := testOf(m, 1)
		if err != nil {
			t.Errorf("%s: %v", m.Name, err)
			continue
		}
		if !run.Sim || run.Seed != 1 {
			t.Errorf("%s: its run is not simulated, or not with the seed that was asked for", m.Name)
		}
	}
	if all := len(mutant.List()); runs < all-all/5 {
		t.Errorf("only %d of %d mutants have a run: mostly runs must kill them, and not Go tests", runs, all)
	}
}

// What an attack shows on its way out is all that says who killed the mutant.
func TestWhoKilledIt(t *testing.T) {
	table := "set           invalid  13 found, the first: lost-element\nbite          unknown  nothing was hit\n"
	found := failing.FindAllStringSubmatch(table, -1)
	if len(found) != 2 || found[0][1] != "set" || found[0][2] != "invalid" || found[1][1] != "bite" || found[1][2] != "unknown" {
		t.Errorf("found %q", found)
	}
	if got := crashed.FindString("node: don't panic: all is well\npanic: oh\n\ngoroutine 1"); got != "panic: oh" {
		t.Errorf("a crash reads as %q", got)
	}
	if got := crashed.FindString("a panic: in a sentence"); got != "" {
		t.Errorf("a sentence is taken for the crash %q", got)
	}
}
