package raft

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"fulcrum"
	"fulcrum/mutant"
	"fulcrum/replication"
)

// capture has nothing to copy: persist waits until the State is as durable as it
// was applied when persist was called, which is at the snapshot's index or further.
func (k *keeper) capture() func(snapshotMeta) error {
	return k.persist
}

// persist stores m once what it stands for, which is applied, is durable.
func (k *keeper) persist(m snapshotMeta) error {
	ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
	defer cancel()
	if err := k.env.State.Flush(ctx); err != nil {
		return err
	}
	return k.core.store.setMeta(map[string][]byte{metaSnapshot: m.append(nil)})
}

// flushLimit is how long a State may take to become durable before the log is left
// uncut until the next attempt.
const flushLimit = time.Minute

// The stream of a snapshot: version, index of the view, progress, floor, where the
// request ids stand and their segments (see idStream), then each entry with its length
// before it, then an empty one as the end.
const streamVersion = 2

// open streams the State as it is now, which is at m or further.
func (k *keeper) open(m snapshotMeta) (snapshotMeta, io.ReadCloser, error) {
	v, err := k.env.State.View()
	if err != nil {
		return m, nil, err
	}
	s := &stream{view: v}
	s.buf.WriteByte(streamVersion)
	// Entries without a request (elections, barriers) do not move the State, so the
	// view may seem to be before the snapshot; it is not.
	at := max(v.Index(), m.Index)
	if mutant.On("snapshot-index-low") {
		at = m.Index // mutant: entries that the view reflects are applied once more
	}
	s.buf.Write(uvarints(nil, at))
	extra := v.Extra()
	s.buf.Write(fulcrum.AppendBytes(nil, extra[extraProgress]))
	s.buf.Write(fulcrum.AppendBytes(nil, extra[replication.FloorKey]))
	if s.ids, err = streamIDs(&s.buf, extra); err != nil {
		_ = v.Close()
		return m, nil, err
	}
	return m, s, nil
}

// stream reads a view piece by piece, without a goroutine.
type stream struct {
	view replication.View
	buf  bytes.Buffer
	ids  [][]byte // segments that are not yet in buf
	next []byte
	done bool
}

func (s *stream) Read(p []byte) (int, error) {
	if s.buf.Len() == 0 && !s.done {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	return s.buf.Read(p)
}

func (s *stream) fill() error {
	if len(s.ids) > 0 {
		s.buf.Write(fulcrum.AppendBytes(nil, s.ids[0]))
		s.ids = s.ids[1:]
		return nil
	}
	full := false
	err := s.view.Scan(s.next, nil, func(e fulcrum.Entry) bool {
		s.buf.Write(fulcrum.AppendBytes(nil, fulcrum.AppendEntry(nil, e)))
		if full = s.buf.Len() >= chunkBytes; full {
			s.next = append(bytes.Clone(e.Key), 0)
		}
		return !full
	})
	if err != nil {
		return err
	}
	if !full {
		s.done = true
		s.buf.WriteByte(0)
	}
	return nil
}

func (s *stream) Close() error { return s.view.Close() }

// install reads a stream into the State. Entries, applied position, progress and
// the log's meta change in one step (State.Install); reconcile finds the meta there
// after a crash.
func (k *keeper) install(m snapshotMeta, r io.Reader) error {
	// What is applied is in memory, of which a crash may leave less. Where it contradicts the
	// snapshot the logs have lost it (errLost), and what the snapshot has takes its place.
	if k.applied() >= m.Index && k.applied() > 0 && !k.get().clock.contradicts(m.Index, m.Term) {
		return k.persist(m)
	}
	br := bufio.NewReaderSize(r, chunkBytes)
	head, err := readStreamHead(br)
	if err != nil {
		return err
	}
	p, err := decodeProgress(head.progress, k.env.Epoch)
	if err != nil {
		return err
	}
	extra := map[string][]byte{
		extraProgress: p.encode(k.env.Epoch),
		extraInstall:  m.append(uvarints(nil, uint64(k.env.Epoch))),
	}
	if len(head.floor) > 0 {
		extra[replication.FloorKey] = head.floor
	}
	ids, err := receiveIDs(br, k.env.Epoch, extra)
	if err != nil {
		return err
	}
	err = k.env.State.Install(head.index, extra, func(put func(fulcrum.Entry) error) error {
		return errors.Join(readEntries(br, put), atEnd(br))
	})
	if err != nil {
		return err
	}
	k.begin(p)
	k.ids = ids
	if err := k.readFloor(); err != nil {
		return err
	}
	k.changes.reset(k.place(), k.newest(), k.fence.Load() != nil)
	return k.core.store.setMeta(map[string][]byte{metaSnapshot: m.append(nil)})
}

type streamHead struct {
	index    uint64
	progress []byte
	floor    []byte
}

func readStreamHead(br *bufio.Reader) (h streamHead, err error) {
	version, err := br.ReadByte()
	if err != nil {
		return h, noEOF(err)
	}
	if version != streamVersion {
		return h, fmt.Errorf("snapshot of version %d, want %d", version, streamVersion)
	}
	if h.index, err = binary.ReadUvarint(br); err != nil {
		return h, noEOF(err)
	}
	if h.progress, err = readBytes(br); err != nil {
		return h, err
	}
	h.floor, err = readBytes(br)
	return h, err
}

func readEntries(br *bufio.Reader, put func(fulcrum.Entry) error) error {
	for {
		b, err := readBytes(br)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return nil
		}
		e, rest, err := fulcrum.DecodeEntry(b)
		if err == nil && len(rest) > 0 {
			err = errTrailing
		}
		if err != nil {
			return fmt.Errorf("snapshot entry: %w", err)
		}
		if err := put(e); err != nil {
			return err
		}
	}
}

// atEnd must be asked before an install counts: the end is where the sum is checked.
func atEnd(br *bufio.Reader) error {
	switch _, err := br.ReadByte(); err {
	case io.EOF:
		return nil
	case nil:
		return errTrailing
	default:
		return err
	}
}

func readBytes(br *bufio.Reader) ([]byte, error) {
	n, err := binary.ReadUvarint(br)
	if err != nil {
		return nil, noEOF(err)
	}
	if n > fulcrum.MaxMessageBytes {
		return nil, fmt.Errorf("field of %d bytes in a snapshot: %w", n, fulcrum.ErrShort)
	}
	if n <= chunkBytes {
		b := make([]byte, n)
		_, err = io.ReadFull(br, b)
		return b, noEOF(err)
	}
	b, err := io.ReadAll(io.LimitReader(br, int64(n))) // take no more memory than there are bytes
	if err == nil && uint64(len(b)) < n {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// storedMeta returns the newest snapshot meta that is durable: the one beside the
// log, or the one that came with the State's last install.
func (k *keeper) storedMeta() (snapshotMeta, error) {
	var m snapshotMeta
	b, err := k.env.Log.Meta(metaSnapshot)
	if err != nil {
		return m, err
	}
	if b != nil {
		if m, err = readMeta(fulcrum.NewReader(b)); err != nil {
			return m, err
		}
	}
	if b, err = k.env.State.Extra(extraInstall); err != nil || len(b) == 0 {
		return m, err
	}
	r := fulcrum.NewReader(b)
	if fulcrum.Epoch(r.Uvarint()) != k.env.Epoch {
		return m, nil
	}
	in, err := readMeta(r)
	if err != nil {
		return m, err
	}
	if in.Index > m.Index {
		m = in
	}
	return m, nil
}
