package sim_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/jepsen-lite/sim"
	"fulcrum/node/api"
)

// spoil flips a bit of a value wherever it stands in a node's engine file.
func spoil(t *testing.T, c *sim.Cluster, node fulcrum.NodeID, value string) {
	t.Helper()
	path := filepath.Join(c.Dir(node), "state.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for from := 0; ; n++ {
		i := bytes.Index(b[from:], []byte(value))
		if i < 0 {
			break
		}
		if _, err := f.WriteAt([]byte{b[from+i] ^ 8}, int64(from+i)); err != nil {
			t.Fatal(err)
		}
		from += i + len(value)
	}
	if n == 0 {
		t.Fatalf("%s has no %q in its engine's file", node, value)
	}
}

// marked puts a value into each keyspace by which it is found in a file.
func marked(t *testing.T, c *sim.Cluster) {
	t.Helper()
	for ks := range modes {
		if err := put(c, "n1", api.Call{Keyspace: ks}, "marker", "needle-in-"+ks); err != nil {
			t.Fatal(err)
		}
	}
}

// shardOf is the only shard of a keyspace, as a node sees it.
func shardOf(c *sim.Cluster, node fulcrum.NodeID, keyspace string) fulcrum.ShardInfo {
	for _, s := range c.Node(node).Shards() {
		if s.Keyspace == keyspace {
			return s
		}
	}
	return fulcrum.ShardInfo{}
}

// healed waits until a node has begun so many replicas anew, and all nodes are ready.
func healed(t *testing.T, c *sim.Cluster, node fulcrum.NodeID, n float64) {
	t.Helper()
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if slices.Contains(c.Running(), node) && metric(t, c, node, "fulcrum_replica_rebuilds_total") == n {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("%s has not rebuilt its damaged replica", node)
		}
	}
	ready(t, c)
	if left := metric(t, c, node, "fulcrum_replicas_damaged"); left != 0 {
		t.Errorf("%v replicas of %s are damaged still", left, node)
	}
}

// A replica whose data was damaged while its node was down is rebuilt while clients
// write, and nothing else is; nobody does anything about it.
func TestADamagedReplicaIsRebuiltUnderWrites(t *testing.T) {
	for damaged := range modes {
		t.Run(damaged, func(t *testing.T) {
			inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
				for name, mode := range modes {
					create(t, c, name, mode)
				}
				marked(t, c)
				w, stop := writers(c, 2, 20*time.Millisecond, "cp", "ap", "lf")
				defer stop()
				time.Sleep(2 * time.Second)
				if err := c.Stop("n3"); err != nil { // so that all of it is in the file
					t.Fatal(err)
				}
				spoil(t, c, "n3", "needle-in-"+damaged)
				if err := c.Start("n3"); err != nil {
					t.Fatal(err)
				}
				if left := metric(t, c, "n3", "fulcrum_replicas_damaged"); left != 1 {
					t.Errorf("%v replicas of n3 are damaged, want 1", left)
				}
				healed(t, c, "n3", 1)
				time.Sleep(5 * time.Second)
				stop()
				for ks := range modes {
					want := fulcrum.Epoch(1)
					if ks == damaged {
						want = 2
					}
					if s := shardOf(c, "n1", ks); s.Epoch != want {
						t.Errorf("%s is at epoch %d, want %d", ks, s.Epoch, want)
					}
				}
				if err := c.Kill("n1"); err != nil { // n3 is one of the two that are left
					t.Fatal(err)
				}
				time.Sleep(15 * time.Second)
				for ks := range modes {
					wantAll(t, c, "n3", ks, append(w[ks].acked, w[ks].acked[0]))
					if got, err := get(c, "n3", api.Call{Keyspace: ks}, "marker"); got != "needle-in-"+ks || err != nil {
						t.Errorf("%s: the damaged value is %q, %v", ks, got, err)
					}
				}
			})
		})
	}
}

// Damage that a running node meets: what it reads is never shown, the node opens its
// files anew by itself, and the replica is rebuilt.
func TestDamageUnderARunningNode(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
		}
		marked(t, c)
		w, stop := writers(c, 2, 20*time.Millisecond, "cp", "ap", "lf")
		defer stop()
		time.Sleep(12 * time.Second) // until it is committed to the file
		spoil(t, c, "n2", "needle-in-cp")
		for range 400 {
			got, err := get(c, "n2", at("cp", consistency.One), "marker")
			if err == nil && got != "needle-in-cp" {
				t.Errorf("read %q", got)
			}
			time.Sleep(50 * time.Millisecond)
		}
		healed(t, c, "n2", 1)
		stop()
		if got, err := get(c, "n2", at("cp", consistency.One), "marker"); err != nil || got != "needle-in-cp" {
			t.Errorf("n2 shows %q, %v", got, err)
		}
		for ks := range modes {
			wantAll(t, c, "n2", ks, w[ks].acked)
		}
	})
}

