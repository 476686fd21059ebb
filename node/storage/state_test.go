package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/replication"
)

// modelState is what a state must hold: a map for each position, so that a crash
// can be checked against the one it went back to.
type modelState struct {
	at      uint64
	entries map[string]fulcrum.Entry
	extra   map[string]string
	history map[uint64]modelState
}

func newModelState() *modelState {
	m := &modelState{entries: map[string]fulcrum.Entry{}, extra: map[string]string{}}
	m.forget()
	return m
}

// forget makes the present the only position to go back to.
func (m *modelState) forget() {
	m.history = map[uint64]modelState{}
	m.remember()
}

func (m *modelState) remember() {
	m.history[m.at] = modelState{at: m.at, entries: maps.Clone(m.entries), extra: maps.Clone(m.extra)}
}

func (m *modelState) goBack(at uint64) bool {
	was, ok := m.history[at]
	if ok {
		m.at, m.entries, m.extra = was.at, maps.Clone(was.entries), maps.Clone(was.extra)
		m.forget()
	}
	return ok
}

func (m *modelState) put(e fulcrum.Entry) {
	if removal(e) {
		delete(m.entries, string(e.Key))
	} else {
		m.entries[string(e.Key)] = e
	}
}

func (m *modelState) scan(start, end []byte) []fulcrum.Entry {
	var list []fulcrum.Entry
	for _, k := range slices.Sorted(maps.Keys(m.entries)) {
		if k >= string(start) && (end == nil || k < string(end)) {
			list = append(list, m.entries[k])
		}
	}
	return list
}

func equal(a, b fulcrum.Entry) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.Version == b.Version && a.Tombstone == b.Tombstone && a.ExpireAt == b.ExpireAt
}

type scanner interface {
	Scan(start, end []byte, f func(fulcrum.Entry) bool) error
}

// sameScan compares a scan, whole and cut short, with the model.
func (m *modelState) sameScan(sc scanner, start, end []byte) error {
	want := m.scan(start, end)
	for _, limit := range []int{len(want) + 1, 2} {
		var got []fulcrum.Entry
		err := sc.Scan(start, end, func(e fulcrum.Entry) bool {
			got = append(got, e)
			return len(got) < limit
		})
		if err != nil {
			return err
		}
		if !slices.EqualFunc(got, want[:min(limit, len(want))], equal) {
			return fmt.Errorf("scan %q..%q gives %v, want %v", start, end, got, want)
		}
	}
	return nil
}

var keyGen = rapid.Custom(func(t *rapid.T) []byte {
	return []byte(rapid.StringOfN(rapid.RuneFrom([]rune("ab\x00")), 1, 3, -1).Draw(t, "key"))
})

var entryGen = rapid.Custom(func(t *rapid.T) fulcrum.Entry {
	e := fulcrum.Entry{Key: keyGen.Draw(t, "key")}
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0: // a removal
		return e
	case 1:
		e.Tombstone = true
	default:
		e.Value = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "value")
	}
	e.Version = fulcrum.Version{Time: rapid.Uint64Range(1, 1<<60).Draw(t, "time"), Actor: rapid.Uint32().Draw(t, "actor")}
	e.ExpireAt = rapid.Int64Range(-1, 1<<50).Draw(t, "expiry")
	return e
})

var extraNames = []string{"x", "y", "p" + replication.PieceMark + "1", "p" + replication.PieceMark + "2"}

// extraGen draws extras; an empty value removes one.
var extraGen = rapid.MapOfN(rapid.SampledFrom(extraNames), rapid.StringN(0, 4, 8), 0, 3)

func asBytes(extra map[string]string) map[string][]byte {
	m := map[string][]byte{}
	for k, v := range extra {
		m[k] = nil
		if v != "" {
			m[k] = []byte(v)
		}
	}
	return m
}

func (m *modelState) setExtra(extra map[string]string) {
	maps.Copy(m.extra, extra)
	maps.DeleteFunc(m.extra, func(_, v string) bool { return v == "" })
}

