package replication

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fulcrum"
)

// One write of the largest value that any node takes fits, with all of its result; and an
// answer within its bound fits into a message.
func TestBoundsLeaveRoomForTheLargestValue(t *testing.T) {
	const most = fulcrum.MaxMessageBytes / 4
	s := store{}
	key := bytes.Repeat([]byte("k"), fulcrum.MaxKeyBytes)
	put := WriteRequest{Writes: []fulcrum.Write{{Op: fulcrum.OpPut, Key: key, Value: make([]byte, most)}}}
	for i := range 2 { // the second one tells the value of the first
		ev, err := Evaluate(put, s.get, fulcrum.Version{Time: uint64(i + 1)}, 0, most, Bounded)
		if err != nil || ev.Refused != nil || len(ev.Entries) != 1 {
			t.Fatalf("%v, %v", err, ev.Refused)
		}
		s[string(key)] = ev.Entries[0]
		if n := len(AppendWriteReply(nil, WriteReply{Results: ev.Results})); n > ev.Cost.Answer || ev.Cost.Answer > MaxAnswer {
			t.Errorf("an answer of %d bytes counts %d", n, ev.Cost.Answer)
		}
	}
	if MaxAnswer+64<<10 > fulcrum.MaxMessageBytes {
		t.Error("an answer does not fit into a message")
	}
}

// What a result is said to take is no less than it takes.
func TestCostIsNoLessThanTheAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, s := anyBatch(t), standing(t)
		ev, err := Evaluate(req, s.get, fulcrum.Version{Time: 1 << 40, Actor: 3}, 5, 50, Bounds{})
		if err != nil {
			t.Fatal(err)
		}
		empty := len(AppendWriteReply(nil, WriteReply{}))
		if n := len(AppendWriteReply(nil, WriteReply{Results: ev.Results})) - empty; n > ev.Cost.Answer {
			t.Fatalf("%d bytes count %d", n, ev.Cost.Answer)
		}
		left := 0
		for _, e := range ev.Entries {
			left += len(e.Key) + len(e.Value)
		}
		if left != ev.Cost.Written {
			t.Fatalf("%d bytes written count %d", left, ev.Cost.Written)
		}
	})
}

func standing(t *rapid.T) store {
	s := store{}
	for i := range 4 {
		if rapid.Bool().Draw(t, "there") {
			k := fmt.Sprint("k", i)
			s[k] = fulcrum.Entry{Key: []byte(k), Value: []byte(rapid.StringMatching(`[0-9]{0,30}`).Draw(t, "stands")), Version: fulcrum.Version{Time: uint64(i + 1)}}
		}
	}
	return s
}

func anyBatch(t *rapid.T) (req WriteRequest) {
	for range rapid.IntRange(1, 12).Draw(t, "writes") {
		req.Writes = append(req.Writes, fulcrum.Write{
			Op:      rapid.SampledFrom([]fulcrum.Op{fulcrum.OpPut, fulcrum.OpDelete, fulcrum.OpAdd, fulcrum.OpAppend, fulcrum.OpSetRange, fulcrum.OpExpire, fulcrum.OpGet}).Draw(t, "op"),
			If:      rapid.SampledFrom([]fulcrum.If{fulcrum.IfAlways, fulcrum.IfPresent, fulcrum.IfAbsent}).Draw(t, "if"),
			Key:     fmt.Append(nil, "k", rapid.IntRange(0, 3).Draw(t, "key")),
			Value:   []byte(rapid.StringMatching(`[0-9]{0,20}`).Draw(t, "value")),
			NoValue: rapid.Bool().Draw(t, "no value"), NoOld: rapid.Bool().Draw(t, "no old"), Quiet: rapid.Bool().Draw(t, "quiet"),
		})
	}
	return req
}

