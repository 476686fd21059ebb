package raft

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
	"fulcrum/replication/replicationtest"
)

// idsOf returns the extras that hold request ids.
func idsOf(t interface{ Fatal(...any) }, st *replicationtest.State) map[string]string {
	v, err := st.View()
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	ids := map[string]string{}
	for name, b := range v.Extra() {
		if strings.HasPrefix(name, extraIDs) {
			ids[name] = string(b)
		}
	}
	return ids
}

const window = time.Duration(idWindow) * time.Millisecond

// journal applies requests, one an entry.
type journal struct {
	t     interface{ Fatal(...any) }
	k     *keeper
	index uint64
	at    time.Duration // wall time of the next stamp
}

func newJournal(t interface{ Fatal(...any) }, k *keeper) *journal {
	return &journal{t: t, k: k, index: max(1, k.applied()), at: 1e6 * time.Second}
}

func (l *journal) apply(req replication.WriteRequest) any {
	l.index++
	stamp := fulcrum.Version{Time: uint64(l.at/time.Millisecond) << 16, Actor: 1}
	e := entry{kind: entryBatch, stamp: stamp, items: [][]byte{encodeRequest(req)}}
	res := l.k.apply([]protocol.Entry{{Index: l.index, Term: 2, Data: e.encode()}})[0].(*entryResult)
	if res.err != nil {
		l.t.Fatal(res.err)
	}
	return res.items[0]
}

func (l *journal) results(req replication.WriteRequest) []fulcrum.Result {
	a := l.apply(req)
	if err, ok := a.(error); ok {
		l.t.Fatal(err)
	}
	if r, ok := a.(elseRan); ok {
		return r
	}
	return a.([]fulcrum.Result)
}

func incr(id string) replication.WriteRequest {
	return replication.WriteRequest{ID: fulcrum.RequestID(id), Writes: []fulcrum.Write{{Op: fulcrum.OpAdd, Key: []byte("n"), Value: []byte("1")}}}
}

func (l *journal) incr(id string) string { return string(l.results(incr(id))[0].Entry.Value) }

func TestARequestWithAnIDIsAppliedOnce(t *testing.T) {
	l := newJournal(t, newKeeper(t, replicationtest.NewState()))
	for i, want := range []string{"1", "1", "2", "1", "2"} {
		if got := l.incr([]string{"a", "a", "b", "a", "b"}[i]); got != want {
			t.Errorf("increment %d gave %s, want %s", i, got, want)
		}
	}
	other := incr("a")
	other.Writes[0].Value = []byte("2")
	if err, ok := l.apply(other).(error); !ok || !errors.Is(err, fulcrum.ErrConflict) {
		t.Errorf("another request with a used id: %v", err)
	}
	if got := l.incr(""); got != "3" {
		t.Errorf("%s after two increments with an id, and one", got)
	}
}

// A request that did not apply is remembered as well, and so is the branch that ran.
func TestARefusalIsRemembered(t *testing.T) {
	l := newJournal(t, newKeeper(t, replicationtest.NewState()))
	absent := replication.WriteRequest{ID: "if", Writes: []fulcrum.Write{{Op: fulcrum.OpPut, If: fulcrum.IfPresent, Key: []byte("k"), Value: []byte("v")}}}
	txn := replication.WriteRequest{ID: "txn", If: []fulcrum.Compare{{Key: []byte("k"), Op: fulcrum.NotEqual}},
		Else: []fulcrum.Write{{Op: fulcrum.OpGet, Key: []byte("k")}, {Op: fulcrum.OpAdd, Key: []byte("k"), Value: []byte("no number")}}}
	first := [][]fulcrum.Result{l.results(absent), l.results(txn)}
	l.results(replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("1")}}})
	again := [][]fulcrum.Result{l.results(absent), l.results(txn)}
	if first[0][0].Applied || !errors.Is(first[1][1].Err, fulcrum.ErrNotInteger) {
		t.Fatalf("the first time %+v", first)
	}
	if again[0][0].Applied || again[1][0].Entry.Version != (fulcrum.Version{}) || !errors.Is(again[1][1].Err, fulcrum.ErrNotInteger) {
		t.Errorf("the second time %+v", again)
	}
	if _, ok := l.apply(txn).(elseRan); !ok {
		t.Error("the branch that ran was forgotten")
	}
}

