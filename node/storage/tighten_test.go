package storage

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// Where the power fails, whatever a keyspace's durability, no State is further on disk than the
// log that led there.
func TestNoStateIsAheadOfItsLog(t *testing.T) {
	for _, d := range []Durability{Fsync, Interval, Memory} {
		fs, dir := vfs.NewCrashableMem(), t.TempDir()
		s := open(t, options(dir, fs))
		l, st := mustLog(t, s, 2, 1, d), mustState(t, s, 2, "")
		for i := uint64(1); i <= 5; i++ {
			must(t, l.Append(i, [][]byte{[]byte("record")}))
			must(t, st.Apply(i, []fulcrum.Entry{{Key: []byte{byte(i)}, Value: []byte("v"), Version: fulcrum.Version{Time: i}}}, nil))
		}
		must(t, st.Flush(context.Background()))
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		must(t, s.Close())
		s = open(t, options(dir, crashed))
		if at, last := mustState(t, s, 2, "").Applied(), mustLog(t, s, 2, 1, d).Last(); at != 5 || last < at {
			t.Errorf("%v: the state is at %d, its log ends at %d", d, at, last)
		}
	}
}