// Independent writes that are cut, wherever that is, and sent again from there on, give what
// they give one by one. Nothing over a bound is done, but for a first write.
func TestABatchThatIsCutGivesWhatItsWritesGive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req, whole := anyBatch(t), standing(t)
		cut := store{}
		for k, e := range whole {
			cut[k] = e
		}
		bounds := Bounds{Written: rapid.IntRange(1, 120).Draw(t, "written"), Answer: rapid.IntRange(1, 900).Draw(t, "answer")}
		stamp := fulcrum.Version{Time: 1 << 20, Actor: 2}
		var want, got []fulcrum.Result
		for _, w := range req.Writes {
			stamp.Time++
			ev, err := Evaluate(WriteRequest{Writes: []fulcrum.Write{w}}, whole.get, stamp, 5, 50, Bounds{})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range ev.Entries {
				whole[string(e.Key)] = e
			}
			want = append(want, ev.Results...)
		}
		rest := req
		rest.Divisible = true
		for len(rest.Writes) > 0 {
			stamp.Time++
			ev, err := Evaluate(rest, cut.get, stamp, 5, 50, bounds)
			if err != nil || ev.Refused != nil || len(ev.Results) == 0 {
				t.Fatalf("%d results, %v, %v", len(ev.Results), err, ev.Refused)
			}
			if len(ev.Results) > 1 && !ev.Cost.Within(bounds) {
				t.Fatalf("%+v is over %+v", ev.Cost, bounds)
			}
			for _, e := range ev.Entries {
				cut[string(e.Key)] = e
			}
			got, rest.Writes = append(got, ev.Results...), rest.Writes[len(ev.Results):]
		}
		if diff := cmp.Diff(bare(want), bare(got)); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(values(whole), values(cut)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// bare is results as text, without versions, which differ.
func bare(results []fulcrum.Result) (out []string) {
	for _, r := range results {
		r.Entry.Version, r.Old.Version = fulcrum.Version{}, fulcrum.Version{}
		out = append(out, fmt.Sprintf("%+q", []any{r}))
	}
	return out
}

func values(s store) map[string]string {
	out := map[string]string{}
	for k, e := range s {
		out[k] = fmt.Sprint(e.Tombstone, string(e.Value))
	}
	return out
}

// What must be done as a whole is refused as a whole, with a text that names the limit.
func TestARequestOverABoundIsRefused(t *testing.T) {
	s := store{"a": {Key: []byte("a"), Value: make([]byte, 90), Version: fulcrum.Version{Time: 1}}, "b": {Key: []byte("b"), Value: make([]byte, 90), Version: fulcrum.Version{Time: 1}}}
	appends := []fulcrum.Write{{Op: fulcrum.OpAppend, Key: []byte("a"), Value: []byte("x"), NoValue: true, NoOld: true}, {Op: fulcrum.OpAppend, Key: []byte("b"), Value: []byte("x"), NoValue: true, NoOld: true}}
	gets := []fulcrum.Write{{Op: fulcrum.OpGet, Key: []byte("a"), NoValue: true}, {Op: fulcrum.OpGet, Key: []byte("b"), NoValue: true}}
	absent := []fulcrum.Compare{{Key: []byte("c"), Op: fulcrum.NotEqual}}
	for _, tt := range []struct {
		name   string
		req    WriteRequest
		bounds Bounds
		text   string
	}{
		{"what it writes", WriteRequest{Writes: appends}, Bounds{Written: 183}, "more than 183 bytes"},
		{"as one step", WriteRequest{Writes: appends, Atomic: true}, Bounds{Written: 183}, "more than 183 bytes"},
		{"what it writes, just so", WriteRequest{Writes: appends}, Bounds{Written: 184}, ""},
		{"what it answers", WriteRequest{Writes: gets}, Bounds{Answer: 180}, "larger than 180 bytes"},
		{"the branch that runs", WriteRequest{If: absent, Writes: appends, Else: gets}, Bounds{Written: 100, Answer: 1000}, ""},
		{"the branch that runs, too large", WriteRequest{If: absent, Writes: appends, Else: gets}, Bounds{Written: 100, Answer: 180}, "larger than 180 bytes"},
		{"one write", WriteRequest{Writes: appends[:1]}, Bounds{Written: 90}, "more than 90 bytes"},
	} {
		ev, err := Evaluate(tt.req, s.get, fulcrum.Version{Time: 9}, 0, 100, tt.bounds)
		switch {
		case err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.text == "" && ev.Refused != nil:
			t.Errorf("%s: %v", tt.name, ev.Refused)
		case tt.text == "":
		case ev.Refused == nil || !errors.Is(ev.Refused, &fulcrum.Error{Code: fulcrum.CodeTooLarge}) || !strings.Contains(ev.Refused.Error(), tt.text):
			t.Errorf("%s: %v", tt.name, ev.Refused)
		case len(ev.Entries)+len(ev.Results) > 0:
			t.Errorf("%s: %d entries are left", tt.name, len(ev.Entries))
		}
	}
}
