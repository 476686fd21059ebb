package raft

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	hraft "github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"fulcrum/replication"
	"fulcrum/replication/replicationtest"
)

func newStore(t interface{ Fatal(...any) }, log replication.Log, cache int) (*store, *[]error) {
	var failures []error
	s, err := openStore(log, replication.NoMetrics{}, cache, func(err error) { failures = append(failures, err) })
	if err != nil {
		t.Fatal(err)
	}
	return s, &failures
}

// The store against a plain slice, through appends, cuts at both ends, snapshots
// that the log begins anew behind, and reopening.
func TestStoreKeepsTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := replicationtest.NewLog()
		cache := rapid.SampledFrom([]int{0, 200, 1 << 20}).Draw(t, "cache")
		s, _ := newStore(t, log, cache)
		var first uint64 = 1
		var want []string
		last := func() uint64 { return first + uint64(len(want)) - 1 }
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var logs []*hraft.Log
				for i := range rapid.IntRange(1, 5).Draw(t, "n") {
					n++
					want = append(want, fmt.Sprint(n))
					logs = append(logs, &hraft.Log{Index: last(), Term: uint64(n + i), Data: []byte(fmt.Sprint(n))})
				}
				if err := s.StoreLogs(logs); err != nil {
					t.Fatal(err)
				}
			},
			"cut end": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip()
				}
				k := rapid.IntRange(0, len(want)-1).Draw(t, "keep")
				if err := s.DeleteRange(first+uint64(k), last()); err != nil {
					t.Fatal(err)
				}
				want = want[:k]
			},
			"cut front": func(t *rapid.T) {
				if len(want) < 2 {
					t.Skip()
				}
				k := rapid.IntRange(1, len(want)-1).Draw(t, "drop")
				if err := s.DeleteRange(first, first+uint64(k)-1); err != nil {
					t.Fatal(err)
				}
				first, want = first+uint64(k), want[k:]
			},
			"begin anew": func(t *rapid.T) {
				n++
				snap := last() + uint64(rapid.IntRange(1, 9).Draw(t, "ahead"))
				s.snapshotTaken(snap)
				first, want = snap+1, []string{fmt.Sprint(n)}
				if err := s.StoreLog(&hraft.Log{Index: first, Term: 1, Data: []byte(want[0])}); err != nil {
					t.Fatal(err)
				}
			},
			"reopen": func(t *rapid.T) { s, _ = newStore(t, log, cache) },
			"": func(t *rapid.T) {
				lo, _ := s.FirstIndex()
				hi, _ := s.LastIndex()
				if len(want) == 0 {
					if lo != 0 || hi != 0 {
						t.Fatalf("bounds %d..%d of an empty log", lo, hi)
					}
					return
				}
				if lo != first || hi != last() {
					t.Fatalf("bounds %d..%d, want %d..%d", lo, hi, first, last())
				}
				var l hraft.Log
				for i, w := range want {
					if err := s.GetLog(first+uint64(i), &l); err != nil || string(l.Data) != w || l.Index != first+uint64(i) {
						t.Fatalf("entry %d = %q, %v, want %q", first+uint64(i), l.Data, err, w)
					}
				}
				for _, i := range []uint64{first - 1, last() + 1} {
					if err := s.GetLog(i, &l); !errors.Is(err, hraft.ErrLogNotFound) {
						t.Fatalf("entry %d: %v, want none", i, err)
					}
				}
				if s.cacheSize > max(cache, 0) || (cache == 0 && len(s.cache) > 0) {
					t.Fatalf("cache of %d entries, %d bytes", len(s.cache), s.cacheSize)
				}
			},
		})
	})
}

func TestStoreRefusesAGap(t *testing.T) {
	s, failures := newStore(t, replicationtest.NewLog(), 0)
	if err := s.StoreLog(&hraft.Log{Index: 5, Term: 1}); err == nil {
		t.Error("an entry far behind the end was stored")
	}
	if len(*failures) > 0 {
		t.Errorf("a refusal is no disk error: %v", *failures)
	}
}

func TestVoteIsStoredWholeOrNotAtAll(t *testing.T) {
	log := replicationtest.NewLog()
	s, _ := newStore(t, log, 0)
	_ = s.SetUint64([]byte(metaVoteTerm), 4)
	_ = s.Set([]byte(metaVoteFor), []byte("a"))
	_ = s.SetUint64([]byte(metaVoteTerm), 7) // and a crash before the candidate
	for _, open := range []*store{s, first(newStore(t, log, 0))} {
		term, err := open.GetUint64([]byte(metaVoteTerm))
		who, _ := open.Get([]byte(metaVoteFor))
		if err != nil || term != 4 || string(who) != "a" {
			t.Errorf("vote for %q in %d, %v, want a in 4", who, term, err)
		}
	}
	if _, err := s.Get([]byte("nothing")); err == nil || err.Error() != "not found" {
		t.Errorf("missing value: %v; the library knows it by its text", err)
	}
}

func first(s *store, _ *[]error) *store { return s }

