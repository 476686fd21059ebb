//go:build mutants

package mutant

import (
	"os"
	"sync/atomic"
)

// Enabled says whether this build can be broken at all.
const Enabled = true

// chosen is the one that is on. It is the exception to the rule against package
// variables: it must reach everywhere, and exists in no build that anybody runs.
var chosen atomic.Pointer[string]

func init() {
	if name := os.Getenv("FULCRUM_MUTANT"); name != "" {
		Set(name)
	}
}

// On reports whether the mutant name is chosen.
func On(name string) bool {
	p := chosen.Load()
	return p != nil && *p == name
}

// Set chooses a mutant, "" none.
func Set(name string) { chosen.Store(&name) }
