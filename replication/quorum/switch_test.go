package quorum_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/quorum"
	rt "fulcrum/replication/replicationtest"
)

func fence(t *testing.T, c *rt.Cluster, id fulcrum.NodeID) replication.Position {
	t.Helper()
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	pos, err := c.Group(id).Fence(ctx)
	if err != nil {
		t.Fatalf("fence %s: %v", id, err)
	}
	return pos
}

func TestFencedReplicasSettleOnTheSameState(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		for _, id := range c.IDs {
			c.Net.Isolate(id)
		}
		for i := range 30 {
			for _, id := range c.IDs { // each key differs on each replica
				mustPut(t, c, id, consistency.One, fmt.Sprint("k", i), string(id), fmt.Sprint(id, i), "own")
			}
		}
		var newest uint64
		for _, id := range c.IDs {
			newest = max(newest, fence(t, c, id).Index)
			if again := fence(t, c, id); again.Index == 0 {
				t.Fatal("the second fence lost the position")
			}
		}
		c.Restart("n2") // a fence survives
		for _, id := range c.IDs {
			if _, err := put(c, id, consistency.One, "late", "x"); !errors.Is(err, fulcrum.ErrEpoch) {
				t.Errorf("a write on %s behind the fence: %v", id, err)
			}
			if _, err := read(c, id, consistency.One, "k0"); !errors.Is(err, fulcrum.ErrEpoch) {
				t.Errorf("a read on %s behind the fence: %v", id, err)
			}
		}
		c.Net.Heal()
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		for _, id := range c.IDs {
			if err := c.Group(id).Settle(ctx, replication.Position{Index: newest}, c.IDs); err != nil {
				t.Fatalf("settle %s: %v", id, err)
			}
		}
		wantEqual(t, c, 120)
		for _, id := range c.IDs {
			c.Stop(id) // keeps what is durable alone
		}
		wantEqual(t, c, 120)
	})
}

func TestSettleWaitsForTheFenceOfTheOthers(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		pos := fence(t, c, "n1")
		ctx, cancel := within(3 * time.Second)
		if err := c.Group("n1").Settle(ctx, pos, c.IDs[:2]); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Fatalf("settled with a replica that still takes writes: %v", err)
		}
		cancel()
		if err := c.Group("n3").Settle(t.Context(), pos, c.IDs[:2]); !errors.Is(err, fulcrum.ErrConflict) {
			t.Fatalf("settled without a fence: %v", err)
		}
		fence(t, c, "n2")
		ctx, cancel = within(3 * time.Second)
		defer cancel()
		if err := c.Group("n1").Settle(ctx, pos, c.IDs[:2]); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWriteThatMeetsAFenceHandsBackWhatItStamped(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "k", "a")
		fence(t, c, "n2")
		fence(t, c, "n3")
		r, err := put(c, "n1", consistency.QuorumOf, "k", "b")
		if !errors.Is(err, fulcrum.ErrEpoch) {
			t.Fatal(err)
		}
		synctest.Wait() // n1 itself stores it, perhaps after the others have refused
		if len(r.Results) != 1 || string(r.Results[0].Entry.Value) != "b" || r.Results[0].Entry.Version != c.State("n1").Dump()["k"].Version {
			t.Fatalf("got %+v, want the entry as it was stamped", r.Results)
		}
		if w := fulcrum.MergeOf(r.Results[0].Entry); !w.Blind() {
			t.Fatal("it cannot be sent again")
		}
	})
}

func TestLeftoversAreEverything(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "shared", "1")
		c.Net.Isolate("n1")
		mustPut(t, c, "n1", consistency.One, "alone", "1")
		if _, err := write(c, "n1", consistency.One, fulcrum.Write{Op: fulcrum.OpDelete, Key: []byte("shared")}); err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		c.Restart("n1") // from what is on the disk, as node does
		if err := c.Group("n1").Leftovers(func(e fulcrum.Entry) error { got[string(e.Key)] = e.Tombstone; return nil }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || !got["shared"] || got["alone"] {
			t.Fatalf("leftovers: %v", got)
		}
		stop := errors.New("stop")
		if err := c.Group("n1").Leftovers(func(fulcrum.Entry) error { return stop }); !errors.Is(err, stop) {
			t.Fatalf("the caller's error: %v", err)
		}
	})
}

func TestMergeKeepsItsVersionAndLosesToNewer(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		r := mustPut(t, c, "n1", consistency.All, "k", "newer")
		v := r.Results[0].Entry.Version
		old := fulcrum.Write{Op: fulcrum.OpMerge, Key: []byte("k"), Value: []byte("older"), At: fulcrum.Version{Time: v.Time - 1, Actor: 9}}
		got, err := write(c, "n2", consistency.QuorumOf, old)
		if err != nil || got.Results[0].Applied {
			t.Fatalf("an older merge: %+v, %v", got, err)
		}
		other := fulcrum.Write{Op: fulcrum.OpMerge, Key: []byte("l"), Value: []byte("x"), At: old.At}
		if got, err = write(c, "n2", consistency.All, other); err != nil || !got.Results[0].Applied || got.Results[0].Entry.Version != old.At {
			t.Fatalf("a merge: %+v, %v", got, err)
		}
		wantRead(t, c, "n3", consistency.QuorumOf, "k", "newer")
		wantRead(t, c, "n3", consistency.One, "l", "x")
	})
}

