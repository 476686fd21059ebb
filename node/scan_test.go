package node

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"fulcrum"
	"fulcrum/node/api"
	"fulcrum/replication"
)

// Page after page, a scan shows every key of every shard once, in order, whatever
// the limit and however keys are spread.
func TestPagesOfAScanShowEveryKeyOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		keys := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c]{1,4}`), 0, 40, rapid.ID).Draw(rt, "keys")
		shards := make([][]string, rapid.IntRange(1, 4).Draw(rt, "shards"))
		for _, k := range keys {
			i := rapid.IntRange(0, len(shards)-1).Draw(rt, "shard of "+k)
			shards[i] = append(shards[i], k)
		}
		for _, s := range shards {
			slices.Sort(s)
		}
		limit := rapid.IntRange(1, 12).Draw(rt, "limit")
		var got []string
		req := api.Scan{}
		for page := 0; ; page++ {
			if page > len(keys)+1 {
				rt.Fatalf("no end after %d pages: %q", page, got)
			}
			start, end := bounds(req)
			parts := make([]replication.ScanReply, len(shards))
			for i, s := range shards {
				parts[i] = answer(s, start, end, limit)
			}
			p := merge(parts, limit)
			if len(p.Entries) > limit {
				rt.Fatalf("%d entries, the limit is %d", len(p.Entries), limit)
			}
			for _, e := range p.Entries {
				got = append(got, string(e.Key))
			}
			if p.Next == nil {
				break
			}
			req.After = p.Next
		}
		want := slices.Sorted(slices.Values(keys))
		if !slices.Equal(got, want) {
			rt.Fatalf("got %q, want %q", got, want)
		}
	})
}

// A page of large values is cut where it would take too much memory, also where no shard was.
func TestPageOfLargeValues(t *testing.T) {
	value := make([]byte, replication.MaxRead/4)
	var parts []replication.ScanReply
	for shard := range 10 {
		var rep replication.ScanReply
		for i := range 4 {
			rep.Entries = append(rep.Entries, fulcrum.Entry{Key: []byte{byte(i), byte(shard)}, Value: value})
		}
		parts = append(parts, rep)
	}
	const most = maxPageBytes/(replication.MaxRead/4) + 1
	p := merge(parts, maxScan)
	if len(p.Entries) != most-1 && len(p.Entries) != most || !bytes.Equal(p.Next, p.Entries[len(p.Entries)-1].Key) {
		t.Errorf("%d entries, next %q; want %d", len(p.Entries), p.Next, most)
	}
	if whole := merge(parts[:2], maxScan); len(whole.Entries) != 8 || whole.Next != nil {
		t.Errorf("%d entries of what fits, next %q", len(whole.Entries), whole.Next)
	}
}

// answer is what a shard with these keys says.
func answer(keys []string, start, end []byte, limit int) replication.ScanReply {
	var rep replication.ScanReply
	for _, k := range keys {
		if bytes.Compare([]byte(k), start) < 0 || end != nil && bytes.Compare([]byte(k), end) >= 0 {
			continue
		}
		if len(rep.Entries) == limit {
			rep.More = true
			break
		}
		rep.Entries = append(rep.Entries, fulcrum.Entry{Key: []byte(k)})
	}
	return rep
}

func TestBoundsOfAScan(t *testing.T) {
	tests := []struct {
		name       string
		req        api.Scan
		start, end string // end "": none
	}{
		{"everything", api.Scan{}, "", ""},
		{"start and end as given", api.Scan{Start: []byte("b"), End: []byte("d")}, "b", "d"},
		{"a prefix ends before its successor", api.Scan{Prefix: []byte("ab")}, "ab", "ac"},
		{"a prefix of the highest bytes has no end", api.Scan{Prefix: []byte("\xff\xff")}, "\xff\xff", ""},
		{"the narrower of prefix and range counts", api.Scan{Prefix: []byte("ab"), Start: []byte("aba"), End: []byte("b")}, "aba", "ac"},
		{"also at the end", api.Scan{Prefix: []byte("ab"), Start: []byte("a"), End: []byte("abx")}, "ab", "abx"},
		{"after is beyond that key, and shows the next longer one", api.Scan{After: []byte("k")}, "k\x00", ""},
		{"after before the start changes nothing", api.Scan{Start: []byte("m"), After: []byte("k")}, "m", ""},
		{"after within a prefix", api.Scan{Prefix: []byte("k"), After: []byte("kb")}, "kb\x00", "l"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start, end := bounds(tt.req)
			if string(start) != tt.start || string(end) != tt.end || (end == nil) != (tt.end == "") {
				t.Errorf("got %q to %q, want %q to %q", start, end, tt.start, tt.end)
			}
		})
	}
}