// The library panics when a term cannot be stored: the store must not let it.
func TestBadDiskIsReportedOnceAndNeverPanics(t *testing.T) {
	log := replicationtest.NewLog()
	s, failures := newStore(t, log, 0)
	if err := s.StoreLogs([]*hraft.Log{{Index: 1, Term: 1}, {Index: 2, Term: 1}}); err != nil {
		t.Fatal(err)
	}
	log.FailWith(errors.New("input/output error"))
	if err := s.SetUint64([]byte(metaTerm), 9); err != nil {
		t.Errorf("SetUint64 = %v: the library panics on that", err)
	}
	if err := s.StoreLog(&hraft.Log{Index: 3, Term: 1}); err == nil {
		t.Error("an entry was stored on a bad disk")
	}
	if err := s.DeleteRange(1, 1); err == nil {
		t.Error("the log was cut on a bad disk")
	}
	if err := s.Set([]byte(metaVoteFor), []byte("a")); err == nil {
		t.Error("a vote was stored on a bad disk")
	}
	var l hraft.Log
	if err := s.GetLog(2, &l); err != nil || l.Type != hraft.LogNoop {
		t.Errorf("GetLog = %+v, %v", l, err)
	}
	if len(*failures) != 1 {
		t.Errorf("failures reported: %v, want one", *failures)
	}
}

func TestUnreadableEntryIsADiskError(t *testing.T) {
	log := replicationtest.NewLog()
	if err := log.Append(1, [][]byte{{77, 1, 2}}); err != nil {
		t.Fatal(err)
	}
	s, failures := newStore(t, log, 0)
	var l hraft.Log
	_ = s.GetLog(1, &l)
	if len(*failures) != 1 {
		t.Errorf("failures reported: %v, want one", *failures)
	}
}

func TestMessagesSurviveTheirEncoding(t *testing.T) {
	conf := hraft.EncodeConfiguration(virtualSnapshot(nil).Config)
	req := &hraft.AppendEntriesRequest{Term: 3, PrevLogEntry: 4, PrevLogTerm: 2, LeaderCommitIndex: 4, Entries: []*hraft.Log{
		{Index: 5, Term: 3, Data: []byte("x")}, {Index: 6, Term: 3, Type: hraft.LogConfiguration, Data: conf}}}
	got, err := decodeAppend("n1", bodyOf(encodeAppend(req)))
	if err != nil || got.Term != 3 || got.PrevLogEntry != 4 || len(got.Entries) != 2 || got.Entries[1].Index != 6 || string(got.Entries[0].Data) != "x" {
		t.Fatalf("%+v, %v", got, err)
	}
	m := virtualSnapshot([]replicationNode{"a", "b"})
	c := chunk{transfer: 9, offset: 3, data: []byte("abc"), last: true, term: 8, sum: 7, meta: m}
	back, err := decodeChunk(bodyOf(c.encode()))
	if err != nil || back.transfer != 9 || string(back.data) != "abc" || !slices.Equal(back.meta.Config.Servers, m.Config.Servers) {
		t.Fatalf("%+v, %v", back, err)
	}
}

// heldLog is a log whose writes of Begin are durable when they are let go.
type heldLog struct {
	*replicationtest.Log
	held []chan struct{}
}

func (l *heldLog) Begin(from uint64, records [][]byte) (func() error, error) {
	wait, err := l.Log.Begin(from, records)
	held := make(chan struct{})
	l.held = append(l.held, held)
	return func() error {
		<-held
		return wait()
	}, err
}

func commands(from, to uint64, term uint64) (logs []*hraft.Log) {
	for i := from; i <= to; i++ {
		logs = append(logs, &hraft.Log{Index: i, Term: term, Type: hraft.LogCommand, Data: []byte("c")})
	}
	return logs
}

// A write that was begun in an earlier reign, and cut off since, says nothing about
// what stands at its indexes now.
func TestDurableIsWhatStandsThereNow(t *testing.T) {
	log := &heldLog{Log: replicationtest.NewLog()}
	s, _ := newStore(t, log, 1<<20)
	leads := true
	s.leading = func() bool { return leads }
	store := func(logs []*hraft.Log, durable uint64) {
		t.Helper()
		if err := s.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
		if got := s.durableIndex(); got != durable {
			t.Fatalf("durable up to %d, want %d", got, durable)
		}
	}
	store(commands(1, 4, 1), 0)
	close(log.held[0])
	s.syncs.Wait()
	store(commands(5, 9, 1), 4)

	leads = false // another leader has other entries from 7 on
	if err := s.DeleteRange(7, 9); err != nil {
		t.Fatal(err)
	}
	store(commands(7, 7, 2), 4)
	leads = true
	store(commands(8, 9, 3), 4)
	first := make(chan struct{})
	go func() {
		defer close(first)
		s.awaitDurable(7)
	}()
	close(log.held[1])
	<-first
	if got := s.durableIndex(); got != 7 {
		t.Errorf("durable up to %d, want 7: 8 and 9 are being written", got)
	}
	close(log.held[2])
	s.syncs.Wait()
	if got := s.durableIndex(); got != 9 {
		t.Errorf("durable up to %d, want 9", got)
	}
}
