package storage

import (
	"bytes"
	"errors"
	"fmt"
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

// What is in passing takes none of the room that the node needs, and the disk does not fill.
func TestSpoolLeavesRoomForTheRest(t *testing.T) {
	const mib = 1 << 20
	left := int64(90 * mib)
	o := options(t.TempDir(), vfs.NewMem())
	o.Room = func() (Room, error) { return Room{Free: uint64(left), Total: 2000 * mib}, nil }
	s, err := Open(o)
	must(t, err)
	file, err := s.Spool().Create()
	must(t, err)
	for range 1000 {
		var n int
		n, err = file.Write(make([]byte, mib))
		if left -= int64(n); err != nil {
			break
		}
	}
	if e := fulcrum.AsError(err); e == nil || e.Code != fulcrum.CodeDisk || e.Hint == "" {
		t.Errorf("a write without room to spare: %v", err)
	}
	if s.lookAtRoom(); left > 81*mib || s.Room() != nil {
		t.Errorf("%d MiB are left, and clients' writes: %v", left/mib, s.Room())
	}
	if _, err := s.Spool().Create(); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("a file without room to spare: %v", err)
	}
	left += 20 * mib
	if _, err := file.Write([]byte("x")); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	must(t, file.Close())
	must(t, s.Close())
}

// An install that needs more room than there is leaves what was there.
func TestAnInstallLeavesRoomForTheRest(t *testing.T) {
	const mib = 1 << 20
	left := int64(100 * mib)
	o := options(t.TempDir(), vfs.NewMem())
	o.Room = func() (Room, error) { return Room{Free: uint64(left), Total: 2000 * mib}, nil }
	s, err := Open(o)
	must(t, err)
	st, err := s.State(1, "")
	must(t, err)
	must(t, st.Apply(1, []fulcrum.Entry{{Key: []byte("old"), Value: []byte("v"), Version: fulcrum.Version{Time: 1, Actor: 1}}}, nil))
	must(t, st.Flush(t.Context()))
	fill := func(put func(fulcrum.Entry) error) error {
		for i := range 30 {
			left -= 2 * mib
			e := fulcrum.Entry{Key: fmt.Appendf(nil, "%03d", i), Value: make([]byte, 2*mib), Version: fulcrum.Version{Time: 1, Actor: 1}}
			if err := put(e); err != nil {
				return err
			}
		}
		return nil
	}
	if err := st.Install(9, nil, fill); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("an install without room to spare: %v", err)
	}
	if e, err := st.Get([]byte("old")); err != nil || string(e.Value) != "v" || st.Applied() != 1 {
		t.Errorf("%q at %d, %v after an install that was refused", e.Value, st.Applied(), err)
	}
	must(t, s.disk.failure())
	left = 1000 * mib
	must(t, st.Install(9, nil, fill))
	must(t, s.Close())
}
