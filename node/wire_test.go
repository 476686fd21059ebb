package node

import (
	"testing"

	"fulcrum"
	"fulcrum/replication"
)

// An answer to a write that cannot be read says nothing of what became of the write.
func TestAnUnreadableAnswerToAWriteLeavesItOpen(t *testing.T) {
	whole := writeAnswer(replication.WriteReply{}, fulcrum.Errorf(fulcrum.CodeConflict, "said clearly"))
	if _, err := readWriteAnswer(whole); fulcrum.AsError(err).Code != fulcrum.CodeConflict {
		t.Errorf("a whole answer is read as %v", err)
	}
	garbled := replication.AppendWriteReply(fulcrum.AppendBytes(nil, []byte{0, 9}), replication.WriteReply{})
	for name, answer := range map[string][]byte{"cut short": whole[:3], "empty": nil, "a garbled error": garbled} {
		if _, err := readWriteAnswer(answer); err == nil || !fulcrum.AsError(err).Maybe {
			t.Errorf("%s: %v", name, err)
		}
	}
}
