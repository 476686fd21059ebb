package main

import (
	"bytes"
	"strings"
	"testing"
	"text/tabwriter"

	"fulcrum"
	"fulcrum/lab"
)

func TestTheLabTableShowsEveryRowInItsSection(t *testing.T) {
	n := func(i int) *int { return &i }
	took := 0.256
	r := &lab.Report{
		Seconds: 24.4, Sides: []lab.Side{{Name: lab.Minority, Nodes: []fulcrum.NodeID{"n1"}}, {Name: lab.Majority, Nodes: []fulcrum.NodeID{"n2", "n3"}}},
		Keyspaces: []lab.Keyspace{{Keyspace: "lf", Mode: "leader-follower", Replicas: []fulcrum.NodeID{"n1", "n2", "n3"}, Leader: "n1", LeaderSide: lab.Minority}, {Keyspace: "ap", Mode: "quorum"}},
		Rows: []lab.Row{
			{Phase: lab.Before, Mode: "quorum", Keyspace: "ap", Side: "minority", Operation: "get", Level: "one", Operations: 6, Answered: 6, Median: 1.234, Fresh: n(4), Stale: n(2), Converged: nil},
			{Phase: lab.AtOnce, Mode: "leader-follower", Keyspace: "lf", Side: "minority", Operation: "put", Level: "one", Operations: 6, Answered: 3, Unknown: 3, Median: 1500, Lost: n(2), Unchecked: n(1), Converged: &took},
			{Phase: lab.Settling, Mode: "hidden", Keyspace: "lf", Side: "minority", Operation: "put", Level: "one", Operations: 1},
			{Phase: lab.Cut, Mode: "raft", Keyspace: "cp", Side: "minority", Operation: "put", Level: "quorum", Operations: 6, Refused: 6, Median: 12.345, Lost: n(0)},
		},
		Findings: []string{"it was measured."},
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 4, 1, ' ', 0)
	labTable(w, lab.Experiment{Title: "The title"}, r)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range strings.Split(b.String(), "\n") {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	got := strings.Join(lines, "\n")
	const header = "MODE KEYSPACE SIDE OPERATION LEVEL ANSWERED REFUSED UNKNOWN LATENCY (median) FRESH/STALE LOST AFTER HEALING CONVERGED IN\n"
	for _, want := range []string{
		"The title. Took 24 s.",
		"lf leader-follower n1,n2,n3 n1, on the minority side", "ap quorum -",
		"Before the cut, the network whole\n" + header + "quorum ap minority get one 6/6 0 0 1.23ms 4/2 - -\n",
		"Right after the cut\n" + header + "leader-follower lf minority put one 3/6 0 3 1.5s - 2 (1 not readable) 0.26s\n",
		"While cut, once both sides had settled in\n" + header + "raft cp minority put quorum 0/6 6 0 12.3ms - - not yet\n",
		"- it was measured.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks\n%s\nin\n%s", want, got)
		}
	}
	if strings.Contains(got, "hidden") {
		t.Error("probes have no section")
	}
}
