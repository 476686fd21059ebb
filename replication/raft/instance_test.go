package raft

import (
	"testing"
	"testing/synctest"
	"time"

	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
	"fulcrum/replication/replicationtest"
)

// still is a Machine that does nothing.
type still struct{}

func (still) Apply(uint64, []byte) any { return nil }
func (still) Snapshot() []byte         { return nil }
func (still) Restore([]byte) error     { return nil }

func newInstance(t *testing.T, entries ...protocol.Entry) *instance {
	t.Helper()
	c, err := openCore(replication.Env{Node: "a", Log: replicationtest.NewLog()}, Tuning{}, NewRounds())
	if err != nil {
		t.Fatal(err)
	}
	c.machine = &driver{core: c, to: still{}}
	keep(t, c.store, entries...)
	in, err := c.begin()
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func membersAt(index uint64, ids ...replicationNode) protocol.Entry {
	var conf protocol.Configuration
	for _, id := range ids {
		conf = conf.With(protocol.Member{ID: id, Voter: true})
	}
	return protocol.Entry{Index: index, Term: 1, Kind: protocol.Members, Data: conf.Append(nil)}
}

// A machine passes a configuration as soon as it is committed, and may do so before
// everybody can see that it is in force: a snapshot taken between the two must not have the
// one before.
func TestASnapshotHasTheConfigurationThatItCovers(t *testing.T) {
	in := newInstance(t, membersAt(1, "a"))
	keep(t, in.core.store, membersAt(2, "a", "b")) // and not yet published
	in.commit.Store(2)
	in.applyCommitted(t.Context())
	if at := in.applied.Load(); at != 2 {
		t.Fatalf("applied up to %d, want 2", at)
	}
	if m, _, err := in.core.capture(in); err == nil {
		t.Errorf("a snapshot at %d has the configuration of %d", m.Index, m.Config.Index)
	}
}

// A snapshot that has been installed waits for its turn at the log as long as it takes.
func TestAnInstallWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInstance(t, membersAt(1, "a"))
		in.box.busy, in.box.events = true, make([]event, maxEvents) // the disk stands still
		m := snapshotMeta{Index: 9, Term: 3, Config: protocol.ConfigurationAt{Index: 1}}
		installed := make(chan error, 1)
		go func() { installed <- in.install(m, newSpooled(nil)) }()
		time.Sleep(time.Second)
		in.box.Lock()
		in.box.busy, in.box.events = false, nil
		in.box.Unlock()
		go in.serve(in.ctx)
		time.Sleep(time.Second)
		in.cut()
		if err := <-installed; err != nil || in.core.store.Last() != 9 {
			t.Errorf("%v; the log ends at %d, want 9", err, in.core.store.Last())
		}
	})
}

type resetting struct {
	replication.Log
	then func()
}

func (l resetting) Reset(base uint64) error {
	defer l.then()
	return l.Log.Reset(base)
}

// Who reads an entry that a snapshot is just replacing does not take the log for damaged.
func TestReadingWhileTheLogIsReset(t *testing.T) {
	log := &resetting{Log: replicationtest.NewLog()}
	s, failures := newStore(t, log, 0)
	for i := uint64(1); i <= 10; i++ {
		keep(t, s, entryOf(i, 10))
	}
	log.then = func() {
		if _, ok := s.entry(5); ok {
			t.Error("an entry is read that is not there any more")
		}
	}
	if err := s.reset(position{20, 3}); err != nil || len(*failures) > 0 {
		t.Errorf("%v, %v", err, *failures)
	}
}
