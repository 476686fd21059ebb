package raft

import (
	"fmt"
	"testing"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
	"fulcrum/replication/replicationtest"
)

// heavy appends one byte to each of n large values.
func heavy(n int) (req replication.WriteRequest) {
	for i := range n {
		req.Writes = append(req.Writes, fulcrum.Write{Op: fulcrum.OpAppend, Key: fmt.Append(nil, i), Value: []byte("y"), NoValue: true, NoOld: true})
	}
	return req
}

// laden is a keeper whose first entry has put n values of a megabyte.
func laden(t *testing.T, n int) *keeper {
	k := newKeeper(t, replicationtest.NewState())
	k.env.MaxValue = 2 << 20
	for i := range n {
		put := replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: fmt.Append(nil, i), Value: make([]byte, 1<<20), Quiet: true}}}
		k.apply([]protocol.Entry{{Index: uint64(i + 1), Term: 1, Data: entry{kind: entryBatch, items: [][]byte{encodeRequest(put)}}.encode()}})
	}
	return k
}

// An entry does what it has room for, and puts off the rest; one of an earlier build does all.
func TestAnEntryHasABound(t *testing.T) {
	const each, fit = 7, 4
	var items [][]byte
	for range 6 {
		items = append(items, encodeRequest(heavy(each)))
	}
	named := heavy(1)
	named.ID = "an id"
	items = append(items, encodeRequest(named))
	for _, tt := range []struct {
		kind byte
		done int
	}{{entryBatch, fit}, {entryOwnLimit, fit}, {entryUnbounded, len(items)}} {
		k := laden(t, each)
		res := k.apply([]protocol.Entry{{Index: each + 1, Term: 1, Data: entry{kind: tt.kind, items: items}.encode()}})[0].(*entryResult)
		for i, item := range res.items {
			results, ok := item.([]fulcrum.Result)
			_, later := item.(deferred)
			if ok != (i < tt.done) || later != (i >= tt.done) {
				t.Errorf("kind %d, request %d: %T", tt.kind, i, item)
			}
			if ok && results[0].Length != 1<<20+i+1 {
				t.Errorf("kind %d, request %d: a value of %d bytes", tt.kind, i, results[0].Length)
			}
		}
		e, err := k.env.State.Get([]byte("1"))
		if want := 1<<20 + min(tt.done, 6); err != nil || len(e.Value) != want {
			t.Errorf("kind %d left %d bytes, want %d; %v", tt.kind, len(e.Value), want, err)
		}
		if _, known := k.ids.find("an id"); known != (tt.done > fit) {
			t.Errorf("kind %d: a request that was put off is remembered: %v", tt.kind, known)
		}
	}
}

// One request over the bound is refused, and does nothing, on whoever applies it, not only
// on the replica that proposed it; in a log of an earlier build it was done, and is.
func TestARequestOverABoundInAnOldLogIsDone(t *testing.T) {
	const keys = 9
	for i, kind := range []byte{entryBatch, entryUnbounded, entryBatch, entryUnbounded} {
		k := laden(t, keys)
		stamp := fulcrum.Version{Time: 1 << 40, Actor: k.env.Actor + uint32(i/2)}
		res := k.apply([]protocol.Entry{{Index: keys + 1, Term: 1, Data: entry{kind: kind, stamp: stamp, items: [][]byte{encodeRequest(heavy(keys))}}.encode()}})[0].(*entryResult)
		_, refused := res.items[0].(error)
		e, err := k.env.State.Get([]byte("0"))
		if err != nil || refused != (kind == entryBatch) || (len(e.Value) == 1<<20) != refused {
			t.Errorf("kind %d of actor %d: refused %v, %d bytes, %v", kind, stamp.Actor, refused, len(e.Value), err)
		}
	}
}

// However many entries are committed at once, one step takes no more of them than memory
// has room for.
func TestOneStepAppliesABoundedAmount(t *testing.T) {
	const keys, entries = 7, 20
	k := laden(t, keys)
	var logs []protocol.Entry
	for i := range entries {
		logs = append(logs, protocol.Entry{Index: keys + 1 + uint64(i), Term: 1, Data: entry{kind: entryBatch, items: [][]byte{encodeRequest(heavy(keys))}}.encode()})
	}
	steps := 0
	for rest := logs; len(rest) > 0; steps++ {
		n := len(k.apply(rest))
		if n == 0 || n > 5 {
			t.Fatalf("a step of %d entries", n)
		}
		rest = rest[n:]
	}
	if e, err := k.env.State.Get([]byte("3")); err != nil || len(e.Value) != 1<<20+entries || k.applied() != keys+entries {
		t.Errorf("%d bytes at %d after %d steps; %v", len(e.Value), k.applied(), steps, err)
	}
}
