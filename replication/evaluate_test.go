package replication

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"fulcrum"
)

// store is what a request is evaluated over.
type store map[string]fulcrum.Entry

func (s store) get(key []byte) (fulcrum.Entry, error) { return s[string(key)], nil }

const wall = 1000 // milliseconds: the time at which requests are evaluated

var now = fulcrum.Version{Time: wall << 16, Actor: 1}

func anyStore(t *rapid.T) store {
	s := store{}
	for _, k := range []string{"a", "b", "c"} {
		if rapid.Bool().Draw(t, "stands") {
			s[k] = fulcrum.Entry{Key: []byte(k), Value: []byte(rapid.SampledFrom([]string{"1", "2", "x"}).Draw(t, "value")),
				Version: fulcrum.Version{Time: uint64(rapid.IntRange(1, 3).Draw(t, "version"))}, Tombstone: rapid.IntRange(0, 4).Draw(t, "kind") == 0,
				ExpireAt: rapid.SampledFrom([]int64{0, 0, wall - 1, wall + 1}).Draw(t, "expiry")}
		}
	}
	return s
}

func anyOps(t *rapid.T, most int) (ws []fulcrum.Write) {
	for range rapid.IntRange(0, most).Draw(t, "writes") {
		ws = append(ws, fulcrum.Write{
			Op:  rapid.SampledFrom([]fulcrum.Op{fulcrum.OpPut, fulcrum.OpDelete, fulcrum.OpAdd, fulcrum.OpAppend, fulcrum.OpGet}).Draw(t, "op"),
			If:  rapid.SampledFrom([]fulcrum.If{fulcrum.IfAlways, fulcrum.IfAlways, fulcrum.IfAbsent, fulcrum.IfPresent}).Draw(t, "if"),
			Key: []byte(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")), Value: []byte(rapid.SampledFrom([]string{"1", "2", "x"}).Draw(t, "operand"))})
	}
	return ws
}

func anyCompare(t *rapid.T) fulcrum.Compare {
	return fulcrum.Compare{Key: []byte(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")),
		Target:  rapid.SampledFrom([]fulcrum.CompareTarget{fulcrum.CompareVersion, fulcrum.CompareValue}).Draw(t, "target"),
		Op:      rapid.SampledFrom([]fulcrum.CompareOp{fulcrum.Equal, fulcrum.NotEqual, fulcrum.Less, fulcrum.Greater}).Draw(t, "compare"),
		Version: fulcrum.Version{Time: uint64(rapid.IntRange(0, 3).Draw(t, "version"))}, Value: []byte(rapid.SampledFrom([]string{"1", "2", "x"}).Draw(t, "value"))}
}

// The conditions alone choose the branch, over what stood there before; the branch runs
// as it would by itself; an atomic one leaves all or nothing, and says who is to blame.
func TestEvaluateTransactions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anyStore(t)
		req := WriteRequest{Writes: anyOps(t, 4), Else: anyOps(t, 4), Atomic: rapid.Bool().Draw(t, "atomic")}
		holds := true
		for range rapid.IntRange(0, 3).Draw(t, "conditions") {
			c := anyCompare(t)
			req.If = append(req.If, c)
			holds = holds && c.Holds(s[string(c.Key)], wall)
		}
		got, err := Evaluate(req, s.get, now, now.Wall().UnixMilli(), 100, Bounds{})
		if err != nil {
			t.Fatal(err)
		}
		ran := req.Writes
		if !holds {
			ran = req.Else
		}
		if got.Else != !holds || len(got.Results) != len(ran) {
			t.Fatalf("else %v with %d results, want %v with %d", got.Else, len(got.Results), !holds, len(ran))
		}
		free, err := Evaluate(WriteRequest{Writes: ran}, s.get, now, now.Wall().UnixMilli(), 100, Bounds{})
		if err != nil {
			t.Fatal(err)
		}
		culprit := -1
		for i, res := range free.Results {
			switch {
			case ran[i].Op == fulcrum.OpGet && (res.Applied || res.Err != nil):
				t.Fatalf("a read was %+v", res)
			case culprit < 0 && ran[i].Op != fulcrum.OpGet && !res.Applied:
				culprit = i
			}
		}
		if !req.Atomic || culprit < 0 || len(ran) == 1 {
			if !reflect.DeepEqual(got.Results, free.Results) || !reflect.DeepEqual(got.Entries, free.Entries) || got.Last != free.Last {
				t.Fatalf("left %+v, alone %+v", got, free)
			}
			return
		}
		if len(got.Entries) > 0 {
			t.Fatalf("write %d of an atomic branch did not apply, and %d entries are left", culprit, len(got.Entries))
		}
		for i, res := range got.Results {
			want := fulcrum.Result{}
			if i == culprit {
				want = free.Results[i]
				want.Entry.Key = ran[i].Key // also where nothing stands
			}
			if !reflect.DeepEqual(res, want) {
				t.Fatalf("result %d is %+v, want %+v", i, res, want)
			}
		}
	})
}

func TestReadsInATransactionSeeWhatIsBeforeThem(t *testing.T) {
	s := store{"k": {Key: []byte("k"), Value: []byte("5"), Version: fulcrum.Version{Time: 1}}}
	read := fulcrum.Write{Op: fulcrum.OpGet, Key: []byte("k")}
	req := WriteRequest{Atomic: true, Writes: []fulcrum.Write{read, {Op: fulcrum.OpAdd, Key: []byte("k"), Value: []byte("2")}, read}}
	got, err := Evaluate(req, s.get, now, now.Wall().UnixMilli(), 100, Bounds{})
	if err != nil || len(got.Entries) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, want := range []string{"5", "7", "7"} {
		if res := got.Results[i]; string(res.Entry.Value) != want || res.Applied != (i == 1) {
			t.Errorf("result %d: %+v, want %s", i, res, want)
		}
	}
}

func TestEmptyBranch(t *testing.T) {
	holds := fulcrum.Compare{Key: []byte("k")} // version equal to none: absent
	for _, req := range []WriteRequest{{If: []fulcrum.Compare{holds}}, {If: []fulcrum.Compare{holds}, Else: []fulcrum.Write{{Op: fulcrum.OpPut, Key: []byte("k")}}}} {
		if err := req.Check(100); err != nil {
			t.Error(err)
		}
		if got, err := Evaluate(req, store{}.get, now, now.Wall().UnixMilli(), 100, Bounds{}); err != nil || got.Else || len(got.Results)+len(got.Entries) > 0 {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestRequestsAreChecked(t *testing.T) {
	put := fulcrum.Write{Op: fulcrum.OpPut, Key: []byte("k")}
	many := make([]fulcrum.Write, fulcrum.MaxOpsPerBatch+1)
	for i := range many {
		many[i] = put
	}
	cond := fulcrum.Compare{Key: []byte("k")}
	for _, tt := range []struct {
		name string
		req  WriteRequest
		want fulcrum.Code
	}{
		{"nothing", WriteRequest{}, fulcrum.CodeInvalid},
		{"an empty key in Else", WriteRequest{Writes: []fulcrum.Write{put}, Else: []fulcrum.Write{{Op: fulcrum.OpPut}}}, fulcrum.CodeInvalid},
		{"an empty key in If", WriteRequest{Writes: []fulcrum.Write{put}, If: []fulcrum.Compare{{}}}, fulcrum.CodeInvalid},
		{"too many in Else", WriteRequest{Else: many}, fulcrum.CodeTooLarge},
		{"too many in Then", WriteRequest{If: []fulcrum.Compare{cond}, Writes: many}, fulcrum.CodeTooLarge},
		{"as many as there may be", WriteRequest{If: []fulcrum.Compare{cond}, Writes: many[1:], Else: many[1:]}, ""},
		{"a long id", WriteRequest{Writes: []fulcrum.Write{put}, ID: fulcrum.RequestID(bytes.Repeat([]byte("i"), fulcrum.MaxRequestID+1))}, fulcrum.CodeTooLarge},
	} {
		var code fulcrum.Code
		err := tt.req.Check(100)
		if e := (*fulcrum.Error)(nil); errors.As(err, &e) {
			code = e.Code
		}
		if code != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
