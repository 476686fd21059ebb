package node

import (
	"testing"

	"fulcrum"
)

// A write that a fence cut off goes on as a merge with the version that it has. When
// something newer stands there already, its own version is what the client is told:
// jepsen-lite found two acknowledged writes with one version (switch, seed 4).
func TestAWriteThatAFenceCutOffKeepsItsVersion(t *testing.T) {
	key := []byte("k")
	mine, newer := fulcrum.Version{Time: 5, Actor: 1}, fulcrum.Version{Time: 9, Actor: 1}
	asked := []fulcrum.Write{{Op: fulcrum.OpPut, Key: key, Value: []byte("mine")}, {Op: fulcrum.OpDelete, Key: key},
		{Op: fulcrum.OpMerge, Key: key, Value: []byte("handed over"), At: mine}}
	stamped := []fulcrum.Result{{Entry: fulcrum.Entry{Key: key, Value: []byte("mine"), Version: mine}}, {Entry: fulcrum.Entry{Key: key, Version: mine, Tombstone: true}}, {}}
	merges := mergesOf(asked, stamped)
	standing := fulcrum.Entry{Key: key, Value: []byte("another's"), Version: newer}
	var results []fulcrum.Result
	for _, m := range merges {
		res, err := fulcrum.Evaluate(m, standing, newer.Next(), 0, fulcrum.DefaultMaxValue)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, res)
	}
	merged(asked, merges, results)
	for i, r := range results[:2] {
		if !r.Applied || r.Entry.Version != mine || r.Entry.Tombstone != (asked[i].Op == fulcrum.OpDelete) || string(r.Entry.Value) != string(asked[i].Value) {
			t.Errorf("write %d: %+v; want it applied at its own version %v", i, r, mine)
		}
	}
	if r := results[2]; r.Applied || r.Entry.Version != newer {
		t.Errorf("a merge that was asked for as one: %+v; want it to have lost", r)
	}
}
