package client_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/client"
	"fulcrum/consistency"
)

// A node that refuses a change of the cluster has tried for seconds: each is asked once.
func TestAChangeOfTheClusterAsksEachNodeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		refuse := func(hosts ...string) {
			for _, host := range hosts {
				node := c.hosts[host]
				c.hosts[host] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != http.MethodPost {
						node.ServeHTTP(w, r)
						return
					}
					w.WriteHeader(http.StatusServiceUnavailable)
					_, _ = io.WriteString(w, `{"code":"unavailable","outcome":"not-applied"}`)
				})
			}
		}
		asked := func() (n int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, l := range c.log {
				if strings.HasPrefix(l, "POST") {
					n++
				}
			}
			return n
		}
		refuse("n1:71", "n2:71")
		c.set(nil)
		if _, err := c.CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "a"}); err != nil || asked() > 3 {
			t.Errorf("the third node takes it: %d requests, %v", asked(), err)
		}
		refuse("n3:71")
		c.set(nil)
		if _, err := c.CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "b"}); !errors.Is(err, fulcrum.ErrUnavailable) || asked() != 3 {
			t.Errorf("all refuse: %d requests, %v", asked(), err)
		}
		c.set(nil)
		if _, err := c.CreateKeyspace(t.Context(), fulcrum.KeyspaceSpec{Name: "b"}, client.On("n2")); !errors.Is(err, fulcrum.ErrUnavailable) || asked() != 1 {
			t.Errorf("the one that was chosen refuses: %d requests, %v", asked(), err)
		}
	})
}

func TestAdmin(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	info, err := c.Cluster(ctx)
	if err != nil || len(info.Nodes) != 3 {
		t.Fatalf("%+v, %v", info, err)
	}
	if ks, err := c.CreateKeyspace(ctx, fulcrum.KeyspaceSpec{Name: "new", Mode: "quorum"}); err != nil || ks.Mode != "quorum" {
		t.Fatalf("%+v, %v", ks, err)
	}
	if _, err := c.CreateKeyspace(ctx, fulcrum.KeyspaceSpec{Name: "new"}); !errors.Is(err, fulcrum.ErrExists) {
		t.Errorf("twice: %v", err)
	}
	mode := "raft"
	if ks, err := c.AlterKeyspace(ctx, "new", fulcrum.KeyspacePatch{Mode: &mode}); err != nil || ks.Target != "raft" {
		t.Errorf("%+v, %v", ks, err)
	}
	if list, err := c.Keyspaces(ctx); err != nil || len(list) != 4 {
		t.Errorf("%+v, %v", list, err)
	}
	if shards, err := c.Shards(ctx, "new"); err != nil || len(shards) != 1 {
		t.Errorf("%+v, %v", shards, err)
	}
	if err := c.DropKeyspace(ctx, "new"); err != nil {
		t.Error(err)
	}
	if _, err := c.Keyspace(ctx, "new"); !errors.Is(err, fulcrum.ErrNotFound) {
		t.Errorf("dropped: %v", err)
	}
	table, err := c.Levels(ctx)
	if err != nil || len(table) != len(consistency.Table()) || table[3] != consistency.Table()[3] {
		t.Errorf("%d promises, %v", len(table), err)
	}
	if err := c.Ready(ctx, "n1"); err != nil {
		t.Error(err)
	}
	c.nodes[0].SetSick(errors.New("bad disk"))
	if err := c.Ready(ctx, "n1"); !errors.Is(err, fulcrum.ErrUnavailable) || !strings.Contains(err.Error(), "bad disk") {
		t.Errorf("a sick node: %v", err)
	}
	if err := c.RemoveNode(ctx, "n3"); err != nil {
		t.Error(err)
	}
}

func TestFaults(t *testing.T) {
	c := start(t)
	f := fulcrum.Fault{ID: "p", Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}, {"n2", "n3"}}, Delay: fulcrum.Duration(time.Second)}
	err := c.AddFaultEverywhere(t.Context(), f)
	if !errors.Is(err, fulcrum.ErrFaultsOff) || !strings.Contains(err.Error(), "n3") || strings.Contains(err.Error(), "n1") {
		t.Errorf("n3 does not allow faults: %v", err)
	}
	for i, want := range []int{1, 1, 0} {
		if got, err := c.Faults(t.Context(), fulcrum.NodeID(fmt.Sprintf("n%d", i+1))); err != nil || len(got) != want {
			t.Errorf("n%d: %+v, %v", i+1, got, err)
		}
	}
	if err := c.HealFaults(t.Context(), "n1", "p"); err != nil || len(c.nodes[0].Faults()) != 0 {
		t.Errorf("%v", err)
	}
	if err := c.HealFaultsEverywhere(t.Context()); !errors.Is(err, fulcrum.ErrFaultsOff) || len(c.nodes[1].Faults()) != 0 {
		t.Errorf("%v", err)
	}
}
