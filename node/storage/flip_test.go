package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/bbolt"

	"fulcrum"
)

// image is all files of a store that is closed or has crashed.
type image struct {
	log  map[string][]byte // by path in the log's file system
	data map[string][]byte // of the data directory
}

// mem is a file system that holds a copy of the log, synced.
func (im image) mem(t testing.TB) *vfs.MemFS {
	fs := vfs.NewCrashableMem()
	must(t, fs.MkdirAll("log", 0o700))
	for name, b := range im.log {
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = f.Write(bytes.Clone(b)) // pebble's memory files garble what they were given, in builds with the race detector
		must(t, err, f.Sync(), f.Close())
	}
	for _, dir := range []string{"log", ""} {
		f, err := fs.OpenDir(dir)
		must(t, err, f.Sync(), f.Close())
	}
	return fs
}

// reopen makes a store of a copy.
func (im image) reopen(t testing.TB) (*Store, error) { return im.reopenIn(t, t.TempDir()) }

func (im image) reopenIn(t testing.TB, dir string) (*Store, error) {
	fs := im.mem(t)
	im.write(t, dir)
	return Open(options(dir, fs))
}

// write puts what is not of the log into a directory, without room for the zeros at the end.
func (im image) write(t testing.TB, dir string) {
	for name, b := range im.data {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, bytes.TrimRight(b, "\x00"), 0o600), os.Truncate(path, int64(len(b))))
	}
}

func take(t testing.TB, fs vfs.FS, dir string) image {
	im := image{log: map[string][]byte{}, data: map[string][]byte{}}
	names, err := fs.List("log")
	must(t, err)
	for _, name := range names {
		path := fs.PathJoin("log", name)
		f, err := fs.Open(path)
		must(t, err)
		b, err := io.ReadAll(f)
		must(t, err, f.Close())
		im.log[path] = b
	}
	for _, name := range []string{stateFile, identityFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		im.data[name] = b
	}
	return im
}

// held is what a store was told to keep, and must have in every image.
type held struct {
	records map[fulcrum.GroupID][][]byte
	votes   map[fulcrum.GroupID][]byte
	node    []byte
	states  map[fulcrum.GroupID]map[string]string
	applied map[fulcrum.GroupID]uint64
	extra   []byte
	floor   map[fulcrum.GroupID]uint64 // logs begin above
}