// Damage in a table of the log costs the replica whose record it hits, as soon as that is
// read.
func TestADamagedRecordOfTheLog(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
		}
		value := func(i int) string { // that no compression takes apart
			h := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
			return base64.StdEncoding.EncodeToString(h[:])
		}
		w, stop := writers(c, 2, 20*time.Millisecond, "ap", "lf")
		defer stop()
		for i := range 300 {
			if err := put(c, "n1", api.Call{Keyspace: "cp"}, fmt.Sprint("marker", i), value(i)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the first start makes tables of what was written
			if err := c.Kill("n3"); err != nil {
				t.Fatal(err)
			}
			if err := c.Start("n3"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		if err := c.Kill("n3"); err != nil {
			t.Fatal(err)
		}
		if err := c.SpoilLog("n3", ".sst", value(150)[:16]); err != nil {
			t.Fatal(err)
		}
		if err := c.Start("n3"); err != nil {
			t.Fatal(err)
		}
		healed(t, c, "n3", 1)
		stop()
		wantAll(t, c, "n3", "ap", w["ap"].acked)
		wantAll(t, c, "n3", "lf", w["lf"].acked)
		for i := range 300 {
			if got, err := get(c, "n3", at("cp", consistency.One), fmt.Sprint("marker", i)); err != nil || got != value(i) {
				t.Fatalf("marker %d: %q, %v", i, got, err)
			}
		}
	})
}

// Of two damaged replicas of three none is given up: what is left of them is all that
// there is beside the third.
func TestTwoDamagedReplicasWaitForEachOther(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		for name, mode := range modes {
			create(t, c, name, mode)
		}
		marked(t, c)
		time.Sleep(time.Second) // until it is everywhere
		for _, name := range []fulcrum.NodeID{"n2", "n3"} {
			if err := c.Stop(name); err != nil {
				t.Fatal(err)
			}
			spoil(t, c, name, "needle-in-cp")
		}
		if err := c.Start("n2", "n3"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		for _, name := range []fulcrum.NodeID{"n2", "n3"} {
			if n := metric(t, c, name, "fulcrum_replicas_damaged"); n != 1 {
				t.Errorf("%s has %v damaged replicas, want 1", name, n)
			}
			if _, err := os.Stat(filepath.Join(c.Dir(name), "state.db.damaged")); err != nil {
				t.Errorf("what is left of the data of %s: %v", name, err)
			}
		}
		if s := shardOf(c, "n1", "cp"); s.Epoch != 1 || s.Phase != "active" {
			t.Errorf("the shard is %s at epoch %d", s.Phase, s.Epoch)
		}
		if got, err := get(c, "n1", api.Call{Keyspace: "cp"}, "marker"); err == nil {
			t.Errorf("one replica of three answered %q", got)
		}
		if got, err := get(c, "n1", at("cp", consistency.One), "marker"); err != nil || got != "needle-in-cp" {
			t.Errorf("the replica that is whole shows %q, %v", got, err)
		}
		for _, ks := range []string{"ap", "lf"} {
			if got, err := get(c, "n2", api.Call{Keyspace: ks}, "marker"); err != nil || got != "needle-in-"+ks {
				t.Errorf("%s: %q, %v", ks, got, err)
			}
		}
	})
}

// On a disk that damages again and again a replica is rebuilt ever less often.
func TestADiskThatDamagesAgainAndAgain(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		if err := put(c, "n1", api.Call{Keyspace: "cp"}, "marker", "needle-in-cp"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for i := range 3 {
			if err := c.Stop("n3"); err != nil {
				t.Fatal(err)
			}
			spoil(t, c, "n3", "needle-in-cp")
			began := time.Now()
			if err := c.Start("n3"); err != nil {
				t.Fatal(err)
			}
			healed(t, c, "n3", 1)
			if took, least := time.Since(began), []time.Duration{0, 20 * time.Second, 80 * time.Second}[i]; took < least {
				t.Errorf("rebuild %d came after %v, want %v", i+1, took, least)
			}
			time.Sleep(20 * time.Second)
		}
		if s := shardOf(c, "n1", "cp"); s.Epoch != 4 {
			t.Errorf("epoch %d, want 4", s.Epoch)
		}
		if got, err := get(c, "n3", at("cp", consistency.One), "marker"); err != nil || got != "needle-in-cp" {
			t.Error(fmt.Sprint(got, err))
		}
	})
}

// A damaged replica of a keyspace that is dropped goes with it.
func TestADamagedReplicaIsDropped(t *testing.T) {
	inBubble(t, sim.ClusterOptions{Nodes: 3}, func(t *testing.T, c *sim.Cluster) {
		create(t, c, "cp", consistency.Raft)
		if err := put(c, "n1", api.Call{Keyspace: "cp"}, "marker", "needle-in-cp"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := c.Stop("n3"); err != nil {
			t.Fatal(err)
		}
		spoil(t, c, "n3", "needle-in-cp")
		if err := c.Node("n1").DropKeyspace(t.Context(), "cp"); err != nil {
			t.Fatal(err)
		}
		if err := c.Start("n3"); err != nil {
			t.Fatal(err)
		}
		ready(t, c)
		time.Sleep(5 * time.Second)
		for range 2 { // the file is kept while anything of it is waited for
			if err := c.Stop("n3"); err != nil {
				t.Fatal(err)
			}
			if err := c.Start("n3"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(filepath.Join(c.Dir("n3"), "state.db.damaged")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the damage is not forgotten: %v", err)
		}
	})
}
