package sim_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"fulcrum"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node"
	"fulcrum/node/api"
)

// A node whose disk is full leaves, comes back by itself when there is room, and has
// everything that was acknowledged; the others go on.
func TestAFullDiskComesBack(t *testing.T) {
	var full atomic.Bool
	over := func(name fulcrum.NodeID, disk vfs.FS) vfs.FS {
		return errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			writes := op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileWriteAt || op.Kind == errorfs.OpCreate
			if name == "n2" && full.Load() && writes {
				return syscall.ENOSPC
			}
			return nil
		}))
	}
	room := func(name fulcrum.NodeID) node.Room {
		if name == "n2" && full.Load() {
			return node.Room{Total: 1 << 30}
		}
		return node.Room{Free: 1 << 29, Total: 1 << 30}
	}
	inBubble(t, sim.ClusterOptions{Nodes: 3, LogFS: over, Room: room}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
		}
		w, stop := writers(c, 2, 20*time.Millisecond, "cp", "ap", "lf")
		defer stop()
		time.Sleep(2 * time.Second)
		full.Store(true)
		time.Sleep(20 * time.Second)
		if slices.Contains(c.Running(), "n2") {
			t.Error("n2 runs on a full disk")
		}
		for ks := range modes {
			if err := put(c, "n1", api.Call{Keyspace: ks}, "during", "v"); err != nil {
				t.Errorf("%s: the others do not go on: %v", ks, err)
			}
		}
		full.Store(false)
		time.Sleep(10 * time.Second)
		if !slices.Contains(c.Running(), "n2") {
			t.Fatal("n2 has not come back")
		}
		ready(t, c)
		stop()
		if err := c.Kill("n1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		for ks := range modes {
			wantAll(t, c, "n2", ks, append(w[ks].acked, "during"))
		}
	})
}

// With little room left a node gives its leaderships away, so that writes go on; when all
// have little they are refused, by an error that says what to do, and reads go on. It
// ends by itself.
func TestWritesAreRefusedBeforeADiskIsFull(t *testing.T) {
	const mib = 1 << 20
	var low [3]atomic.Bool
	names := []fulcrum.NodeID{"n1", "n2", "n3"}
	room := func(name fulcrum.NodeID) node.Room {
		if low[slices.Index(names, name)].Load() {
			return node.Room{Free: 10 * mib, Total: 1000 * mib}
		}
		return node.Room{Free: 500 * mib, Total: 1000 * mib}
	}
	inBubble(t, sim.ClusterOptions{Nodes: 3, Room: room}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
			if err := put(c, "n1", api.Call{Keyspace: name}, "k", "v"); err != nil {
				t.Fatal(err)
			}
		}
		was := raftLeader(c, "cp")
		for ; was == ""; was = raftLeader(c, "cp") { // it may just be handed over, to spread leaders
			time.Sleep(50 * time.Millisecond)
		}
		low[slices.Index(names, was)].Store(true)
		time.Sleep(10 * time.Second)
		if now := raftLeader(c, "cp"); now == was {
			t.Errorf("%s leads still, with no room on its disk", now)
		}
		for _, name := range names {
			if err := put(c, name, api.Call{Keyspace: "cp"}, "k", "v2"); err != nil {
				t.Errorf("a write at %s, while others have room: %v", name, err)
			}
		}
		for i := range low {
			low[i].Store(true)
		}
		time.Sleep(5 * time.Second)
		for ks := range modes {
			for _, name := range names {
				err := put(c, name, api.Call{Keyspace: ks}, "k", "no")
				if e := fulcrum.AsError(err); !errors.Is(err, fulcrum.ErrDisk) || e.Maybe || !strings.Contains(err.Error(), "free some space") {
					t.Errorf("%s: a write at %s with no room anywhere: %v", ks, name, err)
				}
				if got, err := get(c, name, api.Call{Keyspace: ks}, "k"); err != nil || got == "no" || got == "" {
					t.Errorf("%s: a read at %s: %q, %v", ks, name, got, err)
				}
			}
		}
		for i := range low {
			low[i].Store(false)
		}
		time.Sleep(5 * time.Second)
		for ks := range modes {
			if err := put(c, "n1", api.Call{Keyspace: ks}, "k", "again"); err != nil {
				t.Errorf("%s: with room again: %v", ks, err)
			}
		}
	})
}
