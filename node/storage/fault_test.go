package storage

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"fulcrum"
	"fulcrum/replication"
)

// fault is a disk fault that a test switches.
type fault struct{ at atomic.Pointer[Disk] }

func (f *fault) set(d Disk) { f.at.Store(&d) }

func (f *fault) get() Disk {
	if d := f.at.Load(); d != nil {
		return *d
	}
	return Disk{}
}

func TestInjectedFaultsStopEveryDurableStepAndHeal(t *testing.T) {
	for _, tt := range []struct {
		name string
		disk Disk
		says string
	}{
		{"a full disk", Disk{Full: true}, "no space left (injected)"},
		{"failing syncs", Disk{Fail: true}, "sync failed (injected)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f fault
			var acted atomic.Int64
			tt.disk.Acted = func() { acted.Add(1) }
			o := options(t.TempDir(), vfs.NewMem())
			o.Disk = f.get
			s := open(t, o)
			l, lazy, st := mustLog(t, s, 1, 1, Fsync), mustLog(t, s, 2, 1, Memory), mustState(t, s, 1, "")
			must(t, l.Append(1, [][]byte{{1}, {2}, {3}}))
			must(t, st.Apply(1, []fulcrum.Entry{entry("k", "old", 1)}, nil))
			must(t, st.Flush(t.Context()))
			must(t, s.Health())

			f.set(tt.disk)
			must(t, st.Apply(2, []fulcrum.Entry{entry("k", "new", 2)}, nil)) // memory only
			for step, do := range map[string]func() error{
				"append":      func() error { return l.Append(4, [][]byte{{4}}) },
				"begin":       func() error { return beginAndWait(l, 4, [][]byte{{4}}) },
				"lazy append": func() error { return lazy.Append(1, [][]byte{{4}}) },
				"set meta":    func() error { return l.SetMeta(map[string][]byte{"k": {1}}) },
				"truncate":    func() error { return l.TruncateAfter(1) },
				"reset":       func() error { return l.Reset(9) },
				"set record":  func() error { return s.SetRecord("k", []byte{1}) },
				"flush":       func() error { return st.Flush(t.Context()) },
				"rebase":      func() error { return st.Rebase(1, map[string][]byte{"x": {1}}) },
				"install": func() error {
					return st.Install(7, nil, func(func(fulcrum.Entry) error) error { return nil })
				},
				"drop log":   func() error { return s.DropLog(1, 1) },
				"drop state": func() error { return s.DropState(1) },
				"health":     s.Health,
			} {
				before := acted.Load()
				err := do()
				var e *fulcrum.Error
				if !errors.As(err, &e) || e.Code != fulcrum.CodeDisk || e.Maybe || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%s: %v", step, err)
				}
				if step != "health" && acted.Load() == before {
					t.Errorf("%s: the fault acted and did not say so", step)
				}
			}
			f.set(Disk{})
			must(t, s.Health())
			if l.First() != 1 || l.Last() != 3 || lazy.Last() != 0 {
				t.Errorf("a refused step changed the logs: %d..%d, %d", l.First(), l.Last(), lazy.Last())
			}
			if e, err := st.Get([]byte("k")); err != nil || string(e.Value) != "new" || st.Applied() != 2 || st.Durable() != 1 {
				t.Errorf("a refused step changed the state: %+v, %v, applied %d, durable %d", e, err, st.Applied(), st.Durable())
			}
			must(t, l.Append(4, [][]byte{{4}}))
			must(t, st.Flush(t.Context()))
			if st.Durable() != 2 {
				t.Errorf("durable %d after healing, want 2", st.Durable())
			}
		})
	}
}

