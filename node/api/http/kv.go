package httpapi

import (
	"context"
	"encoding/base64"
	"net/url"
	"strconv"
	"unicode/utf8"

	nethttp "net/http"

	"fulcrum"
	"fulcrum/consistency"
	"fulcrum/node/api"
)

// Names of our own headers, in canonical form.
const (
	headerReceipt  = "Fulcrum-Receipt"   // out: an RFC 9651 dictionary
	headerSession  = "Fulcrum-Session"   // in and out: the session token
	headerExpireAt = "Fulcrum-Expire-At" // out: Unix milliseconds
)

// call reads what every request to keys carries, and checks the key.
func (h *handler) call(r *nethttp.Request, keyspace string, known ...string) (api.Call, url.Values, error) {
	c := api.Call{Keyspace: keyspace, Session: consistency.Token(r.Header.Get(headerSession))}
	q, err := query(r, append([]string{"level"}, known...)...)
	if err != nil {
		return c, nil, err
	}
	c.Level, err = levelOf(q)
	return c, q, err
}

func checkKey(key []byte) error {
	switch {
	case len(key) == 0:
		return fulcrum.Errorf(fulcrum.CodeInvalid, "empty key").WithHint("to scan the keyspace leave out the last slash")
	case len(key) > fulcrum.MaxKeyBytes:
		return fulcrum.Errorf(fulcrum.CodeTooLarge, "key of %d bytes, the limit is %d", len(key), fulcrum.MaxKeyBytes)
	}
	return nil
}

// receipt puts what the backend says of its answer into headers.
func receipt(w nethttp.ResponseWriter, rc consistency.Receipt) {
	if rc.Keyspace == "" { // the request never reached a shard
		return
	}
	w.Header().Set(headerReceipt, rc.Header())
	if rc.Session != "" {
		w.Header().Set(headerSession, string(rc.Session))
	}
}

// getKey answers GET and HEAD of a key: 200, 304 or 404, and 412 where If-Match
// does not hold.
func (h *handler) getKey(w nethttp.ResponseWriter, r *nethttp.Request, keyspace string, key []byte) {
	c, _, err := h.call(r, keyspace)
	if err == nil {
		err = checkKey(key)
	}
	var match, none tags
	if err == nil {
		match, err = parseTags(r, "If-Match")
	}
	if err == nil {
		none, err = parseTags(r, "If-None-Match")
	}
	if err != nil {
		h.failLevel(w, r, keyspace, err)
		return
	}
	entries, rc, err := h.Backend.Read(r.Context(), c, [][]byte{key})
	if err == nil && len(entries) != 1 {
		err = fulcrum.Errorf(fulcrum.CodeInternal, "%d answers for one key", len(entries))
	}
	receipt(w, rc)
	if err != nil {
		h.failLevel(w, r, keyspace, err)
		return
	}
	e := entries[0]
	live := e.Live(h.Backend.Now())
	if live {
		w.Header().Set("ETag", etagOf(e.Version))
		w.Header().Set("Cache-Control", "no-cache") // ask again, with the ETag
		if e.ExpireAt != 0 {
			w.Header().Set(headerExpireAt, strconv.FormatInt(e.ExpireAt, 10))
		}
	}
	switch {
	case match.given && !match.match(e, live, true):
		h.failed(w, r)
	case none.match(e, live, false):
		w.WriteHeader(nethttp.StatusNotModified)
	case !live:
		h.fail(w, r, fulcrum.Errorf(fulcrum.CodeNotFound, "no such key"))
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(e.Value)))
		_, _ = w.Write(e.Value) // the client may be gone
	}
}

// putKey answers PUT: 204 with the new ETag, whether the key was there before or
// not (a blind write does not look), or 412.
func (h *handler) putKey(w nethttp.ResponseWriter, r *nethttp.Request, keyspace string, key []byte) {
	c, q, err := h.call(r, keyspace, "ttl", "keep_ttl")
	if err == nil {
		err = checkKey(key)
	}
	write := fulcrum.Write{Op: fulcrum.OpPut, Key: key}
	if err == nil && r.Header.Get("Content-Range") != "" {
		err = fulcrum.Errorf(fulcrum.CodeInvalid, "Content-Range: a PUT replaces the whole value")
	}
	if err == nil {
		ttl, ttlErr := ttlOf(q)
		if err = ttlErr; ttl > 0 {
			write.TTL = ttl.Milliseconds()
		}
	}
	if err == nil {
		write.KeepTTL, err = boolOf(q, "keep_ttl")
	}
	if err == nil && write.KeepTTL && write.TTL != 0 {
		err = fulcrum.Errorf(fulcrum.CodeInvalid, "ttl and keep_ttl in one request")
	}
	if err == nil {
		write.Value, err = body(w, r, h.Backend.Limits().MaxValue)
	}
	h.change(w, r, c, write, err)
}

// deleteKey answers DELETE: 204, whether there was something to delete or not, or 412.
func (h *handler) deleteKey(w nethttp.ResponseWriter, r *nethttp.Request, keyspace string, key []byte) {
	c, _, err := h.call(r, keyspace)
	if err == nil {
		err = checkKey(key)
	}
	h.change(w, r, c, fulcrum.Write{Op: fulcrum.OpDelete, Key: key}, err)
}

