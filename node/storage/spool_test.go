package storage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

func spooledFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, spoolDir, "*"))
	must(t, err)
	return names
}

func TestSpoolLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	fs := vfs.NewMem()
	s, err := Open(options(dir, fs))
	must(t, err)
	one, err := s.Spool().Create()
	must(t, err)
	two, err := s.Spool().Create()
	must(t, err)
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	for _, f := range []interface{ Write([]byte) (int, error) }{one, two} {
		_, err = f.Write(data)
		must(t, err)
	}
	got := make([]byte, 10)
	if _, err := one.ReadAt(got, 999_990); err != nil || string(got) != "0123456789" {
		t.Errorf("the end of the file is %q, %v", got, err)
	}
	must(t, one.Close())
	if n := len(spooledFiles(t, dir)); n != 1 {
		t.Errorf("%d files after one of two was closed", n)
	}
	must(t, s.Abandon()) // two stays, as after a crash
	s, err = Open(options(dir, fs))
	must(t, err)
	if n := len(spooledFiles(t, dir)); n != 0 {
		t.Errorf("%d files of the life before are left", n)
	}
	must(t, s.Close())
}

// A full disk refuses a snapshot with a reason, and the store goes on.
func TestSpoolOnAFullDisk(t *testing.T) {
	f := &fault{}
	o := options(t.TempDir(), vfs.NewMem())
	o.Disk = f.get
	s, err := Open(o)
	must(t, err)
	file, err := s.Spool().Create()
	must(t, err)
	f.set(Disk{Full: true})
	if _, err := file.Write([]byte("x")); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("a write on a full disk: %v", err)
	}
	if _, err := s.Spool().Create(); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("a file on a full disk: %v", err)
	}
	f.set(Disk{})
	must(t, file.Close())
	must(t, s.Health())
	// A real failure names the file, and is not the log's.
	must(t, os.RemoveAll(filepath.Join(o.Dir, spoolDir)))
	if _, err := s.Spool().Create(); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("a file in a folder that is gone: %v", err)
	}
	must(t, s.Health())
	must(t, s.Close())
}
