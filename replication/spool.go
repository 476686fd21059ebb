package replication

import "io"

// Spool keeps data in passing, such as a snapshot that is being received, out of
// memory. What is in it need not survive a crash, and must leave nothing behind after
// one.
type Spool interface {
	// Create makes an empty file. The caller closes it, which removes it.
	Create() (SpoolFile, error)
}

// SpoolFile is written from its start to its end, and then read. An error of Write says
// what to do about it.
type SpoolFile interface {
	io.Writer
	io.ReaderAt
	io.Closer
}