// change writes under the request's preconditions and answers; err is what has
// gone wrong so far.
func (h *handler) change(w nethttp.ResponseWriter, r *nethttp.Request, c api.Call, write fulcrum.Write, err error) {
	var writes []fulcrum.Write
	var conditional bool
	if err == nil {
		c.ID, err = idempotencyKey(r)
	}
	if err == nil {
		writes, conditional, err = condition(r, write)
	}
	if err == nil && len(writes) == 0 { // no tag that could match: nothing to ask, but the keyspace must be there
		_, err = h.Backend.Keyspace(c.Keyspace)
	}
	if err != nil {
		h.failLevel(w, r, c.Keyspace, err)
		return
	}
	var res fulcrum.Result
	id := c.ID
	for i, one := range writes {
		one.NoValue, one.NoOld = true, true
		var rc consistency.Receipt
		c.ID = idPart(id, i, len(writes))
		res, rc, err = h.writeOne(r.Context(), c, one)
		receipt(w, rc)
		if err != nil {
			h.failWrite(w, r, c, err)
			return
		}
		if res.Applied {
			break
		}
	}
	if !res.Applied && conditional {
		if res.Entry.Live(h.Backend.Now()) {
			w.Header().Set("ETag", etagOf(res.Entry.Version))
		}
		h.failed(w, r)
		return
	}
	if write.Op == fulcrum.OpPut {
		w.Header().Set("ETag", etagOf(res.Entry.Version))
	}
	w.WriteHeader(nethttp.StatusNoContent)
}

func (h *handler) writeOne(ctx context.Context, c api.Call, one fulcrum.Write) (fulcrum.Result, consistency.Receipt, error) {
	results, rc, err := h.Backend.Write(ctx, c, []fulcrum.Write{one})
	switch {
	case err != nil:
		return fulcrum.Result{}, rc, err
	case len(results) != 1:
		e := fulcrum.Errorf(fulcrum.CodeInternal, "%d results for one write", len(results))
		e.Maybe = true
		return fulcrum.Result{}, rc, e
	}
	return results[0], rc, results[0].Err
}

// failed answers 412: a precondition did not hold, and nothing was done.
func (h *handler) failed(w nethttp.ResponseWriter, r *nethttp.Request) {
	h.problem(w, r, nethttp.StatusPreconditionFailed, fulcrum.Errorf(fulcrum.CodeConflict, "the precondition does not hold").
		WithHint("read the key again and decide anew"), nil)
}

// scanEntry is one entry of a scan in JSON. Key and value are both base64 when
// either is not UTF-8; then Encoding says so.
type scanEntry struct {
	Key      string          `json:"key"`
	Value    string          `json:"value"`
	Version  fulcrum.Version `json:"version"`
	Encoding string          `json:"encoding,omitempty"`
	ExpireAt int64           `json:"expire_at,omitempty"` // Unix milliseconds
}

// scanPage is the answer to a scan. Next, if there, is the "after" of the next page,
// base64 when NextEncoding says so.
type scanPage struct {
	Entries      []scanEntry `json:"entries"`
	Next         *string     `json:"next,omitempty"`
	NextEncoding string      `json:"next_encoding,omitempty"`
}

func text(parts ...[]byte) (out []string, encoding string) {
	out = make([]string, len(parts))
	plain := true
	for i, p := range parts {
		plain = plain && utf8.Valid(p)
		out[i] = string(p)
	}
	if plain {
		return out, ""
	}
	for i, p := range parts {
		out[i] = base64.StdEncoding.EncodeToString(p)
	}
	return out, "base64"
}

func (h *handler) scan(keyspace string) nethttp.HandlerFunc {
	return func(w nethttp.ResponseWriter, r *nethttp.Request) {
		c, q, err := h.call(r, keyspace, "prefix", "start", "end", "after", "limit", "keys_only")
		var req api.Scan
		if err == nil {
			req, err = scanOf(q)
		}
		if err != nil {
			h.failLevel(w, r, keyspace, err)
			return
		}
		page, rc, err := h.Backend.Scan(r.Context(), c, req)
		receipt(w, rc)
		if err != nil {
			h.failLevel(w, r, keyspace, err)
			return
		}
		out := scanPage{Entries: make([]scanEntry, 0, len(page.Entries))}
		for _, e := range page.Entries {
			t, encoding := text(e.Key, e.Value)
			out.Entries = append(out.Entries, scanEntry{Key: t[0], Value: t[1], Version: e.Version, Encoding: encoding, ExpireAt: e.ExpireAt})
		}
		if page.Next != nil {
			t, encoding := text(page.Next)
			out.Next, out.NextEncoding = &t[0], encoding
		}
		h.reply(w, r, nethttp.StatusOK, out)
	}
}

func scanOf(q url.Values) (api.Scan, error) {
	bytesOf := func(name string) []byte {
		if v := q[name]; len(v) > 0 && v[0] != "" {
			return []byte(v[0])
		}
		return nil
	}
	if err := nonEmpty(q, "after"); err != nil {
		return api.Scan{}, err
	}
	req := api.Scan{Prefix: bytesOf("prefix"), Start: bytesOf("start"), End: bytesOf("end"), After: bytesOf("after")}
	for name, b := range map[string][]byte{"prefix": req.Prefix, "start": req.Start, "end": req.End, "after": req.After} {
		if len(b) > fulcrum.MaxKeyBytes+1 { // an end may be one byte above the largest key
			return req, fulcrum.Errorf(fulcrum.CodeTooLarge, "%s of %d bytes, the limit of a key is %d", name, len(b), fulcrum.MaxKeyBytes)
		}
	}
	if v := q["limit"]; len(v) > 0 {
		n, err := strconv.Atoi(v[0])
		if err != nil || n < 1 || n > maxScan {
			return req, fulcrum.Errorf(fulcrum.CodeInvalid, "limit %q: want 1 to %d", v[0], maxScan)
		}
		req.Limit = n
	}
	var err error
	req.KeysOnly, err = boolOf(q, "keys_only")
	return req, err
}
