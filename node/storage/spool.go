package storage

import (
	"errors"
	"os"
	"path/filepath"

	"fulcrum/replication"
)

// spool makes files for data in passing, in a folder of the data directory that each
// Open empties: a crash leaves nothing behind for longer. Nothing in it is ever synced.
//
// Invariant: it takes none of the room that is kept for what the node cannot refuse, nor so
// much that the node has to refuse writes.
type spool struct {
	dir  string
	disk *disk
	room *room
}

const spoolDir = "spool"

// Spool is where groups keep snapshots on their way.
func (s *Store) Spool() replication.Spool { return s.spool }

func openSpool(dir string, d *disk, r *room) (*spool, error) {
	dir = filepath.Join(dir, spoolDir)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return nil, diskError(err, "empty %s", dir)
	}
	return &spool{dir: dir, disk: d, room: r}, nil
}

// Create implements replication.Spool.
func (s *spool) Create() (replication.SpoolFile, error) {
	if err := s.refuse(); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.dir, "snapshot-*")
	if err != nil {
		return nil, diskError(err, "make a file in %s", s.dir)
	}
	return &spoolFile{File: f, spool: s}, nil
}

// refuse is the answer to a write where there is no room to spare, or of an injected fault.
func (s *spool) refuse() error {
	if s.disk.inject != nil {
		if err := s.disk.inject().refuse(); err != nil {
			return err
		}
	}
	return s.room.spare()
}

type spoolFile struct {
	*os.File
	spool *spool
}

// Write implements replication.SpoolFile. That it fails says nothing of the log: other
// files of the node may still be written in place, and a snapshot can be sent again.
func (f *spoolFile) Write(p []byte) (int, error) {
	if err := f.spool.refuse(); err != nil {
		return 0, err
	}
	n, err := f.File.Write(p)
	if err != nil {
		return n, diskError(err, "write to %s", f.Name()).WithHint("free some space: a snapshot needs as much as its shard, and then comes again by itself")
	}
	return n, nil
}

// Close removes the file.
func (f *spoolFile) Close() error {
	if err := errors.Join(f.File.Close(), os.Remove(f.Name())); err != nil {
		return diskError(err, "remove %s", f.Name())
	}
	return nil
}