func newHeld() *held {
	return &held{records: map[fulcrum.GroupID][][]byte{}, votes: map[fulcrum.GroupID][]byte{},
		states: map[fulcrum.GroupID]map[string]string{}, applied: map[fulcrum.GroupID]uint64{}, floor: map[fulcrum.GroupID]uint64{}}
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// add writes to every group: n batches of records, a vote, and entries of its state.
//
// Records are small, because pebble tries out all bits of a damaged block of a table;
// those that stay in the log may be larger than its blocks.
func (h *held) add(t testing.TB, s *Store, rnd *rand.Rand, n int, large bool) {
	for i := range n {
		g := fulcrum.GroupID(1 + rnd.IntN(3))
		l := mustLog(t, s, g, 1, Fsync)
		var batch [][]byte
		for range 1 + rnd.IntN(3) {
			size := 20 + rnd.IntN(400)
			if large && rnd.IntN(40) == 0 {
				size = 20_000 + rnd.IntN(60_000) // more than a block
			}
			batch = append(batch, randomBytes(rnd, size))
		}
		must(t, l.Append(uint64(len(h.records[g]))+1, batch))
		h.records[g] = append(h.records[g], batch...)
		if i%7 == 0 {
			h.votes[g] = randomBytes(rnd, 16)
			must(t, l.SetMeta(map[string][]byte{"vote": h.votes[g]}))
		}
		if i%5 == 0 {
			h.apply(t, s, rnd, g)
		}
	}
	h.node = randomBytes(rnd, 30)
	must(t, s.SetRecord("who", h.node))
}

func (h *held) apply(t testing.TB, s *Store, rnd *rand.Rand, g fulcrum.GroupID) {
	if h.states[g] == nil {
		h.states[g] = map[string]string{}
	}
	var entries []fulcrum.Entry
	for range 60 {
		key := fmt.Sprintf("key-%04d", rnd.IntN(600))
		value := string(randomBytes(rnd, rnd.IntN(150)))
		if _, there := h.states[g][key]; there && rnd.IntN(5) == 0 {
			entries = append(entries, fulcrum.Entry{Key: []byte(key)})
			delete(h.states[g], key)
			continue
		}
		entries = append(entries, entry(key, value, uint64(len(h.records[g]))))
		h.states[g][key] = value
	}
	h.extra = randomBytes(rnd, 8)
	h.applied[g]++
	st := mustState(t, s, g, "")
	must(t, st.Apply(h.applied[g], entries, map[string][]byte{"x": h.extra}))
	must(t, st.Flush(t.Context()))
}

// check returns the first error of reading, and fails the test for what is wrong
// and was not refused.
func (h *held) check(t testing.TB, s *Store, what string) error {
	for _, g := range slices.Sorted(maps.Keys(h.records)) {
		if _, damaged := s.Damage(g); damaged {
			if st := mustState(t, s, g, ""); st.Applied() != 0 || st.Keys() != 0 {
				t.Errorf("%s: the state of group %d is damaged, and there is one at %d with %d keys", what, g, st.Applied(), st.Keys())
			}
			continue
		}
		l, err := s.Log(g, 1, Fsync)
		if err != nil {
			return err
		}
		want := h.records[g]
		if l.Last() != uint64(len(want)) || l.First() != h.floor[g]+1 {
			t.Errorf("%s: the log of group %d is %d..%d, want %d..%d", what, g, l.First(), l.Last(), h.floor[g]+1, len(want))
			return nil
		}
		for i, record := range want[h.floor[g]:] {
			b, err := l.Get(h.floor[g] + uint64(i) + 1)
			if err != nil {
				return err
			}
			if !bytes.Equal(b, record) {
				t.Errorf("%s: record %d of group %d is another one", what, i+1, g)
			}
		}
		vote, err := l.Meta("vote")
		if err != nil {
			return err
		}
		if !bytes.Equal(vote, h.votes[g]) {
			t.Errorf("%s: the vote of group %d is %x, want %x", what, g, vote, h.votes[g])
		}
		if err := h.checkState(t, s, g, what); err != nil {
			return err
		}
	}
	node, err := s.Record("who")
	if err == nil && !bytes.Equal(node, h.node) {
		t.Errorf("%s: the node's record is %x, want %x", what, node, h.node)
	}
	return err
}

func (h *held) checkState(t testing.TB, s *Store, g fulcrum.GroupID, what string) error {
	st, err := s.State(g, "")
	if err != nil {
		return err
	}
	if st.Applied() != h.applied[g] || st.Keys() != len(h.states[g]) {
		t.Errorf("%s: the state of group %d stands at %d with %d keys, want %d with %d", what, g, st.Applied(), st.Keys(), h.applied[g], len(h.states[g]))
	}
	for i := range 600 {
		key := fmt.Sprintf("key-%04d", i)
		e, err := st.Get([]byte(key))
		if err != nil {
			return err
		}
		want, there := h.states[g][key]
		if there != (len(e.Key) > 0) || string(e.Value) != want {
			t.Errorf("%s: %s of group %d is %q, want %q", what, key, g, e.Value, want)
			return nil
		}
	}
	return nil
}

// images are a store that was closed, one that crashed while its log was long, one
// that crashed soon after its start, and one whose log was flushed to tables.
func images(t testing.TB, rnd *rand.Rand) map[string]struct {
	image
	*held
} {
	out := map[string]struct {
		image
		*held
	}{}
	for _, how := range []string{"closed", "crashed", "crashed while young", "flushed and crashed", "flushed and closed"} {
		fs, o := vfs.NewCrashableMem(), options(t.TempDir(), nil)
		o.LogFS = fs
		s, h := open(t, o), newHeld()
		h.add(t, s, rnd, 100, how == "crashed while young")
		if how != "crashed while young" {
			must(t, s.Close())
			s = open(t, o)
			h.add(t, s, rnd, 200, !strings.HasPrefix(how, "flushed"))
		}
		if strings.HasPrefix(how, "flushed") {
			must(t, s.db.Flush())
			h.add(t, s, rnd, 40, false)
			must(t, mustLog(t, s, 1, 1, Fsync).TruncateBefore(10), s.cut(t.Context()), s.db.Flush())
			h.floor[1] = 9
			h.add(t, s, rnd, 10, true)
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		if strings.HasSuffix(how, "closed") {
			must(t, s.Close())
			crashed = fs
		}
		out[how] = struct {
			image
			*held
		}{take(t, crashed, o.Dir), h}
	}
	return out
}

// TestEveryFlippedBitIsNoticedOrHarmless flips one bit of one file at a time.
func TestEveryFlippedBitIsNoticedOrHarmless(t *testing.T) {
	const flips = 60 // of each image
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for how, im := range images(t, rnd) {
		s, err := im.reopen(t)
		must(t, err, im.check(t, s, how+", whole"), s.Close())
		files := append(slices.Sorted(maps.Keys(im.log)), stateFile)
		noticed := map[string][2]int{}
		for range flips {
			name := files[rnd.IntN(len(files))]
			of := im.log
			if name == stateFile {
				of = im.data
			}
			b := of[name]
			if len(b) == 0 {
				continue
			}
			at, bit := rnd.IntN(len(b)), rnd.IntN(8)
			of[name] = bytes.Clone(b)
			of[name][at] ^= 1 << bit
			what := fmt.Sprintf("seed %d, %s: bit %d at %d of %s, which has %d bytes", seed, how, bit, at, name, len(b))
			err := im.try(t, im.held, what)
			of[name] = b
			count := noticed[filepath.Ext(name)]
			if count[0]++; err != nil {
				count[1]++
				wantRefusal(t, err, name, what)
			}
			noticed[filepath.Ext(name)] = count
		}
		t.Logf("%s: flips and refusals %v", how, noticed)
	}
}

// TestEveryFlippedBitOfTheEngineIsNoticedOrHarmless flips bits of the pages that are
// in use.
func TestEveryFlippedBitOfTheEngineIsNoticedOrHarmless(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	o := options(t.TempDir(), vfs.NewMem())
	s, h := open(t, o), newHeld()
	h.add(t, s, rnd, 200, false)
	must(t, mustState(t, s, 7, "hints").Apply(1, nil, map[string][]byte{"small": {1}, "piece#1": {2}}), s.Close())
	im := take(t, o.LogFS, o.Dir)
	path := filepath.Join(t.TempDir(), stateFile)
	must(t, os.WriteFile(path, im.data[stateFile], 0o600))
	v, err := verifyBolt(path)
	must(t, err)
	var pages []int
	for n := range int(v.high) {
		if n < 2 || v.used[n/64]&(1<<(n%64)) != 0 {
			pages = append(pages, n)
		}
	}
	refused, partly, harmless := 0, 0, 0
	b := im.data[stateFile]
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	put := func(at int) {
		_, err := f.WriteAt(b[at:at+1], int64(at))
		must(t, err)
	}
	var root int // the page with the bucket of standings, which is small and stands in it
	for _, n := range pages {
		if i := bytes.Index(b[n*v.pageSize:(n+1)*v.pageSize], append([]byte("states"), 0, 0, 0, 0, 0, 0, 0, 0)); i >= 0 {
			root = n*v.pageSize + i
		}
	}
	if root == 0 {
		t.Fatal("the bucket of standings is not found")
	}
	for i := range 2000 {
		page, bit := pages[rnd.IntN(len(pages))]*v.pageSize, rnd.IntN(8)
		at := page + rnd.IntN(v.pageSize)
		switch i % 4 {
		case 0: // elements: where things are
			at = page + rnd.IntN(120)
		case 1: // how many elements, how many pages
			at = page + 10 + rnd.IntN(6)
		case 2:
			at, bit = root+i/4/8, i/4%8
		}
		what := fmt.Sprintf("seed %d: bit %d at %d", seed, bit, at)
		b[at] ^= 1 << bit
		put(at)
		got, err := verifyBolt(path)
		if err == nil && got.whole() != nil { // of some groups: the others are as they were
			if partly++; partly%10 == 0 {
				if err := im.try(t, h, what); err == nil {
					t.Errorf("%s: %v, and the store knows of no damage", what, got.whole())
				}
			}
			err = got.whole()
		}
		switch {
		case err != nil:
			refused++
		case !slices.Equal(got.used, v.used) || !maps.Equal(got.buckets, v.buckets) || !maps.EqualFunc(got.standings, v.standings, sameStanding):
			t.Errorf("%s: the file is accepted and holds something else", what)
		default:
			if harmless++; harmless%40 == 0 {
				must(t, im.try(t, h, what))
			}
		}
		b[at] ^= 1 << bit
		put(at)
	}
	t.Logf("%d pages in use: %d flips noticed, %d of them of some groups only, %d harmless", len(pages), refused, partly, harmless)
	if refused < 300 || partly < 200 {
		t.Errorf("only %d flips were noticed, %d of them of some groups only: is the file read at all?", refused, partly)
	}
}

func sameStanding(a, b standing) bool { return bytes.Equal(a.encode(nil), b.encode(nil)) }

// TestWhatWasSyncedIsNoTornTail wipes bytes of a log's end, and more than a bit.
func TestWhatWasSyncedIsNoTornTail(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, options(t.TempDir(), fs))
	l := mustLog(t, s, 1, 1, Fsync)
	for i := range 50 {
		must(t, l.Append(uint64(i)+1, [][]byte{bytes.Repeat([]byte{byte(i)}, 300)}))
	}
	wipe := func(fs *vfs.MemFS, fromEnd int) (name string, err error) {
		names, err := fs.List("log")
		must(t, err)
		slices.Sort(names)
		for _, n := range names {
			if isWAL(n) {
				name = fs.PathJoin("log", n)
			}
		}
		st, err := fs.Stat(name)
		must(t, err)
		f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = f.WriteAt(make([]byte, 100), st.Size()-int64(fromEnd))
		must(t, err, f.Close())
		again, err := Open(options(t.TempDir(), fs))
		if err == nil {
			must(t, again.Close())
		}
		return name, err
	}
	// What only the sync itself knows of cannot be told from a torn write.
	if _, err := wipe(fs.CrashClone(vfs.CrashCloneCfg{}), 150); err != nil {
		t.Errorf("a torn end was refused: %v", err)
	}
	must(t, s.synced.sync())
	for _, fromEnd := range []int{150, 3000} {
		name, err := wipe(fs.CrashClone(vfs.CrashCloneCfg{}), fromEnd)
		if !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(fmt.Sprint(err), name+" is damaged at offset ") {
			t.Errorf("%d bytes from the end: %v", fromEnd, err)
		}
	}
}

// TestATornFirstWriteIsRepairedForGood: what was refused or repaired once is not
// looked at otherwise at the next start.
func TestATornFirstWriteIsRepairedForGood(t *testing.T) {
	fs := vfs.NewCrashableMem()
	must(t, open(t, options(t.TempDir(), fs)).Close())
	s := open(t, options(t.TempDir(), fs))
	names, err := fs.List("log")
	must(t, err)
	fs = fs.CrashClone(vfs.CrashCloneCfg{})
	must(t, s.Abandon())
	slices.Sort(names)
	for _, n := range names {
		st, err := fs.Stat(fs.PathJoin("log", n))
		if err == nil && isWAL(n) && st.Size() == 0 {
			f, err := fs.OpenReadWrite(fs.PathJoin("log", n), vfs.WriteCategoryUnspecified)
			must(t, err)
			_, err = f.WriteAt(append(make([]byte, 100), 1, 2, 3), 0)
			must(t, err, f.Sync(), f.Close())
			t.Logf("%s is torn", n)
		}
	}
	for life := range 4 {
		s, err := Open(options(t.TempDir(), fs))
		if err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		next := fs.CrashClone(vfs.CrashCloneCfg{})
		must(t, s.Abandon())
		fs = next
	}
}

// TestAnEngineWithoutSumsGetsThem opens a file of before there were sums of sums.
func TestAnEngineWithoutSumsGetsThem(t *testing.T) {
	o := options(t.TempDir(), vfs.NewMem())
	s, h, rnd := open(t, o), newHeld(), rand.New(rand.NewPCG(1, 0))
	h.add(t, s, rnd, 60, false)
	must(t, s.bolt.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(statesBucket)
		return errors.Join(b.SetSequence(0), b.ForEach(func(k, v []byte) error {
			old, ok := unseal(k, v)
			if !ok {
				return errSum
			}
			m, err := decodeStanding(k, v)
			return errors.Join(err, b.Put(k, sealed(k, old[:len(old)-len(binary.AppendUvarint(nil, m.sums))])))
		}))
	}), s.Close())
	s = open(t, o)
	must(t, h.check(t, s, "an old file"))
	h.add(t, s, rnd, 60, false)
	must(t, s.Close())
	v, err := verifyBolt(filepath.Join(o.Dir, stateFile))
	if err != nil || v.sequence == 0 {
		t.Errorf("after an open the file's sum is %x, %v", v.sequence, err)
	}
	must(t, h.check(t, open(t, o), "reopened"))
}

