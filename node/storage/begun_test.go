package storage

import (
	"context"
	"errors"
	"fmt"
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

// beginAndWait is Append by way of Begin.
func beginAndWait(l replication.Log, from uint64, records [][]byte) error {
	durable := make(chan error, 1)
	if err := l.Begin(from, records, func(err error) { durable <- err }); err != nil {
		return err
	}
	return <-durable
}

// told is what the callbacks of a test said, in their order.
type told struct {
	mu   sync.Mutex
	said []string
}

// begin is Begin of one record whose callback says the name of the record. The mutex is
// held in Begin and taken by done, as callers may do.
func (d *told) begin(t testing.TB, l replication.Log, name string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	must(t, l.Begin(l.Last()+1, [][]byte{[]byte(name)}, func(err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if err != nil {
			name += ": " + err.Error()
		}
		d.said = append(d.said, name)
	}))
}

func (d *told) all() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.said, " ")
}

func (d *told) await(t testing.TB, n int) {
	t.Helper()
	for range 10_000 {
		d.mu.Lock()
		got := len(d.said)
		d.mu.Unlock()
		if got >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("told %d of %d: %s", len(d.said), n, d.all())
}

func TestBegunIsToldInOrder(t *testing.T) {
	for _, tt := range []string{"before Run", "during Run", "after Run"} {
		t.Run(tt, func(t *testing.T) {
			s := open(t, options(t.TempDir(), nil))
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			if tt != "before Run" {
				go func() { ran <- s.Run(ctx) }()
			}
			if tt == "after Run" {
				cancel()
				must(t, <-ran)
			}
			var d told
			var want []string
			for i := range 300 {
				l := mustLog(t, s, fulcrum.GroupID(i%7), 1, Fsync)
				want = append(want, fmt.Sprint(i))
				d.begin(t, l, want[i])
				if i%50 == 0 {
					d.await(t, i) // the queue is empty now and then
				}
			}
			d.await(t, len(want))
			if got := d.all(); got != strings.Join(want, " ") {
				t.Errorf("told in another order than begun: %s", got)
			}
			cancel()
			if tt == "during Run" {
				must(t, <-ran)
			}
			must(t, s.Close())
		})
	}
}

// TestBegunOutlivesRun ends Run while much is begun: everybody is told, in order.
func TestBegunOutlivesRun(t *testing.T) {
	s := open(t, options(t.TempDir(), nil))
	for round := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		var d told
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprint(i))
			d.begin(t, mustLog(t, s, fulcrum.GroupID(i%3), 1, Fsync), want[i])
			if i == 2*round {
				cancel()
			}
		}
		d.await(t, len(want))
		if got := d.all(); got != strings.Join(want, " ") {
			t.Fatalf("told in another order than begun: %s", got)
		}
		cancel()
		must(t, <-ran)
	}
}

// What was kicked when Run had just ended is for another goroutine.
func TestRunEndsWithAKickUnheard(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	l := mustLog(t, s, 1, 1, Fsync)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var d told
	for i := range 20 {
		s.syncing.setServed(true)
		d.begin(t, l, fmt.Sprint(i))
		for len(s.syncing.signal) == 0 {
			time.Sleep(time.Millisecond)
		}
		must(t, s.syncing.serve(ended))
		d.await(t, i+1)
	}
}

// A sync that ends before its write is in the queue wakes nobody for it.
func TestBegunAndSyncedAtOnce(t *testing.T) {
	s := open(t, options(t.TempDir(), vfs.NewMem())) // whose syncs take no time
	go s.Run(t.Context())
	l := mustLog(t, s, 1, 1, Fsync)
	for i := range uint64(20_000) {
		must(t, beginAndWait(l, i+1, [][]byte{{1}}))
	}
}

// gatedSyncs is a crashable file system whose logs, while armed, are synced when gate
// is closed, or fail with err.
func gatedSyncs(gate <-chan struct{}, armed *atomic.Bool, err error) (*vfs.MemFS, vfs.FS) {
	mem := vfs.NewCrashableMem()
	return mem, errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if armed.Load() && sync && strings.HasSuffix(op.Path, ".log") {
			<-gate
			return err
		}
		return nil
	}))
}