// TestStateIsAMap runs random changes on states of one store against maps, with
// views held across them, across restarts, and across crashes, which must leave
// each state whole at a position no older than the durable one.
func TestStateIsAMap(t *testing.T) {
	dir := t.TempDir()
	run := 0
	errFill := errors.New("the sender went away")
	rapid.Check(t, func(t *rapid.T) {
		run++
		opts := options(fmt.Sprintf("%s/%d", dir, run), vfs.NewMem())
		ok := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(opts)
		ok(err)
		defer func() { s.Abandon() }()
		keys := []stateKey{{1, ""}, {1, "hints"}, {2, ""}}
		models := []*modelState{newModelState(), newModelState(), newModelState()}
		states := make([]replication.State, len(keys))
		bind := func() {
			for i, k := range keys {
				states[i], err = s.State(k.group, k.part)
				ok(err)
			}
		}
		bind()
		type held struct {
			v    replication.View
			want modelState
		}
		var views []held
		closeViews := func() {
			for _, h := range views {
				ok(h.v.Close())
			}
			views = nil
		}
		pick := func(t *rapid.T) (*modelState, replication.State) {
			i := rapid.IntRange(0, len(keys)-1).Draw(t, "state")
			return models[i], states[i]
		}
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				m, st := pick(t)
				entries := rapid.SliceOfN(entryGen, 0, 4).Draw(t, "entries")
				extra := extraGen.Draw(t, "extra")
				m.at++
				ok(st.Apply(m.at, entries, asBytes(extra)))
				for _, e := range entries {
					m.put(e)
				}
				m.setExtra(extra)
				m.remember()
				if err := st.Apply(m.at-1, nil, nil); err == nil {
					t.Fatal("the applied position went back")
				}
			},
			"flush": func(t *rapid.T) {
				m, st := pick(t)
				ok(st.Flush(t.Context()))
				if st.Durable() != m.at {
					t.Fatalf("durable %d after a flush at %d", st.Durable(), m.at)
				}
			},
			"view": func(t *rapid.T) {
				m, st := pick(t)
				v, err := st.View()
				ok(err)
				views = append(views, held{v, m.history[m.at]})
			},
			"install": func(t *rapid.T) {
				m, st := pick(t)
				entries := rapid.SliceOfN(entryGen, 0, 6).Draw(t, "entries")
				extra := extraGen.Draw(t, "extra")
				at := rapid.Uint64Range(0, 30).Draw(t, "index")
				fails := rapid.Bool().Draw(t, "interrupted")
				err := st.Install(at, asBytes(extra), func(put func(fulcrum.Entry) error) error {
					buf := make([]byte, 0, 64)
					for _, e := range entries {
						buf = append(append(buf[:0], e.Key...), e.Value...) // put must not keep it
						e.Key, e.Value = buf[:len(e.Key)], buf[len(e.Key):]
						if err := put(e); err != nil {
							return err
						}
					}
					if fails {
						return errFill
					}
					return nil
				})
				if fails {
					if !errors.Is(err, errFill) {
						t.Fatalf("interrupted install: %v", err)
					}
					return
				}
				ok(err)
				m.at, m.entries, m.extra = at, map[string]fulcrum.Entry{}, map[string]string{}
				m.setExtra(extra)
				for _, e := range entries {
					m.put(e)
				}
				m.forget()
			},
			"rebase": func(t *rapid.T) {
				m, st := pick(t)
				m.at = rapid.Uint64Range(0, 30).Draw(t, "index")
				extra := extraGen.Draw(t, "extra")
				ok(st.Rebase(m.at, asBytes(extra)))
				m.setExtra(extra)
				m.forget()
			},
			"drop group 1": func(t *rapid.T) {
				closeViews()
				old := states[0]
				ok(s.DropState(1))
				if _, err := old.Get([]byte("a")); !errors.Is(err, fulcrum.ErrEpoch) {
					t.Fatalf("get from a dropped state: %v", err)
				}
				models[0], models[1] = newModelState(), newModelState()
				bind()
			},
			"restart": func(t *rapid.T) {
				closeViews()
				ok(s.Close())
				s, err = Open(opts)
				ok(err)
				bind()
				for i, m := range models {
					if states[i].Durable() != m.at {
						t.Fatalf("state %v reopened at %d, want %d", keys[i], states[i].Durable(), m.at)
					}
					if want := int64(size(m)); states[i].Keys() != len(m.entries) || states[i].Bytes() != want {
						t.Fatalf("%d keys, %d bytes; want %d, %d", states[i].Keys(), states[i].Bytes(), len(m.entries), want)
					}
					m.forget()
				}
			},
			"crash": func(t *rapid.T) {
				closeViews()
				var durable []uint64
				for _, st := range states {
					durable = append(durable, st.Durable())
				}
				ok(s.Abandon())
				s, err = Open(opts)
				ok(err)
				bind()
				for i, m := range models {
					if at := states[i].Applied(); at != durable[i] || states[i].Durable() != at || !m.goBack(at) {
						t.Fatalf("state %v is at %d after the crash, was durable at %d", keys[i], at, durable[i])
					}
				}
			},
			"": func(t *rapid.T) {
				for i, m := range models {
					ok(m.same(t, states[i]))
				}
				for _, h := range views {
					if h.v.Index() != h.want.at || !maps.EqualFunc(h.v.Extra(), asBytes(h.want.extra), bytes.Equal) {
						t.Fatalf("view at %d with %q, want %d with %q", h.v.Index(), h.v.Extra(), h.want.at, h.want.extra)
					}
					ok(h.want.sameScan(h.v, nil, nil))
				}
				for i, k := range keys {
					if k.part != "" {
						continue
					}
					n, b, err := s.Count(k.group)
					ok(err)
					if m := models[i]; n != len(m.entries) || b != int64(size(m)) {
						t.Fatalf("group %d: counted %d keys, %d bytes; want %d, %d", k.group, n, b, len(m.entries), size(m))
					}
				}
			},
		})
		closeViews()
	})
}

