package storage

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestAStoreOpensWithFewAddresses: a process may be held to fewer than the engine's file would
// like to grow into.
func TestAStoreOpensWithFewAddresses(t *testing.T) {
	var before syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_AS, &before))
	statm, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	var pages uint64 // that it has already
	_, err = fmt.Sscan(string(statm), &pages)
	must(t, err)
	few := syscall.Rlimit{Cur: pages*uint64(os.Getpagesize()) + mapped/2, Max: before.Max}
	must(t, syscall.Setrlimit(syscall.RLIMIT_AS, &few))
	defer func() { must(t, syscall.Setrlimit(syscall.RLIMIT_AS, &before)) }()
	o := options(t.TempDir(), vfs.NewMem())
	s := open(t, o)
	many(t, s, 40)
	must(t, s.Close())
	s = open(t, o) // as it is now, which goes another way
	if e, err := mustState(t, s, 1, "").Get([]byte("key-00001")); err != nil || string(e.Value) != "value" {
		t.Errorf("%+v, %v", e, err)
	}
}
