package storage

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// mappedBytes is how much of the files with this name is in this process's memory.
func mappedBytes(t *testing.T, name string) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	in := false
	for line := range strings.Lines(string(b)) {
		var kib int
		switch fields := strings.Fields(line); {
		case !strings.HasSuffix(fields[0], ":"): // a mapping begins
			in = strings.HasSuffix(strings.TrimSpace(line), name)
		case in && fields[0] == "Rss:":
			fmt.Sscan(fields[1], &kib)
			n += kib << 10
		}
	}
	return n
}

// What a commit has read of the engine's file does not stay in the process's memory, and
// can be read all the same.
func TestCommitLeavesNoPagesMapped(t *testing.T) {
	dir := t.TempDir()
	s := open(t, options(dir, vfs.NewMem()))
	st := mustState(t, s, 7, "")
	const keys = 8 << 10
	write := func(index uint64) {
		t.Helper()
		var entries []fulcrum.Entry
		for i := range keys {
			entries = append(entries, fulcrum.Entry{Key: fmt.Appendf(nil, "%08d", i), Value: make([]byte, 1<<10), Version: fulcrum.Version{Time: index}})
		}
		if err := st.Apply(index, entries, nil); err != nil {
			t.Fatal(err)
		}
		if err := st.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	read := func() {
		t.Helper()
		for i := range keys {
			if e, err := st.Get(fmt.Appendf(nil, "%08d", i)); err != nil || len(e.Value) != 1<<10 {
				t.Fatalf("key %d: %d bytes, %v", i, len(e.Value), err)
			}
		}
	}
	write(1)
	read()
	if got := mappedBytes(t, dir+"/state.db"); got < keys<<10 {
		t.Fatalf("%d bytes are mapped after all were read: nothing is measured", got)
	}
	write(2)
	if got := mappedBytes(t, dir+"/state.db"); got > keys<<10/4 {
		t.Errorf("%d bytes are mapped after a commit of %d", got, keys<<10)
	}
	read()
}

// Large states are committed one after the other, small ones together.
func TestLargeStatesHaveTransactionsOfTheirOwn(t *testing.T) {
	for _, tt := range []struct {
		name        string
		bytes       int
		most, least int
	}{
		{"large", partBytes, 8, 8},
		{"small", partBytes / 64, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, options(t.TempDir(), vfs.NewMem()))
			var last *state
			for g := range fulcrum.GroupID(8) {
				last = mustState(t, s, g+1, "").(*state)
				e := fulcrum.Entry{Key: []byte("k"), Value: make([]byte, tt.bytes), Version: fulcrum.Version{Time: 1}}
				if err := last.Apply(1, []fulcrum.Entry{e}, nil); err != nil {
					t.Fatal(err)
				}
			}
			before := s.transactions()
			if err := last.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			if got := s.transactions() - before; got < tt.least || got > tt.most {
				t.Errorf("%d transactions, want %d to %d", got, tt.least, tt.most)
			}
			for g := range fulcrum.GroupID(8) {
				if st := mustState(t, s, g+1, ""); st.Durable() != 1 {
					t.Errorf("the state of group %d is durable up to %d, want 1", g+1, st.Durable())
				}
			}
		})
	}
}

func (s *Store) transactions() (n int) {
	tx, err := s.bolt.Begin(true)
	if err != nil {
		return 0
	}
	defer tx.Rollback()
	return tx.ID() - 1
}

// Whoever reads the engine's file has its pages given back after a while.
func TestReadsAreNoticed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, options(dir, vfs.NewMem()))
	st := mustState(t, s, 7, "")
	e := fulcrum.Entry{Key: []byte("k"), Value: make([]byte, 1<<20), Version: fulcrum.Version{Time: 1}}
	if err := st.Apply(1, []fulcrum.Entry{e}, nil); err != nil {
		t.Fatal(err)
	}
	if err := st.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	noticed := func() bool {
		select {
		case <-s.readC:
			return true
		default:
			return false
		}
	}
	noticed()
	ways := map[string]func() error{
		"get":  func() error { _, err := st.Get(e.Key); return err },
		"scan": func() error { return st.Scan(nil, nil, func(fulcrum.Entry) bool { return true }) },
	}
	for name, read := range ways {
		if err := read(); err != nil {
			t.Fatal(name, err)
		}
		if !noticed() {
			t.Errorf("%s: nobody will give the pages back", name)
		}
	}
	if mappedBytes(t, dir+"/state.db") < len(e.Value) {
		t.Fatal("nothing is mapped after all was read: nothing is measured")
	}
	if err := s.unmapRead(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := mappedBytes(t, dir+"/state.db"); got > len(e.Value)/4 {
		t.Errorf("%d bytes stay mapped", got)
	}
}
