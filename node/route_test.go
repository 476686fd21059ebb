package node

import (
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/catalog"
)

// coordinator is a node that only routes: it runs no group and knows no cluster.
func coordinator(name fulcrum.NodeID) *Node {
	n := &Node{opt: Options{Name: name}, machine: catalog.NewMachine()}
	n.hints.leaders = map[fulcrum.GroupID]fulcrum.NodeID{}
	n.host = newHost(n)
	return n
}

func TestWhoIsAskedFirst(t *testing.T) {
	ids := func(s ...fulcrum.NodeID) []fulcrum.NodeID { return s }
	linearizable, lease, one := consistency.L(consistency.Linearizable), consistency.L(consistency.Lease), consistency.L(consistency.One)
	bounded := consistency.Level{Kind: consistency.Bounded, Bound: time.Second}
	tests := []struct {
		name   string
		at     fulcrum.NodeID
		mode   consistency.Mode
		leader fulcrum.NodeID // as the catalog has it
		hint   fulcrum.NodeID // who took the last request
		live   []fulcrum.NodeID
		access consistency.Access
		level  consistency.Level
		want   []fulcrum.NodeID
	}{
		{"nothing known: this node, then the others in their order", "n2", consistency.Raft, "", "", nil, consistency.Read, linearizable, ids("n2", "n1", "n3")},
		{"a stranger asks them in their order", "n9", consistency.Raft, "", "", nil, consistency.Read, linearizable, ids("n1", "n2", "n3")},
		{"who led the last time comes first", "n2", consistency.Raft, "", "n3", nil, consistency.Write, linearizable, ids("n3", "n2", "n1")},
		{"this node's replica asks the leader itself", "n2", consistency.Raft, "", "n3", nil, consistency.Read, linearizable, ids("n2", "n3", "n1")},
		{"a stranger asks the leader", "n9", consistency.Raft, "", "n3", nil, consistency.Read, linearizable, ids("n3", "n1", "n2")},
		{"the leader alone has a lease", "n2", consistency.Raft, "", "n3", nil, consistency.Read, lease, ids("n3", "n2", "n1")},
		{"this node's replica may have a proof", "n2", consistency.Raft, "", "n3", nil, consistency.Read, bounded, ids("n2", "n1", "n3")},
		{"a leader that orders reads comes first", "n2", consistency.LeaderFollower, "n3", "", nil, consistency.Read, linearizable, ids("n3", "n2", "n1")},
		{"the catalog's leader before a hint", "n2", consistency.LeaderFollower, "n1", "n3", nil, consistency.Write, linearizable, ids("n1", "n2", "n3")},
		{"a local read does not go to the leader", "n2", consistency.LeaderFollower, "n1", "", nil, consistency.Read, one, ids("n2", "n1", "n3")},
		{"a write at one does", "n2", consistency.LeaderFollower, "n1", "", nil, consistency.Write, one, ids("n1", "n2", "n3")},
		{"without an orderer there is no leader", "n2", consistency.Quorum, "", "n3", nil, consistency.Write, linearizable, ids("n2", "n1", "n3")},
		{"who is not live comes last", "n9", consistency.Raft, "", "", ids("n2", "n3", "n9"), consistency.Read, linearizable, ids("n2", "n3", "n1")},
		{"this node knows that it lives", "n1", consistency.Raft, "", "", ids("n2", "n3"), consistency.Read, linearizable, ids("n1", "n2", "n3")},
		{"an expired leader is still asked first: who else would know", "n9", consistency.LeaderFollower, "n1", "", ids("n2", "n3", "n9"), consistency.Write, linearizable, ids("n1", "n2", "n3")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := coordinator(tt.at)
			if tt.live != nil {
				n.lease.live, n.lease.asOf = tt.live, time.Now()
			}
			if tt.hint != "" {
				n.hints.set(7, tt.hint, consistency.Raft)
			}
			sh := &catalog.Shard{Group: 7, Epoch: 1, Mode: tt.mode, Leader: tt.leader, Replicas: ids("n1", "n2", "n3")}
			if got := n.candidates(sh, tt.access, tt.level); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// That the replica here comes first is said twice: in short, for most requests, and by the
// order of all.
func TestWhoIsAskedFirstInShort(t *testing.T) {
	for _, self := range []fulcrum.NodeID{"n1", "n2", "n9"} {
		for _, mode := range consistency.Modes {
			for _, kind := range consistency.Kinds() {
				for _, access := range []consistency.Access{consistency.Read, consistency.Write} {
					for _, leader := range []fulcrum.NodeID{"", "n1", "n2"} {
						for _, live := range [][]fulcrum.NodeID{nil, {"n1", "n2", "n3"}, {"n3"}} {
							n := coordinator(self)
							if live != nil {
								n.lease.live, n.lease.asOf = live, time.Now()
							}
							sh := &catalog.Shard{Group: 7, Epoch: 1, Mode: mode, Leader: leader, Replicas: []fulcrum.NodeID{"n1", "n2", "n3"}}
							level := consistency.Level{Kind: kind, Bound: time.Second}
							r := route{n: n, group: 7}
							if to, _ := r.next(sh, access, level, nil); to != n.candidates(sh, access, level)[0] {
								t.Errorf("%s asks %s for a %s at %s in mode %s, leader %q, live %v; want %s", self, to, access, level, mode, leader, live, n.candidates(sh, access, level)[0])
							}
						}
					}
				}
			}
		}
	}
}

// turn is one call of next: what the one asked before answered, and who is next.
type turn struct {
	last  error
	to    fulcrum.NodeID
	pause bool
}

func TestWhoIsAskedNext(t *testing.T) {
	notLeader := func(hint string) error { return &fulcrum.Error{Code: fulcrum.CodeNotLeader, Hint: hint} }
	tests := []struct {
		name  string
		turns []turn
	}{
		{"each replica once, then a pause, then anew", []turn{
			{nil, "n1", false}, {notLeader(""), "n2", false}, {fulcrum.ErrUnavailable, "n3", false}, {notLeader(""), "", true}, {notLeader(""), "n1", false}}},
		{"a leader's name is followed at once", []turn{
			{nil, "n1", false}, {notLeader("n3"), "n3", false}, {notLeader("n2"), "n2", false}}},
		{"but not twice in a turn", []turn{
			{nil, "n1", false}, {notLeader("n3"), "n3", false}, {notLeader("n1"), "n2", false}, {notLeader("n3"), "", true}, {notLeader("n3"), "n3", false}}},
		{"a name that is no replica's is not", []turn{
			{nil, "n1", false}, {notLeader("n9"), "n2", false}}},
		{"another epoch there is waited for once, and then all are asked anew", []turn{
			{nil, "n1", false}, {fulcrum.ErrEpoch, "", true}, {fulcrum.ErrEpoch, "n1", false}, {fulcrum.ErrEpoch, "", true}, {fulcrum.ErrEpoch, "n1", false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := route{n: coordinator("n1"), group: 7}
			sh := &catalog.Shard{Group: 7, Epoch: 1, Replicas: []fulcrum.NodeID{"n1", "n2", "n3"}}
			for i, turn := range tt.turns {
				to, pause := r.next(sh, consistency.Read, consistency.L(consistency.Linearizable), turn.last)
				if to != turn.to || pause != turn.pause {
					t.Fatalf("turn %d: %q, pause %v; want %q, %v", i, to, pause, turn.to, turn.pause)
				}
			}
		})
	}
	t.Run("a new epoch begins anew", func(t *testing.T) {
		r := route{n: coordinator("n1"), group: 7}
		for epoch := range fulcrum.Epoch(3) {
			sh := &catalog.Shard{Group: 7, Epoch: epoch + 1, Replicas: []fulcrum.NodeID{"n1", "n2"}}
			if to, _ := r.next(sh, consistency.Read, consistency.L(consistency.One), fulcrum.ErrUnavailable); to != "n1" {
				t.Errorf("epoch %d: %q", epoch, to)
			}
		}
	})
}

func TestBackoffRisesToABound(t *testing.T) {
	for attempt, last := 0, time.Duration(0); attempt < 100; attempt++ {
		d := backoff(attempt)
		if d < last || d <= 0 || d > 50*time.Millisecond {
			t.Fatalf("attempt %d waits %s after %s", attempt, d, last)
		}
		last = d
	}
}