// What is remembered of results is what they were.
func TestOutcomesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newJournal(t, newKeeper(t, replicationtest.NewState()))
		for i := range rapid.IntRange(1, 12).Draw(t, "requests") {
			log := anyEntry(t, 0)
			e, err := decodeEntry(log.Data)
			if err != nil {
				t.Fatal(err)
			}
			req, err := decodeRequest(e.items[0])
			if err != nil {
				t.Fatal(err)
			}
			req.ID = fulcrum.RequestID(fmt.Sprint(i))
			first := l.apply(req)
			for _, key := range []string{"a", "b", "c"} { // the state moves on
				l.results(replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpAppend, Key: []byte(key), Value: []byte("7")}}})
			}
			again := l.apply(req)
			if diff := differ(first, again); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func differ(first, again any) string {
	a, _ := first.([]fulcrum.Result)
	b, _ := again.([]fulcrum.Result)
	if e, ok := first.(elseRan); ok {
		f, _ := again.(elseRan)
		a, b = e, f
	}
	if reflect.TypeOf(first) != reflect.TypeOf(again) || len(a) != len(b) {
		return fmt.Sprintf("%T %v, again %T %v", first, first, again, again)
	}
	for i := range a {
		x, y := a[i], b[i]
		sameErr := (x.Err == nil) == (y.Err == nil) && (x.Err == nil || fulcrum.AsError(x.Err).Code == fulcrum.AsError(y.Err).Code)
		x.Err, y.Err = nil, nil
		if fmt.Sprintf("%q", []any{x}) != fmt.Sprintf("%q", []any{y}) || !sameErr {
			return fmt.Sprintf("result %d was %+v, then %+v", i, a[i], b[i])
		}
	}
	return ""
}

// Long values are not remembered: they are told as long as they stand.
func TestLongResults(t *testing.T) {
	st := replicationtest.NewState()
	k := newKeeper(t, st)
	k.env.MaxValue = 1 << 20
	l := newJournal(t, k)
	long := strings.Repeat("x", keptValue)
	l.results(replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte(long)}}})
	appends := replication.WriteRequest{ID: "a", Writes: []fulcrum.Write{{Op: fulcrum.OpAppend, Key: []byte("k"), Value: []byte("y")}}}
	l.results(appends)
	if got := string(l.results(appends)[0].Entry.Value); got != long+"y" {
		t.Errorf("%d bytes of a value that still stands", len(got))
	}
	if n := len(idsOf(t, st)[segmentName(0)]); n > 2*keptValue {
		t.Errorf("%d bytes are remembered", n)
	}
	put := replication.WriteRequest{ID: "p", Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: []byte("short")}}}
	l.results(put)
	if err, ok := l.apply(appends).(error); !ok || !errors.Is(err, fulcrum.ErrConflict) {
		t.Errorf("a value that is gone: %v", err)
	}
}

// An id is kept for the window of the table's clock, whatever single stamps say, and
// is gone from the disk some time after it.
func TestIDsAreKeptForAWhile(t *testing.T) {
	for _, tt := range []struct {
		name string
		move func(l *journal)
		kept bool
	}{
		{"just before the end", func(l *journal) { l.step(window-time.Second, idStep/2*time.Millisecond) }, true},
		{"after the end", func(l *journal) { l.step(window+time.Second, idStep/2*time.Millisecond) }, false},
		{"a clock that jumps by a year", func(l *journal) { l.at += 8760 * time.Hour; l.step(IDsKept, idStep/2*time.Millisecond) }, true},
		{"clocks that differ take turns", func(l *journal) {
			for range 500 {
				l.at += time.Hour
				l.incr("")
				l.at -= time.Hour - time.Millisecond
				l.incr("")
			}
		}, true},
		{"hours without an entry", func(l *journal) { l.at += 100 * time.Hour }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := replicationtest.NewState()
			l := newJournal(t, newKeeper(t, st))
			l.incr("a")
			tt.move(l)
			before := string(l.results(replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpGet, Key: []byte("n")}}})[0].Entry.Value)
			if !tt.kept && len(idsOf(t, st)) > 0 {
				t.Errorf("%d extras are left of a forgotten id", len(idsOf(t, st)))
			}
			if got := l.incr("a"); (got == "1") != tt.kept {
				t.Errorf("again after a while: %s, before %s; want the id kept: %v", got, before, tt.kept)
			}
		})
	}
}