// TestPowerCutsAreNoDamage lets the power fail while much is written and not synced,
// of which any part may be on disk; some cuts hit right after a start.
func TestPowerCutsAreNoDamage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 8 {
		fs := vfs.NewCrashableMem()
		var acked uint64
		for life := range 8 {
			s, err := Open(options(t.TempDir(), fs))
			must(t, err)
			l, lazy := mustLog(t, s, 1, 1, Fsync), mustLog(t, s, 2, 1, Memory)
			if l.Last() < acked {
				t.Fatalf("seed %d, life %d: the log ends at %d, and %d was acknowledged", seed, life, l.Last(), acked)
			}
			acked = l.Last()
			for range rnd.IntN(3) * 20 {
				must(t, lazy.Append(lazy.Last()+1, [][]byte{randomBytes(rnd, 1+rnd.IntN(9000))}))
				if rnd.IntN(4) == 0 {
					must(t, l.Append(acked+1, [][]byte{randomBytes(rnd, 1+rnd.IntN(900))}))
					acked++
				}
				if rnd.IntN(30) == 0 {
					must(t, s.db.Flush())
				}
			}
			for range rnd.IntN(4) { // not synced
				must(t, lazy.Append(lazy.Last()+1, [][]byte{randomBytes(rnd, 1+rnd.IntN(60_000))}))
			}
			next := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
			must(t, s.Abandon())
			fs = next
		}
	}
}

// try opens a copy, reads everything and returns the error that stopped it.
func (im image) try(t testing.TB, h *held, what string) error {
	s, err := im.reopen(t)
	if err != nil {
		return err
	}
	defer s.Abandon()
	if err := h.check(t, s, what); err != nil {
		return err
	}
	for _, d := range s.Damages() { // what is not damaged was right
		return fulcrum.Errorf(fulcrum.CodeDisk, "group %d: %s", d.Group, d.Why)
	}
	return nil
}

func wantRefusal(t testing.TB, err error, name, what string) {
	t.Helper()
	place := strings.TrimSuffix(filepath.Base(name), ".sst") // pebble says "file 000012" of some
	if strings.HasPrefix(place, "OPTIONS") {
		place = "log in log" // pebble's settings: they hold nothing of ours
	}
	if !errors.Is(err, fulcrum.ErrDisk) || !strings.Contains(err.Error(), place) {
		t.Errorf("%s: refused without saying that and where: %v", what, err)
	}
}
