package replicationtest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fulcrum"
	"fulcrum/replication"
)

func TestLogKeepsItsContract(t *testing.T) {
	l := NewLog()
	expect := func(what string, first, last uint64) {
		t.Helper()
		if l.First() != first || l.Last() != last {
			t.Errorf("%s: First %d Last %d, want %d and %d", what, l.First(), l.Last(), first, last)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("an empty log", 0, 0)
	must(l.Reset(5))
	expect("with a base at 5", 6, 5)
	record := []byte("six")
	must(l.Append(6, [][]byte{record, []byte("seven"), []byte("eight")}))
	record[0] = 'X'
	if r, err := l.Get(6); string(r) != "six" || err != nil {
		t.Errorf("Get(6) = %q, %v: the log must own its records", r, err)
	}
	if err := l.Append(12, [][]byte{{1}}); err == nil {
		t.Error("a gap was accepted")
	}
	must(l.TruncateAfter(7))
	must(l.TruncateBefore(7))
	expect("cut on both sides", 7, 7)
	if _, err := l.Get(6); !errors.Is(err, replication.ErrNoRecord) {
		t.Errorf("Get of a cut record: %v", err)
	}
	must(l.SetMeta(map[string][]byte{"term": {3}}))
	next := l.Crash()
	if err := l.Append(8, [][]byte{{1}}); err == nil {
		t.Error("a crashed handle wrote")
	}
	l = next
	expect("after a crash", 7, 7)
	if m, _ := l.Meta("term"); len(m) != 1 || m[0] != 3 {
		t.Errorf("meta after a crash: %v", m)
	}
	l.FailWith(errors.New("bad disk"))
	if err := l.Append(8, [][]byte{{1}}); err == nil || l.Last() != 7 {
		t.Errorf("append on a bad disk: %v, last %d", err, l.Last())
	}
}

func TestLogTellsWhatIsDurableInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog()
		l.SyncDelay(time.Second)
		bad := errors.New("bad disk")
		var mu sync.Mutex // held in Begin, and taken by done
		var told []string
		begin := func(name string) {
			mu.Lock()
			defer mu.Unlock()
			if err := l.Begin(l.Last()+1, [][]byte{[]byte(name)}, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprint(name, err))
			}); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(told, want) {
				t.Errorf("told %v, want %v", told, want)
			}
		}
		begin("a")
		begin("b")
		if r, err := l.Get(2); err != nil || string(r) != "b" {
			t.Errorf("reading what was begun: %q, %v", r, err)
		}
		expect()
		time.Sleep(time.Second)
		expect("a<nil>", "b<nil>")
		begin("c")
		l.Lose()
		if l.Last() != 2 {
			t.Errorf("a crash left %d records, want 2", l.Last())
		}
		begin("d")
		time.Sleep(time.Second)
		expect("a<nil>", "b<nil>", "c"+errCrashed.Error(), "d<nil>")
		begin("e")
		l.FailWith(bad)
		if err := l.Begin(l.Last()+1, [][]byte{{1}}, func(error) { t.Error("told") }); !errors.Is(err, bad) {
			t.Errorf("begin on a bad disk: %v", err)
		}
		time.Sleep(time.Second)
		expect("a<nil>", "b<nil>", "c"+errCrashed.Error(), "d<nil>", "e"+bad.Error())
	})
}

func TestStateCrashLeavesTheLastWholePosition(t *testing.T) {
	s := NewState()
	for i := uint64(1); i <= 11; i++ {
		e := fulcrum.Entry{Key: []byte(fmt.Sprintf("k%02d", i)), Value: []byte{byte(i)}, Version: fulcrum.Version{Time: i}}
		if err := s.Apply(i, []fulcrum.Entry{e}, map[string][]byte{"n": {byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if s.Applied() != 11 || s.Durable() != flushEvery || s.Keys() != 11 {
		t.Fatalf("applied %d durable %d keys %d", s.Applied(), s.Durable(), s.Keys())
	}
	next := s.Crash()
	if err := s.Apply(12, nil, nil); err == nil {
		t.Error("a crashed handle wrote")
	}
	if n, _ := next.Extra("n"); next.Applied() != flushEvery || len(next.Dump()) != flushEvery || n[0] != flushEvery {
		t.Errorf("a crash left position %d with %d entries, extra %v", next.Applied(), len(next.Dump()), n)
	}
	v, err := next.View()
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Install(40, nil, func(put func(fulcrum.Entry) error) error {
		return put(fulcrum.Entry{Key: []byte("only"), Version: fulcrum.Version{Time: 1}})
	}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	_ = v.Scan([]byte("k03"), []byte("k06"), func(fulcrum.Entry) bool { seen++; return true })
	if seen != 3 || v.Index() != flushEvery {
		t.Errorf("a view changed under its reader: %d entries at %d", seen, v.Index())
	}
	if d := next.Dump(); len(d) != 1 || next.Durable() != 40 {
		t.Errorf("installed %v at %d", d, next.Durable())
	}
}
