//go:build mutants

package nemesis_test

import (
	"testing"
	"testing/synctest"
	"time"

	"fulcrum/mutant"
)

// The mutant says that it acts, and does nothing: there is no hit to show for it.
func TestTheMutantBreaksNothing(t *testing.T) {
	mutant.Set("nemesis-noop")
	defer mutant.Set("")
	every(t, func(t *testing.T, name string) {
		f := newFake(5)
		h := run(t, t.Context(), plan(t, f, 1, 5*time.Minute, name), f)
		synctest.Wait()
		if len(f.log) > 0 {
			t.Errorf("something was done: %v", f.log)
		}
		for _, ft := range h.Faults() {
			if ft.Hits != 0 {
				t.Errorf("%s has %d hits", ft.Name, ft.Hits)
			}
		}
	})
}
