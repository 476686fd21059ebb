package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// line is every field that a line of a file may have. Its texts point into the line.
type line struct {
	kind, process, f, key, value, phase, node, level, expect []byte // process as it stands there, with its quotes
	version, given, mode, code, error, fault                 []byte
	index, time, client, session, ttl, staleness, acks, hits int64
	epoch                                                    uint64
	token, found, hasIndex, hasTime, hasStaleness            bool
	elements                                                 []element
}

type element struct {
	Key     text   `json:"key"`
	Value   text   `json:"value"`
	Version string `json:"version"`
}

// text is a string as appendString wrote it.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	s, err := textOf(b)
	*t = text(s)
	return err
}

var (
	errCut = errors.New("the line is cut off")
	errTwo = errors.New("more than one object in a line")
)

// parse reads one JSON object. It only takes apart what is flat and leaves the rest to
// encoding/json: that is several times as fast, and a run may have millions of lines.
func (l *line) parse(b []byte) error {
	rest := space(b)
	if len(rest) == 0 || rest[0] != '{' {
		return fmt.Errorf("not a JSON object: %q", clip(b))
	}
	rest = space(rest[1:])
	for first := true; ; first = false {
		switch {
		case len(rest) == 0:
			return fmt.Errorf("%w: %q", errCut, clip(b))
		case first && rest[0] == '}':
		case rest[0] != '"':
			return fmt.Errorf("no JSON: want a field's name at %q", clip(rest))
		default:
			name, after, err := token(rest)
			if err != nil {
				return fmt.Errorf("%w: %q", err, clip(b))
			}
			if after = space(after); len(after) == 0 || after[0] != ':' {
				return fmt.Errorf("no JSON: want a colon behind %s in %q", name, clip(b))
			}
			value, after, err := token(space(after[1:]))
			if err != nil {
				return fmt.Errorf("%w: %q", err, clip(b))
			}
			if err := l.set(string(name[1:len(name)-1]), value); err != nil {
				return err
			}
			rest = space(after)
		}
		switch {
		case len(rest) == 0:
			return fmt.Errorf("%w: %q", errCut, clip(b))
		case rest[0] == ',':
			rest = space(rest[1:])
		case rest[0] != '}':
			return fmt.Errorf("no JSON: want a comma or a brace at %q", clip(rest))
		case len(space(rest[1:])) > 0:
			return errTwo
		default:
			return nil
		}
	}
}

func space(b []byte) []byte { return bytes.TrimLeft(b, " \t\r") }

// token cuts the JSON value off that b begins with. Whether it is one is for set to say.
func token(b []byte) (value, rest []byte, err error) {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			if quoted = !quoted; !quoted && depth == 0 {
				return b[:i+1], b[i+1:], nil
			}
		case quoted:
		case c == '{' || c == '[':
			depth++
		case depth > 0 && (c == '}' || c == ']'):
			if depth--; depth == 0 {
				return b[:i+1], b[i+1:], nil
			}
		case depth == 0 && (c == ',' || c == '}' || c == ' ' || c == '\t' || c == '\r'):
			return b[:i], b[i:], nil
		}
	}
	return nil, nil, errCut
}

// set gives the field of that name its value.
func (l *line) set(name string, value []byte) (err error) {
	if to := l.text(name); to != nil {
		*to, err = textOf(value)
	} else if to := l.number(name); to != nil {
		*to, err = strconv.ParseInt(string(value), 10, 64)
	} else {
		switch name {
		case "process":
			l.process = value
		case "epoch":
			l.epoch, err = strconv.ParseUint(string(value), 10, 64)
		case "token":
			l.token, err = strconv.ParseBool(string(value))
		case "found":
			l.found, err = strconv.ParseBool(string(value))
		case "elements":
			d := json.NewDecoder(bytes.NewReader(value))
			d.DisallowUnknownFields()
			err = d.Decode(&l.elements)
		default:
			return fmt.Errorf("unknown field %q", name)
		}
	}
	if err != nil {
		return fmt.Errorf("field %q is %q: %w", name, clip(value), err)
	}
	l.hasIndex = l.hasIndex || name == "index"
	l.hasTime = l.hasTime || name == "time"
	l.hasStaleness = l.hasStaleness || name == "staleness"
	return nil
}

func (l *line) text(name string) *[]byte {
	switch name {
	case "type":
		return &l.kind
	case "f":
		return &l.f
	case "key":
		return &l.key
	case "value":
		return &l.value
	case "phase":
		return &l.phase
	case "node":
		return &l.node
	case "level":
		return &l.level
	case "expect":
		return &l.expect
	case "version":
		return &l.version
	case "given":
		return &l.given
	case "mode":
		return &l.mode
	case "code":
		return &l.code
	case "error":
		return &l.error
	case "fault":
		return &l.fault
	}
	return nil
}

func (l *line) number(name string) *int64 {
	switch name {
	case "index":
		return &l.index
	case "time":
		return &l.time
	case "client":
		return &l.client
	case "session":
		return &l.session
	case "ttl":
		return &l.ttl
	case "staleness":
		return &l.staleness
	case "acks":
		return &l.acks
	case "hits":
		return &l.hits
	}
	return nil
}

// textOf reads what appendString wrote; null is the empty text.
func textOf(b []byte) ([]byte, error) {
	switch {
	case len(b) > 1 && b[0] == '"' && plain(b[1:len(b)-1]):
		return b[1 : len(b)-1], nil
	case len(b) > 0 && b[0] == '{':
		var raw struct {
			Base64 []byte `json:"base64"`
		}
		err := json.Unmarshal(b, &raw)
		return raw.Base64, err
	case !utf8.Valid(b):
		return nil, errors.New("no UTF-8")
	}
	var s string
	err := json.Unmarshal(b, &s)
	return []byte(s), err
}

// plain reports whether s stands in JSON as it is.
func plain[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
