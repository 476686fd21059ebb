package storage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"fulcrum"
)

// A cut is what a power failure left of all files, and what must be found in it.
type cut struct {
	image
	what   string
	before map[fulcrum.GroupID]kept // each group is as before the step under way
	after  map[fulcrum.GroupID]kept // or as after it

	// The log's files: what was synced, the same under the newest names, and all.
	synced, named, all map[string][]byte
}

// kept is what a group was told to keep.
type kept struct {
	base    uint64 // the log begins behind it, or earlier
	records []string
	vote    string
	applied uint64
	state   map[string]string
}

func (k kept) clone() kept {
	k.records, k.state = slices.Clone(k.records), maps.Clone(k.state)
	return k
}

// cutter is a log's file system that can lose its power at every step.
type cutter struct {
	t   testing.TB
	mem *vfs.MemFS
	dir string
	rnd *rand.Rand // under mu
	one int        // of so many steps, a cut is looked at

	mu            sync.Mutex
	steps         int
	created       map[string]bool
	before, after map[fulcrum.GroupID]kept
	met           func(cut)
}

func (c *cutter) fs() vfs.FS {
	return errorfs.Wrap(c.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate {
			c.create(op.Path)
		}
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite || op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			c.step(fmt.Sprint(op.Kind, " ", op.Path))
		}
		return nil
	}))
}

func (c *cutter) create(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.created[name] = true
}

func (c *cutter) step(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.steps++; c.rnd.IntN(c.one) > 0 {
		return
	}
	x := cut{what: what, before: maps.Clone(c.before), after: maps.Clone(c.after)}
	x.data = map[string][]byte{}
	for _, name := range []string{stateFile, identityFile} {
		if b, err := os.ReadFile(filepath.Join(c.dir, name)); err == nil {
			x.data[name] = b
		}
	}
	x.synced = files(c.t, c.mem.CrashClone(vfs.CrashCloneCfg{}))
	x.named = namesOnly(c.t, c.mem)
	x.all = files(c.t, c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: c.rnd}))
	x.log = c.tear(x)
	c.met(x)
}

// tear returns the files of a power failure: what was synced, and of the rest any
// sectors and any names. A new file that is synced has its name, as on ext4, XFS and Btrfs.
func (c *cutter) tear(x cut) map[string][]byte {
	rnd, synced, named, all := c.rnd, maps.Clone(x.synced), x.named, x.all
	share := rnd.IntN(101)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		old, there := synced[name]
		safe := c.created[name] && len(named[name]) > 0
		if !there && !safe && rnd.IntN(100) >= share {
			continue
		}
		if now, ok := named[name]; ok {
			old = now // it may have another's name
		}
		b := bytes.Clone(old)
		for at := 0; at < len(all[name]); at += 512 {
			end := min(at+512, len(all[name]))
			if rnd.IntN(100) >= share || end <= len(old) && bytes.Equal(old[at:end], all[name][at:end]) {
				continue
			}
			if end > len(b) {
				b = append(b, make([]byte, end-len(b))...)
			}
			copy(b[at:], all[name][at:end])
		}
		synced[name] = b
	}
	return synced
}

// namesOnly returns all files, as far as they are synced, under their newest names.
func namesOnly(t testing.TB, mem *vfs.MemFS) map[string][]byte {
	for {
		names, err := mem.List("log")
		if err != nil {
			return nil
		}
		first := &firstOnly{n: 1 + len(names)}
		got := files(t, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(first)}))
		if again, err := mem.List("log"); err == nil && len(again) == len(names) {
			return got
		}
	}
}

// firstOnly says yes so often, and then no, to whom asks IntN(100) < 50: a clone asks for
// all names first, and then for blocks.
type firstOnly struct{ n int }

func (f *firstOnly) Uint64() uint64 {
	if f.n--; f.n >= 0 {
		return 1 << 52
	}
	return 4_290_000_000 << 32
}

func files(t testing.TB, fs vfs.FS) map[string][]byte {
	all := map[string][]byte{}
	names, err := fs.List("log")
	if err != nil {
		return all
	}
	for _, name := range names {
		path := fs.PathJoin("log", name)
		f, err := fs.Open(path)
		must(t, err)
		st, err := f.Stat()
		must(t, err)
		b := make([]byte, st.Size())
		if len(b) > 0 {
			_, err = f.ReadAt(b, 0)
		}
		must(t, err, f.Close())
		all[path] = b
	}
	return all
}

