package real

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
	"fulcrum/jepsen-lite/workload"
)

// Packets are lost and doubled for real, in namespaces that are gone afterwards.
func TestNetns(t *testing.T) {
	if err := toolsFor(3); err != nil {
		t.Skip(err)
	}
	alone(t)
	w, err := Open(soon(t), Options{Nodes: 3, Binary: binary, Dir: filepath.Join(t.TempDir(), "data"), Netns: true})
	must(t, err)
	closed := false
	defer func() {
		if !closed {
			_ = w.Close(context.WithoutCancel(t.Context()))
		}
	}()
	if _, err := Open(soon(t), Options{Nodes: 3, Binary: binary, Dir: filepath.Join(t.TempDir(), "data"), Netns: true}); !errors.Is(err, fulcrum.ErrExists) {
		t.Errorf("a second time: %v", err)
	}
	create(t, w, "net", "raft")
	c := w.Client(0)
	write := func(ctx context.Context, n fulcrum.NodeID, key string) error {
		_, err := c.Do(ctx, workload.Request{Keyspace: "net", Node: n, F: history.Append, Key: key, Value: "v"})
		return err
	}
	must(t, write(soon(t), "n1", "k"))

	must(t, w.Inject(soon(t), fulcrum.Fault{ID: "p", Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}, {"n2", "n3"}}}))
	if ids := faultsOn(t, w, "n1"); len(ids) > 0 {
		t.Errorf("the node does it: %v", ids)
	}
	if err := w.Inject(soon(t), fulcrum.Fault{ID: "q", Kind: "isolate", Node: "n9"}); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Errorf("a node that there is not: %v", err)
	}
	until(t, "n1 cannot write", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		if write(ctx, "n1", "lost") == nil {
			return errors.New("it can")
		}
		return nil
	})
	until(t, "n2 can write", func(ctx context.Context) error { return write(ctx, "n2", "k2") })
	hits := w.Hits(soon(t))
	if hits["partition"] == 0 || hits["duplicate"] != 0 {
		t.Errorf("hits: %v", hits)
	}
	must(t, w.Heal(soon(t)))
	until(t, "n1 can write", func(ctx context.Context) error { return write(ctx, "n1", "k3") })

	duplicates(t, w, write)

	closed = true
	must(t, w.Close(soon(t)))
	spaces, err := exec.Command("ip", "netns", "list").Output()
	must(t, err)
	if strings.Contains(string(spaces), bridge) || exec.Command("ip", "link", "show", bridge).Run() == nil {
		t.Errorf("left behind: %s", spaces)
	}
}

// alone waits until no test of another package has namespaces: their names are the same
// in all.
func alone(t *testing.T) {
	t.Helper()
	l, err := os.OpenFile(filepath.Join(os.TempDir(), "fulcrum-netns-test.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if err = syscall.Flock(int(l.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("another test has namespaces: %v", err)
		}
	}
}

// duplicates makes packets arrive twice until it is seen that they do.
func duplicates(t *testing.T, w *World, write func(ctx context.Context, n fulcrum.NodeID, key string) error) {
	t.Helper()
	hits := w.Hits(soon(t))
	must(t, w.Duplicate(soon(t), 0.5))
	until(t, "duplicates", func(ctx context.Context) error {
		if err := write(ctx, "n1", "k4"); err != nil {
			return err
		}
		now := w.Hits(ctx)
		if now["partition"] < hits["partition"] {
			t.Fatalf("hits fell: %v, were %v", now, hits)
		}
		if now["duplicate"] == 0 {
			return fmt.Errorf("hits: %v", now)
		}
		return nil
	})
	must(t, w.Duplicate(soon(t), 0))
}

// Which packets each fault takes, and which node's rules say so.
func TestRules(t *testing.T) {
	type way struct{ from, to int }
	for _, tc := range []struct {
		fault   fulcrum.Fault
		carried bool
		lost    map[way]bool
	}{
		{fulcrum.Fault{Kind: "partition", Sides: [][]fulcrum.NodeID{{"n1"}, {"n2"}}}, true, map[way]bool{{1, 2}: true, {2, 1}: true}},
		{fulcrum.Fault{Kind: "isolate", Node: "n3"}, true, map[way]bool{{1, 3}: true, {3, 1}: true, {2, 3}: true, {3, 2}: true}},
		{fulcrum.Fault{Kind: "link", From: "n1", To: "n3", Drop: true, OneWay: true}, true, map[way]bool{{1, 3}: true}},
		{fulcrum.Fault{Kind: "link", From: "n1", To: "n3", Loss: 0.25}, true, map[way]bool{{1, 3}: true, {3, 1}: true}},
		{fulcrum.Fault{Kind: "link", From: "n1", To: "n3", Drop: true, Only: "gossip"}, false, nil},
		{fulcrum.Fault{Kind: "link", From: "n1", To: "n3", Delay: 5}, false, nil},
		{fulcrum.Fault{Kind: "clock", Node: "n1", Skew: 5}, false, nil},
	} {
		nw := &network{nodes: 3, faults: []fulcrum.Fault{tc.fault}}
		if nw.carries(tc.fault) != tc.carried {
			t.Errorf("carries %+v: %v", tc.fault, !tc.carried)
		}
		if !tc.carried {
			continue
		}
		lost := map[way]bool{}
		for to := 1; to <= 3; to++ {
			for from := 1; from <= 3; from++ {
				if strings.Contains(nw.rules(to), "saddr "+address(from)+" ") {
					lost[way{from, to}] = true
				}
			}
		}
		if !maps.Equal(lost, tc.lost) {
			t.Errorf("%+v: lost %v, want %v", tc.fault, lost, tc.lost)
		}
	}
}

func TestCountersOf(t *testing.T) {
	got := map[string]int64{"link": 1}
	err := countersOf([]byte(`{"nftables":[{"metainfo":{"version":"1"}},{"chain":{"name":"arriving"}},
		{"rule":{"comment":"link","expr":[{"match":{"op":"=="}},{"counter":{"packets":4,"bytes":9}},{"drop":null}]}},
		{"rule":{"comment":"duplicate","expr":[{"counter":{"packets":2,"bytes":9}},{"dup":{"addr":"10.77.0.1"}}]}}]}`), got)
	if want := map[string]int64{"link": 5, "duplicate": 2}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}
