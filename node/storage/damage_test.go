package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// filled makes a store with states of groups 1 to 4, of many pages each, and closes it.
func filled(t *testing.T, o Options) {
	s := open(t, o)
	for g := fulcrum.GroupID(1); g <= 4; g++ {
		var entries []fulcrum.Entry
		for i := range 400 {
			entries = append(entries, entry(fmt.Sprintf("key-%04d", i), fmt.Sprintf("group %d value %d %s", g, i, strings.Repeat("x", 100)), 1))
		}
		must(t, mustState(t, s, g, "").Apply(7, entries, map[string][]byte{"extra": {byte(g)}, "piece#1": {byte(g), 1}}))
		must(t, mustState(t, s, g, "hints").Apply(3, entries[:1], nil))
		must(t, mustLog(t, s, g, 1, Fsync).Append(1, [][]byte{{byte(g)}}))
	}
	must(t, mustState(t, s, 1, "").Flush(t.Context()), s.Close())
}

// wantGroup checks that a group has everything that filled gave it.
func wantGroup(t *testing.T, s *Store, g fulcrum.GroupID) {
	t.Helper()
	st := mustState(t, s, g, "")
	extra, err1 := st.Extra("extra")
	piece, err2 := st.Extra("piece#1")
	must(t, err1, err2)
	e, err := st.Get([]byte("key-0399"))
	must(t, err)
	if st.Applied() != 7 || st.Keys() != 400 || !bytes.Equal(extra, []byte{byte(g)}) || !bytes.Equal(piece, []byte{byte(g), 1}) ||
		!strings.HasPrefix(string(e.Value), fmt.Sprintf("group %d value 399 ", g)) || mustState(t, s, g, "hints").Keys() != 1 {
		t.Errorf("group %d stands at %d with %d keys, extras %v %v, the last value is %.20q", g, st.Applied(), st.Keys(), extra, piece, e.Value)
	}
}

// wantNothing checks that nothing is left of the state of a group.
func wantNothing(t *testing.T, s *Store, g fulcrum.GroupID) {
	t.Helper()
	for _, part := range []string{"", "hints"} {
		if st := mustState(t, s, g, part); st.Applied() != 0 || st.Keys() != 0 {
			t.Errorf("group %d, part %q, stands at %d with %d keys", g, part, st.Applied(), st.Keys())
		}
	}
}

// patchState changes the engine's file where a text stands in it.
func patchState(t *testing.T, dir, text string, change func(b []byte, at int) []byte) {
	t.Helper()
	path := filepath.Join(dir, stateFile)
	b, err := os.ReadFile(path)
	must(t, err)
	at := bytes.Index(b, []byte(text))
	if at < 0 {
		t.Fatalf("%q is not in the file", text)
	}
	must(t, os.WriteFile(path, change(b, at), 0o600))
}

func flipAt(b []byte, at int) []byte { b[at+3] ^= 4; return b }

// TestDamageOfOneGroupLeavesTheOthers: a flipped bit, a page of garbage, and a branch that
// points elsewhere cost the group that they hit, and nothing else.
func TestDamageOfOneGroupLeavesTheOthers(t *testing.T) {
	const page = 4096
	for name, change := range map[string]func(b []byte, at int) []byte{
		"a flipped bit":      flipAt,
		"a page of garbage":  func(b []byte, at int) []byte { copy(b[at/page*page:], bytes.Repeat([]byte{0xa5}, page)); return b },
		"a page of zeros":    func(b []byte, at int) []byte { clear(b[at/page*page : at/page*page+page]); return b },
		"another page of it": func(b []byte, at int) []byte { copy(b[at/page*page:], b[(at/page+1)*page:(at/page+2)*page]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir(), vfs.NewMem())
			filled(t, o)
			patchState(t, o.Dir, "group 2 value 200 ", change)
			for life := range 3 { // the mark outlives restarts
				s := open(t, o)
				d, ok := s.Damage(2)
				if ds := s.Damages(); !ok || len(ds) != 1 || ds[0] != d || d.Group != 2 || d.ID == "" || !strings.Contains(d.Why, stateFile+": damaged at offset ") {
					t.Fatalf("life %d: damages %+v", life, ds)
				}
				wantNothing(t, s, 2)
				for _, g := range []fulcrum.GroupID{1, 3, 4} {
					wantGroup(t, s, g)
				}
				must(t, mustState(t, s, 3, "").Rebase(7, nil), s.Close())
				if _, err := os.Stat(filepath.Join(o.Dir, damagedFile)); err != nil {
					t.Errorf("life %d: the damaged file is not kept: %v", life, err)
				}
			}
			s := open(t, o)
			must(t, s.ForgetDamage(2))
			if _, err := os.Stat(filepath.Join(o.Dir, damagedFile)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the damaged file is still there: %v", err)
			}
			must(t, s.Close())
			if ds := open(t, o).Damages(); len(ds) > 0 {
				t.Errorf("forgotten, and there is %+v", ds)
			}
		})
	}
}

