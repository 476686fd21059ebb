package storage

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// The kernel answers each sync that it was asked for, and says of a file that cannot be
// synced that it was not begun, so that the caller learns why from fdatasync.
func TestKernelSync(t *testing.T) {
	k, err := newKernelSync()
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAGAIN) {
		t.Skip("the kernel has no asynchronous I/O for us: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := f.WriteString("words"); err != nil {
			t.Fatal(err)
		}
		if begun, err := k.sync(f.Fd()); !begun || err != nil {
			t.Fatalf("sync %d: begun %v, %v", i, begun, err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if begun, err := k.sync(w.Fd()); begun {
		t.Errorf("the sync of a pipe was begun, and came to %v", err)
	}
	if begun, err := k.sync(f.Fd()); !begun || err != nil {
		t.Errorf("after one that was refused: begun %v, %v", begun, err)
	}
	f.Close()
}

// More syncs at once than there are kernelSyncs all end, and each of those comes back; a
// file in memory is synced by itself.
func TestSyncData(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 4 * cap(kernelSyncs) {
		all.Go(func() {
			f, err := vfs.Default.Create(filepath.Join(dir, string(rune('a'+i))), vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Error(err)
				return
			}
			for range 10 {
				if _, err := f.Write([]byte("words")); err != nil {
					t.Error(err)
				}
				if err := syncData(f); err != nil {
					t.Error(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(kernelSyncs) != cap(kernelSyncs) {
		t.Errorf("%d of %d kernelSyncs came back", len(kernelSyncs), cap(kernelSyncs))
	}
	mem := vfs.NewMem()
	f, err := mem.Create("m", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if err := syncData(f); err != nil {
		t.Errorf("a file in memory: %v", err)
	}
}
