package replicationtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/replication"
)

// Config says how a mode is opened and what it claims.
type Config struct {
	// Open opens one replica. A mode that needs a controller sets New instead.
	Open OpenFunc
	// New opens a cluster of n replicas; the suite closes it.
	New func(tb testing.TB, n int) *Cluster
	// Write and Read are the strongest levels; a Read sees every earlier Write.
	Write, Read consistency.Level
	// Weak, if set, is a level at which one replica acknowledges alone.
	Weak consistency.Level
	// Atomic: conditions and read-modify-write are offered. If not, they must be
	// refused with CodeMode.
	Atomic bool
	// Logged: one replica orders writes, so Fence is the leader's. If not, each
	// replica is fenced by itself.
	Logged bool
}

const patience = 30 * time.Second // of virtual time, for one request through faults

// TestGroup checks that the mode keeps the contract of replication.Group. Each
// part runs in a synctest bubble of its own, which fails when a goroutine is left.
func TestGroup(t *testing.T, cfg Config) {
	parts := []struct {
		name string
		n    int
		run  func(s *suite)
	}{
		{"a write is read from every replica at the strongest level", 3, (*suite).writeThenRead},
		{"one replica alone works", 1, (*suite).writeThenRead},
		{"five replicas work", 5, (*suite).writeThenRead},
		{"a deleted key is gone", 3, (*suite).deleted},
		{"an expired key is gone", 3, (*suite).expired},
		{"a scan is in order, bounded, and says when there is more", 3, (*suite).scanned},
		{"a batch has a result for each write", 3, (*suite).batched},
		{"conditions hold, or are refused with the mode", 3, (*suite).conditions},
		{"a transaction runs one of its branches", 3, (*suite).transactions},
		{"a batch is all or nothing when it is atomic", 3, (*suite).atomicBatch},
		{"acknowledged writes survive the restart of one replica", 3, (*suite).restartOne},
		{"acknowledged writes survive the restart of all replicas", 3, (*suite).restartAll},
		{"a replica that was cut off converges", 3, (*suite).awayAndBack},
		{"a minority acknowledges nothing at the strongest level", 3, (*suite).minority},
		{"a fence closes the epoch and settled replicas are equal", 3, (*suite).fenced},
		{"a fence survives the restart of all replicas", 3, (*suite).fenceRestart},
		{"leftovers hold what one replica alone has acknowledged", 3, (*suite).leftovers},
		{"a request that makes no sense is refused", 3, (*suite).refused},
		{"foreign messages are refused", 3, (*suite).foreign},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			outer := t // its TempDir may be used: the bubble's is removed outside of it
			synctest.Test(t, func(t *testing.T) {
				var c *Cluster
				if cfg.New != nil {
					c = cfg.New(outer, part.n)
				} else {
					c = NewCluster(outer, part.n, cfg.Open, Options{})
				}
				defer c.Close()
				part.run(&suite{T: t, c: c, cfg: cfg})
			})
		})
	}
}

type suite struct {
	*testing.T
	c   *Cluster
	cfg Config
}

func (s *suite) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	s.Cleanup(cancel)
	return ctx
}

func putOf(key, value string) fulcrum.Write {
	return fulcrum.Write{Op: fulcrum.OpPut, Key: []byte(key), Value: []byte(value)}
}

// write fails the test unless the writes are acknowledged.
func (s *suite) write(at fulcrum.NodeID, writes ...fulcrum.Write) replication.WriteReply {
	s.Helper()
	r, err := s.c.Write(s.within(patience), at, replication.WriteRequest{Writes: writes, Level: s.cfg.Write})
	if err != nil {
		s.Fatalf("write through %s: %v", at, err)
	}
	if len(r.Results) != len(writes) {
		s.Fatalf("%d results of %d writes", len(r.Results), len(writes))
	}
	if r.Outcome.Acks < r.Outcome.Needed || r.Outcome.Needed < 1 {
		s.Errorf("acknowledged with %d of %d needed", r.Outcome.Acks, r.Outcome.Needed)
	}
	return r
}

// read fails the test unless key holds want at the strongest level; "" means gone.
func (s *suite) read(at fulcrum.NodeID, key, want string) fulcrum.Entry {
	s.Helper()
	r, err := s.c.Read(s.within(patience), at, replication.ReadRequest{Keys: [][]byte{[]byte(key)}, Level: s.cfg.Read})
	if err != nil {
		s.Fatalf("read %s through %s: %v", key, at, err)
	}
	e := r.Entries[0]
	if live := e.Live(time.Now().UnixMilli()); live != (want != "") || (live && string(e.Value) != want) {
		s.Errorf("read %s through %s = %q (live %v), want %q", key, at, e.Value, live, want)
	}
	return e
}

