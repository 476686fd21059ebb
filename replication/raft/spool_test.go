package raft

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
	"fulcrum/replication/replicationtest"
)

// shelf is a Spool in memory that can be full, and remembers what is left in it.
type shelf struct {
	files map[*book]bool
	full  error
	most  int // files at once

	writing func() // at the next write
}

type book struct {
	bytes.Buffer
	on *shelf
}

func (s *shelf) Create() (replication.SpoolFile, error) {
	if s.full != nil {
		return nil, s.full
	}
	b := &book{on: s}
	if s.files == nil {
		s.files = map[*book]bool{}
	}
	s.files[b] = true
	s.most = max(s.most, len(s.files))
	return b, nil
}

func (b *book) Write(p []byte) (int, error) {
	if f := b.on.writing; f != nil {
		b.on.writing = nil
		f()
	}
	if b.on.full != nil {
		return 0, b.on.full
	}
	return b.Buffer.Write(p)
}

func (b *book) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(b.Bytes()).ReadAt(p, at)
}

func (b *book) Close() error {
	if !b.on.files[b] {
		return errors.New("closed twice")
	}
	delete(b.on.files, b)
	return nil
}

// chunks cuts data as a sender does.
func chunks(transfer uint64, data []byte) (out []chunk) {
	for at := 0; ; at += chunkBytes {
		end := min(at+chunkBytes, len(data))
		c := chunk{transfer: transfer, offset: uint64(at), data: data[at:end]}
		if c.last = end == len(data); c.last {
			c.sum = crc64.Checksum(data, crcTable)
			return append(out, c)
		}
		out = append(out, c)
	}
}

func newStaging(s replication.Spool) *staging {
	return &staging{spool: s, from: map[fulcrum.NodeID]*transfer{}}
}

