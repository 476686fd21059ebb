package node

import (
	"context"
	"errors"
	"testing"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
	"fulcrum/node/catalog"
)

// An attempt that may have been done is repeated only where its id is known.
func TestWhereAnUnknownOutcomeIsTriedAgain(t *testing.T) {
	unknown, overloaded := error(fulcrum.Errorf(fulcrum.CodeUnknown, "lost")), error(fulcrum.Errorf(fulcrum.CodeOverloaded, "full"))
	at := func(m consistency.Mode, e fulcrum.Epoch) *catalog.Shard { return &catalog.Shard{Mode: m, Epoch: e} }
	named, plain := &operation{call: api.Call{ID: "i"}}, &operation{}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		op   *operation
		sh   *catalog.Shard
		err  error
		want bool
	}{
		{"with an id", t.Context(), named, at(consistency.Raft, 3), unknown, true},
		{"without one", t.Context(), plain, at(consistency.Raft, 3), unknown, false},
		{"in another mode", t.Context(), named, at(consistency.LeaderFollower, 3), unknown, false},
		{"after the deadline", ended, named, at(consistency.Raft, 3), unknown, false},
		{"what is definite", t.Context(), named, at(consistency.Raft, 3), overloaded, false},
	} {
		if d := (doubt{}); d.mayRepeat(tt.ctx, tt.op, tt.sh, tt.err) != tt.want {
			t.Errorf("%s: tried again: %v, want %v", tt.name, !tt.want, tt.want)
		}
	}

	var d doubt
	if !d.follows(at(consistency.Quorum, 9)) || d.or(overloaded) != overloaded {
		t.Error("without a doubt nothing changes")
	}
	d.mayRepeat(t.Context(), named, at(consistency.Raft, 3), unknown)
	if !d.mayRepeat(t.Context(), named, at(consistency.Raft, 3), overloaded) {
		t.Error("a full queue ended a request that may have been done")
	}
	for _, tt := range []struct {
		sh   *catalog.Shard
		want bool
	}{
		{at(consistency.Raft, 3), true}, {at(consistency.Quorum, 4), false}, {at(consistency.Raft, 5), false},
		{at(consistency.Raft, 4), true}, {at(consistency.Raft, 5), true}, {at(consistency.Raft, 7), false},
	} {
		if got := d.follows(tt.sh); got != tt.want {
			t.Errorf("to epoch %d of mode %s: %v, want %v", tt.sh.Epoch, tt.sh.Mode, got, tt.want)
		}
	}
	if err := d.or(overloaded); !errors.Is(err, fulcrum.ErrUnknown) || !fulcrum.AsError(err).Maybe {
		t.Errorf("refused after an attempt that may have been done: %v", err)
	}
}
