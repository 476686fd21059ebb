package storage

import (
	"syscall"

	"go.etcd.io/bbolt"
)

// unmapFile takes pages of a mapped file out of this process's memory. b begins with a page.
func unmapFile(b []byte) {
	_ = syscall.Madvise(b, syscall.MADV_DONTNEED) // only advice
}

// unmapPages takes the pages of the engine's file out of this process's memory that
// reading has put there. They stay in the system's cache, so whoever reads them next pays
// a minor fault; but most of what a commit reads is then replaced by it, or seldom read,
// and would count as this process's for as long as it runs.
//
// The transaction keeps the file mapped where it is until the pages are given back: what
// else is put there later must not lose its contents.
func unmapPages(db *bbolt.DB) {
	_ = db.View(func(tx *bbolt.Tx) error {
		if size := tx.Size(); size > 0 {
			// Only advice: where it is refused, the pages stay.
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, db.Info().Data, uintptr(size), syscall.MADV_DONTNEED)
		}
		return nil
	})
}
