package catalog

import (
	"errors"
	"testing"

	"fulcrum"
)

// A voter that takes the place of one that leaves does not make the group larger: while
// both are there it has one voter more, and that is not what it should have from then on.
func TestAReplacedVoterMakesTheGroupNoLarger(t *testing.T) {
	m := NewMachine()
	index := uint64(0)
	do := func(c Command) {
		t.Helper()
		index++
		b, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if e, failed := m.Apply(index, b).(error); failed {
			t.Fatal(e)
		}
	}
	register := func(id fulcrum.NodeID, voter bool) {
		t.Helper()
		do(Command{Register: &Node{Name: id, PeerAddr: string(id), Incarnation: string(id), Voter: voter}})
	}
	for _, id := range []fulcrum.NodeID{"a", "b", "c"} {
		register(id, true)
	}
	register("d", false)
	leave := func(id, instead fulcrum.NodeID) {
		t.Helper()
		do(Command{RemoveNode: &RemoveNode{Node: id}})
		if st := m.State(); st.LacksVoter() || !st.LacksVoterWithout(id) {
			t.Errorf("%s is still there: it is lacking: %v, and would be: %v", id, st.LacksVoter(), st.LacksVoterWithout(id))
		}
		if instead != "" {
			do(Command{SetVoter: &SetVoter{Node: instead, Incarnation: string(instead)}})
			if st := m.State(); st.LacksVoter() || st.LacksVoterWithout(id) {
				t.Errorf("%s has taken the place of %s, and one is still lacking", instead, id)
			}
		}
		do(Command{RemoveNode: &RemoveNode{Node: id, Forget: true}})
	}
	leave("c", "d")
	if st := m.State(); st.LacksVoter() || st.Voters != 3 {
		t.Errorf("after a voter was replaced there should be %d", st.Voters)
	}
	leave("b", "")
	if st := m.State(); !st.LacksVoter() || st.Voters != 3 {
		t.Errorf("after a voter left with none in its place there should be %d, and one is lacking: %v", st.Voters, st.LacksVoter())
	}
}

// A vote is the data directory's that it was given to.
func TestAVoteIsNotAnotherDataDirectorys(t *testing.T) {
	s := New()
	if err := s.register(Node{Name: "a", PeerAddr: "a", Incarnation: "new"}); err != nil {
		t.Fatal(err)
	}
	if err := s.setVoter(SetVoter{Node: "a", Incarnation: "old"}); !errors.Is(err, fulcrum.ErrConflict) || s.Nodes["a"].Voter {
		t.Errorf("%v, %+v", err, s.Nodes["a"])
	}
	if err := s.setVoter(SetVoter{Node: "b", Incarnation: ""}); !errors.Is(err, fulcrum.ErrConflict) || len(s.Nodes) != 1 {
		t.Errorf("a node that is not there: %v", err)
	}
	if err := s.setVoter(SetVoter{Node: "a", Incarnation: "new"}); err != nil || !s.Nodes["a"].Voter || s.Voters != 1 {
		t.Errorf("%v, %+v", err, s.Nodes["a"])
	}
}