func size(m *modelState) (n int) {
	for k, e := range m.entries {
		n += len(k) + len(e.Value)
	}
	return n
}

func (m *modelState) same(t *rapid.T, st replication.State) error {
	if st.Applied() != m.at {
		return fmt.Errorf("applied %d, want %d", st.Applied(), m.at)
	}
	key := keyGen.Draw(t, "key")
	e, err := st.Get(key)
	if err != nil || !equal(e, m.entries[string(key)]) {
		return fmt.Errorf("get %q gives %+v, %v; want %+v", key, e, err, m.entries[string(key)])
	}
	keys := append(rapid.SliceOfN(keyGen, 0, 6).Draw(t, "keys"), key)
	all, err := st.GetFirst(keys, math.MaxInt)
	if err != nil || len(all) != len(keys) {
		return fmt.Errorf("get of %q gives %d entries, %v", keys, len(all), err)
	}
	for i, e := range all {
		if want := m.entries[string(keys[i])]; !equal(e, want) {
			return fmt.Errorf("get of %q gives %+v at %d; want %+v", keys, e, i, want)
		}
	}
	for _, name := range extraNames {
		if b, err := st.Extra(name); err != nil || string(b) != m.extra[name] {
			return fmt.Errorf("extra %s is %q, %v; want %q", name, b, err, m.extra[name])
		}
	}
	var end []byte
	if rapid.Bool().Draw(t, "bounded") {
		end = keyGen.Draw(t, "end")
	}
	return m.sameScan(st, key, end)
}

// TestPictureIsConsistent writes two keys in each step while commits run all the
// time: whoever looks must find both at the position that the picture claims.
func TestPictureIsConsistent(t *testing.T) {
	opts := options(t.TempDir(), vfs.NewMem())
	opts.CommitEvery = time.Microsecond
	s := open(t, opts)
	st := mustState(t, s, 1, "")
	ctx, cancel := context.WithCancel(t.Context())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Run(ctx) })
	for range 2 {
		g.Go(func() error {
			for ctx.Err() == nil {
				if err := lookOnce(st); err != nil {
					return err
				}
			}
			return nil
		})
	}
	commits, durable := 0, uint64(0)
	for i := uint64(1); commits < 200 && ctx.Err() == nil; i++ {
		must(t, st.Apply(i, []fulcrum.Entry{entry("a", "", i), entry("b", "", i)}, nil))
		if now := st.Durable(); now != durable {
			commits, durable = commits+1, now
		}
	}
	cancel()
	must(t, g.Wait())
}

func lookOnce(st replication.State) error {
	before := st.Applied()
	e, err := st.Get([]byte("b"))
	if err != nil || e.Version.Time < before {
		return fmt.Errorf("get at position %d gives version %d, %v", before, e.Version.Time, err)
	}
	v, err := st.View()
	if err != nil {
		return err
	}
	defer v.Close()
	n := 0
	err = v.Scan(nil, nil, func(e fulcrum.Entry) bool {
		n++
		return e.Version.Time == v.Index()
	})
	if err == nil && n != 2 && v.Index() > 0 {
		err = fmt.Errorf("view at %d shows %d keys of that position, want 2", v.Index(), n)
	}
	return err
}