func (s *suite) writeThenRead() {
	var before fulcrum.Version
	for i, id := range s.c.IDs {
		value := fmt.Sprintf("v%d", i)
		r := s.write(id, putOf("k", value))
		if v := r.Results[0].Entry.Version; !before.Less(v) {
			s.Errorf("version %s does not follow %s", v, before)
		} else {
			before = v
		}
		for _, reader := range s.c.IDs {
			if e := s.read(reader, "k", value); e.Version != before {
				s.Errorf("read version %s, wrote %s", e.Version, before)
			}
		}
	}
}

func (s *suite) deleted() {
	s.write("n1", putOf("k", "v"))
	s.write("n2", fulcrum.Write{Op: fulcrum.OpDelete, Key: []byte("k")})
	for _, id := range s.c.IDs {
		s.read(id, "k", "")
	}
	s.write("n3", putOf("k", "again"))
	s.read("n1", "k", "again")
}

func (s *suite) expired() {
	w := putOf("k", "v")
	w.ExpireAt = time.Now().Add(10 * time.Second).UnixMilli()
	s.write("n1", w)
	s.read("n2", "k", "v")
	time.Sleep(11 * time.Second)
	for _, id := range s.c.IDs {
		s.read(id, "k", "")
	}
}

func (s *suite) scan(start, end string, limit int) ([]string, bool) {
	s.Helper()
	req := replication.ScanRequest{Start: []byte(start), Limit: limit, Level: s.cfg.Read}
	if end != "" {
		req.End = []byte(end)
	}
	r, err := s.c.Scan(s.within(patience), "n2", req)
	if err != nil {
		s.Fatalf("scan %q..%q: %v", start, end, err)
	}
	var keys []string
	for _, e := range r.Entries {
		keys = append(keys, string(e.Key))
	}
	return keys, r.More
}

func (s *suite) scanned() {
	for _, k := range []string{"d", "b", "a", "e", "c"} {
		s.write("n1", putOf(k, "v"+k))
	}
	s.write("n1", fulcrum.Write{Op: fulcrum.OpDelete, Key: []byte("c")})
	for _, test := range []struct {
		start, end string
		limit      int
		want       string
		more       bool
	}{
		{"", "", 0, "[a b d e]", false},
		{"b", "e", 0, "[b d]", false},
		{"", "", 2, "[a b]", true},
		{"b", "", 3, "[b d e]", false},
		{"x", "", 0, "[]", false},
	} {
		keys, more := s.scan(test.start, test.end, test.limit)
		if fmt.Sprint(keys) != test.want || more != test.more {
			s.Errorf("scan %q..%q limit %d = %v more %v, want %s more %v", test.start, test.end, test.limit, keys, more, test.want, test.more)
		}
	}
}

func (s *suite) batched() {
	r := s.write("n1", putOf("a", "1"), putOf("b", "2"), putOf("a", "3"))
	for i, res := range r.Results {
		if !res.Applied || res.Err != nil {
			s.Errorf("result %d: %+v", i, res)
		}
	}
	s.read("n2", "a", "3")
	s.read("n3", "b", "2")
}

// txn puts value at key where nothing stands, or else reads it.
func (s *suite) txn(key, value string) replication.WriteRequest {
	return replication.WriteRequest{Level: s.cfg.Write, Atomic: true, If: []fulcrum.Compare{{Key: []byte(key)}},
		Writes: []fulcrum.Write{putOf(key, value)}, Else: []fulcrum.Write{{Op: fulcrum.OpGet, Key: []byte(key)}, putOf("seen", value)}}
}

func (s *suite) transactions() {
	if !s.cfg.Atomic {
		return // refused: see conditions
	}
	for i, id := range s.c.IDs {
		r, err := s.c.Write(s.within(patience), id, s.txn("lock", string(id)))
		switch {
		case err != nil:
			s.Errorf("through %s: %v", id, err)
		case r.Else != (i > 0):
			s.Errorf("through %s: else %v", id, r.Else)
		case i > 0 && (len(r.Results) != 2 || string(r.Results[0].Entry.Value) != "n1" || r.Results[0].Applied):
			s.Errorf("through %s: %+v", id, r.Results)
		}
	}
	s.read("n2", "lock", "n1")
	s.read("n1", "seen", "n3")
}

