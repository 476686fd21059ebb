package raft

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"

	"fulcrum/replication"
)

// spooled is a snapshot on its way: small ones stay in memory, others go to a file. The
// sum of what was written is known at any time, and read checks it again: the file may
// have been on a disk for a while.
type spooled struct {
	spool replication.Spool // nil: everything stays in memory
	small []byte
	file  replication.SpoolFile
	size  int64
	sum   hash.Hash64
}

// spoolFrom is how large a snapshot must be to go to a file.
const spoolFrom = 1 << 20

var crcTable = crc64.MakeTable(crc64.ECMA)

func newSpooled(s replication.Spool) *spooled {
	return &spooled{spool: s, sum: crc64.New(crcTable)}
}

// Write adds to the end.
func (s *spooled) Write(p []byte) (int, error) {
	if s.file == nil && s.spool != nil && len(s.small)+len(p) > spoolFrom {
		file, err := s.spool.Create()
		if err != nil {
			return 0, err
		}
		s.file = file
		if _, err := file.Write(s.small); err != nil {
			return 0, err
		}
		s.small = nil
	}
	if s.file == nil {
		s.small = append(s.small, p...)
	} else if _, err := s.file.Write(p); err != nil {
		return 0, err
	}
	s.sum.Write(p)
	s.size += int64(len(p))
	return len(p), nil
}

// Close lets go of the data. It is idempotent.
func (s *spooled) Close() error {
	s.small = nil
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	return file.Close()
}

var errSpoolDamaged = errors.New("a snapshot was damaged on the disk that it passed")

// read returns everything from the start. In the place of the end there is an error if
// the sum is not what it was.
func (s *spooled) read() io.Reader {
	var from io.Reader = bytes.NewReader(s.small)
	if s.file != nil {
		from = io.NewSectionReader(s.file, 0, s.size)
	}
	return &summed{from: from, sum: crc64.New(crcTable), left: s.size, want: s.sum.Sum64()}
}

type summed struct {
	from io.Reader
	sum  hash.Hash64
	left int64
	want uint64
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	s.sum.Write(p[:n])
	s.left -= int64(n)
	if err == io.EOF && (s.left != 0 || s.sum.Sum64() != s.want) {
		err = errSpoolDamaged
	}
	return n, err
}

// while reads as long as somebody wants that: a snapshot can be large, and who stops does not
// wait until all of it is read.
type while struct {
	io.Reader
	going func() bool
}

func (w while) Read(p []byte) (int, error) {
	if !w.going() {
		return 0, errStopping
	}
	return w.Reader.Read(p)
}

// spool copies what a machine streams, so that its picture of the data is held no longer
// than a disk takes: a picture that is open keeps an engine from reusing pages, and from
// growing its file, and a peer may be slow to take it in.
func (c *core) spool(from io.ReadCloser, going func() bool) (io.ReadCloser, error) {
	s := newSpooled(c.env.Spool)
	_, err := io.Copy(s, while{from, going})
	if err = errors.Join(err, from.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("keep a snapshot for a peer: %w", err), s.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{s.read(), s}, nil
}