func TestBegunIsToldOnceItIsOnDisk(t *testing.T) {
	gate := make(chan struct{})
	var armed atomic.Bool
	mem, fs := gatedSyncs(gate, &armed, nil)
	s := open(t, options(t.TempDir(), fs))
	go s.Run(t.Context())
	a, b, lazy := mustLog(t, s, 1, 1, Fsync), mustLog(t, s, 2, 1, Fsync), mustLog(t, s, 3, 1, Memory)
	armed.Store(true)
	var d, quick told
	var crashed *vfs.MemFS
	must(t, a.Begin(1, [][]byte{[]byte("one"), []byte("two")}, func(err error) {
		must(t, err)
		crashed = mem.CrashClone(vfs.CrashCloneCfg{})
	}))
	d.begin(t, b, "b")
	quick.begin(t, lazy, "lazy")
	quick.await(t, 1) // though others wait for the sync
	time.Sleep(20 * time.Millisecond)
	if got := d.all(); got != "" {
		t.Fatalf("told %s before the sync", got)
	}
	if r, err := a.Get(2); err != nil || string(r) != "two" {
		t.Errorf("reading what was begun: %q, %v", r, err)
	}
	early := open(t, options(t.TempDir(), mem.CrashClone(vfs.CrashCloneCfg{})))
	if last := mustLog(t, early, 1, 1, Fsync).Last(); last != 0 {
		t.Fatalf("a crash before the sync left %d records: this test means nothing", last)
	}
	close(gate)
	d.await(t, 1)
	again := open(t, options(t.TempDir(), crashed))
	if last := mustLog(t, again, 1, 1, Fsync).Last(); last != 2 {
		t.Errorf("a crash when the callback runs leaves %d records, want 2", last)
	}
}

func TestAStallHoldsBackDoneButNotBegin(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var f fault
		o := options(dir, vfs.NewMem())
		o.Disk = f.get
		s, err := Open(o)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- s.Run(ctx) }()
		a, b, lazy := mustLog(t, s, 1, 1, Fsync), mustLog(t, s, 2, 1, Fsync), mustLog(t, s, 3, 1, Interval)
		var acted atomic.Int64
		f.set(Disk{Stall: 5 * time.Second, Acted: func() { acted.Add(1) }})
		start := time.Now()
		var d, quick told
		d.begin(t, a, "a1")
		d.begin(t, b, "b1")
		time.Sleep(time.Second)
		d.begin(t, a, "a2")
		quick.begin(t, lazy, "lazy")
		synctest.Wait()
		if took := time.Since(start); took != time.Second || a.Last() != 2 {
			t.Errorf("Begin took part in the stall: %v, last %d", took, a.Last())
		}
		if quick.all() != "lazy" || d.all() != "" || acted.Load() != 3 {
			t.Errorf("told %q and %q during the stall, which acted %d times", quick.all(), d.all(), acted.Load())
		}
		f.set(Disk{})
		time.Sleep(1500 * time.Millisecond)
		if err := s.Health(); !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(err.Error(), "a sync has been running") {
			t.Errorf("health 2.5 s into a stall: %v", err)
		}
		time.Sleep(2500*time.Millisecond + time.Millisecond)
		if got := d.all(); got != "a1 b1" {
			t.Errorf("at the end of a stall of two at once: told %q", got)
		}
		time.Sleep(time.Second)
		if got := d.all(); got != "a1 b1 a2" {
			t.Errorf("a second later: told %q", got)
		}
		time.Sleep(stallMemory)
		must(t, s.Health())
		cancel()
		must(t, <-ran)
		must(t, s.Close())
	})
}

// TestCloseTellsEverybody closes a store whose disk stands still: nothing hangs, and
// nobody is told afterwards. The next life of the directory begins anew.
func TestCloseTellsEverybody(t *testing.T) {
	dir, next := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var f fault
		fs := vfs.NewCrashableMem()
		o := options(dir, fs)
		o.Disk = f.get
		s, err := Open(o)
		must(t, err)
		a, lazy := mustLog(t, s, 1, 1, Fsync), mustLog(t, s, 2, 1, Memory)
		f.set(Disk{Stall: time.Hour})
		start := time.Now()
		var said []error
		for i := range uint64(3) {
			must(t, a.Begin(i+1, [][]byte{{1}}, func(err error) { said = append(said, err) }))
		}
		var d told
		d.begin(t, lazy, "lazy")
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		must(t, s.Abandon())
		if time.Since(start) > time.Second || len(said) != 3 || d.all() != "lazy" {
			t.Errorf("closed after %v: told %v and %q", time.Since(start), said, d.all())
		}
		for _, err := range said {
			var e *fulcrum.Error
			if !errors.As(err, &e) || e.Code != fulcrum.CodeUnavailable || !e.Maybe {
				t.Errorf("what was not synced when the store was closed: %v", err)
			}
		}
		for _, records := range [][][]byte{{{1}}, nil} {
			err := a.Begin(a.Last()+1, records, func(error) { t.Error("told after Close") })
			if !errors.Is(err, fulcrum.ErrUnavailable) {
				t.Errorf("begin on a closed store: %v", err)
			}
		}
		o = options(next, crashed)
		s, err = Open(o)
		must(t, err)
		a = mustLog(t, s, 1, 1, Fsync)
		must(t, beginAndWait(a, a.Last()+1, [][]byte{{1}}), s.Close())
		if len(said) != 3 {
			t.Errorf("told again after Close: %v", said)
		}
	})
}

