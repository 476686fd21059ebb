package raft_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

var threeVoters = []fulcrum.NodeID{"a", "b", "c"}

func inEnsemble(t *testing.T, tuning raft.Tuning, f func(t *testing.T, e *ensemble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := newEnsemble(t, tuning)
		defer e.close()
		f(t, e)
	})
}

func propose(t *testing.T, m *member, cmd string) any {
	t.Helper()
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	v, err := m.Propose(ctx, []byte(cmd))
	if err != nil {
		t.Fatalf("propose %s: %v", cmd, err)
	}
	return v
}

func TestReplicaAppliesInOrderEverywhere(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		for _, id := range threeVoters {
			e.open(id, replicationtest.NewLog(), threeVoters, nil)
		}
		l := e.leader()
		for i := range 20 {
			if got := propose(t, l, fmt.Sprint(i)); got != i+1 {
				t.Fatalf("propose %d = %v", i, got)
			}
		}
		time.Sleep(time.Second)
		for id, m := range e.replicas {
			if got := m.list.all(); !slices.Equal(got, l.list.all()) || len(got) != 20 {
				t.Errorf("%s applied %v", id, got)
			}
			if m.Applied() != l.Applied() {
				t.Errorf("%s is at %d, the leader at %d", id, m.Applied(), l.Applied())
			}
		}
	})
}

func TestFollowerHintsAtTheLeader(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		for _, id := range threeVoters {
			e.open(id, replicationtest.NewLog(), threeVoters, nil)
		}
		l := e.leader()
		time.Sleep(time.Second)
		ctx, cancel := within(time.Second)
		defer cancel()
		for _, m := range e.replicas {
			if m == l {
				continue
			}
			_, err := m.Propose(ctx, []byte("x"))
			var fe *fulcrum.Error
			if !errors.As(err, &fe) || fe.Code != fulcrum.CodeNotLeader || fulcrum.NodeID(fe.Hint) != e.id(l) {
				t.Errorf("propose on a follower: %v, want a hint at %s", err, e.id(l))
			}
			if err := m.Confirm(ctx); !errors.Is(err, fulcrum.ErrNotLeader) {
				t.Errorf("confirm on a follower: %v", err)
			}
		}
	})
}

func TestReplicaRestoresSnapshotAndLog(t *testing.T) {
	inEnsemble(t, raft.Tuning{TrailingEntries: 1}, func(t *testing.T, e *ensemble) {
		m := e.open("a", replicationtest.NewLog(), []fulcrum.NodeID{"a"}, nil)
		e.leader()
		for i := range 10 {
			propose(t, m, fmt.Sprint(i))
		}
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if err := m.Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
		for i := 10; i < 15; i++ {
			propose(t, m, fmt.Sprint(i))
		}
		before := m.list.all()
		if first := m.log.First(); first < 5 {
			t.Errorf("the log still begins at %d", first)
		}
		m = e.open("a", e.stop("a"), []fulcrum.NodeID{"a"}, nil)
		e.leader()
		if got := m.list.all(); !slices.Equal(got, before) {
			t.Errorf("after a restart %v, want %v", got, before)
		}
	})
}

