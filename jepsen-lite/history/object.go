package history

import (
	"io"
	"maps"
	"slices"
)

// Objects are the registers, counters and sets of h, by key and by prefix. Lists and
// transactions are not among them: their checkers want the history as a whole.
func Objects(h *History) []string {
	e, all := newEDN(h), map[string]bool{}
	for i := range h.Ops {
		if object := e.object(&h.Ops[i]); object != "" {
			all[object] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// WriteObjectEDN writes the operations of one object as WriteEDN does, for a checker that
// knows one object only: values lack its name, and indexes count what is written.
func WriteObjectEDN(w io.Writer, h *History, object string) error {
	e := newEDN(h)
	e.alone = object
	return e.write(w, h)
}
