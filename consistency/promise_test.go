package consistency

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"fulcrum"
)

func TestOfferedLevels(t *testing.T) {
	for _, c := range []struct {
		mode   Mode
		access Access
		want   string
	}{
		{Raft, Write, "any one quorum local_one linearizable"},
		{Raft, Read, "one local_one linearizable lease bounded session prefix"},
		{Quorum, Write, "any one two three quorum all local_one local_quorum each_quorum linearizable"},
		{Quorum, Read, "one two three quorum all local_one local_quorum each_quorum linearizable session"},
		{LeaderFollower, Write, "one two quorum all linearizable"},
		{LeaderFollower, Read, "one local_one linearizable lease bounded session prefix"},
	} {
		var got []string
		for _, k := range Offered(c.mode, c.access) {
			got = append(got, k.String())
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s %ss:\n got %s\nwant %s", c.mode, c.access, s, c.want)
		}
	}
}

func TestTableIsWhole(t *testing.T) {
	table := Table()
	if want := len(Modes) * 2 * len(Kinds()); len(table) != want {
		t.Fatalf("%d promises, want %d", len(table), want)
	}
	checkers := []string{CheckLinearizable, CheckDurable, CheckBounded, CheckSession, CheckPrefix, CheckEventual}
	for i, p := range table {
		name := p.Mode.String() + " " + p.Access.String() + " " + p.Kind.String()
		if p.Guarantee == "" {
			t.Errorf("%s: no guarantee", name)
		}
		full := p.Asked != "" && p.Needed != "" && p.RoundTrips != "" && p.Minority != "" && p.Given != Default
		if p.Offered != full || p.Offered != slices.Contains(checkers, p.Checker) {
			t.Errorf("%s: offered %v, but the cell is %+v", name, p.Offered, p)
		}
		if p.Offered && strings.Count(strings.TrimSuffix(p.Guarantee, "."), ". ") > 1 {
			t.Errorf("%s: a guarantee of more than two sentences", name)
		}
		if again := Table()[i]; again != p {
			t.Errorf("%s: order is not stable", name)
		}
		level := Level{Kind: p.Kind}
		if p.Kind == Bounded {
			level.Bound = time.Second
		}
		got, err := Lookup(p.Mode, p.Access, level)
		if (err == nil) != p.Offered || got != p {
			t.Errorf("%s: Lookup gives %+v, %v", name, got, err)
		}
		if err != nil {
			var fe *fulcrum.Error
			if !errors.As(err, &fe) || fe.Code != fulcrum.CodeLevel {
				t.Fatalf("%s: %v is no level error", name, err)
			}
			for _, k := range Offered(p.Mode, p.Access) {
				if !strings.Contains(fe.Hint, k.String()) {
					t.Errorf("%s: hint %q does not list %s", name, fe.Hint, k)
				}
			}
		}
	}
}

func TestDefaultsAreOffered(t *testing.T) {
	for _, m := range Modes {
		w, r := Defaults(m)
		for a, l := range map[Access]Level{Write: w, Read: r} {
			p, err := Lookup(m, a, l)
			if err != nil {
				t.Errorf("%s %s: %v", m, a, err)
			}
			if zero, err := Lookup(m, a, Level{}); err != nil || zero != p {
				t.Errorf("%s %s: the zero level is %+v, %v; want the default %+v", m, a, zero, err, p)
			}
		}
	}
}

func TestLookupRefusesWhatIsNoLevel(t *testing.T) {
	for _, l := range []Level{{Kind: Bounded}, {Kind: Bounded, Bound: -1}, {Kind: kindEnd}, {Kind: 255}} {
		if _, err := Lookup(Raft, Read, l); !errors.Is(err, fulcrum.ErrLevel) {
			t.Errorf("%v: %v", l, err)
		}
	}
	if _, err := Lookup(Mode(9), Write, L(One)); !errors.Is(err, fulcrum.ErrLevel) {
		t.Errorf("unknown mode: %v", err)
	}
}

func TestTextForms(t *testing.T) {
	for _, k := range Kinds() {
		var back Kind
		b, _ := k.MarshalText()
		if err := back.UnmarshalText(b); err != nil || back != k {
			t.Errorf("%s reads back as %s, %v", k, back, err)
		}
	}
	for _, a := range []Access{Read, Write} {
		var back Access
		if err := back.UnmarshalText([]byte(a.String())); err != nil || back != a {
			t.Errorf("%s reads back as %s, %v", a, back, err)
		}
	}
	for _, s := range []string{"ONE", "each-quorum", "bounded:2s", "linearizable", ""} {
		l, err := ParseLevel(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if again, err := ParseLevel(l.String()); err != nil || again != l {
			t.Errorf("%q: %v reads back as %v, %v", s, l, again, err)
		}
	}
	for _, s := range []string{"most", "bounded", "bounded:", "bounded:-1s", "bounded:0s", "bounded:9999999h"} {
		l, err := ParseLevel(s)
		if err == nil {
			t.Errorf("%q is taken as %v", s, l)
		} else if bounds := strings.Contains(err.Error(), "above 0 and below 292 years"); bounds != strings.HasPrefix(s, "bounded:") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestCount(t *testing.T) {
	for _, c := range []struct {
		kind    Kind
		n, want int
		ok      bool
	}{
		{Any, 3, 1, true}, {One, 5, 1, true}, {Two, 1, 2, true}, {Three, 5, 3, true},
		{QuorumOf, 1, 1, true}, {QuorumOf, 2, 2, true}, {QuorumOf, 3, 2, true}, {QuorumOf, 4, 3, true}, {QuorumOf, 5, 3, true},
		{Linearizable, 5, 3, true}, {All, 5, 5, true}, {LocalQuorum, 5, 0, false}, {Lease, 3, 0, false}, {Default, 3, 0, false},
	} {
		if got, ok := Count(c.kind, c.n); got != c.want || ok != c.ok {
			t.Errorf("%s of %d replicas: %d, %v; want %d, %v", c.kind, c.n, got, ok, c.want, c.ok)
		}
	}
}

func TestQuota(t *testing.T) {
	zones := []string{"a", "a", "a", "b", "b"}
	for _, c := range []struct {
		kind  Kind
		self  string
		got   map[string]int
		met   bool
		total int
	}{
		{QuorumOf, "a", map[string]int{"a": 1, "b": 2}, true, 3},
		{QuorumOf, "a", map[string]int{"a": 2}, false, 3},
		{LocalQuorum, "a", map[string]int{"a": 2}, true, 2},
		{LocalQuorum, "a", map[string]int{"a": 1, "b": 2}, false, 2},
		{LocalQuorum, "c", map[string]int{"a": 3, "b": 2}, false, 1},
		{LocalOne, "b", map[string]int{"a": 3}, false, 1},
		{LocalOne, "b", map[string]int{"b": 1}, true, 1},
		{EachQuorum, "a", map[string]int{"a": 2, "b": 2}, true, 4},
		{EachQuorum, "a", map[string]int{"a": 3, "b": 1}, false, 4},
		{All, "a", map[string]int{"a": 3, "b": 2}, true, 5},
	} {
		q, ok := QuotaOf(c.kind, zones, c.self)
		if !ok || q.Met(c.got) != c.met || q.Total() != c.total {
			t.Errorf("%s from zone %s with %v: met %v, total %d; want %v, %d", c.kind, c.self, c.got, q.Met(c.got), q.Total(), c.met, c.total)
		}
	}
	if _, ok := QuotaOf(Prefix, zones, "a"); ok {
		t.Error("prefix counts no replicas")
	}
}
