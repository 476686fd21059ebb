package consistency

import (
	"errors"
	"maps"
	"testing"

	"fulcrum"

	"pgregory.net/rapid"
)

func anyMark() *rapid.Generator[Mark] {
	return rapid.Custom(func(t *rapid.T) Mark {
		return Mark{Epoch: fulcrum.Epoch(rapid.Uint64Range(0, 3).Draw(t, "epoch")), Term: rapid.Uint64Range(0, 3).Draw(t, "term"), Index: rapid.Uint64().Draw(t, "index")}
	})
}

func anyMarks() *rapid.Generator[Marks] {
	return rapid.Custom(func(t *rapid.T) Marks {
		return rapid.MapOfN(rapid.Custom(func(t *rapid.T) fulcrum.GroupID {
			return fulcrum.GroupID(rapid.Uint64().Draw(t, "group"))
		}), anyMark(), 0, 20).Draw(t, "marks")
	})
}

func TestMarksNeverGoBack(t *testing.T) {
	s := Marks{}
	for _, step := range []struct{ give, want Mark }{
		{Mark{1, 5, 100}, Mark{1, 5, 100}},
		{Mark{1, 5, 99}, Mark{1, 5, 100}},
		{Mark{1, 6, 1}, Mark{1, 6, 1}},
		{Mark{2, 1, 1}, Mark{2, 1, 1}},
		{Mark{1, 9, 999}, Mark{2, 1, 1}},
		{Mark{2, 1, 2}, Mark{2, 1, 2}},
	} {
		if s.Advance(7, step.give); s[7] != step.want {
			t.Errorf("after %v it stands at %v, want %v", step.give, s[7], step.want)
		}
	}
}

func TestJoinedMarksAreOrderedByTheIndex(t *testing.T) {
	for _, x := range []struct{ a, b, want Mark }{
		{Mark{1, 6, 100}, Mark{1, 5, 110}, Mark{1, 6, 110}},
		{Mark{1, 6, 110}, Mark{1, 7, 110}, Mark{1, 7, 110}},
		{Mark{2, 1, 1}, Mark{1, 5, 110}, Mark{2, 1, 1}},
		{Mark{}, Mark{1, 5, 110}, Mark{1, 5, 110}},
	} {
		if x.a.Join(x.b) != x.want || x.b.Join(x.a) != x.want {
			t.Errorf("%v and %v are joined to %v, %v, want %v", x.a, x.b, x.a.Join(x.b), x.b.Join(x.a), x.want)
		}
	}
}

func TestTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOf(rapid.Byte()).Draw(t, "key")
		s := anyMarks().Draw(t, "session")
		token := s.Seal(key)
		back, err := OpenToken(key, token)
		if err != nil || !maps.Equal(back, s) {
			t.Fatalf("%v sealed as %q opens as %v, %v", s, token, back, err)
		}
		if token == "" {
			return
		}
		if _, err := OpenToken(append(key, 1), token); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Fatalf("another key opens it: %v", err)
		}
		i := rapid.IntRange(0, len(token)-1).Draw(t, "flip")
		forged := []byte(token)
		if forged[i] == 'A' {
			forged[i] = 'B'
		} else {
			forged[i] = 'A'
		}
		if _, err := OpenToken(key, Token(forged)); !errors.Is(err, fulcrum.ErrInvalid) {
			t.Fatalf("forged at %d: %v", i, err)
		}
		if _, err := OpenToken(key, token[:i]); i > 0 && !errors.Is(err, fulcrum.ErrInvalid) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	})
}

func TestTokenBound(t *testing.T) {
	s := Marks{}
	for g := range MaxSessionGroups {
		s.Advance(1<<63+fulcrum.GroupID(g), Mark{1 << 60, 1 << 60, 1 << 60})
	}
	if back, err := OpenToken(nil, s.Seal(nil)); err != nil || len(back) != MaxSessionGroups {
		t.Fatalf("the largest session: %d, %v", len(back), err)
	}
	s.Advance(1, Mark{})
	if _, err := OpenToken(nil, s.Seal(nil)); !errors.Is(err, fulcrum.ErrInvalid) {
		t.Fatalf("one group more: %v", err)
	}
}

func FuzzOpenToken(f *testing.F) {
	f.Add("")
	f.Add(string(Marks{1: {1, 2, 3}, 900: {4, 5, 6}}.Seal([]byte("k"))))
	f.Fuzz(func(t *testing.T, s string) {
		marks, err := OpenToken([]byte("k"), Token(s))
		if err == nil && marks.Seal([]byte("k")) != Token(s) {
			t.Fatalf("%q opens but seals as %q", s, marks.Seal([]byte("k")))
		}
	})
}

// A token that is not sealed yet says what marks would that advanced in the same way.
func TestUnsealedSaysWhatItsMarksWould(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var u Unsealed
		want := Marks{}
		if rapid.Bool().Draw(rt, "begins with a token") {
			base := Marks{1: {Epoch: 2, Term: 1, Index: 5}, 9: {Epoch: 1, Term: 1, Index: 1}}
			u.Begin(base)
			want = maps.Clone(base)
			defer func() {
				if len(base) != 2 || base[1].Index != 5 {
					rt.Fatalf("the token's own marks are now %v", base)
				}
			}()
		}
		u.Key = []byte("k")
		for range rapid.IntRange(0, 6).Draw(rt, "steps") {
			g := fulcrum.GroupID(rapid.Uint64Range(1, 3).Draw(rt, "group"))
			m := Mark{Epoch: fulcrum.Epoch(rapid.Uint64Range(1, 3).Draw(rt, "epoch")), Term: 1, Index: rapid.Uint64Range(0, 9).Draw(rt, "index")}
			u.Advance(g, m)
			want.Advance(g, m)
			if got := u.Token(); got != want.Seal(u.Key) {
				rt.Fatalf("after group %d at %v: the token is not that of %v", g, m, want)
			}
			for g := range fulcrum.GroupID(10) {
				if u.Mark(g) != want[g] {
					rt.Fatalf("the mark of group %d is %v, want %v", g, u.Mark(g), want[g])
				}
			}
		}
		if u.IsEmpty() != (len(want) == 0) {
			rt.Fatalf("empty: %v, with %v", u.IsEmpty(), want)
		}
	})
}
