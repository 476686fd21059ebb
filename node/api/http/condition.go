package httpapi

import (
	"slices"
	"strings"

	nethttp "net/http"

	"fulcrum"
)

// maxETags bounds the entity tags of one header.
const maxETags = 16

// etag is an entity tag of RFC 9110; ours are versions, strong and quoted.
type etag struct {
	text string // without quotes
	weak bool
}

func etagOf(v fulcrum.Version) string { return `"` + v.String() + `"` }

// tags is one precondition header. The zero tags is a header that is not there.
type tags struct {
	given bool
	star  bool
	list  []etag
}

// parseTags reads If-Match or If-None-Match: "*" or a list of entity tags.
func parseTags(r *nethttp.Request, name string) (tags, error) {
	values, ok := r.Header[name]
	if !ok {
		return tags{}, nil
	}
	bad := func(why string) (tags, error) {
		return tags{}, fulcrum.Errorf(fulcrum.CodeInvalid, "%s: %s", name, why).
			WithHint(`want * or entity tags as replies show them, such as "18f2a.1"`)
	}
	s := strings.Trim(strings.Join(values, ","), " \t,")
	if s == "*" {
		return tags{given: true, star: true}, nil
	}
	t := tags{given: true}
	for s != "" {
		var e etag
		s, e.weak = strings.CutPrefix(s, "W/")
		rest, ok := strings.CutPrefix(s, `"`)
		if !ok {
			return bad("an entity tag without its quotes")
		}
		if e.text, rest, ok = strings.Cut(rest, `"`); !ok {
			return bad("an entity tag without its closing quote")
		}
		t.list = append(t.list, e)
		next := strings.TrimLeft(rest, " \t")
		if next != "" && next[0] != ',' {
			return bad("something between entity tags that is no comma")
		}
		s = strings.TrimLeft(next, " \t,")
	}
	if len(t.list) == 0 || len(t.list) > maxETags {
		return bad("no entity tag, or too many of them")
	}
	return t, nil
}

// match reports whether e, live or not, is among t. Strong comparison (If-Match)
// never takes weak tags; weak comparison (If-None-Match) takes both.
func (t tags) match(e fulcrum.Entry, live, strong bool) bool {
	if !live {
		return false
	}
	return t.star || slices.ContainsFunc(t.list, func(x etag) bool {
		return x.text == e.Version.String() && !(strong && x.weak)
	})
}

// versions are those of the strong tags that we may have made, oldest first.
func (t tags) versions() []fulcrum.Version {
	var vs []fulcrum.Version
	for _, x := range t.list {
		if v, err := fulcrum.ParseVersion(x.text); err == nil && !x.weak && v.String() == x.text {
			vs = append(vs, v)
		}
	}
	slices.SortFunc(vs, fulcrum.Version.Compare)
	return slices.Compact(vs)
}

// condition is what a PUT or DELETE asks of the key: the writes to try in turn,
// of which the first that applies counts.
//
// A list of several tags becomes one compare-and-set each, oldest first. That is
// as good as one step: versions of a key only rise and the client has seen all of
// them, so one that is not there at its turn does not come back later.
func condition(r *nethttp.Request, w fulcrum.Write) (writes []fulcrum.Write, conditional bool, err error) {
	match, err := parseTags(r, "If-Match")
	if err != nil {
		return nil, false, err
	}
	none, err := parseTags(r, "If-None-Match")
	if err != nil {
		return nil, false, err
	}
	switch {
	case match.given && none.given:
		return nil, false, fulcrum.Errorf(fulcrum.CodeInvalid, "If-Match and If-None-Match in one request").WithHint("send one of them")
	case none.given && !none.star:
		return nil, false, fulcrum.Errorf(fulcrum.CodeInvalid, "If-None-Match of a change takes only *").WithHint("If-None-Match: * means: the key must not exist")
	case none.given:
		w.If = fulcrum.IfAbsent
	case match.star:
		w.If = fulcrum.IfPresent
	case match.given:
		for _, v := range match.versions() {
			w.If, w.At = fulcrum.IfVersion, v
			writes = append(writes, w)
		}
		return writes, true, nil
	}
	return []fulcrum.Write{w}, w.If != fulcrum.IfAlways, nil
}
