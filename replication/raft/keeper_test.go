package raft

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
	"fulcrum/replication/replicationtest"
)

func newKeeper(t interface{ Fatal(...any) }, st *replicationtest.State) *keeper {
	env := replication.Env{Node: "n", Epoch: 3, State: st, MaxValue: 100, Log: replicationtest.NewLog()}
	c, err := openCore(env, Tuning{}, NewRounds())
	if err != nil {
		t.Fatal(err)
	}
	k, err := openKeeper(c, env, NewChanges(NewRoom(RoomBytes)))
	if err != nil {
		t.Fatal(err)
	}
	c.machine = k
	return k
}

func draws[T any](t *rapid.T, label string, of ...T) T { return rapid.SampledFrom(of).Draw(t, label) }

func anyEntry(t *rapid.T, index uint64) protocol.Entry {
	e := entry{kind: entryBatch, value: draws(t, "largest", 1, 2, 5, 100), clock: anyReading(t, index), stamp: fulcrum.Version{Time: uint64(rapid.IntRange(1, 50).Draw(t, "time")) << rapid.SampledFrom([]int{0, 35}).Draw(t, "far"), Actor: uint32(rapid.IntRange(1, 3).Draw(t, "actor"))}}
	for range rapid.IntRange(1, 4).Draw(t, "requests") {
		req := replication.WriteRequest{Atomic: rapid.Bool().Draw(t, "atomic")}
		for range rapid.IntRange(1, 3).Draw(t, "writes") {
			w := fulcrum.Write{Op: draws(t, "op", fulcrum.OpPut, fulcrum.OpDelete, fulcrum.OpAdd, fulcrum.OpAppend, fulcrum.OpMerge),
				If: draws(t, "if", fulcrum.IfAlways, fulcrum.IfAbsent, fulcrum.IfPresent), Key: []byte(draws(t, "key", "a", "b", "c")), Value: []byte(draws(t, "value", "1", "22")), Quiet: rapid.Bool().Draw(t, "quiet"),
				NoValue: rapid.Bool().Draw(t, "no value"), NoOld: rapid.Bool().Draw(t, "no old")}
			if w.Op == fulcrum.OpMerge {
				w.If, w.At = fulcrum.IfAlways, fulcrum.Version{Time: uint64(rapid.IntRange(1, 99).Draw(t, "at")), Actor: 9}
			}
			if w.Op == fulcrum.OpPut {
				w.TTL = int64(draws(t, "ttl", 0, 0, 1, 500, 2000))
			}
			req.Writes = append(req.Writes, w)
		}
		if rapid.Bool().Draw(t, "named") {
			req.ID = fulcrum.RequestID(draws(t, "id", "i", "j", "k", "l"))
		}
		if rapid.Bool().Draw(t, "conditional") {
			req.If = []fulcrum.Compare{{Key: []byte(draws(t, "key", "a", "b", "c")), Op: draws(t, "compare", fulcrum.Equal, fulcrum.Greater)}}
			req.Else = []fulcrum.Write{{Op: fulcrum.OpAppend, Key: []byte("a"), Value: []byte("x")}, {Op: fulcrum.OpGet, Key: []byte("b")}}
		}
		e.items = append(e.items, encodeRequest(req))
	}
	return protocol.Entry{Index: index, Term: draws(t, "term", uint64(2), 2, 3), Data: e.encode()}
}

// anyLogged is anyEntry, or now and then one that lists keys as due, whether they are or not.
func anyLogged(t *rapid.T, index uint64) protocol.Entry {
	if rapid.IntRange(0, 9).Draw(t, "expires") > 0 {
		return anyEntry(t, index)
	}
	e := entry{kind: entryExpire, clock: anyReading(t, index), stamp: fulcrum.Version{Time: index, Actor: 1}}
	for _, key := range []string{"a", "b", "c"} {
		e.items = append(e.items, fulcrum.AppendBytes(nil, []byte(key)))
	}
	return protocol.Entry{Index: index, Term: 2, Data: e.encode()}
}

