package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/replication"
)

// modelLog is what a log must hold. Records at first-1 and below may or may not
// still be on disk.
type modelLog struct {
	first   uint64
	records map[uint64]string // everything appended since the last Reset or truncation
	last    uint64
	meta    map[string]string
}

func newModelLog() *modelLog {
	return &modelLog{first: 1, records: map[uint64]string{}, meta: map[string]string{}}
}

// check compares every observable thing.
func (m *modelLog) check(t *rapid.T, l replication.Log) {
	wantFirst := m.first
	if m.last == 0 {
		wantFirst = 0
	}
	if l.First() != wantFirst || l.Last() != m.last {
		t.Fatalf("log is %d..%d, want %d..%d", l.First(), l.Last(), wantFirst, m.last)
	}
	next := m.first
	if m.last >= m.first {
		err := l.Range(m.first, m.last, func(i uint64, r []byte) error {
			if i != next || string(r) != m.records[i] {
				return fmt.Errorf("range gives %d %q, want %d %q", i, r, next, m.records[i])
			}
			next++
			return nil
		})
		if err != nil || next != m.last+1 {
			t.Fatalf("range %d..%d stopped at %d: %v", m.first, m.last, next, err)
		}
	}
	for _, i := range []uint64{0, m.first - 1, m.last + 1} {
		if _, err := l.Get(i); !errors.Is(err, replication.ErrNoRecord) {
			t.Fatalf("get %d of %d..%d: %v, want ErrNoRecord", i, m.first, m.last, err)
		}
	}
	for k, want := range m.meta {
		if b, err := l.Meta(k); err != nil || string(b) != want {
			t.Fatalf("meta %s: %q, %v; want %q", k, b, err, want)
		}
	}
}

// TestLogIsASlice runs random changes on three logs of one store against slices,
// across clean restarts and crashes that lose all unsynced data, or a random part.
func TestLogIsASlice(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		fs := vfs.NewCrashableMem()
		at := func(life int) string { return fmt.Sprintf("%s/%d-%d", dir, run, life) }
		life := 0
		openNow := func() *Store {
			s, err := Open(options(at(life), fs))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := openNow()
		defer func() { s.Abandon() }()
		keys := []logKey{{1, 1}, {1, 2}, {2, 1}}
		models := []*modelLog{newModelLog(), newModelLog(), newModelLog()}
		logs := make([]replication.Log, len(keys))
		bind := func() {
			for i, k := range keys {
				l, err := s.Log(k.group, k.epoch, Fsync)
				if err != nil {
					t.Fatal(err)
				}
				logs[i] = l
			}
		}
		bind()
		ok := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		pick := func(t *rapid.T) (*modelLog, replication.Log, int) {
			i := rapid.IntRange(0, len(keys)-1).Draw(t, "log")
			return models[i], logs[i], i
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				m, l, _ := pick(t)
				records := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 40), 1, 5).Draw(t, "records")
				add := l.Append
				if rapid.Bool().Draw(t, "begin") {
					add = func(from uint64, records [][]byte) error { return beginAndWait(l, from, records) }
				}
				ok(add(m.last+1, records))
				for _, r := range records {
					m.last++
					m.records[m.last] = string(r)
				}
			},
			"append elsewhere": func(t *rapid.T) {
				m, l, _ := pick(t)
				if err := l.Append(m.last+1+uint64(rapid.IntRange(1, 3).Draw(t, "gap")), [][]byte{{1}}); err == nil {
					t.Fatal("a gap was accepted")
				}
				if m.last > 0 && l.Append(m.last, [][]byte{{1}}) == nil {
					t.Fatal("a record was overwritten")
				}
			},
			"truncate after": func(t *rapid.T) {
				m, l, _ := pick(t)
				i := rapid.Uint64Range(m.first-1, m.last+2).Draw(t, "index")
				ok(l.TruncateAfter(i))
				for ; m.last > i; m.last-- {
					delete(m.records, m.last)
				}
			},
			"truncate before": func(t *rapid.T) {
				m, l, _ := pick(t)
				i := rapid.Uint64Range(0, m.last+1).Draw(t, "index")
				ok(l.TruncateBefore(i))
				m.first = max(m.first, i)
			},
			"cut": func(t *rapid.T) { ok(s.cut(t.Context())) },
			"reset": func(t *rapid.T) {
				m, l, _ := pick(t)
				base := rapid.Uint64Range(0, 20).Draw(t, "base")
				ok(l.Reset(base))
				m.first, m.last, m.records = base+1, base, map[uint64]string{}
			},
			"meta": func(t *rapid.T) {
				m, l, _ := pick(t)
				k, v := rapid.SampledFrom([]string{"term", "vote"}).Draw(t, "key"), rapid.StringN(0, 5, 10).Draw(t, "value")
				ok(l.SetMeta(map[string][]byte{k: []byte(v)}))
				m.meta[k] = v
			},
			"drop": func(t *rapid.T) {
				_, l, i := pick(t)
				ok(s.DropLog(keys[i].group, keys[i].epoch))
				if err := l.Append(l.Last()+1, [][]byte{{1}}); !errors.Is(err, fulcrum.ErrEpoch) {
					t.Fatalf("append to a dropped log: %v", err)
				}
				models[i] = newModelLog()
				bind()
			},
			"restart": func(t *rapid.T) {
				ok(s.Close())
				s = openNow()
				bind()
			},
			"crash": func(t *rapid.T) {
				seed := rapid.Uint64().Draw(t, "seed")
				percent := rapid.SampledFrom([]int{0, 50, 100}).Draw(t, "percent of unsynced data that survives")
				crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 1))})
				ok(s.Abandon())
				fs = crashed
				life++
				s = openNow()
				bind()
				for i, m := range models {
					m.resurrect(t, logs[i])
				}
			},
			"": func(t *rapid.T) {
				for i, m := range models {
					m.check(t, logs[i])
				}
			},
		})
	})
}