// TestEachDamagedFileIsKept: the first may hold what nobody else has, and the second, which
// is a copy without that, must not take its place.
func TestEachDamagedFileIsKept(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	filled(t, o)
	kept := func() (found []string) {
		names, err := filepath.Glob(filepath.Join(o.Dir, damagedFile) + "*")
		must(t, err)
		for _, name := range names {
			b, err := os.ReadFile(name)
			must(t, err)
			for _, text := range []string{"group 2 value 100 ", "group 3 value 100 "} {
				if bytes.Contains(b, []byte(text)) {
					found = append(found, filepath.Base(name)+": "+text)
				}
			}
		}
		return found
	}
	patchState(t, o.Dir, "group 2 value 200 ", flipAt)
	must(t, open(t, o).Close())
	patchState(t, o.Dir, "group 3 value 200 ", flipAt)
	must(t, open(t, o).Close())
	want := []string{damagedFile + ": group 2 value 100 ", damagedFile + ": group 3 value 100 ", damagedFile + ".2: group 3 value 100 "}
	if got := kept(); !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
	s := open(t, o)
	must(t, s.ForgetDamage(2))
	if got := kept(); len(got) != 3 {
		t.Errorf("group 3 is still damaged, and kept are only %q", got)
	}
	must(t, s.ForgetDamage(3))
	if got := kept(); len(got) > 0 {
		t.Errorf("nothing is damaged any more, and kept are %q", got)
	}
}

// TestATruncatedEngineFile keeps what is left whole, or is refused.
func TestATruncatedEngineFile(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	filled(t, o)
	s := open(t, o)
	for range 4 { // small commits take the first free pages
		must(t, mustState(t, s, 1, "").Rebase(7, nil))
	}
	must(t, s.Close())
	im := take(t, o.LogFS, o.Dir)
	whole := im.data[stateFile]
	partly := 0
	for _, percent := range []int{99, 95, 90, 80, 70, 50, 30, 10, 1, 0} {
		im.data[stateFile] = whole[:len(whole)*percent/100]
		s, err := im.reopen(t)
		if err != nil {
			if !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(err.Error(), stateFile) {
				t.Errorf("%d %%: refused without saying what: %v", percent, err)
			}
			continue
		}
		if len(s.Damages()) > 0 {
			partly++
		}
		for g := fulcrum.GroupID(1); g <= 4; g++ {
			if _, damaged := s.Damage(g); damaged {
				wantNothing(t, s, g)
			} else {
				wantGroup(t, s, g)
			}
		}
		must(t, s.Close())
	}
	if partly == 0 {
		t.Error("no length left some groups whole: does the test still show anything?")
	}
}

// whereabouts says which pages of the engine's file which group has, and which all need.
func whereabouts(t *testing.T, path string) (of map[fulcrum.GroupID][]uint64, all []uint64, v *boltFile) {
	of = map[fulcrum.GroupID][]uint64{}
	must(t, mapBolt(path, func(m *boltFile) error {
		v = m
		root, err := v.meta()
		must(t, err)
		v.used = make([]uint64, v.high/64+1)
		buckets := map[uint64]bool{}
		must(t, v.tree(subtree{root: root}, func(e element) error {
			before := len(v.taken)
			err := v.entries(e, func(element) error { return nil })
			if g, ok := groupOf(string(e.key)); ok {
				of[g] = append(of[g], v.taken[before:]...)
				for _, n := range v.taken[before:] {
					buckets[n] = true
				}
			}
			return err
		}))
		all = []uint64{0, 1}
		for _, n := range v.taken {
			if !buckets[n] {
				all = append(all, n)
			}
		}
		return nil
	}))
	return of, all, v
}

