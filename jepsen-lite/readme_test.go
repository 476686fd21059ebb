package jepsen_test

import (
	"os"
	"strings"
	"testing"

	"fulcrum/jepsen-lite/checker"
	"fulcrum/jepsen-lite/nemesis"
	"fulcrum/jepsen-lite/workload"
)

// TestReadmeNamesEverything holds README.md against what `fulcrum jepsen list` lists.
func TestReadmeNamesEverything(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	named := func(kind, name string) {
		if !strings.Contains(string(b), "`"+name+"`") {
			t.Errorf("README.md does not name the %s %q", kind, name)
		}
	}
	for _, w := range workload.List() {
		named("workload", w.Name)
	}
	for _, n := range nemesis.List() {
		named("nemesis", n.Name)
	}
	for _, c := range checker.All() {
		named("check", c.Name)
	}
}
