package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"fulcrum"
)

// TestAReaderHoldsUpNoGrowth: to map its file anew bbolt waits for all who read, and everybody else
// for it. The patrol reads for as long as its disk takes.
func TestAReaderHoldsUpNoGrowth(t *testing.T) {
	const size, each = 256 << 20, 8 << 20 // more than bbolt would map at first
	s := open(t, options(t.TempDir(), vfs.NewMem()))
	st := many(t, s, 4)
	tx, err := s.beginRead()
	must(t, err)
	value := string(randomBytes(rand.New(rand.NewPCG(1, 1)), each))
	grown := make(chan error, 1)
	go func() {
		var err error
		for at := uint64(10); err == nil && at < 12+size/each; at++ {
			e := entry(fmt.Sprint("large-", at), value, at)
			err = errors.Join(st.Apply(at, []fulcrum.Entry{e}, nil), st.Flush(t.Context()))
		}
		grown <- err
	}()
	waits := time.NewTimer(time.Minute)
	defer waits.Stop()
	select {
	case err = <-grown:
		must(t, err, tx.Rollback())
	case <-waits.C:
		t.Error("a commit waits for a transaction that reads")
		must(t, tx.Rollback(), <-grown)
	}
}