func (s *suite) conditions() {
	absent := putOf("k", "first")
	absent.If = fulcrum.IfAbsent
	if !s.cfg.Atomic {
		_, err := s.c.Write(s.within(patience), "n1", replication.WriteRequest{Writes: []fulcrum.Write{absent}, Level: s.cfg.Write})
		if !errors.Is(err, fulcrum.ErrMode) {
			s.Errorf("a condition: got %v, want it refused with the mode", err)
		}
		for _, req := range []replication.WriteRequest{s.txn("k", "v"), {Writes: []fulcrum.Write{putOf("k", "v")}, ID: "id"}} {
			if _, err := s.c.Write(s.within(patience), "n1", req); !errors.Is(err, fulcrum.ErrMode) {
				s.Errorf("%+v: got %v, want it refused with the mode", req, err)
			}
		}
		return
	}
	first := s.write("n1", absent).Results[0]
	again := s.write("n2", absent).Results[0]
	if !first.Applied || again.Applied || string(again.Entry.Value) != "first" {
		s.Errorf("if-absent: %+v, then %+v", first, again)
	}
	swap := putOf("k", "second")
	swap.If, swap.At = fulcrum.IfVersion, first.Entry.Version
	if r := s.write("n3", swap).Results[0]; !r.Applied || string(r.Old.Value) != "first" {
		s.Errorf("if-version of the right version: %+v", r)
	}
	if r := s.write("n3", swap).Results[0]; r.Applied {
		s.Errorf("if-version of an old version applied: %+v", r)
	}
	for i := range 6 {
		s.write(s.c.IDs[i%3], fulcrum.Write{Op: fulcrum.OpAdd, Key: []byte("n"), Value: []byte("7")})
	}
	s.read("n1", "n", "42")
	r := s.write("n1", fulcrum.Write{Op: fulcrum.OpAdd, Key: []byte("k"), Value: []byte("1")}, putOf("other", "done"))
	if !errors.Is(r.Results[0].Err, fulcrum.ErrNotInteger) || r.Results[0].Applied || !r.Results[1].Applied {
		s.Errorf("an operand that is no number: %+v", r.Results)
	}
	s.read("n2", "k", "second")
}

func (s *suite) atomicBatch() {
	if !s.cfg.Atomic {
		_, err := s.c.Write(s.within(patience), "n1", replication.WriteRequest{Atomic: true, Level: s.cfg.Write,
			Writes: []fulcrum.Write{putOf("a", "1"), putOf("b", "1")}})
		if !errors.Is(err, fulcrum.ErrMode) {
			s.Errorf("an atomic batch: got %v, want it refused with the mode", err)
		}
		return
	}
	present := putOf("b", "2")
	present.If = fulcrum.IfPresent
	r, err := s.c.Write(s.within(patience), "n1", replication.WriteRequest{Atomic: true, Level: s.cfg.Write, Writes: []fulcrum.Write{putOf("a", "1"), present}})
	if err != nil || r.Results[0].Applied || r.Results[1].Applied {
		s.Errorf("a failing atomic batch: %+v, %v", r.Results, err)
	}
	s.read("n2", "a", "")
	s.write("n1", putOf("b", "1"))
	if r, err = s.c.Write(s.within(patience), "n1", replication.WriteRequest{Atomic: true, Level: s.cfg.Write, Writes: []fulcrum.Write{putOf("a", "1"), present}}); err != nil {
		s.Fatal(err)
	}
	s.read("n3", "a", "1")
	s.read("n3", "b", "2")
}

// fill writes keys first..last-1 and returns a check that all are still there.
func (s *suite) fill(first, last int) func() {
	for i := first; i < last; i++ {
		s.write(s.c.IDs[i%len(s.c.IDs)], putOf(fmt.Sprintf("k%03d", i), fmt.Sprint(i)))
	}
	return func() {
		s.Helper()
		for i := first; i < last; i++ {
			s.read(s.c.IDs[i%len(s.c.IDs)], fmt.Sprintf("k%03d", i), fmt.Sprint(i))
		}
	}
}

func (s *suite) restartOne() {
	check := s.fill(0, 21)
	for _, id := range s.c.IDs {
		s.c.Restart(id)
		check()
	}
	s.write("n1", putOf("after", "v"))
	s.read("n2", "after", "v")
}

func (s *suite) restartAll() {
	check := s.fill(0, 21)
	for range 2 {
		for _, id := range s.c.IDs {
			s.c.Stop(id)
		}
		for _, id := range s.c.IDs {
			s.c.Restart(id)
		}
		check()
	}
	s.write("n1", putOf("k000", "newer"))
	s.read("n2", "k000", "newer")
}

