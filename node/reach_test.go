package node

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAMissedPingCountsUntilSomethingIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m missed
		before := time.Now()
		if m.lately("n1", before) {
			t.Error("nothing was missed yet")
		}
		time.Sleep(time.Millisecond)
		m.set("n1")
		time.Sleep(time.Millisecond)
		if !m.lately("n1", time.Time{}) || !m.lately("n1", before) {
			t.Error("a ping was missed just now")
		}
		if m.lately("n2", before) {
			t.Error("of another node")
		}
		if m.lately("n1", time.Now()) {
			t.Error("it was heard since")
		}
		time.Sleep(missedFor)
		if m.lately("n1", before) {
			t.Error("that was long ago: it is to be pinged again")
		}
	})
}