// do is one step that changes one group.
func (c *cutter) do(g fulcrum.GroupID, change func(k *kept), act func() error) {
	c.mu.Lock()
	k := c.before[g].clone()
	change(&k)
	c.after = maps.Clone(c.before)
	c.after[g] = k
	c.mu.Unlock()
	must(c.t, act())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = c.after
}

// work writes to a store for a while.
func (c *cutter) work(s *Store, rnd *rand.Rand, steps int) {
	for i := range steps {
		g := fulcrum.GroupID(1 + rnd.IntN(3))
		l, st := mustLog(c.t, s, g, 1, Fsync), mustState(c.t, s, g, "")
		was := c.before[g]
		last := was.base + uint64(len(was.records))
		switch rnd.IntN(12) {
		default:
			var batch [][]byte
			for range 1 + rnd.IntN(3) {
				batch = append(batch, randomBytes(rnd, 1+rnd.IntN(1<<(4+rnd.IntN(9)))))
			}
			c.do(g, func(k *kept) {
				for _, b := range batch {
					k.records = append(k.records, string(b))
				}
			}, func() error { return l.Append(last+1, batch) })
		case 0, 1:
			vote := randomBytes(rnd, 16)
			c.do(g, func(k *kept) { k.vote = string(vote) }, func() error { return l.SetMeta(map[string][]byte{"vote": vote}) })
		case 2:
			n := rnd.IntN(min(len(was.records), 3) + 1)
			c.do(g, func(k *kept) { k.records = k.records[:len(k.records)-n] }, func() error { return l.TruncateAfter(last - uint64(n)) })
		case 3:
			n := rnd.IntN(len(was.records) + 1)
			c.do(g, func(k *kept) { k.base, k.records = k.base+uint64(n), k.records[n:] }, func() error {
				return errors.Join(l.TruncateBefore(was.base+uint64(n)+1), s.cut(c.t.Context()))
			})
		case 4:
			if rnd.IntN(4) == 0 {
				c.do(g, func(k *kept) { k.base, k.records = last+5, nil }, func() error { return l.Reset(last + 5) })
			}
		case 5:
			lazy := mustLog(c.t, s, 9, 1, Memory)
			must(c.t, lazy.Append(lazy.Last()+1, [][]byte{randomBytes(rnd, 1+rnd.IntN(9000))}))
		case 6:
			if rnd.IntN(3) == 0 {
				must(c.t, s.db.Flush())
			}
		case 7, 8:
			key, value := fmt.Sprintf("key-%02d", rnd.IntN(40)), string(randomBytes(rnd, rnd.IntN(3000)))
			c.do(g, func(k *kept) {
				if k.state == nil {
					k.state = map[string]string{}
				}
				k.applied++
				k.state[key] = value
			}, func() error {
				return errors.Join(st.Apply(was.applied+1, []fulcrum.Entry{entry(key, value, uint64(i+1))}, nil), st.Flush(c.t.Context()))
			})
		}
	}
}

// check opens what a cut left and returns what is wrong with it.
func (x cut) check(t testing.TB) error {
	dir, err := os.MkdirTemp("", "cut")
	must(t, err)
	defer os.RemoveAll(dir)
	s, err := x.reopenIn(t, dir)
	if err != nil {
		return err
	}
	defer s.Close()
	if d := s.Damages(); len(d) > 0 {
		return fmt.Errorf("damaged: %v", d)
	}
	for g, after := range x.after {
		has, err := holds(t, s, g, after.base)
		if err != nil {
			return err
		}
		if e1, e2 := has.differs(x.before[g]), has.differs(after); e1 != nil && e2 != nil {
			return fmt.Errorf("group %d: %w; %w", g, e1, e2)
		}
	}
	lazy := mustLog(t, s, 9, 1, Memory)
	if last := lazy.Last(); last > 0 {
		return lazy.Range(lazy.First(), last, func(uint64, []byte) error { return nil })
	}
	return nil
}

// holds reads a group; of its log what is behind base.
func holds(t testing.TB, s *Store, g fulcrum.GroupID, base uint64) (kept, error) {
	l, err := s.Log(g, 1, Fsync)
	if err != nil {
		return kept{}, err
	}
	k := kept{base: max(l.First(), 1) - 1, state: map[string]string{}}
	if l.Last() >= max(l.First(), 1) {
		err = l.Range(max(l.First(), 1), l.Last(), func(_ uint64, b []byte) error {
			k.records = append(k.records, string(b))
			return nil
		})
	}
	vote, err2 := l.Meta("vote")
	k.vote = string(vote)
	st := mustState(t, s, g, "")
	k.applied = st.Applied()
	err3 := st.Scan(nil, nil, func(e fulcrum.Entry) bool {
		k.state[string(e.Key)] = string(e.Value)
		return true
	})
	if err3 == nil && st.Keys() != len(k.state) {
		err3 = fmt.Errorf("%d keys are counted, and there are %d", st.Keys(), len(k.state))
	}
	return k, errors.Join(err, err2, err3)
}