func TestBegunOnADiskThatFails(t *testing.T) {
	gate := make(chan struct{})
	var armed atomic.Bool
	_, fs := gatedSyncs(gate, &armed, errors.New("input/output error"))
	s := open(t, options(t.TempDir(), fs))
	ran := make(chan error, 1)
	go func() { ran <- s.Run(t.Context()) }()
	armed.Store(true)
	said := make(chan error, 10)
	for g := range fulcrum.GroupID(3) {
		must(t, mustLog(t, s, g, 1, Fsync).Begin(1, [][]byte{{1}}, func(err error) { said <- err }))
	}
	close(gate)
	for range 3 {
		var e *fulcrum.Error
		if err := <-said; !errors.As(err, &e) || e.Code != fulcrum.CodeDisk || !e.Maybe {
			t.Errorf("told %v when the sync failed", err)
		}
	}
	if err := <-ran; !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("run: %v", err)
	}
	if _, err := s.Log(9, 1, Fsync); !errors.Is(err, fulcrum.ErrDisk) {
		t.Errorf("log on a failed disk: %v", err)
	}
	s.Close()
	if len(said) > 0 {
		t.Errorf("told more than once: %v", <-said)
	}
}

func TestBeginRefusesAndDoesNotTell(t *testing.T) {
	var f fault
	o := options(t.TempDir(), vfs.NewMem())
	o.Disk = f.get
	s := open(t, o)
	l := mustLog(t, s, 1, 1, Fsync)
	tell := func(error) { t.Error("told of what was not begun") }
	if err := l.Begin(2, [][]byte{{1}}, tell); err == nil {
		t.Error("a gap was accepted")
	}
	f.set(Disk{Full: true})
	if err := l.Begin(1, [][]byte{{1}}, tell); !errors.Is(err, fulcrum.ErrDisk) || l.Last() != 0 {
		t.Errorf("begin on a full disk: %v, last %d", err, l.Last())
	}
	f.set(Disk{})
	must(t, beginAndWait(l, 1, nil), beginAndWait(l, 1, [][]byte{{1}}), s.DropLog(1, 1))
	if err := l.Begin(1, [][]byte{{1}}, tell); !errors.Is(err, fulcrum.ErrEpoch) {
		t.Errorf("begin on a dropped log: %v", err)
	}
	if n := s.company.waiting.Load(); n != 0 || len(s.disk.begun) != 0 {
		t.Errorf("%d wait and %d syncs are under way after the last", n, len(s.disk.begun))
	}
}

// A log whose durability changes still tells in the order in which it began.
func TestBegunKeepsItsOrderWhenTheDurabilityChanges(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var f fault
		o := options(dir, vfs.NewMem())
		o.Disk = f.get
		s, err := Open(o)
		must(t, err)
		var d told
		f.set(Disk{Stall: time.Second})
		d.begin(t, mustLog(t, s, 1, 1, Fsync), "fsync")
		l := mustLog(t, s, 1, 1, Memory)
		d.begin(t, l, "memory")
		must(t, l.Begin(l.Last()+1, nil, func(error) { d.said = append(d.said, "nothing") }))
		synctest.Wait()
		if got := d.all(); got != "" {
			t.Errorf("told %q before the stall ended", got)
		}
		time.Sleep(2 * time.Second)
		d.begin(t, l, "later") // from now on nothing holds it up
		synctest.Wait()
		if got := d.all(); got != "fsync memory nothing later" || l.(*groupLog).queue != s.unsynced {
			t.Errorf("told %q", got)
		}
		must(t, s.Close())
	})
}
