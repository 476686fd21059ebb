package consistency

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"fulcrum"
)

// Field is one line of a receipt, as the CLI, RESP and HTTP show it.
type Field struct {
	Name, Value string
}

// form is how RFC 9651 writes a field's value.
type form uint8

const (
	formString form = iota
	formToken
	formInteger
	formBoolean
)

type formed struct {
	Field
	form form
}

// Fields returns r as names and values, in stable order. Unknown or empty ones
// (no leader, staleness not known, nothing given by what failed) are left out. Staleness and clock bound are in milliseconds,
// rounded up, and latency in microseconds, as their names say.
func (r Receipt) Fields() []Field {
	formed := r.formed()
	fields := make([]Field, len(formed))
	for i, f := range formed {
		fields[i] = f.Field
	}
	return fields
}

func (r Receipt) formed() []formed {
	out := make([]formed, 0, 20)
	add := func(f form, name, value string) { out = append(out, formed{Field{name, value}, f}) }
	num := func(name string, v int64) { add(formInteger, name, strconv.FormatInt(v, 10)) }
	add(formString, "keyspace", r.Keyspace)
	add(formToken, "mode", r.Mode.String())
	num("shard", int64(r.Shard))
	num("epoch", int64(r.Epoch))
	add(formToken, "level", r.Level.String())
	if r.Given != (Level{}) {
		add(formToken, "given", r.Given.String())
	}
	add(formString, "node", string(r.Node))
	if r.Leader != "" {
		add(formString, "leader", string(r.Leader))
	}
	num("acks", int64(r.Acks))
	num("needed", int64(r.Needed))
	num("replicas", int64(r.Replicas))
	if !r.Version.IsZero() {
		add(formString, "version", r.Version.String())
	}
	add(formBoolean, "found", strconv.FormatBool(r.Found))
	if r.Durable != "" {
		add(formToken, "durable", r.Durable)
	}
	if r.Staleness >= 0 {
		num("staleness-ms", ceilMillis(r.Staleness))
	}
	if r.ClockBound > 0 {
		num("clock-bound-ms", ceilMillis(r.ClockBound))
	}
	num("hinted", int64(r.Hinted))
	num("repaired", int64(r.Repaired))
	if r.Siblings > 0 {
		num("siblings", int64(r.Siblings))
	}
	num("latency-us", r.Latency.Microseconds())
	return out
}

// ceilMillis rounds up: a bound must not look better than it is.
func ceilMillis(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}

// Header writes r as an RFC 9651 dictionary: the Fulcrum-Receipt header.
func (r Receipt) Header() string {
	var b strings.Builder
	for i, f := range r.formed() {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(f.Name)
		switch f.form {
		case formBoolean: // a bare key is true
			if f.Value != "true" {
				b.WriteString("=?0")
			}
		case formString:
			b.WriteByte('=')
			writeSFString(&b, f.Value)
		default:
			b.WriteByte('=')
			b.WriteString(f.Value)
		}
	}
	return b.String()
}

// writeSFString writes s as a String, or as a Display String where it is not
// printable ASCII (RFC 9651, 3.3.3 and 3.3.8).
func writeSFString(b *strings.Builder, s string) {
	plain := true
	for i := range len(s) {
		plain = plain && s[i] >= 0x20 && s[i] < 0x7f
	}
	if plain {
		b.WriteByte('"')
		b.WriteString(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s))
		b.WriteByte('"')
		return
	}
	b.WriteString(`%"`)
	for _, c := range []byte(strings.ToValidUTF8(s, "\uFFFD")) {
		if c < 0x20 || c >= 0x7f || c == '%' || c == '"' {
			fmt.Fprintf(b, "%%%02x", c)
			continue
		}
		b.WriteByte(c)
	}
	b.WriteByte('"')
}

// ReceiptOf reads what Header wrote. Names that it does not know are ignored: a
// newer node may say more.
func ReceiptOf(header string) (Receipt, error) {
	m, err := ParseHeader(header)
	if err != nil {
		return Receipt{}, err
	}
	r := Receipt{Staleness: -1, Keyspace: m["keyspace"], Node: fulcrum.NodeID(m["node"]),
		Leader: fulcrum.NodeID(m["leader"]), Durable: m["durable"], Found: m["found"] == "true"}
	integer := func(name string) (n int64) {
		if v, ok := m[name]; ok && err == nil {
			if n, err = strconv.ParseInt(v, 10, 64); err != nil {
				err = fmt.Errorf("receipt: %s=%q is no integer", name, v)
			}
		}
		return n
	}
	text := func(name string, into interface{ UnmarshalText([]byte) error }) {
		if v, ok := m[name]; ok && err == nil {
			if err = into.UnmarshalText([]byte(v)); err != nil {
				err = fmt.Errorf("receipt: %s: %w", name, err)
			}
		}
	}
	text("mode", &r.Mode)
	text("level", &r.Level)
	text("given", &r.Given)
	text("version", &r.Version)
	r.Shard, r.Epoch = fulcrum.GroupID(integer("shard")), fulcrum.Epoch(integer("epoch"))
	r.Acks, r.Needed, r.Replicas = int(integer("acks")), int(integer("needed")), int(integer("replicas"))
	r.Hinted, r.Repaired, r.Siblings = int(integer("hinted")), int(integer("repaired")), int(integer("siblings"))
	r.Latency = time.Duration(integer("latency-us")) * time.Microsecond
	if _, ok := m["staleness-ms"]; ok {
		r.Staleness = time.Duration(integer("staleness-ms")) * time.Millisecond
	}
	r.ClockBound = time.Duration(integer("clock-bound-ms")) * time.Millisecond
	return r, err
}