// TestACutCostsThoseThatLoseAPage cuts the engine's file off at and within each of its pages, however they
// lie: a group is damaged if and only if one of its pages is gone, and the file is refused if and
// only if one is gone that all need.
func TestACutCostsThoseThatLoseAPage(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	filled(t, o)
	path := filepath.Join(o.Dir, stateFile)
	partly, refused := 0, 0
	for life := range 4 { // pages lie elsewhere in each
		s := open(t, o)
		for range life {
			must(t, mustState(t, s, fulcrum.GroupID(life), "").Rebase(7, nil))
		}
		must(t, s.Close())
		im := take(t, o.LogFS, o.Dir)
		whole := im.data[stateFile]
		of, all, v := whereabouts(t, path)
		lost := func(pages []uint64, length int) bool {
			return slices.ContainsFunc(pages, func(n uint64) bool { return (int(n)+1)*v.pageSize > length })
		}
		for n := range int(v.high) + 2 {
			length := n*v.pageSize + n%3*77
			im.data[stateFile] = whole[:length]
			what := fmt.Sprintf("life %d, %d bytes of %d pages", life, length, v.high)
			s, err := im.reopen(t)
			if lost(all, length) {
				refused++
				if !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(err.Error(), stateFile) {
					t.Fatalf("%s: not refused, or without saying what: %v", what, err)
				}
				continue
			}
			must(t, err)
			partly += min(len(s.Damages()), 1)
			for g := fulcrum.GroupID(1); g <= 4; g++ {
				_, damaged := s.Damage(g)
				if damaged != lost(of[g], length) {
					t.Fatalf("%s: group %d is damaged: %v", what, g, damaged)
				}
				if damaged {
					wantNothing(t, s, g)
				} else {
					wantGroup(t, s, g)
				}
			}
			checkFree(t, s.bolt)
			must(t, s.Close())
		}
	}
	t.Logf("%d cuts were refused, %d cost some groups", refused, partly)
	if partly == 0 || refused == 0 {
		t.Error("the test does not show anything any more")
	}
}

// TestDamagedStandings: where a state stands, and its pieces, are in one bucket with all
// others'.
func TestDamagedStandings(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	filled(t, o)
	patchState(t, o.Dir, string(sealed(stateKey{3, ""}.pieceKey("piece#1"), []byte{3, 1})), func(b []byte, at int) []byte { b[at+5] ^= 1; return b })
	s := open(t, o)
	if _, ok := s.Damage(3); !ok || len(s.Damages()) != 1 {
		t.Fatalf("damages %+v", s.Damages())
	}
	wantNothing(t, s, 3)
	for _, g := range []fulcrum.GroupID{1, 2, 4} {
		wantGroup(t, s, g)
	}
}

// TestDamageThatNoPeerCanMendIsRefused
func TestDamageThatNoPeerCanMendIsRefused(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	filled(t, o)
	patchState(t, o.Dir, "group 2 value 200 ", flipAt)
	before, err := os.ReadFile(filepath.Join(o.Dir, stateFile))
	must(t, err)
	o.Vital = []fulcrum.GroupID{2}
	if _, err := Open(o); !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(err.Error(), stateFile) || !strings.Contains(err.Error(), "wipe") {
		t.Errorf("a store without what only it has: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(o.Dir, stateFile)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the refused file was changed, %v", err)
	}
}

// TestADamagedRecordMarksItsGroup, unless it is there after all, or gone for good.
func TestADamagedRecordMarksItsGroup(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	o.Vital = []fulcrum.GroupID{1}
	s := open(t, o)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	logs := map[fulcrum.GroupID]*groupLog{}
	for g := fulcrum.GroupID(1); g <= 5; g++ {
		logs[g] = mustLog(t, s, g, 1, Fsync).(*groupLog)
		must(t, logs[g].Append(1, [][]byte{[]byte("one"), []byte("two")}))
	}
	must(t, s.db.Set(logs[2].key.record(2), []byte("garbage"), pebble.Sync), s.db.Delete(logs[3].key.record(2), pebble.Sync),
		s.db.Set(logs[1].key.record(2), []byte("garbage"), pebble.Sync))
	must(t, s.DropLog(5, 1))
	for _, h := range []hurtLog{{logs[4], 1, errSum}, {logs[4], 9, errGap}, {logs[5], 1, errGap}} {
		s.hurt(h)
		must(t, s.markHurt())
	}
	for _, g := range []fulcrum.GroupID{1, 2, 3} {
		if _, err := logs[g].Get(2); !errors.Is(err, ErrDamaged) || !errors.Is(err, fulcrum.ErrDisk) {
			t.Errorf("group %d: %v", g, err)
		}
		for g != 1 {
			<-s.Damaged()
			if _, ok := s.Damage(g); ok {
				break
			}
		}
	}
	stop()
	must(t, <-ran)
	first := s.Damages()
	must(t, s.Close())
	s = open(t, o)
	if ds := s.Damages(); len(ds) != 2 || ds[0].Group != 2 || ds[1].Group != 3 || ds[0] != first[0] {
		t.Errorf("damages %+v, were %+v", ds, first)
	}
}
