package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	nethttp "net/http"

	"fulcrum"
	"fulcrum/consistency"
)

// maxTTL keeps Unix milliseconds far from overflow.
const maxTTL = 100 * 365 * 24 * time.Hour

// query reads the request's parameters and refuses those that are not known, or
// come twice: a misspelt ?levle= must not be served at another level.
func query(r *nethttp.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "query: %w", err)
	}
	for name, values := range q {
		if !slices.Contains(known, name) {
			e := fulcrum.Errorf(fulcrum.CodeInvalid, "unknown query parameter %q", name)
			if len(known) == 0 {
				return nil, e.WithHint("there are none here")
			}
			return nil, e.WithHint("there are: %s", strings.Join(known, ", "))
		}
		if len(values) > 1 {
			return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "query parameter %q given %d times", name, len(values))
		}
	}
	return q, nil
}

// nonEmpty refuses parameters that are there and empty: what a script could not fill in
// must not mean the default.
func nonEmpty(q url.Values, names ...string) error {
	for _, name := range names {
		if q.Has(name) && q.Get(name) == "" {
			return fulcrum.Errorf(fulcrum.CodeInvalid, "empty %s", name).WithHint("give %s a value, or leave it out", name)
		}
	}
	return nil
}

func levelOf(q url.Values) (consistency.Level, error) {
	if err := nonEmpty(q, "level"); err != nil {
		return consistency.Level{}, err
	}
	l, err := consistency.ParseLevel(q.Get("level"))
	if err != nil {
		return l, fulcrum.Errorf(fulcrum.CodeLevel, "%w", err)
	}
	return l, nil
}

// ttlOf reads a duration ("90s") or whole seconds ("90"); 0 is no expiry.
func ttlOf(q url.Values) (time.Duration, error) {
	if !q.Has("ttl") {
		return 0, nil
	}
	s := q.Get("ttl")
	d, err := time.ParseDuration(s)
	if seconds, intErr := strconv.ParseInt(s, 10, 64); intErr == nil {
		const most = int64(maxTTL / time.Second)
		d, err = time.Duration(max(0, min(seconds, most+1)))*time.Second, nil // far from overflow, on both sides
	}
	if err != nil || d < time.Millisecond || d > maxTTL {
		return 0, fulcrum.Errorf(fulcrum.CodeInvalid, "ttl %q", s).WithHint("want seconds or a duration from 1ms to 100 years, such as ttl=90 or ttl=1h30m")
	}
	return d, nil
}

func boolOf(q url.Values, name string) (bool, error) {
	if !q.Has(name) {
		return false, nil
	}
	if q.Get(name) == "" {
		return true, nil
	}
	v, err := strconv.ParseBool(q.Get(name))
	if err != nil {
		return false, fulcrum.Errorf(fulcrum.CodeInvalid, "%s %q: want true or false", name, q.Get(name))
	}
	return v, nil
}

// body reads the whole body of a request, at most limit bytes.
func body(w nethttp.ResponseWriter, r *nethttp.Request, limit int) ([]byte, error) {
	tooLarge := func() error {
		return fulcrum.Errorf(fulcrum.CodeTooLarge, "body over the limit of %d bytes", limit)
	}
	if r.ContentLength > int64(limit) {
		return nil, tooLarge()
	}
	b, err := io.ReadAll(nethttp.MaxBytesReader(w, r.Body, int64(limit)))
	var over *nethttp.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge()
	case err != nil:
		return nil, fulcrum.Errorf(fulcrum.CodeInvalid, "body: %v", err)
	}
	return b, nil
}

// decode reads one JSON value into v: no unknown field, nothing behind it.
func decode(b []byte, v any) error {
	err := strictly(b, v)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return fulcrum.Errorf(fulcrum.CodeInvalid, "body: want JSON, got nothing")
	case errors.As(err, &wrong):
		return fulcrum.Errorf(fulcrum.CodeInvalid, "body: %s", mismatch(wrong))
	}
	return fulcrum.Errorf(fulcrum.CodeInvalid, "body: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// halfPair reports whether the JSON in b escapes half of a surrogate pair (\ud800 alone),
// which is no character: the decoder makes U+FFFD of every one, so keys would become one.
func halfPair(b []byte) bool {
	unit := func(b []byte) rune { // of \uXXXX at the beginning of b; -1: none
		if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
			return -1
		}
		n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
		if err != nil {
			return -1
		}
		return rune(n)
	}
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 || i+1 == len(b) {
			return false
		}
		b = b[i:]
		skip := 2
		if r := unit(b); utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, unit(b[6:])) == utf8.RuneError {
				return true
			}
			skip = 12
		}
		b = b[skip:]
	}
}

// strictly is decode with the decoder's own errors, for what stands inside of a body.
func strictly(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind the JSON value")
	}
	return nil
}

// mismatch says in JSON's words what the decoder says in Go's.
func mismatch(e *json.UnmarshalTypeError) string {
	where := "the whole"
	if e.Field != "" {
		where = strconv.Quote(e.Field)
	}
	got, number, _ := strings.Cut(e.Value, " ")
	got = kindsOfJSON[got]
	if number != "" {
		got += " (" + number + ")"
	}
	want := "something else"
	switch e.Type.Kind() {
	case reflect.String:
		want = "a string"
	case reflect.Bool:
		want = "true or false"
	case reflect.Slice, reflect.Array:
		want = "a list"
	case reflect.Struct, reflect.Map:
		want = "an object"
	case reflect.Float32, reflect.Float64:
		want = "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		want = "a whole number"
	}
	return where + ": want " + want + ", got " + cmp.Or(got, e.Value)
}

// kindsOfJSON are the decoder's names for values.
var kindsOfJSON = map[string]string{"string": "a string", "number": "a number", "bool": "true or false", "array": "a list", "object": "an object"}