func TestStagingKeepsLargeSnapshotsOutOfMemory(t *testing.T) {
	sh := &shelf{}
	s := newStaging(sh)
	data := bytes.Repeat([]byte("a shard"), 700_000) // 4.9 MB
	var d *spooled
	for _, c := range chunks(1, data) {
		var err error
		if d, err = s.take("a", c, 1<<30); err != nil {
			t.Fatal(err)
		}
		if (d != nil) != c.last {
			t.Fatalf("chunk at %d: whole %v", c.offset, d != nil)
		}
		if tr := s.from["a"]; tr != nil && len(tr.data.small) > spoolFrom {
			t.Fatalf("%d bytes are in memory", len(tr.data.small))
		}
	}
	if got, err := io.ReadAll(d.read()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := d.Close(); err != nil || len(sh.files) > 0 {
		t.Errorf("close: %v; %d files left", err, len(sh.files))
	}
}

// However a transfer ends, no file is left.
func TestStagingLeavesNoFile(t *testing.T) {
	data := bytes.Repeat([]byte("a shard"), 700_000)
	cs := chunks(1, data)
	for _, tc := range []struct {
		name string
		do   func(s *staging, sh *shelf) error
		want fulcrum.Code
	}{
		{"damaged on the way", func(s *staging, sh *shelf) (err error) {
			for i, c := range cs {
				if i == 7 {
					c.data = append([]byte{c.data[0] + 1}, c.data[1:]...)
				}
				_, err = s.take("a", c, 1<<30)
			}
			return err
		}, fulcrum.CodeInvalid},
		{"the disk is full", func(s *staging, sh *shelf) (err error) {
			for i, c := range cs {
				if i == 9 {
					sh.full = errors.New("no space left on device")
				}
				if _, err = s.take("a", c, 1<<30); err != nil {
					return err
				}
			}
			return nil
		}, fulcrum.CodeDisk},
		{"too large", func(s *staging, sh *shelf) (err error) {
			for _, c := range cs {
				if _, err = s.take("a", c, 3<<20); err != nil {
					return err
				}
			}
			return nil
		}, fulcrum.CodeTooLarge},
		{"the sender is gone", func(s *staging, sh *shelf) (err error) {
			for _, c := range cs[:10] {
				_, err = s.take("a", c, 1<<30)
			}
			s.from["a"].touch = time.Now().Add(-time.Hour)
			s.sweep()
			return err
		}, ""},
		{"the sender begins anew", func(s *staging, sh *shelf) (err error) {
			for _, c := range cs[:10] {
				_, err = s.take("a", c, 1<<30)
			}
			for _, c := range chunks(2, []byte("small now")) {
				_, err = s.take("a", c, 1<<30)
			}
			return err
		}, ""},
		{"the replica stops while a chunk is written", func(s *staging, sh *shelf) (err error) {
			for i, c := range cs[:10] {
				if i == 9 {
					sh.writing = s.clear
				}
				_, err = s.take("b", c, 1<<30)
			}
			return err
		}, fulcrum.CodeUnavailable},
		{"the replica stops while the last chunk is written", func(s *staging, sh *shelf) (err error) {
			for _, c := range cs {
				if c.last {
					sh.writing = s.clear
				}
				_, err = s.take("b", c, 1<<30)
			}
			return err
		}, fulcrum.CodeUnavailable},
		{"the replica has stopped", func(s *staging, sh *shelf) (err error) {
			for _, c := range cs[:10] {
				if _, err := s.take("b", c, 1<<30); err != nil {
					return err
				}
			}
			s.clear()
			_, err = s.take("b", cs[0], 1<<30)
			return err
		}, fulcrum.CodeUnavailable},
		{"the replica stops", func(s *staging, sh *shelf) (err error) {
			for _, c := range cs[:10] {
				_, err = s.take("b", c, 1<<30)
			}
			s.clear()
			return err
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sh := &shelf{}
			s := newStaging(sh)
			err := tc.do(s, sh)
			e := fulcrum.AsError(err)
			if (e == nil) != (tc.want == "") || e != nil && e.Code != tc.want {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if e != nil && e.Code == fulcrum.CodeDisk && e.Hint == "" {
				t.Error("no hint what to do")
			}
			if sh.most == 0 || len(sh.files) > 0 {
				t.Errorf("%d files at once, %d left", sh.most, len(sh.files))
			}
		})
	}
}

// While one snapshot is being installed, which may take as long as the disk does, others are
// received, but not more than two are kept: leaders may change, and each sends its own.
func TestSnapshotsThatWaitForAnInstall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := &shelf{}
		k := newKeeper(t, replicationtest.NewState())
		k.core.staging.spool = sh
		in, err := k.core.begin()
		if err != nil {
			t.Fatal(err)
		}
		in.life.Go(func() { in.serve(in.ctx) }) // nobody applies: the first install never ends
		k.core.instance.Store(in)
		data := bytes.Repeat([]byte("a shard"), 700_000)
		for i, from := range []fulcrum.NodeID{"b", "c", "d", "e", "c", "d"} {
			var last []byte
			for _, c := range chunks(uint64(10+i), data) {
				c.term, c.meta = uint64(10+i), virtualSnapshot([]fulcrum.NodeID{"a"})
				if last, err = k.core.handle(t.Context(), from, c.encode()); err != nil {
					break
				}
			}
			refused := err != nil && fulcrum.AsError(err).Code == fulcrum.CodeOverloaded
			if want := from == "e"; refused != want || !refused && err != nil {
				t.Errorf("the snapshot of %s: %v, want it refused: %v", from, err, want)
			}
			if reply, _, _ := decodeReply(last); err == nil && (reply.OK || reply.Last != installing) {
				t.Errorf("the answer to %s is %+v, want that it waits", from, reply)
			}
		}
		if sh.most > 3 {
			t.Errorf("%d snapshots were kept at once, want one that is being installed and two others", sh.most)
		}
		in.cut()
		in.life.Wait()
		k.core.staging.clear()
		if len(sh.files) > 0 {
			t.Errorf("%d files are left", len(sh.files))
		}
	})
}

