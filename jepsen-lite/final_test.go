package jepsen

import (
	"testing"

	"fulcrum"
	"fulcrum/jepsen-lite/history"
)

func TestAgree(t *testing.T) {
	read := func(value string, version uint64) history.Op {
		return history.Op{F: history.Read, Key: "k", Value: value, Found: value != "", Version: fulcrum.Version{Time: version}, Outcome: history.OK}
	}
	failed := read("a", 1)
	failed.Outcome = history.Fail
	tests := []struct {
		name string
		ops  []history.Op
		want bool
	}{
		{"the same everywhere", []history.Op{read("a", 1), read("a", 1), read("a", 1)}, true},
		{"another value", []history.Op{read("a", 1), read("a", 1), read("b", 2)}, false},
		{"the same value of another write", []history.Op{read("a", 1), read("a", 2)}, false},
		{"gone on one", []history.Op{read("a", 1), read("", 2)}, false},
		{"two tombstones", []history.Op{read("", 1), read("", 2)}, false},
		{"one tombstone purged", []history.Op{read("", 0), read("", 2), read("", 2)}, true},
		{"two tombstones behind one purged", []history.Op{read("", 0), read("", 1), read("", 2)}, false},
		{"no answer of one", []history.Op{read("a", 1), failed}, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := agree(tc.ops); got != tc.want {
				t.Errorf("agree: %v, want %v", got, tc.want)
			}
		})
	}
}
