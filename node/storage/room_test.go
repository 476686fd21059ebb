package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/prometheus/client_golang/prometheus"

	"fulcrum"
)

func TestReserve(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, tt := range []struct {
		name  string
		total uint64
		low   bool
		want  uint64
	}{
		{"a small disk keeps 64 MiB", gib, false, 64 * mib},
		{"a larger one a thousandth", 500 * gib, false, 512 * mib},
		{"a huge one no more than it takes", 100_000 * gib, false, gib},
		{"and a quarter more before writes are taken again", gib, true, 80 * mib},
	} {
		if got := (Room{Total: tt.total}).reserve(tt.low); got != tt.want {
			t.Errorf("%s: %d MiB, want %d", tt.name, got>>20, tt.want>>20)
		}
	}
}

// TestLittleRoomIsToldAndForgotten: at the mark, and not before there is a bit more again.
func TestLittleRoomIsToldAndForgotten(t *testing.T) {
	const mib = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Uint64
		var fails atomic.Bool
		free.Store(1000 * mib)
		o, reg := options(t.TempDir(), vfs.NewMem()), prometheus.NewRegistry()
		o.Registerer = reg
		o.Room = func() (Room, error) {
			if fails.Load() {
				return Room{}, errors.New("no such file system")
			}
			return Room{Free: free.Load(), Total: 2000 * mib}, nil
		}
		s := open(t, o)
		ran := make(chan error, 1)
		go func() { ran <- s.Run(t.Context()) }()
		for i, step := range []struct {
			free  uint64
			fails bool
			low   bool
		}{{64, false, false}, {63, false, true}, {79, false, true}, {2000, true, true}, {80, false, false}, {65, false, false}} {
			free.Store(step.free * mib)
			fails.Store(step.fails)
			time.Sleep(2 * roomEvery)
			synctest.Wait()
			err := s.Room()
			if (err != nil) != step.low || err != nil && (!errors.Is(err, fulcrum.ErrDisk) || fulcrum.AsError(err).Maybe || !strings.Contains(err.Error(), "free some space")) {
				t.Errorf("step %d, %d MiB free: %v", i, step.free, err)
			}
			if low := gather(t, reg)["fulcrum_storage_disk_low"]; (low == 1) != step.low {
				t.Errorf("step %d: the metric says %v", i, low)
			}
		}
		if err := mustLog(t, s, 1, 1, Fsync).Append(1, [][]byte{{1}}); err != nil {
			t.Errorf("the reserve cannot be used: %v", err)
		}
	})
}

// TestAFullDiskIsLeftInOrder: where a write finds no room the store has failed, says that it
// can be opened again, and is then as it was acknowledged; where a sync fails it does not.
func TestAFullDiskIsLeftInOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		kind   []errorfs.OpKind
		err    error
		noRoom bool
	}{
		{"writes", []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileWriteAt}, syscall.ENOSPC, true},
		{"quota", []errorfs.OpKind{errorfs.OpFileWrite}, syscall.EDQUOT, true},
		{"new files", []errorfs.OpKind{errorfs.OpCreate, errorfs.OpReuseForWrite}, syscall.ENOSPC, true},
		{"syncs", []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}, syscall.ENOSPC, false},
		{"bad writes", []errorfs.OpKind{errorfs.OpFileWrite}, syscall.EIO, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var full atomic.Bool
			mem := vfs.NewCrashableMem()
			o := options(t.TempDir(), errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				for _, k := range tt.kind {
					if full.Load() && op.Kind == k && !strings.HasSuffix(op.Path, ".sst") {
						return tt.err
					}
				}
				return nil
			})))
			o.Room = func() (Room, error) {
				if full.Load() {
					return Room{Free: startNeeds - 1, Total: 1 << 30}, nil
				}
				return Room{Free: 1 << 29, Total: 1 << 30}, nil
			}
			s, err := Open(o)
			must(t, err)
			ran := make(chan error, 1)
			go func() { ran <- s.Run(t.Context()) }()
			acked := appendAllUntilError(t, s, []Durability{Fsync, Fsync, Fsync}, func(total int64) {
				if total == 200 {
					full.Store(true)
				}
			})
			if err := <-ran; errors.Is(err, ErrNoRoom) != tt.noRoom || s.NoRoom() != tt.noRoom || !errors.Is(err, fulcrum.ErrDisk) {
				t.Errorf("run: %v; no room: %v", err, s.NoRoom())
			} else if tt.noRoom && !strings.Contains(err.Error(), "goes on by itself") {
				t.Errorf("the error does not say what to do: %v", err)
			}
			_ = s.Close() // it may tell of the failure
			if tt.noRoom {
				if again, err := Open(o); err == nil || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("opened on a full disk: %v", err)
					if again != nil {
						must(t, again.Close())
					}
				}
			}
			full.Store(false)
			again := open(t, o) // the same files, not what a crash would leave
			for g, want := range acked {
				if last := mustLog(t, again, fulcrum.GroupID(g), 1, Fsync).Last(); last < want {
					t.Errorf("group %d: %d was acknowledged, %d is there", g, want, last)
				}
			}
		})
	}
}

func TestWhatIsNoRoom(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"a write", fmt.Errorf("commit: %w", full), true},
		{"a file that cannot grow", &fs.PathError{Op: "truncate", Path: "x", Err: syscall.ENOSPC}, true},
		{"a sync, which says no more than its number", syscall.ENOSPC, false},
		{"another failure of a write", &fs.PathError{Op: "write", Path: "x", Err: syscall.EIO}, false},
	} {
		if got := errors.Is(noRoom(tt.err, !refusedWrite(tt.err)), ErrNoRoom); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