// What a disk damages between the receipt and the install is not installed.
func TestInstallRefusesASpoolThatWasDamaged(t *testing.T) {
	source := replicationtest.NewState()
	for i := range 200 {
		e := fulcrum.Entry{Key: fmt.Appendf(nil, "%03d", i), Value: bytes.Repeat([]byte("v"), 10_000), Version: fulcrum.Version{Time: 1, Actor: 1}}
		if err := source.Apply(uint64(i+1), []fulcrum.Entry{e}, nil); err != nil {
			t.Fatal(err)
		}
	}
	from := newKeeper(t, source)
	sh := &shelf{}
	from.core.env.Spool = sh
	m := snapshotMeta{Index: 200, Term: 2}
	_, stream, err := from.open(m)
	if err != nil {
		t.Fatal(err)
	}
	s := newSpooled(sh)
	if _, err := io.Copy(s, stream); err != nil {
		t.Fatal(err)
	}
	if len(sh.files) != 1 {
		t.Fatalf("%d files", len(sh.files))
	}
	for b := range sh.files {
		b.Bytes()[1_500_000] ^= 1 // inside of a value: it decodes
	}
	state := replicationtest.NewState()
	k := newKeeper(t, state)
	if err := k.install(m, s.read()); !errors.Is(err, errSpoolDamaged) {
		t.Errorf("install: %v", err)
	}
	if state.Applied() != 0 || len(state.Dump()) > 0 {
		t.Errorf("%d entries at %d after a refused install", len(state.Dump()), state.Applied())
	}
	for b := range sh.files {
		b.Bytes()[1_500_000] ^= 1
	}
	if err := k.install(m, s.read()); err != nil || len(state.Dump()) != 200 {
		t.Errorf("install of what is whole: %v, %d entries", err, len(state.Dump()))
	}
}

// A log is not cut where a peer will go on, but neither for ever nor without bound.
func TestHoldsOfTheLog(t *testing.T) {
	c, err := openCore(replication.Env{Node: "n", Log: replicationtest.NewLog()}, Tuning{HoldBytes: 1 << 20}, NewRounds())
	if err != nil {
		t.Fatal(err)
	}
	s := c.store
	fill := func(n, size int) {
		for range n {
			keep(t, s, entryOf(s.Last()+1, size))
		}
		s.snapshotTaken(position{s.Last(), 1})
	}
	cut := func() uint64 {
		if err := s.compact(s.Last()); err != nil {
			t.Fatal(err)
		}
		return s.First()
	}
	fill(100, 10)
	s.holdFor("b", 40)
	if first := cut(); first != 40 {
		t.Errorf("the log begins at %d, want 40: b is being sent a snapshot at 40", first)
	}
	s.sent("b")
	s.caughtUp("b", 70, 8)
	if first := cut(); first != 70 {
		t.Errorf("the log begins at %d, want 70: b is at 70", first)
	}
	s.caughtUp("b", 98, 8)
	if first := cut(); first != 100 {
		t.Errorf("the log begins at %d, want 100: b has caught up", first)
	}
	fill(10, 10)
	s.holdFor("b", 100)
	fill(30, 60_000)
	if first := cut(); first != 140 {
		t.Errorf("the log begins at %d, want 140: b is too slow", first)
	}
	fill(10, 10)
	s.holdFor("b", 140)
	s.sent("b")
	s.holds.by["b"].moved = time.Now().Add(-2 * holdIdle)
	if first := cut(); first != 150 {
		t.Errorf("the log begins at %d, want 150: b is gone", first)
	}
}

// However often a snapshot is sent to a peer that does not take it, nothing is left of that.
func TestHoldsEndWithTheirTransfers(t *testing.T) {
	c, err := openCore(replication.Env{Node: "n", Log: replicationtest.NewLog()}, Tuning{}, NewRounds())
	if err != nil {
		t.Fatal(err)
	}
	keep(t, c.store, entryOf(1, 10))
	for range 100 {
		release := c.store.holdOpen(1)
		c.store.holdFor("b", 1)
		release()
		c.store.sent("b")
	}
	if n := len(c.store.holds.by); n != 1 {
		t.Errorf("%d holds after 100 transfers to one peer, want one, which the peer has a moment to use", n)
	}
}

func entryOf(index uint64, size int) protocol.Entry {
	return protocol.Entry{Index: index, Term: 1, Data: make([]byte, size)}
}
