package quorum_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
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

// open makes replicas with options fit for tests; anti-entropy is off unless a
// test turns it on, so that hints must do their work alone.
func open(opt quorum.Options) rt.OpenFunc {
	if opt.SyncEvery == 0 {
		opt.SyncEvery = 1000 * time.Hour
	}
	return func(env replication.Env) (replication.Group, error) { return quorum.Open(env, opt) }
}

// in runs f in a bubble on a cluster of n replicas.
func in(t *testing.T, n int, opt quorum.Options, ropt rt.Options, f func(t *testing.T, c *rt.Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := rt.NewCluster(t, n, open(opt), ropt)
		defer c.Close()
		time.Sleep(time.Second) // all have met
		f(t, c)
	})
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func put(c *rt.Cluster, at fulcrum.NodeID, k consistency.Kind, kv ...string) (replication.WriteReply, error) {
	var ws []fulcrum.Write
	for i := 0; i < len(kv); i += 2 {
		ws = append(ws, fulcrum.Write{Op: fulcrum.OpPut, Key: []byte(kv[i]), Value: []byte(kv[i+1])})
	}
	return write(c, at, k, ws...)
}

func write(c *rt.Cluster, at fulcrum.NodeID, k consistency.Kind, ws ...fulcrum.Write) (replication.WriteReply, error) {
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	g := c.Group(at)
	if g == nil {
		return replication.WriteReply{}, errDown // between two lives
	}
	return g.Write(ctx, replication.WriteRequest{Writes: ws, Level: consistency.L(k)})
}

var errDown = fulcrum.Errorf(fulcrum.CodeUnavailable, "the node is down")

func read(c *rt.Cluster, at fulcrum.NodeID, k consistency.Kind, key string) (replication.ReadReply, error) {
	ctx, cancel := within(5 * time.Second)
	defer cancel()
	g := c.Group(at)
	if g == nil {
		return replication.ReadReply{}, errDown
	}
	return g.Read(ctx, replication.ReadRequest{Keys: [][]byte{[]byte(key)}, Level: consistency.L(k)})
}

func mustPut(t *testing.T, c *rt.Cluster, at fulcrum.NodeID, k consistency.Kind, kv ...string) replication.WriteReply {
	t.Helper()
	r, err := put(c, at, k, kv...)
	if err != nil {
		t.Fatalf("put %v at %s through %s: %v", kv, consistency.L(k), at, err)
	}
	return r
}

// wantRead fails unless the read gives value; "" stands for nothing live.
func wantRead(t *testing.T, c *rt.Cluster, at fulcrum.NodeID, k consistency.Kind, key, value string) replication.ReadReply {
	t.Helper()
	r, err := read(c, at, k, key)
	if err != nil {
		t.Fatalf("read %q at %s through %s: %v", key, consistency.L(k), at, err)
	}
	got := ""
	if r.Entries[0].Live(time.Now().UnixMilli()) {
		got = string(r.Entries[0].Value)
	}
	if got != value {
		t.Fatalf("read %q at %s through %s: got %q, want %q", key, consistency.L(k), at, got, value)
	}
	return r
}

// equal reports whether all replicas hold the same entries, versions included.
func equal(c *rt.Cluster) bool {
	first := c.State(c.IDs[0]).Dump()
	for _, id := range c.IDs[1:] {
		if !reflect.DeepEqual(first, c.State(id).Dump()) {
			return false
		}
	}
	return true
}

func wantEqual(t *testing.T, c *rt.Cluster, keys int) {
	t.Helper()
	if got := len(c.State(c.IDs[0]).Dump()); got != keys {
		t.Fatalf("%s holds %d keys, want %d", c.IDs[0], got, keys)
	}
	if !equal(c) {
		for _, id := range c.IDs {
			t.Logf("%s: %v", id, c.State(id).Dump())
		}
		t.Fatal("the replicas differ")
	}
}

func cut(c *rt.Cluster, left, right []fulcrum.NodeID) {
	for _, a := range left {
		for _, b := range right {
			c.Net.Cut(a, b)
		}
	}
}

