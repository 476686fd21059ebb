package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	syncedFile  = "SYNCED"
	syncedEvery = time.Second // pace of syncing the file while logs are synced
	syncedSlot  = 4096        // bytes from one slot to the next: not in the same sector
	syncedLogs  = 16          // the newest, more than there are not yet flushed to tables
	syncedSize  = sumSize + (1+2+2*syncedLogs)*8
)

// extent is how far a file is known to be on disk.
type extent struct {
	number uint64 // of the file; 0: none
	bytes  uint64
}

// synced tells, after a crash, how much of the newest logs and manifest had been
// synced: what is missing of that is damage, and not a torn write. It is a file of
// two slots, the older of which stays as it is until the newer is on disk. It is
// written once a second, not with each append, and with each manifest; so it lags,
// and then says less.
type synced struct {
	file vfs.File

	// writing holds one token: whoever has it may write the file, and has slot.
	writing chan struct{}
	slot    int64 // the one to write

	mu   sync.Mutex // protects what follows; never held during I/O or a wait
	note note
}

// note is what a slot says; seq counts the writes.
type note struct {
	seq      uint64
	manifest extent
	wals     [syncedLogs]extent // newest first
}

// words are a note as it is stored.
func (n *note) words() (all []*uint64) {
	all = append(all, &n.seq, &n.manifest.number, &n.manifest.bytes)
	for i := range n.wals {
		all = append(all, &n.wals[i].number, &n.wals[i].bytes)
	}
	return all
}

// of is how many bytes of a file are known to be on disk.
func (n *note) of(number uint64, log bool) uint64 {
	known := []extent{n.manifest}
	if log {
		known = n.wals[:]
	}
	for _, e := range known {
		if e.number == number {
			return e.bytes
		}
	}
	return 0
}

// reached takes in how far a file is on disk.
func (n *note) reached(number uint64, log bool, length uint64) {
	if !log {
		if number >= n.manifest.number {
			n.manifest = extent{number, length}
		}
		return
	}
	at := slices.IndexFunc(n.wals[:], func(e extent) bool { return number >= e.number })
	switch {
	case at < 0: // older than all that are known
		return
	case n.wals[at].number != number:
		copy(n.wals[at+1:], n.wals[at:])
	}
	n.wals[at] = extent{number, length}
}

// readSynced returns the newest note, and the slot that does not hold it. It says
// nothing when there is no file.
func readSynced(fs vfs.FS, name string) (newest note, free int64, err error) {
	f, err := fs.Open(name)
	if isNotExist(err) {
		return note{}, 0, nil
	}
	if err != nil {
		return note{}, 0, err
	}
	for slot := range int64(2) {
		b := make([]byte, syncedSize)
		if _, err := f.ReadAt(b, slot*syncedSlot); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				continue
			}
			return note{}, 0, errors.Join(err, f.Close())
		}
		var n note
		for i, word := range n.words() {
			*word = binary.BigEndian.Uint64(b[sumSize+8*i:])
		}
		if binary.BigEndian.Uint32(b) == crc32.Checksum(b[sumSize:], castagnoli) && n.seq > newest.seq {
			newest, free = n, 1-slot
		}
	}
	return newest, free, f.Close()
}

func openSynced(fs vfs.FS, name string) (*synced, error) {
	n, slot, err := readSynced(fs, name)
	if err != nil {
		return nil, err
	}
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	s := &synced{file: f, writing: make(chan struct{}, 1), note: n, slot: slot}
	s.writing <- struct{}{}
	return s, nil
}

// reached records that a file is on disk up to a length.
func (s *synced) reached(name string, length int64) {
	number, log := numberOf(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note.reached(number, log, uint64(length))
}

// sync puts on disk what is known.
func (s *synced) sync() error {
	<-s.writing
	defer func() { s.writing <- struct{}{} }()
	s.mu.Lock()
	s.note.seq++
	n := s.note
	s.mu.Unlock()
	b := make([]byte, sumSize, syncedSize)
	for _, word := range n.words() {
		b = binary.BigEndian.AppendUint64(b, *word)
	}
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[sumSize:], castagnoli))
	if _, err := s.file.WriteAt(b, s.slot*syncedSlot); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.slot = 1 - s.slot
	return nil
}

// syncSynced is the background sync of the file.
func (s *Store) syncSynced(context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.synced.sync(); err != nil {
		return s.lost(err)
	}
	return nil
}

// tracked reports whether synced wants to know of a file.
func tracked(name string) bool {
	return isWAL(name) || strings.HasPrefix(path.Base(name), manifestPrefix)
}

const manifestPrefix = "MANIFEST-"

// numberOf is the number in the name of a log or a manifest.
func numberOf(name string) (number uint64, log bool) {
	name = path.Base(name)
	log = isWAL(name)
	number, _ = strconv.ParseUint(strings.TrimPrefix(strings.TrimSuffix(name, ".log"), manifestPrefix), 10, 64)
	return number, log
}