func (l *journal) step(total, each time.Duration) {
	for ; total > 0; total -= each {
		l.at += min(total, each)
		l.incr("")
	}
}

// A full table refuses what it could not remember, and forgets nothing for it.
func TestAFullTableRefuses(t *testing.T) {
	st := replicationtest.NewState()
	l := newJournal(t, newKeeper(t, st))
	l.incr("a")
	stamp := fulcrum.Version{Time: uint64(l.at/time.Millisecond) << 16}
	for i := 0; !l.k.ids.full(); i++ {
		l.k.ids.add(idRecord{id: fulcrum.RequestID(fmt.Sprint("filler ", i)), outcome: make([]byte, 40)}, stamp)
	}
	if n, b := l.k.ids.records, l.k.ids.bytes; n < maxIDs/2 || len(l.k.ids.segments) > maxSegments {
		t.Errorf("full with %d ids in %d bytes, %d segments", n, b, len(l.k.ids.segments))
	}
	err, _ := l.apply(incr("new")).(error)
	if e := fulcrum.AsError(err); !errors.Is(err, fulcrum.ErrOverloaded) || e.Maybe {
		t.Errorf("a new id in a full table: %v", err)
	}
	if got := l.incr("a"); got != "1" {
		t.Errorf("the oldest id was forgotten: %s", got)
	}
	if got := l.incr(""); got != "2" {
		t.Errorf("a request without an id: %s", got)
	}
	again := newKeeper(t, st) // what is stored is what is in memory
	if again.ids.records != l.k.ids.records || again.ids.bytes != l.k.ids.bytes {
		t.Errorf("reopened with %d ids in %d bytes, was %d in %d", again.ids.records, again.ids.bytes, l.k.ids.records, l.k.ids.bytes)
	}
	l.step(window, idStep*time.Millisecond)
	if got := l.incr("new"); got == "1" {
		t.Error("the refusal was remembered as an increment")
	}
}

// The table goes along from one Raft epoch to the next, and no further.
func TestIDsOfTheEpochBefore(t *testing.T) {
	for _, tt := range []struct {
		name  string
		epoch fulcrum.Epoch // of newKeeper: 3
		based bool
		want  string
	}{
		{"the next", 4, true, "1"},
		{"the next, not based", 4, false, "2"},
		{"another was in between", 5, true, "2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := replicationtest.NewState()
			newJournal(t, newKeeper(t, st)).incr("a")
			open := func(e fulcrum.Epoch, based bool) *keeper {
				if err := st.Rebase(1, nil); err != nil {
					t.Fatal(err)
				}
				env := replication.Env{Node: "n", Epoch: e, Based: based, State: st, MaxValue: 100, Log: replicationtest.NewLog()}
				c, err := openCore(env, Tuning{}, NewRounds())
				if err != nil {
					t.Fatal(err)
				}
				k, err := openKeeper(c, env, NewChanges(NewRoom(RoomBytes)))
				if err != nil {
					t.Fatal(err)
				}
				return k
			}
			k := open(tt.epoch, tt.based)
			if got := newJournal(t, k).incr("a"); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if got := newJournal(t, open(tt.epoch+1, true)).incr("a"); got != tt.want {
				t.Errorf("%s in the epoch after, want %s", got, tt.want)
			}
		})
	}
	st := replicationtest.NewState()
	newJournal(t, newKeeper(t, st)).incr("a")
	gone, err := DropIDs(st)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Rebase(1, gone); err != nil || len(idsOf(t, st)) > 0 {
		t.Errorf("%v, left for another mode: %v", err, idsOf(t, st))
	}
}