func TestMembershipGrowsAndShrinks(t *testing.T) {
	inEnsemble(t, raft.Tuning{TrailingEntries: 1}, func(t *testing.T, e *ensemble) {
		a := e.open("a", replicationtest.NewLog(), []fulcrum.NodeID{"a"}, nil)
		e.leader()
		for i := range 50 {
			propose(t, a, fmt.Sprint(i))
		}
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		if err := a.Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
		for _, id := range []fulcrum.NodeID{"b", "c"} {
			m := e.open(id, replicationtest.NewLog(), nil, nil)
			if err := a.AddNonvoter(ctx, id); err != nil {
				t.Fatal(err)
			}
			for m.Applied() < a.Applied() {
				time.Sleep(50 * time.Millisecond)
			}
			if err := a.AddVoter(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
		if got := a.Servers(); len(got) != 3 || !got[2].Voter {
			t.Fatalf("servers %v", got)
		}
		if err := a.RemoveServer(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		e.stop("a")
		l := e.leader()
		if got := len(l.list.all()); got != 50 {
			t.Errorf("the new leader holds %d commands, want 50", got)
		}
		propose(t, l, "after")
	})
}

// hashicorp/raft's VerifyLeader counts a non-voter towards the majority of voters.
func TestNonVoterDoesNotConfirm(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		for _, id := range append(slices.Clone(threeVoters), "d") {
			e.open(id, replicationtest.NewLog(), threeVoters, []fulcrum.NodeID{"d"})
		}
		l := e.leader()
		a := e.id(l)
		propose(t, l, "old")
		time.Sleep(time.Second)
		var rest []fulcrum.NodeID
		for _, id := range threeVoters {
			if id != a {
				rest = append(rest, id)
			}
		}
		for _, id := range rest {
			e.net.Cut(a, id)
			e.net.Cut("d", id)
		}
		usurp(t, e.net, rest[1], rest[0])
		time.Sleep(20 * time.Millisecond)
		propose(t, e.replicas[rest[0]], "new")

		if err := l.VerifyLeader(); err != nil {
			t.Errorf("VerifyLeader = %v, want it to be deceived: this test means nothing", err)
		}
		if got := l.list.all(); slices.Contains(got, "new") {
			t.Fatal("the deposed leader knows of the write: this test means nothing")
		}
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if err := l.Confirm(ctx); err == nil {
			t.Error("a deposed leader confirmed itself with a non-voter")
		}
		if err := e.replicas["d"].AskLeader(ctx); err == nil {
			t.Error("a deposed leader gave a read index to its non-voter")
		}
		e.net.Heal()
		l = e.leader()
		propose(t, l, "newer")
		time.Sleep(time.Second)
		if err := e.replicas["d"].AskLeader(ctx); err != nil || !slices.Contains(e.replicas["d"].list.all(), "newer") {
			t.Errorf("a non-voter that asked the leader (%v) has %v", err, e.replicas["d"].list.all())
		}
	})
}

func TestLeaderChangedAndHandOver(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		for _, id := range threeVoters {
			e.open(id, replicationtest.NewLog(), threeVoters, nil)
		}
		l := e.leader()
		time.Sleep(time.Second)
		propose(t, l, "x")
		changed := l.LeaderChanged()
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		if err := l.HandOver(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("no word of the change")
		}
		if n := e.leader(); n == l {
			t.Error("the leader is still the same")
		}
	})
}

// A voter that is demoted goes on following the log and counts no more; a leader that
// demotes itself gives its place away.
func TestVotersAreDemoted(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		for _, id := range threeVoters {
			e.open(id, replicationtest.NewLog(), threeVoters, nil)
		}
		l := e.leader()
		a := e.id(l)
		ctx, cancel := within(30 * time.Second)
		defer cancel()
		if err := l.AddNonvoter(ctx, a); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		n := e.leader()
		if n == l {
			t.Fatal("a replica without a vote leads")
		}
		if got := n.Servers(); len(got) != 3 || slices.Contains(got, raft.Server{Node: a, Voter: true}) || !slices.Contains(got, raft.Server{Node: a}) {
			t.Fatalf("servers %v, want %s without a vote", got, a)
		}
		propose(t, n, "x")
		time.Sleep(time.Second)
		if !slices.Contains(l.list.all(), "x") {
			t.Error("the demoted replica does not follow the log")
		}

		for id := range e.replicas { // the other voter goes: two of two are needed
			if id != a && id != e.id(n) {
				e.net.Isolate(id)
			}
		}
		short, cancel := within(3 * time.Second)
		defer cancel()
		if _, err := n.Propose(short, []byte("y")); err == nil {
			t.Error("a vote was counted that is none")
		}
		e.net.Heal()
		if err := e.leader().AddVoter(ctx, a); err != nil {
			t.Errorf("a vote again: %v", err)
		}
	})
}