// ParseHeader reads an RFC 9651 dictionary of plain items into text: strings
// without their quotes, booleans as true or false, byte sequences as their base64.
// Parameters are checked and dropped; inner lists are refused. Of a name given
// twice the last counts, as the RFC says.
func ParseHeader(s string) (map[string]string, error) {
	p := sfParser{s: strings.Trim(s, " ")}
	m := make(map[string]string)
	for p.s != "" {
		name, err := p.key()
		if err != nil {
			return nil, err
		}
		value := "true"
		if p.eat('=') {
			if value, err = p.item(); err != nil {
				return nil, err
			}
		}
		if err := p.parameters(); err != nil {
			return nil, err
		}
		m[name] = value
		p.s = strings.TrimLeft(p.s, " \t")
		if p.s == "" {
			break
		}
		if !p.eat(',') {
			return nil, p.bad("a comma")
		}
		if p.s = strings.TrimLeft(p.s, " \t"); p.s == "" {
			return nil, p.bad("a name after the comma")
		}
	}
	return m, nil
}

type sfParser struct{ s string }

func (p *sfParser) bad(want string) error {
	rest := p.s
	if len(rest) > 20 {
		rest = rest[:20] + "..."
	}
	return fmt.Errorf("structured field: want %s at %q", want, rest)
}

func (p *sfParser) eat(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

// take returns the longest run of bytes that ok accepts.
func (p *sfParser) take(ok func(byte) bool) string {
	i := 0
	for i < len(p.s) && ok(p.s[i]) {
		i++
	}
	t := p.s[:i]
	p.s = p.s[i:]
	return t
}

func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func digit(c byte) bool { return c >= '0' && c <= '9' }
func alpha(c byte) bool { return lower(c | 0x20) }

func (p *sfParser) key() (string, error) {
	if p.s == "" || (!lower(p.s[0]) && p.s[0] != '*') {
		return "", p.bad("a lower-case name")
	}
	return p.take(func(c byte) bool { return lower(c) || digit(c) || strings.IndexByte("_-.*", c) >= 0 }), nil
}

func (p *sfParser) parameters() error {
	for p.eat(';') {
		p.s = strings.TrimLeft(p.s, " ")
		if _, err := p.key(); err != nil {
			return err
		}
		if p.eat('=') {
			if _, err := p.item(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *sfParser) item() (string, error) {
	if p.s == "" {
		return "", p.bad("a value")
	}
	switch c := p.s[0]; {
	case c == '"':
		return p.quoted()
	case c == '%':
		return p.display()
	case c == '?':
		return p.boolean()
	case c == ':':
		return p.binary()
	case c == '-' || digit(c):
		return p.number()
	case c == '*' || alpha(c):
		return p.take(func(c byte) bool {
			return alpha(c) || digit(c) || strings.IndexByte("!#$%&'*+-.^_`|~:/", c) >= 0
		}), nil
	}
	return "", p.bad("a value")
}

func (p *sfParser) quoted() (string, error) {
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return b.String(), nil
		case c == '\\':
			i++
			if i >= len(p.s) || (p.s[i] != '"' && p.s[i] != '\\') {
				return "", p.bad("a valid escape")
			}
			b.WriteByte(p.s[i])
		case c < 0x20 || c >= 0x7f:
			return "", p.bad("printable ASCII")
		default:
			b.WriteByte(c)
		}
	}
	return "", p.bad("a closing quote")
}

func (p *sfParser) display() (string, error) {
	if !strings.HasPrefix(p.s, `%"`) {
		return "", p.bad(`%"`)
	}
	var b strings.Builder
	for i := 2; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			if out := b.String(); strings.ToValidUTF8(out, "") == out {
				return out, nil
			}
			return "", p.bad("UTF-8")
		case c == '%':
			if i+2 >= len(p.s) || strings.ToLower(p.s[i+1:i+3]) != p.s[i+1:i+3] {
				return "", p.bad("two lower-case hexadecimal digits")
			}
			h, err := hex.DecodeString(p.s[i+1 : i+3])
			if err != nil {
				return "", p.bad("two lower-case hexadecimal digits")
			}
			b.Write(h)
			i += 2
		case c < 0x20 || c >= 0x7f:
			return "", p.bad("printable ASCII")
		default:
			b.WriteByte(c)
		}
	}
	return "", p.bad("a closing quote")
}

func (p *sfParser) boolean() (string, error) {
	switch {
	case strings.HasPrefix(p.s, "?1"):
		p.s = p.s[2:]
		return "true", nil
	case strings.HasPrefix(p.s, "?0"):
		p.s = p.s[2:]
		return "false", nil
	}
	return "", p.bad("?0 or ?1")
}

func (p *sfParser) binary() (string, error) {
	end := strings.IndexByte(p.s[1:], ':')
	if end < 0 {
		return "", p.bad("a closing colon")
	}
	v := p.s[1 : 1+end]
	for i := range len(v) {
		if c := v[i]; !alpha(c) && !digit(c) && strings.IndexByte("+/=", c) < 0 {
			return "", p.bad("base64")
		}
	}
	p.s = p.s[end+2:]
	return v, nil
}

func (p *sfParser) number() (string, error) {
	from := p.s
	p.eat('-')
	whole := p.take(digit)
	limit := 15
	if p.eat('.') {
		limit = 12
		if f := p.take(digit); len(f) < 1 || len(f) > 3 {
			return "", p.bad("one to three decimals")
		}
	}
	if len(whole) < 1 || len(whole) > limit {
		return "", p.bad("a number")
	}
	return from[:len(from)-len(p.s)], nil
}
