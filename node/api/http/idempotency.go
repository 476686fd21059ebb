package httpapi

import (
	"strconv"
	"strings"

	nethttp "net/http"

	"fulcrum"
	"fulcrum/node/api"
)

// headerIdempotency names a request, so that one that is sent again takes effect once:
// draft-ietf-httpapi-idempotency-key-header.
const headerIdempotency = "Idempotency-Key"

// idPrefix keeps ids of this edge apart from those of others.
const idPrefix = "http:"

// maxIdempotencyKey leaves room for what idPart adds.
const maxIdempotencyKey = fulcrum.MaxRequestID - len(idPrefix) - 4

// idempotencyKey reads the header; no header is no id. The draft wants a quoted string;
// most clients send it without quotes, and both mean the same.
func idempotencyKey(r *nethttp.Request) (fulcrum.RequestID, error) {
	values, ok := r.Header[headerIdempotency]
	if !ok {
		return "", nil
	}
	bad := func(why string) (fulcrum.RequestID, error) {
		return "", fulcrum.Errorf(fulcrum.CodeInvalid, "%s: %s", headerIdempotency, why).
			WithHint("want one key of 1 to %d printable characters, new for every request that is not a repetition, such as a UUID", maxIdempotencyKey)
	}
	if len(values) != 1 {
		return bad("given more than once")
	}
	key := strings.Trim(values[0], " \t")
	if strings.HasPrefix(key, `"`) {
		var whole bool
		if key, whole = unquote(key); !whole {
			return bad("a string without its closing quote, or with something behind it")
		}
	}
	switch {
	case key == "":
		return bad("empty")
	case len(key) > maxIdempotencyKey:
		return bad("too long")
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		return bad("a character that is not printable ASCII")
	}
	return fulcrum.RequestID(idPrefix + key), nil
}

// unquote reads an RFC 9651 string; false: s is not one and nothing else.
func unquote(s string) (string, bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == '\\':
			return "", false
		case s[i] == '"':
			return b.String(), i == len(s)-1
		default:
			b.WriteByte(s[i])
		}
	}
	return "", false
}

// idPart is the id of the i-th of n writes that one request becomes, which are sent one
// after the other: each must be known again by itself.
func idPart(id fulcrum.RequestID, i, n int) fulcrum.RequestID {
	if id == "" || n == 1 {
		return id
	}
	// The prefix differs too, or the part of one key could be the whole of another.
	return fulcrum.RequestID(strconv.Itoa(i) + ":" + string(id))
}

// failWrite answers with err. A conflict that the backend reports of a request with an
// id is about the id: it was used for another request (422, as the draft says).
func (h *handler) failWrite(w nethttp.ResponseWriter, r *nethttp.Request, c api.Call, err error) {
	e := settle(r, err)
	if c.ID != "" && e.Code == fulcrum.CodeConflict && !e.Maybe {
		h.problem(w, r, nethttp.StatusUnprocessableEntity, e, nil)
		return
	}
	h.failLevel(w, r, c.Keyspace, err)
}