func TestWriteThenReadAtEveryLevel(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		for i, k := range []consistency.Kind{consistency.Default, consistency.Any, consistency.One, consistency.Two, consistency.Three, consistency.QuorumOf,
			consistency.All, consistency.LocalOne, consistency.LocalQuorum, consistency.EachQuorum, consistency.Linearizable, consistency.Session} {
			key := fmt.Sprint("k", i)
			r := mustPut(t, c, "n1", k, key, "v")
			if r.Outcome.Acks < r.Outcome.Needed || r.Outcome.Position.Index != r.Results[0].Entry.Version.Time || !r.Results[0].Applied {
				t.Fatalf("%s: %+v", consistency.L(k), r)
			}
			synctest.Wait()
			if k != consistency.Any {
				wantRead(t, c, "n2", k, key, "v")
			}
		}
		wantEqual(t, c, 12)
	})
}

func TestOneReplicaAlone(t *testing.T) {
	in(t, 1, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.Linearizable, "k", "v")
		wantRead(t, c, "n1", consistency.Linearizable, "k", "v")
		if _, err := put(c, "n1", consistency.Two, "k", "w"); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Fatalf("two of one: %v", err)
		}
	})
}

func TestRefusesWhatItCannotDo(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		ctx, cancel := within(time.Second)
		defer cancel()
		g := c.Group("n1")
		k := []byte("k")
		for name, req := range map[string]replication.WriteRequest{
			"an increment":  {Writes: []fulcrum.Write{{Op: fulcrum.OpAdd, Key: k, Value: []byte("1")}}},
			"a condition":   {Writes: []fulcrum.Write{{Op: fulcrum.OpPut, If: fulcrum.IfAbsent, Key: k}}},
			"two as one":    {Atomic: true, Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: k}, {Op: fulcrum.OpPut, Key: k}}},
			"keeping a TTL": {Writes: []fulcrum.Write{{Op: fulcrum.OpPut, KeepTTL: true, Key: k}}},
		} {
			if _, err := g.Write(ctx, req); !errors.Is(err, fulcrum.ErrMode) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := write(c, "n1", consistency.QuorumOf, fulcrum.Write{Op: fulcrum.OpPut, Key: k}, fulcrum.Write{Op: fulcrum.OpPut}); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Errorf("an empty key beside a good one: %v", err)
		}
		if len(c.State("n1").Dump()) != 0 {
			t.Error("a refused write was stored")
		}
	})
}

func TestPartition(t *testing.T) {
	in(t, 5, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "k", "before")
		cut(c, c.IDs[:2], c.IDs[2:])
		time.Sleep(2 * time.Second) // nobody has been heard from lately
		left, right := c.IDs[0], c.IDs[2]

		begin := time.Now()
		if _, err := put(c, left, consistency.QuorumOf, "minority", "x"); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Fatalf("quorum write on the minority side: %v", err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Fatalf("the first refusal took %v", took)
		}
		begin = time.Now()
		if _, err := put(c, left, consistency.QuorumOf, "minority", "x"); !errors.Is(err, fulcrum.ErrUnavailable) || time.Since(begin) > 0 {
			t.Fatalf("the next refusal: %v after %v", err, time.Since(begin))
		}
		if _, err := read(c, left, consistency.QuorumOf, "k"); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Fatalf("quorum read on the minority side: %v", err)
		}
		wantRead(t, c, left, consistency.One, "minority", "") // refused is definite
		mustPut(t, c, left, consistency.One, "left", "1", "both", "left")
		mustPut(t, c, left, consistency.Two, "left2", "1")
		time.Sleep(time.Second)
		mustPut(t, c, right, consistency.QuorumOf, "right", "1", "both", "right")
		mustPut(t, c, right, consistency.One, "right1", "1")
		wantRead(t, c, right, consistency.QuorumOf, "both", "right")
		wantRead(t, c, left, consistency.One, "both", "left")
		if _, err := put(c, right, consistency.All, "all", "x"); !errors.Is(err, fulcrum.ErrUnknown) && !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Fatalf("all with replicas away: %v", err)
		}
		time.Sleep(time.Second)
		if c.Group(left).Status().Hints == 0 || c.Group(right).Status().Hints == 0 {
			t.Fatal("no hints are kept for the other side")
		}
		c.Net.Heal()
		time.Sleep(5 * time.Second)
		if !equal(c) {
			t.Fatal("hints alone did not make the replicas equal")
		}
		for _, id := range c.IDs {
			if h := c.Group(id).Status().Hints; h != 0 {
				t.Errorf("%s still keeps %d hints", id, h)
			}
			wantRead(t, c, id, consistency.One, "both", "right")
		}
	})
}

