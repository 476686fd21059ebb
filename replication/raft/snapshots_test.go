package raft

import (
	"hash/crc64"
	"io"
	"testing"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/replicationtest"
)

// What follows an installed snapshot in the log stays if the log agrees with the
// snapshot, as it may have been counted towards commits (Raft paper, section 7).
func TestInstallKeepsOrDropsTheLogBehindIt(t *testing.T) {
	for _, tc := range []struct {
		name        string
		index, term uint64
		keep        bool
	}{
		{"the log has the snapshot's entry", 5, 2, true},
		{"the log has another entry there", 5, 3, false},
		{"the log ends there, with another entry", 10, 3, false},
		{"the log ends before it", 11, 3, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			source := replicationtest.NewState()
			if err := source.Rebase(tc.index, nil); err != nil {
				t.Fatal(err)
			}
			k := newKeeper(t, replicationtest.NewState())
			c := k.core
			keep(t, c.store, commands(1, 10, 2)...)
			in, err := c.begin()
			if err != nil {
				t.Fatal(err)
			}
			defer in.life.Wait()
			defer in.cut()
			in.life.Go(func() { in.serve(in.ctx) })
			m := virtualSnapshot([]fulcrum.NodeID{"a"})
			m.Index, m.Term = tc.index, tc.term
			_, stream, err := newKeeper(t, source).open(m)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(stream)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := c.staging.take("b", chunk{transfer: 1, last: true, data: data, sum: crc64.Checksum(data, crcTable)}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if err := in.install(m, whole); err != nil {
				t.Fatal(err)
			}
			if last := c.store.Last(); (last == 10 && tc.index < 10) != tc.keep {
				t.Errorf("the log ends at %d, want it kept: %v", last, tc.keep)
			}
			if first := c.store.First(); !tc.keep && first != tc.index+1 {
				t.Errorf("the log begins at %d, want %d", first, tc.index+1)
			}
			if m, ok := c.snaps.current(); !ok || m.Index != tc.index || k.applied() != tc.index || in.applied.Load() != tc.index {
				t.Errorf("snapshot at %d, applied %d, want %d", m.Index, k.applied(), tc.index)
			}
			m.Index--
			if err := in.install(m, whole); err != nil || k.applied() != tc.index {
				t.Errorf("an older snapshot: %v, at %d now", err, k.applied())
			}
		})
	}
}

// After a crash at any moment of an install, the log is made to fit the snapshot.
func TestReconcile(t *testing.T) {
	for _, tc := range []struct {
		name        string
		index, term uint64
		last        uint64 // of the log afterwards
		fails       bool
	}{
		{"the log goes on from it", 5, 2, 10, false},
		{"the log conflicts with it", 5, 3, 5, false},
		{"the log ends before it", 20, 3, 20, false},
		{"the log begins right behind it", 2, 2, 10, false},
		{"entries between them are missing", 1, 1, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := replicationtest.NewLog()
			if err := log.Reset(2); err != nil {
				t.Fatal(err)
			}
			c, err := openCore(replication.Env{Node: "n", Log: log}, Tuning{}, NewRounds())
			if err != nil {
				t.Fatal(err)
			}
			keep(t, c.store, commands(3, 10, 2)...)
			err = c.reconcile(snapshotMeta{Index: tc.index, Term: tc.term})
			if (err != nil) != tc.fails {
				t.Fatalf("reconcile: %v", err)
			}
			if last := c.store.Last(); !tc.fails && last != tc.last {
				t.Errorf("the log ends at %d, want %d", last, tc.last)
			}
		})
	}
}