// resurrect lets records that were cut off lazily be back after a crash, as long
// as they are the right ones.
func (m *modelLog) resurrect(t *rapid.T, l replication.Log) {
	first := l.First()
	if first == 0 {
		first = 1
	}
	if first > m.first {
		t.Fatalf("after the crash the log begins at %d, want at most %d", first, m.first)
	}
	for i := first; i < m.first && i <= m.last; i++ {
		if _, ok := m.records[i]; !ok {
			t.Fatalf("after the crash the log begins at %d, but %d was removed for good", first, i)
		}
	}
	m.first = first
}

func TestCrashLosesOnlyWhatWasNotSynced(t *testing.T) {
	for _, tt := range []struct {
		d     Durability
		sync  bool // one interval sync before the crash
		loses bool
	}{
		{Fsync, false, false},
		{Interval, false, true},
		{Interval, true, false},
		{Memory, true, true},
	} {
		t.Run(fmt.Sprintf("%v, after an interval sync %v", tt.d, tt.sync), func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			s := open(t, options(t.TempDir(), fs))
			l := mustLog(t, s, 1, 1, tt.d)
			for i := uint64(1); i <= 20; i++ {
				must(t, l.Append(i, [][]byte{fmt.Append(nil, i)}))
			}
			if tt.sync {
				must(t, s.syncLazy(t.Context()))
			}
			again := open(t, options(t.TempDir(), fs.CrashClone(vfs.CrashCloneCfg{})))
			last := mustLog(t, again, 1, 1, tt.d).Last()
			if (last < 20) != tt.loses {
				t.Errorf("after the crash the log ends at %d of 20, want a loss: %v", last, tt.loses)
			}
		})
	}
}