func TestUnknownWhenReplicasVanishUnderAWrite(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "k", "a")
		c.Net.Isolate("n1")
		if _, err := put(c, "n1", consistency.QuorumOf, "k", "b"); !errors.Is(err, fulcrum.ErrUnknown) {
			t.Fatalf("stored here, and nobody else answered: %v", err)
		}
		wantRead(t, c, "n1", consistency.One, "k", "b")
		c.Net.Heal()
		time.Sleep(3 * time.Second)
		wantRead(t, c, "n2", consistency.QuorumOf, "k", "b")
	})
}

func TestAntiEntropyAloneConverges(t *testing.T) {
	m := &metrics{}
	edit := func(env *replication.Env) { env.Metrics = m }
	in(t, 3, quorum.Options{SyncEvery: 10 * time.Second, MaxHints: 1}, rt.Options{Edit: edit}, func(t *testing.T, c *rt.Cluster) {
		cut(c, c.IDs[:1], c.IDs[1:])
		for i := range 300 {
			mustPut(t, c, "n1", consistency.One, fmt.Sprint("left", i), "1")
			mustPut(t, c, "n2", consistency.One, fmt.Sprint("right", i), "1")
		}
		time.Sleep(time.Second)
		if h := c.Group("n1").Status().Hints; h > 3 { // the bound, and one "everything" a replica
			t.Fatalf("%d hints are kept, the bound is 1", h)
		}
		c.Net.Heal()
		time.Sleep(30 * time.Second)
		wantEqual(t, c, 600)
		if m.repaired == 0 {
			t.Error("anti-entropy counted no repair")
		}
		for _, id := range c.IDs {
			if h := c.Group(id).Status().Hints; h != 0 {
				t.Errorf("%s still keeps %d hints", id, h)
			}
		}
		before := c.Net.Calls()
		time.Sleep(time.Minute)
		if n := c.Net.Calls() - before; n > 6*8 {
			t.Errorf("%d calls in an idle minute", n)
		}
	})
}

// metrics counts repairs.
type metrics struct {
	replication.NoMetrics
	mu             sync.Mutex
	repaired, read int
}

func (m *metrics) AntiEntropyRepaired(n int) { m.mu.Lock(); m.repaired += n; m.mu.Unlock() }
func (m *metrics) ReadRepair(n int)          { m.mu.Lock(); m.read += n; m.mu.Unlock() }

// storeAt puts a value on one replica alone, newer than what any holds, as a write
// leaves it whose coordinator died before it reached the others.
func storeAt(t *testing.T, c *rt.Cluster, id fulcrum.NodeID, key, value string) {
	t.Helper()
	e := fulcrum.Entry{Key: []byte(key), Value: []byte(value), Version: fulcrum.Version{Time: uint64(time.Now().UnixMilli())<<16 + 99, Actor: 77}}
	from := c.IDs[0]
	if from == id {
		from = c.IDs[1]
	}
	ctx, cancel := within(time.Second)
	defer cancel()
	if _, err := c.Group(id).Handle(ctx, from, fulcrum.AppendEntry([]byte{2, 1, 1}, e)); err != nil {
		t.Fatal(err)
	}
}

func TestStrongReadsBlockOnRepair(t *testing.T) {
	for _, k := range []consistency.Kind{consistency.QuorumOf, consistency.Linearizable, consistency.Session, consistency.EachQuorum, consistency.LocalQuorum} {
		for _, via := range []fulcrum.NodeID{"n1", "n2"} {
			t.Run(fmt.Sprintf("%s through %s", consistency.L(k), via), func(t *testing.T) {
				in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
					mustPut(t, c, "n1", consistency.All, "k", "old")
					storeAt(t, c, "n1", "k", "new")
					c.Net.Cut("n2", "n3") // so that n1 is in the quorum of either
					c.Net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) rt.Verdict {
						if msg[0] == 2 {
							return rt.Verdict{Delay: 100 * time.Millisecond}
						}
						return rt.Verdict{}
					})
					r := wantRead(t, c, via, k, "k", "new")
					c.Net.Isolate("n1") // at once: what the read left behind must be there already
					if r.Outcome.Repaired == 0 {
						t.Error("the receipt shows no repair")
					}
					c.Net.Heal()
					c.Net.Isolate("n1")
					time.Sleep(3 * time.Second)
					wantRead(t, c, "n2", k, "k", "new")
					wantRead(t, c, "n3", k, "k", "new")
				})
			})
		}
	}
}

