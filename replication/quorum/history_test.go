package quorum_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/quorum"
	rt "fulcrum/replication/replicationtest"
)

// event is one operation that ended with a version: of what it wrote or read.
type event struct {
	key        string
	write      bool
	begin, end time.Time
	version    fulcrum.Version
	value      string
}

// history is what the clients of one run saw.
type history struct {
	mu      sync.Mutex
	events  []event
	refused map[string]bool // values of writes that were definitely not done
	unknown int
}

func (h *history) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// check finds operations out of order. Versions are a total order and each stands
// for one value, so a history is linearizable exactly if no operation has an older
// version than one that ended before it began, nor a write the same. Where writes are
// stamped by clocks (strict is false) only reads, and reads behind writes that
// won, are in that order.
func (h *history) check(t *testing.T, strict bool) {
	t.Helper()
	for _, a := range h.events {
		if !a.write && h.refused[a.value] {
			t.Errorf("read %q, whose write was refused as definitely not done", a.value)
		}
		for _, b := range h.events {
			if a.key != b.key || !a.end.Before(b.begin) || (b.write && !strict) {
				continue
			}
			if c := b.version.Compare(a.version); c < 0 || (c == 0 && b.write) {
				t.Errorf("%+v\nended before, with a newer version than\n%+v", a, b)
				return
			}
		}
	}
}

// client does random operations until the time is up.
func client(c *rt.Cluster, rnd *rand.Rand, h *history, id int, level consistency.Kind, until time.Time) {
	for n := 0; time.Now().Before(until); n++ {
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		at := c.IDs[rnd.IntN(len(c.IDs))]
		if c.Group(at) == nil {
			continue
		}
		e := event{key: fmt.Sprint("k", rnd.IntN(3)), begin: time.Now(), write: rnd.IntN(2) == 0, value: fmt.Sprint(id, "-", n)}
		var err error
		if e.write {
			var r replication.WriteReply
			if r, err = put(c, at, level, e.key, e.value); err == nil {
				e.version = r.Results[0].Entry.Version
			}
		} else {
			var r replication.ReadReply
			if r, err = read(c, at, level, e.key); err == nil {
				e.version, e.value = r.Entries[0].Version, string(r.Entries[0].Value)
			}
		}
		e.end = time.Now()
		switch {
		case err == nil:
			h.add(e)
		case e.write && errors.Is(err, fulcrum.ErrUnavailable):
			h.mu.Lock()
			h.refused[e.value] = true
			h.mu.Unlock()
		case e.write:
			h.mu.Lock()
			h.unknown++
			h.mu.Unlock()
		}
	}
}

// nemesis breaks something every few seconds, and mends it.
func nemesis(c *rt.Cluster, rnd *rand.Rand, skew bool, until time.Time) {
	pick := func() fulcrum.NodeID { return c.IDs[rnd.IntN(len(c.IDs))] }
	for time.Now().Before(until) {
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
		switch rnd.IntN(7) {
		case 0:
			c.Net.Isolate(pick())
		case 1:
			c.Net.Cut(pick(), pick())
		case 2:
			c.Net.CutOneWay(pick(), pick())
		case 3:
			c.Net.Latency(time.Duration(rnd.IntN(200)) * time.Millisecond)
		case 4:
			c.Restart(pick())
		case 5:
			if skew {
				c.Skew(pick(), time.Duration(rnd.IntN(7200)-3600)*time.Second)
			}
		default:
			c.Net.Heal()
			c.Net.Latency(0)
		}
	}
}

func runHistory(t *testing.T, seed uint64, replicas int, level consistency.Kind, skew bool) *history {
	h := &history{refused: map[string]bool{}}
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		c := rt.NewCluster(t, replicas, open(quorum.Options{SyncEvery: 7 * time.Second}), rt.Options{})
		defer c.Close()
		time.Sleep(time.Second)
		until := time.Now().Add(time.Minute)
		var wg sync.WaitGroup
		for i := range 5 {
			own := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() { client(c, own, h, i, level, until) })
		}
		nemesis(c, rnd, skew, until)
		wg.Wait()
		c.Net.Heal()
		c.Net.Latency(0)
		time.Sleep(30 * time.Second)
		if !equal(c) {
			t.Errorf("half a minute after healing the replicas differ: %v", c.State("n1").Dump())
		}
		final := c.State("n1").Dump()
		for _, e := range h.events {
			if final[e.key].Version.Less(e.version) {
				t.Errorf("lost: %+v; there is %s", e, final[e.key].Version)
			}
		}
	})
	return h
}

func TestHistories(t *testing.T) {
	for _, c := range []struct {
		name     string
		replicas int
		level    consistency.Kind
		skew     bool
	}{
		{"quorum reads and writes under faults", 3, consistency.QuorumOf, false},
		{"quorum of five under faults", 5, consistency.QuorumOf, false},
		{"linearizable under faults", 3, consistency.Linearizable, false},
		{"linearizable with clocks an hour apart", 3, consistency.Linearizable, true},
		{"linearizable of five with clocks an hour apart", 5, consistency.Linearizable, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			done, refused, unknown := 0, 0, 0
			for seed := range uint64(3) {
				h := runHistory(t, seed, c.replicas, c.level, c.skew)
				h.check(t, c.level == consistency.Linearizable)
				done += len(h.events)
				refused += len(h.refused)
				unknown += h.unknown
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			t.Logf("%d done, %d writes refused, %d unknown", done, refused, unknown)
			if done < 500 || refused == 0 || unknown == 0 {
				t.Error("the run shows too little")
			}
		})
	}
}

// TestHistoryCheckerCanFail runs the same faults at level one, which promises less.
func TestHistoryCheckerCanFail(t *testing.T) {
	for seed := range uint64(10) {
		h := runHistory(t, seed, 3, consistency.One, false)
		for _, a := range h.events {
			for _, b := range h.events {
				if a.key == b.key && a.end.Before(b.begin) && !b.write && b.version.Less(a.version) {
					return
				}
			}
		}
	}
	t.Fatal("reads at level one never went backwards under faults: the check proves nothing")
}
