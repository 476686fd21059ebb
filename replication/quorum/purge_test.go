package quorum_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/quorum"
	rt "fulcrum/replication/replicationtest"
)

// purgingState is a State that can purge: it installs what is left.
type purgingState struct{ *rt.State }

func (s purgingState) Purge(keys [][]byte, index uint64) error {
	left := s.Dump()
	for _, k := range keys {
		delete(left, string(k))
	}
	return s.Install(index, nil, func(put func(fulcrum.Entry) error) error {
		for _, e := range left {
			if err := put(e); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestTombstonesGoOnceEveryReplicaHasThem(t *testing.T) {
	edit := func(env *replication.Env) { env.State = purgingState{env.State.(*rt.State)} }
	opt := quorum.Options{SyncEvery: 10 * time.Second, TombstoneGrace: time.Hour}
	in(t, 3, opt, rt.Options{Edit: edit}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "dead", "v", "live", "v", "rewritten", "v")
		c.Net.Isolate("n3")
		for _, k := range []string{"dead", "rewritten"} {
			if _, err := write(c, "n2", consistency.QuorumOf, fulcrum.Write{Op: fulcrum.OpDelete, Key: []byte(k)}); err != nil {
				t.Fatal(err)
			}
		}
		mustPut(t, c, "n2", consistency.QuorumOf, "rewritten", "again")
		time.Sleep(2 * time.Hour)
		if n := len(c.State("n1").Dump()); n != 3 {
			t.Fatalf("%d keys: a tombstone went while n3 still holds what it killed", n)
		}
		c.Net.Heal()
		time.Sleep(time.Minute)
		wantEqual(t, c, 2)
		for _, id := range c.IDs {
			wantRead(t, c, id, consistency.One, "dead", "")
			wantRead(t, c, id, consistency.One, "rewritten", "again")
		}
		for _, id := range c.IDs { // replaying the log does not bring it back either
			c.Restart(id)
		}
		time.Sleep(time.Minute)
		wantEqual(t, c, 2)
	})
}

func TestTombstonesStayForTheGraceTime(t *testing.T) {
	edit := func(env *replication.Env) { env.State = purgingState{env.State.(*rt.State)} }
	opt := quorum.Options{SyncEvery: 10 * time.Second, TombstoneGrace: time.Hour}
	in(t, 3, opt, rt.Options{Edit: edit}, func(t *testing.T, c *rt.Cluster) {
		if _, err := write(c, "n2", consistency.All, fulcrum.Write{Op: fulcrum.OpDelete, Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Minute)
		wantEqual(t, c, 1)
		time.Sleep(20 * time.Minute)
		wantEqual(t, c, 0)
	})
}

func TestClearedHintsAreForgotten(t *testing.T) {
	var hints replication.State
	edit := func(env *replication.Env) {
		if env.Node == "n1" {
			hints = env.Hints
		}
	}
	in(t, 3, quorum.Options{}, rt.Options{Edit: edit}, func(t *testing.T, c *rt.Cluster) {
		c.Net.Isolate("n3")
		mustPut(t, c, "n1", consistency.QuorumOf, "first", "v")
		time.Sleep(time.Second)
		for i := range 1200 {
			mustPut(t, c, "n1", consistency.QuorumOf, fmt.Sprint("k", i), "v")
		}
		if h := c.Group("n1").Status().Hints; h != 1201 {
			t.Fatalf("%d hints", h)
		}
		c.Net.Heal()
		time.Sleep(5 * time.Second)
		mustPut(t, c, "n1", consistency.QuorumOf, "last", "v")
		if n := hints.Keys(); n != 0 {
			t.Errorf("%d cleared marks are kept", n)
		}
		time.Sleep(time.Second)
		wantEqual(t, c, 1202)
	})
}

func TestBadDiskEndsRunAndOthersGoOn(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{RunMayFail: true}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "k", "v")
		c.Log("n3").FailWith(errors.New("no space left"))
		mustPut(t, c, "n1", consistency.QuorumOf, "k", "w")
		time.Sleep(time.Second)
		if err := c.RunErr("n3"); !errors.Is(err, fulcrum.ErrDisk) {
			t.Fatalf("Run on a bad disk: %v", err)
		}
		wantRead(t, c, "n2", consistency.QuorumOf, "k", "w")
		if _, err := put(c, "n3", consistency.One, "k", "x"); err == nil {
			t.Fatal("a replica without a disk acknowledged a write")
		}
	})
}

func TestExpiredEntriesAreNotLive(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		w := fulcrum.Write{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v"), ExpireAt: time.Now().Add(time.Minute).UnixMilli()}
		if _, err := write(c, "n1", consistency.QuorumOf, w); err != nil {
			t.Fatal(err)
		}
		wantRead(t, c, "n2", consistency.QuorumOf, "k", "v")
		time.Sleep(time.Minute)
		wantRead(t, c, "n2", consistency.QuorumOf, "k", "")
	})
}