// anyReading is the clock of an entry: some rest on an entry of long ago, and some entries
// have none.
func anyReading(t *rapid.T, index uint64) clockReading {
	now := int64(rapid.IntRange(0, 5000).Draw(t, "clock")) * int64(time.Millisecond)
	return clockReading{base: uint64(rapid.IntRange(0, max(1, int(index))-1).Draw(t, "base")), now: now, wall: 1000}
}

// A snapshot that comes when this replica is further already may become the place behind
// which its log is cut. So what it stands for must be on disk first, also where the State
// has it in memory alone.
func TestASnapshotThatIsBehindIsDurableBeforeItCounts(t *testing.T) {
	st := replicationtest.NewState()
	k := newKeeper(t, st)
	e := entry{kind: entryBatch, stamp: fulcrum.Version{Time: 1, Actor: 1}}
	e.items = [][]byte{encodeRequest(replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v")}}})}
	for index := uint64(2); index <= 5; index++ {
		e.stamp.Time++
		k.apply([]protocol.Entry{{Index: index, Term: 2, Data: e.encode()}})
	}
	if st.Durable() >= 4 {
		t.Fatalf("the State is durable up to %d already: this tests nothing", st.Durable())
	}
	m := snapshotMeta{Index: 4, Term: 2}
	if err := k.install(m, bytes.NewReader(nil)); err != nil {
		t.Fatal(err)
	}
	if stored, err := k.storedMeta(); err != nil || stored.Index != 4 || st.Durable() < 4 {
		t.Errorf("the snapshot at %d counts (%v), and the State is durable up to %d", stored.Index, err, st.Durable())
	}
}

// anyPast is what the epochs before have left: entries, some of them due, tombstones too, and
// the floor that node.host leaves beside them.
func anyPast(t *rapid.T) (entries []fulcrum.Entry, floor fulcrum.Version) {
	for _, key := range []string{"a", "b", "c"} {
		if rapid.Bool().Draw(t, "never written") {
			continue
		}
		e := fulcrum.Entry{Key: []byte(key), Version: fulcrum.Version{Time: uint64(rapid.IntRange(1, 120).Draw(t, "past")), Actor: 8},
			ExpireAt: int64(draws(t, "past expiry", 0, 1, 500, 4000)), Tombstone: rapid.Bool().Draw(t, "tombstone")}
		if !e.Tombstone {
			e.Value = []byte("7")
		}
		if entries = append(entries, e); floor.Less(e.Version) {
			floor = e.Version
		}
	}
	return entries, floor
}

// begun is the State of a replica that begins its epoch with a past.
func begun(t interface{ Fatal(...any) }, past []fulcrum.Entry, floor fulcrum.Version) *replicationtest.State {
	st := replicationtest.NewState()
	if err := st.Apply(1, past, nil); err != nil {
		t.Fatal(err)
	}
	if err := st.Rebase(1, map[string][]byte{replication.FloorKey: []byte(floor.String())}); err != nil {
		t.Fatal(err)
	}
	return st
}

// However entries are cut into batches, replayed after a crash or moved by a
// snapshot, replicas end equal, and a shard's versions rise.
func TestReplicasAgreeHoweverEntriesArrive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		past, floor := anyPast(t)
		one, other := begun(t, past, floor), begun(t, past, floor)
		a, b := newKeeper(t, one), newKeeper(t, other)
		open := func() { // each time with another limit of its own
			b = newKeeper(t, other)
			b.env.MaxValue = draws(t, "own limit", 1, 3, 100)
		}
		open()
		var logs []protocol.Entry
		for i := range rapid.IntRange(1, 30).Draw(t, "entries") {
			logs = append(logs, anyLogged(t, uint64(i+2)))
		}
		var newest fulcrum.Version
		for _, l := range logs {
			res := a.apply([]protocol.Entry{l})[0].(*entryResult)
			e, err := decodeEntry(l.Data)
			if err != nil {
				t.Fatal(err)
			}
			for i, item := range res.items {
				if e.kind != entryBatch {
					continue
				}
				if req, err := decodeRequest(e.items[i]); err != nil || req.ID != "" {
					continue // it may be the answer of another time
				}
				results, ok := item.([]fulcrum.Result)
				if !ok {
					results = item.(elseRan)
				}
				for _, r := range results {
					if r.Applied && r.Entry.Version.Actor != 9 {
						if !newest.Less(r.Entry.Version) {
							t.Fatalf("version %v after %v", r.Entry.Version, newest)
						}
						newest = r.Entry.Version
					}
				}
			}
		}
		for at := 0; at < len(logs); {
			switch rapid.IntRange(0, 4).Draw(t, "how") {
			case 0: // a crash: the state falls back, entries come again
				other = other.Crash()
				open()
				at = max(0, int(other.Applied())-1)
			case 1: // a snapshot to an empty replica
				if b.applied() < 2 {
					continue
				}
				m := snapshotMeta{Index: b.applied(), Term: 2}
				_, stream, err := b.open(m)
				if err != nil {
					t.Fatal(err)
				}
				other = replicationtest.NewState()
				open()
				if err := b.install(m, stream); err != nil {
					t.Fatal(err)
				}
			default:
				n := rapid.IntRange(1, len(logs)-at).Draw(t, "batch")
				b.apply(logs[at : at+n])
				at += n
			}
		}
		if !reflect.DeepEqual(one.Dump(), other.Dump()) || a.get() != b.get() {
			t.Fatalf("one %v %v\nother %v %v", one.Dump(), a.get(), other.Dump(), b.get())
		}
		if got, want := idsOf(t, other), idsOf(t, one); !reflect.DeepEqual(got, want) || !reflect.DeepEqual(a.ids.places, b.ids.places) {
			t.Fatalf("ids %v\nother %v\n%v\n%v", want, got, a.ids.places, b.ids.places)
		}
	})
}