func (k kept) differs(want kept) error {
	switch {
	case k.base > want.base:
		return fmt.Errorf("the log begins behind %d, want %d", k.base, want.base)
	case k.base+uint64(len(k.records)) != want.base+uint64(len(want.records)):
		return fmt.Errorf("the log ends at %d, want %d", k.base+uint64(len(k.records)), want.base+uint64(len(want.records)))
	case !slices.Equal(k.records[want.base-k.base:], want.records):
		return errors.New("other records")
	case k.vote != want.vote:
		return errors.New("another vote")
	case k.applied != want.applied || !maps.Equal(k.state, want.state):
		return fmt.Errorf("the state stands at %d with %d keys, want %d with %d", k.applied, len(k.state), want.applied, len(want.state))
	}
	return nil
}

// TestEveryStepMayBeTheLast cuts the power at any step of the log's files, of a store's life
// and of its opening again: after a cut, and after a process was killed, which leaves in the
// system's memory what is not on disk. The engine's file is what it is at that step.
func TestEveryStepMayBeTheLast(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	work, cuts, again := rand.New(rand.NewPCG(seed, 1)), 0, 0
	c := &cutter{t: t, mem: vfs.NewCrashableMem(), dir: t.TempDir(), rnd: rnd, one: 50, created: map[string]bool{}, before: map[fulcrum.GroupID]kept{}, after: map[fulcrum.GroupID]kept{}}
	c.met = func(x cut) {
		cuts++
		if err := x.check(t); err != nil {
			t.Errorf("seed %d: cut at %s: %v", seed, x.what, err)
		}
		for how, mem := range map[string]func(testing.TB) *vfs.MemFS{"cut": x.mem, "killed": x.killed} {
			if rnd.IntN(4) > 0 {
				continue
			}
			again += c.second(x, mem(t), func(y cut) {
				if err := y.check(t); err != nil {
					t.Errorf("seed %d: %s at %s, and cut at %s: %v", seed, how, x.what, y.what, err)
				}
			})
		}
	}
	for range 3 {
		s := open(t, options(c.dir, c.fs()))
		c.work(s, work, 120)
		must(t, s.Close())
	}
	t.Logf("%d steps, %d cuts, %d of the next opening", c.steps, cuts, again)
}

// killed is a file system as a process leaves it that is killed: all is there, and as much
// of it synced as before.
func (x cut) killed(t testing.TB) *vfs.MemFS {
	fs := image{log: x.synced}.mem(t)
	put := func(name string, b []byte, synced bool) {
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = f.Write(bytes.Clone(b))
		must(t, err)
		if synced {
			must(t, f.Sync())
		}
		must(t, f.Close())
	}
	for name := range x.synced {
		if _, there := x.all[name]; !there {
			must(t, fs.Remove(name))
		}
	}
	for name, b := range x.all {
		if old, there := x.synced[name]; !there {
			put(name, x.named[name], true)
		} else if !bytes.Equal(old, x.named[name]) {
			must(t, fs.Remove(name)) // another file has its name now
			put(name, x.named[name], true)
		}
		if !bytes.Equal(b, x.named[name]) {
			f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
			must(t, err)
			_, err = f.WriteAt(bytes.Clone(b), 0)
			must(t, err, f.Close())
		}
	}
	return fs
}

// second cuts the power while what a cut left is opened.
func (c *cutter) second(x cut, mem *vfs.MemFS, met func(cut)) (cuts int) {
	dir, err := os.MkdirTemp("", "cut")
	must(c.t, err)
	defer os.RemoveAll(dir)
	d := &cutter{t: c.t, mem: mem, dir: dir, rnd: rand.New(rand.NewPCG(c.rnd.Uint64(), 0)), one: 12, created: map[string]bool{}, before: x.before, after: x.after}
	d.met = func(y cut) {
		cuts++
		met(y)
	}
	x.write(c.t, dir)
	s, err := Open(options(dir, d.fs()))
	must(c.t, err, s.Abandon())
	return cuts
}