// TestTornTail crashes with random parts of the unsynced blocks on disk: what is
// left is a prefix, and appending goes on behind it.
func TestTornTail(t *testing.T) {
	for seed := range uint64(20) {
		fs := vfs.NewCrashableMem()
		s := open(t, options(t.TempDir(), fs))
		synced, lazy := mustLog(t, s, 1, 1, Fsync), mustLog(t, s, 2, 1, Memory)
		big := bytes.Repeat([]byte("x"), 9000)
		must(t, synced.Append(1, [][]byte{big, big}))
		for i := uint64(1); i <= 30; i++ {
			must(t, lazy.Append(i, [][]byte{append(fmt.Append(nil, i), big...)}))
		}
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, 2))}
		again := open(t, options(t.TempDir(), fs.CrashClone(cfg)))
		if last := mustLog(t, again, 1, 1, Fsync).Last(); last != 2 {
			t.Fatalf("seed %d: the synced log ends at %d, want 2", seed, last)
		}
		l := mustLog(t, again, 2, 1, Fsync)
		must(t, l.Append(l.Last()+1, [][]byte{[]byte("next")}))
		err := l.Range(1, l.Last(), func(i uint64, r []byte) error {
			if i < l.Last() && !strings.HasPrefix(string(r), fmt.Sprint(i)+"x") {
				return fmt.Errorf("record %d begins with %q", i, r[:8])
			}
			return nil
		})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		must(t, again.Close())
		must(t, s.Abandon())
	}
}

func TestDamagedRecordIsRefused(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	l := mustLog(t, s, 5, 3, Fsync)
	must(t, l.Append(1, [][]byte{[]byte("one"), []byte("two"), []byte("three"), []byte("four")}))
	must(t, l.SetMeta(map[string][]byte{"term": {9}}))
	must(t, s.SetRecord("r", []byte{9}))
	k := logKey{5, 3}
	good := sealed(k.record(2), []byte("two"))
	for _, tt := range []struct {
		name   string
		stored []byte // in place of record 2; nil: lost
	}{
		{"a flipped bit", append(append([]byte(nil), good[:5]...), good[5]^1, good[6])},
		{"a short value", []byte{1}},
		{"another record's value", sealed(k.record(3), []byte("two"))},
		{"a lost record", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.stored == nil {
				must(t, s.db.Delete(k.record(2), pebble.Sync))
			} else {
				must(t, s.db.Set(k.record(2), tt.stored, pebble.Sync))
			}
			_, err := l.Get(2)
			seen := 0
			rerr := l.Range(1, 4, func(uint64, []byte) error { seen++; return nil })
			for _, err := range []error{err, rerr} {
				if !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(err.Error(), "record 2 of group 5 epoch 3 in log") {
					t.Errorf("error %v", err)
				}
			}
			if seen != 1 {
				t.Errorf("range showed %d records before the damaged one, want 1", seen)
			}
		})
	}
	must(t, s.db.Set(k.meta("term"), []byte("garbage"), pebble.Sync))
	if b, err := l.Meta("term"); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("a damaged meta value gives %q, %v", b, err)
	}
	must(t, s.db.Set([]byte("rr"), []byte("garbage"), pebble.Sync))
	if b, err := s.Record("r"); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("a damaged record gives %q, %v", b, err)
	}
}

func TestGroupsListsWhatExists(t *testing.T) {
	dir, fs := t.TempDir(), vfs.NewMem()
	s := open(t, options(dir, fs))
	must(t, mustLog(t, s, 3, 2, Fsync).Append(1, [][]byte{{1}, {2}}))
	must(t, mustLog(t, s, 3, 1, Fsync).Reset(1))
	must(t, mustLog(t, s, 0, 1, Fsync).SetMeta(map[string][]byte{"term": {1}}))
	max := fulcrum.GroupID(1<<64 - 1)
	must(t, mustLog(t, s, max, 1<<64-1, Fsync).Append(1, [][]byte{{1}}))
	must(t, mustState(t, s, 9, "hints").Apply(1, []fulcrum.Entry{entry("k", "v", 1)}, nil))
	mustState(t, s, 10, "") // opened, never written
	mustLog(t, s, 11, 1, Fsync)
	check := func(s *Store, want string) {
		t.Helper()
		got, err := s.Groups()
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("groups %v, %v; want %v", got, err, want)
		}
	}
	all := fmt.Sprintf("[{0 [1] false} {3 [1 2] false} {9 [] true} {%d [%d] false}]", max, max)
	check(s, all)
	must(t, s.Close())
	s = open(t, options(dir, fs))
	check(s, all)
	must(t, s.DropLog(3, 2))
	must(t, s.DropLog(max, 1<<64-1))
	must(t, s.DropState(9))
	check(s, "[{0 [1] false} {3 [1] false}]")
	must(t, s.Close())
	check(open(t, options(dir, fs)), "[{0 [1] false} {3 [1] false}]")
}