func TestStrongReadFailsWhenItCannotRepair(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "k", "old")
		storeAt(t, c, "n1", "k", "new")
		c.Net.OnCall(func(_, _ fulcrum.NodeID, msg []byte) rt.Verdict { return rt.Verdict{Drop: msg[0] == 2} })
		if r, err := read(c, "n1", consistency.QuorumOf, "k"); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Fatalf("%+v, %v: one replica holds it, and nobody else can be told", r, err)
		}
	})
}

func TestWeakReadRepairsBehindTheAnswer(t *testing.T) {
	m := &metrics{}
	in(t, 3, quorum.Options{}, rt.Options{Edit: func(env *replication.Env) { env.Metrics = m }}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "k", "old")
		storeAt(t, c, "n1", "k", "new")
		c.Net.Cut("n2", "n3")
		wantRead(t, c, "n2", consistency.Two, "k", "new")
		synctest.Wait()
		wantRead(t, c, "n2", consistency.One, "k", "new")
		if m.read != 1 {
			t.Errorf("%d repairs counted", m.read)
		}
	})
}

func TestNoKeyComesBackFromTheDead(t *testing.T) {
	in(t, 3, quorum.Options{SyncEvery: 5 * time.Second}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		mustPut(t, c, "n1", consistency.All, "k", "v")
		c.Net.Isolate("n3")
		if _, err := write(c, "n1", consistency.QuorumOf, fulcrum.Write{Op: fulcrum.OpDelete, Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
		wantRead(t, c, "n3", consistency.One, "k", "v")
		time.Sleep(time.Minute)
		c.Net.Heal()
		time.Sleep(10 * time.Second)
		for _, id := range c.IDs {
			wantRead(t, c, id, consistency.One, "k", "")
		}
		wantEqual(t, c, 1) // the tombstone stays
	})
}

func TestHintsSurviveARestart(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		c.Net.Isolate("n3")
		mustPut(t, c, "n1", consistency.QuorumOf, "a", "1")
		time.Sleep(time.Second)
		mustPut(t, c, "n1", consistency.QuorumOf, "a", "2", "b", "1")
		time.Sleep(time.Second)
		before := c.Group("n1").Status().Hints
		c.Restart("n1")
		if got := c.Group("n1").Status().Hints; got != before || got != 2 {
			t.Fatalf("%d hints after a restart, %d before, want 2", got, before)
		}
		wantRead(t, c, "n1", consistency.QuorumOf, "a", "2")
	})
}

func TestRestartReplaysTheLog(t *testing.T) {
	in(t, 3, quorum.Options{TruncateRecords: 16}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		for round := range 4 {
			for i := range 50 {
				mustPut(t, c, c.IDs[i%3], consistency.All, fmt.Sprint("k", i), fmt.Sprint(round))
			}
			for _, id := range c.IDs {
				c.Stop(id)
			}
			for _, id := range c.IDs {
				c.Restart(id)
			}
			time.Sleep(time.Second)
			for i := range 50 {
				wantRead(t, c, c.IDs[i%3], consistency.One, fmt.Sprint("k", i), fmt.Sprint(round))
			}
		}
		if first := c.Log("n1").First(); first < 100 {
			t.Errorf("the log still begins at %d", first)
		}
		wantEqual(t, c, 50)
	})
}

func TestClockBehindLosesAtQuorumButNotAtLinearizable(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		c.Skew("n3", -time.Hour)
		c.Net.Isolate("n3")
		mustPut(t, c, "n1", consistency.QuorumOf, "k", "newer", "l", "newer")
		c.Net.Heal()
		// n3 has neither the write nor its hint when it writes.
		c.Net.OnCall(func(_, to fulcrum.NodeID, msg []byte) rt.Verdict {
			return rt.Verdict{Drop: to == "n3" && msg[0] == 2 || msg[0] == 5}
		})
		time.Sleep(2 * time.Second)
		mustPut(t, c, "n3", consistency.QuorumOf, "k", "later")
		wantRead(t, c, "n1", consistency.QuorumOf, "k", "newer") // last writer wins, by its clock
		mustPut(t, c, "n3", consistency.Linearizable, "l", "later")
		wantRead(t, c, "n1", consistency.Linearizable, "l", "later")
		mustPut(t, c, "n3", consistency.Linearizable, "l", "latest")
		wantRead(t, c, "n2", consistency.Linearizable, "l", "latest")
	})
}