func TestSnapshotThatEndsEarlyChangesNothing(t *testing.T) {
	st := replicationtest.NewState()
	from := newKeeper(t, st)
	w := replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v")}}}
	from.apply([]protocol.Entry{{Index: 2, Term: 2, Data: entry{kind: entryBatch, items: [][]byte{encodeRequest(w)}}.encode()}})
	_, stream, err := from.open(snapshotMeta{Index: 2, Term: 2})
	if err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	if _, err := whole.ReadFrom(stream); err != nil {
		t.Fatal(err)
	}
	for n := range whole.Len() {
		target := replicationtest.NewState()
		to := newKeeper(t, target)
		if err := to.install(snapshotMeta{Index: 2, Term: 2}, bytes.NewReader(whole.Bytes()[:n])); err == nil {
			t.Errorf("a snapshot of %d of %d bytes was installed", n, whole.Len())
		}
		if target.Applied() != 0 || target.Keys() != 0 {
			t.Errorf("a snapshot of %d bytes left %d keys at %d", n, target.Keys(), target.Applied())
		}
	}
}

// Whoever lists the keys that are due may be wrong, or late: what is not due by the log's
// clock stays, also where it was due before it was written again.
func TestOnlyWhatIsDueExpires(t *testing.T) {
	k := newKeeper(t, replicationtest.NewState())
	index := uint64(1)
	apply := func(kind byte, clock time.Duration, item []byte) {
		index++
		e := entry{kind: kind, stamp: fulcrum.Version{Time: index, Actor: 1}, clock: clockReading{base: index - 1, now: int64(clock)}, items: [][]byte{item}}
		k.apply([]protocol.Entry{{Index: index, Term: 2, Data: e.encode()}})
	}
	puts := encodeRequest(replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v"), TTL: 1000}}})
	list := fulcrum.AppendBytes(nil, []byte("k"))
	apply(entryBatch, time.Second, puts)
	apply(entryBatch, 1900*time.Millisecond, puts)
	for _, tc := range []struct {
		clock time.Duration
		stays bool
	}{{2 * time.Second, true}, {2899 * time.Millisecond, true}, {2900 * time.Millisecond, false}} {
		apply(entryExpire, tc.clock, list)
		if e, err := k.env.State.Get([]byte("k")); err != nil || (string(e.Value) == "v") != tc.stays {
			t.Errorf("at %v: %+v, %v", tc.clock, e, err)
		}
	}
}

// Reads that are in an order go by the clock of the log, which a change of leader does not
// set back, and not by what this replica takes it to be by now: else what one of them found
// expired might come back.
func TestReadsInOrderGoByTheLogsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(t, replicationtest.NewState())
		k.env.Now = time.Now
		g := &Group{core: k.core, keeper: k, env: k.env}
		e := entry{kind: entryBatch, stamp: fulcrum.Version{Time: 1, Actor: 1}, clock: clockReading{now: int64(time.Second)}}
		k.apply([]protocol.Entry{{Index: 2, Term: 2, Data: e.encode()}})
		time.Sleep(5 * time.Second)
		for level, want := range map[consistency.Kind]int64{consistency.Linearizable: 1000, consistency.Lease: 1000, consistency.Session: 1000,
			consistency.Prefix: 1000, consistency.Bounded: 1000, consistency.One: 6000} {
			if got, err := g.readClock(t.Context(), consistency.L(level)); err != nil || got != want {
				t.Errorf("at %v: %d ms, %v, want %d", consistency.L(level), got, err, want)
			}
		}
	})
}