func dump(st *State) map[string]fulcrum.Entry {
	all := st.Dump()
	for k, e := range all {
		if e.Value == nil {
			e.Value = []byte{}
		}
		e.Key = []byte(k)
		all[k] = e
	}
	return all
}

// converge waits until every state holds the same.
func (s *suite) converge() {
	s.Helper()
	for range 300 {
		equal := true
		for _, id := range s.c.IDs[1:] {
			equal = equal && reflect.DeepEqual(dump(s.c.State(s.c.IDs[0])), dump(s.c.State(id)))
		}
		if equal {
			return
		}
		time.Sleep(time.Second)
	}
	for _, id := range s.c.IDs {
		s.Logf("%s holds %d entries", id, len(s.c.State(id).Dump()))
	}
	s.Fatal("the replicas did not converge within five minutes")
}

func (s *suite) awayAndBack() {
	s.fill(0, 5)
	for round, id := range s.c.IDs {
		s.c.Net.Isolate(id)
		time.Sleep(10 * time.Second) // long enough for another leader
		check := s.fillThrough(id, 100*round, 100*round+10)
		s.c.Net.Heal()
		s.converge()
		check()
	}
}

// fillThrough writes through every replica but away.
func (s *suite) fillThrough(away fulcrum.NodeID, first, last int) func() {
	for i := first; i < last; i++ {
		at := s.c.IDs[i%len(s.c.IDs)]
		if at == away {
			at = s.c.IDs[(i+1)%len(s.c.IDs)]
		}
		// A first try may be left without an answer; the same put again is harmless.
		s.eventually(at, putOf(fmt.Sprintf("w%03d", i), fmt.Sprint(i)))
	}
	return func() {
		s.Helper()
		for i := first; i < last; i++ {
			s.read(s.c.IDs[i%len(s.c.IDs)], fmt.Sprintf("w%03d", i), fmt.Sprint(i))
		}
	}
}

// eventually writes again after unknown outcomes, elsewhere.
func (s *suite) eventually(at fulcrum.NodeID, w fulcrum.Write) {
	s.Helper()
	var err error
	for range 10 {
		if _, err = s.c.Write(s.within(3*time.Second), at, replication.WriteRequest{Writes: []fulcrum.Write{w}, Level: s.cfg.Write}); err == nil {
			return
		}
		if e := fulcrum.AsError(err); e.Code != fulcrum.CodeUnknown && e.Code != fulcrum.CodeUnavailable && e.Code != fulcrum.CodeNotLeader {
			break
		}
	}
	s.Fatalf("write through %s: %v", at, err)
}

func (s *suite) minority() {
	s.write("n1", putOf("k", "v"))
	s.c.Net.Isolate("n1")
	time.Sleep(10 * time.Second)
	g := s.c.Group("n1")
	if _, err := g.Write(s.within(3*time.Second), replication.WriteRequest{Writes: []fulcrum.Write{putOf("k", "lost")}, Level: s.cfg.Write}); err == nil {
		s.Error("a replica that is alone acknowledged a write")
	}
	if _, err := g.Read(s.within(3*time.Second), replication.ReadRequest{Keys: [][]byte{[]byte("k")}, Level: s.cfg.Read}); err == nil {
		s.Error("a replica that is alone answered a read")
	}
}

// fence closes the epoch as the controller does.
func (s *suite) fence(live []fulcrum.NodeID) replication.Position {
	s.Helper()
	if s.cfg.Logged {
		pos, err := Do(s.within(patience), s.c, live[0], func(g replication.Group) (replication.Position, error) {
			return g.Fence(s.within(patience))
		})
		if err != nil {
			s.Fatalf("fence: %v", err)
		}
		return pos
	}
	var pos replication.Position
	for _, id := range live {
		p, err := s.c.Group(id).Fence(s.within(patience))
		if err != nil {
			s.Fatalf("fence on %s: %v", id, err)
		}
		if p.Index > pos.Index {
			pos = p
		}
	}
	return pos
}

func (s *suite) settle(live []fulcrum.NodeID, pos replication.Position) {
	s.Helper()
	for _, id := range live {
		if err := s.c.Group(id).Settle(s.within(patience), pos, live); err != nil {
			s.Fatalf("settle on %s: %v", id, err)
		}
	}
	want := dump(s.c.State(live[0]))
	for _, id := range live[1:] {
		if got := dump(s.c.State(id)); !reflect.DeepEqual(got, want) {
			s.Errorf("settled replicas differ: %s has %d entries, %s has %d", live[0], len(want), id, len(got))
		}
	}
}