func TestClockAheadIsRefused(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		c.Skew("n1", time.Hour)
		time.Sleep(2 * time.Second)
		if _, err := put(c, "n1", consistency.QuorumOf, "k", "future"); !errors.Is(err, fulcrum.ErrUnavailable) {
			t.Fatalf("a write from a clock an hour ahead: %v", err)
		}
		mustPut(t, c, "n2", consistency.QuorumOf, "k", "now")
		wantRead(t, c, "n3", consistency.QuorumOf, "k", "now")
		c.Skew("n1", 0)
		time.Sleep(2 * time.Second)
		mustPut(t, c, "n1", consistency.QuorumOf, "k", "mended")
		wantRead(t, c, "n3", consistency.QuorumOf, "k", "mended")
	})
}

func TestLinearizableWriteWinsOverAVersionOfTheFuture(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		c.Skew("n1", time.Hour)
		mustPut(t, c, "n1", consistency.One, "k", "future") // spreads by hints
		time.Sleep(3 * time.Second)
		wantRead(t, c, "n2", consistency.QuorumOf, "k", "future")
		for i := range 3 {
			mustPut(t, c, c.IDs[1+i%2], consistency.Linearizable, "k", fmt.Sprint(i))
			wantRead(t, c, "n3", consistency.Linearizable, "k", fmt.Sprint(i))
		}
		mustPut(t, c, "n2", consistency.QuorumOf, "other", "v") // and its node is not thought skewed
	})
}

func TestOverloadIsRefusedAtOnce(t *testing.T) {
	in(t, 1, quorum.Options{MaxQueue: 4}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		c.Log("n1").SyncDelay(time.Second)
		var done, refused int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				begin := time.Now()
				_, err := put(c, "n1", consistency.One, fmt.Sprint("k", i), "v")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					done++
				case errors.Is(err, fulcrum.ErrOverloaded) && time.Since(begin) == 0:
					refused++
				default:
					t.Errorf("%v after %v", err, time.Since(begin))
				}
			})
		}
		wg.Wait()
		if refused == 0 || done == 0 || len(c.State("n1").Dump()) != done {
			t.Fatalf("%d done, %d refused, %d stored", done, refused, len(c.State("n1").Dump()))
		}
	})
}

func TestScanMergesReplicas(t *testing.T) {
	in(t, 3, quorum.Options{}, rt.Options{}, func(t *testing.T, c *rt.Cluster) {
		for i := range 40 {
			mustPut(t, c, "n1", consistency.All, fmt.Sprintf("k%02d", i), "old")
		}
		c.Net.Isolate("n1")
		for i := range 40 {
			var err error
			switch {
			case i%4 == 0:
				_, err = write(c, "n2", consistency.QuorumOf, fulcrum.Write{Op: fulcrum.OpDelete, Key: fmt.Appendf(nil, "k%02d", i)})
			case i%4 == 1:
				_, err = put(c, "n2", consistency.QuorumOf, fmt.Sprintf("k%02d", i), "new")
			case i%4 == 2:
				_, err = put(c, "n2", consistency.QuorumOf, fmt.Sprintf("k%02d+", i), "more")
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		c.Net.Heal()
		c.Net.OnCall(func(from, to fulcrum.NodeID, msg []byte) rt.Verdict {
			return rt.Verdict{Drop: to == "n1" && msg[0] == 2} // no hint gets through
		})
		time.Sleep(2 * time.Second)
		ctx, cancel := within(5 * time.Second)
		defer cancel()
		var got []string
		start := []byte("k")
		for pages := 0; ; pages++ {
			r, err := c.Group("n1").Scan(ctx, replication.ScanRequest{Start: start, Limit: 7, Level: consistency.L(consistency.QuorumOf)})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range r.Entries {
				got = append(got, string(e.Key)+"="+string(e.Value))
				start = append([]byte(string(e.Key)), 0)
			}
			if !r.More {
				break
			}
			if len(r.Entries) != 7 || pages > 20 {
				t.Fatalf("a page of %d entries that says there are more", len(r.Entries))
			}
		}
		var want []string
		for i := range 40 {
			switch i % 4 {
			case 1:
				want = append(want, fmt.Sprintf("k%02d=new", i))
			case 2:
				want = append(want, fmt.Sprintf("k%02d=old", i), fmt.Sprintf("k%02d+=more", i))
			case 3:
				want = append(want, fmt.Sprintf("k%02d=old", i))
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	})
}
