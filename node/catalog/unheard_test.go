package catalog

import (
	"errors"
	"testing"

	"fulcrum"
)

// A node without data knows no keyspaces until it has heard of its cluster: it must not
// say that one is not there. Once it knows nodes, what it does not find is not there.
func TestNoKeyspaceBeforeTheClusterIsKnown(t *testing.T) {
	empty, known := New(), New()
	known.Nodes["n1"] = Node{}
	for _, c := range []struct {
		s    *State
		want error
	}{{empty, fulcrum.ErrUnavailable}, {known, fulcrum.ErrNotFound}} {
		if err := NoKeyspace("cp", c.s); !errors.Is(err, c.want) {
			t.Errorf("by name, %d nodes known: %v; want %v", len(c.s.Nodes), err, c.want)
		}
		if err := NoNumber(1, c.s); !errors.Is(err, c.want) {
			t.Errorf("by number, %d nodes known: %v; want %v", len(c.s.Nodes), err, c.want)
		}
	}
}
