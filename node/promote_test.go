package node

import (
	"testing"

	"fulcrum"
	"fulcrum/node/catalog"
	"fulcrum/replication/leaderfollower"
)

// What a majority acknowledged is in the longest log of any majority: a later term
// counts before a higher index, and no rank makes up for either.
func TestTheLongestLogIsPromoted(t *testing.T) {
	type logs = map[fulcrum.NodeID]leaderfollower.Promise
	at := func(term, index uint64) leaderfollower.Promise {
		return leaderfollower.Promise{LastTerm: term, LastIndex: index}
	}
	tests := []struct {
		name string
		logs logs
		want fulcrum.NodeID
	}{
		{"the higher index of equal terms", logs{"n1": at(2, 10), "n2": at(2, 11)}, "n2"},
		{"the later term, though shorter", logs{"n1": at(2, 99), "n3": at(3, 1)}, "n3"},
		{"among equals the first in the order of placement", logs{"n2": at(2, 5), "n3": at(2, 5)}, "n2"},
		{"nobody when nobody has promised", logs{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &controller{n: &Node{}}
			sh := &catalog.Shard{Replicas: []fulcrum.NodeID{"n1", "n2", "n3"}}
			if got := c.longest(&catalog.State{}, sh, tt.logs); got != tt.want {
				t.Errorf("promoted %q, want %q", got, tt.want)
			}
		})
	}
}
