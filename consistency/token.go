package consistency

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"fulcrum"
)

// Token is a session token: opaque text that a client carries from reply to
// request so that its reads never go back behind what it wrote or read.
type Token string

// MaxSessionGroups bounds the groups of one token. More of them seal to a
// token that OpenToken refuses: an error, rather than a mark silently forgotten.
const MaxSessionGroups = 4096

const (
	tokenVersion = 1
	macBytes     = 16
	maxMarkBytes = 4 * binary.MaxVarintLen64
)

// Mark is a place in the history of one group: later epochs are behind earlier
// ones, and within an epoch (Term, Index) orders.
type Mark struct {
	Epoch       fulcrum.Epoch
	Term, Index uint64
}

// Compare returns -1, 0 or 1 as m is before, at or after o.
func (m Mark) Compare(o Mark) int {
	return cmp.Or(cmp.Compare(m.Epoch, o.Epoch), cmp.Compare(m.Term, o.Term), cmp.Compare(m.Index, o.Index))
}

// Join is the later of m and o for a group in which, within an epoch, the index alone orders,
// and a term is but the highest that was heard of.
func (m Mark) Join(o Mark) Mark {
	switch cmp.Compare(m.Epoch, o.Epoch) {
	case -1:
		return o
	case 1:
		return m
	}
	return Mark{Epoch: m.Epoch, Term: max(m.Term, o.Term), Index: max(m.Index, o.Index)}
}

// IsZero reports whether m is no place at all.
func (m Mark) IsZero() bool { return m == Mark{} }

// Marks is how much of each group one client has seen: the open form of a Token,
// a session.
type Marks map[fulcrum.GroupID]Mark

// Advance moves the mark of g to m, never back.
func (s Marks) Advance(g fulcrum.GroupID, m Mark) {
	if old, ok := s[g]; !ok || old.Compare(m) < 0 {
		s[g] = m
	}
}

// Seal writes s as a token that OpenToken reads with the same key. It is
// deterministic: version, count, then each group in order (as the difference to
// the one before), epoch, term and index, all as varints; then the first 16 bytes of
// the HMAC-SHA256 of that. The empty session is the empty token.
func (s Marks) Seal(key []byte) Token {
	if len(s) == 0 {
		return ""
	}
	b := make([]byte, 0, 2+macBytes+12*len(s))
	b = append(b, tokenVersion)
	b = binary.AppendUvarint(b, uint64(len(s)))
	var prev fulcrum.GroupID
	for _, g := range slices.Sorted(maps.Keys(s)) {
		m := s[g]
		for _, v := range [...]uint64{uint64(g - prev), uint64(m.Epoch), m.Term, m.Index} {
			b = binary.AppendUvarint(b, v)
		}
		prev = g
	}
	b = append(b, tokenMAC(key, b)...)
	return Token(base64.RawURLEncoding.EncodeToString(b))
}

// Unsealed is a token that is made only for whoever wants it: to sign one costs more
// than to answer many a request. So does a map, and most requests see a single group.
type Unsealed struct {
	Key []byte

	marks Marks           // nil: there is at most one
	group fulcrum.GroupID // that one
	mark  Mark            // zero: there is none
}

// Begin makes u go on from what a token says; s is not changed.
func (u *Unsealed) Begin(s Marks) { u.marks = maps.Clone(s) }

// Advance moves the mark of g to m, never back.
func (u *Unsealed) Advance(g fulcrum.GroupID, m Mark) {
	switch {
	case u.marks != nil:
		u.marks.Advance(g, m)
	case u.mark.IsZero() || u.group == g && u.mark.Compare(m) < 0:
		u.group, u.mark = g, m
	case u.group != g:
		u.marks = Marks{u.group: u.mark, g: m}
	}
}

// Mark returns the mark of g; zero: there is none.
func (u *Unsealed) Mark(g fulcrum.GroupID) Mark {
	switch {
	case u.marks != nil:
		return u.marks[g]
	case u.group == g:
		return u.mark
	}
	return Mark{}
}

// IsEmpty reports whether u has no marks.
func (u *Unsealed) IsEmpty() bool { return len(u.marks) == 0 && u.mark.IsZero() }

// Token makes the token.
func (u *Unsealed) Token() Token {
	if u.marks == nil && !u.mark.IsZero() {
		return Marks{u.group: u.mark}.Seal(u.Key)
	}
	return u.marks.Seal(u.Key)
}

// OpenToken reads and verifies a token. What was not sealed with key, or is cut
// short, is a *fulcrum.Error of CodeInvalid. The empty token is the empty session.
func OpenToken(key []byte, t Token) (Marks, error) {
	if t == "" {
		return Marks{}, nil
	}
	bad := func(what string) error {
		return fulcrum.Errorf(fulcrum.CodeInvalid, "session token: %s", what).
			WithHint("send the token of the last reply unchanged, or none to begin a new session")
	}
	if len(t) > base64.RawURLEncoding.EncodedLen(MaxSessionGroups*maxMarkBytes+64) {
		return nil, bad("too long")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(string(t))
	if err != nil || len(raw) < 1+macBytes || strings.ContainsAny(string(t), "\r\n") { // base64 skips those
		return nil, bad("not one of ours, or cut short")
	}
	body, mac := raw[:len(raw)-macBytes], raw[len(raw)-macBytes:]
	if !hmac.Equal(mac, tokenMAC(key, body)) {
		return nil, bad("its seal does not match: it was changed, cut short or made by another cluster")
	}
	r := fulcrum.NewReader(body)
	if v := r.Byte(); v != tokenVersion {
		return nil, bad("of a newer version of fulcrum")
	}
	n := r.Uvarint()
	if n > MaxSessionGroups {
		return nil, bad("it holds more shards than one session may")
	}
	s := make(Marks, n)
	var g fulcrum.GroupID
	for range n {
		g += fulcrum.GroupID(r.Uvarint())
		s[g] = Mark{Epoch: fulcrum.Epoch(r.Uvarint()), Term: r.Uvarint(), Index: r.Uvarint()}
	}
	if r.Err() != nil || len(r.Rest()) != 0 || len(s) != int(n) {
		return nil, bad("malformed")
	}
	return s, nil
}

func tokenMAC(key, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(body)
	return h.Sum(nil)[:macBytes]
}
