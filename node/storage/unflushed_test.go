package storage

import (
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"fulcrum"
)

// tables is a file system whose tables cannot be written while it is held, and not then
// either if there is an error.
type tables struct {
	*errorfs.FS
	mem  *vfs.MemFS
	err  atomic.Pointer[fs.PathError]
	held chan struct{}
}

func newTables() *tables {
	f := &tables{mem: vfs.NewCrashableMem(), held: make(chan struct{})}
	f.FS = errorfs.Wrap(f.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind != errorfs.OpFileWrite || !strings.HasSuffix(op.Path, ".sst") {
			return nil
		}
		<-f.held
		if err := f.err.Load(); err != nil {
			return err
		}
		return nil
	}))
	return f
}

// fill appends to several logs until they make no progress for a while, and returns how to
// wait for them to end and what each was told to be durable.
func fill(t *testing.T, s *Store, ended func() bool) func() [4]uint64 {
	var acked [4]uint64
	var total atomic.Int64
	var wg sync.WaitGroup
	for g := range acked {
		l := mustLog(t, s, fulcrum.GroupID(g), 1, Fsync)
		wg.Go(func() {
			for i := l.Last() + 1; !ended(); i++ {
				if err := l.Append(i, [][]byte{make([]byte, 200<<10)}); err != nil {
					if !errors.Is(err, fulcrum.ErrDisk) {
						t.Errorf("append: %v", err)
					}
					return
				}
				acked[g] = i
				total.Add(1)
			}
		})
	}
	for last := int64(-1); last != total.Load(); time.Sleep(500 * time.Millisecond) {
		last = total.Load()
	}
	if n := total.Load() * 200 << 10; n > 6*memTableSize {
		t.Errorf("%d MiB were taken, and none of it could be written to a table", n>>20)
	}
	return func() [4]uint64 { wg.Wait(); return acked }
}

// TestTablesThatCannotBeWrittenEndTheStore: whoever appends gets an answer, also who waits
// for room by then, and the store can be closed.
func TestTablesThatCannotBeWrittenEndTheStore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		noRoom bool
	}{{"no space", syscall.ENOSPC, true}, {"bad disk", syscall.EIO, false}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newTables()
			f.err.Store(&fs.PathError{Op: "write", Path: "table", Err: tt.err})
			s := open(t, options(t.TempDir(), f))
			ran := make(chan error, 1)
			go func() { ran <- s.Run(t.Context()) }()
			wait := fill(t, s, func() bool { return false })
			close(f.held)
			acked := wait()
			if err := <-ran; !errors.Is(err, fulcrum.ErrDisk) || !errors.Is(err, tt.err) || s.NoRoom() != tt.noRoom {
				t.Errorf("run: %v; no room: %v", err, s.NoRoom())
			}
			_ = s.Close()
			again := open(t, options(t.TempDir(), f.mem.CrashClone(vfs.CrashCloneCfg{})))
			for g, want := range acked {
				if last := mustLog(t, again, fulcrum.GroupID(g), 1, Fsync).Last(); last < want {
					t.Errorf("group %d: %d was acknowledged, %d is there", g, want, last)
				}
			}
		})
	}
}

func TestAppendsWaitForTables(t *testing.T) {
	f := newTables()
	s := open(t, options(t.TempDir(), f))
	var enough atomic.Bool
	wait := fill(t, s, enough.Load)
	added := func() int64 {
		s.unflushed.mu.Lock()
		defer s.unflushed.mu.Unlock()
		return s.unflushed.added
	}
	before := added()
	close(f.held)
	for added() <= before+4*memTableSize {
		time.Sleep(time.Millisecond)
	}
	enough.Store(true)
	wait()
	must(t, s.disk.failure(), s.Close())
}
