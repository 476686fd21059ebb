package raft_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

var errUnreadable = errors.New("input/output error")

// unreadable is a log of which one record cannot be read, as long as it is there.
type unreadable struct {
	*replicationtest.Log
	at uint64
}

func (l unreadable) Range(lo, hi uint64, f func(index uint64, record []byte) error) error {
	if lo <= l.at && l.at <= hi && l.First() <= l.at && l.at <= l.Last() {
		return errUnreadable
	}
	return l.Log.Range(lo, hi, f)
}

// A replica comes up, and cannot read the record at its snapshot's place. What stands behind
// it in the log may have been counted for a commit: it must still be there when the record
// is read again, or the replica is rebuilt; the replica must not take the log for one that
// ends before the snapshot, and empty it.
func TestARecordThatCannotBeReadCostsNoOther(t *testing.T) {
	inEnsemble(t, raft.Tuning{}, func(t *testing.T, e *ensemble) {
		for _, id := range threeVoters {
			e.open(id, replicationtest.NewLog(), threeVoters, nil)
		}
		l := e.leader()
		rest := slices.DeleteFunc(slices.Clone(threeVoters), func(id fulcrum.NodeID) bool { return id == e.id(l) })
		hit, away := rest[0], rest[1]
		for i := range 5 {
			propose(t, l, fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		if err := e.replicas[hit].Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
		e.net.Isolate(away)
		propose(t, l, "by two of three")
		time.Sleep(time.Second)
		log := e.stop(hit)
		stored, _ := log.Meta(raft.MetaSnapshot)
		at, _, ok := raft.SnapshotPlace(stored)
		if last := log.Last(); !ok || at == 0 || at >= last {
			t.Fatalf("the snapshot is at %d of a log that ends at %d: this test means nothing", at, last)
		}
		if err := lived(e, hit, unreadable{log, at}); !errors.Is(err, errUnreadable) {
			t.Errorf("a replica that cannot read its log ends with %v", err)
		}
		e.stop(e.id(l))
		e.net.Heal()
		e.open(hit, log, nil, nil)
		got := e.leader().list.all()
		if !slices.Contains(got, "by two of three") {
			t.Errorf("what was acknowledged is lost: %q", got)
		}
	})
}

// lived opens a replica over log, and returns how it ended.
func lived(e *ensemble, id fulcrum.NodeID, log replication.Log) error {
	env := replication.Env{Node: id, Peers: e.net.Peers(id), Log: log, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	r, err := raft.OpenReplica(raft.ReplicaOptions{Env: env, Machine: &list{}, Tuning: e.tuning})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return r.Run(ctx)
}
