package raft

import (
	"hash/crc64"
	"io"
	"testing"

	hraft "github.com/hashicorp/raft"

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
		keep, renew bool
	}{
		{"the log has the snapshot's entry", 5, 2, true, false},
		{"the log has another entry there", 5, 3, false, true},
		{"the log ends there, with another entry", 10, 3, false, true},
		{"the log ends before it", 11, 3, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			source := replicationtest.NewState()
			if err := source.Rebase(tc.index, nil); err != nil {
				t.Fatal(err)
			}
			k := newKeeper(t, replicationtest.NewState())
			c := k.core
			for i := uint64(1); i <= 10; i++ {
				if err := c.store.StoreLog(&hraft.Log{Index: i, Term: 2}); err != nil {
					t.Fatal(err)
				}
			}
			sink, err := c.snaps.Create(1, tc.index, tc.term, virtualSnapshot([]fulcrum.NodeID{"a"}).Config, 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, stream, err := newKeeper(t, source).open(snapshotMeta{Index: tc.index, Term: tc.term})
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(stream)
			if err != nil {
				t.Fatal(err)
			}
			_, ticket, err := c.staging.take("b", chunk{transfer: 1, last: true, data: data, sum: crc64.Checksum(data, crcTable)}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = sink.Write(ticket)
			if err := sink.Close(); err != nil {
				t.Fatal(err)
			}
			_, rc, err := c.snaps.Open(sink.ID())
			if err != nil {
				t.Fatal(err)
			}
			if err := (fsm{c}).Restore(rc); err != nil {
				t.Fatal(err)
			}
			if got := !c.store.IsMonotonic(); got != tc.keep {
				t.Errorf("keeps the log: %v, want %v", got, tc.keep)
			}
			if got := c.silent(); got != tc.renew {
				t.Errorf("silenced until renewed: %v, want %v", got, tc.renew)
			}
			if m, ok := c.snaps.current(); !ok || m.Index != tc.index || k.applied() != tc.index {
				t.Errorf("snapshot at %d, applied %d, want %d", m.Index, k.applied(), tc.index)
			}
			if _, err := c.snaps.Create(1, tc.index-1, 2, hraft.Configuration{}, 1, nil); err == nil {
				t.Error("an older snapshot was taken in")
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
		{"the log conflicts with it", 5, 3, 0, false},
		{"the log ends before it", 20, 3, 0, false},
		{"the log begins right behind it", 2, 2, 10, false},
		{"entries between them are missing", 1, 1, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := replicationtest.NewLog()
			if err := log.Reset(2); err != nil {
				t.Fatal(err)
			}
			c, err := openCore(replication.Env{Node: "n", Log: log}, Tuning{})
			if err != nil {
				t.Fatal(err)
			}
			for i := uint64(3); i <= 10; i++ {
				if err := c.store.StoreLog(&hraft.Log{Index: i, Term: 2}); err != nil {
					t.Fatal(err)
				}
			}
			err = c.reconcile(snapshotMeta{Index: tc.index, Term: tc.term})
			if (err != nil) != tc.fails {
				t.Fatalf("reconcile: %v", err)
			}
			if _, last := c.store.bounds(); !tc.fails && last != tc.last {
				t.Errorf("the log ends at %d, want %d", last, tc.last)
			}
		})
	}
}
