package partition

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestHashTags(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"{user1}.name", "{user1}.age", true},
		{"{user1}.name", "user1", true},
		{"a{x}b{y}", "x", true},
		{"a{}b", "c{}d", false}, // an empty tag is none
		{"a{b", "c{b", false},   // nor is an open one
		{"}a{b}", "b", true},
		{"foo{{bar}}zap", "{bar", true},
		{"plain", "other", false},
	} {
		if got := bytes.Equal(Hash.Token([]byte(c.a)), Hash.Token([]byte(c.b))); got != c.same {
			t.Errorf("%q and %q together: %v, want %v", c.a, c.b, got, c.same)
		}
	}
}

func TestTokens(t *testing.T) {
	// The reference value of xxHash64 of "a" with seed 0: tokens are on disk and must never change.
	if got, want := Hash.Token([]byte("a")), []byte("\xd2\x4e\xc4\xf1\xa9\x8c\x6e\x5b"); !bytes.Equal(got, want) {
		t.Errorf("hash token of a: %x, want %x", got, want)
	}
	for _, s := range []Scheme{Range, Zone} {
		if got := s.Token([]byte("eu/x")); string(got) != "eu/x" || !s.Ordered() {
			t.Errorf("%s token: %q", s, got)
		}
	}
	for _, s := range []Scheme{Hash, Range, Zone} {
		var back Scheme
		b, _ := s.MarshalText()
		if err := back.UnmarshalText(b); err != nil || back != s {
			t.Errorf("%s reads back as %s, %v", s, back, err)
		}
	}
	if s, err := ParseScheme("modulo"); err == nil {
		t.Errorf("modulo is taken as %s", s)
	}
}

func TestPrefixEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 0xfe, 0xff}), 0, 5)
		prefix, key := some.Draw(t, "prefix"), some.Draw(t, "key")
		end := PrefixEnd(prefix)
		in := bytes.Compare(prefix, key) <= 0 && (end == nil || bytes.Compare(key, end) < 0)
		if in != bytes.HasPrefix(key, prefix) {
			t.Fatalf("%x in [%x, %x): %v", key, prefix, end, in)
		}
	})
}

func TestSplit(t *testing.T) {
	for _, s := range []Scheme{Hash, Range} {
		for n := 1; n <= 2000; n = n*3/2 + 1 {
			starts := Split(s, n)
			if _, err := NewTable(1, starts); err != nil || len(starts) != n {
				t.Fatalf("%s into %d: %d starts, %v", s, n, len(starts), err)
			}
		}
	}
	for _, c := range []struct {
		n    int
		want string
	}{{0, ""}, {1, ""}, {2, ",i"}, {4, ",9,i,r"}, {5, ",7,e,l,s"}} {
		if got := string(bytes.Join(Split(Range, c.n), []byte(","))); got != c.want {
			t.Errorf("range into %d: %q, want %q", c.n, got, c.want)
		}
	}
	if got := Split(Hash, 4)[3]; !bytes.Equal(got, []byte{0xc0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("the last quarter begins at %x", got)
	}
	if got := Split(Zone, 3); len(got) != 1 {
		t.Errorf("zone without zones: %q", got)
	}
}

func TestHashSplitIsEven(t *testing.T) {
	const shards, keys = 8, 16000
	table, err := NewTable(1, Split(Hash, shards))
	if err != nil {
		t.Fatal(err)
	}
	count := make([]int, shards)
	for i := range keys {
		count[table.Find(Hash.Token([]byte{'k', byte(i), byte(i >> 8)}))]++
	}
	for i, n := range count {
		if n < keys/shards*9/10 || n > keys/shards*11/10 {
			t.Errorf("shard %d holds %d of %d keys", i, n, keys)
		}
	}
}

func TestSplitZones(t *testing.T) {
	zones := []string{"eu", "us", "eu-2", "e", "eu0", "bad/name", "", "eu"}
	starts := SplitZones(zones)
	table, err := NewTable(1, starts)
	if err != nil {
		t.Fatal(err)
	}
	if len(starts) != 2*5+1 {
		t.Errorf("%d shards for 5 zones: %q", len(starts), starts)
	}
	for key, want := range map[string]string{"eu/x": "eu", "eu/": "eu", "eu/x/y": "eu", "eu-2/x": "eu-2", "eu0/x": "eu0", "e/x": "e",
		"eu": "", "eux": "", "zz/x": "", "plain": "", "eu0": "", "us/\xff\xff": "us", "us0": ""} {
		start, _ := table.Range(table.Find(Zone.Token([]byte(key))))
		if got := ZoneOf(start, zones); got != want || ZoneOf([]byte(key), zones) != want {
			t.Errorf("%q is in the shard at %q of zone %q, want %q", key, start, got, want)
		}
	}
}

func anyToken() *rapid.Generator[[]byte] { return rapid.SliceOfN(rapid.ByteRange('a', 'd'), 0, 3) }

func anyTable() *rapid.Generator[*Table] {
	return rapid.Custom(func(t *rapid.T) *Table {
		starts := append(rapid.SliceOfN(anyToken(), 0, 8).Draw(t, "starts"), []byte{})
		slices.SortFunc(starts, bytes.Compare)
		table, err := NewTable(3, slices.CompactFunc(starts, bytes.Equal))
		if err != nil {
			t.Fatal(err)
		}
		return table
	})
}

func within(token, start, end []byte) bool {
	return bytes.Compare(start, token) <= 0 && (end == nil || bytes.Compare(token, end) < 0)
}

func TestEveryTokenIsInOneRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, token := anyTable().Draw(t, "table"), anyToken().Draw(t, "token")
		for i := range table.Len() {
			start, end := table.Range(i)
			if within(token, start, end) != (i == table.Find(token)) {
				t.Fatalf("%q found in range %d, but range %d is [%q, %q)", token, table.Find(token), i, start, end)
			}
		}
	})
}

func TestOverlapIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := anyTable().Draw(t, "table")
		start := anyToken().Draw(t, "start")
		var end []byte
		if rapid.Bool().Draw(t, "bounded") {
			end = append([]byte{}, anyToken().Draw(t, "end")...)
		}
		first, last := table.Overlap(start, end)
		for i := range table.Len() {
			lo, hi := table.Range(i)
			from := lo // the larger start of both is in both, or nothing is
			if bytes.Compare(start, lo) > 0 {
				from = start
			}
			want := within(from, lo, hi) && within(from, start, end)
			if got := first <= i && i <= last; got != want {
				t.Fatalf("[%q, %q) and range %d [%q, %q): %v, want %v", start, end, i, lo, hi, got, want)
			}
		}
	})
}

func TestTableRefuses(t *testing.T) {
	for name, starts := range map[string][][]byte{
		"no range":        nil,
		"a gap in front":  {[]byte("a")},
		"the same twice":  {{}, []byte("a"), []byte("a")},
		"wrong order":     {{}, []byte("b"), []byte("a")},
		"two empty ones":  {{}, {}},
		"empty not first": {[]byte("a"), {}},
	} {
		if _, err := NewTable(1, starts); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestTableCopiesItsStarts(t *testing.T) {
	starts := [][]byte{{}, []byte("m")}
	table, err := NewTable(9, starts)
	if err != nil || table.Epoch() != 9 {
		t.Fatal(err)
	}
	starts[1][0] = 'a'
	if table.Find([]byte("b")) != 0 {
		t.Error("the table changed with its maker's slice")
	}
}

func TestTokenText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		token := rapid.SliceOf(rapid.Byte()).Draw(t, "token")
		text := FormatToken(token)
		for _, s := range []string{text, text[1 : len(text)-1]} {
			if len(token) > 0 && token[0] == '"' {
				s = text // without the outer quotes it would begin with an escaped one
			}
			if back, err := ParseToken(s); err != nil || !bytes.Equal(back, token) {
				t.Fatalf("%x as %s reads back as %x, %v", token, s, back, err)
			}
		}
	})
	if _, err := ParseToken(`a"b`); err == nil {
		t.Error("a bare quote is accepted")
	}
}
