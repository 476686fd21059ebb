package raft

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
	"fulcrum/replication/replicationtest"
)

func newStore(t interface{ Helper() }, log replication.Log, cache int) (*store, *[]error) {
	t.Helper()
	var failures []error
	s := openStore(log, replication.NoMetrics{}, storeBounds{cache: cache, entries: 64}, func(err error) { failures = append(failures, err) })
	return s, &failures
}

type fataler interface {
	Helper()
	Fatal(args ...any)
}

// keep appends entries and waits until they are durable.
func keep(t fataler, s *store, entries ...protocol.Entry) {
	t.Helper()
	done := make(chan struct{})
	if err := s.begin(entries, func() { close(done) }); err != nil {
		t.Fatal(err)
	}
	<-done
}

// The store against a plain slice, through appends, cuts at both ends, snapshots
// that the log begins anew behind, and reopening.
func TestStoreKeepsTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := replicationtest.NewLog()
		cache := rapid.SampledFrom([]int{0, 200, 1 << 20}).Draw(t, "cache")
		s, _ := newStore(t, log, cache)
		var first uint64 = 1
		var want []protocol.Entry
		last := func() uint64 { return first + uint64(len(want)) - 1 }
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var entries []protocol.Entry
				for i := range rapid.IntRange(1, 5).Draw(t, "n") {
					n++
					e := protocol.Entry{Index: last() + 1, Term: uint64(n + i), Data: []byte(fmt.Sprint(n))}
					switch rapid.IntRange(0, 5).Draw(t, "kind") {
					case 0:
						e = protocol.Entry{Index: e.Index, Term: e.Term, Kind: protocol.Noop}
					case 1:
						c := protocol.Configuration{}.With(protocol.Member{ID: fulcrum.NodeID(fmt.Sprint(n)), Voter: true})
						e.Kind, e.Data = protocol.Members, c.Append(nil)
					}
					want, entries = append(want, e), append(entries, e)
				}
				keep(t, s, entries...)
			},
			"cut end": func(t *rapid.T) {
				k := rapid.IntRange(0, len(want)).Draw(t, "keep")
				if err := s.cut(first + uint64(k) - 1); err != nil {
					t.Fatal(err)
				}
				want = want[:k]
			},
			"cut front": func(t *rapid.T) {
				if len(want) < 2 {
					t.Skip()
				}
				k := rapid.IntRange(1, len(want)-1).Draw(t, "drop")
				s.snapshotTaken(position{want[k-1].Index, want[k-1].Term})
				if err := s.compact(first + uint64(k)); err != nil {
					t.Fatal(err)
				}
				first, want = first+uint64(k), want[k:]
			},
			"begin anew": func(t *rapid.T) {
				snap := last() + uint64(rapid.IntRange(1, 9).Draw(t, "ahead"))
				if err := s.reset(position{snap, 3}); err != nil {
					t.Fatal(err)
				}
				first, want = snap+1, nil
				if index, term := s.Snapshot(); index != snap || term != 3 {
					t.Fatalf("snapshot at %d of %d", index, term)
				}
				if term, ok := s.Term(snap); !ok || term != 3 {
					t.Fatalf("the term of the snapshot is %d, %v", term, ok)
				}
			},
			"reopen": func(t *rapid.T) { s, _ = newStore(t, log, cache) },
			"": func(t *rapid.T) {
				if lo, hi := s.First(), s.Last(); lo != first || hi != last() || s.Durable() != last() {
					t.Fatalf("bounds %d..%d, durable %d, want %d..%d", lo, hi, s.Durable(), first, last())
				}
				for i, w := range want {
					e, ok := s.entry(first + uint64(i))
					term, known := s.Term(first + uint64(i))
					if !ok || !known || term != w.Term || e.Index != w.Index || string(e.Data) != string(w.Data) {
						t.Fatalf("entry %d = %+v, %v, want %+v", first+uint64(i), e, ok, w)
					}
				}
				if es, ok := s.Entries(first, 4<<20); ok != (len(want) > 0) || ok && (len(es) != min(len(want), 64) || es[0].Index != first) {
					t.Fatalf("%d entries from %d, %v, want %d", len(es), first, ok, len(want))
				}
				behind := rapid.Uint64Range(0, last()+1).Draw(t, "behind")
				var confs []protocol.ConfigurationAt
				for _, w := range want {
					if c, err := protocol.ReadConfiguration(fulcrum.NewReader(w.Data)); w.Kind == protocol.Members && w.Index > behind {
						confs = append(confs, protocol.ConfigurationAt{Configuration: c, Index: w.Index})
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				if got := s.configurations(behind); !reflect.DeepEqual(got, confs) {
					t.Fatalf("configurations behind %d are %v, want %v", behind, got, confs)
				}
				for _, i := range []uint64{first - 1, last() + 1} {
					if _, ok := s.entry(i); ok {
						t.Fatalf("entry %d is there", i)
					}
				}
				if s.tailSize > max(cache, 0) || cache == 0 && len(s.tail) > 0 {
					t.Fatalf("%d entries, %d bytes are in memory", len(s.tail), s.tailSize)
				}
			},
		})
	})
}

