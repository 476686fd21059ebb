package storage

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// TestBboltReadsNoPagesWithAList tells by what of the file is in memory afterwards.
func TestBboltReadsNoPagesWithAList(t *testing.T) {
	path := filepath.Join(gaps(t).Dir, stateFile)
	v, err := verifyBolt(path)
	must(t, err)
	size := len(v.taken) * v.pageSize
	mapped := func() int {
		db, err := openBoltFile(path)
		must(t, err)
		defer db.Close()
		return mappedBytes(t, path)
	}
	if got := mapped(); got < size {
		t.Fatalf("%d bytes of %d are mapped after bbolt has walked all pages: nothing is measured", got, size)
	}
	l := lent(t, path)
	must(t, l.give())
	if got := mapped(); got > size/4 {
		t.Errorf("%d bytes of %d are mapped: bbolt has read more than the list", got, size)
	}
	must(t, l.takeBack())
	open, err := v.openBolt(path)
	must(t, err)
	if got := mappedBytes(t, path); got > size/4 {
		t.Errorf("%d bytes of %d are mapped after the file was opened", got, size)
	}
	must(t, open.Close())
}

// TestNoRoomForAList: bbolt does without.
func TestNoRoomForAList(t *testing.T) {
	path := filepath.Join(gaps(t).Dir, stateFile)
	before, err := os.Stat(path)
	must(t, err)
	v, err := verifyBolt(path)
	must(t, err)
	var limit syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	less := limit
	less.Cur = uint64(before.Size()) + 10 // so some of the list is written
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &less))
	db, err := v.openBolt(path)
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit), err)
	defer db.Close()
	if after, err := os.Stat(path); err != nil || after.Size() != before.Size() {
		t.Errorf("%d bytes became %d, %v", before.Size(), after.Size(), err)
	}
	if got := mappedBytes(t, path); got > len(v.taken)*v.pageSize/4 {
		t.Errorf("%d bytes stay mapped of what bbolt has read", got)
	}
	checkFree(t, db)
}
