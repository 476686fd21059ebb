package raft

import "testing"

// Whoever watches a disk sleeps between steps, and no step begins unseen.
func TestDiskWatchRests(t *testing.T) {
	var d diskWatch
	woken := func(begins <-chan struct{}) bool {
		select {
		case <-begins:
			return true
		default:
			return false
		}
	}
	resting := d.rest()
	if woken(resting) || woken(d.rest()) {
		t.Fatal("woken while nothing happens")
	}
	end := d.begin()
	if !woken(resting) {
		t.Error("a step began unseen")
	}
	if d.rest() != nil {
		t.Error("it may rest while a step is under way")
	}
	also := d.begin()
	end()
	if d.rest() != nil {
		t.Error("it may rest while another step is under way")
	}
	also()
	resting = d.rest()
	if resting == nil || woken(resting) {
		t.Error("it may not rest although all steps have ended")
	}
	defer d.begin()()
	if !woken(resting) {
		t.Error("the next step began unseen")
	}
}
