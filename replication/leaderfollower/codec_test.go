package leaderfollower

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/replicationtest"
)

func openAlone(tb testing.TB) *Group {
	log, state := replicationtest.NewLog(), replicationtest.NewState()
	if err := log.Reset(1); err != nil {
		tb.Fatal(err)
	}
	if err := state.Rebase(1, nil); err != nil {
		tb.Fatal(err)
	}
	g, err := Open(replication.Env{Node: "n1", Replicas: []fulcrum.NodeID{"n1", "n2"}, Log: log, State: state, Based: true,
		Rand: rand.New(rand.NewPCG(1, 2)), Now: time.Now, Clock: replicationtest.NewClock(time.Now, 1), Logger: slog.New(slog.DiscardHandler), MaxValue: 1 << 20,
	}, Options{Lease: func() (time.Time, bool) { return time.Time{}, false }})
	if err != nil {
		tb.Fatal(err)
	}
	return g
}

// FuzzHandle feeds a follower anything: it may refuse, it must not fall over, and
// what it accepts must leave a log that can be read again.
func FuzzHandle(f *testing.F) {
	rec := newRecord(kindWrite, 2<<lifeBits, "n2", []fulcrum.Entry{{Key: []byte("k"), Value: []byte("v"), Version: fulcrum.Version{Time: 5, Actor: 2}}})
	f.Add(appendMsg{term: 2 << lifeBits, prevIndex: 1, prevTerm: 1, commit: 2, last: 2, records: []record{rec}}.encode())
	f.Add(appendMsg{term: 3 << lifeBits, prevIndex: 1, prevTerm: 1}.encode())
	f.Add(chunkMsg{term: 2 << lifeBits, id: 1, index: 9, seq: 1, final: true}.encode())
	f.Add([]byte{msgAppend, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, msg []byte) {
		g := openAlone(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if b, err := g.Handle(ctx, "n2", msg); err == nil {
			if _, err := decodeAnswer(b); err != nil {
				t.Fatalf("an answer that does not decode: %v", err)
			}
		}
		if err := g.env.Log.Range(2, g.env.Log.Last(), func(_ uint64, raw []byte) error {
			_, err := decodeRecord(raw)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMessagesSurviveTheWire(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		u := rapid.Uint64()
		e := fulcrum.Entry{Key: []byte(rapid.StringN(1, 9, 9).Draw(rt, "key")), Value: []byte("v"), Version: fulcrum.Version{Time: u.Draw(rt, "time"), Actor: 7}}
		term := u.Draw(rt, "term")
		m := appendMsg{term: term, prevIndex: u.Draw(rt, "prev"), prevTerm: u.Draw(rt, "prevTerm"), commit: u.Draw(rt, "commit"),
			last: u.Draw(rt, "last"), echo: u.Draw(rt, "echo"), nonce: u.Draw(rt, "nonce"),
			records: []record{newRecord(kindWrite, term, "n2", []fulcrum.Entry{e}), newRecord(kindFence, term/2, "n2", nil)}}
		got, err := decodeAppend(fulcrum.NewReader(m.encode()[1:]))
		if err != nil || !reflect.DeepEqual(got, m) {
			rt.Fatalf("append: got %+v, %v, want %+v", got, err, m)
		}
		c := chunkMsg{term: term, id: u.Draw(rt, "id"), seq: 3, index: 4, final: true, entries: []fulcrum.Entry{e},
			note: stateNote{epoch: 3, term: 5, newest: e.Version, fence: 8, fenceTerm: 5}}
		gotChunk, err := decodeChunk(fulcrum.NewReader(c.encode()[1:]))
		if err != nil || !reflect.DeepEqual(gotChunk, c) {
			rt.Fatalf("chunk: got %+v, %v, want %+v", gotChunk, err, c)
		}
	})
}

// TestHistoryAgreesWithAList compares history with the obvious model.
func TestHistoryAgreesWithAList(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h history
		h.rebase(5, 1)
		terms := map[uint64]uint64{5: 1}
		base, last, term := uint64(5), uint64(5), uint64(1)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				term += rapid.Uint64Range(0, 1).Draw(rt, "rise")
				last++
				terms[last] = term
				h.append(record{kind: kindNoop, term: term, raw: []byte{byte(last)}})
			},
			"truncate after": func(rt *rapid.T) {
				last = rapid.Uint64Range(base, last).Draw(rt, "at")
				term++
				h.truncateAfter(last)
			},
			"truncate before": func(rt *rapid.T) {
				base = rapid.Uint64Range(base, last).Draw(rt, "at")
				h.truncateBefore(base + 1)
			},
			"trim": func(rt *rapid.T) { h.trim(rapid.Uint64Range(base, last).Draw(rt, "applied"), 3) },
			"": func(rt *rapid.T) {
				if h.last != last || h.base != base || h.lastTerm() != terms[last] {
					rt.Fatalf("base %d last %d term %d, want %d %d %d", h.base, h.last, h.lastTerm(), base, last, terms[last])
				}
				for i := base; i <= last; i++ {
					if got, ok := h.termAt(i); !ok || got != terms[i] {
						rt.Fatalf("term at %d = %d %v, want %d", i, got, ok, terms[i])
					}
					if r, ok := h.get(i); ok && r.raw[0] != byte(i) {
						rt.Fatalf("record at %d is that of %d", i, r.raw[0])
					}
				}
				if _, ok := h.termAt(last + 1); ok {
					rt.Fatal("a term behind the end")
				}
			},
		})
	})
}
