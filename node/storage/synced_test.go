package storage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"fulcrum"
)

// TestAnOlderLogThatWasCutOffIsRefused: while a table is being written from it, a file of
// the log that is not the newest is needed too. What was synced of it is known, so that it
// does not pass for one that ended earlier: pebble itself takes any end of a record for its end.
func TestAnOlderLogThatWasCutOffIsRefused(t *testing.T) {
	mem, flushing := vfs.NewCrashableMem(), make(chan struct{})
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			<-flushing
		}
		return nil
	}))
	o := options(t.TempDir(), fs)
	s := open(t, o)
	l := mustLog(t, s, 1, 1, Fsync)
	logs := func() []string {
		names, err := mem.List("log")
		must(t, err)
		names = slices.DeleteFunc(names, func(name string) bool { return !isWAL(name) })
		slices.Sort(names)
		return names
	}
	for i := 1; len(logs()) < 3; i++ {
		must(t, l.Append(l.Last()+1, [][]byte{bytes.Repeat([]byte{7}, 20_000)}))
		if len(logs()) < 2 {
			must(t, l.SetMeta(map[string][]byte{"vote": fmt.Append(nil, i)}))
		}
	}
	must(t, s.synced.sync())
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	close(flushing)

	im := take(t, crashed, o.Dir)
	path := "log/" + logs()[0]
	whole := im.log[path]
	ends := recordEnds(path, whole)
	last := ends[len(ends)-1]
	dir := t.TempDir()
	for _, n := range append(ends, 0, len(whole)) {
		im.log[path] = whole[:n]
		must(t, os.RemoveAll(dir), os.Mkdir(dir, 0o700))
		s, err := im.reopenIn(t, dir)
		if err == nil {
			must(t, s.Abandon())
		}
		refused := errors.Is(err, fulcrum.ErrDisk) && strings.Contains(err.Error(), path+" is damaged at offset ")
		if refused != (n < last) {
			t.Errorf("%s, which needs %d bytes, was cut off at %d: %v", path, last, n, err)
		}
	}
}

// recordEnds are the offsets in a file of the log at which a record ends.
func recordEnds(path string, b []byte) (ends []int) {
	number, _ := numberOf(path)
	r := chunkReader{number: uint32(number)}
	for at := 0; at < len(b); {
		block := min(len(b), at/blockSize*blockSize+blockSize)
		c, ok := r.parse(b[at:block])
		switch {
		case ok:
			if at += c.size; c.ends {
				ends = append(ends, at)
			}
		case r.padding(b[at:block]):
			at = block
		default:
			return ends
		}
	}
	return ends
}

func TestTheNewestLogsAreKnown(t *testing.T) {
	var n note
	for number := range uint64(syncedLogs + 4) {
		n.reached(number+1, true, 10)
		n.reached(number+1, true, 100*(number+1))
	}
	n.reached(3, true, 1) // long forgotten
	for number, want := range map[uint64]uint64{20: 2000, 5: 500, 4: 0, 3: 0, 21: 0} {
		if got := n.of(number, true); got != want {
			t.Errorf("of log %d %d bytes are known, want %d", number, got, want)
		}
	}
	n.reached(14, true, 1401)
	if got := n.of(14, true); got != 1401 || n.of(20, true) != 2000 {
		t.Errorf("of log 14 %d bytes are known, want 1401", got)
	}
}
