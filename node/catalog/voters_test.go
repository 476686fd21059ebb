package catalog

import (
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
