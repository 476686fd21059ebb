package raft

import (
	"encoding/hex"
	"testing"
	"time"

	"fulcrum"
	"fulcrum/replication"
	"fulcrum/replication/raft/protocol"
	"fulcrum/replication/replicationtest"
)

// What the build before answers were trimmed wrote: three requests with an id, how each
// was remembered, and the log entry that holds them.
const oldEntry = "0180801c030180a8d6b907c80103" +
	"100801010004904e016b027631036f6e65" +
	"1e080306000000016b02323304000000016b013109000000016b000374776f" +
	"230f0001000100000178000202020000016b000700000001730361626304057468726565"

var oldOutcomes = []struct{ request, sum, outcome string }{
	{"0801010004904e016b027631036f6e65", "48aa69ea8aeda74881ba85a91e82ac95", "000500808080d0acf30e01904e0000"},
	{"080306000000016b02323304000000016b013109000000016b000374776f", "67e329e7a4ae4a608b47877402e8c652",
		"002900818080d0acf30e01904e00047631323300808080d0acf30e01904e000276311a00818080d0acf30e01904e000476313233340007696e76616c69640000" +
			"2776616c7565206973206e6f7420616e20696e7465676572206f72206f7574206f662072616e6765001800818080d0acf30e01904e000476313233"},
	{"0f0001000100000178000202020000016b000700000001730361626304057468726565", "d5841e427110efd8f88064c5d408e326",
		"012901828080d0acf30e0100000000818080d0acf30e01904e0004763132330900838080d0acf30e010000050000616263"},
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A replica that restarts on the log of an earlier build makes of it what that build made.
func TestAnEntryOfAnEarlierBuildAppliesAsThen(t *testing.T) {
	for _, kind := range []byte{entryUnbounded, entryOwnLimit} { // the latter in the same form
		old := unhex(t, oldEntry)
		old[0] = kind
		appliesAsThen(t, old)
	}
}

func appliesAsThen(t *testing.T, old []byte) {
	k := newKeeper(t, replicationtest.NewState())
	res := k.apply([]protocol.Entry{{Index: 1, Term: 1, Data: old}})[0].(*entryResult)
	if res.err != nil || len(res.items) != 3 {
		t.Fatalf("%+v", res)
	}
	appended := res.items[1].([]fulcrum.Result)[0]
	if string(appended.Entry.Value) != "v123" || string(appended.Old.Value) != "v1" || !appended.Applied {
		t.Errorf("append: %+v", appended)
	}
	if _, ok := res.items[2].(elseRan); !ok {
		t.Errorf("the transaction: %+v", res.items[2])
	}
	for key, want := range map[string]string{"k": "", "s": "\x00\x00abc"} {
		if e, err := k.env.State.Get([]byte(key)); err != nil || string(e.Value) != want {
			t.Errorf("%s holds %q, %v; want %q", key, e.Value, err, want)
		}
	}
}

// A request that an earlier build has answered is answered with the same results, also
// where it comes again from a node that needs no values.
func TestAnOutcomeOfAnEarlierBuildIsRemembered(t *testing.T) {
	for _, bare := range []bool{false, true} {
		l := newJournal(t, newKeeper(t, replicationtest.NewState()))
		for i, old := range oldOutcomes {
			req, err := decodeRequest(unhex(t, old.request))
			if err != nil {
				t.Fatal(err)
			}
			if sum := sumOf(req); hex.EncodeToString(sum[:]) != old.sum {
				t.Errorf("request %d has another sum: %x", i, sum)
			}
			l.k.ids.add(idRecord{id: req.ID, sum: requestSum(unhex(t, old.sum)), outcome: unhex(t, old.outcome)}, fulcrum.Version{Time: uint64(l.at/time.Millisecond) << 16})
			for _, ws := range [][]fulcrum.Write{req.Writes, req.Else} {
				for j := range ws {
					ws[j].NoValue, ws[j].NoOld = bare, bare
				}
			}
			results := l.results(req)
			want := []struct{ value, was int }{{2, 0}, {4, 2}, {0, 4}}[i]
			if got := results[0]; !got.Applied || got.Length != want.value || got.OldLength != want.was {
				t.Errorf("request %d, bare %v: %+v", i, bare, got)
			}
			if got := results[0]; (len(got.Entry.Value) == want.value && len(got.Old.Value) == want.was) == bare {
				t.Errorf("request %d, bare %v: values %q and %q", i, bare, got.Entry.Value, got.Old.Value)
			}
		}
		if keys := l.k.env.State.Keys(); keys != 0 {
			t.Errorf("%d keys were written by requests that were done before", keys)
		}
	}
}

// A value that nobody asked for is no reason to refuse a retry: its length is remembered.
func TestARetryNeedsNoValueThatNobodyAskedFor(t *testing.T) {
	k := newKeeper(t, replicationtest.NewState())
	k.env.MaxValue = 1 << 20
	l := newJournal(t, k)
	l.results(replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k"), Value: make([]byte, 2*keptValue)}}})
	req := replication.WriteRequest{ID: "a", Writes: []fulcrum.Write{{Op: fulcrum.OpAppend, Key: []byte("k"), Value: []byte("y"), NoValue: true, NoOld: true}}}
	first := l.results(req)[0]
	l.results(replication.WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpDelete, Key: []byte("k")}}})
	again := l.results(req)[0]
	if first.Length != 2*keptValue+1 || again.Length != first.Length || again.OldLength != 2*keptValue || len(again.Entry.Value) > 0 {
		t.Errorf("lengths %d and %d, then %d and %d", first.Length, first.OldLength, again.Length, again.OldLength)
	}
}