func TestApplyDuringAFailedCommitWins(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	var during func()
	o.Disk = func() Disk {
		if during != nil {
			during()
			return Disk{Fail: true}
		}
		return Disk{}
	}
	s := open(t, o)
	st := mustState(t, s, 1, "")
	must(t, st.Apply(1, []fulcrum.Entry{entry("a", "frozen", 1), entry("b", "frozen", 1)}, nil))
	during = func() { // the overlay is frozen now
		during = nil
		must(t, st.Apply(2, []fulcrum.Entry{entry("b", "live", 2)}, nil))
		during = func() {}
	}
	if err := st.Flush(t.Context()); !errors.Is(err, fulcrum.ErrDisk) {
		t.Fatalf("flush on a failing disk: %v", err)
	}
	during = nil
	check := func(when string) {
		t.Helper()
		for key, want := range map[string]string{"a": "frozen", "b": "live"} {
			if e, err := st.Get([]byte(key)); err != nil || string(e.Value) != want {
				t.Errorf("%s: %s is %q, %v; want %q", when, key, e.Value, err, want)
			}
		}
	}
	check("after the failed commit")
	must(t, st.Flush(t.Context()))
	check("after the next")
	if st.Durable() != 2 || s.overlayBytes.Load() != 0 {
		t.Errorf("durable %d, %d bytes uncommitted; want 2 and 0", st.Durable(), s.overlayBytes.Load())
	}
}

func TestStalledSyncIsABadDiskAndHoldsUpNobodyElse(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var f fault
		o := options(dir, vfs.NewMem())
		o.Disk = f.get
		o.CommitEvery = 50 * time.Millisecond // the engine has nothing to do while the disk stalls
		s, err := Open(o)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		l, st := mustLog(t, s, 1, 1, Fsync), mustState(t, s, 1, "")
		must(t, l.Append(1, [][]byte{[]byte("one")}))
		must(t, st.Apply(1, []fulcrum.Entry{entry("k", "v", 1)}, nil))
		time.Sleep(time.Second)

		f.set(Disk{Stall: 5 * time.Second})
		start := time.Now()
		appended := make(chan error, 1)
		go func() { appended <- l.Append(2, [][]byte{[]byte("two")}) }()
		time.Sleep(time.Second)
		must(t, s.Health())
		time.Sleep(1500 * time.Millisecond)
		if err := s.Health(); !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(err.Error(), "2.5s") {
			t.Errorf("health 2.5 s into a stall: %v", err)
		}
		if b, err := l.Get(1); err != nil || string(b) != "one" || l.Last() != 1 {
			t.Errorf("reading during the stall: %q, %v, last %d", b, err, l.Last())
		}
		if e, err := st.Get([]byte("k")); err != nil || string(e.Value) != "v" {
			t.Errorf("reading during the stall: %+v, %v", e, err)
		}
		must(t, st.Apply(2, []fulcrum.Entry{entry("k", "w", 2)}, nil))
		f.set(Disk{})
		must(t, mustLog(t, s, 2, 1, Fsync).Append(1, [][]byte{{1}}))
		if took := time.Since(start); took != 2500*time.Millisecond {
			t.Errorf("an append after the stall was lifted ended at %v, want at once", took)
		}
		must(t, <-appended)
		if took := time.Since(start); took < 5*time.Second {
			t.Errorf("the stalled append took %v, want 5 s", took)
		}
		if s.Health() == nil {
			t.Error("a sync that has just taken 5 s is forgotten")
		}
		time.Sleep(stallMemory)
		must(t, s.Health())
		cancel()
		must(t, <-ran)
		must(t, s.Close())
	})
}

func TestIntervalSyncComesByItself(t *testing.T) {
	dir, dir2 := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fs := vfs.NewCrashableMem()
		s, err := Open(options(dir, fs))
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		must(t, mustLog(t, s, 1, 1, Interval).Append(1, [][]byte{{1}}))
		time.Sleep(2 * intervalSync)
		again, err := Open(options(dir2, fs.CrashClone(vfs.CrashCloneCfg{})))
		must(t, err)
		if last := mustLog(t, again, 1, 1, Interval).Last(); last != 1 {
			t.Errorf("two intervals after the append a crash left the log at %d, want 1", last)
		}
		cancel()
		must(t, <-ran)
		must(t, errors.Join(s.Close(), again.Close()))
	})
}