func TestFloorTravelsWithASnapshot(t *testing.T) {
	st := replicationtest.NewState()
	floor := fulcrum.Version{Time: 1 << 40, Actor: 3}
	if err := st.Rebase(1, map[string][]byte{replication.FloorKey: []byte(floor.String())}); err != nil {
		t.Fatal(err)
	}
	from := newKeeper(t, st)
	_, stream, err := from.open(snapshotMeta{Index: 1, Term: 1})
	if err != nil {
		t.Fatal(err)
	}
	to := newKeeper(t, replicationtest.NewState())
	if err := to.install(snapshotMeta{Index: 1, Term: 1}, stream); err != nil {
		t.Fatal(err)
	}
	if from.floor() != floor || to.floor() != floor {
		t.Errorf("floors %v and %v, want %v", from.floor(), to.floor(), floor)
	}
	if got := above(fulcrum.Version{Time: 5, Actor: 7}, floor); !floor.Less(got) || got.Actor != 7 {
		t.Errorf("a stamp above the floor: %v", got)
	}
}

func TestProgressOfAnotherEpochIsIgnored(t *testing.T) {
	p := progress{last: fulcrum.Version{Time: 9, Actor: 1}, fence: replication.Position{Term: 2, Index: 8}}
	if got, err := decodeProgress(p.encode(4), 4); err != nil || got != p {
		t.Errorf("%+v, %v, want %+v", got, err, p)
	}
	if got, err := decodeProgress(p.encode(4), 5); err != nil || got != (progress{}) {
		t.Errorf("of another epoch: %+v, %v", got, err)
	}
}

func TestTuningIsChecked(t *testing.T) {
	for _, tc := range []struct {
		name string
		t    Tuning
		ok   bool
	}{
		{"defaults", Tuning{}, true},
		{"a lease longer than the heartbeat", Tuning{Heartbeat: time.Second, LeaderLease: 2 * time.Second}, false},
		{"elections shorter than heartbeats", Tuning{Heartbeat: time.Second, Election: time.Millisecond}, false},
		{"a negative queue", Tuning{Queue: -1}, false},
	} {
		if err := tc.t.Validate(); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// What a request leaves does not depend on whether its replica looked at what stood
// there before: not on Quiet, nor on the floor that a replica happens to know.
func TestUnseenWritesLeaveTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		floor := fulcrum.Version{Time: uint64(rapid.IntRange(0, 60).Draw(t, "floor"))}
		past := fulcrum.Entry{Key: []byte("a"), Value: []byte("past"), Version: fulcrum.Version{Time: uint64(rapid.IntRange(1, 60).Draw(t, "past"))}}
		states := make([]*replicationtest.State, 3)
		keepers := make([]*keeper, 3)
		for i := range states {
			states[i] = replicationtest.NewState()
			if err := states[i].Apply(1, []fulcrum.Entry{past}, nil); err != nil {
				t.Fatal(err)
			}
			keepers[i] = newKeeper(t, states[i])
			keepers[i].base = past.Version // what node.host leaves there
		}
		if keepers[1].base.Less(floor) {
			keepers[1].base = floor // more than there is, as after a purge
		}
		for i := range rapid.IntRange(1, 20).Draw(t, "entries") {
			l := anyEntry(t, uint64(i+2))
			loud := l
			e, err := decodeEntry(l.Data)
			if err != nil {
				t.Fatal(err)
			}
			for i, item := range e.items {
				req, err := decodeRequest(item)
				if err != nil {
					t.Fatal(err)
				}
				for i := range req.Writes {
					req.Writes[i].Quiet = false
				}
				req.ID = "" // its sum covers Quiet
				e.items[i] = encodeRequest(req)
			}
			loud.Data = e.encode()
			for i, item := range e.items {
				req, _ := decodeRequest(item)
				req.Writes = quiet(req.Writes)
				e.items[i] = encodeRequest(req)
			}
			hushed := l
			hushed.Data = e.encode()
			keepers[0].apply([]protocol.Entry{hushed})
			keepers[1].apply([]protocol.Entry{hushed})
			keepers[2].apply([]protocol.Entry{loud})
		}
		for i := 1; i < 3; i++ {
			if got, want := dump(t, states[i]), dump(t, states[0]); !reflect.DeepEqual(got, want) {
				t.Fatalf("replica %d holds\n%v\nwant\n%v", i, got, want)
			}
		}
	})
}

