package storage

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// spoilTables flips a bit of text in every table of a log.
func spoilTables(t *testing.T, fs vfs.FS, dir, text string) {
	t.Helper()
	names, err := fs.List(dir)
	must(t, err)
	n := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f, err := fs.OpenReadWrite(fs.PathJoin(dir, name), vfs.WriteCategoryUnspecified)
		must(t, err)
		st, err := f.Stat()
		must(t, err)
		b := make([]byte, st.Size())
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, []byte(text)); at >= 0 {
			n++
			if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
		must(t, f.Close())
	}
	if n == 0 {
		t.Fatalf("no table has %q", text)
	}
}

// A damaged table of the log that holds records of several groups in one block fails the
// store, whoever meets it: nobody could cut out what is damaged, and each compaction would
// meet it again, for ever.
func TestADamagedTableOfSeveralGroupsFailsTheStore(t *testing.T) {
	const text = "q8Zr1xW0uT5mYb3n"
	for name, meet := range map[string]func(*testing.T, *Store){
		"listed": func(t *testing.T, s *Store) {
			if _, err := s.Groups(); !errors.Is(err, fulcrum.ErrDisk) {
				t.Errorf("Groups: %v", err)
			}
		},
		"expunged": func(t *testing.T, s *Store) {
			if err := s.Expunge(t.Context(), 1); !errors.Is(err, fulcrum.ErrDisk) {
				t.Errorf("Expunge: %v", err)
			}
		},
		"compacted": func(_ *testing.T, s *Store) {
			pebbleOptions(nil, s).EventListener.DataCorruption(pebble.DataCorruptionInfo{Path: "000027.sst"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir(), vfs.NewMem())
			s := open(t, o)
			ctx, cancel := context.WithCancel(t.Context())
			var run sync.WaitGroup
			run.Go(func() { _ = s.Run(ctx) }) // what it returns is that failure, if it notices it before it is to end
			defer run.Wait()
			defer cancel()
			for g := range fulcrum.GroupID(3) {
				must(t, mustLog(t, s, g+1, 1, Memory).SetMeta(map[string][]byte{"k": []byte(text)}))
			}
			must(t, s.db.Flush())
			spoilTables(t, o.LogFS, s.logDir(), text)
			meet(t, s)
			for until := time.Now().Add(30 * time.Second); s.disk.failure() == nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(until) {
					t.Fatal("the store goes on")
				}
			}
			if err := s.disk.failure(); !strings.Contains(err.Error(), "a table of the log") {
				t.Errorf("it failed for another reason: %v", err)
			}
		})
	}
}
