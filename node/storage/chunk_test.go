package storage

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/prometheus/client_golang/prometheus"
)

// logFile is what a log holds in memory.
type logFile struct{ bytes.Buffer }

func (*logFile) Sync() error { return nil }

// wal writes a log of pebble's: synced records, and unsynced ones after them.
func wal(t testing.TB, offsets bool, synced, unsynced int) (b []byte, length int64) {
	var f logFile
	w := record.NewLogWriter(&f, 7, record.LogWriterConfig{
		WALFsyncLatency:     prometheus.NewHistogram(prometheus.HistogramOpts{}),
		WriteWALSyncOffsets: func() bool { return offsets },
	})
	payload := randomBytes(rand.New(rand.NewPCG(1, 1)), 1000)
	for range synced {
		var wg sync.WaitGroup
		var err error
		wg.Add(1)
		length, _ = w.SyncRecord(payload, &wg, &err)
		wg.Wait()
		must(t, err)
	}
	for range unsynced {
		_, err := w.WriteRecord(payload)
		must(t, err)
	}
	must(t, w.Close())
	return f.Bytes(), length
}

// TestTornOrDamaged wipes 300 bytes, more than any one bit explains.
func TestTornOrDamaged(t *testing.T) {
	for _, offsets := range []bool{true, false} {
		whole, synced := wal(t, offsets, 300, 200)
		r := chunkReader{number: 7}
		e, err := r.scan(bytes.NewReader(whole))
		if err != nil || e.torn || e.at < int64(len(whole))-numberHeader {
			t.Fatalf("offsets %v: a whole log of %d bytes ends at %+v, %v", offsets, len(whole), e, err)
		}
		for _, tt := range []struct {
			at     int64
			damage bool
		}{
			{1000, offsets}, {40_000, offsets}, {synced / 2, offsets},
			{synced + 2000, false}, {synced + 50_000, false}, {int64(len(whole)) - 400, false},
		} {
			b := bytes.Clone(whole)
			clear(b[tt.at : tt.at+300])
			e, err := r.scan(bytes.NewReader(b))
			if err != nil || !e.torn || e.at > tt.at || e.at < tt.at-2100 || (e.why != "") != tt.damage {
				t.Errorf("offsets %v: synced to %d, wiped at %d: %+v, %v", offsets, synced, tt.at, e, err)
			}
		}
		if e, err := r.scan(bytes.NewReader(whole[:len(whole)-700])); err != nil || e.why != "" {
			t.Errorf("offsets %v: a log that is cut off: %+v, %v", offsets, e, err)
		}
	}
}

// TestAFlippedBitOfALogIsKnown flips each bit of some bytes, the last chunk's too.
func TestAFlippedBitOfALogIsKnown(t *testing.T) {
	for _, offsets := range []bool{true, false} {
		whole, _ := wal(t, offsets, 40, 0)
		end := len(whole) - numberHeader // of the last chunk; a trailer stands behind it
		rnd := rand.New(rand.NewPCG(2, 2))
		for i := range 400 {
			at := rnd.IntN(end)
			if i < 100 {
				at = end - 1 - i*11
			}
			bit := rnd.IntN(8)
			b := bytes.Clone(whole)
			b[at] ^= 1 << bit
			e, err := chunkReader{number: 7}.scan(bytes.NewReader(b))
			if err != nil || !strings.Contains(e.why, "one bit") {
				t.Errorf("offsets %v: bit %d at %d of %d: %+v, %v", offsets, bit, at, len(b), e, err)
			}
		}
	}
}