// TestFailedSyncEndsTheStore makes the log's file system fail for real while many
// append: each of them gets an answer, none a false one, and nothing hangs.
func TestFailedSyncEndsTheStore(t *testing.T) {
	mixed := []Durability{Fsync, Fsync, Fsync, Fsync, Fsync, Fsync, Memory, Interval}
	for _, tt := range []struct {
		name       string
		durability []Durability
		kind       []errorfs.OpKind
	}{
		{"syncs fail", mixed, []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}},
		{"writes fail", mixed, []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileWriteAt}},
		{"new files fail", mixed, []errorfs.OpKind{errorfs.OpCreate, errorfs.OpReuseForWrite}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var bad atomic.Bool
			mem := vfs.NewCrashableMem()
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				for _, k := range tt.kind {
					if bad.Load() && op.Kind == k && !strings.HasSuffix(op.Path, ".sst") {
						return errors.New("input/output error")
					}
				}
				return nil
			}))
			s := open(t, options(t.TempDir(), fs))
			ran := make(chan error, 1)
			go func() { ran <- s.Run(t.Context()) }()
			acked := appendAllUntilError(t, s, tt.durability, func(total int64) {
				if total == 200 {
					bad.Store(true)
				}
			})
			if err := <-ran; !errors.Is(err, fulcrum.ErrDisk) {
				t.Errorf("run: %v", err)
			}
			if err := s.Health(); !errors.Is(err, fulcrum.ErrDisk) {
				t.Errorf("health: %v", err)
			}
			bad.Store(false)
			if err := s.SetRecord("k", []byte("v")); !errors.Is(err, fulcrum.ErrDisk) {
				t.Errorf("a write after the failure, on a disk that works again: %v", err)
			}
			crashed := mem.CrashClone(vfs.CrashCloneCfg{})
			s.Close()
			again := open(t, options(t.TempDir(), crashed))
			for g, want := range acked {
				if last := mustLog(t, again, fulcrum.GroupID(g), 1, Fsync).Last(); last < want {
					t.Errorf("group %d: %d was acknowledged, %d is there", g, want, last)
				}
			}
		})
	}
}

// TestFailureThatNobodyWaitsFor lets the write behind a lazy append fail. Pebble
// would meet that when it begins its next file, and panic beyond recovery.
func TestFailureThatNobodyWaitsFor(t *testing.T) {
	var bad atomic.Bool
	met := make(chan struct{}, 1000)
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if bad.Load() && op.Kind == errorfs.OpFileWrite {
			defer func() { met <- struct{}{} }()
			return errors.New("input/output error")
		}
		return nil
	}))
	s := open(t, options(t.TempDir(), fs))
	l := mustLog(t, s, 1, 1, Memory)
	bad.Store(true)
	// More than pebble keeps to itself. It is written behind the append, which mostly
	// has returned by then, but may also be the first to hear of the failure.
	if err := l.Append(1, [][]byte{make([]byte, 40<<10)}); err != nil && !errors.Is(err, fulcrum.ErrDisk) {
		t.Fatalf("append: %v", err)
	}
	<-met
	bad.Store(false)
	// This one does not fit into what pebble has open.
	if err := l.Append(l.Last()+1, [][]byte{make([]byte, 400<<10)}); err != nil && !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("append after the failure: %v", err)
	}
	<-s.disk.down
	if err := l.Append(l.Last()+1, [][]byte{{3}}); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("append once the failure is known: %v", err)
	}
}

// appendAllUntilError appends to one log of each durability at once, by Append or by
// Begin, and returns what each was told to be durable.
func appendAllUntilError(t *testing.T, s *Store, durability []Durability, after func(total int64)) []uint64 {
	acked := make([]uint64, len(durability))
	logs := make([]replication.Log, len(acked))
	for g, d := range durability {
		logs[g] = mustLog(t, s, fulcrum.GroupID(g), 1, d)
	}
	var total atomic.Int64
	var wg sync.WaitGroup
	for g, l := range logs {
		add := l.Append
		if g%2 == 1 {
			add = func(from uint64, records [][]byte) error { return beginAndWait(l, from, records) }
		}
		wg.Go(func() {
			for i := uint64(1); i < 200_000; i++ { // a log rotates long before
				err := add(i, [][]byte{[]byte("record")})
				if err != nil {
					if !errors.Is(err, fulcrum.ErrDisk) {
						t.Errorf("append: %v", err)
					}
					return
				}
				if durability[g] == Fsync {
					acked[g] = i
				}
				after(total.Add(1))
			}
			t.Error("no append met the fault")
		})
	}
	wg.Wait()
	return acked
}