func quiet(ws []fulcrum.Write) []fulcrum.Write {
	for i := range ws {
		ws[i].Quiet = true
	}
	return ws
}

func dump(t *rapid.T, st *replicationtest.State) (all []fulcrum.Entry) {
	err := st.Scan(nil, nil, func(e fulcrum.Entry) bool {
		all = append(all, e)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Tombstones that go take nothing from the floor: replicas that read it again, and those that
// did not, stamp and judge alike, and a watch behind a version of an earlier epoch is told
// that its changes are gone.
func TestPurgesLeaveTheFloor(t *testing.T) {
	floor := fulcrum.Version{Time: 100, Actor: 8}
	past := []fulcrum.Entry{{Key: []byte("k"), Value: []byte("past"), Version: floor},
		{Key: []byte("t"), Version: fulcrum.Version{Time: 90, Actor: 8}, Tombstone: true, ExpireAt: 1}}
	states := []*replicationtest.State{begun(t, past, floor), begun(t, past, floor)}
	keepers := []*keeper{newKeeper(t, states[0]), newKeeper(t, states[1])}
	apply := func(index uint64, e entry) {
		for _, k := range keepers {
			k.apply([]protocol.Entry{{Index: index, Term: 2, Data: e.encode()}})
		}
	}
	due := entry{kind: entryExpire, stamp: fulcrum.Version{Time: 101, Actor: 1}, clock: clockReading{base: 1, now: int64(time.Second)}}
	due.items = [][]byte{fulcrum.AppendBytes(nil, []byte("t"))}
	apply(2, due)
	if e, err := states[0].Get([]byte("t")); err != nil || !e.Version.IsZero() {
		t.Fatalf("the tombstone is still there: %+v, %v", e, err)
	}

	keepers[1] = newKeeper(t, states[1]) // restarts
	if got := keepers[1].floor(); got != floor {
		t.Errorf("after a restart the floor is %v, want %v", got, floor)
	}
	if _, err := keepers[1].changes.since(fulcrum.Version{Time: 50, Actor: 8}); !errors.Is(err, fulcrum.ErrCompacted) {
		t.Errorf("changes behind a version of an earlier epoch: %v, want that they are gone", err)
	}
	// A leader whose own clock is behind, and which has lost its floor, too.
	put := entry{kind: entryBatch, stamp: fulcrum.Version{Time: 5, Actor: 1}, clock: clockReading{base: 2, now: int64(time.Second)}}
	put.items = [][]byte{encodeRequest(replication.WriteRequest{Writes: quiet([]fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("v")}})})}
	apply(3, put)
	if !reflect.DeepEqual(states[0].Dump(), states[1].Dump()) {
		t.Errorf("the replicas differ:\n%v\n%v", states[0].Dump(), states[1].Dump())
	}
}