func TestReplicaThatLostItsDiskCatchesUpFirst(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		for i := range 200 {
			mustPut(t, c, "n1", consistency.All, fmt.Sprint("k", i), "v")
		}
		c.Net.Isolate("n1")
		mustPut(t, c, "n2", consistency.QuorumOf, "k0", "w") // on n2 and n3 alone
		c.Stop("n3")
		c.Wipe("n3")
		c.Net.Heal()
		cut(c, c.IDs[1:2], []fulcrum.NodeID{"n1", "n3"}) // n3 can reach n1 alone
		c.Restart("n3")
		time.Sleep(5 * time.Second)
		if !c.Group("n3").Status().CatchingUp {
			t.Fatal("caught up from one replica, which may lack a write that the lost disk had acknowledged")
		}
		if r, err := read(c, "n1", consistency.QuorumOf, "k0"); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Fatalf("a quorum of n1 and a replica without its disk: %v %v", r, err)
		}
		if _, err := put(c, "n3", consistency.QuorumOf, "new", "1"); err != nil {
			t.Fatalf("it takes writes meanwhile: %v", err)
		}
		wantRead(t, c, "n3", consistency.One, "k5", "v") // asked of another
		c.Net.Heal()
		time.Sleep(5 * time.Second)
		if c.Group("n3").Status().CatchingUp {
			t.Fatal("still catching up with all replicas in reach")
		}
		wantRead(t, c, "n3", consistency.One, "k0", "w")
		time.Sleep(5 * time.Second)
		wantEqual(t, c, 201)
		c.Restart("n3") // still not based, but it remembers
		if c.Group("n3").Status().CatchingUp {
			t.Fatal("a restart forgot that it had caught up")
		}
	})
}

func TestNobodyBased(t *testing.T) {
	edit := func(env *replication.Env) { env.Based = false }
	in(t, 3, quorum.Options{}, rt.Options{Edit: edit}, func(t *testing.T, c *rt.Cluster) {
		time.Sleep(5 * time.Second)
		for _, id := range c.IDs {
			if c.Group(id).Status().CatchingUp {
				t.Fatalf("%s waits for a replica that has what nobody has", id)
			}
		}
		mustPut(t, c, "n1", consistency.All, "k", "v")
	})
}

func TestGrowingFromOneBasedReplica(t *testing.T) {
	edit := func(env *replication.Env) { env.Based = env.Node == "n1" }
	in(t, 3, quorum.Options{}, rt.Options{Edit: edit}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.One, "k", "v")
		time.Sleep(5 * time.Second)
		for _, id := range c.IDs {
			if c.Group(id).Status().CatchingUp {
				t.Fatalf("%s is still catching up", id)
			}
			wantRead(t, c, id, consistency.One, "k", "v")
		}
	})
}

func TestSessionFloorAsksAMajority(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		c.Net.Isolate("n3")
		pos := mustPut(t, c, "n1", consistency.QuorumOf, "k", "v").Outcome.Position
		c.Net.Heal()
		c.Net.OnCall(func(_, to fulcrum.NodeID, msg []byte) rt.Verdict {
			return rt.Verdict{Drop: to == "n3" && msg[0] == 2 || msg[0] == 5}
		})
		time.Sleep(2 * time.Second)
		ctx, cancel := within(time.Second)
		defer cancel()
		r, err := c.Group("n3").Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: consistency.L(consistency.One), Min: pos})
		if err != nil || string(r.Entries[0].Value) != "v" || r.Outcome.Given.Kind != consistency.Session {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}

func TestANewerSettleEndsTheOneBefore(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		c.Net.Isolate("n3")
		mustPut(t, c, "n3", consistency.One, "only", "n3")
		for _, id := range c.IDs {
			fence(t, c, id)
		}
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		first := make(chan error, 1)
		go func() { first <- c.Group("n1").Settle(ctx, replication.Position{}, c.IDs) }()
		time.Sleep(time.Second) // it waits for n3
		for _, id := range c.IDs[:2] {
			if err := c.Group(id).Settle(ctx, replication.Position{}, c.IDs[:2]); err != nil {
				t.Fatalf("settle %s: %v", id, err)
			}
		}
		c.Net.Heal()
		if err := <-first; !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Errorf("the settle that was overtaken: %v", err)
		}
		for _, id := range c.IDs[:2] {
			if e, err := c.State(id).Get([]byte("only")); err != nil || !e.Version.IsZero() {
				t.Errorf("%s holds %v, %v of a replica that did not settle with it", id, e, err)
			}
		}
	})
}
