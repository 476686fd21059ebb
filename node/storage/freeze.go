package storage

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// freezeFS freezes the log's disk at its first failure: from then on nothing more
// is written, so what the failure left is what the next Open reads.
//
// It exists because pebble panics when a write-ahead log cannot be written,
// synced, closed or made, sometimes in a way that no recover survives
// (rotateWAL). So these failures are recorded in disk and pebble is told
// nothing; commit asks disk after each sync and before it answers. That is
// safe: an append is acknowledged only if no failure was recorded when its own
// sync had returned, and the failure of any write before it in the file was
// recorded before that. All other operations fail, which pebble can take: it
// must not make a table or a manifest count, or remove a log, on a disk of which
// nothing is known any more.
type freezeFS struct {
	vfs.FS
	disk   *disk
	synced *synced
	after  func()      // called when a write-ahead log was synced, or that failed
	armed  atomic.Bool // Open has returned: before that errors go to its caller
}

// frozen is the failure that froze the disk, for operations outside of the log.
func (f *freezeFS) frozen() error {
	if !f.armed.Load() {
		return nil
	}
	return f.disk.failure()
}

// hide records err, if any, and hides it from pebble.
func (f *freezeFS) hide(err error, what, name string) error {
	if err == nil || !f.armed.Load() {
		return err
	}
	e := *diskError(noRoom(err, what == "sync" || what == "close"), "%s %s", what, name)
	e.Maybe = true
	f.disk.fail(&e)
	return nil
}

const frozenPause = 50 * time.Millisecond

func isWAL(name string) bool { return strings.HasSuffix(name, ".log") }

// create makes a file, or for a write-ahead log at least something like one.
func (f *freezeFS) create(name string, make func() (vfs.File, error)) (vfs.File, error) {
	if !isWAL(name) && f.disk.failure() != nil {
		time.Sleep(frozenPause) // pebble makes a table again and again, until it can or is closed
	}
	err := f.frozen()
	if err != nil && !isWAL(name) {
		return nil, err
	}
	if err == nil {
		var file vfs.File
		if file, err = make(); err == nil {
			return &freezeFile{File: file, fs: f, name: name, log: isWAL(name)}, nil
		}
		if !isWAL(name) || f.hide(err, "make", name) != nil {
			return nil, err
		}
	}
	return &freezeFile{File: vfs.NewMemFile(nil), fs: f, name: name, log: true}, nil
}

func (f *freezeFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create(name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *freezeFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create(name, func() (vfs.File, error) { return f.FS.ReuseForWrite(old, name, c) })
}

func (f *freezeFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.create(name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

// OpenDir: pebble syncs the directory after making a write-ahead log, and panics
// when it cannot.
func (f *freezeFS) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &freezeFile{File: dir, fs: f, name: name, log: true}, nil
}

func (f *freezeFS) unlessFrozen(do func() error) error {
	if err := f.frozen(); err != nil {
		return err
	}
	return do()
}

func (f *freezeFS) Remove(name string) error {
	return f.unlessFrozen(func() error { return f.FS.Remove(name) })
}

func (f *freezeFS) RemoveAll(name string) error {
	return f.unlessFrozen(func() error { return f.FS.RemoveAll(name) })
}

func (f *freezeFS) Rename(old, name string) error {
	return f.unlessFrozen(func() error { return f.FS.Rename(old, name) })
}

func (f *freezeFS) Link(old, name string) error {
	return f.unlessFrozen(func() error { return f.FS.Link(old, name) })
}

func (f *freezeFS) Unwrap() vfs.FS { return f.FS }

// freezeFile is a file of freezeFS. Log is set for a write-ahead log and for a
// directory.
type freezeFile struct {
	vfs.File
	fs   *freezeFS
	name string
	log  bool

	written atomic.Int64 // bytes, by Write
}

// step does one operation unless the disk is frozen, and hides its failure if
// that is what pebble needs.
func (f *freezeFile) step(what string, do func() error) error {
	if err := f.fs.frozen(); err != nil {
		if f.log {
			return nil
		}
		return err
	}
	err := do()
	if f.log {
		return f.fs.hide(err, what, f.name)
	}
	return err
}

func (f *freezeFile) Write(p []byte) (int, error) {
	err := f.step("write", func() error { _, err := f.File.Write(p); return err })
	if err != nil {
		return 0, err
	}
	f.written.Add(int64(len(p)))
	return len(p), nil
}

func (f *freezeFile) WriteAt(p []byte, at int64) (int, error) {
	err := f.step("write", func() error { _, err := f.File.WriteAt(p, at); return err })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *freezeFile) Sync() error { return f.sync(f.File.Sync) }
func (f *freezeFile) SyncData() error {
	return f.sync(func() error { return syncData(f.File) })
}

// sync notes how far the file is then on disk. A manifest is synced seldom, and the
// note with it: pebble goes on to remove what the manifest no longer needs.
func (f *freezeFile) sync(do func() error) error {
	if f.log {
		defer f.fs.after() // whatever came of it: pebble now lets go those who wait
	}
	return f.step("sync", func() error {
		written := f.written.Load()
		if err := do(); err != nil || written == 0 || !tracked(f.name) {
			return err
		}
		f.fs.synced.reached(f.name, written)
		if f.log {
			return nil
		}
		return f.fs.synced.sync()
	})
}

func (f *freezeFile) SyncTo(n int64) (full bool, err error) {
	err = f.step("sync", func() (err error) { full, err = f.File.SyncTo(n); return err })
	return full, err
}

func (f *freezeFile) Preallocate(at, n int64) error {
	return f.step("preallocate", func() error { return f.File.Preallocate(at, n) })
}

// Close always closes.
func (f *freezeFile) Close() error {
	err := f.File.Close()
	if f.log {
		return f.fs.hide(err, "close", f.name)
	}
	return err
}
