//go:build !mutants

package mutant

// Enabled says whether this build can be broken at all.
const Enabled = false

// On reports whether the mutant name is chosen: never, in this build.
func On(string) bool { return false }

// Set chooses a mutant; in this build there is none.
func Set(string) {}
