package quorum

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
	rt "fulcrum/replication/replicationtest"
)

// alone is a running replica whose peers never answer, for Handle.
func alone(tb testing.TB) *Group {
	tb.Helper()
	log, state := rt.NewLog(), rt.NewState()
	if err := errors.Join(log.Reset(1), state.Rebase(1, nil)); err != nil {
		tb.Fatal(err)
	}
	g, err := Open(replication.Env{Node: "n1", Actor: 1, Group: 1, Epoch: 1, Replicas: []fulcrum.NodeID{"n1", "n2", "n3"},
		Peers: silent{}, Log: log, State: state, Hints: rt.NewState(), Clock: rt.NewClock(time.Now, 1), Now: time.Now,
		Rand: rand.New(rand.NewPCG(1, 1)), Logger: slog.New(slog.DiscardHandler), Metrics: replication.NoMetrics{},
		MaxValue: fulcrum.DefaultMaxValue, Based: true}, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return g
}

type silent struct{}

func (silent) Call(ctx context.Context, _ fulcrum.NodeID, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

var sample = []fulcrum.Entry{
	{Key: []byte("a"), Value: []byte("1"), Version: fulcrum.Version{Time: 7, Actor: 1}},
	{Key: []byte("b"), Version: fulcrum.Version{Time: 9, Actor: 2}, Tombstone: true},
	{Key: []byte("c"), Value: []byte("3"), Version: fulcrum.Version{Time: 8, Actor: 3}, ExpireAt: 1 << 60},
}

func FuzzHandle(f *testing.F) {
	g := alone(f)
	f.Add(appendVersion([]byte{kindPing}, fulcrum.Version{Time: 1, Actor: 1}))
	f.Add(storeMessages(0, sample)[0])
	f.Add(appendPairs([]byte{kindRead}, []pair{{[]byte("a"), fulcrum.Version{}}, {[]byte("x"), fulcrum.Version{}}}))
	f.Add(append(fulcrum.AppendBytes(fulcrum.AppendBytes([]byte{kindScan}, []byte("a")), nil), 5))
	f.Add([]byte{kindDigests, 0})
	f.Add(fulcrum.AppendBytes(append([]byte{kindBuckets, 0}, bytes.Repeat([]byte{255}, buckets/8)...), nil))
	f.Add(appendKeys([]byte{kindPull, 0}, [][]byte{[]byte("a"), []byte("b")}))
	f.Add(appendPairs([]byte{kindPurge}, []pair{{[]byte("b"), fulcrum.Version{Time: 9, Actor: 2}}}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := g.Handle(ctx, "n2", msg); err != nil {
			var e *fulcrum.Error
			if !errors.As(err, &e) || (e.Code != fulcrum.CodeInvalid && e.Code != fulcrum.CodeConflict) {
				t.Fatalf("%x: %v", msg, err)
			}
		}
	})
}

func FuzzReplies(f *testing.F) {
	f.Add(appendAnswer(appendAnswer(nil, sample[0], fulcrum.Version{}), sample[1], sample[1].Version))
	f.Add(appendEntries(nil, sample))
	f.Add(appendRecord(nil, recordEntries, sample))
	f.Fuzz(func(t *testing.T, b []byte) {
		if as, err := decodeAnswers(b, 10); err == nil && len(as) > 10 {
			t.Fatal("more answers than were asked for")
		}
		if es, rest, err := decodeEntries(b); err == nil {
			again, _, err := decodeEntries(appendEntries(nil, es))
			if err != nil || !reflect.DeepEqual(es, again) {
				t.Fatalf("%v, then %v (%d left), %v", es, again, len(rest), err)
			}
		}
		_, _, _ = decodeRecord(b)
	})
}

func TestHandleRefuses(t *testing.T) {
	g := alone(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, c := range []struct {
		name string
		from fulcrum.NodeID
		msg  []byte
		want error
	}{
		{"nothing", "n2", nil, fulcrum.ErrInvalid},
		{"a kind it does not know", "n2", []byte{99}, fulcrum.ErrInvalid},
		{"a stranger", "n9", []byte{kindDigests, 0}, fulcrum.ErrInvalid},
		{"itself", "n1", []byte{kindDigests, 0}, fulcrum.ErrInvalid},
		{"a list too long", "n2", []byte{kindStore, 0, 0xff, 0xff, 0x7f}, fulcrum.ErrInvalid},
		{"a torn store", "n2", storeMessages(0, sample)[0][:9], fulcrum.ErrInvalid},
		{"an entry without a key", "n2", storeMessages(0, []fulcrum.Entry{{Version: fulcrum.Version{Time: 1}}})[0], fulcrum.ErrInvalid},
		{"an entry without a version", "n2", storeMessages(0, []fulcrum.Entry{{Key: []byte("k")}})[0], fulcrum.ErrInvalid},
		{"settling with one that is not fenced", "n2", []byte{kindDigests, flagSettle}, fulcrum.ErrConflict},
		{"a purge that the state cannot do", "n2", appendPairs([]byte{kindPurge}, []pair{{[]byte("b"), fulcrum.Version{Time: 9}}}), fulcrum.ErrInvalid},
	} {
		if _, err := g.Handle(ctx, c.from, c.msg); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if g.env.State.Keys() != 0 {
		t.Error("a refused message was stored")
	}
}

func TestPartsFitMessages(t *testing.T) {
	big := make([]byte, fulcrum.DefaultMaxValue)
	var es []fulcrum.Entry
	for i := range fulcrum.MaxOpsPerBatch {
		es = append(es, fulcrum.Entry{Key: []byte{byte(i)}, Value: big, Version: fulcrum.Version{Time: 1}})
	}
	n := 0
	for _, msg := range storeMessages(0, es) {
		if len(msg) > fulcrum.MaxMessageBytes/2 {
			t.Errorf("a message of %d bytes", len(msg))
		}
		list, _, err := decodeEntries(msg[2:])
		if err != nil {
			t.Fatal(err)
		}
		n += len(list)
	}
	if n != len(es) {
		t.Errorf("%d entries arrived of %d", n, len(es))
	}
}
