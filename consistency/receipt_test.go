package consistency

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"fulcrum"

	"pgregory.net/rapid"
)

func TestReceiptHeader(t *testing.T) {
	r := Receipt{Keyspace: "ap", Mode: Quorum, Shard: 12, Epoch: 3, Level: L(One), Given: L(One), Node: "n1", Acks: 2, Needed: 1,
		Replicas: 5, Version: fulcrum.Version{Time: 0x1a2b, Actor: 4}, Durable: "fsync", Staleness: -1, Hinted: 1, Latency: 1500 * time.Microsecond}
	want := `keyspace="ap", mode=quorum, shard=12, epoch=3, level=one, given=one, node="n1", acks=2, needed=1, replicas=5, ` +
		`version="1a2b.4", found=?0, durable=fsync, hinted=1, repaired=0, latency-us=1500`
	if got := r.Header(); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	r.Found, r.Staleness, r.ClockBound, r.Leader, r.Level = true, 1500*time.Microsecond, 99500*time.Microsecond, "n2", Level{Kind: Bounded, Bound: 2 * time.Second}
	for _, part := range []string{", found, ", "staleness-ms=2", "clock-bound-ms=100", `leader="n2"`, "level=bounded:2s"} {
		if !strings.Contains(r.Header(), part) {
			t.Errorf("%s is not in %s", part, r.Header())
		}
	}
}

func anyReceipt() *rapid.Generator[Receipt] {
	return rapid.Custom(func(t *rapid.T) Receipt {
		n := func(name string) int { return rapid.IntRange(0, 1<<40).Draw(t, name) }
		level := func(name string) Level {
			return rapid.SampledFrom([]Level{L(One), L(EachQuorum), L(Linearizable), {Kind: Bounded, Bound: 1500 * time.Millisecond}}).Draw(t, name)
		}
		return Receipt{
			Keyspace: rapid.String().Draw(t, "keyspace"), Mode: rapid.SampledFrom(Modes[:]).Draw(t, "mode"),
			Shard: fulcrum.GroupID(n("shard")), Epoch: fulcrum.Epoch(n("epoch")), Level: level("level"), Given: level("given"),
			Node: "n1", Leader: fulcrum.NodeID(rapid.SampledFrom([]string{"", "n2"}).Draw(t, "leader")),
			Acks: n("acks"), Needed: n("needed"), Replicas: n("replicas"),
			Version: fulcrum.Version{Time: rapid.Uint64().Draw(t, "time"), Actor: rapid.Uint32().Draw(t, "actor")},
			Found:   rapid.Bool().Draw(t, "found"), Durable: rapid.SampledFrom([]string{"", "fsync", "memory"}).Draw(t, "durable"),
			Staleness:  rapid.SampledFrom([]time.Duration{-1, 0, 7 * time.Millisecond}).Draw(t, "staleness"),
			ClockBound: rapid.SampledFrom([]time.Duration{0, 100 * time.Millisecond}).Draw(t, "clock bound"),
			Hinted:     n("hinted"), Repaired: n("repaired"), Siblings: n("siblings"),
			Latency: time.Duration(n("latency")) * time.Microsecond,
		}
	})
}

func TestReceiptReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyReceipt().Draw(t, "receipt")
		back, err := ReceiptOf(r.Header())
		if err != nil || back != r {
			t.Fatalf("%s\n reads back as %+v, %v\n want %+v", r.Header(), back, err, r)
		}
		r.Session = "abc"
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		back = Receipt{}
		if err := json.Unmarshal(b, &back); err != nil || back != r {
			t.Fatalf("%s\n reads back as %+v, %v", b, back, err)
		}
		m, err := ParseHeader(r.Header())
		if err != nil {
			t.Fatal(err)
		}
		fields := r.Fields()
		if len(m) != len(fields) {
			t.Fatalf("%d fields, %d in the header", len(fields), len(m))
		}
		for _, f := range fields {
			if m[f.Name] != f.Value {
				t.Fatalf("%s is %q in the header, %q as a field", f.Name, m[f.Name], f.Value)
			}
		}
	})
}

func TestParseHeader(t *testing.T) {
	good := map[string]map[string]string{
		``:                              {},
		`a=1`:                           {"a": "1"},
		`a`:                             {"a": "true"},
		`a=?0 , b;x=1;y, c=:aGk=:`:      {"a": "false", "b": "true", "c": "aGk="},
		`a="x\"y\\", b=-1.250`:          {"a": `x"y\`, "b": "-1.250"},
		`a=1, a=2`:                      {"a": "2"},
		`a=%"caf%c3%a9"`:                {"a": "café"},
		`*k=*tok/x:1`:                   {"*k": "*tok/x:1"},
		`a=999999999999999`:             {"a": "999999999999999"},
		"a=1,\tb=2":                     {"a": "1", "b": "2"},
		`staleness-ms=12;unit=ms, z=?1`: {"staleness-ms": "12", "z": "true"},
	}
	for in, want := range good {
		got, err := ParseHeader(in)
		if err != nil || len(got) != len(want) {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%q: %s is %q, want %q", in, k, got[k], v)
			}
		}
	}
	for _, in := range []string{`A=1`, `a=`, `a=1,`, `a=1 b=2`, `a="x`, `a="\n"`, `a=(1 2)`, `a=?2`, `a=1.`, `a=1.2345`, `a=-`,
		`a=1000000000000000`, `a=%"%FF"`, `a=%"%ff"`, `a=%"x`, `a=:a`, `a=:!:`, `=1`, `,a`, `a=é`, `a;=1`} {
		if got, err := ParseHeader(in); err == nil {
			t.Errorf("%q is taken as %v", in, got)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(`a=1, b="x", c;d=?0, e=%"%c3%a9", f=:aGk=:`)
	f.Add(Receipt{Mode: Quorum, Node: "n1"}.Header())
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseHeader(s)
		if err != nil && m != nil {
			t.Fatal("an error and a result")
		}
		_, _ = ReceiptOf(s)
	})
}
