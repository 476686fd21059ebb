package replication

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/consistency"
)

func anyBytes(t *rapid.T, name string) []byte {
	b := rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, name)
	if len(b) == 0 {
		return nil
	}
	return b
}

func anyEntry(t *rapid.T) fulcrum.Entry {
	return fulcrum.Entry{Key: anyBytes(t, "key"), Value: anyBytes(t, "value"), Tombstone: rapid.Bool().Draw(t, "tombstone"),
		Version:  fulcrum.Version{Time: rapid.Uint64().Draw(t, "time"), Actor: rapid.Uint32().Draw(t, "actor")},
		ExpireAt: rapid.Int64().Draw(t, "expire")}
}

func anyLevel(t *rapid.T) consistency.Level {
	return consistency.Level{Kind: consistency.Kind(rapid.Byte().Draw(t, "kind")), Bound: time.Duration(rapid.Int64().Draw(t, "bound"))}
}

func anyPosition(t *rapid.T) Position {
	return Position{Term: rapid.Uint64().Draw(t, "term"), Index: rapid.Uint64().Draw(t, "index")}
}

func anyOutcome(t *rapid.T) Outcome {
	return Outcome{Given: anyLevel(t), Position: anyPosition(t), Leader: fulcrum.NodeID(rapid.String().Draw(t, "leader")),
		Acks: rapid.IntRange(0, 9).Draw(t, "acks"), Needed: rapid.IntRange(0, 9).Draw(t, "needed"),
		Staleness: time.Duration(rapid.Int64().Draw(t, "staleness")), ClockBound: time.Duration(rapid.Int64Min(0).Draw(t, "clock bound")), Hinted: rapid.IntRange(0, 9).Draw(t, "hinted")}
}

// What is read is what was written, whatever the fields hold.
func TestCodecRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := WriteRequest{Level: anyLevel(t), Atomic: rapid.Bool().Draw(t, "atomic"), Writes: []fulcrum.Write{
			{Op: fulcrum.OpPut, Key: anyBytes(t, "k"), Value: anyBytes(t, "v"), ExpireAt: 7, KeepTTL: true, NoValue: rapid.Bool().Draw(t, "no value"), NoOld: rapid.Bool().Draw(t, "no old")},
			{Op: fulcrum.OpExpire, Key: anyBytes(t, "k"), TTL: 1 + rapid.Int64Range(0, 1<<40).Draw(t, "ttl")},
			{Op: fulcrum.OpSetRange, If: fulcrum.IfValue, Key: anyBytes(t, "k"), Expect: anyBytes(t, "x"), Offset: rapid.Int64().Draw(t, "off")},
			fulcrum.MergeOf(anyEntry(t)),
		}}
		got, err := ReadWriteRequest(fulcrum.NewReader(AppendWriteRequest(nil, w)))
		same(t, got, w, err)

		txn := WriteRequest{Level: anyLevel(t), Atomic: rapid.Bool().Draw(t, "atomic"), ID: fulcrum.RequestID(rapid.StringN(0, 5, -1).Draw(t, "id"))}
		for range rapid.IntRange(0, 2).Draw(t, "conditions") {
			txn.If = append(txn.If, fulcrum.Compare{Key: anyBytes(t, "k"), Target: fulcrum.CompareValue, Op: fulcrum.Less, Value: anyBytes(t, "v"), Version: anyEntry(t).Version})
		}
		for range rapid.IntRange(0, 2).Draw(t, "else") {
			txn.Else = append(txn.Else, fulcrum.Write{Op: fulcrum.OpGet, Key: anyBytes(t, "k")})
		}
		got, err = ReadWriteRequest(fulcrum.NewReader(AppendWriteRequest(nil, txn)))
		same(t, got, txn, err)

		rr := ReadRequest{Level: anyLevel(t), Min: anyPosition(t), Witness: "n2", Keys: [][]byte{anyBytes(t, "a"), anyBytes(t, "b")}}
		gotR, err := ReadReadRequest(fulcrum.NewReader(AppendReadRequest(nil, rr)))
		same(t, gotR, rr, err)

		sr := ScanRequest{Level: anyLevel(t), Min: anyPosition(t), Start: anyBytes(t, "a"), End: anyBytes(t, "b"), Limit: 5, KeysOnly: true}
		gotS, err := ReadScanRequest(fulcrum.NewReader(AppendScanRequest(nil, sr)))
		same(t, gotS, sr, err)

		wr := WriteReply{Outcome: anyOutcome(t), Else: rapid.Bool().Draw(t, "else"), Results: []fulcrum.Result{{Applied: true, Entry: anyEntry(t), Old: anyEntry(t)}}}
		for i := range wr.Results { // a value that was left out has its length
			res := &wr.Results[i]
			res.Length, res.OldLength = len(res.Entry.Value), len(res.Old.Value)
			w := fulcrum.Write{NoValue: rapid.Bool().Draw(t, "no value"), NoOld: rapid.Bool().Draw(t, "no old")}
			*res = w.Trim(*res)
		}
		gotWR, err := ReadWriteReply(fulcrum.NewReader(AppendWriteReply(nil, wr)))
		same(t, gotWR, wr, err)

		rp := ReadReply{Outcome: anyOutcome(t), Entries: []fulcrum.Entry{anyEntry(t), anyEntry(t)}}
		gotRP, err := ReadReadReply(fulcrum.NewReader(AppendReadReply(nil, rp)))
		same(t, gotRP, rp, err)

		sp := ScanReply{Outcome: anyOutcome(t), More: true, Entries: []fulcrum.Entry{anyEntry(t)}}
		gotSP, err := ReadScanReply(fulcrum.NewReader(AppendScanReply(nil, sp)))
		same(t, gotSP, sp, err)
	})
}

func same[T any](t *rapid.T, got, want T, err error) {
	t.Helper()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("err %v, diff %s", err, diff)
	}
}

// Foreign bytes give an error or a value, never a panic or a huge allocation.
func FuzzCodec(f *testing.F) {
	f.Add(AppendWriteRequest(nil, WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k")}}}))
	f.Add(AppendWriteRequest(nil, WriteRequest{If: []fulcrum.Compare{{Key: []byte("k")}}, Else: []fulcrum.Write{{Op: fulcrum.OpGet, Key: []byte("k")}}, ID: "id"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := ReadWriteRequest(fulcrum.NewReader(b)); err == nil {
			again, err := ReadWriteRequest(fulcrum.NewReader(AppendWriteRequest(nil, req)))
			if diff := cmp.Diff(req, again); err != nil || diff != "" {
				t.Errorf("err %v, diff %s", err, diff)
			}
		}
		_, _ = ReadReadRequest(fulcrum.NewReader(b))
		_, _ = ReadScanRequest(fulcrum.NewReader(b))
		_, _ = ReadWriteReply(fulcrum.NewReader(b))
		_, _ = ReadReadReply(fulcrum.NewReader(b))
		_, _ = ReadScanReply(fulcrum.NewReader(b))
	})
}
