package raft_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft"
	"fulcrum/replication/replicationtest"
)

// The power fails on all nodes of a keyspace whose durability is not fsync, and logs lose their
// ends. What one replica's state holds is lost to the others, and the log goes on from before
// it: the replica must not take what is written from now on for what it holds already, and
// answer reads without it. It ends, also when it is opened again.
func TestAStateAheadOfLogsThatLostTheirEnds(t *testing.T) {
	for name, itsLogToo := range map[string]bool{"all logs": true, "the others' logs": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { aheadOfLogs(t, itsLogToo) })
		})
	}
}

func aheadOfLogs(t *testing.T, itsLogToo bool) {
	c := replicationtest.NewCluster(t, 3, opener(raft.Tuning{}), replicationtest.Options{RunMayFail: true})
	defer c.Close()
	l := leader(t, c)
	ahead := others(c, l)[0]
	for i := range 100 { // until much of it is not durable on the others
		mustPut(t, c, l, fmt.Sprint("old ", i), "v")
		time.Sleep(time.Second)
		if b := others(c, ahead); max(c.State(b[0]).Durable(), c.State(b[1]).Durable())+4 <= c.State(ahead).Applied() {
			break
		}
	}
	ctx, cancel := within(time.Minute)
	defer cancel()
	if err := c.State(ahead).Flush(ctx); err != nil {
		t.Fatal(err)
	}
	ends := uint64(0)
	for _, id := range c.IDs {
		if c.Stop(id); id != ahead {
			ends = max(ends, c.State(id).Applied())
		}
	}
	for _, id := range c.IDs {
		if id == ahead && !itsLogToo {
			continue
		}
		if err := c.Log(id).TruncateAfter(ends); err != nil {
			t.Fatal(err)
		}
	}
	if at := c.State(ahead).Applied(); at <= ends {
		t.Fatalf("the state is at %d, the logs end at %d: this test means nothing", at, ends)
	}
	for _, id := range others(c, ahead) {
		c.Restart(id)
	}
	leader(t, c) // which is not the one that is ahead
	c.Restart(ahead)
	for i := range 3 {
		key := fmt.Sprint("new ", i)
		if _, err := c.Write(ctx, others(c, ahead)[0], put(key, "v")); err != nil {
			t.Fatal(err)
		}
		for _, id := range c.IDs {
			got, err := read(c, id, key, consistency.L(consistency.Linearizable))
			if err == nil && got != "v" {
				t.Errorf("%s answers %q for %q, which was acknowledged", id, got, key)
			}
			if err != nil && id != ahead {
				t.Errorf("%s: %v", id, err)
			}
		}
	}
	time.Sleep(5 * time.Second)
	if err := c.RunErr(ahead); !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(fmt.Sprint(err), "the log has lost") {
		t.Errorf("the replica whose state is ahead ends with %v", err)
	}
	if !itsLogToo {
		return
	}
	c.Stop(ahead)
	env := replication.Env{Node: ahead, Actor: 9, Group: 1, Epoch: 3, Replicas: c.IDs, Log: c.Log(ahead), State: c.State(ahead), Based: true, Now: time.Now}
	if _, err := raft.Open(env, raft.Options{}); err == nil || !strings.Contains(err.Error(), "the log has lost") {
		t.Errorf("opened again, over a log that goes on: %v", err)
	}
}
