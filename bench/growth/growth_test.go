package main

import (
	"context"
	"io"
	"strings"
	"testing"
)

func TestVerdicts(t *testing.T) {
	m := &meter{series: series{name: "keys"}, errs: io.Discard}
	add := func(point, do string, g goal, samples ...sample) *row {
		r := m.row(point, do, g)
		r.Samples = append(r.Samples, samples...)
		return r
	}
	add("few", "SET", goal{kept: 0.7}, sample{Ops: 100, P50: 10}, sample{Ops: 200, P50: 20})
	for _, c := range []struct {
		row  *row
		want string
	}{
		{add("more", "SET", goal{kept: 0.7}, sample{Ops: 75}, sample{Ops: 150}), "met"},
		{add("most", "SET", goal{kept: 0.7}, sample{Ops: 60}, sample{Ops: 140}), "missed"},
		{add("slow", "SET", goal{grown: 1.3}, sample{P50: 15}, sample{P50: 25}), "missed"},
		{add("quick", "SET", goal{grown: 1.3}, sample{P50: 15}, sample{P50: 20}), "met"},
		{add("node", "MiB", goal{most: 100}, sample{Value: 99}, sample{Value: 100.5}), "met"},
		{add("disk", "MiB", goal{most: 90}, sample{Value: 99}), "missed"},
	} {
		if _, got := c.row.verdict(); !strings.HasSuffix(got, ": "+c.want) {
			t.Errorf("%s: %q, want %s", c.row.Point, got, c.want)
		}
	}
	if against, _ := add("more", "SET", goal{}).verdict(); against != "0.75x [0.75-0.75]" {
		t.Errorf("against the first: %s", against)
	}
	if against, goal := add("few", "SET", goal{}).verdict(); against != "" || goal != "" {
		t.Errorf("the first is compared with nothing, and got %q, %q", against, goal)
	}
	text := table(m.rows)
	for _, want := range []string{"| keys | few | SET | 150 (100-200) |", "| node | MiB | 99.75 (99.00-100.50) |"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestWrongFlagsAreTold(t *testing.T) {
	for _, args := range [][]string{{"--only", "keys,nonsense"}, {"--repeats", "0"}, {"--max-keys", "9"}, {"-o", "xml"}, {"more"}} {
		if err := run(context.Background(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
