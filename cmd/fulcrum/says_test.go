package main

import (
	"log/slog"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"fulcrum"
)

// What up suggests must work on the cluster that it started: its nodes, majority last.
func TestHalves(t *testing.T) {
	for names, want := range map[string]string{"n1": "", "n1 n2": "n1/n2", "n1 n2 n3": "n1/n2,n3", "n1 n2 n3 n4": "n1/n2,n3,n4",
		"n1 n2 n3 n4 n5": "n1,n2/n3,n4,n5", "n1 n2 n3 n4 n5 n6 n7": "n1,n2,n3/n4,n5,n6,n7"} {
		var nodes []fulcrum.NodeID
		for _, n := range strings.Fields(names) {
			nodes = append(nodes, fulcrum.NodeID(n))
		}
		if got := halves(nodes); got != want {
			t.Errorf("%s: %q; want %q", names, got, want)
		}
	}
}

// An alter to the mode that a keyspace has begins no switch: the last one's figures are
// not this one's.
func TestAlterText(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	done := func(from, to string, at time.Time) *fulcrum.SwitchInfo {
		return &fulcrum.SwitchInfo{From: from, To: to, State: "done", Done: 4, Total: 4, Started: at, Finished: at.Add(103 * time.Millisecond)}
	}
	old := fulcrum.KeyspaceInfo{Name: "k", Mode: "raft", Switch: done("quorum", "raft", at)}
	raft, quorum := "raft", "quorum"
	for _, tt := range []struct {
		what  string
		mode  *string
		after fulcrum.KeyspaceInfo
		want  string
	}{
		{"the same mode", &raft, old, "Keyspace k runs in mode raft already.\n"},
		{"another mode", &quorum, fulcrum.KeyspaceInfo{Name: "k", Mode: "quorum", Switch: done("raft", "quorum", at.Add(time.Hour))}, "Keyspace k runs in mode quorum: 4 shards switched in 103ms.\n"},
	} {
		var b strings.Builder
		alterText(&b, old, tt.after, fulcrum.KeyspacePatch{Mode: tt.mode})
		if b.String() != tt.want {
			t.Errorf("%s: %q; want %q", tt.what, b.String(), tt.want)
		}
	}
}

// A keyspace that lost replicas with a removed node says so.
func TestStatusReplicas(t *testing.T) {
	for want, k := range map[string]fulcrum.KeyspaceInfo{"3": {Replicas: 3, Placed: 3}, "2 of 3": {Replicas: 3, Placed: 2}} {
		if got := replicasOf(k); got != want {
			t.Errorf("%q; want %q", got, want)
		}
		var b strings.Builder
		w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
		describeKeyspace(w, k)
		if err := w.Flush(); err != nil || !strings.Contains(b.String(), want) {
			t.Errorf("describe does not say %q: %s", want, b.String())
		}
	}
}

// Durations in the log say their unit.
func TestLoggedDurations(t *testing.T) {
	var b strings.Builder
	jsonLog(&b, slog.LevelInfo).Info("node is ready", "after", 1250*time.Millisecond, "shards", 4)
	for _, part := range []string{`"after":"1.25s"`, `"shards":4`, `"msg":"node is ready"`} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%s is not in %s", part, b.String())
		}
	}
}
