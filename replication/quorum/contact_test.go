package quorum

import (
	"testing"
	"testing/synctest"
	"time"
)

// What was fresh before the pings still counts after them: a busy group whose
// answers take about as long as FreshFor must not refuse writes.
func TestFreshnessIsJudgedAtOneMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Group{opt: Options{FreshFor: 50 * time.Millisecond}}
		g.peers = []*peer{nil, {id: "n2", heard: time.Now()}}
		since := time.Now().Add(-g.opt.FreshFor)
		time.Sleep(40 * time.Millisecond)
		if _, fresh := g.inReach(false, since); !fresh.has(1) {
			t.Error("heard from 40ms ago, but not fresh")
		}
		time.Sleep(40 * time.Millisecond) // a slow ping to somebody else
		if _, fresh := g.inReach(false, since); !fresh.has(1) {
			t.Error("n2 was fresh when the write began, but no longer counts after the pings")
		}
		if _, fresh := g.inReach(false, time.Now().Add(-g.opt.FreshFor)); fresh.has(1) {
			t.Error("heard from 80ms ago still counts as fresh for a new write")
		}
	})
}