func TestInstallInterruptedByACrashLeavesTheOldState(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	s := open(t, o)
	st := mustState(t, s, 1, "")
	must(t, st.Apply(4, []fulcrum.Entry{entry("old", "v", 1)}, nil))
	must(t, st.Flush(t.Context()))
	copyOf := t.TempDir()
	err := st.Install(9, nil, func(put func(fulcrum.Entry) error) error {
		for i := range 2*installEntries + 10 {
			if err := put(entry(fmt.Sprintf("new%d", i), "v", 2)); err != nil {
				return err
			}
		}
		// Two transactions are on disk; the power goes now.
		for _, name := range []string{stateFile, identityFile} {
			b, err := os.ReadFile(filepath.Join(o.Dir, name))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(copyOf, name), b, 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	if st.Applied() != 9 || st.Durable() != 9 || st.Keys() != 2*installEntries+10 {
		t.Errorf("installed at %d, durable %d, %d keys", st.Applied(), st.Durable(), st.Keys())
	}
	if e, err := st.Get([]byte("old")); err != nil || e.Key != nil {
		t.Errorf("the old state shows through: %+v, %v", e, err)
	}

	crashed := open(t, options(copyOf, vfs.NewMem()))
	st = mustState(t, crashed, 1, "")
	var got []string
	must(t, st.Scan(nil, nil, func(e fulcrum.Entry) bool { got = append(got, string(e.Key)); return true }))
	if st.Applied() != 4 || !slices.Equal(got, []string{"old"}) {
		t.Errorf("after the crash: position %d, keys %q", st.Applied(), got)
	}
	if n := buckets(t, crashed); n != 1 {
		t.Errorf("%d buckets of entries after the crash, want 1: the rest of the install must go", n)
	}
	if n := buckets(t, s); n != 1 {
		t.Errorf("%d buckets of entries after the install, want 1: the old state must go", n)
	}
}

func TestDamagedValueIsRefused(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	s := open(t, o)
	st := mustState(t, s, 6, "")
	must(t, st.Apply(1, []fulcrum.Entry{entry("apple", "needle-in-a-haystack", 1), entry("pear", "fine", 1)}, nil))
	must(t, st.Flush(t.Context()))
	path := filepath.Join(o.Dir, stateFile)
	b, err := os.ReadFile(path)
	must(t, err)
	if n := bytes.Count(b, []byte("needle")); n != 1 {
		t.Fatalf("the value is in the file %d times", n)
	}
	at := bytes.Index(b, []byte("needle"))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{b[at] ^ 4}, int64(at))
	must(t, err, f.Close())

	e, err := st.Get([]byte("apple"))
	_, aerr := st.GetFirst([][]byte{[]byte("pear"), []byte("apple"), []byte("plum")}, math.MaxInt)
	serr := st.Scan(nil, nil, func(fulcrum.Entry) bool { return true })
	for _, err := range []error{err, aerr, serr} {
		if !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(err.Error(), `"apple" of group 6 in `+path) {
			t.Errorf("error %v, entry %+v", err, e)
		}
	}
	if e, err := st.Get([]byte("pear")); err != nil || string(e.Value) != "fine" {
		t.Errorf("the other key: %+v, %v", e, err)
	}
	select {
	case <-s.Spoilt():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed that the file is damaged")
	}
	must(t, st.Apply(2, []fulcrum.Entry{entry("pear", "newer", 2)}, nil))
	if err := st.Flush(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("the damaged file was written to: %v", err)
	}
	if e, err := st.Get([]byte("pear")); err != nil || string(e.Value) != "newer" {
		t.Errorf("what is applied and not committed: %+v, %v", e, err)
	}
}

func TestApplyRefusesKeysThatTheEngineCannotHold(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	st := mustState(t, s, 1, "")
	for _, key := range []string{"", strings.Repeat("k", 40000)} {
		if err := st.Apply(1, []fulcrum.Entry{entry("good", "", 1), entry(key, "", 1)}, nil); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("a key of %d bytes: %v", len(key), err)
		}
	}
	if st.Applied() != 0 || st.Keys() != 0 {
		t.Errorf("a refused apply left %d keys at %d", st.Keys(), st.Applied())
	}
}

// TestOverlayIsBounded applies more than the bound without Run: the applier must
// commit by itself, and go on.
func TestOverlayIsBounded(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	st := mustState(t, s, 1, "")
	big := string(bytes.Repeat([]byte("v"), 8<<20))
	for i := uint64(1); i <= 12; i++ {
		must(t, st.Apply(i, []fulcrum.Entry{entry("k", big, i)}, nil))
		if n := s.overlayBytes.Load(); n > overlayLimit+9<<20 {
			t.Fatalf("%d bytes wait for the engine, the limit is %d", n, overlayLimit)
		}
	}
	if st.Durable() == 0 {
		t.Error("nothing was committed")
	}
}

// buckets counts the buckets that hold entries.
func buckets(t *testing.T, s *Store) (n int) {
	t.Helper()
	must(t, s.bolt.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if name[0] == 'e' {
				n++
			}
			return nil
		})
	}))
	return n
}