// What was read from memory stays what it is, whatever happens to the log meanwhile: the
// machine and messages to peers work on it.
func TestWhatWasReadStays(t *testing.T) {
	for name, then := range map[string]func(s *store) error{
		"newer entries push it out": func(s *store) error { keep(t, s, commands(21, 60, 2)...); return nil },
		"the log is compacted": func(s *store) error {
			s.snapshotTaken(position{20, 1})
			return s.compact(21)
		},
		"the end is cut, and other entries come": func(s *store) error {
			err := s.cut(5)
			keep(t, s, commands(6, 30, 3)...)
			return err
		},
		"it begins anew": func(s *store) error { return s.reset(position{50, 4}) },
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newStore(t, replicationtest.NewLog(), 20*65)
			keep(t, s, commands(1, 20, 1)...)
			got, ok := s.Entries(1, 4<<20)
			if !ok || len(got) != 20 {
				t.Fatalf("%d entries, %v", len(got), ok)
			}
			if err := then(s); err != nil {
				t.Fatal(err)
			}
			if want := commands(1, 20, 1); !reflect.DeepEqual(got, want) {
				t.Errorf("what was read has become %v", got)
			}
		})
	}
}

func TestVoteIsStoredWholeOrNotAtAll(t *testing.T) {
	log := replicationtest.NewLog()
	s, _ := newStore(t, log, 0)
	want := protocol.HardState{Term: 4, Vote: "a"}
	if err := s.setHard(want); err != nil {
		t.Fatal(err)
	}
	log.FailWith(errors.New("input/output error"))
	_ = s.setHard(protocol.HardState{Term: 7, Vote: "b"})
	log.FailWith(nil)
	again, _ := newStore(t, log, 0)
	if got, err := again.hard(); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func TestALogOfAnEarlierBuildIsRefused(t *testing.T) {
	log := replicationtest.NewLog()
	if err := log.SetMeta(map[string][]byte{metaOld: {0, 0, 0, 0, 0, 0, 0, 3}}); err != nil {
		t.Fatal(err)
	}
	s, _ := newStore(t, log, 0)
	if h, err := s.hard(); err == nil {
		t.Errorf("read as %+v", h)
	}
}

func TestBadDiskIsReportedOnce(t *testing.T) {
	log := replicationtest.NewLog()
	s, failures := newStore(t, log, 0)
	keep(t, s, protocol.Entry{Index: 1, Term: 1}, protocol.Entry{Index: 2, Term: 1})
	log.FailWith(errors.New("input/output error"))
	if err := s.setHard(protocol.HardState{Term: 9}); err == nil {
		t.Error("a term was stored on a bad disk")
	}
	if err := s.begin([]protocol.Entry{{Index: 3, Term: 1}}, func() { t.Error("durable on a bad disk") }); err == nil {
		t.Error("an entry was stored on a bad disk")
	}
	if err := s.cut(1); err == nil {
		t.Error("the log was cut on a bad disk")
	}
	if _, ok := s.entry(2); ok {
		t.Error("an entry was read from a bad disk")
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
	if _, ok := s.entry(1); ok || len(*failures) != 1 {
		t.Errorf("read: %v, failures reported: %v, want one", ok, *failures)
	}
}

func TestMessagesSurviveTheirEncoding(t *testing.T) {
	conf := virtualSnapshot([]replicationNode{"a"}).Config.Append(nil)
	m := protocol.Append{Term: 3, Prev: 4, PrevTerm: 2, Commit: 4, Entries: []protocol.Entry{
		{Index: 5, Term: 3, Data: []byte("x")}, {Index: 6, Term: 3, Kind: protocol.Members, Data: conf}}}
	got, err := decodeAppend(bodyOf(encodeAppend(nil, &m)))
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Fatalf("%+v, %v, want %+v", got, err, m)
	}
	meta := virtualSnapshot([]replicationNode{"a", "b"})
	c := chunk{transfer: 9, offset: 3, data: []byte("abc"), last: true, term: 8, sum: 7, meta: meta}
	back, err := decodeChunk(bodyOf(c.encode()))
	if err != nil || back.transfer != 9 || string(back.data) != "abc" || !reflect.DeepEqual(back.meta, meta) {
		t.Fatalf("%+v, %v", back, err)
	}
}

// heldLog is a log whose writes of Begin are durable when they are let go.
type heldLog struct {
	*replicationtest.Log
	held []chan struct{}
}

func (l *heldLog) Begin(from uint64, records [][]byte, done func(error)) error {
	held := make(chan struct{})
	l.held = append(l.held, held)
	return l.Log.Begin(from, records, func(err error) {
		go func() {
			<-held
			done(err)
		}()
	})
}

func commands(from, to uint64, term uint64) (entries []protocol.Entry) {
	for i := from; i <= to; i++ {
		entries = append(entries, protocol.Entry{Index: i, Term: term, Data: []byte("c")})
	}
	return entries
}

// A write that was begun in an earlier reign, and cut off since, says nothing about
// what stands at its indexes now.
func TestDurableIsWhatStandsThereNow(t *testing.T) {
	log := &heldLog{Log: replicationtest.NewLog()}
	s, _ := newStore(t, log, 1<<20)
	done := make(chan struct{}, 9)
	begin := func(entries []protocol.Entry, durable uint64) {
		t.Helper()
		if err := s.begin(entries, func() { done <- struct{}{} }); err != nil {
			t.Fatal(err)
		}
		if got := s.Durable(); got != durable {
			t.Fatalf("durable up to %d, want %d", got, durable)
		}
	}
	release := func(i int) {
		close(log.held[i])
		<-done
	}
	begin(commands(1, 4, 1), 0)
	release(0)
	begin(commands(5, 9, 1), 4)
	if err := s.cut(6); err != nil { // another leader has other entries from 7 on
		t.Fatal(err)
	}
	begin(commands(7, 7, 2), 4)
	begin(commands(8, 9, 3), 4)
	release(1)
	if got := s.Durable(); got != 6 {
		t.Errorf("durable up to %d, want 6: 7 is being written", got)
	}
	release(2)
	if got := s.Durable(); got != 7 {
		t.Errorf("durable up to %d, want 7: 8 and 9 are being written", got)
	}
	release(3)
	if got := s.Durable(); got != 9 {
		t.Errorf("durable up to %d, want 9", got)
	}
}

// A store that could not read a record changes nothing in the log any more, whatever it is
// asked for: what it took for missing may be there.
func TestAStoreThatFailedLeavesTheLogAlone(t *testing.T) {
	for name, change := range map[string]func(*store) error{
		"reset":    func(s *store) error { return s.reset(position{9, 1}) },
		"cut":      func(s *store) error { return s.cut(2) },
		"append":   func(s *store) error { return s.begin(commands(5, 5, 1), func() {}) },
		"set hard": func(s *store) error { return s.setHard(protocol.HardState{Term: 2}) },
		"compact": func(s *store) error {
			s.snapshotTaken(position{4, 1})
			_ = s.compact(3)
			return errFailed // it has no errors to tell: nothing is missing in the log then
		},
	} {
		log := &badLog{Log: replicationtest.NewLog()}
		s, failures := newStore(t, log, 0)
		keep(t, s, commands(1, 4, 1)...)
		log.bad = true
		if _, ok := s.entry(3); ok || len(*failures) != 1 {
			t.Fatalf("%s: an entry was read that cannot be, failures %v", name, *failures)
		}
		if err := change(s); !errors.Is(err, errFailed) {
			t.Errorf("%s: %v", name, err)
		}
		if first, last := log.First(), log.Last(); first != 1 || last != 4 {
			t.Errorf("%s: the log is [%d, %d] now", name, first, last)
		}
		if b, _ := log.Meta(metaHard); b != nil {
			t.Errorf("%s: term and vote are stored", name)
		}
	}
}

// badLog is a log that cannot be read while it is bad.
type badLog struct {
	*replicationtest.Log
	bad bool
}

func (l *badLog) Range(lo, hi uint64, f func(index uint64, record []byte) error) error {
	if l.bad {
		return errors.New("input/output error")
	}
	return l.Log.Range(lo, hi, f)
}
