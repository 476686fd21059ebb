package main

import (
	"testing"
	"time"
)

// Memory is given back once, when a node that was busy has little to do; neither in the
// middle of a load nor again and again.
func TestQuietComes(t *testing.T) {
	const look = 10 * time.Second
	var q quiet
	var used time.Duration
	for i, step := range []struct {
		recent time.Duration
		want   bool
	}{
		{50 * time.Millisecond, false}, // idle from the start
		{5 * time.Second, false},
		{12 * time.Second, false},
		{500 * time.Millisecond, false}, // still at work
		{60 * time.Millisecond, true},
		{60 * time.Millisecond, false},
		{500 * time.Millisecond, false},
		{60 * time.Millisecond, false},
		{2 * time.Second, false},
		{60 * time.Millisecond, true},
	} {
		if used += step.recent; q.comes(used, look) != step.want {
			t.Errorf("look %d, after %v of processor time: not %v", i, step.recent, step.want)
		}
	}
	if processorTime() == 0 {
		t.Error("this process has used no processor time")
	}
}
