package storage

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Compactions happen by themselves, one after the other, although nothing looks after
// them in between: tables that flushes leave behind do not pile up.
func TestTablesAreCompacted(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	l := mustLog(t, s, 7, 1, Memory)
	const flushes = 40
	for i := range flushes {
		if err := l.SetMeta(map[string][]byte{"k": fmt.Append(nil, i)}); err != nil { // tables that overlap
			t.Fatal(err)
		}
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		m := s.db.Metrics()
		if m.Levels[0].Sublevels <= 4 && m.Compact.NumInProgress == 0 && m.Compact.Count > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d flushes left %d sublevels after %d compactions", flushes, m.Levels[0].Sublevels, m.Compact.Count)
		}
	}
}
