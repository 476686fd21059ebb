package storage

import (
	"testing"
	"time"
)

// Whoever appends alone is synced at once; the more usually wait together, the longer
// the log rests, within its bound.
func TestCompany(t *testing.T) {
	var c company
	for range 1000 {
		c.enter()
		c.leave()
	}
	if got := c.interval(); got != 0 {
		t.Errorf("one append after the other: the log rests %v", got)
	}
	for range 1000 {
		c.enter()
		c.enter()
		c.leave()
		c.leave()
	}
	if got := c.interval(); got <= 0 || got > restEach {
		t.Errorf("two at a time: the log rests %v, want up to %v", got, restEach)
	}
	for range 50 {
		c.enter()
	}
	if got := c.interval(); got != restMost {
		t.Errorf("many at a time: the log rests %v, want %v", got, restMost)
	}
	for range 50 {
		c.leave()
	}
	for range 1000 {
		c.enter()
		c.leave()
	}
	if got := c.interval(); got > time.Duration(restEach)/10 {
		t.Errorf("alone again: the log rests %v", got)
	}
}