func (s *suite) refusesWrites() {
	s.Helper()
	for _, id := range s.c.IDs {
		_, err := Do(s.within(time.Second), s.c, id, func(g replication.Group) (replication.WriteReply, error) {
			return g.Write(s.within(time.Second), replication.WriteRequest{Writes: []fulcrum.Write{putOf("late", "v")}, Level: s.cfg.Write})
		})
		if !errors.Is(err, fulcrum.ErrEpoch) {
			s.Errorf("a write through %s behind the fence: got %v, want the epoch refused", id, err)
		}
	}
}

func (s *suite) fenced() {
	s.fill(0, 12)
	pos := s.fence(s.c.IDs)
	s.settle(s.c.IDs, pos)
	s.refusesWrites()
	if again := s.fence(s.c.IDs); s.cfg.Logged && again != pos {
		s.Errorf("a second fence at %+v, the first at %+v", again, pos)
	}
	for _, id := range s.c.IDs {
		all := s.c.State(id).Dump()
		for i := range 12 {
			if e := all[fmt.Sprintf("k%03d", i)]; !bytes.Equal(e.Value, fmt.Append(nil, i)) {
				s.Errorf("%s settled without key %d", id, i)
			}
		}
	}
}

func (s *suite) fenceRestart() {
	s.fill(0, 3)
	pos := s.fence(s.c.IDs)
	for _, id := range s.c.IDs {
		s.c.Restart(id)
	}
	time.Sleep(5 * time.Second) // a leader may have to be found
	s.settle(s.c.IDs, pos)
	s.refusesWrites()
}

func (s *suite) leftovers() {
	if s.cfg.Weak == (consistency.Level{}) {
		s.Skip("the mode acknowledges nothing on one replica alone")
	}
	s.write("n1", putOf("before", "v"))
	time.Sleep(time.Second)
	// n1 leads, where the mode has leaders; whoever takes it is alone from now on.
	s.c.Net.Isolate("n1")
	_, err := s.c.Group("n1").Write(s.within(time.Second), replication.WriteRequest{Writes: []fulcrum.Write{putOf("alone", "v")}, Level: s.cfg.Weak})
	if err != nil {
		s.Fatalf("a weak write on a replica that is alone: %v", err)
	}
	time.Sleep(10 * time.Second)
	rest := s.c.IDs[1:]
	g := s.c.Group("n1")
	pos := s.fence(rest)
	s.settle(rest, pos)
	s.c.Net.Down("n1")
	s.c.cancelRun("n1")
	found := map[string]bool{}
	if err := g.Leftovers(func(e fulcrum.Entry) error {
		found[string(e.Key)] = true
		return nil
	}); err != nil {
		s.Fatal(err)
	}
	if !found["alone"] {
		s.Errorf("leftovers are %v, without the write that only n1 has", found)
	}
}

func (s *suite) refused() {
	for _, test := range []struct {
		name string
		req  replication.WriteRequest
	}{
		{"no write at all", replication.WriteRequest{Level: s.cfg.Write}},
		{"an empty key", replication.WriteRequest{Writes: []fulcrum.Write{putOf("", "v")}, Level: s.cfg.Write}},
		{"a value over the limit", replication.WriteRequest{Writes: []fulcrum.Write{putOf("k", string(make([]byte, fulcrum.DefaultMaxValue+1)))}, Level: s.cfg.Write}},
	} {
		_, err := s.c.Write(s.within(patience), "n1", test.req)
		if e := fulcrum.AsError(err); e == nil || (e.Code != fulcrum.CodeInvalid && e.Code != fulcrum.CodeTooLarge) {
			s.Errorf("%s: got %v, want it refused", test.name, err)
		}
	}
}

func (s *suite) foreign() {
	s.write("n1", putOf("k", "v"))
	for _, msg := range [][]byte{nil, {}, {0}, {255}, []byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{255}, 300)} {
		if _, err := s.c.Group("n2").Handle(s.within(time.Second), "n1", msg); err == nil {
			s.Errorf("message %q was handled", msg)
		}
	}
	if _, err := s.c.Group("n2").Handle(s.within(time.Second), "stranger", []byte{1}); err == nil {
		s.Error("a message of a node without a replica was handled")
	}
	s.read("n3", "k", "v")
}
